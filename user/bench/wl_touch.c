// SPDX-License-Identifier: GPL-2.0
/*
 * touch: latency of the first write to each page after the snapshot, by the
 * source side and by the snapshot side, from one thread and from many.
 */
#include "bench.h"

/* Shared with the snapshot side. */
struct touch {
	char *addr;
	size_t pages;
	unsigned int writers;
	unsigned int first_cpu;
	uint32_t ns[];
};

static void write_part(struct worker *w, void *arg)
{
	struct touch *t = arg;
	size_t i = t->pages * w->nr / w->team->nr;
	size_t end = t->pages * (w->nr + 1) / w->team->nr;

	for (; i < end && !interrupted(); i++) {
		volatile uint64_t *word = (uint64_t *)(t->addr + i * page_size);
		uint64_t start = now_ns();

		*word = start;
		t->ns[i] = now_ns() - start;
	}
}

static int writer_cpu(unsigned int nr, void *arg)
{
	struct touch *t = arg;

	return place_cpu(t->first_cpu + nr);
}

static void write_all(struct touch *t)
{
	struct team team;
	size_t i;

	/* Results must not fault while they are taken. */
	for (i = 0; i < t->pages; i += page_size / sizeof(t->ns[0]))
		((volatile uint32_t *)t->ns)[i] = 0;
	team_make(&team, t->writers, write_part, t, writer_cpu);
	team_go(&team);
	team_join(&team);
}

static void write_snapshot(struct snap *s, void *arg)
{
	struct touch *t = arg;

	t->addr = s->addr;
	write_all(t);
}

/* One way to touch: who writes, and how many of them. */
struct way {
	char metric[32];
	bool by_snapshot;
	unsigned int writers;
};

struct touch_args {
	struct region *r;
	struct touch *t;
	size_t t_len;
	struct way ways[4];
	unsigned int nr_ways;
};

static const char *touch_way(struct group *g, const struct method *m, bool warm,
			     struct touch_args *a, const struct way *way)
{
	const char *why;
	struct snap s;
	size_t i;

	why = snap_take(&s, m, a->r);
	if (why)
		return why;
	a->t->writers = way->writers;
	a->t->first_cpu = 0;
	if (way->by_snapshot) {
		snap_run(&s, write_snapshot, a->t);
	} else {
		a->t->addr = a->r->addr;
		write_all(a->t);
	}
	m->drop(&s);

	for (i = 0; i < a->t->pages && !warm && !interrupted(); i++)
		group_add(g, way->metric, m, UNIT_TIME, a->t->ns[i]);
	return NULL;
}

static const char *touch_turn(struct group *g, const struct method *m, bool warm,
			      void *arg)
{
	struct touch_args *a = arg;
	unsigned int i;

	for (i = 0; i < a->nr_ways && !interrupted(); i++) {
		const char *why;

		if (m == &method_none && a->ways[i].by_snapshot)
			continue;
		why = region_restore(a->r);
		if (!why)
			why = touch_way(g, m, warm, a, &a->ways[i]);
		if (why)
			return why;
	}
	return NULL;
}

static void add_way(struct touch_args *a, bool by_snapshot, unsigned int writers)
{
	struct way *way = &a->ways[a->nr_ways++];

	way->by_snapshot = by_snapshot;
	way->writers = writers;
	snprintf(way->metric, sizeof(way->metric), "%s, %u writer%s",
		 by_snapshot ? "snapshot" : "source", writers, writers == 1 ? "" : "s");
}

static void choose_ways(struct touch_args *a, unsigned int writers)
{
	add_way(a, /* by_snapshot= */false, 1);
	add_way(a, /* by_snapshot= */true, 1);
	if (writers > 1) {
		add_way(a, /* by_snapshot= */false, writers);
		add_way(a, /* by_snapshot= */true, writers);
	}
}

static void touch_one(struct bench *b, size_t size, enum page_kind page)
{
	/* More virtual CPUs than real ones spend their time waiting for IPIs. */
	unsigned int many = place_cpus() < 4 || env.emulated ? 2 : 4;
	struct params p = {
		.size = size, .page = page_names[page],
		.writers = b->writers ? b->writers : many,
		.src_node = place_node(0), .reader_node = -1, .writer_node = -1,
	};
	struct region r = { .len = size, .page = page, .node = place_node(0) };
	struct touch_args a = { .r = &r };
	struct turns t = {
		.src = &r, .repeat = env.emulated ? 1 : 3, .with_none = true,
		.fn = touch_turn, .arg = &a,
	};
	char name[24];

	if (!bench_source(b, &r, 2))
		return;
	t.group = report_begin(&b->report, "touch", &p,
			       "first write to each page, %s of %s pages",
			       size_name(size, name), page_names[page]);
	a.t_len = sizeof(*a.t) + region_pages(&r) * sizeof(a.t->ns[0]);
	a.t = shared_alloc(a.t_len);
	a.t->pages = region_pages(&r);
	choose_ways(&a, p.writers);
	bench_turns(b, &t);

	group_note(t.group, "each latency contains one reading of the clock; \"none\" writes without a snapshot");
	report_end(&b->report, t.group);
	shared_free(a.t, a.t_len);
	region_free(&r);
}

static void touch_run(struct bench *b)
{
	place_bind(place_cpu(0));
	bench_each(b, env.emulated ? 4 * MIB : 64 * MIB, PAGE_4K, touch_one);
}

const struct workload wl_touch = {
	.name = "touch",
	.help = "latency of the first write to a page, by source and by snapshot side",
	.run = touch_run,
};
