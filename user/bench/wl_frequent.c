// SPDX-License-Identifier: GPL-2.0
/*
 * frequent: the snapshot is renewed after each so many writes to the source. What
 * a round costs, writes and renewal, against the share of pages written.
 */
#include "bench.h"

/* Shared with the snapshot side. */
struct look {
	unsigned int permille;
	uint64_t value;
	size_t written, seen;
};

struct frequent {
	struct region *r;
	struct look *look;
	unsigned int rounds;
};

static void look_at_snapshot(struct snap *s, void *arg)
{
	struct look *l = arg;

	l->seen = region_count_share(s->addr, s->src->len, l->permille, l->value);
}

/* One share of pages, round after round. After a failure there is no snapshot. */
static const char *rounds(struct group *g, struct snap *s, bool warm,
			  struct frequent *f, unsigned int permille)
{
	char round[32], renew[32];
	unsigned int nr = s->method->slow ? 2 : f->rounds, i;

	snprintf(round, sizeof(round), "round, %g %% written", permille / 10.0);
	snprintf(renew, sizeof(renew), "of it renewing, %g %%", permille / 10.0);
	f->look->permille = permille;
	for (i = 0; i < nr && !interrupted(); i++) {
		const struct method *m = s->method;
		uint64_t start = now_ns(), written, end;
		const char *why;

		f->look->written = region_write_share(f->r->addr, f->r->len, permille,
						      start);
		f->look->value = start;
		written = now_ns();
		place_undisturbed(m->shares);
		why = snap_renew(s);
		end = now_ns();
		place_undisturbed(false);
		if (why)
			return why;
		/* What the share before has left behind is in the first round. */
		if (warm || !i)
			continue;
		group_add(g, round, m, UNIT_TIME, end - start);
		group_add(g, renew, m, UNIT_TIME, end - written);
	}
	return NULL;
}

static const char *frequent_turn(struct group *g, const struct method *m, bool warm,
				 void *arg)
{
	struct frequent *f = arg;
	const char *why;
	struct snap s;
	unsigned int i;

	why = snap_take(&s, m, f->r);
	for (i = 0; i < nr_shares && !why && !interrupted(); i++)
		why = rounds(g, &s, warm, f, shares[i]);
	if (why)
		return why;
	snap_run(&s, look_at_snapshot, f->look);
	m->drop(&s);
	return f->look->seen == f->look->written ? NULL :
	       "WRONG CONTENT: the renewed snapshot does not show the last writes";
}

static void frequent_one(struct bench *b, size_t size, enum page_kind page)
{
	struct params p = {
		.size = size, .page = page_names[page],
		.src_node = place_node(0), .reader_node = -1, .writer_node = -1,
	};
	struct region r = { .len = size, .page = page, .node = place_node(0) };
	struct frequent f = { .r = &r, .rounds = env.emulated ? 4 : 21 };
	struct turns t = {
		.src = &r, .repeat = env.emulated ? 1 : 3, .no_warmup = true,
		.variants = VARIANT_DROP | VARIANT_RENEW, .fn = frequent_turn, .arg = &f,
	};
	char name[24];

	if (!bench_source(b, &r, 2))
		return;
	f.look = shared_alloc(sizeof(*f.look));
	t.group = report_begin(&b->report, "frequent", &p, "%s of %s pages, a snapshot after each round of writes",
			       size_name(size, name), page_names[page]);
	bench_turns(b, &t);
	group_pages(t.group, NULL, region_pages(&r));
	group_note(t.group, "pages written are spread evenly; per page: of all pages");
	report_end(&b->report, t.group);
	shared_free(f.look, sizeof(*f.look));
	region_free(&r);
}

static void frequent_run(struct bench *b)
{
	place_bind(place_cpu_on(place_node(0), 0));
	bench_each(b, env.emulated ? 16 * MIB : 256 * MIB, PAGE_4K, frequent_one);
}

const struct workload wl_frequent = {
	.name = "frequent",
	.help = "a snapshot after each so many writes, against the share of pages written",
	.run = frequent_run,
};
