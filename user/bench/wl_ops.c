// SPDX-License-Identifier: GPL-2.0
/*
 * ops: what each operation costs a page, beside what it spares: fork of the same
 * region, munmap alone, and the write-protect faults that come later without it.
 *
 * A step begins with a source that is exclusive and writable, and leaves no
 * snapshot behind.
 */
#include <sys/mman.h>

#include <cowsnap.h>

#include "ops.h"

/* Copying takes ten times as long as all else; its costs a page do not change. */
#define COPY_SIZE	(64 * MIB)

/* One page in so many is written for "1 % changed": each group of entries has one. */
#define CHANGED_STEP	100

static size_t entry_pages(const struct region *r)
{
	return r->page == PAGE_4K ? 1 : HUGE_SIZE / page_size;
}

/* A store to one page (or huge page) in a hundred; how many pages it changed. */
static size_t write_some(struct ops *o)
{
	size_t step = CHANGED_STEP * entry_pages(o->r) * page_size, i, nr = 0;

	for (i = 0; i < o->r->len; i += step, nr++)
		*(volatile uint64_t *)(o->r->addr + i) = i;
	return nr;
}

static const char *step_remap(struct ops *o)
{
	char *snap, *again;
	const char *why = op_remap(o, "REMAP", &snap);

	if (why)
		return why;
	why = op_remap(o, "REMAP, shared already", &again);
	if (!why)
		munmap(again, o->r->len);
	if (!why)
		why = op_diff(o, "DIFF, equal", snap, 0);
	op_munmap(o, "RELEASE", snap);
	return why ? why : op_unshare(o, "UNSHARE, reuse", COWSNAP_UNSHARE_REUSE);
}

static const char *step_release(struct ops *o)
{
	char *snap;
	const char *why = op_remap(o, NULL, &snap);

	if (!why)
		why = op_release(o, "RELEASE", snap);
	if (!why)
		op_write_all(o, NULL, "faults after it", &method_cowsnap);
	return why;
}

static const char *step_fault(struct ops *o)
{
	char *snap;
	const char *why = op_remap(o, NULL, &snap);

	if (why)
		return why;
	op_munmap(o, NULL, snap);
	op_write_all(o, "UNSHARE, reuse", "faults after it", &by_munmap);
	return NULL;
}

static const char *step_sync(struct ops *o)
{
	const char *why;
	size_t changed;
	char *snap;

	/* SYNC does not take it. */
	if (o->r->page == PAGE_HUGETLB)
		return NULL;
	why = op_remap(o, NULL, &snap);
	if (why)
		return why;
	why = op_sync(o, "SYNC, unchanged", snap);
	changed = write_some(o);
	if (!why)
		why = op_diff(o, "DIFF, 1 % changed", snap, changed);
	if (!why)
		why = op_sync(o, "SYNC, 1 % changed", snap);
	munmap(snap, o->r->len);
	return why;
}

/* fork, recorded under the metric of what does the same. */
static const char *do_fork(struct ops *o, const char *metric, struct snap *s)
{
	const char *why;

	place_undisturbed(true);
	why = snap_take(s, &method_fork, o->r);
	place_undisturbed(false);
	if (!why && metric)
		group_add(o->g, metric, &method_fork, UNIT_TIME, s->take_ns);
	return why;
}

static const char *step_fork(struct ops *o)
{
	struct snap first, second;
	const char *why = do_fork(o, "REMAP", &first);

	if (why)
		return why;
	why = do_fork(o, "REMAP, shared already", &second);
	if (!why)
		method_fork.drop(&second);
	method_fork.drop(&first);
	group_add(o->g, "RELEASE", &method_fork, UNIT_TIME, first.drop_ns);
	op_write_all(o, "UNSHARE, reuse", "faults after it", &method_fork);
	return why;
}

/* What a program that has no SYNC does to renew its snapshot. */
static const char *step_fork_anew(struct ops *o)
{
	const char *why;
	struct snap s;

	if (o->r->page == PAGE_HUGETLB)
		return NULL;
	why = do_fork(o, NULL, &s);
	if (why)
		return why;
	write_some(o);
	method_fork.drop(&s);
	why = do_fork(o, "SYNC, 1 % changed", &s);
	if (!why)
		method_fork.drop(&s);
	return why;
}

static const char *step_copy(struct ops *o)
{
	char *snap;
	const char *why = op_remap(o, NULL, &snap);

	if (!why)
		why = op_unshare(o, "UNSHARE, copy", 0);
	if (!why)
		munmap(snap, o->r->len);
	return why;
}

static const char *step_copy_fault(struct ops *o)
{
	char *snap;
	const char *why = op_remap(o, NULL, &snap);

	if (why)
		return why;
	op_write_all(o, "UNSHARE, copy", NULL, &by_fault);
	munmap(snap, o->r->len);
	return NULL;
}

static const char *step_copy_fork(struct ops *o)
{
	struct snap s;
	const char *why = do_fork(o, NULL, &s);

	if (why)
		return why;
	op_write_all(o, "UNSHARE, copy", NULL, &method_fork);
	method_fork.drop(&s);
	return NULL;
}

struct step {
	const char *(*fn)(struct ops *o);
	const struct method *method;
};

static const struct step steps[] = {
	{ step_remap, &method_cowsnap },
	{ step_release, &method_cowsnap },
	{ step_fault, &method_cowsnap },
	{ step_fork, &method_fork },
};

/* Huge pages have to be made anew after each of them. */
static const struct step splitting_steps[] = {
	{ step_sync, &method_cowsnap },
	{ step_fork_anew, &method_fork },
};

static const struct step copying_steps[] = {
	{ step_copy, &method_cowsnap },
	{ step_copy_fault, &method_cowsnap },
	{ step_copy_fork, &method_fork },
};

static void run_steps(struct bench *b, struct ops *o, struct region *r,
		      const struct step *step, size_t nr)
{
	const char *why;

	for (; nr-- && !interrupted(); step++) {
		if (!bench_chosen(b, step->method) || group_misses(o->g, step->method))
			continue;
		progress("ops: %s: %zu more steps", o->g->title, nr);
		why = region_restore(r);
		if (!why)
			why = step->fn(o);
		if (why)
			group_miss(o->g, step->method, why);
	}
}

/* Each step costs the same whenever it is counted, but for what is near nothing. */
static int turns_for(struct bench *b, const struct region *r, const struct step *list)
{
	if (b->repeat > 0)
		return b->repeat;
	if (!env.icount)
		return env.emulated ? 3 : 5;
	return r->page != PAGE_4K && list == steps ? 5 : 1;
}

static void run_list(struct bench *b, struct ops *o, struct region *r,
		     const struct step *list, size_t nr)
{
	int turns = turns_for(b, r, list);

	o->r = r;
	while (turns-- && !interrupted())
		run_steps(b, o, r, list, nr);
}

static void set_pages(struct ops *o, size_t from)
{
	for (; from < o->g->nr; from++)
		o->g->figures[from].pages = region_pages(o->r);
}

/* One region at a time: fork duplicates whatever there is. */
static void run_all(struct bench *b, struct ops *o, struct region *r,
		    struct region *part)
{
	size_t nr;

	if (!bench_source(b, r, 1))
		return;
	run_list(b, o, r, steps, ARRAY_SIZE(steps));
	run_list(b, o, r, splitting_steps, ARRAY_SIZE(splitting_steps));
	set_pages(o, 0);
	region_free(r);

	nr = o->g->nr;
	if (!bench_source(b, part, 2))
		return;
	run_list(b, o, part, copying_steps, ARRAY_SIZE(copying_steps));
	set_pages(o, nr);
	region_free(part);
}

static void ops_one(struct bench *b, size_t size, enum page_kind page)
{
	static const char *const order[] = {
		"REMAP", "REMAP, shared already", "SYNC, unchanged", "SYNC, 1 % changed",
		"DIFF, equal", "DIFF, 1 % changed", "RELEASE", "UNSHARE, reuse",
	};
	struct params p = {
		.size = size, .page = page_names[page],
		.src_node = place_node(0), .reader_node = -1, .writer_node = -1,
	};
	struct region r = { .len = size, .page = page, .node = place_node(0) };
	struct region part = {
		.len = size < COPY_SIZE ? size : COPY_SIZE, .page = page, .node = r.node,
	};
	struct ops o = { 0 };
	const char *why;
	char name[24];

	o.g = report_begin(&b->report, "ops", &p, "%s of %s pages",
			   size_name(size, name), page_names[page]);
	group_order(o.g, order, ARRAY_SIZE(order));
	why = bench_chosen(b, &method_cowsnap) ? method_missing(&method_cowsnap, size, page) : NULL;
	if (why)
		group_miss(o.g, &method_cowsnap, why);
	bench_others(b, o.g);
	run_all(b, &o, &r, &part);
	group_note(o.g, "fork: makes the child; SYNC: a new one; RELEASE: its exit; UNSHARE: faults of writing all");
	report_end(&b->report, o.g);
}

static void ops_run(struct bench *b)
{
	/* Counted once, so it may be the size that people ask for. */
	const size_t dflt[] = {
		[PAGE_4K] = env.emulated && !env.icount ? 32 * MIB : GIB,
		[PAGE_THP] = env.icount ? 256 * MIB : env.emulated ? 32 * MIB : GIB,
		[PAGE_HUGETLB] = 256 * MIB,
	};
	static const enum page_kind dflt_pages[] = { PAGE_4K, PAGE_THP };
	enum page_kind pages[NR_PAGE_KINDS];
	size_t sizes[32];
	unsigned int nr_pages = bench_pages(b, dflt_pages, 2, pages);
	unsigned int i, k, nr;

	place_bind(place_cpu_on(place_node(0), 0));
	for (k = 0; k < nr_pages; k++) {
		nr = bench_sizes(b, &dflt[pages[k]], 1, sizes);
		for (i = 0; i < nr && !interrupted(); i++)
			ops_one(b, sizes[i], pages[k]);
	}
}

const struct workload wl_ops = {
	.name = "ops",
	.help = "what each operation costs a page, beside fork, munmap and faults",
	.run = ops_run,
};
