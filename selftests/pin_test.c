// SPDX-License-Identifier: GPL-2.0
/*
 * Pinned pages: a device, or the kernel on its behalf, reads and writes them by
 * their physical address. The owner of the pin keeps the page, so it stays in
 * the source, and the duplicate gets a copy.
 */
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "kernel.h"
#include "uring.h"
#include "harness.h"

#define NR	16
#define LEN	(NR * MEM_PAGE)
#define PINNED	5	/* this page */
#define SEED	3

FIXTURE(pin) {
	int fd;
	struct uring ring;
	char *src;
	char *page;	/* the pinned one */
	uint64_t pfn;
	int pipe[2];
};

FIXTURE_SETUP(pin)
{
	int err;

	self->ring.fd = -1;
	self->fd = mem_open();
	ASSERT_LE(0, self->fd);
	err = uring_open(&self->ring);
	if (err)
		SKIP(return, "no io_uring: %s", strerror(-err));
	self->src = mem_map_alone(LEN);
	ASSERT_NE(NULL, self->src);
	mem_fill(self->src, LEN, SEED);
	self->page = self->src + PINNED * MEM_PAGE;
	ASSERT_EQ(0, uring_pin(&self->ring, self->page, MEM_PAGE));
	self->pfn = mem_pfn(self->page);
	ASSERT_NE(0, self->pfn);
	ASSERT_EQ(0, pipe(self->pipe));
}

FIXTURE_TEARDOWN(pin)
{
	if (self->ring.fd >= 0) {
		uring_unpin(&self->ring);
		uring_close(&self->ring);
	}
	close(self->fd);
}

/* "device" data through the pin of @addr */
static bool device_writes(struct uring *ring, int pipe[2], void *addr,
			  uint64_t value)
{
	return write(pipe[1], &value, sizeof(value)) == sizeof(value) &&
	       uring_read(ring, pipe[0], addr, sizeof(value)) == sizeof(value);
}

static bool device_reads(struct uring *ring, int pipe[2], void *addr,
			 uint64_t *value)
{
	return uring_write(ring, pipe[1], addr, sizeof(*value)) ==
	       sizeof(*value) &&
	       read(pipe[0], value, sizeof(*value)) == sizeof(*value);
}

static long minor_faults(void)
{
	struct rusage ru;

	getrusage(RUSAGE_THREAD, &ru);
	return ru.ru_minflt;
}

/* If the duplicate had the pinned page, a store to it would be a device's. */
TEST_F(pin, pinned_page_is_copied_and_stays_in_the_source)
{
	struct cowsnap_remap r;
	char *dup;

	ASSERT_EQ(0, mem_remap(self->fd, self->src, LEN, NULL, 0, &r));
	dup = (char *)(uintptr_t)r.dst;
	EXPECT_EQ(1U, r.copied);
	EXPECT_EQ(NR - 1U, r.shared);
	EXPECT_EQ(self->pfn, mem_pfn(self->page));
	EXPECT_NE(0, mem_pfn(dup + PINNED * MEM_PAGE));
	EXPECT_NE(self->pfn, mem_pfn(dup + PINNED * MEM_PAGE));
	EXPECT_EQ(1U, page_count(dup + PINNED * MEM_PAGE));
	EXPECT_EQ(NR - 1UL, mem_shared_pages(self->src, dup, LEN));
	EXPECT_TRUE(mem_check(self->src, LEN, SEED));
	EXPECT_TRUE(mem_check(dup, LEN, SEED));
}

/* If this fails, a buffer of a running read ends up in the snapshot. */
TEST_F(pin, data_through_the_pin_reaches_the_source_only)
{
	char *dup = mem_dup(self->fd, self->src, LEN);
	uint64_t seen;

	ASSERT_NE(NULL, dup);
	ASSERT_TRUE(device_writes(&self->ring, self->pipe, self->page, 4711));
	EXPECT_EQ(4711U, *(uint64_t *)self->page);
	EXPECT_TRUE(mem_check(dup, LEN, SEED));

	/* And what the process stores, the device sees. */
	*(volatile uint64_t *)self->page = 4712;
	ASSERT_TRUE(device_reads(&self->ring, self->pipe, self->page, &seen));
	EXPECT_EQ(4712U, seen);
	EXPECT_EQ(self->pfn, mem_pfn(self->page));
	EXPECT_TRUE(mem_check(dup, LEN, SEED));
}

/* If this fails, the device sees what was written to a snapshot. */
TEST_F(pin, stores_to_the_duplicate_do_not_reach_the_pin)
{
	char *dup = mem_dup(self->fd, self->src, LEN);
	uint64_t seen, was = *(uint64_t *)self->page;

	ASSERT_NE(NULL, dup);
	memset(dup, 0xff, LEN);
	ASSERT_TRUE(device_reads(&self->ring, self->pipe, self->page, &seen));
	EXPECT_EQ(was, seen);
	EXPECT_TRUE(mem_check(self->src, LEN, SEED));
}

/* The source had write access to its pinned page and has it again. */
TEST_F(pin, pinned_page_stays_writable_without_a_fault)
{
	char *dup = mem_dup(self->fd, self->src, LEN);
	long before;

	ASSERT_NE(NULL, dup);
	before = minor_faults();
	before = minor_faults();
	*(volatile char *)self->page = 1;
	EXPECT_EQ(before, minor_faults());
	/* What that would look like. */
	*(volatile char *)(self->page + MEM_PAGE) = 1;
	EXPECT_EQ(before + 1, minor_faults());
}

/* Once nobody holds it the page is like any other. */
TEST_F(pin, page_is_shared_again_when_the_pin_is_gone)
{
	struct cowsnap_remap r;

	ASSERT_NE(NULL, mem_dup(self->fd, self->src, LEN));
	ASSERT_EQ(0, uring_unpin(&self->ring));
	ASSERT_EQ(0, mem_remap(self->fd, self->src, LEN, NULL, 0, &r));
	EXPECT_EQ(0U, r.copied);
	EXPECT_EQ((uint64_t)NR, r.shared);
	EXPECT_EQ(NR + 0UL, mem_shared_pages(self->src,
					     (void *)(uintptr_t)r.dst, LEN));
	EXPECT_TRUE(mem_check((void *)(uintptr_t)r.dst, LEN, SEED));
}

/* Each duplicate is a copy of its own moment, however many there are. */
TEST_F(pin, every_duplicate_has_a_copy_of_its_own)
{
	uint64_t pfns[4];
	char *dup[4];
	int i, j;

	for (i = 0; i < 4; i++) {
		ASSERT_TRUE(device_writes(&self->ring, self->pipe, self->page,
					  100 + i));
		dup[i] = mem_dup(self->fd, self->src, LEN);
		ASSERT_NE(NULL, dup[i]);
		pfns[i] = mem_pfn(dup[i] + PINNED * MEM_PAGE);
		for (j = 0; j < i; j++)
			EXPECT_NE(pfns[i], pfns[j]);
	}
	EXPECT_EQ(self->pfn, mem_pfn(self->page));
	for (i = 0; i < 4; i++)
		EXPECT_EQ(100U + i, *(uint64_t *)(dup[i] + PINNED * MEM_PAGE));
}

/* The copy is not pinned by anybody: a copy of the copy shares it. */
TEST_F(pin, the_copy_is_an_ordinary_page)
{
	char *dup = mem_dup(self->fd, self->src, LEN);
	struct cowsnap_remap r;

	ASSERT_NE(NULL, dup);
	ASSERT_EQ(0, mem_remap(self->fd, dup, LEN, NULL, 0, &r));
	EXPECT_EQ(0U, r.copied);
	EXPECT_EQ((uint64_t)NR, r.shared);
	EXPECT_TRUE(mem_check((void *)(uintptr_t)r.dst, LEN, SEED));
	ASSERT_EQ(0, munmap((void *)(uintptr_t)r.dst, LEN));
	/* Writable at once: nobody else ever had it. */
	if (mem_have_swap()) {
		EXPECT_EQ(1UL, mem_pageout(dup + PINNED * MEM_PAGE, MEM_PAGE));
		EXPECT_TRUE(mem_check(dup, LEN, SEED));
	}
}

TEST_F(pin, readonly_duplicate_of_a_pinned_page)
{
	struct cowsnap_remap r;
	char *dup, perms[5];

	ASSERT_EQ(0, mem_remap(self->fd, self->src, LEN, NULL,
			       COWSNAP_REMAP_READONLY, &r));
	dup = (char *)(uintptr_t)r.dst;
	EXPECT_EQ(1U, r.copied);
	ASSERT_TRUE(mem_vma(dup, NULL, NULL, perms));
	EXPECT_STREQ("r--p", perms);
	EXPECT_EQ(self->pfn, mem_pfn(self->page));
	ASSERT_TRUE(device_writes(&self->ring, self->pipe, self->page, 1));
	EXPECT_TRUE(mem_check(dup, LEN, SEED));

	/* The copy, too, must not be writable. */
	pid_t pid = fork();

	if (!pid) {
		signal(SIGSEGV, SIG_DFL);
		dup[PINNED * MEM_PAGE] = 1;
		_exit(0);
	}
	int status;

	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
}

/* Write access that the source does not have is not given to it. */
TEST_F(pin, pinned_page_of_a_readonly_mapping)
{
	struct cowsnap_remap r;
	char *dup;

	ASSERT_EQ(0, mprotect(self->src, LEN, PROT_READ));
	ASSERT_EQ(0, mem_remap(self->fd, self->src, LEN, NULL, 0, &r));
	dup = (char *)(uintptr_t)r.dst;
	EXPECT_EQ(1U, r.copied);
	EXPECT_EQ(self->pfn, mem_pfn(self->page));
	/* The kernel refuses to store into what is not writable. */
	ASSERT_EQ(1, write(self->pipe[1], "x", 1));
	EXPECT_EQ(-1, read(self->pipe[0], self->page, 1));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(-1, read(self->pipe[0], dup + PINNED * MEM_PAGE, 1));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_TRUE(mem_check(dup, LEN, SEED));
	ASSERT_EQ(0, mprotect(self->src, LEN, PROT_READ | PROT_WRITE));
	memset(self->src, 1, LEN);
	EXPECT_EQ(self->pfn, mem_pfn(self->page));
	EXPECT_TRUE(mem_check(dup, LEN, SEED));
}

/* Only the page that is pinned is copied, wherever mappings begin and end. */
TEST_F(pin, pinned_page_in_the_middle_of_several_mappings)
{
	char *left = self->src + 4 * MEM_PAGE;
	struct cowsnap_remap r;
	char *dup;

	/* Mappings of pages 0 to 3, 4 and 5, 6, 7 to 15. */
	ASSERT_EQ(0, madvise(left, 2 * MEM_PAGE, MADV_DONTDUMP));
	ASSERT_EQ(0, madvise(left + 2 * MEM_PAGE, MEM_PAGE, MADV_DONTFORK));
	ASSERT_EQ(0, mem_remap(self->fd, self->src, LEN, NULL, 0, &r));
	dup = (char *)(uintptr_t)r.dst;
	EXPECT_EQ(1U, r.copied);
	EXPECT_EQ(NR - 1U, r.shared);
	EXPECT_EQ(self->pfn, mem_pfn(self->page));
	EXPECT_NE(self->pfn, mem_pfn(dup + PINNED * MEM_PAGE));
	EXPECT_TRUE(mem_check(dup, LEN, SEED));
}

/* FIXED over memory that is itself pinned: the owner of that pin keeps it. */
TEST_F(pin, replaced_destination_may_be_pinned)
{
	struct cowsnap_remap r;
	char *dst = mem_map_alone(LEN);
	uint64_t seen = 0;

	ASSERT_NE(NULL, dst);
	ASSERT_EQ(0, uring_unpin(&self->ring));
	mem_fill(dst, LEN, 9);
	*(uint64_t *)dst = 99;
	ASSERT_EQ(0, uring_pin(&self->ring, dst, MEM_PAGE));
	ASSERT_EQ(0, mem_remap(self->fd, self->src, LEN, dst,
			       COWSNAP_REMAP_FIXED, &r));
	EXPECT_EQ((uint64_t)NR, r.shared);
	EXPECT_TRUE(mem_check(dst, LEN, SEED));
	ASSERT_TRUE(device_reads(&self->ring, self->pipe, dst, &seen));
	EXPECT_EQ(99U, seen);
	ASSERT_TRUE(device_writes(&self->ring, self->pipe, dst, 1));
	EXPECT_TRUE(mem_check(dst, LEN, SEED));
	EXPECT_TRUE(mem_check(self->src, LEN, SEED));
}

/*
 * Pinning a page that is shared already gives the one who pins a page of its
 * own, on either side. If the sharing is not marked, the pin gets the shared
 * page and the device writes into both.
 */
TEST_F(pin, either_side_may_be_pinned_later)
{
	char *dup, *at;
	int side;

	ASSERT_EQ(0, uring_unpin(&self->ring));
	for (side = 0; side < 2; side++) {
		dup = mem_dup(self->fd, self->src, LEN);
		ASSERT_NE(NULL, dup);
		at = (side ? dup : self->src) + 2 * MEM_PAGE;
		ASSERT_EQ(0, uring_pin(&self->ring, at, MEM_PAGE));
		EXPECT_NE(mem_pfn(self->src + 2 * MEM_PAGE),
			  mem_pfn(dup + 2 * MEM_PAGE));
		ASSERT_TRUE(device_writes(&self->ring, self->pipe, at, 5));
		EXPECT_EQ(5U, *(uint64_t *)at);
		EXPECT_TRUE(mem_check(side ? self->src : dup, LEN, SEED));
		ASSERT_EQ(0, uring_unpin(&self->ring));
		ASSERT_EQ(0, munmap(dup, LEN));
		mem_fill(self->src, LEN, SEED);
	}
}

/* Plain reads and writes by the kernel into either side after the call. */
TEST_F(pin, kernel_stores_break_the_sharing)
{
	char *dup = mem_dup(self->fd, self->src, LEN);
	struct iovec from = { (char[]){ "abcdefg" }, 8 };
	struct iovec to = { self->src, 8 };

	ASSERT_NE(NULL, dup);
	ASSERT_EQ(8, process_vm_writev(getpid(), &from, 1, &to, 1, 0));
	EXPECT_STREQ("abcdefg", self->src);
	EXPECT_TRUE(mem_check(dup, LEN, SEED));
	ASSERT_EQ(8, write(self->pipe[1], "hijklmn", 8));
	ASSERT_EQ(8, read(self->pipe[0], self->src + MEM_PAGE, 8));
	EXPECT_TRUE(mem_check(dup, LEN, SEED));
	mem_fill(self->src, LEN, SEED);
	ASSERT_EQ(8, write(self->pipe[1], "opqrstu", 8));
	ASSERT_EQ(8, read(self->pipe[0], dup + 2 * MEM_PAGE, 8));
	EXPECT_TRUE(mem_check(self->src, LEN, SEED));
}

/* A page lent to a pipe (no pin, a reference) is shared and not disturbed. */
TEST_F(pin, page_lent_to_a_pipe_is_shared)
{
	struct iovec iov = { self->src, 8 };
	struct cowsnap_remap r;
	uint64_t was = *(uint64_t *)self->src, seen;

	ASSERT_EQ(0, uring_unpin(&self->ring));
	ASSERT_EQ(8, vmsplice(self->pipe[1], &iov, 1, 0));
	ASSERT_EQ(0, mem_remap(self->fd, self->src, LEN, NULL, 0, &r));
	EXPECT_EQ(0U, r.copied);
	*(volatile uint64_t *)(uintptr_t)r.dst = 1;
	*(volatile uint64_t *)self->src = 2;
	ASSERT_EQ(8, read(self->pipe[0], &seen, 8));
	EXPECT_EQ(was, seen);
	EXPECT_EQ(1U, *(uint64_t *)(uintptr_t)r.dst);
	EXPECT_EQ(2U, *(uint64_t *)self->src);
}

/* A child of fork(2) copies the pinned page, too; all four go their ways. */
TEST_F(pin, fork_with_a_pinned_page_and_a_duplicate)
{
	char *dup = mem_dup(self->fd, self->src, LEN);
	int status;
	pid_t pid;

	ASSERT_NE(NULL, dup);
	pid = fork();
	if (!pid) {
		bool good = mem_check(self->src, LEN, SEED) &&
			    mem_check(dup, LEN, SEED);

		memset(self->src, 1, LEN);
		memset(dup, 2, LEN);
		_exit(!good);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_EQ(self->pfn, mem_pfn(self->page));
	EXPECT_TRUE(mem_check(self->src, LEN, SEED));
	EXPECT_TRUE(mem_check(dup, LEN, SEED));
}

/* Pinned huge pages */

#define HUGE_PAGES	(MEM_HUGE / MEM_PAGE)

FIXTURE(pin_huge) {
	int fd;
	struct uring ring;
	int pipe[2];
	char *src;		/* two of them, a page in the second pinned */
	char *page;
};

FIXTURE_VARIANT(pin_huge) {
	size_t shift;
};

FIXTURE_VARIANT_ADD(pin_huge, congruent) { .shift = 0 };
FIXTURE_VARIANT_ADD(pin_huge, elsewhere) { .shift = MEM_PAGE };

FIXTURE_SETUP(pin_huge)
{
	int err;

	self->ring.fd = -1;
	self->fd = mem_open();
	ASSERT_LE(0, self->fd);
	err = uring_open(&self->ring);
	if (err)
		SKIP(return, "no io_uring: %s", strerror(-err));
	self->src = mem_map_huge(2 * MEM_HUGE);
	if (!self->src)
		SKIP(return, "no huge pages");
	memset(self->src, 0, 2 * MEM_HUGE);
	mem_fill(self->src, 2 * MEM_HUGE, SEED);
	self->page = self->src + MEM_HUGE + 7 * MEM_PAGE;
	ASSERT_EQ(0, uring_pin(&self->ring, self->page, MEM_PAGE));
	ASSERT_EQ(0, pipe(self->pipe));
}

FIXTURE_TEARDOWN(pin_huge)
{
	if (self->ring.fd >= 0) {
		uring_unpin(&self->ring);
		uring_close(&self->ring);
	}
	close(self->fd);
}

/*
 * A pin holds a huge page as a whole: all of it is copied, the source keeps
 * every page of it, and the other huge page is shared.
 */
TEST_F(pin_huge, pinned_huge_page_is_copied_as_a_whole)
{
	static uint64_t before[2 * HUGE_PAGES], after[2 * HUGE_PAGES];
	struct cowsnap_remap r;
	char *dst, *dup;
	size_t i;

	ASSERT_TRUE(mem_pagemap_read(self->src, before, 2 * HUGE_PAGES));
	dst = mem_free_range(2 * MEM_HUGE, MEM_HUGE, variant->shift);
	ASSERT_NE(NULL, dst);
	ASSERT_EQ(0, mem_remap(self->fd, self->src, 2 * MEM_HUGE, dst,
			       COWSNAP_REMAP_FIXED_NOREPLACE, &r));
	dup = (char *)(uintptr_t)r.dst;
	EXPECT_EQ(HUGE_PAGES, r.copied);
	EXPECT_EQ(HUGE_PAGES, r.shared);
	ASSERT_TRUE(mem_pagemap_read(self->src, after, 2 * HUGE_PAGES));
	for (i = 0; i < 2 * HUGE_PAGES; i++)
		ASSERT_EQ(before[i] & ((1ULL << 55) - 1),
			  after[i] & ((1ULL << 55) - 1));
	EXPECT_EQ(HUGE_PAGES, mem_shared_pages(self->src, dup, MEM_HUGE));
	EXPECT_EQ(0UL, mem_shared_pages(self->src + MEM_HUGE, dup + MEM_HUGE,
					MEM_HUGE));
	EXPECT_TRUE(mem_check(dup, 2 * MEM_HUGE, SEED));

	ASSERT_TRUE(device_writes(&self->ring, self->pipe, self->page, 1));
	EXPECT_EQ(1U, *(uint64_t *)self->page);
	EXPECT_TRUE(mem_check(dup, 2 * MEM_HUGE, SEED));
	mem_fill(self->src, 2 * MEM_HUGE, SEED + 1);
	EXPECT_TRUE(mem_check(dup, 2 * MEM_HUGE, SEED));
	EXPECT_EQ(before[HUGE_PAGES + 7] & ((1ULL << 55) - 1),
		  mem_pfn(self->page));
}

/* Without the pin the page is shared again, huge or not. */
TEST_F(pin_huge, huge_page_is_shared_again_when_the_pin_is_gone)
{
	struct cowsnap_remap r;

	ASSERT_NE(NULL, mem_dup(self->fd, self->src, 2 * MEM_HUGE));
	ASSERT_EQ(0, uring_unpin(&self->ring));
	ASSERT_EQ(0, mem_remap(self->fd, self->src, 2 * MEM_HUGE, NULL, 0, &r));
	EXPECT_EQ(0U, r.copied);
	EXPECT_EQ(2 * HUGE_PAGES, r.shared);
	EXPECT_TRUE(mem_check((void *)(uintptr_t)r.dst, 2 * MEM_HUGE, SEED));
}

/*
 * For a huge page that is to be shared whole a page table is set aside; of one
 * that turns out to be pinned it is given back. If this fails, each such page
 * costs the machine one for ever.
 */
#define MANY	24
#define ROUNDS	4

static bool duplicate_pinned(struct uring *ring, int fd, char *src)
{
	struct iovec iov[MANY];
	struct cowsnap_remap r;
	int i;

	for (i = 0; i < MANY; i++)
		iov[i] = (struct iovec){ src + i * MEM_HUGE, MEM_PAGE };
	return !uring_pinv(ring, iov, MANY) &&
	       !mem_remap(fd, src, MANY * MEM_HUGE, NULL, 0, &r) &&
	       r.copied == MANY * HUGE_PAGES &&
	       !munmap((void *)(uintptr_t)r.dst, MANY * MEM_HUGE) &&
	       !uring_unpin(ring);
}

/* Of the whole machine: nobody else works on it. */
static long page_tables(void)
{
	mem_write("/proc/sys/vm/stat_refresh", "1");
	return mem_vmstat("nr_page_table_pages");
}

TEST_F_TIMEOUT(pin_huge, page_tables_that_pinned_pages_do_not_need_go_back, 120)
{
	long before = 0;
	double end;
	char *src;
	int i;

	if (variant->shift)
		SKIP(return, "nothing is to be shared whole");
	ASSERT_EQ(0, uring_unpin(&self->ring));
	/* The first time is for what stays, once. */
	for (i = 0; i <= ROUNDS; i++) {
		src = mem_map_huge(MANY * MEM_HUGE);
		ASSERT_NE(NULL, src);
		ASSERT_TRUE(duplicate_pinned(&self->ring, self->fd, src));
		ASSERT_EQ(0, munmap(src, MANY * MEM_HUGE));
		if (!i)
			before = page_tables();
	}
	/* Some are freed after a grace period. */
	for (end = seconds() + 5; seconds() < end; usleep(10000))
		if (page_tables() < before + MANY)
			break;
	EXPECT_GT(before + MANY, page_tables());
}

TEST_HARNESS_MAIN
