// SPDX-License-Identifier: GPL-2.0
/*
 * What the kernel does to pages by way of the reverse map, from the page to all
 * places where it is mapped: reclaim, migration, merging, memory errors. A
 * duplicate that the reverse map does not find passes every test of contents,
 * since the page just stays where it is. So these tests count what was moved.
 */
#include <linux/mempolicy.h>
#include <stdlib.h>
#include <sys/swap.h>

#include "kernel.h"
#include "touch.h"
#include "harness.h"

#define NR	256UL
#define LEN	(NR * MEM_PAGE)
#define SEED	5
#define LOST	3	/* the page that a memory error takes */

#define NUMA_BALANCING	"/proc/sys/kernel/numa_balancing"

/* Both sides of a duplication, made in different ways */

FIXTURE(sides) {
	int fd;
	struct cgroup cg;
	char *src;
	char *dup;
	size_t len;
	long balancing;
};

FIXTURE_VARIANT(sides) {
	const char *how;
	size_t shift;	/* of the duplicate from a congruent address */
};

FIXTURE_VARIANT_ADD(sides, plain) { .how = "plain" };
FIXTURE_VARIANT_ADD(sides, elsewhere) { .how = "plain", .shift = MEM_PAGE };
FIXTURE_VARIANT_ADD(sides, middle_of_a_mapping) { .how = "middle" };
FIXTURE_VARIANT_ADD(sides, moved_source) { .how = "moved" };
FIXTURE_VARIANT_ADD(sides, several_mappings) { .how = "several" };
FIXTURE_VARIANT_ADD(sides, copy_of_a_copy) { .how = "copy" };
FIXTURE_VARIANT_ADD(sides, source_unmapped) { .how = "unmapped" };
FIXTURE_VARIANT_ADD(sides, source_of_the_parent) { .how = "forked" };
FIXTURE_VARIANT_ADD(sides, moved_duplicate) { .how = "moved_dup" };
FIXTURE_VARIANT_ADD(sides, huge) { .how = "huge" };
FIXTURE_VARIANT_ADD(sides, huge_elsewhere) { .how = "huge", .shift = MEM_PAGE };

/* Mapped by the harness before it forks: memory that a parent has written. */
static char *inherited;

static void __attribute__((constructor)) map_inherited(void)
{
	inherited = mem_map_alone(LEN);
	if (inherited)
		mem_fill(inherited, LEN, SEED);
}

static char *move_away(char *p, size_t len)
{
	char *to = mem_free_range(len, MEM_HUGE, 5 * MEM_PAGE);

	p = mremap(p, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, to);
	return p == MAP_FAILED ? NULL : p;
}

static char *make_source(const char *how, size_t *len)
{
	size_t i;
	char *p;

	*len = LEN;
	if (!strcmp(how, "huge")) {
		*len = MEM_HUGE;
		p = mem_map_huge(MEM_HUGE);
	} else if (!strcmp(how, "forked")) {
		return inherited;
	} else if (!strcmp(how, "middle")) {
		p = mem_map_alone(3 * LEN);
		p += LEN;
	} else {
		p = mem_map_alone(LEN);
	}
	if (!p)
		return NULL;
	mem_fill(p, *len, SEED);
	if (!strcmp(how, "several"))
		for (i = 0; i < 8; i += 2)
			madvise(p + i * LEN / 8, LEN / 8, MADV_DONTDUMP);
	return strcmp(how, "moved") ? p : move_away(p, *len);
}

static char *make_duplicate(int fd, char **src, size_t len, const char *how,
			    size_t shift)
{
	char *to = mem_free_range(len, MEM_HUGE,
				  ((uintptr_t)*src + shift) % MEM_HUGE);
	struct cowsnap_remap r;
	char *dup;

	if (mem_remap(fd, *src, len, to, COWSNAP_REMAP_FIXED_NOREPLACE, &r))
		return NULL;
	dup = (char *)(uintptr_t)r.dst;
	if (!strcmp(how, "copy")) {
		/* Of three, those that were not there at first. */
		munmap(*src, len);
		*src = dup;
		dup = mem_dup(fd, *src, len);
	} else if (!strcmp(how, "unmapped")) {
		munmap(*src, len);
		*src = dup;
	} else if (!strcmp(how, "moved_dup")) {
		dup = move_away(dup, len);
	}
	return dup;
}

FIXTURE_SETUP(sides)
{
	int err;

	self->cg.dir[0] = 0;
	/* It moves pages, too: to whoever used them last. */
	self->balancing = mem_read_long(NUMA_BALANCING);
	mem_write(NUMA_BALANCING, "0");
	self->fd = mem_open();
	ASSERT_LE(0, self->fd);
	if (!mem_have_swap())
		SKIP(return, "no swap");
	err = cgroup_enter(&self->cg);
	if (err)
		SKIP(return, "no memory cgroup: %s", strerror(-err));
	self->src = make_source(variant->how, &self->len);
	if (!self->src && !strcmp(variant->how, "huge"))
		SKIP(return, "no huge pages");
	ASSERT_NE(NULL, self->src);
	self->dup = make_duplicate(self->fd, &self->src, self->len,
				   variant->how, variant->shift);
	ASSERT_NE(NULL, self->dup);
	ASSERT_EQ(self->len / MEM_PAGE,
		  mem_shared_pages(self->src, self->dup, self->len));
}

FIXTURE_TEARDOWN(sides)
{
	if (self->balancing > 0)
		mem_write(NUMA_BALANCING, "1");
	cgroup_leave(&self->cg);
	close(self->fd);
}

/*
 * Pages that reclaim cannot take out of the duplicate stay in memory for ever:
 * memory with snapshots could never be swapped.
 */
TEST_F(sides, reclaim_takes_pages_from_both)
{
	size_t nr = self->len / MEM_PAGE;

	/* The cgroup of the parent has those. */
	if (!strcmp(variant->how, "forked"))
		SKIP(return, "charged to another cgroup");
	mem_drain();
	EXPECT_EQ(nr, cgroup_swap_out(&self->cg, self->src, self->len));
	EXPECT_EQ(nr, swapped_pages(self->dup, self->len));
	EXPECT_TRUE(mem_check(self->dup, self->len, SEED));
	EXPECT_TRUE(mem_check(self->src, self->len, SEED));
}

/* What comes back from swap is still one page for both. */
TEST_F(sides, swapped_pages_come_back_shared)
{
	size_t nr = self->len / MEM_PAGE;

	if (!strcmp(variant->how, "forked"))
		SKIP(return, "charged to another cgroup");
	mem_drain();
	ASSERT_EQ(nr, cgroup_swap_out(&self->cg, self->src, self->len));
	EXPECT_TRUE(mem_check(self->src, self->len, SEED));
	EXPECT_TRUE(mem_check(self->dup, self->len, SEED));
	EXPECT_EQ(nr, mem_shared_pages(self->src, self->dup, self->len));
	if (self->src == self->dup)
		return;
	mem_fill(self->src, self->len, SEED + 1);
	EXPECT_TRUE(mem_check(self->dup, self->len, SEED));
	EXPECT_TRUE(mem_check(self->src, self->len, SEED + 1));
}

/*
 * The kernel takes a page out of service by moving its content to another one,
 * wherever it is mapped. Needs no second node.
 */
TEST_F(sides, soft_offline_moves_both)
{
	size_t at, i;
	uint64_t was;

	for (i = 0; i < 3; i++) {
		at = i * (self->len / MEM_PAGE - 1) / 2 * MEM_PAGE;
		was = mem_pfn(self->src + at);
		mem_drain();
		if (madvise(self->src + at, MEM_PAGE, MADV_SOFT_OFFLINE)) {
			if (errno == EINVAL || errno == EOPNOTSUPP)
				SKIP(return, "no soft offline: %m");
			ASSERT_EQ(0, errno);
		}
		EXPECT_NE(was, mem_pfn(self->src + at));
		EXPECT_NE(0, mem_pfn(self->src + at));
		EXPECT_EQ(mem_pfn(self->src + at), mem_pfn(self->dup + at));
	}
	EXPECT_EQ(self->len / MEM_PAGE,
		  mem_shared_pages(self->src, self->dup, self->len));
	EXPECT_TRUE(mem_check(self->src, self->len, SEED));
	EXPECT_TRUE(mem_check(self->dup, self->len, SEED));
}

/* Moved to another node they are moved on both sides. */
TEST_F(sides, move_to_another_node_moves_both)
{
	static uint64_t at_0[MEM_HUGE / MEM_PAGE], at_1[MEM_HUGE / MEM_PAGE];
	size_t all = self->len / MEM_PAGE, nr = all, i;

	if (mem_nodes() < 2)
		SKIP(return, "one node");
	if (!strcmp(variant->how, "huge") && !variant->shift &&
	    mem_huge_whole(self->fd))
		nr = 1;		/* EBUSY for a second page of one huge page */
	EXPECT_EQ(nr, move_to_node(self->src, nr * MEM_PAGE, 0));
	ASSERT_TRUE(mem_pagemap_read(self->src, at_0, all));
	EXPECT_EQ(nr, move_to_node(self->dup, nr * MEM_PAGE, 1));
	ASSERT_TRUE(mem_pagemap_read(self->src, at_1, all));
	for (i = 0; i < all && at_0[i] != at_1[i]; i++)
		;
	EXPECT_EQ(all, i);
	EXPECT_EQ(all, mem_shared_pages(self->src, self->dup, self->len));
	EXPECT_TRUE(mem_check(self->src, self->len, SEED));
	EXPECT_TRUE(mem_check(self->dup, self->len, SEED));
}

/* The map count is that of all places; too low a page is freed under them. */
TEST_F(sides, shared_page_is_counted_for_each_mapping)
{
	bool alone = self->src == self->dup;
	bool forked = !strcmp(variant->how, "forked");
	size_t i;

	for (i = 0; i < self->len; i += 16 * MEM_PAGE) {
		/* The harness and its child have the parent's, too. */
		if (forked) {
			EXPECT_LE(3U, page_count(self->src + i));
		} else {
			EXPECT_EQ(alone ? 1U : 2U, page_count(self->src + i));
		}
	}
}

/* Memory that is being compacted moves; nobody may notice. */
TEST_F(sides, compaction_loses_nothing)
{
	int i;

	for (i = 0; i < 3; i++)
		ASSERT_EQ(0, mem_write("/proc/sys/vm/compact_memory", "1"));
	EXPECT_EQ(self->len / MEM_PAGE,
		  mem_shared_pages(self->src, self->dup, self->len));
	EXPECT_TRUE(mem_check(self->src, self->len, SEED));
	EXPECT_TRUE(mem_check(self->dup, self->len, SEED));
}

/*
 * A page with a memory error must be out of reach at all addresses, or the
 * process goes on computing with wrong data.
 */
TEST_F(sides, memory_error_takes_the_page_from_both)
{
	size_t i;
	int err;

	if (!strncmp(variant->how, "huge", 4) || !strcmp(variant->how, "forked"))
		SKIP(return, "for memory of our own, base pages");
	mem_drain();
	err = lose_page(self->src + LOST * MEM_PAGE);
	if (err == -EINVAL)
		SKIP(return, "no memory errors on request");
	ASSERT_EQ(0, err);
	for (i = 0; i < NR; i++) {
		EXPECT_EQ(i == LOST ? SIGBUS : 0,
			  load_at(self->src + i * MEM_PAGE));
		EXPECT_EQ(i == LOST ? SIGBUS : 0,
			  load_at(self->dup + i * MEM_PAGE));
	}
}

/* Other kinds of entries */

FIXTURE(rmap) {
	int fd;
	struct cgroup cg;
	char *src;
};

FIXTURE_SETUP(rmap)
{
	int err;

	self->cg.dir[0] = 0;
	self->fd = mem_open();
	ASSERT_LE(0, self->fd);
	if (!mem_have_swap())
		SKIP(return, "no swap");
	err = cgroup_enter(&self->cg);
	if (err)
		SKIP(return, "no memory cgroup: %s", strerror(-err));
	self->src = mem_map_alone(LEN);
	ASSERT_NE(NULL, self->src);
	mem_fill(self->src, LEN, SEED);
}

FIXTURE_TEARDOWN(rmap)
{
	cgroup_leave(&self->cg);
	close(self->fd);
}

/* Entries of swapped pages count as references, or swap is freed too early. */
TEST_F(rmap, duplicate_of_swapped_pages)
{
	struct cowsnap_remap r;
	char *dup;

	ASSERT_EQ(NR, mem_pageout(self->src, LEN));
	ASSERT_EQ(0, mem_remap(self->fd, self->src, LEN, NULL, 0, &r));
	dup = (char *)(uintptr_t)r.dst;
	EXPECT_EQ(NR, r.shared);
	EXPECT_EQ(NR, swapped_pages(self->src, LEN));
	EXPECT_EQ(NR, swapped_pages(dup, LEN));
	EXPECT_EQ((long)LEN / 1024, mem_smaps(dup, "Swap"));
	/* Drop one side, and let others try to take the slots. */
	ASSERT_EQ(0, munmap(self->src, LEN));
	self->src = mem_map(LEN);
	mem_fill(self->src, LEN, SEED + 1);
	EXPECT_EQ(NR, mem_pageout(self->src, LEN));
	EXPECT_TRUE(mem_check(dup, LEN, SEED));
	EXPECT_TRUE(mem_check(self->src, LEN, SEED + 1));
}

/* Writing on one side must not take the swapped page from the other. */
TEST_F(rmap, write_after_swap_in_leaves_the_other_side)
{
	char *dup;

	ASSERT_EQ(NR, mem_pageout(self->src, LEN));
	dup = mem_dup(self->fd, self->src, LEN);
	ASSERT_NE(NULL, dup);
	mem_fill(self->src, LEN / 2, SEED + 1);
	mem_fill(dup + LEN / 2, LEN / 2, SEED + 2);
	EXPECT_TRUE(mem_check(self->src, LEN / 2, SEED + 1));
	EXPECT_TRUE(mem_check(dup + LEN / 2, LEN / 2, SEED + 2));
	EXPECT_EQ(0UL, mem_shared_pages(self->src, dup, LEN));
	ASSERT_EQ(0, munmap(self->src, LEN / 2));
	mem_fill(dup + LEN / 2, LEN / 2, SEED);
	mem_fill(self->src + LEN / 2, LEN / 2, SEED);
	/* Seeds are by offset: the first half of dup is the original. */
	EXPECT_TRUE(mem_check(dup, LEN / 2, SEED));
}

/* A page in the swap cache with swap entries on either side is still one. */
TEST_F(rmap, duplicate_of_pages_in_the_swap_cache)
{
	char *first, *second;

	first = mem_dup(self->fd, self->src, LEN);
	ASSERT_NE(NULL, first);
	mem_drain();
	ASSERT_EQ(NR, cgroup_swap_out(&self->cg, self->src, LEN));
	EXPECT_TRUE(mem_check(first, LEN, SEED));	/* now in the cache */
	EXPECT_EQ(NR, swapped_pages(self->src, LEN));
	second = mem_dup(self->fd, self->src, LEN);
	ASSERT_NE(NULL, second);
	mem_fill(first, LEN, SEED + 1);
	EXPECT_TRUE(mem_check(self->src, LEN, SEED));
	mem_fill(self->src, LEN, SEED + 2);
	EXPECT_TRUE(mem_check(second, LEN, SEED));
	EXPECT_TRUE(mem_check(first, LEN, SEED + 1));
}

#define DEEP	70	/* beyond what one byte of the swap map counts (62) */

/*
 * So many duplicates of a swapped page need a continuation of its swap count.
 * Afterwards nothing of the swap space is in use.
 */
TEST_F(rmap, swapped_page_in_seventy_duplicates)
{
	static char *dup[DEEP];
	size_t len = LEN;
	long before = cgroup_read(&self->cg, "memory.swap.current");
	int i;

	ASSERT_EQ(NR, mem_pageout(self->src, len));
	for (i = 0; i < DEEP; i++) {
		dup[i] = mem_dup(self->fd, i % 2 ? dup[i - 1] : self->src, len);
		ASSERT_NE(NULL, dup[i]);
	}
	EXPECT_EQ(shared_swap_is_read_in(self->fd) ? 0 : NR,
		  swapped_pages(dup[DEEP - 1], len));
	for (i = 0; i < DEEP - 1; i += 2)
		ASSERT_EQ(0, munmap(dup[i], len));
	EXPECT_TRUE(mem_check(dup[1], len, SEED));
	for (i = 1; i < DEEP - 1; i += 2)
		ASSERT_EQ(0, munmap(dup[i], len));
	ASSERT_EQ(0, munmap(self->src, len));
	EXPECT_TRUE(mem_check(dup[DEEP - 1], len, SEED));
	ASSERT_EQ(0, munmap(dup[DEEP - 1], len));
	/* Each CPU may keep a batch of 64 freed slots. */
	EXPECT_GE(before + 64L * 4096 * sysconf(_SC_NPROCESSORS_ONLN),
		  cgroup_read(&self->cg, "memory.swap.current"));
}

/* The first swap device of /proc/swaps. */
static bool swap_device(char *path, int *priority)
{
	FILE *f = fopen("/proc/swaps", "re");
	bool found = false;
	char line[256];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "%63s partition %*d %*d %d", path,
			   priority) == 2)
			found = true;
	if (f)
		fclose(f);
	return found;
}

/* swapoff finds the entries of both sides and brings the content back. */
TEST_F(rmap, swapoff_brings_both_sides_back)
{
	char path[64], *dup, *more;
	int priority, err;

	if (!swap_device(path, &priority))
		SKIP(return, "no swap partition");
	ASSERT_EQ(NR, mem_pageout(self->src, LEN));
	dup = mem_dup(self->fd, self->src, LEN);
	more = mem_dup(self->fd, dup, LEN);
	ASSERT_TRUE(dup && more);
	alarm(20 * mem_slowness());	/* a leaked entry keeps swapoff going for ever */
	err = swapoff(path);
	alarm(0);
	EXPECT_EQ(0, err);
	EXPECT_EQ(0UL, swapped_pages(self->src, LEN));
	EXPECT_EQ(0UL, swapped_pages(dup, LEN));
	EXPECT_EQ(0UL, swapped_pages(more, LEN));
	if (!err)
		ASSERT_EQ(0, swapon(path, priority < 0 ? 0 :
				    SWAP_FLAG_PREFER | priority));
	EXPECT_TRUE(mem_check(self->src, LEN, SEED));
	EXPECT_TRUE(mem_check(dup, LEN, SEED));
	mem_fill(self->src, LEN, SEED + 1);
	mem_fill(dup, LEN, SEED + 2);
	EXPECT_TRUE(mem_check(more, LEN, SEED));
}

/*
 * MADV_FREE says that content may go, of the side it was said of. The other
 * side is not asked to give anything up.
 */
TEST_F(rmap, madv_free_of_one_side_leaves_the_other)
{
	char *dup = mem_dup(self->fd, self->src, LEN);

	ASSERT_NE(NULL, dup);
	ASSERT_EQ(0, madvise(self->src, LEN, MADV_FREE));
	cgroup_reclaim(&self->cg);
	cgroup_reclaim(&self->cg);
	EXPECT_TRUE(mem_check(dup, LEN, SEED));
}

/* Content given up before the call: each page is old or empty, and stays so. */
TEST_F(rmap, duplicate_of_freed_pages)
{
	char *dup;
	size_t i;

	ASSERT_EQ(0, madvise(self->src, LEN, MADV_FREE));
	dup = mem_dup(self->fd, self->src, LEN);
	ASSERT_NE(NULL, dup);
	/* What is stored after MADV_FREE is kept, on either side. */
	mem_fill(dup, LEN / 4, SEED + 1);
	mem_fill(self->src + LEN / 4, LEN / 4, SEED + 2);
	cgroup_reclaim(&self->cg);
	cgroup_reclaim(&self->cg);
	EXPECT_TRUE(mem_check(dup, LEN / 4, SEED + 1));
	EXPECT_TRUE(mem_check(self->src + LEN / 4, LEN / 4, SEED + 2));
	for (i = 0; i < LEN; i += MEM_PAGE) {
		uint64_t *word = (uint64_t *)(dup + i);
		static char copy[LEN];

		mem_fill(copy, LEN, SEED);
		if (i >= LEN / 4 && *word)
			ASSERT_EQ(0, memcmp(word, copy + i, sizeof(*word)));
	}
}

/* Locked memory is not reclaimed, also when the duplicate is not locked. */
TEST_F(rmap, locked_source_stays_in_memory)
{
	char *dup;

	ASSERT_EQ(0, mlock(self->src, LEN));
	dup = mem_dup(self->fd, self->src, LEN);
	ASSERT_NE(NULL, dup);
	EXPECT_EQ(0, mem_smaps(dup, "Locked"));
	mem_drain();
	cgroup_reclaim(&self->cg);
	EXPECT_EQ(0UL, swapped_pages(self->src, LEN));
	EXPECT_EQ(NR, mem_shared_pages(self->src, dup, LEN));
	/* Unlocked, both can go. */
	ASSERT_EQ(0, munlock(self->src, LEN));
	mem_drain();
	EXPECT_EQ(NR, cgroup_swap_out(&self->cg, self->src, LEN));
	EXPECT_EQ(NR, swapped_pages(dup, LEN));
	EXPECT_TRUE(mem_check(dup, LEN, SEED));
	EXPECT_TRUE(mem_check(self->src, LEN, SEED));
}

/* The duplicate of locked memory, left alone, is ordinary memory. */
TEST_F(rmap, duplicate_of_locked_memory_can_be_reclaimed)
{
	char *dup;

	ASSERT_EQ(0, mlock(self->src, LEN));
	dup = mem_dup(self->fd, self->src, LEN);
	ASSERT_NE(NULL, dup);
	ASSERT_EQ(0, munmap(self->src, LEN));
	mem_drain();
	EXPECT_EQ(NR, cgroup_swap_out(&self->cg, dup, LEN));
	EXPECT_TRUE(mem_check(dup, LEN, SEED));
}

/* Do all pages but the lost one hold what was written? */
static bool check_all_but_lost(char *p)
{
	static char expected[LEN];
	size_t i;

	mem_fill(expected, LEN, SEED);
	for (i = 0; i < NR; i++)
		if (i != LOST && memcmp(p + i * MEM_PAGE, expected + i * MEM_PAGE,
					MEM_PAGE))
			return false;
	return true;
}

/* Zeroes there would be taken for what the source held. */
TEST_F(rmap, page_lost_before_is_lost_in_the_duplicate)
{
	struct cowsnap_remap r;
	char *dup;
	int err;

	mem_drain();
	err = lose_page(self->src + LOST * MEM_PAGE);
	if (err == -EINVAL)
		SKIP(return, "no memory errors on request");
	ASSERT_EQ(0, err);
	ASSERT_EQ(0, mem_remap(self->fd, self->src, LEN, NULL, 0, &r));
	dup = (char *)(uintptr_t)r.dst;
	EXPECT_EQ(NR - 1, r.shared);
	EXPECT_EQ(0, r.copied);
	EXPECT_EQ(SIGBUS, load_at(dup + LOST * MEM_PAGE));
	EXPECT_EQ(SIGBUS, store_at(dup + LOST * MEM_PAGE));
	EXPECT_EQ(SIGBUS, load_at(self->src + LOST * MEM_PAGE));
	EXPECT_TRUE(check_all_but_lost(dup));
	EXPECT_TRUE(check_all_but_lost(self->src));
	ASSERT_EQ(0, munmap(self->src, LEN));
	EXPECT_EQ(SIGBUS, load_at(dup + LOST * MEM_PAGE));
	EXPECT_TRUE(check_all_but_lost(dup));
}

#define PM_SOFT_DIRTY	MEM_PM_SOFT_DIRTY

/* A tracker of written pages sees the stores after the call, and only those. */
TEST_F(rmap, soft_dirty_tells_of_stores_after_the_call)
{
	char *dup;
	size_t i;

	if (!(mem_pagemap(self->src) & PM_SOFT_DIRTY))
		SKIP(return, "no soft-dirty tracking");
	ASSERT_EQ(0, mem_write("/proc/self/clear_refs", "4"));
	if (mem_pagemap(self->src) & PM_SOFT_DIRTY)
		SKIP(return, "no soft-dirty tracking");
	self->src[2 * MEM_PAGE]++;
	dup = mem_dup(self->fd, self->src, LEN);
	ASSERT_NE(NULL, dup);
	self->src[3 * MEM_PAGE]++;
	for (i = 0; i < NR; i++)
		EXPECT_EQ(i == 2 || i == 3,
			  !!(mem_pagemap(self->src + i * MEM_PAGE) &
			     PM_SOFT_DIRTY));
	ASSERT_EQ(0, munmap(dup, LEN));
	self->src[4 * MEM_PAGE]++;
	EXPECT_TRUE(mem_pagemap(self->src + 4 * MEM_PAGE) & PM_SOFT_DIRTY);
}

TEST_HARNESS_MAIN
