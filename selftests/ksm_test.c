// SPDX-License-Identifier: GPL-2.0
/*
 * Merged pages (KSM): they are copied, since the reverse map of such a page knows
 * one address in each process. So these tests count what is moved and swapped out.
 */
#include "kernel.h"
#include "harness.h"

#define SEED	5

FIXTURE(ksm) {
	int fd;
	struct cgroup cg;
	char *src;
};

#define KSM_NR		32UL
#define KSM_LEN		(KSM_NR * MEM_PAGE)

FIXTURE_SETUP(ksm)
{
	int err;

	self->cg.dir[0] = 0;
	self->fd = mem_open();
	ASSERT_LE(0, self->fd);
	if (access(KSM_DIR "run", W_OK))
		SKIP(return, "no KSM");
	if (!mem_have_swap())
		SKIP(return, "no swap");
	err = cgroup_enter(&self->cg);
	if (err)
		SKIP(return, "no memory cgroup: %s", strerror(-err));
	self->src = mem_map_alone(KSM_LEN);
	ASSERT_NE(NULL, self->src);
}

FIXTURE_TEARDOWN(ksm)
{
	ksm_stop();
	cgroup_leave(&self->cg);
	close(self->fd);
}

/*
 * The reverse map of a KSM page knows one address in each process. Were the
 * page shared, reclaim and migration would miss the duplicate.
 */
TEST_F(ksm, merged_pages_are_copied)
{
	struct cowsnap_remap r;
	char *dup;
	size_t i;

	ksm_fill(self->src, KSM_LEN, SEED);
	ASSERT_TRUE(ksm_merge(self->src, KSM_LEN));
	ASSERT_EQ(0, mem_remap(self->fd, self->src, KSM_LEN, NULL, 0, &r));
	dup = (char *)(uintptr_t)r.dst;
	EXPECT_EQ(KSM_NR, r.copied);
	EXPECT_EQ(0U, r.shared);
	EXPECT_EQ(0UL, mem_shared_pages(self->src, dup, KSM_LEN));
	/* The source's stay merged, the copies are pages of their own. */
	EXPECT_EQ(KSM_NR / 2, mem_shared_pages(self->src,
					       self->src + KSM_LEN / 2,
					       KSM_LEN / 2));
	for (i = 0; i < KSM_LEN; i += MEM_PAGE)
		EXPECT_EQ(1U, page_count(dup + i));
	EXPECT_TRUE(ksm_check(dup, KSM_LEN, SEED));
	memset(dup, 1, KSM_LEN);
	EXPECT_TRUE(ksm_check(self->src, KSM_LEN, SEED));
}

/* The copies, and the merged pages that stay, can all be swapped out. */
TEST_F(ksm, copies_of_merged_pages_can_be_reclaimed)
{
	char *dup;

	ksm_fill(self->src, KSM_LEN, SEED);
	ASSERT_TRUE(ksm_merge(self->src, KSM_LEN));
	dup = mem_dup(self->fd, self->src, KSM_LEN);
	ASSERT_NE(NULL, dup);
	mem_drain();
	EXPECT_EQ(KSM_NR, cgroup_swap_out(&self->cg, dup, KSM_LEN));
	EXPECT_EQ(KSM_NR, cgroup_swap_out(&self->cg, self->src, KSM_LEN));
	EXPECT_TRUE(ksm_check(dup, KSM_LEN, SEED));
	EXPECT_TRUE(ksm_check(self->src, KSM_LEN, SEED));
}

TEST_F(ksm, copies_of_merged_pages_can_be_moved)
{
	char *dup;

	if (mem_nodes() < 2)
		SKIP(return, "one node");
	ksm_fill(self->src, KSM_LEN, SEED);
	ASSERT_TRUE(ksm_merge(self->src, KSM_LEN));
	dup = mem_dup(self->fd, self->src, KSM_LEN);
	ASSERT_NE(NULL, dup);
	EXPECT_EQ(KSM_NR, move_to_node(dup, KSM_LEN, 0));
	EXPECT_EQ(KSM_NR, move_to_node(dup, KSM_LEN, 1));
	EXPECT_TRUE(ksm_check(dup, KSM_LEN, SEED));
	EXPECT_TRUE(ksm_check(self->src, KSM_LEN, SEED));
}

/* Merged pages that went to swap come back as ordinary ones, on both sides. */
TEST_F(ksm, swapped_merged_pages)
{
	char *dup;

	ksm_fill(self->src, KSM_LEN, SEED);
	ASSERT_TRUE(ksm_merge(self->src, KSM_LEN));
	mem_drain();
	ASSERT_EQ(KSM_NR, cgroup_swap_out(&self->cg, self->src, KSM_LEN));
	dup = mem_dup(self->fd, self->src, KSM_LEN);
	ASSERT_NE(NULL, dup);
	EXPECT_TRUE(ksm_check(dup, KSM_LEN, SEED));
	mem_fill(dup, KSM_LEN, SEED + 1);
	EXPECT_TRUE(ksm_check(self->src, KSM_LEN, SEED));
}

/*
 * Advice carries over, or has to be given again (huge_whole 0): the duplicate's
 * pages may be merged with the source's.
 */
TEST_F(ksm, duplicate_can_be_merged_again)
{
	char *dup;

	ksm_fill(self->src, KSM_LEN, SEED);
	ASSERT_EQ(0, madvise(self->src, KSM_LEN, MADV_MERGEABLE));
	dup = mem_dup(self->fd, self->src, KSM_LEN);
	ASSERT_NE(NULL, dup);
	EXPECT_EQ(mem_huge_whole(self->fd), mem_smaps_flag(dup, "mg"));
	ksm_fill(dup, KSM_LEN, SEED);
	ASSERT_TRUE(ksm_merge(self->src, KSM_LEN));
	ASSERT_TRUE(ksm_merge(dup, KSM_LEN));
	EXPECT_EQ(KSM_NR, mem_shared_pages(self->src, dup, KSM_LEN));
	memset(self->src, 1, KSM_LEN);
	EXPECT_TRUE(ksm_check(dup, KSM_LEN, SEED));
	/* Unmerged by hand while a duplicate of it is there. */
	ASSERT_NE(NULL, mem_dup(self->fd, dup, KSM_LEN));
	EXPECT_EQ(0, madvise(dup, KSM_LEN, MADV_UNMERGEABLE));
	EXPECT_TRUE(ksm_check(dup, KSM_LEN, SEED));
}

/*
 * 6.12 merges empty pages with the zero page and counts these entries. One
 * counted when it goes away and not when it came makes the count negative.
 */
TEST_F(ksm, count_of_merged_empty_pages_adds_up)
{
	long before = mem_read_long(KSM_DIR "ksm_zero_pages"), merged;
	double end = seconds() + 8 * mem_slowness();
	char *dup;

	if (before < 0)
		SKIP(return, "this kernel does not count merged zero pages");
	ASSERT_EQ(0, mem_write(KSM_DIR "use_zero_pages", "1"));
	memset(self->src, 0, KSM_LEN);
	ASSERT_EQ(0, madvise(self->src, KSM_LEN, MADV_MERGEABLE));
	ASSERT_TRUE(ksm_start());
	while (mem_read_long(KSM_DIR "ksm_zero_pages") < before + (long)KSM_NR &&
	       seconds() < end)
		usleep(20000);
	ksm_pause();
	mem_write(KSM_DIR "use_zero_pages", "0");
	merged = mem_read_long(KSM_DIR "ksm_zero_pages");
	ASSERT_LE(before + (long)KSM_NR, merged);

	dup = mem_dup(self->fd, self->src, KSM_LEN);
	ASSERT_NE(NULL, dup);
	EXPECT_TRUE(mem_is_zero(dup, KSM_LEN));
	EXPECT_LE(merged, mem_read_long(KSM_DIR "ksm_zero_pages"));
	memset(dup, 1, KSM_LEN / 2);
	ASSERT_EQ(0, munmap(dup, KSM_LEN));
	EXPECT_EQ(merged, mem_read_long(KSM_DIR "ksm_zero_pages"));
	ASSERT_EQ(0, munmap(self->src, KSM_LEN));
	EXPECT_EQ(before, mem_read_long(KSM_DIR "ksm_zero_pages"));
}

TEST_HARNESS_MAIN
