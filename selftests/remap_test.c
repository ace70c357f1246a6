// SPDX-License-Identifier: GPL-2.0
/*
 * What REMAP does to memory: the duplicate holds what the source holds, both
 * map the same pages until one of them is written, and nothing is left when it
 * is gone. By kind of memory.
 */
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernel.h"
#include "harness.h"
#include "sources.h"

#define U64(p)		((__u64)(uintptr_t)(p))

static int open_device(struct __test_metadata *_metadata)
{
	int fd = mem_open();

	ASSERT_GE(fd, 0)
		TH_LOG("%s: %s. Is the module loaded?", MEM_DEVICE,
		       strerror(errno));
	return fd;
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

/*
 * Where huge pages are not shared, the source is cut from mappings that it is
 * only a part of: it loses huge pages, they do not.
 */
static long count_cuts(struct pair *pair)
{
	char *start = pair->src.p, *last = start + pair->len - 1;
	unsigned long from, to;
	long cuts = 0;

	if (mem_huge_whole(pair->fd))
		return 0;
	if (!mem_smaps_flag(start, "nh") && mem_vma(start, &from, &to, NULL))
		cuts += from < (unsigned long)start;
	if (!mem_smaps_flag(last, "nh") && mem_vma(last, &from, &to, NULL))
		cuts += to > (unsigned long)last + 1;
	return cuts;
}

/* Address space and commit charge by length, resident pages by content. */
TEST_F(kind, accounting_grows_by_the_duplicate)
{
	struct mem_counters a, b;
	struct cowsnap_remap r;
	long kb = self->pair.len >> 10;
	size_t i, present = 0, swapped = 0;
	long cuts;

	for (i = 0; i < self->pair.src.nr; i++) {
		if (self->pair.src.what[i] != WRITTEN)
			continue;
		if (mem_swapped(self->pair.src.p + PAGES(i)))
			swapped++;
		else
			present++;
	}
	cuts = count_cuts(&self->pair);
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
	EXPECT_EQ(a.maps + 1 + cuts, b.maps);
	EXPECT_EQ(mem_smaps_flag(self->pair.src.p, "ac"),
		  mem_smaps_flag(self->pair.hint, "ac"));
}

static void count_swapped_as_present(struct mem_counters *c)
{
	c->rss_anon += c->swap;
	c->swap = 0;
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
	if (shared_swap_is_read_in(self->pair.fd)) {
		count_swapped_as_present(&before);
		count_swapped_as_present(&after);
	}
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

#define NEED_WHOLE() do {						\
	if (!mem_huge_whole(self->pair.fd))				\
		SKIP(return, "huge pages are not shared on this kernel"); \
} while (0)

TEST_F(huge, congruent_pages_stay_whole_on_both_sides)
{
	long split = mem_vmstat("thp_split_pmd");
	struct cowsnap_remap r;
	char *dst;

	NEED_WHOLE();
	dst = DUP();
	EXPECT_TRUE(mem_all_huge(self->pair.src.p, self->pair.len));
	EXPECT_TRUE(mem_all_huge(dst, self->pair.len));
	EXPECT_EQ(split, mem_vmstat("thp_split_pmd"));
	EXPECT_EQ(self->pair.src.nr,
		  mem_shared_pages(self->pair.src.p, dst, self->pair.len));
}

TEST_F(huge, write_to_one_side_leaves_the_other_whole)
{
	bool whole = mem_huge_whole(self->pair.fd);
	struct cowsnap_remap r;
	char *dst = DUP();

	mem_fill(dst, MEM_PAGE, 5);
	mem_fill(dst + MEM_HUGE, MEM_PAGE, 5);
	EXPECT_EQ(whole, mem_all_huge(self->pair.src.p, self->pair.len));
	EXPECT_TRUE(holds(&self->pair.src, self->pair.src.p));
	EXPECT_EQ(self->pair.src.nr - 2,
		  mem_shared_pages(self->pair.src.p, dst, self->pair.len));
}

TEST_F(huge, sole_owner_writes_whole_pages_in_place)
{
	check_reuse(_metadata, &self->pair);
	EXPECT_EQ(mem_huge_whole(self->pair.fd),
		  mem_all_huge(self->pair.src.p, self->pair.len));
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

	NEED_WHOLE();
	ASSERT_GE(split, 0);
	DUP();
	EXPECT_EQ(split, mem_vmstat("thp_split_page"));
}

TEST_HARNESS_MAIN
