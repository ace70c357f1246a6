// SPDX-License-Identifier: GPL-2.0
/*
 * What REMAP does to memory: the duplicate holds what the source holds, both
 * map the same pages until one of them is written, and nothing is left when it
 * is gone. By kind of memory, by place, by range.
 */
#include <errno.h>
#include <linux/mman.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "mem.h"

#define PAGES(n)	((n) * MEM_PAGE)
#define U64(p)		((__u64)(uintptr_t)(p))
#define HUGE_PAGES	(MEM_HUGE / MEM_PAGE)

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT	21
#endif

static int open_device(struct __test_metadata *_metadata)
{
	int fd = mem_open();

	ASSERT_GE(fd, 0)
		TH_LOG("%s: %s. Is the module loaded?", MEM_DEVICE,
		       strerror(errno));
	return fd;
}

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

static void range_init(struct range *g, char *p, size_t nr, int what)
{
	g->p = p;
	g->nr = nr;
	g->what = malloc(nr);
	memset(g->what, what, nr);
}

static void write_page(struct range *g, size_t i)
{
	mem_fill(g->p + PAGES(i), MEM_PAGE, 1000 + i);
	g->what[i] = WRITTEN;
}

static void read_page(struct range *g, size_t i)
{
	(void)*(volatile char *)(g->p + PAGES(i));
	if (g->what[i] == UNTOUCHED)
		g->what[i] = ZERO;
}

/* Does @p hold what the range held when it was made? Reading touches. */
static bool holds(const struct range *g, const char *p)
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

static size_t count_written(const struct range *g)
{
	size_t i, nr = 0;

	for (i = 0; i < g->nr; i++)
		nr += g->what[i] == WRITTEN;
	return nr;
}

/* Ways to make one. NULL: not to be had on this machine. */

static char *make_small(struct range *g)
{
	size_t i;

	range_init(g, mem_map_alone(PAGES(64)), 64, UNTOUCHED);
	for (i = 0; g->p && i < g->nr; i++)
		write_page(g, i);
	return g->p;
}

static char *make_untouched(struct range *g)
{
	range_init(g, mem_map_alone(PAGES(64)), 64, UNTOUCHED);
	return g->p;
}

static char *make_sparse(struct range *g)
{
	size_t i;

	range_init(g, mem_map_alone(PAGES(64)), 64, UNTOUCHED);
	for (i = 0; g->p && i < g->nr; i += 3)
		write_page(g, i);
	return g->p;
}

static char *make_zero(struct range *g)
{
	size_t i;

	range_init(g, mem_map_alone(PAGES(64)), 64, UNTOUCHED);
	for (i = 0; g->p && i < g->nr; i++)
		read_page(g, i);
	return g->p;
}

static char *make_swapped(struct range *g)
{
	if (!mem_have_swap() || !make_small(g))
		return NULL;
	return mem_pageout(g->p, PAGES(g->nr)) == g->nr ? g->p : NULL;
}

/* Back in memory, with the swap slot still held. */
static char *make_swap_cache(struct range *g)
{
	size_t i;

	if (!make_swapped(g))
		return NULL;
	for (i = 0; i < g->nr; i++)
		read_page(g, i);
	return g->p;
}

/* All of it in turn, so that neighbours in the page table always differ. */
static char *make_mixed(struct range *g)
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
static char *make_forked(struct range *g)
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
static char *make_straddling(struct range *g)
{
	size_t i;

	range_init(g, mem_map_offset(PAGES(40), MEM_HUGE, MEM_HUGE - PAGES(7)),
		   40, UNTOUCHED);
	for (i = 0; g->p && i < g->nr; i++)
		write_page(g, i);
	return g->p;
}

/* Written while it could be, then protected. */
static char *make_read_only(struct range *g)
{
	if (!make_small(g))
		return NULL;
	mprotect(g->p, PAGES(g->nr), PROT_READ);
	return g->p;
}

static char *make_huge_pages(struct range *g, size_t nr)
{
	size_t i;

	range_init(g, mem_map_huge(nr * MEM_HUGE), nr * HUGE_PAGES, UNTOUCHED);
	for (i = 0; g->p && i < g->nr; i++)
		write_page(g, i);
	return g->p;
}

static char *make_huge(struct range *g)
{
	return make_huge_pages(g, 2);
}

/* From within the first to within the second of two huge pages. */
static char *make_huge_part(struct range *g)
{
	char *p = mem_map_huge(2 * MEM_HUGE);
	size_t i;

	range_init(g, p ? p + PAGES(5) : NULL, 2 * HUGE_PAGES - 12, UNTOUCHED);
	for (i = 0; g->p && i < g->nr; i++)
		write_page(g, i);
	return g->p;
}

/* A huge page that is mapped page by page. */
static char *make_huge_by_pte(struct range *g)
{
	if (!make_huge_pages(g, 1))
		return NULL;
	mprotect(g->p + PAGES(9), MEM_PAGE, PROT_READ);
	mprotect(g->p + PAGES(9), MEM_PAGE, PROT_READ | PROT_WRITE);
	return mem_smaps(g->p, "AnonHugePages") ? NULL : g->p;
}

/* One is mapped as a whole, the other page by page with some missing. */
static char *make_huge_torn(struct range *g)
{
	size_t i;

	if (!make_huge(g))
		return NULL;
	madvise(g->p + MEM_HUGE + PAGES(100), PAGES(8), MADV_DONTNEED);
	for (i = 0; i < 8; i++)
		g->what[HUGE_PAGES + 100 + i] = UNTOUCHED;
	return g->p;
}

static char *make_huge_swapped(struct range *g)
{
	if (!mem_have_swap() || !make_huge_pages(g, 1))
		return NULL;
	mem_pageout(g->p, PAGES(g->nr));
	return mem_swapped(g->p) ? g->p : NULL;
}

/* The huge zero page first, a huge page with content behind it. */
static char *make_huge_zero(struct range *g)
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

/* A source, and where its duplicate is to go. */
struct pair {
	int fd;
	struct range src;
	size_t len;
	char *hint;
};

static void setup_pair(struct __test_metadata *_metadata, struct pair *self,
		       char *(*make)(struct range *g), size_t offset)
{
	self->fd = open_device(_metadata);
	if (!make(&self->src))
		SKIP(return, "no such memory: swap or huge pages missing");
	self->len = PAGES(self->src.nr);
	offset = (U64(self->src.p) + offset) % MEM_HUGE;
	self->hint = mem_free_range(self->len, MEM_HUGE, offset);
	ASSERT_NE(NULL, self->hint);
	/* What sits in a per-CPU batch has one reference too many to reuse. */
	mem_drain();
}

static char *dup_pair(struct __test_metadata *_metadata, struct pair *self,
		      struct cowsnap_remap *r)
{
	ASSERT_EQ(0, mem_remap(self->fd, self->src.p, self->len, self->hint, 0,
			       r))
		TH_LOG("reason %u at %#llx", r->reason, r->fault_addr);
	/* A free hint is taken. */
	ASSERT_EQ(U64(self->hint), r->dst);
	return (char *)(uintptr_t)r->dst;
}

#define DUP()	dup_pair(_metadata, &self->pair, &r)

static void make_writable(void *p, size_t len)
{
	mprotect(p, len, PROT_READ | PROT_WRITE);
}

/* What holds for memory of every kind. */
FIXTURE(kind)
{
	struct pair pair;
};

FIXTURE_VARIANT(kind)
{
	char *(*make)(struct range *g);
	size_t offset;		/* of dst - src modulo a huge page */
};

#define KIND(name, ...)							\
	FIXTURE_VARIANT_ADD(kind, name) { .make = __VA_ARGS__ }

KIND(small, make_small);
KIND(small_incongruent, make_small, PAGES(3));
KIND(untouched, make_untouched);
KIND(sparse, make_sparse);
KIND(zero_page, make_zero);
KIND(swapped, make_swapped);
KIND(swap_cache, make_swap_cache);
KIND(mixed, make_mixed);
KIND(mixed_incongruent, make_mixed, PAGES(511));
KIND(forked, make_forked);
KIND(straddling, make_straddling, PAGES(1));
KIND(read_only, make_read_only);
KIND(huge, make_huge);
KIND(huge_incongruent, make_huge, PAGES(1));
KIND(huge_part, make_huge_part);
KIND(huge_by_pte, make_huge_by_pte);
KIND(huge_torn, make_huge_torn);
KIND(huge_torn_incongruent, make_huge_torn, PAGES(300));
KIND(huge_swapped, make_huge_swapped);
KIND(huge_zero, make_huge_zero);
KIND(huge_zero_incongruent, make_huge_zero, PAGES(2));

FIXTURE_SETUP(kind)
{
	setup_pair(_metadata, &self->pair, variant->make, variant->offset);
}

FIXTURE_TEARDOWN(kind)
{
	close(self->pair.fd);
}

TEST_F(kind, duplicate_holds_what_the_source_holds)
{
	struct cowsnap_remap r;
	char *dst = DUP();

	EXPECT_TRUE(holds(&self->pair.src, dst));
	EXPECT_TRUE(holds(&self->pair.src, self->pair.src.p));
}

/* A stale writable TLB entry or page-table entry shows here. */
TEST_F(kind, write_to_source_leaves_copy_unchanged)
{
	struct cowsnap_remap r;
	char *dst = DUP();

	make_writable(self->pair.src.p, self->pair.len);
	mem_fill(self->pair.src.p, self->pair.len, 5);
	EXPECT_TRUE(holds(&self->pair.src, dst));
	EXPECT_TRUE(mem_check(self->pair.src.p, self->pair.len, 5));
}

TEST_F(kind, write_to_copy_leaves_source_unchanged)
{
	struct cowsnap_remap r;
	char *dst = DUP();

	make_writable(dst, self->pair.len);
	mem_fill(dst, self->pair.len, 5);
	EXPECT_TRUE(holds(&self->pair.src, self->pair.src.p));
	EXPECT_TRUE(mem_check(dst, self->pair.len, 5));
}

/* Taking turns: the one that is left alone with a page must notice that. */
TEST_F(kind, writes_to_both_by_turns_stay_apart)
{
	struct cowsnap_remap r;
	char *dst = DUP(), *a, *b;
	size_t i;

	make_writable(self->pair.src.p, self->pair.len);
	make_writable(dst, self->pair.len);
	for (i = 0; i < self->pair.src.nr; i++) {
		a = (i & 1 ? dst : self->pair.src.p) + PAGES(i);
		b = (i & 1 ? self->pair.src.p : dst) + PAGES(i);
		mem_fill(a, MEM_PAGE, 5);
		mem_fill(b, MEM_PAGE, 6);
		ASSERT_TRUE(mem_check(a, MEM_PAGE, 5));
		ASSERT_TRUE(mem_check(b, MEM_PAGE, 6));
	}
}

static uint64_t location(uint64_t entry)
{
	return entry & (((1ULL << 55) - 1) | MEM_PM_PRESENT | MEM_PM_SWAPPED);
}

/*
 * Page by page the source has what it had, the duplicate has the same: the
 * same page, the same swap slot, or nothing. Nothing is copied behind the
 * caller's back, nothing faulted in, nothing allocated for what is untouched.
 */
TEST_F(kind, both_map_the_same_pages)
{
	uint64_t *was, *src, *dst;
	struct cowsnap_remap r;
	size_t nr = self->pair.src.nr, i;
	char *copy;

	was = calloc(nr, sizeof(*was));
	src = calloc(nr, sizeof(*src));
	dst = calloc(nr, sizeof(*dst));
	ASSERT_TRUE(was && src && dst);
	ASSERT_TRUE(mem_pagemap_read(self->pair.src.p, was, nr));
	copy = DUP();
	ASSERT_TRUE(mem_pagemap_read(self->pair.src.p, src, nr));
	ASSERT_TRUE(mem_pagemap_read(copy, dst, nr));
	for (i = 0; i < nr; i++) {
		if (self->pair.src.what[i] == ZERO) {
			/* The huge one may have become many small ones. */
			ASSERT_TRUE(src[i] & dst[i] & MEM_PM_PRESENT);
			continue;
		}
		ASSERT_EQ(location(was[i]), location(src[i]))
			TH_LOG("source page %zu", i);
		ASSERT_EQ(location(was[i]), location(dst[i]))
			TH_LOG("page %zu of the duplicate", i);
		if (self->pair.src.what[i] == UNTOUCHED) {
			ASSERT_EQ(0, location(dst[i]));
		} else {
			ASSERT_EQ(0, dst[i] & MEM_PM_EXCLUSIVE);
		}
	}
}

TEST_F(kind, counts_are_exact)
{
	struct cowsnap_remap r;

	DUP();
	EXPECT_EQ(count_written(&self->pair.src), r.shared);
	EXPECT_EQ(0, r.copied);
}

/* Address space and commit charge by length, resident pages by content. */
TEST_F(kind, accounting_grows_by_the_duplicate)
{
	struct mem_counters a, b;
	struct cowsnap_remap r;
	long kb = self->pair.len >> 10;
	size_t i, present = 0, swapped = 0;

	for (i = 0; i < self->pair.src.nr; i++) {
		if (self->pair.src.what[i] != WRITTEN)
			continue;
		if (mem_swapped(self->pair.src.p + PAGES(i)))
			swapped++;
		else
			present++;
	}
	mem_counters(&a);
	DUP();
	mem_counters(&b);
	EXPECT_EQ(a.vm_size + kb, b.vm_size);
	if (mem_smaps_flag(self->pair.src.p, "wr")) {
		EXPECT_EQ(a.vm_data + kb, b.vm_data);
	}
	EXPECT_EQ(a.rss_anon + (long)(present * (MEM_PAGE >> 10)), b.rss_anon);
	EXPECT_EQ(a.swap + (long)(swapped * (MEM_PAGE >> 10)), b.swap);
	EXPECT_EQ(a.locked, b.locked);
	EXPECT_EQ(a.maps + 1, b.maps);
	EXPECT_EQ(mem_smaps_flag(self->pair.src.p, "ac"),
		  mem_smaps_flag(self->pair.hint, "ac"));
}

/* A leak of a page, a charge or a page-table page per call. */
TEST_F(kind, counters_return_when_the_duplicate_is_gone)
{
	struct mem_counters before, after;
	struct cowsnap_remap r;
	int i;

	/* Once before: page tables that neighbours need, too, stay. */
	ASSERT_EQ(0, munmap(DUP(), self->pair.len));
	mem_counters(&before);
	for (i = 0; i < 3; i++)
		ASSERT_EQ(0, munmap(DUP(), self->pair.len));
	mem_counters(&after);
	EXPECT_TRUE(mem_counters_equal(&before, &after));
	EXPECT_TRUE(holds(&self->pair.src, self->pair.src.p));
}

/* The same when both sides were written in between. */
TEST_F(kind, counters_return_after_writes_to_both)
{
	struct mem_counters before, after;
	struct cowsnap_remap r;
	int i;

	make_writable(self->pair.src.p, self->pair.len);
	mem_fill(self->pair.src.p, self->pair.len, 4);
	ASSERT_EQ(0, munmap(DUP(), self->pair.len));
	mem_counters(&before);
	for (i = 0; i < 2; i++) {
		char *dst = DUP();

		mem_fill(dst, self->pair.len / 2, 5);
		mem_fill(self->pair.src.p + self->pair.len / 4,
			 self->pair.len / 2, 6);
		ASSERT_EQ(0, munmap(dst, self->pair.len));
	}
	mem_counters(&after);
	/* Pages swapped out before may have come in, or the other way round. */
	before.rss_anon += before.swap;
	after.rss_anon += after.swap;
	before.swap = after.swap = 0;
	EXPECT_TRUE(mem_counters_equal(&before, &after));
}

/* The copy must hold the pages by itself. */
TEST_F(kind, duplicate_survives_the_source)
{
	struct cowsnap_remap r;
	char *dst = DUP();

	ASSERT_EQ(0, munmap(self->pair.src.p, self->pair.len));
	EXPECT_TRUE(holds(&self->pair.src, dst));
	make_writable(dst, self->pair.len);
	mem_fill(dst, self->pair.len, 5);
	EXPECT_TRUE(mem_check(dst, self->pair.len, 5));
}

TEST_F(kind, source_survives_the_duplicate)
{
	struct cowsnap_remap r;

	ASSERT_EQ(0, munmap(DUP(), self->pair.len));
	EXPECT_TRUE(holds(&self->pair.src, self->pair.src.p));
	make_writable(self->pair.src.p, self->pair.len);
	mem_fill(self->pair.src.p, self->pair.len, 5);
	EXPECT_TRUE(mem_check(self->pair.src.p, self->pair.len, 5));
}

/* Taken together: pages shared by three, and left by one after the other. */
TEST_F(kind, duplicates_of_both_sides_are_independent)
{
	struct cowsnap_remap r;
	char *one, *two, *three;

	one = DUP();
	two = mem_dup(self->pair.fd, self->pair.src.p, self->pair.len);
	ASSERT_NE(NULL, two);
	three = mem_dup(self->pair.fd, one, self->pair.len);
	ASSERT_NE(NULL, three);
	make_writable(one, self->pair.len);
	mem_fill(one, self->pair.len, 5);
	EXPECT_TRUE(holds(&self->pair.src, self->pair.src.p));
	EXPECT_TRUE(holds(&self->pair.src, two));
	EXPECT_TRUE(holds(&self->pair.src, three));
	make_writable(self->pair.src.p, self->pair.len);
	mem_fill(self->pair.src.p, self->pair.len, 6);
	EXPECT_TRUE(mem_check(one, self->pair.len, 5));
	EXPECT_TRUE(holds(&self->pair.src, two));
	ASSERT_EQ(0, munmap(two, self->pair.len));
	EXPECT_TRUE(holds(&self->pair.src, three));
	make_writable(three, self->pair.len);
	mem_fill(three, self->pair.len, 7);
	EXPECT_TRUE(mem_check(one, self->pair.len, 5));
	EXPECT_TRUE(mem_check(self->pair.src.p, self->pair.len, 6));
	EXPECT_TRUE(mem_check(three, self->pair.len, 7));
}

/* A child of fork has both, and they are as apart in it as here. */
TEST_F(kind, both_sides_fork)
{
	struct cowsnap_remap r;
	char *dst = DUP();
	int status;
	pid_t pid;

	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		make_writable(dst, self->pair.len);
		mem_fill(dst, self->pair.len, 5);
		_exit(!holds(&self->pair.src, self->pair.src.p) ||
		      !mem_check(dst, self->pair.len, 5));
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_TRUE(holds(&self->pair.src, self->pair.src.p));
	EXPECT_TRUE(holds(&self->pair.src, dst));
}

/* Small pages: whoever is left alone with one writes it in place. */
FIXTURE(owner)
{
	struct pair pair;
};

FIXTURE_VARIANT(owner)
{
	char *(*make)(struct range *g);
	size_t offset;
};

#define OWNER(name, ...)						\
	FIXTURE_VARIANT_ADD(owner, name) { .make = __VA_ARGS__ }

OWNER(small, make_small);
OWNER(small_incongruent, make_small, PAGES(3));
OWNER(sparse, make_sparse);
OWNER(straddling, make_straddling, PAGES(1));
OWNER(read_only, make_read_only);

FIXTURE_SETUP(owner)
{
	setup_pair(_metadata, &self->pair, variant->make, variant->offset);
}

FIXTURE_TEARDOWN(owner)
{
	close(self->pair.fd);
}

/* The first to write gets a copy, the other keeps the page. */
TEST_F(owner, second_writer_keeps_the_page)
{
	struct cowsnap_remap r;
	char *dst = DUP();
	size_t i;

	make_writable(self->pair.src.p, self->pair.len);
	make_writable(dst, self->pair.len);
	for (i = 0; i < self->pair.src.nr; i++) {
		char *a = (i & 1 ? dst : self->pair.src.p) + PAGES(i);
		char *b = (i & 1 ? self->pair.src.p : dst) + PAGES(i);
		uint64_t pfn = mem_pfn(a);

		if (!pfn)
			continue;
		mem_fill(a, MEM_PAGE, 5);
		ASSERT_NE(pfn, mem_pfn(a));
		ASSERT_EQ(pfn, mem_pfn(b));
		mem_fill(b, MEM_PAGE, 6);
		ASSERT_EQ(pfn, mem_pfn(b))
			TH_LOG("page %zu was copied by its only user", i);
	}
}

static void check_reuse(struct __test_metadata *_metadata, struct pair *self)
{
	size_t nr = self->src.nr, i;
	struct cowsnap_remap r;
	uint64_t *was, *is;

	was = calloc(nr, sizeof(*was));
	is = calloc(nr, sizeof(*is));
	ASSERT_TRUE(was && is);
	ASSERT_TRUE(mem_pagemap_read(self->src.p, was, nr));
	ASSERT_EQ(0, munmap(dup_pair(_metadata, self, &r), self->len));
	make_writable(self->src.p, self->len);
	mem_fill(self->src.p, self->len, 5);
	ASSERT_TRUE(mem_pagemap_read(self->src.p, is, nr));
	for (i = 0; i < nr; i++) {
		if (!location(was[i]))
			continue;
		ASSERT_EQ(location(was[i]), location(is[i]))
			TH_LOG("page %zu", i);
	}
}

/* A reference leaked on a page shows as a copy where none is needed. */
TEST_F(owner, write_after_the_duplicate_is_gone_reuses_the_page)
{
	check_reuse(_metadata, &self->pair);
}

/* Huge pages: what makes large memory fast must outlive the call. */
FIXTURE(huge)
{
	struct pair pair;
};

FIXTURE_SETUP(huge)
{
	setup_pair(_metadata, &self->pair, make_huge, 0);
}

FIXTURE_TEARDOWN(huge)
{
	close(self->pair.fd);
}

TEST_F(huge, congruent_pages_stay_whole_on_both_sides)
{
	long split = mem_vmstat("thp_split_pmd");
	struct cowsnap_remap r;
	char *dst = DUP();

	EXPECT_TRUE(mem_all_huge(self->pair.src.p, self->pair.len));
	EXPECT_TRUE(mem_all_huge(dst, self->pair.len));
	EXPECT_EQ(split, mem_vmstat("thp_split_pmd"));
	EXPECT_EQ(self->pair.src.nr,
		  mem_shared_pages(self->pair.src.p, dst, self->pair.len));
}

TEST_F(huge, write_to_one_side_leaves_the_other_whole)
{
	struct cowsnap_remap r;
	char *dst = DUP();

	mem_fill(dst, MEM_PAGE, 5);
	mem_fill(dst + MEM_HUGE, MEM_PAGE, 5);
	EXPECT_TRUE(mem_all_huge(self->pair.src.p, self->pair.len));
	EXPECT_TRUE(holds(&self->pair.src, self->pair.src.p));
	EXPECT_EQ(self->pair.src.nr - 2,
		  mem_shared_pages(self->pair.src.p, dst, self->pair.len));
}

TEST_F(huge, sole_owner_writes_whole_pages_in_place)
{
	check_reuse(_metadata, &self->pair);
	EXPECT_TRUE(mem_all_huge(self->pair.src.p, self->pair.len));
}

/* Also where they cannot be shared whole. */
FIXTURE(torn)
{
	struct pair pair;
};

FIXTURE_VARIANT(torn)
{
	char *(*make)(struct range *g);
	size_t offset;
};

#define TORN(name, ...)							\
	FIXTURE_VARIANT_ADD(torn, name) { .make = __VA_ARGS__ }

TORN(incongruent, make_huge, PAGES(1));
TORN(part, make_huge_part);
TORN(by_pte, make_huge_by_pte);
TORN(missing_pages, make_huge_torn, PAGES(8));

FIXTURE_SETUP(torn)
{
	setup_pair(_metadata, &self->pair, variant->make, variant->offset);
}

FIXTURE_TEARDOWN(torn)
{
	close(self->pair.fd);
}

/*
 * At most the mapping is split, not the page: that would cost the source its
 * huge page for good.
 */
TEST_F(torn, no_page_is_broken_up)
{
	long split = mem_vmstat("thp_split_page");
	struct cowsnap_remap r;

	ASSERT_GE(split, 0);
	DUP();
	EXPECT_EQ(split, mem_vmstat("thp_split_page"));
}

/*
 * Places: how source and destination lie to each other and to the borders of
 * page tables. All of it with small pages and, where they fit, huge ones.
 */
FIXTURE(place)
{
	int fd;
};

FIXTURE_SETUP(place)
{
	self->fd = open_device(_metadata);
}

FIXTURE_TEARDOWN(place)
{
	close(self->fd);
}

static void *map_at(void *at, size_t len)
{
	void *p = mmap(at, len, PROT_READ | PROT_WRITE, MAP_PRIVATE |
		       MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	madvise(p, len, MADV_NOHUGEPAGE);
	return p;
}

/*
 * Both hold what the source was filled with. Then each is written in one half,
 * and neither may show in the other.
 */
static void check_apart(struct __test_metadata *_metadata, char *src, char *dst,
			size_t half, size_t rest)
{
	EXPECT_TRUE(mem_check(dst, half, 1));
	EXPECT_TRUE(mem_check(dst + half, rest, 2));
	mem_fill(src, half, 3);
	EXPECT_TRUE(mem_check(dst, half, 1));
	mem_fill(dst + half, rest, 4);
	EXPECT_TRUE(mem_check(src + half, rest, 2));
	EXPECT_TRUE(mem_check(src, half, 3));
	EXPECT_TRUE(mem_check(dst + half, rest, 4));
	mem_fill(src + half, rest, 5);
	mem_fill(dst, half, 6);
	EXPECT_TRUE(mem_check(src, half, 3));
	EXPECT_TRUE(mem_check(dst + half, rest, 4));
}

/* Duplicates @src at @dst exactly, and looks at everything there is. */
static void check_pair(struct __test_metadata *_metadata, int fd, char *src,
		       char *dst, size_t len)
{
	size_t half = len / 2 & ~(MEM_PAGE - 1);
	struct cowsnap_remap r;

	mem_fill(src, half, 1);
	mem_fill(src + half, len - half, 2);
	ASSERT_EQ(0, mem_remap(fd, src, len, dst,
			       COWSNAP_REMAP_FIXED_NOREPLACE, &r))
		TH_LOG("reason %u at %#llx", r.reason, r.fault_addr);
	ASSERT_EQ(U64(dst), r.dst);
	EXPECT_EQ(len / MEM_PAGE, r.shared);
	EXPECT_EQ(0, r.copied);
	EXPECT_EQ(len / MEM_PAGE, mem_shared_pages(src, dst, len));
	check_apart(_metadata, src, dst, half, len - half);
	ASSERT_EQ(0, munmap(dst, len));
	EXPECT_TRUE(mem_check(src, half, 3));
	EXPECT_TRUE(mem_check(src + half, len - half, 5));
}

/* One lock for both, in either order, and neighbours without a gap. */
TEST_F(place, same_page_table_page)
{
	static const struct {
		size_t src, dst;
	} at[] = { { 16, 64 }, { 64, 16 }, { 16, 48 }, { 48, 16 }, { 0, 480 },
		   { 480, 0 } };
	char *base;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(at); i++) {
		base = mem_free_range(MEM_HUGE, MEM_HUGE, 0);
		ASSERT_NE(NULL, base);
		ASSERT_NE(NULL, map_at(base + PAGES(at[i].src), PAGES(32)));
		check_pair(_metadata, self->fd, base + PAGES(at[i].src),
			   base + PAGES(at[i].dst), PAGES(32));
		munmap(base, MEM_HUGE);
	}
}

/* The copy of one entry may lie where another is still to be read: never. */
TEST_F(place, neighbours_over_many_page_tables)
{
	size_t len = 3 * MEM_HUGE + PAGES(5), side;
	char *base, *src;

	for (side = 0; side < 2; side++) {
		base = mem_free_range(2 * len, MEM_HUGE, PAGES(77));
		ASSERT_NE(NULL, base);
		src = map_at(base + side * len, len);
		ASSERT_NE(NULL, src);
		check_pair(_metadata, self->fd, src, base + !side * len, len);
		munmap(base, 2 * len);
	}
}

TEST_F(place, any_offset_between_them)
{
	static const size_t offset[] = { 0, 1, 2, 255, 256, 257, 510, 511 };
	size_t len = MEM_HUGE + PAGES(3), i;
	char *src, *dst;

	src = mem_map_offset(len, MEM_HUGE, PAGES(500));
	ASSERT_NE(NULL, src);
	for (i = 0; i < ARRAY_SIZE(offset); i++) {
		dst = mem_free_range(len, MEM_HUGE, PAGES(offset[i]));
		ASSERT_NE(NULL, dst);
		check_pair(_metadata, self->fd, src, dst, len);
	}
}

static void check_border(struct __test_metadata *_metadata, int fd,
			 size_t border)
{
	static const struct {
		long src, dst;		/* pages of it before the border */
	} at[] = { { 8, 0 }, { 0, 8 }, { 8, 8 }, { 8, 24 }, { 31, 1 } };
	size_t len = PAGES(32), i;
	char *src, *dst;

	for (i = 0; i < ARRAY_SIZE(at); i++) {
		src = mem_free_range(len, border,
				     border - PAGES(at[i].src));
		if (!src)
			SKIP(return, "address space too small");
		ASSERT_NE(NULL, map_at(src, len));
		dst = mem_free_range(len, border,
				     border - PAGES(at[i].dst));
		if (!dst)
			SKIP(return, "address space too small");
		check_pair(_metadata, fd, src, dst, len);
		munmap(src, len);
	}
}

TEST_F(place, across_a_1_gib_border)
{
	check_border(_metadata, self->fd, MEM_GIB);
}

TEST_F(place, across_a_512_gib_border)
{
	check_border(_metadata, self->fd, 512 * MEM_GIB);
}

/* Beyond 47 bits memory is only given when asked for, and only with la57. */
TEST_F(place, across_the_47_bit_border)
{
	char *src, *dst, *border = (char *)(1UL << 47);

	dst = map_at(border - PAGES(8) + (1UL << 30), PAGES(32));
	if (!dst)
		SKIP(return, "no 5-level page tables");
	munmap(dst, PAGES(32));
	src = mem_map(PAGES(32));
	ASSERT_NE(NULL, src);
	check_pair(_metadata, self->fd, src, dst, PAGES(32));
	src = map_at((char *)(1UL << 48) - PAGES(16), PAGES(32));
	ASSERT_NE(NULL, src);
	check_pair(_metadata, self->fd, src, dst, PAGES(32));
}

static void check_huge_pair(struct __test_metadata *_metadata, int fd,
			    char *src, char *dst, size_t len)
{
	struct cowsnap_remap r;
	size_t half = len / 2;

	ASSERT_EQ(src, mem_map_huge_at(src, len))
		TH_LOG("no huge pages at %p", src);
	mem_fill(src, half, 1);
	mem_fill(src + half, half, 2);
	ASSERT_EQ(0, mem_remap(fd, src, len, dst,
			       COWSNAP_REMAP_FIXED_NOREPLACE, &r))
		TH_LOG("reason %u at %#llx", r.reason, r.fault_addr);
	EXPECT_EQ(len / MEM_PAGE, r.shared);
	EXPECT_EQ(len / MEM_PAGE, mem_shared_pages(src, dst, len));
	EXPECT_TRUE(mem_all_huge(src, len));
	EXPECT_TRUE(mem_all_huge(dst, len));
	check_apart(_metadata, src, dst, half, half);
	munmap(dst, len);
	munmap(src, len);
}

static bool have_huge(void)
{
	void *p = mem_map_huge(MEM_HUGE);

	if (p)
		munmap(p, MEM_HUGE);
	return p;
}

/* Their two locks are one and the same: taken twice, it hangs for ever. */
TEST_F(place, huge_pages_within_1_gib)
{
	static const struct {
		size_t src, dst;
	} at[] = {
		{ 4, 8 }, { 8, 4 }, { 4, 6 }, { 6, 4 }, { 0, 14 }, { 14, 0 },
	};
	size_t i;
	char *base;

	if (!have_huge())
		SKIP(return, "no huge pages");
	for (i = 0; i < ARRAY_SIZE(at); i++) {
		base = mem_free_range(16 * MEM_HUGE, MEM_GIB, MEM_GIB / 2);
		ASSERT_NE(NULL, base);
		check_huge_pair(_metadata, self->fd,
				base + at[i].src * MEM_HUGE,
				base + at[i].dst * MEM_HUGE, 2 * MEM_HUGE);
	}
}

TEST_F(place, huge_pages_in_different_gib)
{
	char *base;

	if (!have_huge())
		SKIP(return, "no huge pages");
	base = mem_free_range(2 * MEM_GIB, MEM_GIB, 0);
	ASSERT_NE(NULL, base);
	check_huge_pair(_metadata, self->fd, base, base + MEM_GIB, MEM_HUGE);
	check_huge_pair(_metadata, self->fd, base + MEM_GIB, base + MEM_HUGE,
			MEM_HUGE);
}

TEST_F(place, huge_pages_across_a_1_gib_border)
{
	char *base;

	if (!have_huge())
		SKIP(return, "no huge pages");
	base = mem_free_range(3 * MEM_GIB, MEM_GIB, 0);
	ASSERT_NE(NULL, base);
	check_huge_pair(_metadata, self->fd, base + MEM_GIB - MEM_HUGE,
			base + MEM_GIB + MEM_HUGE, 2 * MEM_HUGE);
	check_huge_pair(_metadata, self->fd, base + 4 * MEM_HUGE,
			base + 2 * MEM_GIB - MEM_HUGE, 2 * MEM_HUGE);
}

/* Written in one piece by incongruent duplicates within one page-table page. */
TEST_F(place, huge_page_duplicated_within_its_own_gib_incongruently)
{
	size_t len = MEM_HUGE;
	struct cowsnap_remap r;
	char *base, *dst;

	if (!have_huge())
		SKIP(return, "no huge pages");
	base = mem_free_range(8 * MEM_HUGE, MEM_GIB, MEM_GIB / 2);
	ASSERT_NE(NULL, base);
	ASSERT_EQ(base, mem_map_huge_at(base, len));
	mem_fill(base, len, 1);
	dst = base + len;
	ASSERT_EQ(0, mem_remap(self->fd, base, len, dst + PAGES(3),
			       COWSNAP_REMAP_FIXED_NOREPLACE, &r));
	EXPECT_EQ(HUGE_PAGES, r.shared);
	EXPECT_EQ(HUGE_PAGES, mem_shared_pages(base, dst + PAGES(3), len));
	mem_fill(base, len, 2);
	EXPECT_TRUE(mem_check(dst + PAGES(3), len, 1));
}

/* Nothing is there to copy: nothing is there to be slow about. */
TEST_F(place, sixteen_untouched_tib_take_no_time)
{
	size_t len = 16UL << 40;
	struct mem_counters a, b;
	struct cowsnap_remap r;
	char *src, *at;

	src = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS |
		   MAP_NORESERVE, -1, 0);
	if (src == MAP_FAILED)
		SKIP(return, "no 16 TiB of address space");
	/* Three pages in it, far from each other. */
	for (at = src; at < src + len; at += 7UL << 40) {
		mprotect(at, MEM_PAGE, PROT_READ | PROT_WRITE);
		mem_fill(at, MEM_PAGE, 1);
		mprotect(at, MEM_PAGE, PROT_NONE);
	}
	mem_counters(&a);
	ASSERT_EQ(0, mem_remap(self->fd, src, len, NULL, 0, &r));
	mem_counters(&b);
	EXPECT_EQ(3, r.shared);
	EXPECT_EQ(a.rss_anon + 3 * 4, b.rss_anon);
	EXPECT_LE(b.pte - a.pte, 64);
	munmap((void *)r.dst, len);
	munmap(src, len);
}

/* Ranges: parts of mappings, several, holes between them. */
FIXTURE(range)
{
	int fd;
};

FIXTURE_SETUP(range)
{
	self->fd = open_device(_metadata);
}

FIXTURE_TEARDOWN(range)
{
	close(self->fd);
}

/* The source must not be cut up for being read. */
TEST_F(range, part_of_a_mapping_is_duplicated_alone)
{
	char *src = mem_map_alone(PAGES(16)), *dst;
	unsigned long start, end, dst_start, dst_end;

	ASSERT_NE(NULL, src);
	mem_fill(src, PAGES(16), 1);
	dst = mem_free_range(PAGES(5), MEM_HUGE, 0);
	ASSERT_NE(NULL, dst);
	ASSERT_EQ(0, mem_remap(self->fd, src + PAGES(6), PAGES(5), dst, 0,
			       &(struct cowsnap_remap){}));
	EXPECT_EQ(5, mem_shared_pages(src + PAGES(6), dst, PAGES(5)));
	ASSERT_TRUE(mem_vma(src + PAGES(6), &start, &end, NULL));
	EXPECT_EQ((unsigned long)src, start);
	EXPECT_EQ((unsigned long)src + PAGES(16), end);
	ASSERT_TRUE(mem_vma(dst, &dst_start, &dst_end, NULL));
	EXPECT_EQ((unsigned long)dst, dst_start);
	EXPECT_EQ((unsigned long)dst + PAGES(5), dst_end);
	mem_fill(src, PAGES(16), 2);
	mem_fill(dst, PAGES(5), 3);
	EXPECT_TRUE(mem_check(src, PAGES(16), 2));
}

/* Every page on its own, at every place of a mapping. */
TEST_F(range, any_part_of_a_mapping_may_be_duplicated)
{
	char *src = mem_map_alone(PAGES(5)), *dst;
	size_t first, nr, i;

	ASSERT_NE(NULL, src);
	for (i = 0; i < 5; i++)
		mem_fill(src + PAGES(i), MEM_PAGE, i);
	for (first = 0; first < 5; first++) {
		for (nr = 1; first + nr <= 5; nr++) {
			dst = mem_dup(self->fd, src + PAGES(first), PAGES(nr));
			ASSERT_NE(NULL, dst);
			for (i = 0; i < nr; i++)
				EXPECT_TRUE(mem_check(dst + PAGES(i), MEM_PAGE,
						      first + i));
			munmap(dst, PAGES(nr));
		}
	}
}

static const int prots[] = {
	PROT_READ | PROT_WRITE, PROT_READ, PROT_NONE,
	PROT_READ | PROT_WRITE | PROT_EXEC, PROT_READ | PROT_EXEC, PROT_WRITE,
};

static const char *const perms_of[] = {
	"rw-p", "r--p", "---p", "rwxp", "r-xp", "-w-p",
};

/* Four pages of each protection in turn, all of them written before. */
static char *make_protections(void)
{
	char *p = mem_map_alone(PAGES(4 * ARRAY_SIZE(prots)));
	size_t i;

	if (!p)
		return NULL;
	mem_fill(p, PAGES(4 * ARRAY_SIZE(prots)), 1);
	for (i = 0; i < ARRAY_SIZE(prots); i++)
		if (mprotect(p + PAGES(4 * i), PAGES(4), prots[i]))
			return NULL;
	return p;
}

/* A duplicate with more rights than its source would be a hole in a sandbox. */
TEST_F(range, each_mapping_keeps_its_protection)
{
	size_t len = PAGES(4 * ARRAY_SIZE(prots)), i;
	char *src = make_protections(), *dst;
	struct cowsnap_remap r;
	char perms[5];

	ASSERT_NE(NULL, src);
	ASSERT_EQ(0, mem_remap(self->fd, src, len, NULL, 0, &r));
	EXPECT_EQ(len / MEM_PAGE, r.shared);
	dst = (char *)r.dst;
	for (i = 0; i < ARRAY_SIZE(prots); i++) {
		ASSERT_TRUE(mem_vma(dst + PAGES(4 * i), NULL, NULL, perms));
		EXPECT_STREQ(perms_of[i], perms);
		ASSERT_TRUE(mem_vma(src + PAGES(4 * i), NULL, NULL, perms));
		EXPECT_STREQ(perms_of[i], perms);
	}
	EXPECT_EQ(len / MEM_PAGE, mem_shared_pages(src, dst, len));
	make_writable(src, len);
	make_writable(dst, len);
	EXPECT_TRUE(mem_check(dst, len, 1));
	mem_fill(dst, len, 2);
	EXPECT_TRUE(mem_check(src, len, 1));
}

TEST_F(range, read_only_takes_write_away_and_nothing_else)
{
	static const char *const expect[] = {
		"r--p", "r--p", "---p", "r-xp", "r-xp", "---p",
	};
	size_t len = PAGES(4 * ARRAY_SIZE(prots)), i;
	char *src = make_protections(), *dst;
	struct cowsnap_remap r;
	char perms[5];

	ASSERT_NE(NULL, src);
	ASSERT_EQ(0, mem_remap(self->fd, src, len, NULL,
			       COWSNAP_REMAP_READONLY, &r));
	dst = (char *)r.dst;
	for (i = 0; i < ARRAY_SIZE(prots); i++) {
		ASSERT_TRUE(mem_vma(dst + PAGES(4 * i), NULL, NULL, perms));
		EXPECT_STREQ(expect[i], perms);
		ASSERT_TRUE(mem_vma(src + PAGES(4 * i), NULL, NULL, perms));
		EXPECT_STREQ(perms_of[i], perms);
	}
	EXPECT_EQ(len / MEM_PAGE, mem_shared_pages(src, dst, len));
}

/* Status of a child that stores one byte. */
static int store_in_child(char *at)
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		*(volatile char *)at = 1;
		_exit(0);
	}
	waitpid(pid, &status, 0);
	return status;
}

/* A snapshot that someone can write to by accident is no snapshot. */
TEST_F(range, store_to_a_read_only_duplicate_is_a_segfault)
{
	char *src = mem_map_alone(PAGES(4)), *dst;
	struct cowsnap_remap r;
	int status;

	ASSERT_NE(NULL, src);
	mem_fill(src, PAGES(3), 1);
	ASSERT_EQ(0, mem_remap(self->fd, src, PAGES(4), NULL,
			       COWSNAP_REMAP_READONLY, &r));
	dst = (char *)r.dst;
	status = store_in_child(dst);
	EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
	status = store_in_child(dst + PAGES(3));	/* untouched */
	EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
	EXPECT_EQ(0, store_in_child(src));
	EXPECT_TRUE(mem_check(dst, PAGES(3), 1));
}

/* It is a mapping like any: write permission can be given, and it is COW. */
TEST_F(range, read_only_duplicate_can_be_made_writable)
{
	char *src = mem_map_alone(PAGES(8)), *dst;
	struct cowsnap_remap r;

	ASSERT_NE(NULL, src);
	mem_fill(src, PAGES(8), 1);
	ASSERT_EQ(0, mem_remap(self->fd, src, PAGES(8), NULL,
			       COWSNAP_REMAP_READONLY, &r));
	dst = (char *)r.dst;
	ASSERT_EQ(0, mprotect(dst, PAGES(8), PROT_READ | PROT_WRITE));
	EXPECT_EQ(8, mem_shared_pages(src, dst, PAGES(8)));
	mem_fill(dst, PAGES(4), 2);
	EXPECT_TRUE(mem_check(src, PAGES(8), 1));
	mem_fill(src, PAGES(8), 3);
	EXPECT_TRUE(mem_check(dst, PAGES(4), 2));
	EXPECT_TRUE(mem_check(src, PAGES(8), 3));
}

/* PROT_NONE now, but written before: it is content like any other. */
TEST_F(range, inaccessible_content_is_duplicated)
{
	char *src = mem_map_alone(PAGES(8)), *dst;

	ASSERT_NE(NULL, src);
	mem_fill(src, PAGES(8), 1);
	ASSERT_EQ(0, mprotect(src, PAGES(8), PROT_NONE));
	dst = mem_dup(self->fd, src, PAGES(8));
	ASSERT_NE(NULL, dst);
	make_writable(dst, PAGES(8));
	EXPECT_TRUE(mem_check(dst, PAGES(8), 1));
	mem_fill(dst, PAGES(8), 2);
	make_writable(src, PAGES(8));
	EXPECT_TRUE(mem_check(src, PAGES(8), 1));
}

/* From within the first to within the last of three mappings. */
TEST_F(range, may_begin_and_end_within_mappings)
{
	char *src = mem_map_alone(PAGES(12)), *dst;
	unsigned long start, end;
	struct cowsnap_remap r;
	char perms[5];

	ASSERT_NE(NULL, src);
	mem_fill(src, PAGES(12), 1);
	ASSERT_EQ(0, mprotect(src + PAGES(4), PAGES(4), PROT_READ));
	dst = mem_free_range(PAGES(8), MEM_HUGE, PAGES(100));
	ASSERT_EQ(0, mem_remap(self->fd, src + PAGES(2), PAGES(8), dst, 0,
			       &r));
	EXPECT_EQ(8, r.shared);
	EXPECT_EQ(8, mem_shared_pages(src + PAGES(2), dst, PAGES(8)));
	ASSERT_TRUE(mem_vma(dst, &start, &end, perms));
	EXPECT_EQ(U64(dst), start);
	EXPECT_EQ(U64(dst) + PAGES(2), end);
	ASSERT_TRUE(mem_vma(dst + PAGES(2), &start, &end, perms));
	EXPECT_EQ(U64(dst) + PAGES(2), start);
	EXPECT_EQ(U64(dst) + PAGES(6), end);
	EXPECT_STREQ("r--p", perms);
	ASSERT_TRUE(mem_vma(dst + PAGES(6), &start, &end, perms));
	EXPECT_EQ(U64(dst) + PAGES(8), end);
	EXPECT_TRUE(mem_is_free(dst + PAGES(8), MEM_PAGE));
	EXPECT_TRUE(mem_is_free(dst - MEM_PAGE, MEM_PAGE));
}

/* Mappings that the kernel did not merge hang on different anon_vmas, or on
 * none: all of them in one call.
 */
TEST_F(range, many_mappings_in_one_call)
{
	const size_t nr = 200;
	char *src = mem_map_alone(PAGES(nr)), *dst;
	struct mem_counters a, b;
	struct cowsnap_remap r;
	size_t i, written = 0;

	ASSERT_NE(NULL, src);
	for (i = 0; i < nr; i += 2)
		ASSERT_EQ(0, mprotect(src + PAGES(i), MEM_PAGE, PROT_READ |
				      PROT_WRITE | PROT_EXEC));
	for (i = 0; i < nr; i++) {
		if (i % 3)
			continue;
		mem_fill(src + PAGES(i), MEM_PAGE, i);
		written++;
	}
	mem_counters(&a);
	ASSERT_EQ(0, mem_remap(self->fd, src, PAGES(nr), NULL, 0, &r));
	mem_counters(&b);
	EXPECT_EQ(written, r.shared);
	EXPECT_EQ(a.maps + (long)nr, b.maps);
	dst = (char *)r.dst;
	for (i = 0; i < nr; i++) {
		if (i % 3) {
			EXPECT_TRUE(mem_untouched(dst + PAGES(i)));
		} else {
			EXPECT_TRUE(mem_check(dst + PAGES(i), MEM_PAGE, i));
		}
	}
	mem_fill(dst, PAGES(nr), 5000);
	for (i = 0; i < nr; i += 3)
		EXPECT_TRUE(mem_check(src + PAGES(i), MEM_PAGE, i));
}

/* Bit n of @mask: page n is there. */
static char *make_holes(unsigned int mask, size_t nr)
{
	char *p = mem_map_alone(PAGES(nr));
	size_t i;

	if (!p)
		return NULL;
	for (i = 0; i < nr; i++) {
		if (mask & (1u << i))
			mem_fill(p + PAGES(i), MEM_PAGE, i + 1);
		else
			munmap(p + PAGES(i), MEM_PAGE);
	}
	return p;
}

/* All the ways four pages may be there or not. */
TEST_F(range, holes_become_holes)
{
	unsigned int mask, i, nr;
	struct cowsnap_remap r;
	char *src, *dst;

	for (mask = 0; mask < 16; mask++) {
		src = make_holes(mask, 4);
		ASSERT_NE(NULL, src);
		dst = mem_free_range(PAGES(4), MEM_HUGE, 0);
		ASSERT_EQ(0, mem_remap(self->fd, src, PAGES(4), dst,
				       COWSNAP_REMAP_HOLES, &r))
			TH_LOG("pages %#x", mask);
		ASSERT_EQ(U64(dst), r.dst);
		nr = 0;
		for (i = 0; i < 4; i++) {
			if (mask & (1u << i)) {
				nr++;
				EXPECT_TRUE(mem_check(dst + PAGES(i), MEM_PAGE,
						      i + 1));
			} else {
				EXPECT_TRUE(mem_is_free(dst + PAGES(i),
							MEM_PAGE));
				EXPECT_TRUE(mem_is_free(src + PAGES(i),
							MEM_PAGE));
			}
		}
		EXPECT_EQ(nr, r.shared);
		munmap(dst, PAGES(4));
		munmap(src - MEM_PAGE, PAGES(6));
	}
}

/* Where the kernel chooses, it needs room for the holes as well. */
TEST_F(range, chosen_place_has_room_for_the_holes)
{
	char *src = make_holes(1 | 1u << 15, 16), *dst;
	struct cowsnap_remap r;

	ASSERT_NE(NULL, src);
	ASSERT_EQ(0, mem_remap(self->fd, src, PAGES(16), NULL,
			       COWSNAP_REMAP_HOLES, &r));
	dst = (char *)r.dst;
	EXPECT_TRUE(mem_check(dst, MEM_PAGE, 1));
	EXPECT_TRUE(mem_check(dst + PAGES(15), MEM_PAGE, 16));
	EXPECT_TRUE(mem_is_free(dst + MEM_PAGE, PAGES(14)));
}

TEST_F(range, nothing_but_a_hole_changes_nothing)
{
	char *src = mem_free_range(PAGES(4), MEM_HUGE, 0);
	struct cowsnap_remap r;
	uint64_t maps;

	ASSERT_NE(NULL, src);
	maps = mem_maps_hash();
	EXPECT_EQ(0, mem_remap(self->fd, src, PAGES(4), NULL,
			       COWSNAP_REMAP_HOLES, &r));
	EXPECT_EQ(0, r.shared);
	EXPECT_EQ(0, r.copied);
	EXPECT_EQ(maps, mem_maps_hash());
}

/* With HOLES, what is there is still duplicated right up to its ends. */
TEST_F(range, holes_may_hide_most_of_a_large_range)
{
	size_t len = 4 * MEM_GIB;
	char *src = mem_free_range(len, MEM_GIB, 0), *dst;
	struct cowsnap_remap r;

	ASSERT_NE(NULL, src);
	ASSERT_NE(NULL, map_at(src + MEM_GIB - PAGES(2), PAGES(4)));
	ASSERT_NE(NULL, map_at(src + 3 * MEM_GIB, PAGES(4)));
	mem_fill(src + MEM_GIB - PAGES(2), PAGES(4), 1);
	mem_fill(src + 3 * MEM_GIB, PAGES(4), 2);
	dst = mem_free_range(len, MEM_GIB, PAGES(33));
	ASSERT_NE(NULL, dst);
	ASSERT_EQ(0, mem_remap(self->fd, src, len, dst, COWSNAP_REMAP_HOLES,
			       &r));
	EXPECT_EQ(8, r.shared);
	EXPECT_TRUE(mem_check(dst + MEM_GIB - PAGES(2), PAGES(4), 1));
	EXPECT_TRUE(mem_check(dst + 3 * MEM_GIB, PAGES(4), 2));
	EXPECT_TRUE(mem_is_free(dst, MEM_GIB - PAGES(2)));
	EXPECT_TRUE(mem_is_free(dst + MEM_GIB + PAGES(2), MEM_GIB));
}

/*
 * A chain of duplicates, each made of the one before and changed in one page
 * of its own. In the end each must hold its own changes and those of its
 * ancestors, whichever of them are gone.
 */
#define DEPTH	50
#define CHAIN	200

static bool level_holds(const char *p, int level)
{
	int i;

	for (i = 0; i < CHAIN; i++) {
		unsigned int seed = i <= level ? 100 + i : 1;

		if (!mem_check(p + PAGES(i), MEM_PAGE, seed)) {
			fprintf(stderr, "# level %d, page %d\n", level, i);
			return false;
		}
	}
	return true;
}

TEST_F(range, fifty_duplicates_of_duplicates)
{
	char *level[DEPTH];
	int i;

	level[0] = mem_map_alone(PAGES(CHAIN));
	ASSERT_NE(NULL, level[0]);
	for (i = 0; i < CHAIN; i++)
		mem_fill(level[0] + PAGES(i), MEM_PAGE, 1);
	mem_fill(level[0], MEM_PAGE, 100);
	for (i = 1; i < DEPTH; i++) {
		level[i] = mem_dup(self->fd, level[i - 1], PAGES(CHAIN));
		ASSERT_NE(NULL, level[i]);
		mem_fill(level[i] + PAGES(i), MEM_PAGE, 100 + i);
		ASSERT_EQ(CHAIN - 1, mem_shared_pages(level[i - 1], level[i],
						      PAGES(CHAIN)));
	}
	for (i = 0; i < DEPTH; i++)
		ASSERT_TRUE(level_holds(level[i], i));
	/* Every third one goes, the oldest among them. */
	for (i = 0; i < DEPTH; i += 3)
		ASSERT_EQ(0, munmap(level[i], PAGES(CHAIN)));
	for (i = 0; i < DEPTH; i++)
		ASSERT_TRUE(i % 3 == 0 || level_holds(level[i], i));
	/* The rest is written, the deepest first. */
	for (i = DEPTH - 1; i > 0; i--) {
		if (!(i % 3))
			continue;
		ASSERT_TRUE(level_holds(level[i], i));
		mem_fill(level[i], PAGES(CHAIN), 2);
	}
}

/* The same source again and again, changed in between: a row of snapshots. */
TEST_F(range, fifty_snapshots_of_one_source)
{
	char *snap[DEPTH], *src = mem_map_alone(PAGES(CHAIN));
	int i;

	ASSERT_NE(NULL, src);
	for (i = 0; i < CHAIN; i++)
		mem_fill(src + PAGES(i), MEM_PAGE, 1);
	for (i = 0; i < DEPTH; i++) {
		mem_fill(src + PAGES(i), MEM_PAGE, 100 + i);
		snap[i] = mem_dup(self->fd, src, PAGES(CHAIN));
		ASSERT_NE(NULL, snap[i]);
	}
	mem_fill(src, PAGES(CHAIN), 2);
	for (i = 0; i < DEPTH; i++)
		ASSERT_TRUE(level_holds(snap[i], i));
	for (i = 0; i < DEPTH; i += 2)
		munmap(snap[i], PAGES(CHAIN));
	for (i = 1; i < DEPTH; i += 2)
		ASSERT_TRUE(level_holds(snap[i], i));
	EXPECT_TRUE(mem_check(src, PAGES(CHAIN), 2));
}

/* Refused in many ways: accounting must not drift by a page or a kB. */
TEST_F(range, refused_calls_leave_all_counters)
{
	size_t len = 2 * MEM_HUGE, i;
	struct mem_counters before, after;
	char *src, *busy, *hole, *shared;
	struct rlimit lim;

	src = mem_map_alone(len);
	busy = mem_map_alone(len);
	hole = mem_map_alone(len);
	ASSERT_TRUE(src && busy && hole);
	mem_fill(src, len, 1);
	mem_fill(busy, len, 2);
	munmap(hole + len - MEM_PAGE, MEM_PAGE);
	shared = mem_map_alone(len);
	ASSERT_NE(NULL, shared);
	ASSERT_NE(MAP_FAILED, mmap(shared + len - MEM_PAGE, MEM_PAGE,
				   PROT_READ, MAP_SHARED | MAP_ANONYMOUS |
				   MAP_FIXED, -1, 0));
	ASSERT_EQ(0, getrlimit(RLIMIT_AS, &lim));
	mem_counters(&before);
	for (i = 0; i < 3; i++) {
		struct rlimit tight = lim;
		struct cowsnap_remap r;

		EXPECT_EQ(-ENOMEM, mem_remap(self->fd, hole, len, NULL, 0,
					     &r));
		EXPECT_EQ(-ENOMEM, mem_remap(self->fd, hole, len, busy,
					     COWSNAP_REMAP_FIXED, &r));
		EXPECT_EQ(-EOPNOTSUPP, mem_remap(self->fd, shared, len, NULL,
						 0, &r));
		EXPECT_EQ(-EOPNOTSUPP, mem_remap(self->fd, shared, len, busy,
						 COWSNAP_REMAP_FIXED, &r));
		EXPECT_EQ(-EEXIST, mem_remap(self->fd, src, len, busy,
					     COWSNAP_REMAP_FIXED_NOREPLACE,
					     &r));
		EXPECT_EQ(-EINVAL, mem_remap(self->fd, src, len,
					     src + MEM_PAGE,
					     COWSNAP_REMAP_FIXED, &r));
		EXPECT_EQ(-EOPNOTSUPP, mem_remap(self->fd, src, len, busy,
						 1u << 30, &r));
		tight.rlim_cur = before.vm_size << 10;
		ASSERT_EQ(0, setrlimit(RLIMIT_AS, &tight));
		EXPECT_EQ(-ENOMEM, mem_remap(self->fd, src, len, NULL, 0, &r));
		ASSERT_EQ(0, setrlimit(RLIMIT_AS, &lim));
	}
	mem_counters(&after);
	EXPECT_TRUE(mem_counters_equal(&before, &after));
	EXPECT_TRUE(mem_check(src, len, 1));
	EXPECT_TRUE(mem_check(busy, len, 2));
	/* Nobody may have made the source's pages shared on the way. */
	EXPECT_NE(0, mem_pagemap(src) & MEM_PM_EXCLUSIVE);
}

TEST_HARNESS_MAIN
