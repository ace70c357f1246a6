// SPDX-License-Identifier: GPL-2.0
/*
 * RELEASE of each kind of page: the duplicate is gone as by munmap(2), and the
 * source has back what nobody else has, and nothing more.
 */
#include <sys/wait.h>

#include "hugepool.h"
#include "ops.h"
#include "uring.h"

#define NR	64UL
#define LEN	PAGES(NR)

#ifndef __NR_mseal
#define __NR_mseal	462
#endif

FIXTURE(kinds)
{
	int fd;
	char *src;
	char *dup;
	struct uring ring;
	struct cowsnap_release r;
};

FIXTURE_SETUP(kinds)
{
	self->ring.fd = -1;
	self->fd = mem_open();
	ASSERT_GE(self->fd, 0);
	self->src = mem_map_alone(LEN);
	ASSERT_NE(NULL, self->src);
	mem_fill(self->src, LEN, 1);
	mem_drain();
}

FIXTURE_TEARDOWN(kinds)
{
	if (self->ring.fd >= 0) {
		uring_unpin(&self->ring);
		uring_close(&self->ring);
	}
	close(self->fd);
}

static int release(FIXTURE_DATA(kinds) *self)
{
	return op_release(self->fd, self->src, self->dup, LEN, &self->r);
}

/* What a fork leaves behind: a fault for each page; a released snapshot none. */
TEST_F(kinds, no_fault_is_left_unlike_after_a_fork)
{
	int to_child[2];
	char c = 0;
	pid_t pid;

	ASSERT_EQ(0, pipe(to_child));
	pid = fork();
	if (!pid) {
		close(to_child[1]);
		_exit(read(to_child[0], &c, 1) < 0);
	}
	close(to_child[1]);
	ASSERT_EQ(pid, waitpid(pid, NULL, 0));
	EXPECT_EQ((long)NR, op_faults_of_writes(self->src, LEN));
	DUPLICATE();
	ASSERT_EQ(0, release(self));
	EXPECT_EQ(NR, self->r.reused);
	EXPECT_EQ(0, op_faults_of_writes(self->src, LEN));
	EXPECT_TRUE(mem_check(self->src, LEN, 1));
}

/* Pages that a child has are not the source's to write to. */
TEST_F(kinds, pages_of_a_child_are_not_taken_back)
{
	int to_child[2], status = -1;
	char c = 0;
	pid_t pid;

	DUPLICATE();
	ASSERT_EQ(0, pipe(to_child));
	pid = fork();
	if (!pid) {
		close(to_child[1]);
		if (read(to_child[0], &c, 1) < 0)
			_exit(2);
		_exit(!mem_check(self->src, LEN, 1) ||
		      !mem_check(self->dup, LEN, 1));
	}
	ASSERT_EQ(0, release(self));
	EXPECT_EQ(0, self->r.reused);
	EXPECT_TRUE(mem_is_free(self->dup, LEN));
	mem_fill(self->src, LEN, 2);
	close(to_child[1]);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_TRUE(mem_check(self->src, LEN, 2));
}

TEST_F(kinds, swapped_out_pages)
{
	struct mem_counters before, after;

	if (!mem_have_swap())
		SKIP(return, "no swap");
	ASSERT_EQ(NR, mem_pageout(self->src, LEN));
	mem_counters(&before);
	DUPLICATE();
	mem_fill(self->dup, PAGES(4), 2);
	ASSERT_EQ(0, release(self));
	EXPECT_TRUE(mem_is_free(self->dup, LEN));
	EXPECT_EQ(NR, swapped_pages(self->src, LEN));
	mem_counters(&after);
	EXPECT_TRUE(mem_counters_equal(&before, &after));
	EXPECT_TRUE(mem_check(self->src, LEN, 1));
	mem_fill(self->src, LEN, 3);
	EXPECT_TRUE(mem_check(self->src, LEN, 3));
}

TEST_F(kinds, of_all_kinds_of_pages)
{
	struct mem_counters before, after;
	size_t i;

	madvise(self->src, PAGES(8), MADV_DONTNEED);
	ASSERT_TRUE(mem_is_zero(self->src, PAGES(4)));
	mem_counters(&before);
	mem_counters_equal(&before, &before);
	mem_counters(&before);
	for (i = 0; i < 3; i++) {
		DUPLICATE();
		ASSERT_TRUE(mem_is_zero(self->dup + PAGES(2), PAGES(4)));
		mem_fill(self->dup + PAGES(5), PAGES(4), 2);
		mem_fill(self->src + PAGES(16), PAGES(8), 3);
		madvise(self->dup + PAGES(20), PAGES(8), MADV_DONTNEED);
		mprotect(self->dup + PAGES(30), PAGES(8), PROT_NONE);
		ASSERT_EQ(0, release(self));
		EXPECT_TRUE(mem_is_free(self->dup, LEN));
		EXPECT_EQ(0, op_faults_of_writes(self->src + PAGES(8),
						 LEN - PAGES(8)));
		mem_counters(&after);
		EXPECT_TRUE(mem_counters_equal(&before, &after));
	}
	EXPECT_TRUE(mem_is_zero(self->src, PAGES(8)));
	EXPECT_TRUE(mem_check(self->src + PAGES(16), PAGES(8), 3));
}

TEST_F(kinds, pinned_and_locked_pages)
{
	uint64_t pfn = mem_pfn(self->src + PAGES(3));

	ASSERT_EQ(0, mlock(self->src, LEN));
	if (uring_open(&self->ring) ||
	    uring_pin(&self->ring, self->src + PAGES(3), MEM_PAGE))
		SKIP(return, "no io_uring");
	DUPLICATE();
	ASSERT_EQ(0, release(self));
	EXPECT_EQ(NR - 1, self->r.reused);
	EXPECT_EQ(pfn, mem_pfn(self->src + PAGES(3)));
	EXPECT_EQ(0, op_faults_of_writes(self->src, LEN));
	EXPECT_EQ((long)LEN / 1024, mem_smaps(self->src, "Locked"));
	EXPECT_TRUE(mem_check(self->src, LEN, 1));
}

TEST_F(kinds, ksm_pages_stay_merged)
{
	ksm_fill(self->src, LEN, 1);
	if (!ksm_merge(self->src, LEN))
		SKIP(return, "no KSM");
	DUPLICATE();
	ASSERT_EQ(0, release(self));
	EXPECT_EQ(0, self->r.reused);
	EXPECT_EQ(NR / 2, mem_shared_pages(self->src, self->src + LEN / 2, LEN / 2));
	mem_fill(self->src, LEN / 2, 2);
	EXPECT_TRUE(mem_check(self->src + LEN / 2, LEN / 2, 1));
	ksm_stop();
}

TEST_F(kinds, file_mapping)
{
	int memfd = memfd_create("release_kinds", MFD_CLOEXEC);
	char *p, *dup;

	ASSERT_EQ(0, ftruncate(memfd, LEN));
	p = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE, memfd, 0);
	ASSERT_NE(MAP_FAILED, p);
	mem_fill(p, LEN / 2, 3);
	EXPECT_TRUE(mem_is_zero(p + LEN / 2, LEN / 2));
	dup = mem_dup(self->fd, p, LEN);
	ASSERT_NE(NULL, dup);
	EXPECT_TRUE(mem_is_zero(dup + LEN / 2, LEN / 2));
	ASSERT_EQ(0, op_release(self->fd, p, dup, LEN, &self->r));
	EXPECT_EQ(NR / 2, self->r.reused);
	EXPECT_TRUE(mem_is_free(dup, LEN));
	EXPECT_EQ(0, op_faults_of_writes(p, LEN / 2));
	EXPECT_TRUE(mem_check(p, LEN / 2, 3));
	EXPECT_TRUE(mem_is_zero(p + LEN / 2, LEN / 2));
	close(memfd);
}

TEST_F(kinds, duplicate_that_was_cut)
{
	DUPLICATE();
	ASSERT_EQ(0, mprotect(self->dup + PAGES(10), PAGES(7), PROT_READ));
	ASSERT_EQ(0, madvise(self->src + PAGES(13), PAGES(20), MADV_DONTDUMP));
	ASSERT_EQ(0, release(self));
	EXPECT_EQ(NR, self->r.reused);
	EXPECT_TRUE(mem_is_free(self->dup, LEN));
	EXPECT_EQ(0, op_faults_of_writes(self->src, LEN));
}

TEST_F(kinds, duplicate_with_a_hole_is_refused_whole)
{
	DUPLICATE();
	munmap(self->dup + PAGES(60), MEM_PAGE);
	EXPECT_EQ(-ENOMEM, release(self));
	EXPECT_EQ(COWSNAP_REASON_HOLE, self->r.reason);
	EXPECT_EQ(U64(self->dup + PAGES(60)), self->r.fault_addr);
	EXPECT_EQ(NR - 1, mem_shared_pages(self->src, self->dup, LEN));
}

TEST_F(kinds, sealed_duplicate_is_refused_whole)
{
	DUPLICATE();
	if (syscall(__NR_mseal, self->dup + PAGES(20), MEM_PAGE, 0))
		SKIP(return, "no mseal: %m");
	EXPECT_EQ(-EPERM, release(self));
	EXPECT_EQ(COWSNAP_REASON_SEALED, self->r.reason);
	EXPECT_EQ(0, self->r.reused);
	EXPECT_EQ(NR, mem_shared_pages(self->src, self->dup, LEN));
	mem_fill(self->src, LEN, 2);
	EXPECT_TRUE(mem_check(self->dup, LEN, 1));
}

/* Memory that is no duplicate is unmapped all the same. */
TEST_F(kinds, of_something_else_is_an_munmap)
{
	char *other = mem_map_alone(LEN);

	ASSERT_NE(NULL, other);
	mem_fill(other, LEN, 2);
	ASSERT_EQ(0, op_release(self->fd, self->src, other, LEN, &self->r));
	EXPECT_EQ(0, self->r.reused);
	EXPECT_TRUE(mem_is_free(other, LEN));
	EXPECT_TRUE(mem_check(self->src, LEN, 1));
}

TEST_F(kinds, read_only_source)
{
	DUPLICATE();
	ASSERT_EQ(0, mprotect(self->src, LEN, PROT_READ));
	ASSERT_EQ(0, release(self));
	EXPECT_EQ(0, self->r.reused);
	EXPECT_TRUE(mem_check(self->src, LEN, 1));
	ASSERT_EQ(0, mprotect(self->src, LEN, PROT_READ | PROT_WRITE));
	mem_fill(self->src, LEN, 2);
	EXPECT_TRUE(mem_check(self->src, LEN, 2));
}

TEST(hugetlb_pages)
{
	struct cowsnap_release r;
	int fd = mem_open();
	char *src, *dup;
	long before;

	ASSERT_GE(fd, 0);
	if (!pool_set(MEM_HUGE, POOL))
		SKIP(return, "no hugetlb pages");
	src = map_pages(MEM_HUGE, 3, MAP_NORESERVE);
	ASSERT_NE(NULL, src);
	fill_page(src, MEM_HUGE, 1);
	fill_page(src + MEM_HUGE, MEM_HUGE, 3);
	dup = mem_dup(fd, src, 3 * MEM_HUGE);
	ASSERT_NE(NULL, dup);
	fill_page(dup + MEM_HUGE, MEM_HUGE, 5);
	ASSERT_EQ(0, op_release(fd, src, dup, 3 * MEM_HUGE, &r));
	EXPECT_TRUE(mem_is_free(dup, 3 * MEM_HUGE));
	EXPECT_EQ(2 * MEM_HUGE / MEM_PAGE, r.reused);
	EXPECT_TRUE(pool_is(MEM_HUGE, POOL - 2, 0));
	before = op_faults();
	EXPECT_TRUE(check_page(src, MEM_HUGE, 1));
	EXPECT_TRUE(check_page(src + MEM_HUGE, MEM_HUGE, 3));
	fill_page(src, MEM_HUGE, 7);
	EXPECT_EQ(before, op_faults());
	munmap(src, 3 * MEM_HUGE);
	EXPECT_TRUE(pool_is(MEM_HUGE, POOL, 0));
	pool_set(MEM_HUGE, 0);
	close(fd);
}

TEST_HARNESS_MAIN
