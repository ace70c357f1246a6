// SPDX-License-Identifier: GPL-2.0
/*
 * create: what it takes to make a snapshot and to drop it, against size and page
 * size; whether both sides really share pages, and whether they keep apart.
 */
#include <string.h>

#include "bench.h"

/* Some methods take milliseconds a page where CPUs are emulated on fewer real ones. */
static size_t check_size(enum page_kind page)
{
	return env.emulated && page == PAGE_4K ? 256 * KIB : HUGE_SIZE;
}

enum { SEED_SNAP = 1, SEED_SOURCE, SEED_SIDE };

struct check {
	bool was_snapshot, is_own;
};

/* Until this began the source was overwritten: the snapshot must not show it. */
static void check_side(struct snap *s, void *arg)
{
	struct check *c = arg;

	c->was_snapshot = region_holds(s->addr, s->src->len, SEED_SNAP);
	region_fill(s->addr, s->src->len, SEED_SIDE);
	c->is_own = region_holds(s->addr, s->src->len, SEED_SIDE);
}

static const char *check_method(const struct method *m, struct region *r)
{
	struct check *c = shared_alloc(sizeof(*c));
	const char *why = region_for(r, m);
	struct snap s;

	if (why)
		goto out;
	region_fill(r->addr, r->len, SEED_SNAP);
	why = snap_take(&s, m, r);
	if (why)
		goto out;
	region_fill(r->addr, r->len, SEED_SOURCE);
	snap_run(&s, check_side, c);
	if (!c->was_snapshot)
		why = "WRONG CONTENT: a write to the source shows in the snapshot";
	else if (!c->is_own || !region_holds(r->addr, r->len, SEED_SOURCE))
		why = "WRONG CONTENT: a write to the snapshot shows in the source";
	m->drop(&s);
out:
	shared_free(c, sizeof(*c));
	return why;
}

/* A method that gets the content wrong has no business in a comparison. */
static void check_content(struct bench *b, struct group *g, enum page_kind page,
			  int node)
{
	struct region r = { .len = check_size(page), .page = page, .node = node };
	unsigned int i;

	for (i = 0; i < b->nr_methods; i++) {
		const struct method *m = b->methods[i];
		const char *why;

		if (method_missing(m, r.len, page) || interrupted())
			continue;
		why = check_method(m, &r);
		if (!why || interrupted())
			continue;
		group_miss(g, m, why);
		if (!strncmp(why, "WRONG", 5))
			b->report.status = 1;
	}
	region_free(&r);
}

static const char *take_again(struct group *g, const struct method *m, bool warm,
			      struct region *r)
{
	struct snap s;
	const char *why = snap_take(&s, m, r);

	if (why)
		return why;
	if (!warm)
		group_add(g, "make, shared already", m, UNIT_TIME, s.take_ns);
	m->drop(&s);
	return NULL;
}

/* With a snapshot of its own: reading it all is no part of what is timed. */
static const char *see_sharing(struct group *g, const struct method *m, struct region *r)
{
	const char *why = region_restore(r);
	double share;
	struct snap s;

	if (!why)
		why = snap_take(&s, m, r);
	if (why)
		return why;
	share = snap_shared(&s);
	group_add(g, "shared, by pagemap", m, UNIT_PERCENT, share < 0 ? -1 : 100 * share);
	m->drop(&s);
	return NULL;
}

static const char *create_turn(struct group *g, const struct method *m, bool warm,
			       void *arg)
{
	struct region *r = arg;
	const char *why;
	struct snap s;

	place_undisturbed(m->shares);
	why = snap_take(&s, m, r);
	if (why)
		goto out;
	if (!warm)
		group_add(g, "make", m, UNIT_TIME, s.take_ns);
	if (m->shares && !m->single && !m->slow)
		why = take_again(g, m, warm, r);
	m->drop(&s);
	if (!warm)
		group_add(g, "drop", m, UNIT_TIME, s.drop_ns);
out:
	place_undisturbed(false);
	if (!why && !warm && group_figure(g, "make", m, UNIT_TIME)->series.nr == 1)
		why = see_sharing(g, m, r);
	return why;
}

static int turns_for(size_t size)
{
	if (env.emulated)
		return 3;
	return size <= 16 * MIB ? 50 : size <= 256 * MIB ? 20 : 10;
}

static void create_one(struct bench *b, size_t size, enum page_kind page)
{
	struct params p = {
		.size = size, .page = page_names[page],
		.src_node = place_node(0), .reader_node = -1, .writer_node = -1,
	};
	struct turns t = {
		.repeat = turns_for(size), .variants = VARIANT_DROP,
		.fn = create_turn,
	};
	struct region r = { .len = size, .page = page, .node = place_node(0) };
	char name[24];

	if (!bench_source(b, &r, 1))
		return;
	t.group = report_begin(&b->report, "create", &p, "%s of %s pages",
			       size_name(size, name), page_names[page]);
	check_content(b, t.group, page, place_node(0));
	t.src = &r;
	t.arg = &r;
	bench_turns(b, &t);

	group_pages(t.group, "make", region_pages(&r));
	group_pages(t.group, "make, shared already", region_pages(&r));
	group_pages(t.group, "drop", region_pages(&r));
	group_note(t.group, "content of both sides verified on %s for each method that has figures",
		 size_name(check_size(page), name));
	report_end(&b->report, t.group);
	region_free(&r);
}

static void create_run(struct bench *b)
{
	static const size_t dflt[] = { MIB, 16 * MIB, 256 * MIB };
	static const enum page_kind dflt_pages[] = { PAGE_4K, PAGE_THP };
	enum page_kind pages[NR_PAGE_KINDS];
	size_t sizes[32];
	unsigned int nr = bench_sizes(b, dflt, ARRAY_SIZE(dflt), sizes);
	unsigned int nr_pages = bench_pages(b, dflt_pages, 2, pages);
	unsigned int i, k;

	place_bind(place_cpu_on(place_node(0), 0));
	for (k = 0; k < nr_pages; k++)
		for (i = 0; i < nr && !interrupted(); i++) {
			/* Of several sizes, those that hold such pages. */
			if (pages[k] != PAGE_4K && nr > 1 && sizes[i] < HUGE_SIZE)
				continue;
			create_one(b, sizes[i], pages[k]);
		}
}

const struct workload wl_create = {
	.name = "create",
	.help = "time to make a snapshot and to drop it, against size and page size",
	.run = create_run,
};
