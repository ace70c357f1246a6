// SPDX-License-Identifier: GPL-2.0
/* Single operations on a region: clock around them, a look at what they say. */
#include <sys/mman.h>
#include <sys/resource.h>

#include <cowsnap.h>

#include "ops.h"

const struct method by_munmap = { .name = "munmap" };
const struct method by_fault = { .name = "fault" };

/* Whoever is woken meanwhile, a forked child for instance, waits for end(). */
static void begin(struct ops *o)
{
	place_undisturbed(true);
	o->start = now_ns();
}

static void end(struct ops *o, const char *metric, const struct method *m)
{
	uint64_t ns = now_ns() - o->start;

	place_undisturbed(false);
	if (metric)
		group_add(o->g, metric, m ? m : &method_cowsnap, UNIT_TIME, ns);
}

const char *op_remap(struct ops *o, const char *metric, char **snap)
{
	struct cowsnap_remap req = { .src = (uintptr_t)o->r->addr, .len = o->r->len };
	int err;

	begin(o);
	err = cowsnap_remap(cowsnap_device(), &req);
	end(o, metric, o->as);
	if (err)
		return cowsnap_error();
	*snap = (char *)(uintptr_t)req.dst;
	if (req.shared == region_pages(o->r))
		return NULL;
	munmap(*snap, o->r->len);
	return sentence("REMAP shared %llu of %zu pages", req.shared, region_pages(o->r));
}

const char *op_sync(struct ops *o, const char *metric, char *snap)
{
	int err;

	begin(o);
	err = cowsnap_refresh(cowsnap_device(), o->r->addr, snap, o->r->len);
	end(o, metric, o->as);
	return err ? cowsnap_error() : NULL;
}

const char *op_diff(struct ops *o, const char *metric, char *snap, size_t changed)
{
	struct cowsnap_diff_iter it;
	struct cowsnap_range range;
	size_t pages = 0;
	int more;

	begin(o);
	cowsnap_diff_begin(&it, cowsnap_device(), o->r->addr, snap, o->r->len);
	while ((more = cowsnap_diff_next(&it, &range)) > 0)
		pages += (range.end - range.start) / page_size;
	end(o, metric, o->as);
	if (more)
		return cowsnap_error();
	/* Of a huge page that is split on one side it may list all. */
	return pages == changed || (o->r->page != PAGE_4K && pages > changed) ? NULL :
	       sentence("DIFF found %zu pages, %zu had changed", pages, changed);
}

const char *op_release(struct ops *o, const char *metric, char *snap)
{
	int err;

	begin(o);
	err = cowsnap_release(cowsnap_device(), o->r->addr, snap, o->r->len);
	end(o, metric, o->as);
	return err ? cowsnap_error() : NULL;
}

const char *op_unshare(struct ops *o, const char *metric, unsigned int flags)
{
	struct cowsnap_unshare req = {
		.flags = flags, .addr = (uintptr_t)o->r->addr, .len = o->r->len,
	};
	size_t done;
	int err;

	begin(o);
	err = cowsnap_unshare(cowsnap_device(), &req);
	end(o, metric, o->as);
	if (err)
		return cowsnap_error();
	done = flags & COWSNAP_UNSHARE_REUSE ? req.reused : req.copied;
	/* Pages that the kernel itself holds for a moment are not taken back. */
	return done >= region_pages(o->r) * 7 / 8 ? NULL :
	       sentence("UNSHARE did %zu of %zu pages", done, region_pages(o->r));
}

void op_munmap(struct ops *o, const char *metric, char *snap)
{
	begin(o);
	munmap(snap, o->r->len);
	end(o, metric, &by_munmap);
}

static double minor_faults(void)
{
	struct rusage self;

	getrusage(RUSAGE_SELF, &self);
	return self.ru_minflt;
}

void op_write_all(struct ops *o, const char *metric, const char *faults,
		  const struct method *m)
{
	double before = minor_faults();
	size_t i;

	begin(o);
	for (i = 0; i < o->r->len; i += page_size)
		*(volatile uint64_t *)(o->r->addr + i) = i;
	end(o, metric, m);
	if (faults)
		group_add(o->g, faults, m, UNIT_COUNT, minor_faults() - before);
}
