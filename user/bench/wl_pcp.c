// SPDX-License-Identifier: GPL-2.0
/*
 * pcp: the page allocator's share of a first write. Each CPU has lists of free
 * pages; a page that copy-on-write needs comes from there, or, when they are
 * empty, with a batch of others from the zone, under its lock. Latencies with
 * lists that are full, that were emptied before, and that another CPU goes on
 * emptying; and what /proc/zoneinfo says of them before and after.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench.h"

/* More than the lists of a CPU take. */
#define FILL_SIZE	(16 * MIB)
/* Each may leave some lines in the kernel's log. */
#define MOST_DRAINS	20

enum state { LISTS_FULL, LISTS_DRAINED, LISTS_BEING_DRAINED, NR_STATES };

static const char *const state_names[NR_STATES] = {
	"full", "empty", "draining",
};

struct pcp {
	struct region *r;
	int cpu, node;
	unsigned int nr_states;
	uint32_t *ns;
	volatile bool drain;
};

struct lists {
	size_t count, high, batch;
};

/* Of all zones of the node: free pages on the lists of one CPU. */
static struct lists read_lists(int node, int cpu)
{
	FILE *f = fopen("/proc/zoneinfo", "re");
	struct lists l = { 0 };
	int in_node = -1, in_cpu = -1;
	char line[256];
	size_t v;

	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "Node %d, zone", &in_node) == 1)
			in_cpu = -1;
		if (sscanf(line, " cpu: %d", &in_cpu) == 1 || in_node != node ||
		    in_cpu != cpu)
			continue;
		if (sscanf(line, " count: %zu", &v) == 1)
			l.count += v;
		else if (sscanf(line, " high: %zu", &v) == 1 && v > l.high)
			l.high = v;
		else if (sscanf(line, " batch: %zu", &v) == 1 && v > l.batch)
			l.batch = v;
	}
	if (f)
		fclose(f);
	return l;
}

/* What this CPU frees goes to its lists first. */
static void fill_lists(void)
{
	char *p = mmap(NULL, FILL_SIZE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return;
	madvise(p, FILL_SIZE, MADV_NOHUGEPAGE);
	memset(p, 1, FILL_SIZE);
	munmap(p, FILL_SIZE);
}

static void drain_on(struct worker *w, void *arg)
{
	struct pcp *p = arg;
	int i;

	(void)w;
	for (i = 0; i < MOST_DRAINS && p->drain && !interrupted(); i++) {
		memblock_drain();
		usleep(1000);
	}
}

static int other_cpu(unsigned int nr, void *arg)
{
	(void)arg;
	return place_cpu(nr + 1);
}

static void write_pages(struct pcp *p)
{
	size_t nr = region_pages(p->r), i;

	for (i = 0; i < nr && !interrupted(); i++) {
		volatile uint64_t *word = (uint64_t *)(p->r->addr + i * page_size);
		uint64_t start = now_ns();

		*word = start;
		p->ns[i] = now_ns() - start;
	}
}

static void record(struct group *g, const struct method *m, const struct pcp *p,
		   enum state state, const struct lists *before)
{
	struct lists after = read_lists(p->node, p->cpu);
	const char *name = state_names[state];
	size_t i;

	for (i = 0; i < region_pages(p->r) && !interrupted(); i++)
		group_add(g, sentence("write, lists %s", name), m, UNIT_TIME, p->ns[i]);
	group_add(g, sentence("before, %s", name), m, UNIT_COUNT, before->count);
	group_add(g, sentence("after, %s", name), m, UNIT_COUNT, after.count);
}

static const char *in_state(struct group *g, const struct method *m, bool warm,
			    struct pcp *p, enum state state)
{
	const char *why = region_restore(p->r);
	struct lists before;
	struct team team;
	struct snap s;

	if (!why)
		why = snap_take(&s, m, p->r);
	if (why)
		return why;
	memset(p->ns, 0, region_pages(p->r) * sizeof(*p->ns));
	p->drain = state == LISTS_BEING_DRAINED;
	team_make(&team, 1, drain_on, p, other_cpu);
	fill_lists();
	if (state != LISTS_FULL)
		memblock_drain();
	before = read_lists(p->node, p->cpu);
	team_go(&team);
	write_pages(p);
	p->drain = false;
	if (!warm)
		record(g, m, p, state, &before);
	team_join(&team);
	m->drop(&s);
	return NULL;
}

static const char *pcp_turn(struct group *g, const struct method *m, bool warm, void *arg)
{
	struct pcp *p = arg;
	const char *why = NULL;
	unsigned int i;

	for (i = 0; i < p->nr_states && !why && !interrupted(); i++)
		why = in_state(g, m, warm, p, i);
	return why;
}

static void order_metrics(struct group *g)
{
	static const struct {
		const char *format;
		enum unit unit;
	} what[] = {
		{ "write, lists %s", UNIT_TIME },
		{ "before, %s", UNIT_COUNT },
		{ "after, %s", UNIT_COUNT },
	};
	char metric[64];
	unsigned int i, k;

	for (i = 0; i < ARRAY_SIZE(what); i++)
		for (k = 0; k < NR_STATES; k++) {
			snprintf(metric, sizeof(metric), what[i].format, state_names[k]);
			group_figure(g, metric, NULL, what[i].unit);
		}
}

static void pcp_one(struct bench *b, size_t size, enum page_kind page)
{
	struct params p = {
		.size = size, .page = page_names[page],
		.src_node = place_node(0), .reader_node = -1, .writer_node = -1,
	};
	struct region r = { .len = size, .page = page, .node = place_node(0) };
	struct pcp pcp = {
		.r = &r, .node = r.node, .cpu = place_cpu_on(r.node, 0),
		.nr_states = NR_STATES,
	};
	struct turns t = {
		.src = &r, .repeat = env.emulated ? 1 : 3, .no_warmup = env.emulated,
		.with_none = true, .fn = pcp_turn, .arg = &pcp,
	};
	const char *why = memblock_missing(b->system);
	char name[24];
	struct lists l;

	if (!bench_source(b, &r, 2))
		return;
	l = read_lists(pcp.node, pcp.cpu);
	t.group = report_begin(&b->report, "pcp", &p,
			       "first writes, %s of %s pages; per-CPU lists: high %zu, batch %zu",
			       size_name(size, name), p.page, l.high, l.batch);
	order_metrics(t.group);
	if (!why)
		why = memblock_choose(r.node);
	if (why) {
		group_note(t.group, "no empty lists: %s", why);
		pcp.nr_states = LISTS_FULL + 1;
	}
	pcp.ns = calloc(region_pages(&r), sizeof(*pcp.ns));
	if (!pcp.ns)
		die("out of memory for latencies");
	bench_turns(b, &t);
	group_note(t.group, "before, after: pages on this CPU's lists, of /proc/zoneinfo; draining: emptied by another CPU all the time");
	report_end(&b->report, t.group);
	free(pcp.ns);
	region_free(&r);
}

static void pcp_run(struct bench *b)
{
	place_bind(place_cpu_on(place_node(0), 0));
	bench_each(b, env.emulated ? 4 * MIB : 16 * MIB, PAGE_4K, pcp_one);
}

const struct workload wl_pcp = {
	.name = "pcp",
	.help = "first writes with full and with empty per-CPU lists of free pages",
	.run = pcp_run,
};
