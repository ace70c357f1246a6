// SPDX-License-Identifier: GPL-2.0
/*
 * UNSHARE of each kind of page and mapping: what is copied, what is taken back,
 * what stays as it is; and who else goes on seeing what.
 */
#include <sys/wait.h>

#include "account.h"
#include "hugepool.h"
#include "ops.h"
#include "uffd.h"
#include "uring.h"

#define NR	16UL
#define LEN	PAGES(NR)

FIXTURE(kinds)
{
	int fd;
	char *src;
	char *dup;
	struct uring ring;
	struct cgroup cg;
	struct cowsnap_unshare u;
};

FIXTURE_SETUP(kinds)
{
	self->ring.fd = -1;
	self->cg.dir[0] = 0;
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
	cgroup_leave(&self->cg);
	close(self->fd);
}

static int unshare_src(FIXTURE_DATA(kinds) *self, unsigned int flags)
{
	return op_unshare(self->fd, self->src, LEN, flags, &self->u);
}

TEST_F(kinds, untouched_and_zero_pages_stay)
{
	char *p = mem_map_alone(LEN), *dup;
	size_t i;

	ASSERT_NE(NULL, p);
	for (i = 0; i < NR; i += 2)
		ASSERT_TRUE(mem_is_zero(p + PAGES(i), MEM_PAGE));
	dup = mem_dup(self->fd, p, LEN);
	ASSERT_NE(NULL, dup);
	ASSERT_EQ(0, op_unshare(self->fd, p, LEN, 0, &self->u));
	EXPECT_EQ(0, self->u.copied);
	EXPECT_EQ(0, self->u.reused);
	for (i = 0; i < NR; i++) {
		if (i % 2) {
			EXPECT_TRUE(mem_untouched(p + PAGES(i)));
		} else {
			EXPECT_EQ(mem_zero_pfn(), mem_pfn(p + PAGES(i)));
		}
	}
}

/* Private, but not writable: nobody asked for that. */
TEST_F(kinds, read_only_memory_is_private_and_stays_read_only)
{
	struct mem_counters before, after;

	DUPLICATE();
	ASSERT_EQ(0, mprotect(self->src, LEN, PROT_READ));
	mem_counters(&before);
	ASSERT_EQ(0, unshare_src(self, 0));
	EXPECT_EQ(NR, self->u.copied);
	EXPECT_EQ(0, mem_shared_pages(self->src, self->dup, LEN));
	mem_counters(&after);
	/* But for pages of the stack. */
	EXPECT_GE(before.rss_anon + 16, after.rss_anon);
	EXPECT_FALSE(is_bus(self->src, false));
	ASSERT_EQ(0, unshare_src(self, 0));
	EXPECT_EQ(0, self->u.copied + self->u.reused);
	ASSERT_EQ(0, mprotect(self->src, LEN, PROT_READ | PROT_WRITE));
	/* Whatever makes them writable now, it copies nothing. */
	ASSERT_EQ(0, unshare_src(self, 0));
	EXPECT_EQ(0, self->u.copied);
	EXPECT_EQ(0, op_faults_of_writes(self->src, LEN));
	mem_fill(self->src, LEN, 2);
	EXPECT_TRUE(mem_check(self->dup, LEN, 1));
}

TEST_F(kinds, inaccessible_memory_is_private_and_stays_inaccessible)
{
	int status;
	pid_t pid;

	DUPLICATE();
	ASSERT_EQ(0, mprotect(self->src, LEN, PROT_NONE));
	ASSERT_EQ(0, unshare_src(self, 0));
	pid = fork();
	if (!pid)
		_exit(*(volatile char *)self->src);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
	ASSERT_EQ(0, mprotect(self->src, LEN, PROT_READ | PROT_WRITE));
	EXPECT_EQ(0, mem_shared_pages(self->src, self->dup, LEN));
	EXPECT_TRUE(mem_check(self->src, LEN, 1));
	mem_fill(self->src, LEN, 2);
	EXPECT_TRUE(mem_check(self->dup, LEN, 1));
}

TEST_F(kinds, locked_memory_stays_locked)
{
	ASSERT_EQ(0, mlock(self->src, LEN));
	DUPLICATE();
	ASSERT_EQ(0, unshare_src(self, 0));
	EXPECT_EQ(NR, self->u.copied);
	mem_drain();
	EXPECT_EQ((long)LEN / 1024, mem_smaps(self->src, "Locked"));
	EXPECT_EQ(0, mem_pageout(self->src, LEN));
	if (mem_have_swap())
		EXPECT_EQ(NR, mem_pageout(self->dup, LEN));
	EXPECT_TRUE(mem_check(self->src, LEN, 1));
	EXPECT_TRUE(mem_check(self->dup, LEN, 1));
}

TEST_F(kinds, ksm_pages_are_copied)
{
	ksm_fill(self->src, LEN, 1);
	if (!ksm_merge(self->src, LEN))
		SKIP(return, "no KSM");
	EXPECT_EQ(0, unshare_src(self, COWSNAP_UNSHARE_REUSE));
	EXPECT_EQ(0, self->u.reused + self->u.copied);
	EXPECT_EQ(0, unshare_src(self, 0));
	EXPECT_EQ(NR, self->u.copied);
	EXPECT_EQ(0, op_faults_of_writes(self->src, LEN));
	EXPECT_TRUE(ksm_check(self->src, LEN, 1));
	EXPECT_EQ(0, mem_shared_pages(self->src, self->src + LEN / 2, LEN / 2));
	ksm_stop();
}

/* Who waits for the first write gets to know of it. */
TEST_F(kinds, what_a_userfaultfd_protects_stays)
{
	int uffd = open_uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP);

	if (uffd < 0)
		SKIP(return, "no userfaultfd with write protection");
	DUPLICATE();
	ASSERT_EQ(0, watch(uffd, self->src, LEN, UFFDIO_REGISTER_MODE_WP));
	ASSERT_EQ(0, protect(uffd, self->src, LEN / 2, true));
	ASSERT_EQ(0, unshare_src(self, 0));
	EXPECT_EQ(NR / 2, self->u.copied);
	EXPECT_EQ(NR / 2, mem_shared_pages(self->src, self->dup, LEN));
	EXPECT_TRUE(mem_pagemap(self->src) & MEM_PM_UFFD_WP);
	EXPECT_EQ(0, op_faults_of_writes(self->src + LEN / 2, LEN / 2));
	munmap(self->dup, LEN);
	ASSERT_EQ(0, unshare_src(self, COWSNAP_UNSHARE_REUSE));
	EXPECT_EQ(0, self->u.reused);
	EXPECT_TRUE(mem_pagemap(self->src) & MEM_PM_UFFD_WP);
	EXPECT_TRUE(mem_check(self->src, LEN, 1));
	close(uffd);
}

static bool soft_dirty(const char *p)
{
	return mem_pagemap(p) & MEM_PM_SOFT_DIRTY;
}

/* A tracker hears of writes, of all of them and of nothing else. */
TEST_F(kinds, soft_dirty_tracking_goes_on)
{
	size_t i;

	if (!soft_dirty(self->src))
		SKIP(return, "no soft-dirty tracking");
	DUPLICATE();
	ASSERT_EQ(0, mem_write("/proc/self/clear_refs", "4"));
	if (soft_dirty(self->src))
		SKIP(return, "no soft-dirty tracking");
	*(volatile char *)(self->src + PAGES(1)) ^= 0;
	ASSERT_TRUE(soft_dirty(self->src + PAGES(1)));
	ASSERT_EQ(0, unshare_src(self, 0));
	EXPECT_EQ(NR - 1, self->u.copied);
	EXPECT_EQ(0, mem_shared_pages(self->src, self->dup, LEN));
	for (i = 0; i < NR; i++)
		EXPECT_EQ(i == 1, soft_dirty(self->src + PAGES(i)));
	*(volatile char *)(self->src + PAGES(5)) ^= 0;
	EXPECT_TRUE(soft_dirty(self->src + PAGES(5)));
	munmap(self->dup, LEN);
	ASSERT_EQ(0, unshare_src(self, COWSNAP_UNSHARE_REUSE));
	*(volatile char *)(self->src + PAGES(6)) ^= 0;
	EXPECT_TRUE(soft_dirty(self->src + PAGES(6)));
	EXPECT_FALSE(soft_dirty(self->src + PAGES(7)));
	EXPECT_TRUE(mem_check(self->src, LEN, 1));
}

static size_t on_node(char *p, size_t nr, int node)
{
	void *pages[NR];
	int status[NR];
	size_t i, count = 0;

	for (i = 0; i < nr; i++)
		pages[i] = p + PAGES(i);
	if (syscall(__NR_move_pages, 0, nr, pages, NULL, status, 0))
		return 0;
	for (i = 0; i < nr; i++)
		count += status[i] == node;
	return count;
}

TEST_F(kinds, copies_come_from_the_node_that_is_named)
{
	int node = mem_nodes() - 1;

	if (!node)
		SKIP(return, "one node");
	ASSERT_EQ(0, run_on_cpu0());
	ASSERT_EQ(NR, move_to_node(self->src, LEN, 0));
	DUPLICATE();
	/* Ours alone already: not copied, and so not moved. */
	mem_fill(self->src, PAGES(4), 1);
	ASSERT_EQ(4, move_to_node(self->src, PAGES(4), 0));
	self->u = (struct cowsnap_unshare){
		.size = sizeof(self->u), .flags = COWSNAP_UNSHARE_NODE,
		.addr = U64(self->src), .len = LEN, .node = node,
	};
	ASSERT_EQ(0, op_call(self->fd, COWSNAP_UNSHARE, &self->u));
	EXPECT_EQ(NR - 4, self->u.copied);
	EXPECT_EQ(4, on_node(self->src, 4, 0));
	EXPECT_EQ(NR - 4, on_node(self->src + PAGES(4), NR - 4, node));
	EXPECT_EQ(NR - 4, on_node(self->dup + PAGES(4), NR - 4, 0));
	EXPECT_TRUE(mem_check(self->src, LEN, 1));
}

TEST_F(kinds, copies_follow_the_memory_policy)
{
	int node = mem_nodes() - 1;
	unsigned long mask = 1UL << node;

	if (!node)
		SKIP(return, "one node");
	ASSERT_EQ(0, run_on_cpu0());
	ASSERT_EQ(NR, move_to_node(self->src, LEN, 0));
	DUPLICATE();
	ASSERT_EQ(0, syscall(__NR_mbind, self->src, LEN, MPOL_BIND, &mask, 64, 0));
	ASSERT_EQ(0, unshare_src(self, 0));
	EXPECT_EQ(NR, self->u.copied);
	EXPECT_EQ(NR, on_node(self->src, NR, node));
}

TEST_F(kinds, swapped_out_shared_pages_are_copied)
{
	if (!mem_have_swap())
		SKIP(return, "no swap");
	ASSERT_EQ(NR, mem_pageout(self->src, LEN));
	DUPLICATE();
	ASSERT_EQ(0, unshare_src(self, COWSNAP_UNSHARE_REUSE));
	EXPECT_EQ(NR, swapped_pages(self->src, LEN));
	ASSERT_EQ(0, unshare_src(self, 0));
	EXPECT_EQ(NR, self->u.copied + self->u.reused);
	EXPECT_EQ(0, swapped_pages(self->src, LEN));
	EXPECT_EQ(NR, swapped_pages(self->dup, LEN));
	EXPECT_EQ(0, op_faults_of_writes(self->src, LEN));
	mem_fill(self->src, LEN, 2);
	EXPECT_TRUE(mem_check(self->dup, LEN, 1));
	EXPECT_TRUE(mem_check(self->src, LEN, 2));
}

TEST_F(kinds, swapped_out_pages_of_our_own_stay_out)
{
	if (!mem_have_swap())
		SKIP(return, "no swap");
	ASSERT_EQ(NR, mem_pageout(self->src, LEN));
	ASSERT_EQ(0, unshare_src(self, 0));
	EXPECT_EQ(0, self->u.copied + self->u.reused);
	EXPECT_EQ(NR, swapped_pages(self->src, LEN));
	EXPECT_TRUE(mem_check(self->src, LEN, 1));
}

/* The device and the CPU go on seeing one page. */
TEST_F(kinds, pinned_page_stays_where_it_is)
{
	char *page = self->src + PAGES(3), text[8] = "changed";
	uint64_t pfn = mem_pfn(page);
	int pipes[2];

	if (uring_open(&self->ring) || uring_pin(&self->ring, page, MEM_PAGE))
		SKIP(return, "no io_uring");
	DUPLICATE();
	ASSERT_EQ(0, unshare_src(self, 0));
	EXPECT_EQ(NR - 1, self->u.copied);
	EXPECT_EQ(pfn, mem_pfn(page));
	ASSERT_EQ(0, pipe(pipes));
	ASSERT_EQ(8, write(pipes[1], text, 8));
	ASSERT_EQ(8, uring_read(&self->ring, pipes[0], page, 8));
	EXPECT_EQ(0, memcmp(page, text, 8));
	EXPECT_TRUE(mem_check(self->dup, LEN, 1));
}

/* After a fork the pin is the parent's, and so is the page. */
TEST_F(kinds, page_pinned_after_it_was_shared)
{
	char *page = self->src + PAGES(3);
	uint64_t pfn;

	DUPLICATE();
	if (uring_open(&self->ring) || uring_pin(&self->ring, page, MEM_PAGE))
		SKIP(return, "no io_uring");
	pfn = mem_pfn(page);
	ASSERT_EQ(0, unshare_src(self, 0));
	EXPECT_EQ(pfn, mem_pfn(page));
	EXPECT_EQ(NR - 1, self->u.copied);
	EXPECT_TRUE(mem_check(self->dup, LEN, 1));
}

/* Anonymous pages that the group is charged. */
static long charged_pages(const struct cgroup *cg)
{
	char path[128], line[128];
	long bytes = -1;
	FILE *f;

	snprintf(path, sizeof(path), "%s/memory.stat", cg->dir);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f) &&
	       sscanf(line, "anon %ld", &bytes) != 1)
		;
	if (f)
		fclose(f);
	return bytes / (long)MEM_PAGE;
}

/*
 * Many times, since a few pages more or less are always under way, and the kernel
 * sums up what its CPUs know every two seconds.
 */
TEST_F(kinds, charge_is_returned)
{
	double end = seconds() + 10;
	int i;

	if (account_enter(&self->cg))
		SKIP(return, "no memory cgroup");
	for (i = 0; i < 100; i++) {
		DUPLICATE();
		ASSERT_EQ(0, unshare_src(self, 0));
		ASSERT_EQ(NR, self->u.copied);
		munmap(self->dup, LEN);
	}
	while (seconds() < end && (charged_pages(&self->cg) < (long)NR ||
				   charged_pages(&self->cg) > 30 * (long)NR)) {
		mem_drain();
		usleep(100000);
	}
	EXPECT_LE((long)NR, charged_pages(&self->cg));
	EXPECT_GE(30 * (long)NR, charged_pages(&self->cg));
}

/* What was written is private memory, the rest the file's. */
TEST_F(kinds, of_a_file_mapping_the_written_pages)
{
	int memfd = memfd_create("unshare_kinds", MFD_CLOEXEC);
	char *p, *dup;

	ASSERT_EQ(0, ftruncate(memfd, LEN));
	p = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE, memfd, 0);
	ASSERT_NE(MAP_FAILED, p);
	mem_fill(p, LEN / 2, 3);
	EXPECT_TRUE(mem_is_zero(p + LEN / 2, LEN / 2));
	dup = mem_dup(self->fd, p, LEN);
	ASSERT_NE(NULL, dup);
	EXPECT_TRUE(mem_is_zero(dup + LEN / 2, LEN / 2));
	ASSERT_EQ(0, op_unshare(self->fd, p, LEN, 0, &self->u));
	EXPECT_EQ(NR / 2, self->u.copied);
	EXPECT_EQ(0, self->u.reused);
	EXPECT_EQ(NR / 2, mem_shared_pages(p, dup, LEN));
	EXPECT_EQ(0, op_faults_of_writes(p, LEN / 2));
	EXPECT_TRUE(mem_check(p, LEN / 2, 3));
	EXPECT_TRUE(mem_check(dup, LEN / 2, 3));
	close(memfd);
}

TEST_F(kinds, heap)
{
	char *heap = sbrk(LEN + MEM_PAGE), *dup;

	heap = (char *)(((uintptr_t)heap + MEM_PAGE - 1) & -MEM_PAGE);
	mem_fill(heap, LEN, 4);
	dup = mem_dup(self->fd, heap, LEN);
	ASSERT_NE(NULL, dup);
	ASSERT_EQ(0, op_unshare(self->fd, heap, LEN, 0, &self->u));
	EXPECT_EQ(NR, self->u.copied);
	EXPECT_EQ(0, op_faults_of_writes(heap, LEN));
	mem_fill(heap, LEN, 5);
	EXPECT_TRUE(mem_check(dup, LEN, 4));
}

TEST_F(kinds, range_over_several_mappings)
{
	size_t i;

	DUPLICATE();
	for (i = 0; i < NR; i += 4)
		ASSERT_EQ(0, madvise(self->src + PAGES(i), PAGES(2), MADV_DONTDUMP));
	ASSERT_EQ(0, mprotect(self->src + PAGES(5), PAGES(1), PROT_READ));
	ASSERT_EQ(0, op_unshare(self->fd, self->src + PAGES(1), PAGES(NR - 2), 0,
				&self->u));
	EXPECT_EQ(NR - 2, self->u.copied);
	EXPECT_EQ(2, mem_shared_pages(self->src, self->dup, LEN));
	EXPECT_TRUE(mem_check(self->src, LEN, 1));
	EXPECT_TRUE(mem_check(self->dup, LEN, 1));
}

/* Hugetlb */

FIXTURE(pool)
{
	int fd;
	char *src;
	char *dup;
	struct cowsnap_unshare u;
};

FIXTURE_SETUP(pool)
{
	self->fd = mem_open();
	ASSERT_GE(self->fd, 0);
	if (!pool_set(MEM_HUGE, POOL))
		SKIP(return, "no hugetlb pages");
	self->src = map_pages(MEM_HUGE, 2, MAP_NORESERVE);
	ASSERT_NE(NULL, self->src);
	fill_page(self->src, MEM_HUGE, 1);
	fill_page(self->src + MEM_HUGE, MEM_HUGE, 3);
	self->dup = mem_dup(self->fd, self->src, 2 * MEM_HUGE);
	ASSERT_NE(NULL, self->dup);
	ASSERT_TRUE(pool_is(MEM_HUGE, POOL - 2, 0));
}

FIXTURE_TEARDOWN(pool)
{
	munmap(self->src, 2 * MEM_HUGE);
	munmap(self->dup, 2 * MEM_HUGE);
	pool_set(MEM_HUGE, 0);
	close(self->fd);
}

#define HUGE_NR	(MEM_HUGE / MEM_PAGE)

TEST_F(pool, shared_pages_are_copied)
{
	long before;

	ASSERT_EQ(0, op_unshare(self->fd, self->src, 2 * MEM_HUGE, 0, &self->u));
	EXPECT_EQ(2 * HUGE_NR, self->u.copied);
	EXPECT_TRUE(pool_is(MEM_HUGE, POOL - 4, 0));
	before = op_faults();
	fill_page(self->src, MEM_HUGE, 5);
	EXPECT_EQ(before, op_faults());
	EXPECT_TRUE(check_page(self->dup, MEM_HUGE, 1));
	EXPECT_TRUE(check_page(self->src + MEM_HUGE, MEM_HUGE, 3));
}

TEST_F(pool, what_nobody_else_has_is_taken_back)
{
	uint64_t pfn = mem_pfn(self->src);

	ASSERT_EQ(0, op_unshare(self->fd, self->src, 2 * MEM_HUGE,
				COWSNAP_UNSHARE_REUSE, &self->u));
	EXPECT_EQ(0, self->u.reused + self->u.copied);
	munmap(self->dup + MEM_HUGE, MEM_HUGE);
	ASSERT_EQ(0, op_unshare(self->fd, self->src, 2 * MEM_HUGE,
				COWSNAP_UNSHARE_REUSE, &self->u));
	EXPECT_EQ(HUGE_NR, self->u.reused);
	EXPECT_EQ(0, self->u.copied);
	EXPECT_EQ(pfn, mem_pfn(self->src));
	EXPECT_TRUE(pool_is(MEM_HUGE, POOL - 2, 0));
	fill_page(self->src + MEM_HUGE, MEM_HUGE, 5);
	EXPECT_TRUE(check_page(self->dup, MEM_HUGE, 1));
}

TEST_F(pool, exhausted_it_is_named_and_calling_again_goes_on)
{
	ASSERT_TRUE(pool_exhaust(MEM_HUGE));
	EXPECT_EQ(-ENOMEM, op_unshare(self->fd, self->src, 2 * MEM_HUGE, 0,
				      &self->u));
	EXPECT_EQ(COWSNAP_REASON_HUGETLB_POOL, self->u.reason);
	EXPECT_EQ(U64(self->src), self->u.fault_addr);
	EXPECT_EQ(0, self->u.copied);
	ASSERT_TRUE(pool_set(MEM_HUGE, 3));
	EXPECT_EQ(-ENOMEM, op_unshare(self->fd, self->src, 2 * MEM_HUGE, 0,
				      &self->u));
	EXPECT_EQ(U64(self->src + MEM_HUGE), self->u.fault_addr);
	EXPECT_EQ(HUGE_NR, self->u.copied);
	ASSERT_TRUE(pool_set(MEM_HUGE, 4));
	EXPECT_EQ(0, op_unshare(self->fd, self->src, 2 * MEM_HUGE, 0, &self->u));
	EXPECT_EQ(HUGE_NR, self->u.copied);
	EXPECT_EQ(0, mem_shared_pages(self->src, self->dup, 2 * MEM_HUGE));
	EXPECT_TRUE(check_page(self->src, MEM_HUGE, 1));
	EXPECT_TRUE(check_page(self->dup + MEM_HUGE, MEM_HUGE, 3));
}

TEST_HARNESS_MAIN
