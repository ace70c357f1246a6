// SPDX-License-Identifier: GPL-2.0
/*
 * What the kernel does to pages: it finds all places where a page is mapped, or
 * the page stays. So here is counted what went.
 */
#include <stdlib.h>

#include "model.h"

/* Where nothing is in the way of reclaim or migration, most of it must go. */
#define ENOUGH		24

static bool may_go(const struct frame_use *u)
{
	return u->maps > 1 && !(u->flags & (LOCKED | PINNED));
}

static unsigned int count_stayers(struct world *w, struct frame_use *u)
{
	unsigned int i, nr = model_frames(w, u), count = 0;

	for (i = 0; i < nr; i++)
		count += may_go(&u[i]);
	return count;
}

static unsigned int count_swapped_arena(struct world *w)
{
	static __thread uint64_t e[ARENA_PAGES];
	unsigned int i, count = 0;

	if (!model_pagemap(w, w->arena.at, e, ARENA_PAGES))
		return 0;
	for (i = 0; i < ARENA_PAGES; i++)
		count += w->arena.page[i].kind && e[i] & MEM_PM_SWAPPED;
	return count;
}

/*
 * Pages that are mapped twice are reclaimed like any other. If this fails,
 * reclaim does not find all of their mappings.
 */
static enum outcome reclaim_all(struct world *w)
{
	static struct frame_use u[MAX_FRAMES];
	unsigned int before = count_stayers(w, u), after = before, tries;

	for (tries = 0; tries < 12 && after > before / 8; tries++) {
		mem_drain();
		cgroup_reclaim(w->cg);
		after = count_stayers(w, u);
	}
	w->totals->reclaimed += before - after;
	/* A shared page that KSM has taken is found at one address only. */
	if (before >= ENOUGH && after > before / 2 && !w->merging) {
		model_fail(w, "reclaim leaves %u of %u pages that are mapped more than once",
			   after, before);
		return FAILED;
	}
	return after < before ? DONE : REFUSED;
}

enum outcome op_reclaim(struct world *w)
{
	bool all = chance(w, 30);
	char path[128];

	model_log(w, "%s", all ? "all" : "some");
	if (all && w->alone && !w->relatives)
		return reclaim_all(w);
	snprintf(path, sizeof(path), "%s/memory.reclaim", w->cg->dir);
	mem_write(path, "2M");
	return count_swapped_arena(w) ? DONE : REFUSED;
}

/* move_pages(2): how many of the run are on @node then. */
static unsigned int move_run(const struct run *r, int node)
{
	void *pages[128];
	int nodes[128], status[128];
	unsigned int i, count = 0;

	for (i = 0; i < r->nr; i++) {
		pages[i] = page_addr(r->z, r->first + i);
		nodes[i] = node;
	}
	syscall(__NR_move_pages, 0, (unsigned long)r->nr, pages, nodes, status,
		MPOL_MF_MOVE_ALL);
	if (syscall(__NR_move_pages, 0, (unsigned long)r->nr, pages, NULL,
		    status, 0) < 0)
		return 0;
	for (i = 0; i < r->nr; i++)
		count += status[i] == node;
	return count;
}

static bool must_move(const struct page *p)
{
	return p->kind == ANON && p->val &&
	       !(p->flags & (PINNED | MAYBE_ZERO | UFFD)) &&
	       p->prot & PROT_READ;
}

enum outcome op_migrate(struct world *w)
{
	struct run r = model_pick(w, must_move, 100);
	unsigned int moved, tries;
	int node;

	if (!r.nr)
		return NOTHING;
	node = pick(w, w->nodes);
	model_log(w, "%u+%u to node %d", r.first, r.nr, node);
	/* Brought in from swap, if need be: what is not there cannot move. */
	if (!model_run_is_right(w, &r))
		return FAILED;
	moved = move_run(&r, node);
	for (tries = 0; w->alone && tries < 4 && moved < r.nr; tries++) {
		mem_drain();
		moved = move_run(&r, node);
	}
	w->totals->migrated += moved;
	if (w->alone && !w->merging && !w->relatives && r.nr >= ENOUGH && moved < r.nr / 2) {
		model_fail(w, "%u of %u pages can be moved to node %d", moved,
			   r.nr, node);
		return FAILED;
	}
	return moved ? DONE : REFUSED;
}

enum outcome op_policy(struct world *w)
{
	static const int modes[] = {
		MPOL_DEFAULT, MPOL_PREFERRED, MPOL_BIND, MPOL_INTERLEAVE,
	};
	struct run r = model_pick(w, page_is_mapped, 100);
	int mode = modes[pick(w, 4)];
	unsigned long nodes = mode == MPOL_DEFAULT ? 0 : 1;

	if (!r.nr)
		return NOTHING;
	model_log(w, "%u+%u mode %d", r.first, r.nr, mode);
	return syscall(__NR_mbind, run_addr(&r), run_len(&r), mode, &nodes, 64UL,
		       0) ? FAILED : DONE;
}

/* 6.1 pins for io_uring without ever waiting: nobody can be asked for the page. */
static bool can_be_pinned(const struct page *p)
{
	return p->kind == ANON && p->prot & PROT_WRITE && !(p->flags & UFFD);
}

/* For as long as it likes a device may store to these pages. */
enum outcome op_pin(struct world *w)
{
	struct run r = model_pick(w, can_be_pinned, 8);
	unsigned int i;

	if (!r.nr || w->pinned)
		return NOTHING;
	model_log(w, "%u+%u", r.first, r.nr);
	errno = -uring_pin(&w->ring, run_addr(&r), run_len(&r));
	if (errno)
		return FAILED;
	w->pinned = r.nr;
	for (i = 0; i < r.nr; i++)
		run_page(&r, i)->flags |= PINNED;
	return DONE;
}

enum outcome op_unpin(struct world *w)
{
	struct zone *z;
	unsigned int i, n;

	if (!w->pinned)
		return NOTHING;
	model_log(w, "%u", w->pinned);
	errno = -uring_unpin(&w->ring);
	if (errno)
		return FAILED;
	w->pinned = 0;
	for (n = 0; (z = model_zone(w, n)); n++)
		for (i = 0; i < z->nr; i++)
			z->page[i].flags &= ~PINNED;
	return DONE;
}
