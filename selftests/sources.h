/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Sources of every kind that tests of contents go through: each knows of its
 * pages what they hold and what the page table has for them.
 */
#ifndef COWSNAP_SELFTESTS_SOURCES_H
#define COWSNAP_SELFTESTS_SOURCES_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mem.h"

#define PAGES(n)	((n) * MEM_PAGE)
#define HUGE_PAGES	(MEM_HUGE / MEM_PAGE)

/*
 * A range whose pages are known one by one. What a page holds: zero, or the
 * pattern of its seed. What the page table has for it: nothing, the zero page,
 * or a page with content, present or swapped out.
 */
enum { UNTOUCHED, ZERO, WRITTEN };

struct range {
	char *p;
	size_t nr;
	unsigned char *what;
};

static inline void range_init(struct range *g, char *p, size_t nr, int what)
{
	g->p = p;
	g->nr = nr;
	g->what = malloc(nr);
	memset(g->what, what, nr);
}

static inline void write_page(struct range *g, size_t i)
{
	mem_fill(g->p + PAGES(i), MEM_PAGE, 1000 + i);
	g->what[i] = WRITTEN;
}

static inline void read_page(struct range *g, size_t i)
{
	(void)*(volatile char *)(g->p + PAGES(i));
	if (g->what[i] == UNTOUCHED)
		g->what[i] = ZERO;
}

/* Does @p hold what the range held when it was made? Reading touches. */
static inline bool holds(const struct range *g, const char *p)
{
	size_t i;

	for (i = 0; i < g->nr; i++) {
		const char *at = p + PAGES(i);

		if (g->what[i] == WRITTEN) {
			if (mem_check(at, MEM_PAGE, 1000 + i))
				continue;
		} else if (mem_is_zero(at, MEM_PAGE)) {
			continue;
		}
		fprintf(stderr, "# page %zu of %p is not as it was\n", i, p);
		return false;
	}
	return true;
}

static inline size_t count_written(const struct range *g)
{
	size_t i, nr = 0;

	for (i = 0; i < g->nr; i++)
		nr += g->what[i] == WRITTEN;
	return nr;
}

/* Ways to make one. NULL: not to be had on this machine. */

static inline char *make_small(struct range *g)
{
	size_t i;

	range_init(g, mem_map_alone(PAGES(64)), 64, UNTOUCHED);
	for (i = 0; g->p && i < g->nr; i++)
		write_page(g, i);
	return g->p;
}

static inline char *make_untouched(struct range *g)
{
	range_init(g, mem_map_alone(PAGES(64)), 64, UNTOUCHED);
	return g->p;
}

static inline char *make_sparse(struct range *g)
{
	size_t i;

	range_init(g, mem_map_alone(PAGES(64)), 64, UNTOUCHED);
	for (i = 0; g->p && i < g->nr; i += 3)
		write_page(g, i);
	return g->p;
}

static inline char *make_zero(struct range *g)
{
	size_t i;

	range_init(g, mem_map_alone(PAGES(64)), 64, UNTOUCHED);
	for (i = 0; g->p && i < g->nr; i++)
		read_page(g, i);
	return g->p;
}

static inline char *make_swapped(struct range *g)
{
	if (!mem_have_swap() || !make_small(g))
		return NULL;
	return mem_pageout(g->p, PAGES(g->nr)) == g->nr ? g->p : NULL;
}

/* Back in memory, with the swap slot still held. */
static inline char *make_swap_cache(struct range *g)
{
	size_t i;

	if (!make_swapped(g))
		return NULL;
	for (i = 0; i < g->nr; i++)
		read_page(g, i);
	return g->p;
}

/* All of it in turn, so that neighbours in the page table always differ. */
static inline char *make_mixed(struct range *g)
{
	size_t i;

	range_init(g, mem_map_alone(PAGES(64)), 64, UNTOUCHED);
	if (!g->p)
		return NULL;
	for (i = 0; i < g->nr; i += 4)
		write_page(g, i);
	if (mem_have_swap())
		mem_pageout(g->p, PAGES(g->nr));
	for (i = 1; i < g->nr; i += 4)
		write_page(g, i);
	for (i = 2; i < g->nr; i += 4)
		read_page(g, i);
	return g->p;
}

/* Shared with a child that stays: not ours alone before the call already. */
static inline char *make_forked(struct range *g)
{
	if (!make_small(g))
		return NULL;
	if (!fork()) {
		pause();
		_exit(0);
	}
	return g->p;
}

/* Begins and ends within a page-table page, over the border between two. */
static inline char *make_straddling(struct range *g)
{
	size_t i;

	range_init(g, mem_map_offset(PAGES(40), MEM_HUGE, MEM_HUGE - PAGES(7)),
		   40, UNTOUCHED);
	for (i = 0; g->p && i < g->nr; i++)
		write_page(g, i);
	return g->p;
}

/* Written while it could be, then protected. */
static inline char *make_read_only(struct range *g)
{
	if (!make_small(g))
		return NULL;
	mprotect(g->p, PAGES(g->nr), PROT_READ);
	return g->p;
}

static inline char *make_huge_pages(struct range *g, size_t nr)
{
	size_t i;

	range_init(g, mem_map_huge(nr * MEM_HUGE), nr * HUGE_PAGES, UNTOUCHED);
	for (i = 0; g->p && i < g->nr; i++)
		write_page(g, i);
	return g->p;
}

static inline char *make_huge(struct range *g)
{
	return make_huge_pages(g, 2);
}

/* From within the first to within the second of two huge pages. */
static inline char *make_huge_part(struct range *g)
{
	char *p = mem_map_huge(2 * MEM_HUGE);
	size_t i;

	range_init(g, p ? p + PAGES(5) : NULL, 2 * HUGE_PAGES - 12, UNTOUCHED);
	for (i = 0; g->p && i < g->nr; i++)
		write_page(g, i);
	return g->p;
}

/* A huge page that is mapped page by page. */
static inline char *make_huge_by_pte(struct range *g)
{
	if (!make_huge_pages(g, 1))
		return NULL;
	mprotect(g->p + PAGES(9), MEM_PAGE, PROT_READ);
	mprotect(g->p + PAGES(9), MEM_PAGE, PROT_READ | PROT_WRITE);
	return mem_smaps(g->p, "AnonHugePages") ? NULL : g->p;
}

/* One is mapped as a whole, the other page by page with some missing. */
static inline char *make_huge_torn(struct range *g)
{
	size_t i;

	if (!make_huge(g))
		return NULL;
	madvise(g->p + MEM_HUGE + PAGES(100), PAGES(8), MADV_DONTNEED);
	for (i = 0; i < 8; i++)
		g->what[HUGE_PAGES + 100 + i] = UNTOUCHED;
	return g->p;
}

static inline char *make_huge_swapped(struct range *g)
{
	if (!mem_have_swap() || !make_huge_pages(g, 1))
		return NULL;
	mem_pageout(g->p, PAGES(g->nr));
	return mem_swapped(g->p) ? g->p : NULL;
}

/* The huge zero page first, a huge page with content behind it. */
static inline char *make_huge_zero(struct range *g)
{
	size_t i;

	range_init(g, mem_map_huge(2 * MEM_HUGE), 2 * HUGE_PAGES, UNTOUCHED);
	if (!g->p)
		return NULL;
	madvise(g->p, MEM_HUGE, MADV_DONTNEED);
	(void)*(volatile char *)g->p;
	for (i = 0; i < HUGE_PAGES; i++)
		if (!mem_untouched(g->p + PAGES(i)))
			g->what[i] = ZERO;
	for (i = HUGE_PAGES; i < g->nr; i++)
		write_page(g, i);
	return g->p;
}

#endif /* COWSNAP_SELFTESTS_SOURCES_H */
