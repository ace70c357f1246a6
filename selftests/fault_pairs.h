/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The scenes of fault_ops.h: memory of each kind and a duplicate of it, of which it
 * is known page by page what both sides hold. A function returns false when memory
 * of that kind is not to be had here.
 */
#ifndef COWSNAP_SELFTESTS_FAULT_PAIRS_H
#define COWSNAP_SELFTESTS_FAULT_PAIRS_H

#include "fault_scenes.h"
#include "ops.h"

#define MAX_PAGES	(3 * MEM_HUGE / MEM_PAGE)

/* Two ranges, and the seed of each page's pattern; 0: zeroes. */
struct pair {
	char *a, *b;
	size_t nr;
	unsigned char in_a[MAX_PAGES], in_b[MAX_PAGES];
	struct uring ring;
	bool differs;	/* by nature, also after a SYNC: pinned and KSM pages */
	bool busy;	/* somebody wants the mmap lock all the time */
	size_t guard;	/* bytes of inaccessible memory at both ends of @a */
	pid_t child;	/* that has all of it, too, or 0 */
};

static void set_a(struct pair *p, size_t i, unsigned char seed)
{
	if (seed)
		mem_fill(p->a + PAGES(i), MEM_PAGE, seed);
	else
		madvise(p->a + PAGES(i), MEM_PAGE, MADV_DONTNEED);
	p->in_a[i] = seed;
}

static void set_b(struct pair *p, size_t i, unsigned char seed)
{
	if (seed)
		mem_fill(p->b + PAGES(i), MEM_PAGE, seed);
	else
		madvise(p->b + PAGES(i), MEM_PAGE, MADV_DONTNEED);
	p->in_b[i] = seed;
}

static bool page_is(const char *page, unsigned char seed)
{
	return seed ? *(const volatile uint64_t *)page && mem_check(page, MEM_PAGE, seed) :
		      mem_is_zero(page, MEM_PAGE);
}

/* All of @a written, and a duplicate of it. */
static bool duplicated(struct pair *p, int fd, char *a, size_t nr)
{
	size_t i;

	p->a = a;
	p->nr = nr;
	if (!a)
		return false;
	for (i = 0; i < nr; i++)
		set_a(p, i, 1 + i % 50);
	p->b = mem_dup(fd, a, PAGES(nr));
	memcpy(p->in_b, p->in_a, nr);
	return p->b;
}

/* Differences of each kind in the pages from @i on. */
static void differ(struct pair *p, size_t i)
{
	set_a(p, i, 101);
	set_b(p, i + 1, 102);
	set_a(p, i + 2, 103);
	set_b(p, i + 2, 104);
	set_a(p, i + 4, 0);
	set_b(p, i + 5, 0);
	set_a(p, i + 6, 0);
	set_b(p, i + 7, 0);
	/* The zero page. */
	page_is(p->a + PAGES(i + 6), 0);
	page_is(p->b + PAGES(i + 7), 0);
}

static bool pair_plain(struct pair *p, int fd)
{
	p->guard = MEM_PAGE;
	if (!duplicated(p, fd, mem_map_alone(PAGES(24)), 24))
		return false;
	differ(p, 8);
	return true;
}

static bool pair_swapped(struct pair *p, int fd)
{
	char *a = mem_map_alone(PAGES(16));
	size_t i;

	p->guard = MEM_PAGE;
	if (!a || !mem_have_swap())
		return false;
	for (i = 0; i < 16; i++)
		mem_fill(a + PAGES(i), MEM_PAGE, p->in_a[i] = p->in_b[i] = 1 + i);
	p->a = a;
	p->nr = 16;
	if (mem_pageout(a, PAGES(16)) != 16)
		return false;
	p->b = mem_dup(fd, a, PAGES(16));
	if (!p->b)
		return false;
	set_b(p, 3, 101);
	set_b(p, 4, 0);
	set_a(p, 6, 102);
	return true;
}

/* One side huge, the other torn; a huge page that comes whole. */
static bool pair_huge(struct pair *p, int fd)
{
	size_t i;

	if (!duplicated(p, fd, mem_map_huge(3 * MEM_HUGE), 3 * MEM_HUGE / MEM_PAGE))
		return false;
	set_b(p, 9, 101);
	set_a(p, 512 + 9, 102);
	madvise(p->b + 2 * MEM_HUGE, MEM_HUGE, MADV_DONTNEED);
	for (i = 1024; i < 1536; i++)
		p->in_b[i] = 0;
	return true;
}

/* Huge pages that a child has, on all kernels. @b has the same contents. */
static bool pair_of_child(struct pair *p, int fd)
{
	size_t i;

	p->nr = MEM_HUGE / MEM_PAGE;
	p->a = mem_map_huge(MEM_HUGE);
	p->b = mem_map_offset(MEM_HUGE, MEM_HUGE, 0);
	if (fd < 0 || !p->a || !p->b)
		return false;
	for (i = 0; i < p->nr; i++) {
		set_a(p, i, 1 + i % 50);
		set_b(p, i, 1 + i % 50);
	}
	p->child = fork();
	if (p->child)
		return p->child > 0;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	pause();
	_exit(0);
}

/* The huge zero page, which one side has torn: it is huge on all kernels. */
static bool pair_huge_zero(struct pair *p, int fd)
{
	p->a = mem_map_offset(MEM_HUGE, MEM_HUGE, 0);
	p->nr = MEM_HUGE / MEM_PAGE;
	if (!p->a || madvise(p->a, MEM_HUGE, MADV_HUGEPAGE) ||
	    !mem_is_zero(p->a, MEM_PAGE))
		return false;
	p->b = mem_dup(fd, p->a, MEM_HUGE);
	if (!p->b)
		return false;
	set_a(p, 3, 101);
	return true;
}

/* Of what @b has some 500 pages are replaced at once. */
static bool pair_large(struct pair *p, int fd)
{
	size_t i;

	p->guard = MEM_PAGE;
	if (!duplicated(p, fd, mem_map_alone(PAGES(700)), 700))
		return false;
	for (i = 0; i < 700; i++)
		set_b(p, i, 60 + i % 50);
	return true;
}

static bool pair_pinned(struct pair *p, int fd)
{
	char *a = mem_map_alone(PAGES(16));

	if (!a || uring_open(&p->ring) || uring_pin(&p->ring, a + PAGES(4), PAGES(3)))
		return false;
	p->guard = MEM_PAGE;
	p->differs = true;
	if (!duplicated(p, fd, a, 16))
		return false;
	set_b(p, 5, 101);
	set_a(p, 6, 102);
	return true;
}

static bool pair_merged(struct pair *p, int fd)
{
	char *a = mem_map_alone(PAGES(4));
	size_t i;

	if (!a)
		return false;
	p->a = a;
	p->nr = 4;
	p->guard = MEM_PAGE;
	p->differs = true;
	for (i = 0; i < 4; i++)
		mem_fill(a + PAGES(i), MEM_PAGE, p->in_a[i] = p->in_b[i] = 1 + i % 2);
	if (!ksm_merge(a, PAGES(4)))
		return false;
	p->b = mem_dup(fd, a, PAGES(4));
	if (!p->b)
		return false;
	set_b(p, 1, 101);
	return true;
}

static bool pair_file(struct pair *p, int fd)
{
	struct scene s = { 0 };
	size_t i;

	if (!file(&s))
		return false;
	p->guard = MEM_PAGE;
	if (!duplicated(p, fd, s.src, LEN / MEM_PAGE))
		return false;
	for (i = 0; i < 8; i++) {
		set_a(p, i, i % 2 ? 101 : 0);
		set_b(p, i + 4, i % 2 ? 102 : 0);
	}
	return true;
}

static bool pair_hugetlb(struct pair *p, int fd)
{
	struct scene s = { 0 };

	if (!hugetlb_shared(&s))
		return false;
	p->a = s.src;
	p->nr = s.len / MEM_PAGE;
	if (!duplicated(p, fd, s.src, p->nr))
		return false;
	set_b(p, 5, 101);
	return true;
}

/* A few pages below each of several page tables. */
static bool pair_sparse(struct pair *p, int fd)
{
	size_t i;

	p->a = mem_map_offset(3 * MEM_HUGE, MEM_HUGE, 0);
	p->nr = 3 * MEM_HUGE / MEM_PAGE;
	if (!p->a)
		return false;
	for (i = 0; i < p->nr; i += 100)
		set_a(p, i, 1 + i % 50);
	p->b = mem_dup(fd, p->a, PAGES(p->nr));
	memcpy(p->in_b, p->in_a, p->nr);
	return p->b;
}

/* And an impatient neighbour. */
static bool pair_busy(struct pair *p, int fd)
{
	p->busy = true;
	return pair_sparse(p, fd);
}

/* Differences in each of the pieces. */
static bool pair_by_several(struct pair *p, int fd)
{
	size_t i;

	workers_force(3);
	if (!pair_sparse(p, fd))
		return false;
	for (i = 0; i < 3; i++)
		differ(p, i * MEM_HUGE / MEM_PAGE + 110);
	return true;
}

#endif /* COWSNAP_SELFTESTS_FAULT_PAIRS_H */
