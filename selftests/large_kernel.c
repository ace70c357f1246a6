// SPDX-License-Identifier: GPL-2.0
/* Steps: what else the kernel does when it likes. And pins, who hinder it. */
#include <linux/mempolicy.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "large.h"

/* migration */

/* The node on which the view's first present page is not. */
static int other_node(const struct large_view *v)
{
	size_t i;

	for (i = 0; i < v->nr; i += 1 + v->nr / 16)
		if (!(v->page[i].flags & (PAGE_HOLE | PAGE_UNTOUCHED)) &&
		    node_of(large_at(v, i)) == 0)
			return 1;
	return 0;
}

/*
 * One address of each folio, since the second one of a folio that moves already
 * is refused; every one of a split folio would take long. Or few single pages.
 */
static bool op_move_pages(struct large_seq *s, struct large_step *st)
{
	size_t step = large_pick(s, 4) ? s->env->size / MEM_PAGE : 1, i, nr = 0;
	struct large_view *v = large_pick_view(s, st);
	static int nodes[LARGE_PAGES], status[LARGE_PAGES];
	static void *pages[LARGE_PAGES];
	int node;

	if (!v)
		return false;
	node = other_node(v);
	for (i = large_pick(s, step); i < v->nr && nr < 16; i += step) {
		pages[nr] = large_at(v, i);
		nodes[nr++] = node;
	}
	large_probe(v);
	syscall(__NR_move_pages, 0, nr, pages, nodes, status, st->arg);
	return large_probe_changed(v);
}

static bool op_mbind(struct large_seq *s, struct large_step *st)
{
	struct large_view *v = large_pick_run(s, st, LARGE_PAGES, PAGE_HOLE);
	char *p;
	size_t len, changed;
	unsigned long nodes;

	if (!v)
		return false;
	p = large_at(v, st->start);
	len = st->nr * MEM_PAGE;
	nodes = 1UL << other_node(v);
	large_probe(v);
	syscall(__NR_mbind, p, len, MPOL_BIND, &nodes, 64UL, st->arg);
	changed = large_probe_changed(v);
	/* The other half keeps its policy, and its own mapping by that. */
	if (large_pick(s, 2))
		syscall(__NR_mbind, p, len, MPOL_DEFAULT, NULL, 0UL, 0UL);
	return changed;
}

static bool op_compact(struct large_seq *s, struct large_step *st)
{
	struct large_view *v = large_pick_view(s, st);

	if (!v)
		return false;
	large_probe(v);
	mem_write("/proc/sys/vm/compact_memory", "1");
	return large_probe_changed(v);
}

/*
 * NUMA balancing looks at memory without a policy of its own, and works from
 * the timer's tick. In all other steps the task's policy keeps it out: hints
 * are where they are wanted, until somebody touches them.
 */
static bool op_hints(struct large_seq *s, struct large_step *st)
{
	long was = mem_vmstat("numa_pte_updates");
	double end = seconds() + 0.05;
	bool done = false;

	(void)s;
	(void)st;
	if (syscall(__NR_set_mempolicy, MPOL_DEFAULT, NULL, 0UL))
		return false;
	while (!done && seconds() < end)
		done = mem_vmstat("numa_pte_updates") > was;
	syscall(__NR_set_mempolicy, MPOL_LOCAL, NULL, 0UL);
	return done;
}

/* reclaim */

/* Of one process only; pages mapped more than once stay. */
static bool op_pageout(struct large_seq *s, struct large_step *st)
{
	struct large_view *v = large_pick_run(s, st, LARGE_PAGES,
					      PAGE_HOLE | PAGE_LOCKED);

	if (!v)
		return false;
	if (large_pick(s, 2))
		mem_drain();
	madvise(large_at(v, st->start), st->nr * MEM_PAGE, MADV_PAGEOUT);
	s->swapped = true;
	return large_swapped(v, st->start, st->nr);
}

/* Of all that the group has, mapped as often as you like. */
static bool op_reclaim(struct large_seq *s, struct large_step *st)
{
	struct large_view *v = large_pick_view(s, st);
	char path[128], bytes[24];

	if (!v)
		return false;
	snprintf(path, sizeof(path), "%s/memory.reclaim", s->cg.dir);
	snprintf(bytes, sizeof(bytes), "%zu", v->nr * MEM_PAGE / 2);
	mem_write(path, bytes);
	s->swapped = true;
	return large_swapped(v, 0, v->nr);
}

/* Read back some of what is swapped, here and there. */
static bool op_swap_in(struct large_seq *s, struct large_step *st)
{
	size_t first = large_pick(s, LARGE_VIEWS), was = 0, i;
	size_t step = 1 + large_pick(s, 8);
	struct large_view *v = NULL;

	for (i = 0; i < LARGE_VIEWS && !was; i++) {
		v = &s->view[(first + i) % LARGE_VIEWS];
		was = v->nr ? large_swapped(v, 0, v->nr) : 0;
	}
	if (!was)
		return false;
	st->view = v - s->view;
	for (i = large_pick(s, step); i < v->nr; i += step)
		if (!(v->page[i].flags & (PAGE_HOLE | PAGE_UNTOUCHED)))
			(void)*(volatile char *)large_at(v, i);
	return large_swapped(v, 0, v->nr) < was;
}

/* collapse */

static uintptr_t first_pmd(const struct large_view *v)
{
	return ((uintptr_t)v->base + MEM_HUGE - 1) & ~(MEM_HUGE - 1);
}

static bool collapse(struct large_view *v, uintptr_t start)
{
	size_t first = (start - (uintptr_t)v->base) / MEM_PAGE, i;

	if (madvise((void *)start, MEM_HUGE, MADV_COLLAPSE))
		return false;
	for (i = first; i < first + MEM_HUGE / MEM_PAGE; i++)
		v->page[i].flags &= ~PAGE_UNTOUCHED;
	return true;
}

/* Every PMD of a view that has a whole one, if there is one. */
static bool op_collapse(struct large_seq *s, struct large_step *st)
{
	size_t first = large_pick(s, LARGE_VIEWS), i;
	bool done = false;
	uintptr_t start, end;
	struct large_view *v;

	for (i = 0; i < LARGE_VIEWS; i++) {
		v = &s->view[(first + i) % LARGE_VIEWS];
		end = (uintptr_t)large_at(v, v->nr);
		if (v->nr && first_pmd(v) + MEM_HUGE <= end)
			break;
	}
	if (i == LARGE_VIEWS)
		return false;
	st->view = v - s->view;
	for (start = first_pmd(v); start + MEM_HUGE <= end; start += MEM_HUGE)
		done |= collapse(v, start);
	return done;
}

/* references and pins */

/* For reading: counted as references, as long as the pipe holds them. */
static bool op_hold(struct large_seq *s, struct large_step *st)
{
	struct large_view *v = large_pick_run(s, st, 4, PAGE_HOLE);
	struct iovec iov;
	ssize_t got;

	if (!v || s->held)
		return false;
	iov = (struct iovec){ large_at(v, st->start), st->nr * MEM_PAGE };
	got = vmsplice(s->pipe[1], &iov, 1, SPLICE_F_NONBLOCK);
	/* Read where nothing was: the zero page is there now. */
	if (got > 0)
		s->held = got;
	return got > 0;
}

static bool op_let_go(struct large_seq *s, struct large_step *st)
{
	static char bin[4 * MEM_PAGE];

	(void)st;
	if (!s->held)
		return false;
	if (read(s->pipe[0], bin, sizeof(bin)) != (ssize_t)s->held)
		large_fail(s, "the pipe does not hold %zu bytes", s->held);
	s->held = 0;
	return true;
}

/* For writing, for long: the page stays where its owner has it. */
static bool op_pin(struct large_seq *s, struct large_step *st)
{
	struct large_view *v = large_pick_run(s, st, LARGE_PINS,
					      PAGE_HOLE | PAGE_READONLY);
	size_t i;

	if (!v || s->pinned ||
	    uring_pin(&s->ring, large_at(v, st->start), st->nr * MEM_PAGE))
		return false;
	s->pinned = large_at(v, st->start);
	for (i = 0; i < st->nr; i++) {
		v->page[st->start + i].pin = i + 1;
		v->page[st->start + i].flags &= ~PAGE_UNTOUCHED;
	}
	return large_verify(s);
}

static void forget_pins(struct large_seq *s)
{
	struct large_view *v;
	size_t i;

	for (v = s->view; v < s->view + LARGE_VIEWS; v++)
		for (i = 0; i < v->nr; i++)
			v->page[i].pin = 0;
	s->pinned = NULL;
}

static bool op_unpin(struct large_seq *s, struct large_step *st)
{
	(void)st;
	if (!s->pinned)
		return false;
	if (uring_unpin(&s->ring))
		large_fail(s, "unpin: %s", strerror(errno));
	forget_pins(s);
	return true;
}

/* Read into the page through its pin, wherever its owner has it by now. */
static bool write_pinned(struct large_seq *s, struct large_view *v, size_t i)
{
	char *at = s->pinned + (v->page[i].pin - 1) * MEM_PAGE;
	uint64_t word;
	unsigned int w;

	large_stamp(s, v, i);
	for (w = 0; w < LARGE_WORDS; w++) {
		word = large_word(v->page[i].stamp, w);
		if (pwrite(s->memfd, &word, sizeof(word), 0) != sizeof(word) ||
		    uring_read(&s->ring, s->memfd, at + large_offset[w],
			       sizeof(word)) != sizeof(word)) {
			large_fail(s, "cannot write through the pin of %p",
				   (void *)at);
			return false;
		}
	}
	return true;
}

static bool op_write_pinned(struct large_seq *s, struct large_step *st)
{
	struct large_view *v;
	size_t i, count = 0;

	(void)st;
	if (!s->pinned)
		return false;
	for (v = s->view; v < s->view + LARGE_VIEWS; v++)
		for (i = 0; i < v->nr; i++)
			if (v->page[i].pin)
				count += write_pinned(s, v, i);
	return large_verify(s) && count;
}

void large_release(struct large_seq *s)
{
	op_unpin(s, NULL);
	op_let_go(s, NULL);
}

#define MOVES	(OP_MUST | OP_NODES)
#define PINS	(OP_MUST | OP_PIN | OP_IF_PINNED)
#define SWAPS	(OP_MUST | OP_SWAP | OP_CHILD)

const struct large_op large_kernel_ops[] = {
	{ "move_pages all",	op_move_pages,	MPOL_MF_MOVE_ALL, 6, MOVES },
	{ "move_pages",		op_move_pages,	MPOL_MF_MOVE,	2, MOVES | OP_RARE },
	{ "mbind move all",	op_mbind, MPOL_MF_MOVE | MPOL_MF_MOVE_ALL, 3, MOVES },
	{ "mbind move",		op_mbind,	MPOL_MF_MOVE,	2, MOVES | OP_RARE },
	{ "compact",		op_compact,	0,		1, OP_MUST | OP_RARE },
	{ "NUMA hints",		op_hints,	0,		2, MOVES | OP_HINTS },
	{ "pageout",		op_pageout,	0,		6, SWAPS },
	{ "reclaim",		op_reclaim,	0,		3, SWAPS | OP_CGROUP },
	{ "swap in",		op_swap_in,	0,		14, SWAPS | OP_IF_SWAPPED | OP_RARE },
	{ "collapse",		op_collapse,	0,		6, OP_MUST | OP_CHILD | OP_RARE },
	{ "hold",		op_hold,	0,		3, OP_MUST | OP_IF_HELD | OP_IF_NOT },
	{ "let go",		op_let_go,	0,		10, OP_MUST | OP_IF_HELD },
	{ "pin",		op_pin,		0,		4, PINS | OP_IF_NOT },
	{ "unpin",		op_unpin,	0,		8, PINS },
	{ "write pinned",	op_write_pinned, 0,		20, PINS },
	{ }
};
