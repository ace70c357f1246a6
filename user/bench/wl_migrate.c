// SPDX-License-Identifier: GPL-2.0
/*
 * migrate: a snapshot under whatever moves pages about. After each mover the
 * content of both sides is looked at, the source is written and both are looked at
 * again; how many pages of either side are at another place than before; and how
 * long a pinned thread that goes on reading the source has to wait meanwhile.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "movers.h"

#define SEED_BEFORE	100
#define SEED_AFTER	100000

/* Pages that the pinned thread reads for one sample. */
#define READS		16
#define MOST_SAMPLES	16384

struct migrate {
	struct region *r;
	bool system;
	uint64_t *frames;	/* source and snapshot, before and after: four times */
	/* The pinned thread. */
	int cpu;
	volatile bool stop;
	uint32_t *ns;
	size_t nr_ns;
	const char *missing[16];	/* of each mover */
	bool *seen;		/* shared with the snapshot side */
};

/* Two neighbours are alike, for KSM to find. */
static void fill_pairs(char *addr, size_t len, uint64_t seed)
{
	size_t i;

	for (i = 0; i < len; i += page_size)
		region_fill(addr + i, page_size, seed + i / page_size / 2);
}

static bool holds_pairs(const char *addr, size_t len, uint64_t seed)
{
	size_t i;

	for (i = 0; i < len; i += page_size)
		if (!region_holds(addr + i, page_size, seed + i / page_size / 2))
			return false;
	return true;
}

static void look_at_snapshot(struct snap *s, void *arg)
{
	*(bool *)arg = holds_pairs(s->addr, s->src->len, SEED_BEFORE);
}

static const char *verify(struct snap *s, struct migrate *a, bool *as_it_was)
{
	snap_run(s, look_at_snapshot, as_it_was);
	if (!*as_it_was)
		return "WRONG CONTENT: the snapshot is not what it was before pages moved";
	if (!holds_pairs(a->r->addr, a->r->len, SEED_BEFORE))
		return "WRONG CONTENT: the source is not what it was before pages moved";
	fill_pairs(a->r->addr, a->r->len, SEED_AFTER);
	snap_run(s, look_at_snapshot, as_it_was);
	if (!*as_it_was)
		return "WRONG CONTENT: after pages moved, a write to the source shows in the snapshot";
	return holds_pairs(a->r->addr, a->r->len, SEED_AFTER) ? NULL :
	       "WRONG CONTENT: after pages moved, the source does not hold what was written";
}

/* When there is no more room, the last sample is the longest of all others. */
static void read_on(struct worker *w, void *arg)
{
	struct migrate *a = arg;
	size_t i = 0, k;

	(void)w;
	a->nr_ns = 0;
	while (!a->stop && !interrupted()) {
		uint64_t start = now_ns(), ns;

		for (k = 0; k < READS; k++, i = (i + page_size) % a->r->len)
			(void)*(volatile uint64_t *)(a->r->addr + i);
		ns = now_ns() - start;
		if (a->nr_ns < MOST_SAMPLES)
			a->ns[a->nr_ns++] = ns;
		else if (ns > a->ns[MOST_SAMPLES - 1])
			a->ns[MOST_SAMPLES - 1] = ns;
		/* Virtual CPUs may share a real one, that the mover needs as well. */
		if (env.emulated)
			usleep(200);
	}
}

static int reader_cpu(unsigned int nr, void *arg)
{
	(void)nr;
	return ((struct migrate *)arg)->cpu;
}

static void read_frames(struct migrate *a, const struct snap *s, uint64_t *to)
{
	size_t nr = region_pages(a->r);

	memset(to, 0, 2 * nr * sizeof(*to));
	place_frames(0, a->r->addr, a->r->len, to);
	place_frames(s->pid, s->addr, a->r->len, to + nr);
}

static void record(struct group *g, const struct method *m, struct migrate *a,
		   const char *mover)
{
	size_t nr = 2 * region_pages(a->r), moved = 0, i;

	for (i = 0; i < a->nr_ns; i++)
		group_add(g, sentence("16 reads, %s", mover), m, UNIT_TIME, a->ns[i]);
	for (i = 0; i < nr; i++)
		moved += a->frames[i] && a->frames[nr + i] &&
			 a->frames[i] != a->frames[nr + i];
	group_add(g, sentence("moved, %s", mover), m, UNIT_COUNT, moved);
}

/* *failed: why this mover did nothing, which says nothing of the method. */
static const char *one_mover(struct group *g, const struct method *m, bool warm,
			     struct migrate *a, const struct mover *mover,
			     const char **failed)
{
	size_t nr = 2 * region_pages(a->r);
	const char *why = region_restore(a->r);
	struct team team;
	struct snap s;

	if (why)
		return why;
	fill_pairs(a->r->addr, a->r->len, SEED_BEFORE);
	why = snap_take(&s, m, a->r);
	if (why)
		return why;
	read_frames(a, &s, a->frames);
	a->stop = false;
	team_make(&team, 1, read_on, a, reader_cpu);
	team_go(&team);
	*failed = mover->move(&s);
	a->stop = true;
	team_join(&team);
	read_frames(a, &s, a->frames + nr);
	if (!warm && !*failed && !interrupted())
		record(g, m, a, mover->name);
	if (!interrupted())
		why = verify(&s, a, a->seen);
	m->drop(&s);
	return why;
}

static const char *migrate_turn(struct group *g, const struct method *m, bool warm,
				void *arg)
{
	struct migrate *a = arg;
	const char *why = NULL, *failed;
	unsigned int i;

	for (i = 0; i < nr_movers && !why && !interrupted(); i++) {
		if (a->missing[i])
			continue;
		why = one_mover(g, m, warm, a, &movers[i], &failed);
		if (failed && !why)
			group_note(g, "%s (%s): %s", movers[i].name, m->name, failed);
	}
	return why;
}

static void order_metrics(struct group *g)
{
	unsigned int i;

	for (i = 0; i < nr_movers; i++)
		group_figure(g, sentence("16 reads, %s", movers[i].name), NULL, UNIT_TIME);
	for (i = 0; i < nr_movers; i++)
		group_figure(g, sentence("moved, %s", movers[i].name), NULL, UNIT_COUNT);
}

static void say_missing(struct group *g, struct migrate *a)
{
	unsigned int i;

	for (i = 0; i < nr_movers; i++) {
		a->missing[i] = movers[i].missing(a->system);
		if (a->missing[i])
			a->missing[i] = strdup(a->missing[i]);
		if (a->missing[i])
			group_note(g, "%s: not here: %s", movers[i].name, a->missing[i]);
	}
}

/* The first node's memory may be in zones that do not go offline. */
static int last_node(void)
{
	unsigned int i = place_nodes();

	while (i-- > 1)
		if (place_node_has_memory(place_node(i)) && place_cpu_on(place_node(i), 0) >= 0)
			return place_node(i);
	return place_node(0);
}

static void migrate_one(struct bench *b, size_t size, enum page_kind page)
{
	struct params p = {
		.size = size, .page = page_names[page],
		.src_node = last_node(), .reader_node = -1, .writer_node = -1,
	};
	struct region r = { .len = size, .page = page, .node = p.src_node };
	int other = mover_other_node(r.node);
	struct migrate a = {
		.r = &r, .system = b->system,
		.cpu = other >= 0 ? place_cpu_on(other, 0) : place_cpu(1),
	};
	struct turns t = {
		.src = &r, .repeat = env.emulated ? 1 : 3, .no_warmup = true,
		.fn = migrate_turn, .arg = &a,
	};
	char name[24];

	if (!bench_source(b, &r, 2))
		return;
	a.frames = calloc(4 * region_pages(&r), sizeof(*a.frames));
	a.seen = shared_alloc(sizeof(*a.seen));
	a.ns = calloc(MOST_SAMPLES, sizeof(*a.ns));
	if (!a.frames || !a.ns)
		die("out of memory for samples");
	if (a.cpu < 0)
		a.cpu = place_cpu(1);
	t.group = report_begin(&b->report, "migrate", &p, "%s of %s pages that are moved under a snapshot",
			       size_name(size, name), p.page);
	say_missing(t.group, &a);
	order_metrics(t.group);
	bench_turns(b, &t);
	group_note(t.group, "moved: pages of both sides; 16 reads: by a pinned thread meanwhile; contents verified after each");
	report_end(&b->report, t.group);
	shared_free(a.seen, sizeof(*a.seen));
	free(a.frames);
	free(a.ns);
	region_free(&r);
}

static void migrate_run(struct bench *b)
{
	place_bind(place_cpu_on(last_node(), 0));
	bench_each(b, env.emulated ? 4 * MIB : 64 * MIB, PAGE_4K, migrate_one);
}

const struct workload wl_migrate = {
	.name = "migrate",
	.help = "contents and jitter while KSM, compaction and others move the pages",
	.run = migrate_run,
};
