// SPDX-License-Identifier: GPL-2.0
/*
 * numa: the source on one node, readers of the snapshot on another, writers of
 * the source on a third; where the pages of both sides end up.
 *
 * No memory policy is set: a page that a write copies comes from the writer's
 * node, and the question is which side is left with it.
 */
#include "bench.h"

#define MAX_NODES	64

/* Shared with the snapshot side. */
struct read_all {
	int cpu;
	uint64_t ns;
	uint64_t sum;
};

struct numa_args {
	struct region *r;
	struct nodes nodes;
	struct read_all *read;
};

static void read_snapshot(struct snap *s, void *arg)
{
	struct read_all *a = arg;
	const volatile uint64_t *word = (uint64_t *)s->addr;
	const volatile uint64_t *end = (uint64_t *)(s->addr + s->src->len);
	uint64_t start, sum = 0;

	place_bind(a->cpu);
	start = now_ns();
	for (; word < end; word += 8)
		sum += *word;
	a->ns = now_ns() - start;
	a->sum = sum;
}

struct write_all {
	struct region *r;
	int cpu;
	uint64_t ns;
};

static int writer_cpu(unsigned int nr, void *arg)
{
	(void)nr;
	return ((struct write_all *)arg)->cpu;
}

static void write_source(struct worker *w, void *arg)
{
	struct write_all *a = arg;
	uint64_t start = now_ns();
	size_t i;

	(void)w;
	for (i = 0; i < a->r->len; i += page_size)
		*(volatile uint64_t *)(a->r->addr + i) = i;
	a->ns = now_ns() - start;
}

static double share_on(pid_t pid, const char *addr, size_t len, int node)
{
	size_t count[MAX_NODES], all = 0;
	int i;

	if (place_query(pid, addr, len, count, MAX_NODES))
		return -1;
	for (i = 0; i < MAX_NODES; i++)
		all += count[i];
	return all ? 100.0 * count[node] / all : -1;
}

static void add_places(struct group *g, const struct snap *s, struct numa_args *a)
{
	static const char *const live[] = {
		"live on node 0", "live on node 1", "live on node 2", "live on node 3",
	};
	static const char *const snap[] = {
		"snapshot on node 0", "snapshot on node 1", "snapshot on node 2",
		"snapshot on node 3",
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(live); i++) {
		if (!place_node_has_memory(i))
			continue;
		group_add(g, live[i], s->method, UNIT_PERCENT,
			  share_on(0, a->r->addr, a->r->len, i));
		group_add(g, snap[i], s->method, UNIT_PERCENT,
			  share_on(s->pid, s->addr, a->r->len, i));
	}
}

static const char *numa_turn(struct group *g, const struct method *m, bool warm,
			     void *arg)
{
	struct numa_args *a = arg;
	struct write_all w = { .r = a->r, .cpu = place_cpu_on(a->nodes.writer, 0) };
	struct team team;
	const char *why;
	struct snap s;

	/* bench_turns() has verified the source; the thread is made before. */
	team_make(&team, 1, write_source, &w, writer_cpu);
	why = snap_take(&s, m, a->r);
	team_go(&team);
	team_join(&team);
	if (why)
		return why;
	a->read->cpu = place_cpu_on(a->nodes.reader, 0);
	snap_run(&s, read_snapshot, a->read);

	if (!warm && !interrupted()) {
		group_add(g, "make", m, UNIT_TIME, s.take_ns);
		group_add(g, "write all of source", m, UNIT_TIME, w.ns);
		group_add(g, "read all of snapshot", m, UNIT_TIME, a->read->ns);
		add_places(g, &s, a);
	}
	m->drop(&s);
	return NULL;
}

static void numa_one(struct bench *b, size_t size, enum page_kind page,
		     struct nodes nodes)
{
	struct params p = {
		.size = size, .page = page_names[page], .src_node = nodes.src,
		.reader_node = nodes.reader, .writer_node = nodes.writer,
	};
	struct region r = { .len = size, .page = page, .node = nodes.src };
	struct numa_args a = { .r = &r, .nodes = nodes };
	struct turns t = {
		.src = &r, .repeat = env.emulated ? 3 : 5, .fn = numa_turn, .arg = &a,
	};
	char name[24];

	/* Whoever makes the snapshot sits with the source. */
	place_bind(place_cpu_on(nodes.src, 0));
	if (!bench_source(b, &r, 2))
		return;
	a.read = shared_alloc(sizeof(*a.read));
	t.group = report_begin(&b->report, "numa", &p,
			       "%s of %s pages: source on node %d, readers on %d, writers on %d",
			       size_name(size, name), page_names[page], nodes.src,
			       nodes.reader, nodes.writer);
	bench_turns(b, &t);
	group_pages(t.group, "make", region_pages(&r));
	group_pages(t.group, "write all of source", region_pages(&r));
	group_pages(t.group, "read all of snapshot", region_pages(&r));
	group_note(t.group, "places after reading, by move_pages; NUMA balancing %s", env.balancing);
	report_end(&b->report, t.group);
	shared_free(a.read, sizeof(*a.read));
	region_free(&r);
}

/* Nodes with memory for the source, with CPUs for all three. */
static unsigned int all_combinations(struct nodes *list, unsigned int max)
{
	unsigned int n = place_nodes(), nr = 0, i;

	for (i = 0; i < n * n * n && nr < max; i++) {
		struct nodes c = {
			place_node(i / n / n), place_node(i / n % n), place_node(i % n),
		};

		if (place_node_has_memory(c.src) && place_cpu_on(c.src, 0) >= 0 &&
		    place_cpu_on(c.reader, 0) >= 0 && place_cpu_on(c.writer, 0) >= 0)
			list[nr++] = c;
	}
	return nr;
}

static void numa_run(struct bench *b)
{
	const size_t dflt = env.emulated ? 8 * MIB : 64 * MIB;
	static const enum page_kind dflt_page = PAGE_4K;
	enum page_kind pages[NR_PAGE_KINDS];
	struct nodes list[64];
	size_t sizes[32];
	unsigned int nr = bench_sizes(b, &dflt, 1, sizes);
	unsigned int nr_pages = bench_pages(b, &dflt_page, 1, pages);
	unsigned int nr_nodes = b->nr_nodes, i, k, n;

	for (i = 0; i < nr_nodes; i++)
		list[i] = b->nodes[i];
	if (!nr_nodes)
		nr_nodes = all_combinations(list, ARRAY_SIZE(list));

	for (k = 0; k < nr_pages; k++)
		for (i = 0; i < nr; i++)
			for (n = 0; n < nr_nodes && !interrupted(); n++)
				numa_one(b, sizes[i], pages[k], list[n]);
}

const struct workload wl_numa = {
	.name = "numa",
	.help = "source, readers and writers on chosen nodes, and where pages end up",
	.run = numa_run,
};
