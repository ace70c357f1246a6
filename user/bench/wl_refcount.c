// SPDX-License-Identifier: GPL-2.0
/*
 * refcount: where reading is writing. The snapshot side walks a list of a million
 * objects as an interpreter does, taking a reference to each and dropping it:
 * what was shared is shared no more. USS, PSS and RSS of both sides before and
 * after, as smaps has them for the two ranges of memory.
 */
#include <sys/mman.h>

#include "bench.h"

#define NR_OBJECTS	((size_t)1 << 20)
#define END		UINT64_MAX

/* 40 bytes, as the small ones of an interpreter are. */
struct object {
	uint64_t refs;
	uint64_t type;
	uint64_t next;		/* byte offset: the two sides have it at different addresses */
	uint64_t value;
	uint64_t hash;
};

/* Shared with the snapshot side. */
struct walk {
	uint64_t ns;
	uint64_t faults;
	uint64_t sum, refs;
	size_t seen;
};

struct refcount {
	struct region *r;
	struct walk *walk;
};

static size_t objects_in(size_t len)
{
	return len / sizeof(struct object);
}

static void build_list(struct region *r)
{
	struct object *o = (struct object *)r->addr;
	size_t nr = objects_in(r->len), i;

	for (i = 0; i < nr; i++)
		o[i] = (struct object){
			.refs = 1, .type = 7, .value = i,
			.next = i + 1 < nr ? (i + 1) * sizeof(*o) : END,
		};
}

static void walk_list(struct snap *s, void *arg)
{
	struct walk *w = arg;
	size_t faults = thread_faults();
	uint64_t start = now_ns(), next = 0;

	w->sum = w->refs = w->seen = 0;
	while (next != END) {
		volatile struct object *o = (struct object *)(s->addr + next);

		o->refs++;
		w->sum += o->value;
		next = o->next;
		o->refs--;
		w->refs += o->refs;
		w->seen++;
	}
	w->ns = now_ns() - start;
	w->faults = thread_faults() - faults;
}

static void add_memuse(struct group *g, const struct method *m, const char *side,
		       const char *when, const struct memuse *u)
{
	group_add(g, sentence("%s USS %s", side, when), m, UNIT_MIB, u->uss / (double)MIB);
	group_add(g, sentence("%s PSS %s", side, when), m, UNIT_MIB, u->pss / (double)MIB);
	group_add(g, sentence("%s RSS %s", side, when), m, UNIT_MIB, u->rss / (double)MIB);
}

static void look(struct group *g, const struct snap *s, const char *when)
{
	struct memuse u;

	if (memuse_of(0, s->src->addr, s->src->len, &u))
		add_memuse(g, s->method, "source", when, &u);
	if (memuse_of(s->pid, s->addr, s->src->len, &u))
		add_memuse(g, s->method, "snapshot", when, &u);
	else
		group_note(g, "no memory use of a side whose mapping the kernel has merged with another");
}

static const char *walked_well(const struct refcount *rc)
{
	size_t nr = objects_in(rc->r->len);
	const struct walk *w = rc->walk;

	if (w->seen != nr || w->refs != nr || w->sum != (uint64_t)nr * (nr - 1) / 2)
		return "WRONG CONTENT: the list on the snapshot side is not the source's";
	return NULL;
}

static const char *refcount_turn(struct group *g, const struct method *m, bool warm,
				 void *arg)
{
	struct refcount *rc = arg;
	const char *why;
	struct snap s;

	/* A mapping that differs from that of any copy is not merged with it. */
	madvise(rc->r->addr, rc->r->len, MADV_DONTDUMP);
	build_list(rc->r);
	why = snap_take(&s, m, rc->r);
	if (why)
		return why;
	if (!warm)
		look(g, &s, "before");
	snap_run(&s, walk_list, rc->walk);
	if (!warm) {
		look(g, &s, "after");
		group_add(g, "walk", m, UNIT_TIME, rc->walk->ns);
		group_add(g, "faults of the walk", m, UNIT_COUNT, rc->walk->faults);
	}
	m->drop(&s);
	return walked_well(rc);
}

static void refcount_one(struct bench *b, size_t size, enum page_kind page)
{
	struct params p = {
		.size = size, .page = page_names[page],
		.src_node = place_node(0), .reader_node = -1, .writer_node = -1,
	};
	struct region r = { .len = size, .page = page, .node = place_node(0) };
	struct refcount rc = { .r = &r };
	struct turns t = {
		.src = &r, .repeat = env.emulated ? 1 : 5, .no_warmup = env.emulated,
		.with_none = true, .fn = refcount_turn, .arg = &rc,
	};
	static const char *const order[] = { "walk" };
	char name[24];

	if (!bench_source(b, &r, 2))
		return;
	rc.walk = shared_alloc(sizeof(*rc.walk));
	t.group = report_begin(&b->report, "refcount", &p,
			       "%zu objects with reference counts, %s of %s pages, walked on the snapshot side",
			       objects_in(size), size_name(size, name), page_names[page]);
	group_order(t.group, order, ARRAY_SIZE(order));
	bench_turns(b, &t);
	group_pages(t.group, "walk", region_pages(&r));
	group_pages(t.group, "faults of the walk", region_pages(&r));
	group_note(t.group, "USS, PSS, RSS: of the range alone, by smaps, before and after the walk");
	report_end(&b->report, t.group);
	shared_free(rc.walk, sizeof(*rc.walk));
	region_free(&r);
}

static void refcount_run(struct bench *b)
{
	place_bind(place_cpu_on(place_node(0), 0));
	bench_each(b, NR_OBJECTS * sizeof(struct object), PAGE_4K, refcount_one);
}

const struct workload wl_refcount = {
	.name = "refcount",
	.help = "a walk that counts references on the snapshot side, and what memory it takes",
	.run = refcount_run,
};
