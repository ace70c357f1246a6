// SPDX-License-Identifier: GPL-2.0
/*
 * checkpoint: workers write all of an array while checkpointers copy a snapshot
 * of it out in batches, unmapping as they go.
 *
 * contiguous: each worker writes a part of its own.
 * strided: the pages go round, each worker writes every N-th.
 */
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "bench.h"

#define BATCH_SIZE	(2 * MIB)

/* Shared with the snapshot side. */
struct copy_out {
	unsigned int writers, checkpointers;
	struct snap *snap;	/* as its side has it */
	size_t len;
	size_t next;		/* first byte that nobody has taken */
	uint64_t done;		/* when the last batch had been copied */
};

struct checkpoint {
	struct region *r;
	unsigned int writers;
	bool strided;
	struct copy_out *out;
};

static int worker_cpu(unsigned int nr, void *arg)
{
	(void)arg;
	return place_cpu(nr);
}

static void write_page(char *page)
{
	volatile uint64_t *word = (uint64_t *)page;
	volatile uint64_t *end = (uint64_t *)(page + page_size);

	for (; word < end; word++)
		*word += 1;
}

static void work(struct worker *w, void *arg)
{
	struct checkpoint *c = arg;
	size_t pages = region_pages(c->r), nr = w->team->nr;
	size_t i = c->strided ? w->nr : pages * w->nr / nr;
	size_t end = c->strided ? pages : pages * (w->nr + 1) / nr;
	size_t step = c->strided ? nr : 1;

	for (; i < end && !interrupted(); i += step)
		write_page(c->r->addr + i * page_size);
}

static int checkpointer_cpu(unsigned int nr, void *arg)
{
	struct copy_out *o = arg;

	return place_cpu(o->writers + nr);
}

/* Not shortened by an interrupt: what is not unmapped would stay. */
static void copy_batches(struct worker *w, void *arg)
{
	struct copy_out *o = arg;
	char *sink = mmap(NULL, BATCH_SIZE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	size_t at, n;

	(void)w;
	if (sink == MAP_FAILED)
		die("out of memory for a batch of a checkpoint");
	while ((at = __atomic_fetch_add(&o->next, BATCH_SIZE, __ATOMIC_RELAXED)) < o->len) {
		n = o->len - at < BATCH_SIZE ? o->len - at : BATCH_SIZE;
		copy_memory(sink, o->snap->addr + at, n);
		snap_drop_part(o->snap, at, n);
	}
	munmap(sink, BATCH_SIZE);
}

static void copy_out(struct snap *s, void *arg)
{
	struct copy_out *o = arg;
	struct team team;

	o->snap = s;
	o->len = s->src->len;
	team_make(&team, o->checkpointers, copy_batches, o, checkpointer_cpu);
	team_go(&team);
	o->done = team_join(&team);
}

struct usage {
	double minor, major, user, system;
};

static double seconds_ns(struct timeval tv)
{
	return tv.tv_sec * 1e9 + tv.tv_usec * 1e3;
}

/* Of this process and of children that were waited for. */
static struct usage usage_now(void)
{
	struct rusage self, kids;

	getrusage(RUSAGE_SELF, &self);
	getrusage(RUSAGE_CHILDREN, &kids);
	return (struct usage){
		.minor = self.ru_minflt + kids.ru_minflt,
		.major = self.ru_majflt + kids.ru_majflt,
		.user = seconds_ns(self.ru_utime) + seconds_ns(kids.ru_utime),
		.system = seconds_ns(self.ru_stime) + seconds_ns(kids.ru_stime),
	};
}

static void add_usage(struct group *g, const struct method *m, struct usage a,
		      struct usage b)
{
	group_add(g, "minor faults", m, UNIT_COUNT, b.minor - a.minor);
	group_add(g, "major faults", m, UNIT_COUNT, b.major - a.major);
	group_add(g, "user time", m, UNIT_TIME, b.user - a.user);
	group_add(g, "system time", m, UNIT_TIME, b.system - a.system);
}

/* A snapshot was there, nobody wrote, it is gone: what does writing cost now? */
static const char *residual(struct group *g, const struct method *m, bool warm,
			    struct checkpoint *c)
{
	struct usage before, after;
	uint64_t start, ns;
	const char *why;
	struct snap s;
	size_t i;

	why = region_restore(c->r);
	if (!why)
		why = snap_take(&s, m, c->r);
	if (why)
		return why;
	m->drop(&s);

	before = usage_now();
	start = now_ns();
	for (i = 0; i < c->r->len; i += page_size)
		*(volatile uint64_t *)(c->r->addr + i) = i;
	ns = now_ns() - start;
	after = usage_now();
	if (warm)
		return NULL;
	group_add(g, "faults after the drop", m, UNIT_COUNT, after.minor - before.minor);
	group_add(g, "writes after the drop", m, UNIT_TIME, ns);
	return NULL;
}

static const char *checkpoint_turn(struct group *g, const struct method *m, bool warm,
				   void *arg)
{
	struct checkpoint *c = arg;
	bool copies = m != &method_none;
	struct usage before, after;
	uint64_t start, workers;
	struct team team;
	struct snap s;
	const char *why;

	c->out->next = 0;
	team_make(&team, c->writers, work, c, worker_cpu);
	before = usage_now();
	start = now_ns();
	why = snap_take(&s, m, c->r);
	team_go(&team);
	if (!why && copies)
		m->start(&s, copy_out, c->out);
	workers = team_join(&team);
	if (why)
		return why;
	if (copies) {
		m->wait(&s);
		s.unmapped = true;
	}
	m->drop(&s);
	after = usage_now();
	if (warm || interrupted())
		return NULL;

	if (copies) {
		group_add(g, "snapshot made", m, UNIT_TIME, s.take_ns);
		group_add(g, "checkpoint complete", m, UNIT_TIME, c->out->done - start);
	}
	group_add(g, "workers done", m, UNIT_TIME, workers - start);
	add_usage(g, m, before, after);
	return residual(g, m, warm, c);
}

static void checkpoint_one(struct bench *b, struct region *r, bool strided)
{
	unsigned int writers = b->writers ? b->writers : 2;
	static const char *const order[] = {
		"snapshot made", "checkpoint complete", "workers done", "user time",
		"system time", "writes after the drop",
	};
	struct params p = {
		.size = r->len, .page = page_names[r->page],
		.pattern = strided ? "strided" : "contiguous", .writers = writers,
		.checkpointers = b->checkpointers ? b->checkpointers : 1,
		.src_node = r->node, .reader_node = -1, .writer_node = -1,
	};
	struct checkpoint c = { .r = r, .writers = writers, .strided = strided };
	struct turns t = {
		.src = r, .repeat = env.emulated ? 3 : 5, .with_none = true,
		.variants = VARIANT_DROP, .fn = checkpoint_turn, .arg = &c,
	};
	char name[24];

	if (strcmp(b->pattern, "both") && strcmp(b->pattern, p.pattern))
		return;
	c.out = shared_alloc(sizeof(*c.out));
	c.out->writers = writers;
	c.out->checkpointers = p.checkpointers;
	t.group = report_begin(&b->report, "checkpoint", &p,
			       "%s of %s pages, %s, %u worker%s, %u checkpointer%s",
			       size_name(r->len, name), p.page, p.pattern, writers,
			       writers == 1 ? "" : "s", p.checkpointers,
			       p.checkpointers == 1 ? "" : "s");
	group_order(t.group, order, ARRAY_SIZE(order));
	bench_turns(b, &t);
	group_pages(t.group, "faults after the drop", region_pages(r));
	group_pages(t.group, "writes after the drop", region_pages(r));
	group_pages(t.group, "minor faults", region_pages(r));
	group_note(t.group, "faults and times of all threads and children; \"none\" works without a snapshot");
	report_end(&b->report, t.group);
	shared_free(c.out, sizeof(*c.out));
}

static void checkpoint_run(struct bench *b)
{
	/* Among others it must not take minutes; asked for, it has its full size. */
	size_t dflt = b->named ? GIB : 128 * MIB, sizes[32];
	static const enum page_kind dflt_page = PAGE_4K;
	enum page_kind pages[NR_PAGE_KINDS];
	unsigned int nr = bench_sizes(b, &dflt, 1, sizes);
	unsigned int nr_pages = bench_pages(b, &dflt_page, 1, pages);
	unsigned int i, k;
	struct region r;

	place_bind(place_cpu(0));
	for (k = 0; k < nr_pages; k++)
		for (i = 0; i < nr && !interrupted(); i++) {
			r = (struct region){
				.len = sizes[i], .page = pages[k], .node = place_node(0),
			};
			if (!bench_source(b, &r, 2))
				continue;
			checkpoint_one(b, &r, true);
			if (!interrupted())
				checkpoint_one(b, &r, false);
			region_free(&r);
		}
}

const struct workload wl_checkpoint = {
	.name = "checkpoint",
	.help = "workers write an array while checkpointers copy its snapshot out",
	.run = checkpoint_run,
};
