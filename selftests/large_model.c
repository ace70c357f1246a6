// SPDX-License-Identifier: GPL-2.0
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "large.h"

const size_t large_offset[LARGE_WORDS] = { 0, MEM_PAGE - sizeof(uint64_t) };

/* Unequal for each stamp that was given, wherever the page is now. */
uint64_t large_word(uint32_t stamp, unsigned int i)
{
	return stamp ? stamp * 0x9e3779b97f4a7c15ULL + i : 0;
}

/* One line in one write, since several processes print. */
static void print(const char *fmt, ...)
{
	char line[256];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	if (n > 0 && write(STDOUT_FILENO, line, strlen(line)) < 0)
		abort();
}

static void print_step(const struct large_step *st, unsigned int i)
{
	print("#   %s%2u %-18s view %d, pages %zu+%zu, %#lx, stamps from %u%s\n",
	      st->child ? "child " : "", i, st->name, st->view, st->start, st->nr,
	      st->arg, st->stamp, st->done ? "" : ": no effect");
}

void large_print_steps(const struct large_seq *s)
{
	unsigned int i;

	for (i = 0; i < s->nr_steps; i++)
		print_step(&s->step[i], i);
}

/* Prints all that is known, once. */
void large_fail(struct large_seq *s, const char *fmt, ...)
{
	char text[200];
	va_list ap;
	int i;

	if (s->failed)
		return;
	s->failed = true;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	print("# %s\n#  in sequence COWSNAP_SEED=%lu COWSNAP_SIZE=%zu%s:\n",
	      text, s->seed, s->env->size >> 10,
	      s->in_child ? ", in a child" : "");
	large_print_steps(s);
	for (i = 0; i < LARGE_VIEWS; i++)
		if (s->view[i].nr)
			print("#   view %d: %p, %zu pages\n", i,
			      (void *)s->view[i].base, s->view[i].nr);
}

/* choosing */

struct large_view *large_pick_view(struct large_seq *s, struct large_step *st)
{
	struct large_view *live[LARGE_VIEWS];
	size_t i, nr = 0;

	for (i = 0; i < LARGE_VIEWS; i++)
		if (s->view[i].nr)
			live[nr++] = &s->view[i];
	if (!nr)
		return NULL;
	i = large_pick(s, nr);
	st->view = live[i] - s->view;
	st->start = 0;
	st->nr = live[i]->nr;
	return live[i];
}

/*
 * A few pages, as many as a folio has, less or more: where the run ends within
 * a folio, and where with one, both is of interest.
 */
static size_t pick_length(struct large_seq *s, size_t max)
{
	size_t folio = s->env->size / MEM_PAGE, nr = 0;

	switch (large_pick(s, 4)) {
	case 0:
		nr = 1 + large_pick(s, 4);
		break;
	case 1:
		nr = folio;
		break;
	case 2:
		nr = 1 + large_pick(s, folio);
		break;
	case 3:
		nr = 1 + large_pick(s, 2 * folio);
		break;
	}
	return nr < max ? nr : max;
}

struct large_view *large_pick_run(struct large_seq *s, struct large_step *st,
				  size_t max, unsigned int without)
{
	struct large_view *v = large_pick_view(s, st);
	size_t start, nr, i;

	if (!v)
		return NULL;
	nr = pick_length(s, max < v->nr ? max : v->nr);
	start = large_pick(s, v->nr - nr + 1);
	while (start < v->nr && (v->page[start].flags & without))
		start++;
	for (i = start; i < v->nr && i < start + nr; i++)
		if (v->page[i].flags & without)
			break;
	st->start = start;
	st->nr = i - start;
	return st->nr ? v : NULL;
}

void large_drop_view(struct large_seq *s, struct large_view *v)
{
	if (munmap(v->base, v->nr * MEM_PAGE))
		large_fail(s, "munmap: %s", strerror(errno));
	v->nr = 0;
}

struct large_view *large_new_view(struct large_seq *s,
				  const struct large_view *keep)
{
	struct large_view *v;
	int i;

	for (i = 0; i < LARGE_VIEWS; i++)
		if (!s->view[i].nr && &s->view[i] != keep)
			return &s->view[i];
	do {
		v = &s->view[large_pick(s, LARGE_VIEWS)];
	} while (v == keep);
	large_drop_view(s, v);
	return v;
}

/*
 * Far from where the kernel chooses addresses, and each one given once in a
 * sequence. All in one GiB, so in one page of PMD entries.
 */
#define PLACE_BASE	(1UL << 40)
#define PLACE_STEP	(16UL << 20)

char *large_place(struct large_seq *s, size_t pages)
{
	return (char *)PLACE_BASE + s->slots++ * PLACE_STEP + pages * MEM_PAGE;
}

/* contents */

void large_stamp(struct large_seq *s, struct large_view *v, size_t i)
{
	v->page[i].stamp = ++s->stamp;
	v->page[i].flags &= ~(PAGE_MAYBE_ZERO | PAGE_UNTOUCHED);
}

void large_store(struct large_view *v, size_t i)
{
	unsigned int w;

	for (w = 0; w < LARGE_WORDS; w++)
		*(volatile uint64_t *)(large_at(v, i) + large_offset[w]) =
			large_word(v->page[i].stamp, w);
}

static uint64_t load(const struct large_view *v, size_t i, unsigned int w)
{
	return *(volatile uint64_t *)(large_at(v, i) + large_offset[w]);
}

/* Which step stored this word? -1 for none of this sequence. */
static int step_of(const struct large_seq *s, uint64_t word, unsigned int w)
{
	uint32_t stamp;
	int i;

	for (stamp = 1; stamp <= s->stamp; stamp++)
		if (large_word(stamp, w) == word)
			break;
	if (stamp > s->stamp)
		return -1;
	for (i = s->nr_steps - 1; i > 0 && s->step[i].stamp > stamp; i--)
		;
	return i;
}

static void describe(const struct large_seq *s, char *text, size_t size,
		     uint64_t word, unsigned int w)
{
	int step = step_of(s, word, w);

	if (!word)
		snprintf(text, size, "zeroes");
	else if (step < 0)
		snprintf(text, size, "%#llx, of no step",
			 (unsigned long long)word);
	else
		snprintf(text, size, "%#llx, stored in step %d",
			 (unsigned long long)word, step);
}

static void wrong(struct large_seq *s, const struct large_view *v, size_t i,
		  unsigned int w)
{
	char is[64], was[64];

	describe(s, is, sizeof(is), load(v, i, w), w);
	describe(s, was, sizeof(was), large_word(v->page[i].stamp, w), w);
	large_fail(s, "view %d, page %zu, %p: %s; not %s", (int)(v - s->view), i,
		   (void *)(large_at(v, i) + large_offset[w]), is, was);
}

static bool verify_page(struct large_seq *s, struct large_view *v, size_t i)
{
	struct large_page *page = &v->page[i];
	unsigned int w;

	/* Once empty it stays so; that may happen between two loads. */
	if ((page->flags & PAGE_MAYBE_ZERO) && page->stamp &&
	    (!load(v, i, 0) || !load(v, i, LARGE_WORDS - 1))) {
		page->stamp = 0;
		page->flags &= ~PAGE_MAYBE_ZERO;
		s->stats->emptied++;
	}
	for (w = 0; w < LARGE_WORDS; w++)
		if (load(v, i, w) != large_word(page->stamp, w)) {
			wrong(s, v, i, w);
			return false;
		}
	return true;
}

static void verify_view(struct large_seq *s, struct large_view *v)
{
	size_t i;

	for (i = 0; i < v->nr && !s->failed; i++)
		if (!(v->page[i].flags & (PAGE_HOLE | PAGE_UNTOUCHED)))
			verify_page(s, v, i);
}

/* Who looks first at what is swapped, or at a hint, gets other pages. */
bool large_verify(struct large_seq *s)
{
	size_t first = large_pick(s, LARGE_VIEWS), i;

	for (i = 0; i < LARGE_VIEWS && !s->failed; i++)
		verify_view(s, &s->view[(first + i) % LARGE_VIEWS]);
	s->swapped = false;
	return !s->failed;
}

/* looking at page tables */

static uint64_t before[LARGE_PAGES], after[LARGE_PAGES];

void large_probe(const struct large_view *v)
{
	if (!mem_pagemap_read(v->base, before, v->nr))
		memset(before, 0, sizeof(before));
}

size_t large_probe_changed(const struct large_view *v)
{
	const uint64_t pfn = (1ULL << 55) - 1;
	size_t i, count = 0;

	if (!mem_pagemap_read(v->base, after, v->nr))
		return 0;
	for (i = 0; i < v->nr; i++)
		count += (before[i] & after[i] & MEM_PM_PRESENT) &&
			 (before[i] & pfn) != (after[i] & pfn);
	return count;
}

size_t large_swapped(const struct large_view *v, size_t start, size_t nr)
{
	size_t i, count = 0;

	if (!mem_pagemap_read(large_at(v, start), after, nr))
		return 0;
	for (i = 0; i < nr; i++)
		count += !!(after[i] & MEM_PM_SWAPPED);
	return count;
}

static uint64_t page_flags(uint64_t pfn)
{
	static int fd = -1;
	uint64_t flags;

	if (fd < 0)
		fd = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
	if (pread(fd, &flags, sizeof(flags), pfn * sizeof(flags)) !=
	    sizeof(flags))
		return 0;
	return flags;
}

/* How many of the folios at @v are of the wanted size? */
static size_t count_folios(const struct large_view *v, size_t nr_folios,
			   size_t folio)
{
	const uint64_t head = 1ULL << 15, tail = 1ULL << 16, all = (1ULL << 55) - 1;
	size_t i, j, count = 0;
	uint64_t pfn;

	large_probe(v);
	for (i = 0; i < nr_folios * folio; i += folio) {
		pfn = before[i] & all;
		for (j = 1; j < folio; j++)
			if ((before[i + j] & all) != pfn + j)
				break;
		count += j == folio && pfn && pfn % folio == 0 &&
			 (page_flags(pfn) & head) &&
			 (page_flags(pfn + folio - 1) & tail);
	}
	return count;
}

/* running */

/*
 * The first view. Of what is smaller than a PMD, every second is at the
 * start of a range large enough to be collapsed. Others lie somewhere around the end
 * of a page table, or before it.
 */
static bool populate(struct large_seq *s, size_t nr_folios)
{
	size_t folio = s->env->size / MEM_PAGE, pmd = MEM_HUGE / MEM_PAGE, i;
	struct large_view *v = &s->view[0];
	bool roomy = folio < pmd && s->seed / 4 % 2;

	v->nr = roomy && nr_folios * folio <= pmd ? pmd : nr_folios * folio;
	v->base = large_place(s, roomy ? 0 : large_pick(s, pmd / folio) * folio);
	if (mmap(v->base, v->nr * MEM_PAGE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) !=
	    v->base || madvise(v->base, v->nr * MEM_PAGE, MADV_HUGEPAGE)) {
		large_fail(s, "no memory at %p: %s", (void *)v->base,
			   strerror(errno));
		v->nr = 0;
		return false;
	}
	for (i = 0; i < v->nr; i++)
		v->page[i] = (struct large_page){ .flags = PAGE_UNTOUCHED };
	for (i = 0; i < nr_folios * folio; i++) {
		large_stamp(s, v, i);
		large_store(v, i);
	}
	s->step[s->nr_steps++] = (struct large_step){
		.name = "populate", .nr = v->nr, .stamp = 1, .done = true,
	};
	s->stats->folios += nr_folios;
	s->stats->folios_right += count_folios(v, nr_folios, folio);
	return true;
}

bool large_op_possible(const struct large_seq *s, const struct large_op *op)
{
	const struct large_env *env = s->env;

	return (!(op->flags & OP_NODES) || env->nodes > 1) &&
	       (!(op->flags & OP_HINTS) || env->hints) &&
	       (!(op->flags & OP_SWAP) || env->have_swap) &&
	       (!(op->flags & OP_PIN) || s->ring.fd >= 0) &&
	       (!(op->flags & OP_CGROUP) || s->cg.dir[0]) &&
	       (!(op->flags & OP_WHOLE) || env->huge_whole);
}

const struct large_op *large_op(unsigned int i)
{
	unsigned int j = 0;

	while (j < i && large_map_ops[j].name)
		j++;
	if (large_map_ops[j].name)
		return &large_map_ops[j];
	return large_kernel_ops[i - j].name ? &large_kernel_ops[i - j] : NULL;
}

/* The numbers of ops, each as often as it has weight. */
static struct lottery {
	unsigned char ticket[1024];
	unsigned int nr;
} lotteries[2];

void large_fill_lotteries(const struct large_seq *s)
{
	const struct large_op *op;
	struct lottery *l;
	unsigned int i, j;

	for (l = lotteries; l < lotteries + 2; l++) {
		l->nr = 0;
		for (i = 0; (op = large_op(i)); i++) {
			if (!large_op_possible(s, op) ||
			    (l == &lotteries[1] && !(op->flags & OP_CHILD)))
				continue;
			for (j = 0; j < op->weight; j++)
				l->ticket[l->nr++] = i;
		}
	}
}

/* Is there, or not, what the step is about? */
static bool makes_sense(const struct large_seq *s, const struct large_op *op)
{
	bool there = (!(op->flags & OP_IF_HELD) || s->held) &&
		     (!(op->flags & OP_IF_PINNED) || s->pinned) &&
		     (!(op->flags & OP_IF_CHILD) || s->child) &&
		     (!(op->flags & OP_IF_LOCKED) || s->locked) &&
		     (!(op->flags & OP_IF_SWAPPED) || s->swapped);

	return there == !(op->flags & OP_IF_NOT);
}

void large_random_step(struct large_seq *s)
{
	struct lottery *l = &lotteries[s->in_child];
	struct large_step *st = &s->step[s->nr_steps];
	const struct large_op *op;
	unsigned int i;

	if (s->failed || s->nr_steps == LARGE_STEPS)
		return;
	do {
		i = l->ticket[large_pick(s, l->nr)];
		op = large_op(i);
	} while (!makes_sense(s, op));
	*st = (struct large_step){
		.name = op->name, .arg = op->arg, .view = -1,
		.stamp = s->stamp + 1, .child = s->in_child,
	};
	s->nr_steps++;
	s->stats->tried[i]++;
	st->done = op->run(s, st);
	if (st->done)
		s->stats->done[i]++;
	if (s->verbose)
		print_step(st, s->nr_steps - 1);
}

bool large_run(struct large_seq *s, size_t nr_folios)
{
	unsigned int nr, i;

	s->random = (s->seed + 1) * 0x9e3779b97f4a7c15ULL ^ s->env->size;
	for (i = 0; i < 4; i++)
		next_random(&s->random);
	s->slots = 0;
	s->stamp = 0;
	s->nr_steps = 0;
	s->swapped = s->locked = s->failed = false;
	memset(s->view, 0, sizeof(s->view));
	nr = 6 + large_pick(s, 9);
	if (populate(s, nr_folios))
		for (i = 0; i < nr && !s->failed; i++)
			large_random_step(s);
	large_end_child(s);
	large_verify(s);
	large_release(s);
	for (i = 0; i < LARGE_VIEWS; i++)
		if (s->view[i].nr)
			large_drop_view(s, &s->view[i]);
	return !s->failed;
}
