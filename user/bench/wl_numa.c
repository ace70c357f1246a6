// SPDX-License-Identifier: GPL-2.0
/*
 * numa: the source on one node, readers of the snapshot on another, writers of
 * the source on a third; where the pages of both sides end up.
 *
 * Without a memory policy a page that a write copies comes from the writer's node,
 * and the question is which side is left with it. With NUMA balancing the readers
 * may draw pages to them; a policy of the source's mapping says where copies come
 * from; UNSHARE copies the snapshot to its readers' node before anybody faults.
 */
#include <errno.h>
#include <numaif.h>
#include <string.h>

#include <cowsnap.h>

#include "matrix.h"
#include "movers.h"

#define MAX_NODES	64

/* For how long readers read on, when balancing is to have its chance. */
#define BALANCING_NS	700000000ull

enum policy { POLICY_DEFAULT, POLICY_BIND, POLICY_UNSHARE };

struct way {
	const char *name;
	enum policy policy;
	bool balancing;
};

static const struct way ways[] = {
	{ "default", POLICY_DEFAULT, false },
	{ "default", POLICY_DEFAULT, true },
	/* The source's mapping is bound to its node. */
	{ "bind", POLICY_BIND, false },
	/* The snapshot is copied to its readers' node before anybody writes. */
	{ "unshare", POLICY_UNSHARE, false },
};

/* Shared with the snapshot side. */
struct read_all {
	int cpu;
	uint64_t ns;
	uint64_t sum;
	uint64_t at_least_ns;
};

struct numa_args {
	struct region *r;
	struct nodes nodes;
	const struct way *way;
	const char *balancing;
	struct read_all *read;
	struct matrix *matrix;
};

/* A word of each cache line. */
static uint64_t read_once(const char *addr, size_t len)
{
	const volatile uint64_t *word = (uint64_t *)addr;
	const volatile uint64_t *end = (uint64_t *)(addr + len);
	uint64_t sum = 0;

	for (; word < end; word += 8)
		sum += *word;
	return sum;
}

static void read_snapshot(struct snap *s, void *arg)
{
	struct read_all *a = arg;
	uint64_t start;

	place_bind(a->cpu);
	start = now_ns();
	a->sum = read_once(s->addr, s->src->len);
	a->ns = now_ns() - start;
	while (now_ns() - start < a->at_least_ns && !interrupted())
		a->sum += read_once(s->addr, s->src->len);
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

/* Of the pages of a range: what share is on each node, and that into the matrix. */
static void add_side(struct group *g, const struct snap *s, bool live, struct cell *cell)
{
	size_t count[MAX_NODES], all = 0;
	unsigned int i;

	if (place_query(live ? 0 : s->pid, live ? s->src->addr : s->addr, s->src->len,
			count, MAX_NODES))
		return;
	for (i = 0; i < MAX_NODES; i++)
		all += count[i];
	for (i = 0; i < place_nodes() && all; i++) {
		int node = place_node(i);

		if (!place_node_has_memory(node))
			continue;
		group_add(g, sentence("%s on node %d", live ? "live" : "snapshot", node),
			  s->method, UNIT_PERCENT, 100.0 * count[node] / all);
		if (cell && i < MATRIX_NODES)
			cell->on[i] += 100.0 * count[node] / all;
	}
}

static void record(struct group *g, const struct snap *s, struct numa_args *a,
		   uint64_t write_ns)
{
	struct cell *live = matrix_cell(a->matrix, s->method, MATRIX_LIVE, a->nodes.src,
					a->nodes.writer);
	struct cell *snap = matrix_cell(a->matrix, s->method, MATRIX_SNAP, a->nodes.src,
					a->nodes.reader);

	group_add(g, "make", s->method, UNIT_TIME, s->take_ns);
	group_add(g, "write all of source", s->method, UNIT_TIME, write_ns);
	group_add(g, "read all of snapshot", s->method, UNIT_TIME, a->read->ns);
	if (live && snap) {
		live->ns += (double)write_ns / region_pages(a->r);
		snap->ns += (double)a->read->ns / region_pages(a->r);
		live->nr++;
		snap->nr++;
	}
	add_side(g, s, /* live= */true, live);
	add_side(g, s, /* live= */false, snap);
}

/* For pages to come: what is there stays where it is. */
static const char *bind_source(struct region *r, bool on)
{
	unsigned long mask = 1ul << (r->node < 0 ? 0 : r->node);

	if (!mbind(r->addr, r->len, on ? MPOL_BIND : MPOL_DEFAULT, on ? &mask : NULL,
		   on ? MAX_NODES + 1 : 0, 0))
		return NULL;
	return sentence("mbind: %s", strerror(errno));
}

static const char *unshare_to_reader(struct group *g, const struct snap *s,
				     struct numa_args *a, bool warm)
{
	struct cowsnap_unshare u = {
		.addr = (uintptr_t)s->addr, .len = s->src->len,
		.flags = COWSNAP_UNSHARE_NODE, .node = a->nodes.reader,
	};
	uint64_t start = now_ns();

	if (cowsnap_unshare(cowsnap_device(), &u))
		return cowsnap_error();
	if (!warm)
		group_add(g, "UNSHARE", s->method, UNIT_TIME, now_ns() - start);
	return NULL;
}

/* The snapshot, and what the way asks for before anybody writes. */
static const char *take_this_way(struct group *g, struct snap *s, const struct method *m,
				 struct numa_args *a, bool warm)
{
	enum policy policy = a->way->policy;
	const char *why;

	if (policy == POLICY_UNSHARE && m->take != method_cowsnap.take)
		return "UNSHARE works on what COWSNAP_REMAP has made";
	why = policy == POLICY_BIND ? bind_source(a->r, /* on= */true) : NULL;
	if (!why)
		why = snap_take(s, m, a->r);
	if (why || policy != POLICY_UNSHARE)
		return why;
	why = unshare_to_reader(g, s, a, warm);
	if (why)
		m->drop(s);
	return why;
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
	why = take_this_way(g, &s, m, a, warm);
	team_go(&team);
	team_join(&team);
	if (!why) {
		a->read->cpu = place_cpu_on(a->nodes.reader, 0);
		a->read->at_least_ns = a->way->balancing ? BALANCING_NS : 0;
		snap_run(&s, read_snapshot, a->read);
		if (!warm && !interrupted())
			record(g, &s, a, w.ns);
		m->drop(&s);
	}
	if (a->way->policy == POLICY_BIND)
		bind_source(a->r, /* on= */false);
	return why;
}

static void numa_one(struct bench *b, struct region *r, struct numa_args *a)
{
	struct params p = {
		.size = r->len, .page = page_names[r->page], .src_node = a->nodes.src,
		.reader_node = a->nodes.reader, .writer_node = a->nodes.writer,
		.policy = a->way->name, .balancing = a->balancing,
	};
	bool many = env.emulated && place_nodes() > 2;
	struct turns t = {
		.src = r, .repeat = many ? 1 : env.emulated ? 2 : 5, .no_warmup = many,
		.fn = numa_turn, .arg = a,
	};
	char name[24];

	/* Whoever makes the snapshot sits with the source. */
	place_bind(place_cpu_on(a->nodes.src, 0));
	r->node = a->nodes.src;
	if (!bench_source(b, r, 2))
		return;
	t.group = report_begin(&b->report, "numa", &p,
			       "%s of %s pages: source on node %d, readers on %d, writers on %d",
			       size_name(r->len, name), p.page, p.src_node, p.reader_node,
			       p.writer_node);
	t.group->silent = !b->nr_nodes;
	bench_turns(b, &t);
	group_pages(t.group, "make", region_pages(r));
	group_pages(t.group, "write all of source", region_pages(r));
	group_pages(t.group, "read all of snapshot", region_pages(r));
	group_note(t.group, "policy %s; places after reading, by move_pages; NUMA balancing %s",
		   p.policy, p.balancing);
	report_end(&b->report, t.group);
	matrix_misses(a->matrix, t.group);
	region_free(r);
}

/* All combinations for the first way; else readers and writers sit together. */
static void numa_way(struct bench *b, struct region *r, const struct way *way,
		     const struct nodes *list, unsigned int nr)
{
	struct numa_args a = { .r = r, .way = way, .matrix = matrix_make() };
	const char *why = balancing_set(way->balancing, b->system);
	unsigned int n;
	char name[24];

	/* Without permission it is as it is; once is enough then. */
	if (why && way->balancing) {
		fprintf(b->report.out, "\nnuma: with balancing switched on: not here: %s\n", why);
		goto out;
	}
	a.balancing = why ? env.balancing : way->balancing ? "on" : "off";
	a.read = shared_alloc(sizeof(*a.read));
	for (n = 0; n < nr && !interrupted(); n++) {
		a.nodes = list[n];
		if (way != ways && !b->nr_nodes && a.nodes.reader != a.nodes.writer)
			continue;
		numa_one(b, r, &a);
	}
	shared_free(a.read, sizeof(*a.read));
	if (!b->nr_nodes)
		matrix_print(a.matrix, b->report.out,
			     sentence("%s of %s pages, policy %s, balancing %s",
				      size_name(r->len, name), page_names[r->page],
				      way->name, a.balancing));
out:
	balancing_restore();
	matrix_free(a.matrix);
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

static void numa_sized(struct bench *b, size_t size, enum page_kind page)
{
	struct region r = { .len = size, .page = page };
	struct nodes list[MAX_NODES];
	unsigned int nr = b->nr_nodes, i;

	memcpy(list, b->nodes, nr * sizeof(*list));
	if (!nr)
		nr = all_combinations(list, ARRAY_SIZE(list));
	/* With one node there is nothing to choose. */
	for (i = 0; i < (place_nodes() > 1 ? ARRAY_SIZE(ways) : 1) && !interrupted(); i++)
		numa_way(b, &r, &ways[i], list, nr);
}

static void numa_run(struct bench *b)
{
	size_t dflt = !env.emulated ? 64 * MIB : place_nodes() > 2 ? MIB : 2 * MIB;

	bench_each(b, dflt, PAGE_4K, numa_sized);
}

const struct workload wl_numa = {
	.name = "numa",
	.help = "source, readers and writers on chosen nodes, and where pages end up",
	.run = numa_run,
};
