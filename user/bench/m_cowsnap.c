// SPDX-License-Identifier: GPL-2.0
/* Method cowsnap: COWSNAP_REMAP, the snapshot is at another address. */
#include <stdint.h>
#include <sys/mman.h>

#include <cowsnap.h>

#include "bench.h"

static int device = -1;

int cowsnap_device(void)
{
	if (device < 0)
		device = cowsnap_open();
	return device;
}

static const char *cowsnap_missing(size_t len, enum page_kind page)
{
	static const unsigned int kind_of[NR_PAGE_KINDS] = {
		[PAGE_4K] = COWSNAP_KIND_ANON,
		[PAGE_THP] = COWSNAP_KIND_THP,
		[PAGE_HUGETLB] = COWSNAP_KIND_HUGETLB,
	};
	struct cowsnap_query q;

	(void)len;
	if (cowsnap_device() < 0 || cowsnap_query(device, &q))
		return cowsnap_error();
	if (!(q.kinds & kind_of[page]))
		return sentence("this module does not duplicate %s memory (QUERY.kinds 0x%x)",
				page_names[page], q.kinds);
	return NULL;
}

static const char *cowsnap_take(struct snap *s)
{
	struct cowsnap_remap r = {
		.src = (uintptr_t)s->src->addr,
		.len = s->src->len,
	};
	uint64_t start = now_ns();
	int err = cowsnap_remap(device, &r);

	s->take_ns = now_ns() - start;
	if (err)
		return cowsnap_error();
	s->addr = (char *)(uintptr_t)r.dst;
	return NULL;
}

static void drop_by_munmap(struct snap *s)
{
	uint64_t start = now_ns();

	if (!s->unmapped)
		munmap(s->addr, s->src->len);
	s->drop_ns = now_ns() - start;
}

static void release(struct snap *s, size_t offset, size_t len)
{
	if (cowsnap_release(device, s->src->addr + offset, s->addr + offset, len))
		die("RELEASE: %s", cowsnap_error());
}

static void drop_by_release(struct snap *s)
{
	uint64_t start = now_ns();

	if (!s->unmapped)
		release(s, 0, s->src->len);
	s->drop_ns = now_ns() - start;
}

/* After a failure the snapshot is as good as none. */
static const char *sync_or_drop(struct snap *s, const char *from, char *to)
{
	struct cowsnap_sync req = {
		.from = (uintptr_t)from, .to = (uintptr_t)to, .len = s->src->len,
	};

	if (!cowsnap_sync(device, &req))
		return NULL;
	munmap(s->addr, s->src->len);
	return cowsnap_error();
}

static const char *renew_by_sync(struct snap *s)
{
	return sync_or_drop(s, s->src->addr, s->addr);
}

static const char *undo_by_sync(struct snap *s)
{
	return sync_or_drop(s, s->addr, s->src->addr);
}

const struct method method_cowsnap = {
	.name = "cowsnap",
	.help = "COWSNAP_REMAP of /dev/cowsnap; dropped by munmap",
	.shares = true,
	.missing = cowsnap_missing,
	.take = cowsnap_take,
	.start = thread_start,
	.wait = thread_wait,
	.drop = drop_by_munmap,
};

const struct method method_cowsnap_release = {
	.name = "cowsnap-release",
	.help = "the same; dropped by COWSNAP_RELEASE",
	.shares = true,
	.variant = VARIANT_DROP,
	.missing = cowsnap_missing,
	.take = cowsnap_take,
	.start = thread_start,
	.wait = thread_wait,
	.drop = drop_by_release,
	.drop_part = release,
};

const struct method method_cowsnap_sync = {
	.name = "cowsnap-sync",
	.help = "the same; renewed and undone by COWSNAP_SYNC",
	.shares = true,
	.variant = VARIANT_RENEW,
	.pages = 1 << PAGE_4K | 1 << PAGE_THP,
	.why_pages = "SYNC does not take it",
	.missing = cowsnap_missing,
	.take = cowsnap_take,
	.start = thread_start,
	.wait = thread_wait,
	.drop = drop_by_release,
	.drop_part = release,
	.renew = renew_by_sync,
	.undo = undo_by_sync,
};
