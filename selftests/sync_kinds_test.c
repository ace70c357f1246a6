// SPDX-License-Identifier: GPL-2.0
/*
 * SYNC of each kind of page and mapping, what it refuses, and that reclaim and
 * migration find the pages on both sides afterwards.
 */
#include <linux/mman.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>

#include "kernel.h"
#include "ops.h"
#include "touch.h"
#include "uffd.h"
#include "uring.h"

#define NR	64UL
#define LEN	PAGES(NR)

#define NUMA_BALANCING	"/proc/sys/kernel/numa_balancing"

#ifndef __NR_mseal
#define __NR_mseal	462
#endif

FIXTURE(kinds)
{
	int fd;
	char *src;
	char *dup;
	struct uring ring;
	struct cgroup cg;
	long balancing;
	struct cowsnap_sync s;
	struct cowsnap_diff d;
	struct cowsnap_range vec[16];
};

FIXTURE_SETUP(kinds)
{
	self->ring.fd = -1;
	self->cg.dir[0] = 0;
	self->balancing = mem_read_long(NUMA_BALANCING);
	mem_write(NUMA_BALANCING, "0");
	self->fd = mem_open();
	ASSERT_GE(self->fd, 0);
	cgroup_enter(&self->cg);
	self->src = mem_map_alone(LEN);
	ASSERT_NE(NULL, self->src);
	mem_fill(self->src, LEN, 1);
	mem_drain();
}

FIXTURE_TEARDOWN(kinds)
{
	if (self->balancing > 0)
		mem_write(NUMA_BALANCING, "1");
	if (self->ring.fd >= 0) {
		uring_unpin(&self->ring);
		uring_close(&self->ring);
	}
	cgroup_leave(&self->cg);
	close(self->fd);
}

static int refresh(FIXTURE_DATA(kinds) *self)
{
	return op_sync(self->fd, self->src, self->dup, LEN, &self->s);
}

static int rollback(FIXTURE_DATA(kinds) *self)
{
	return op_sync(self->fd, self->dup, self->src, LEN, &self->s);
}

/* The owner of the pin keeps the page, and the duplicate gets what is there. */
TEST_F(kinds, pinned_pages_are_copied_each_time)
{
	char *page = self->src + PAGES(3), text[8] = "changed";
	uint64_t pfn = mem_pfn(page);
	int pipes[2];

	if (uring_open(&self->ring) || uring_pin(&self->ring, page, MEM_PAGE))
		SKIP(return, "no io_uring");
	DUPLICATE();
	ASSERT_EQ(0, pipe(pipes));
	ASSERT_EQ(8, write(pipes[1], text, 8));
	ASSERT_EQ(8, uring_read(&self->ring, pipes[0], page, 8));
	ASSERT_EQ(0, refresh(self));
	EXPECT_EQ(1, self->s.changed);
	EXPECT_EQ(pfn, mem_pfn(page));
	EXPECT_NE(pfn, mem_pfn(self->dup + PAGES(3)));
	EXPECT_EQ(0, memcmp(self->dup + PAGES(3), text, 8));
	EXPECT_EQ(NR - 1, mem_shared_pages(self->src, self->dup, LEN));
	/* It could be written before, and can be now. */
	EXPECT_EQ(0, op_faults_of_writes(page, MEM_PAGE));
	ASSERT_EQ(0, refresh(self));
	EXPECT_EQ(1, self->s.changed);
}

/* A device that has a page of the destination pinned goes on with the old one. */
TEST_F(kinds, pinned_page_of_the_destination_is_replaced)
{
	char *page, text[8] = "changed";
	int pipes[2];
	uint64_t pfn;

	DUPLICATE();
	page = self->dup + PAGES(3);
	mem_fill(page, MEM_PAGE, 2);
	if (uring_open(&self->ring) || uring_pin(&self->ring, page, MEM_PAGE))
		SKIP(return, "no io_uring");
	pfn = mem_pfn(page);
	ASSERT_EQ(0, refresh(self));
	EXPECT_EQ(1, self->s.changed);
	EXPECT_NE(pfn, mem_pfn(page));
	ASSERT_EQ(0, pipe(pipes));
	ASSERT_EQ(8, write(pipes[1], text, 8));
	ASSERT_EQ(8, uring_read(&self->ring, pipes[0], page, 8));
	EXPECT_TRUE(mem_check(self->dup, LEN, 1));
	EXPECT_TRUE(mem_check(self->src, LEN, 1));
}

TEST_F(kinds, ksm_pages_are_copied_each_time)
{
	ksm_fill(self->src, LEN, 1);
	DUPLICATE();
	mem_fill(self->dup, LEN, 2);
	if (!ksm_merge(self->src, LEN))
		SKIP(return, "no KSM");
	ASSERT_EQ(0, refresh(self));
	EXPECT_EQ(NR, self->s.changed);
	EXPECT_EQ(0, mem_shared_pages(self->src, self->dup, LEN));
	EXPECT_TRUE(ksm_check(self->dup, LEN, 1));
	/* What merged on the other side is replaced like anything else. */
	ASSERT_EQ(0, rollback(self));
	EXPECT_EQ(NR, self->s.changed);
	EXPECT_EQ(NR, mem_shared_pages(self->src, self->dup, LEN));
	EXPECT_TRUE(ksm_check(self->src, LEN, 1));
	ksm_stop();
}

/* What is taken over into locked memory stays in memory. */
TEST_F(kinds, locked_destination)
{
	if (!mem_have_swap())
		SKIP(return, "no swap");
	DUPLICATE();
	mem_fill(self->dup, LEN, 2);
	ASSERT_EQ(0, mlock(self->dup, LEN));
	EXPECT_EQ(NR, mem_pageout(self->src, LEN));
	ASSERT_EQ(0, refresh(self));
	EXPECT_EQ(NR, self->s.changed);
	EXPECT_EQ(0, swapped_pages(self->dup, LEN));
	/* Its share of pages that two mappings have. */
	EXPECT_EQ((long)LEN / 2048, mem_smaps(self->dup, "Locked"));
	mem_drain();
	cgroup_reclaim(&self->cg);
	EXPECT_EQ(0, swapped_pages(self->dup, LEN));
	EXPECT_TRUE(mem_check(self->dup, LEN, 1));
	munlock(self->dup, LEN);
}

/* Pages that were locked where they are replaced can be reclaimed where not. */
TEST_F(kinds, replaced_locked_pages_are_unlocked)
{
	long mlocked;
	int i;

	DUPLICATE();
	mem_fill(self->dup, LEN, 2);
	ASSERT_EQ(0, mlock(self->dup, LEN));
	mem_drain();
	mem_write("/proc/sys/vm/stat_refresh", "1");
	mlocked = mem_vmstat("nr_mlock");
	ASSERT_EQ(0, refresh(self));
	munmap(self->dup, LEN);
	for (i = 0; i < 100 && mem_vmstat("nr_mlock") > mlocked - (long)NR; i++) {
		mem_drain();
		mem_write("/proc/sys/vm/stat_refresh", "1");
	}
	EXPECT_GE(mlocked - (long)NR, mem_vmstat("nr_mlock"));
	if (!mem_have_swap() || !self->cg.dir[0])
		return;
	EXPECT_EQ(NR, cgroup_swap_out(&self->cg, self->src, LEN));
	EXPECT_TRUE(mem_check(self->src, LEN, 1));
}

TEST_F(kinds, soft_dirty_tells_of_replaced_pages)
{
	size_t i;

	DUPLICATE();
	mem_write("/proc/self/clear_refs", "4");
	if (mem_pagemap(self->dup) & MEM_PM_SOFT_DIRTY)
		SKIP(return, "no soft-dirty tracking");
	self->src[PAGES(5)] ^= 1;
	if (!(mem_pagemap(self->src + PAGES(5)) & MEM_PM_SOFT_DIRTY))
		SKIP(return, "no soft-dirty tracking");
	ASSERT_EQ(0, refresh(self));
	EXPECT_EQ(1, self->s.changed);
	for (i = 0; i < NR; i++)
		EXPECT_EQ(i == 5, !!(mem_pagemap(self->dup + PAGES(i)) &
				     MEM_PM_SOFT_DIRTY));
}

TEST_F(kinds, file_mappings)
{
	int memfd = memfd_create("sync_kinds", MFD_CLOEXEC);
	char *p, *dup;

	ASSERT_EQ(0, ftruncate(memfd, LEN));
	p = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE, memfd, 0);
	ASSERT_NE(MAP_FAILED, p);
	mem_fill(p, LEN / 2, 3);
	dup = mem_dup(self->fd, p, LEN);
	ASSERT_NE(NULL, dup);
	mem_fill(dup + LEN / 4, LEN / 2, 4);	/* over shared and file's pages */
	mem_fill(p + LEN - PAGES(2), PAGES(2), 5);
	ASSERT_EQ(0, op_sync(self->fd, p, dup, LEN, &self->s));
	EXPECT_EQ(NR / 2 + 2, self->s.changed);
	EXPECT_TRUE(mem_check(dup, LEN / 2, 3));
	EXPECT_TRUE(mem_is_zero(dup + LEN / 2, LEN / 2 - PAGES(2)));
	EXPECT_TRUE(mem_check(dup + LEN - PAGES(2), PAGES(2), 5));
	ASSERT_EQ(0, op_diff(self->fd, p, dup, LEN, self->vec, 16, &self->d));
	EXPECT_EQ(0, self->d.nr);
	close(memfd);
}

/* What the source has lost to a memory error the duplicate has not, until it follows. */
TEST_F(kinds, page_lost_to_an_error_differs_until_it_is_synced)
{
	const size_t lost = PAGES(3);
	struct cowsnap_unshare u;
	int err;

	DUPLICATE();
	ASSERT_EQ(0, op_unshare(self->fd, self->dup + lost, MEM_PAGE, 0, &u));
	err = lose_page(self->src + lost);
	if (err == -EINVAL)
		SKIP(return, "no memory errors on request");
	ASSERT_EQ(0, err);
	ASSERT_EQ(0, op_diff(self->fd, self->src, self->dup, LEN, self->vec, 16, &self->d));
	ASSERT_EQ(1, self->d.nr);
	EXPECT_EQ(lost, self->vec[0].start);
	EXPECT_EQ(lost + MEM_PAGE, self->vec[0].end);
	ASSERT_EQ(0, rollback(self));
	EXPECT_EQ(1, self->s.changed);
	EXPECT_TRUE(mem_check(self->src, LEN, 1));
	EXPECT_EQ(NR, mem_shared_pages(self->src, self->dup, LEN));

	ASSERT_EQ(0, op_unshare(self->fd, self->dup + lost, MEM_PAGE, 0, &u));
	mem_drain();
	ASSERT_EQ(0, lose_page(self->src + lost));
	EXPECT_EQ(0, load_at(self->dup + lost));
	ASSERT_EQ(0, refresh(self));
	EXPECT_EQ(1, self->s.changed);
	EXPECT_EQ(SIGBUS, load_at(self->dup + lost));
	EXPECT_EQ(SIGBUS, load_at(self->src + lost));
	EXPECT_EQ(NR - 1, mem_shared_pages(self->src, self->dup, LEN));
}

#define EXPECT_REFUSED(err, reason_, from, to) do {			\
	uint64_t maps = mem_maps_hash(), pfn = mem_pfn(to);		\
									\
	EXPECT_EQ(-(err), op_sync(self->fd, from, to, LEN, &self->s));	\
	EXPECT_EQ(COWSNAP_REASON_ ## reason_, self->s.reason);		\
	EXPECT_EQ(0, self->s.changed);					\
	EXPECT_EQ(maps, mem_maps_hash());				\
	EXPECT_EQ(pfn, mem_pfn(to));					\
} while (0)

TEST_F(kinds, unrelated_memory_is_refused)
{
	char *other = mem_map_alone(LEN), *empty = mem_map_alone(LEN);

	ASSERT_NE(NULL, other);
	ASSERT_NE(NULL, empty);
	mem_fill(other, LEN, 2);
	EXPECT_REFUSED(EOPNOTSUPP, UNRELATED, self->src, other);
	EXPECT_REFUSED(EOPNOTSUPP, UNRELATED, other, self->src);
	EXPECT_REFUSED(EOPNOTSUPP, UNRELATED, self->src, empty);
	EXPECT_EQ(0, mem_touched_pages(empty, LEN));
	EXPECT_TRUE(mem_check(other, LEN, 2));
}

/* A duplicate, but not page for page. */
TEST_F(kinds, shifted_duplicate_is_refused)
{
	DUPLICATE();
	EXPECT_EQ(-EOPNOTSUPP, op_sync(self->fd, self->src + MEM_PAGE, self->dup,
				       LEN - MEM_PAGE, &self->s));
	EXPECT_EQ(COWSNAP_REASON_UNRELATED, self->s.reason);
	EXPECT_EQ(NR, mem_shared_pages(self->src, self->dup, LEN));
}

/* One half is a duplicate, the other is not: nothing of either has changed. */
TEST_F(kinds, refused_before_anything_has_changed)
{
	DUPLICATE();
	mem_fill(self->dup, LEN, 2);
	ASSERT_NE(MAP_FAILED, mmap(self->dup + LEN / 2, LEN / 2,
				   PROT_READ | PROT_WRITE, MAP_PRIVATE |
				   MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	self->dup[LEN - 1] = 1;
	EXPECT_REFUSED(EOPNOTSUPP, UNRELATED, self->src, self->dup);
	EXPECT_EQ(U64(self->dup + LEN / 2), self->s.fault_addr);
	EXPECT_TRUE(mem_check(self->dup, LEN / 2, 2));
}

TEST_F(kinds, siblings_and_grandchildren_are_related)
{
	char *second, *third;

	DUPLICATE();
	second = mem_dup(self->fd, self->src, LEN);
	third = mem_dup(self->fd, self->dup, LEN);
	ASSERT_TRUE(second && third);
	mem_fill(third, LEN, 3);
	/* Whatever is said, nothing may be lost. */
	if (!op_sync(self->fd, third, self->dup, LEN, &self->s))
		EXPECT_TRUE(mem_check(self->dup, LEN, 3));
	if (!op_sync(self->fd, self->src, third, LEN, &self->s)) {
		EXPECT_TRUE(mem_check(third, LEN, 1));
		EXPECT_EQ(NR, mem_shared_pages(self->src, third, LEN));
		if (self->cg.dir[0] && mem_have_swap()) {
			mem_drain();
			EXPECT_EQ(NR, cgroup_swap_out(&self->cg, self->src, LEN));
			EXPECT_EQ(NR, swapped_pages(third, LEN));
		}
	}
	EXPECT_TRUE(mem_check(second, LEN, 1));
	EXPECT_TRUE(mem_check(self->src, LEN, 1));
}

/* After a fork each mapping has an anon_vma of its own, see is_related(). */
TEST_F(kinds, child_of_fork)
{
	int status = -1, err;
	char *own;
	pid_t pid;

	DUPLICATE();
	pid = fork();
	if (!pid) {
		/* The parent's two: the child's pages of one are not found in the other. */
		mem_fill(self->dup, LEN, 2);
		err = refresh(self);
		if (!err || self->s.reason != COWSNAP_REASON_UNRELATED)
			_exit(1);
		if (!mem_check(self->dup, LEN, 2))
			_exit(2);
		own = mem_dup(self->fd, self->src, LEN);
		if (!own)
			_exit(3);
		mem_fill(self->src, LEN, 4);
		if (op_sync(self->fd, self->src, own, LEN, &self->s))
			_exit(4);
		if (!mem_check(own, LEN, 4))
			_exit(5);
		mem_fill(own, LEN, 5);
		if (op_sync(self->fd, own, self->src, LEN, &self->s))
			_exit(6);
		_exit(mem_check(self->src, LEN, 5) ? 0 : 7);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, WEXITSTATUS(status));
	EXPECT_TRUE(WIFEXITED(status));
	EXPECT_TRUE(mem_check(self->src, LEN, 1));
	EXPECT_TRUE(mem_check(self->dup, LEN, 1));
}

TEST_F(kinds, moved_sides_are_still_related)
{
	char *to = mem_free_range(LEN, MEM_HUGE, PAGES(5));

	DUPLICATE();
	mem_fill(self->dup, LEN, 2);
	to = mremap(self->dup, LEN, LEN, MREMAP_MAYMOVE | MREMAP_FIXED, to);
	ASSERT_NE(MAP_FAILED, to);
	self->dup = to;
	ASSERT_EQ(0, rollback(self));
	EXPECT_TRUE(mem_check(self->src, LEN, 2));
	to = mem_free_range(LEN, MEM_HUGE, PAGES(9));
	to = mremap(self->src, LEN, LEN, MREMAP_MAYMOVE | MREMAP_FIXED, to);
	ASSERT_NE(MAP_FAILED, to);
	self->src = to;
	mem_fill(self->src, LEN, 3);
	ASSERT_EQ(0, refresh(self));
	EXPECT_TRUE(mem_check(self->dup, LEN, 3));
	EXPECT_EQ(NR, mem_shared_pages(self->src, self->dup, LEN));
}

TEST_F(kinds, destination_with_a_userfaultfd_is_refused)
{
	int uffd = open_uffd(0);

	if (uffd < 0)
		SKIP(return, "no userfaultfd");
	DUPLICATE();
	mem_fill(self->dup, LEN, 2);
	ASSERT_EQ(0, watch(uffd, self->dup + PAGES(8), PAGES(8),
			   UFFDIO_REGISTER_MODE_MISSING));
	EXPECT_REFUSED(EOPNOTSUPP, UFFD, self->src, self->dup);
	EXPECT_EQ(U64(self->dup + PAGES(8)), self->s.fault_addr);
	EXPECT_TRUE(mem_check(self->dup, LEN, 2));
	close(uffd);
}

TEST_F(kinds, sealed_read_only_destination_is_refused)
{
	DUPLICATE();
	mem_fill(self->dup, LEN, 2);
	ASSERT_EQ(0, mprotect(self->dup, LEN, PROT_READ));
	if (syscall(__NR_mseal, self->dup, LEN, 0))
		SKIP(return, "no mseal: %m");
	EXPECT_REFUSED(EPERM, SEALED, self->src, self->dup);
	EXPECT_EQ(U64(self->dup), self->s.fault_addr);
	EXPECT_TRUE(mem_check(self->dup, LEN, 2));
}

TEST_F(kinds, huge_page_advice_is_refused_where_it_would_harm)
{
	if (mem_huge_whole(self->fd))
		SKIP(return, "huge pages are shared whole");
	DUPLICATE();
	mem_fill(self->dup, LEN, 2);
	ASSERT_EQ(0, madvise(self->dup, LEN, MADV_HUGEPAGE));
	EXPECT_REFUSED(EOPNOTSUPP, HUGEPAGE, self->src, self->dup);
	EXPECT_REFUSED(EOPNOTSUPP, HUGEPAGE, self->dup, self->src);
}

TEST_F(kinds, mappings_cut_differently)
{
	DUPLICATE();
	ASSERT_EQ(0, mprotect(self->src + PAGES(10), PAGES(7), PROT_READ));
	ASSERT_EQ(0, madvise(self->dup + PAGES(13), PAGES(20), MADV_DONTDUMP));
	mem_fill(self->src, PAGES(10), 2);
	mem_fill(self->src + PAGES(17), LEN - PAGES(17), 2);
	ASSERT_EQ(0, op_sync(self->fd, self->src + PAGES(3), self->dup + PAGES(3),
			     LEN - PAGES(5), &self->s));
	EXPECT_EQ(NR - 7 - 5, self->s.changed);
	EXPECT_EQ(NR - 5, mem_shared_pages(self->src, self->dup, LEN));
	EXPECT_TRUE(mem_check(self->dup, PAGES(3), 1));
	EXPECT_EQ(0, memcmp(self->dup + PAGES(3), self->src + PAGES(3),
			    LEN - PAGES(5)));
}

TEST_F(kinds, read_only_duplicate_stays_so)
{
	struct cowsnap_remap r;
	unsigned long start, end;
	char perms[5];

	ASSERT_EQ(0, mem_remap(self->fd, self->src, LEN, NULL,
			       COWSNAP_REMAP_READONLY, &r));
	self->dup = (char *)(uintptr_t)r.dst;
	mem_fill(self->src, LEN, 2);
	ASSERT_EQ(0, refresh(self));
	EXPECT_EQ(NR, self->s.changed);
	EXPECT_TRUE(mem_check(self->dup, LEN, 2));
	ASSERT_TRUE(mem_vma(self->dup, &start, &end, perms));
	EXPECT_STREQ("r--p", perms);
	mem_fill(self->src, LEN, 3);
	ASSERT_EQ(0, rollback(self));
	EXPECT_TRUE(mem_check(self->src, LEN, 2));
	mem_fill(self->src, LEN, 4);
	EXPECT_TRUE(mem_check(self->dup, LEN, 2));
}

/* Everybody at once */

static _Atomic bool over;
static char *shaken[2];

static void *reclaim_all(void *cg)
{
	while (!over) {
		cgroup_reclaim(cg);
		madvise(shaken[1], LEN, MADV_PAGEOUT);
		madvise(shaken[0], LEN, MADV_COLD);
	}
	return NULL;
}

static void *migrate_all(void *unused)
{
	while (!over) {
		mem_write("/proc/sys/vm/compact_memory", "1");
		move_to_node(shaken[0], LEN, 0);
		move_to_node(shaken[0], LEN, mem_nodes() - 1);
	}
	return unused;
}

static void *fork_all(void *unused)
{
	pid_t pid;

	while (!over) {
		pid = fork();
		if (!pid)
			_exit(0);
		waitpid(pid, NULL, 0);
	}
	return unused;
}

static void *read_all(void *unused)
{
	volatile char sum = 0;
	size_t i;

	while (!over)
		for (i = 0; i < NR; i++)
			sum += shaken[1][PAGES(i)];
	return unused;
}

/* Refreshes and rollbacks while the kernel and others are at the same pages. */
TEST_F_TIMEOUT(kinds, nothing_is_lost_while_pages_move, 200)
{
	static void *(*const at[])(void *) = {
		reclaim_all, migrate_all, fork_all, read_all,
	};
	pthread_t threads[ARRAY_SIZE(at)];
	double end = seconds() + 6;
	unsigned int seed = 1;
	size_t i;
	int err;

	DUPLICATE();
	shaken[0] = self->src;
	shaken[1] = self->dup;
	over = false;
	for (i = 0; i < ARRAY_SIZE(at); i++)
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, at[i], &self->cg));
	while (seconds() < end || seed < 5) {
		mem_fill(self->src, LEN, ++seed);
		err = refresh(self);
		if (err || !mem_check(self->dup, LEN, seed))
			break;
		mem_fill(self->src + PAGES(seed % NR), MEM_PAGE, 99);
		mem_fill(self->dup, PAGES(seed % 7), seed + 1);
		err = rollback(self);
		if (err || !mem_check(self->src, PAGES(seed % 7), seed + 1) ||
		    memcmp(self->src, self->dup, LEN))
			break;
	}
	over = true;
	for (i = 0; i < ARRAY_SIZE(at); i++)
		pthread_join(threads[i], NULL);
	EXPECT_EQ(0, err)
		TH_LOG("reason %u", self->s.reason);
	EXPECT_TRUE(seconds() >= end && seed >= 5)
		TH_LOG("at round %u", seed);
}

TEST_HARNESS_MAIN
