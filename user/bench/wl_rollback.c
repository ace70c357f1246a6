// SPDX-License-Identifier: GPL-2.0
/*
 * rollback: write something, then undo it. Where a method can make the source
 * what its snapshot is, that is done, over and over with one snapshot; else the
 * writes go to a new snapshot, which is thrown away.
 */
#include "bench.h"

#define SPECULATED	0xdeadull

/* Shared with the snapshot side. */
struct speculation {
	unsigned int permille;
};

struct rollback {
	struct region *r;
	struct speculation *spec;
	unsigned int rounds;
};

static void write_snapshot(struct snap *s, void *arg)
{
	struct speculation *spec = arg;

	region_write_share(s->addr, s->src->len, spec->permille, SPECULATED);
}

static const char *write_and_undo(struct snap *s, unsigned int permille)
{
	region_write_share(s->src->addr, s->src->len, permille, SPECULATED);
	return s->method->undo(s);
}

static const char *write_and_discard(const struct method *m, struct rollback *b)
{
	const char *why;
	struct snap s;

	place_undisturbed(m->shares);
	why = snap_take(&s, m, b->r);
	place_undisturbed(false);
	if (why)
		return why;
	snap_run(&s, write_snapshot, b->spec);
	m->drop(&s);
	return NULL;
}

/* One share of pages, round after round. */
static const char *rounds(struct group *g, struct snap *s, bool warm, struct rollback *b,
			  unsigned int permille)
{
	const struct method *m = s->method;
	unsigned int nr = m->slow ? 1 : b->rounds, i;
	char metric[32];

	snprintf(metric, sizeof(metric), "round, %g %% written", permille / 10.0);
	b->spec->permille = permille;
	for (i = 0; i < nr && !interrupted(); i++) {
		uint64_t start = now_ns(), ns;
		const char *why = m->undo ? write_and_undo(s, permille) :
				  write_and_discard(m, b);

		ns = now_ns() - start;
		if (why)
			return why;
		if (region_count_share(b->r->addr, b->r->len, permille, SPECULATED))
			return "WRONG CONTENT: what was undone is still there";
		if (!warm)
			group_add(g, metric, m, UNIT_TIME, ns);
	}
	return NULL;
}

static const char *rollback_turn(struct group *g, const struct method *m, bool warm,
				 void *arg)
{
	struct rollback *b = arg;
	struct snap s = { .method = m };
	const char *why = NULL;
	unsigned int i;

	if (m->undo)
		why = snap_take(&s, m, b->r);
	if (!why && m->undo && !warm)
		group_add(g, "made once before", m, UNIT_TIME, s.take_ns);
	for (i = 0; i < nr_shares && !why && !interrupted(); i++)
		why = rounds(g, &s, warm, b, shares[i]);
	if (!why && m->undo)
		m->drop(&s);
	return why;
}

static void rollback_one(struct bench *b, size_t size, enum page_kind page)
{
	struct params p = {
		.size = size, .page = page_names[page],
		.src_node = place_node(0), .reader_node = -1, .writer_node = -1,
	};
	struct region r = { .len = size, .page = page, .node = place_node(0) };
	struct rollback rb = { .r = &r, .rounds = env.emulated ? 3 : 20 };
	struct turns t = {
		.src = &r, .repeat = env.emulated ? 1 : 3, .no_warmup = true,
		.variants = VARIANT_DROP | VARIANT_RENEW, .fn = rollback_turn, .arg = &rb,
	};
	char name[24];

	if (!bench_source(b, &r, 2))
		return;
	rb.spec = shared_alloc(sizeof(*rb.spec));
	t.group = report_begin(&b->report, "rollback", &p, "%s of %s pages, written and undone",
			       size_name(size, name), page_names[page]);
	bench_turns(b, &t);
	group_pages(t.group, NULL, region_pages(&r));
	group_note(t.group, "cowsnap-sync, memcpy: the source is undone; others: a snapshot is made, written, discarded");
	report_end(&b->report, t.group);
	shared_free(rb.spec, sizeof(*rb.spec));
	region_free(&r);
}

static void rollback_run(struct bench *b)
{
	place_bind(place_cpu_on(place_node(0), 0));
	bench_each(b, env.emulated ? 16 * MIB : 256 * MIB, PAGE_4K, rollback_one);
}

const struct workload wl_rollback = {
	.name = "rollback",
	.help = "write and undo, against the share of pages written",
	.run = rollback_run,
};
