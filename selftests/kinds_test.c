// SPDX-License-Identifier: GPL-2.0
/*
 * Kinds of anonymous memory: what the duplicate takes over from its source, and
 * what it does not.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "kernel.h"
#include "touch.h"
#include "uffd.h"
#include "uring.h"

#define PAGES(n)	((n) * MEM_PAGE)
#define NR		16

/* Newer than the headers of Debian 12. */
#ifndef SYS_mseal
#define SYS_mseal	462
#endif
#ifndef PR_SET_VMA
#define PR_SET_VMA	0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif

/* What most tests here start from: some written memory of its own. */
FIXTURE(kept)
{
	int fd;
	char *src;
	size_t len;
};

FIXTURE_SETUP(kept)
{
	self->fd = mem_open();
	ASSERT_GE(self->fd, 0)
		TH_LOG("%s: %s. Is the module loaded?", MEM_DEVICE,
		       strerror(errno));
	self->len = PAGES(NR);
	self->src = mem_map_alone(self->len);
	ASSERT_NE(NULL, self->src);
	mem_fill(self->src, self->len, 1);
}

FIXTURE_TEARDOWN(kept)
{
	close(self->fd);
}

/* Both hold it, and are apart when written. */
static void check_duplicate_content(struct __test_metadata *_metadata,
				    char *src, char *dst, size_t len)
{
	EXPECT_TRUE(mem_check(dst, len, 1));
	mem_fill(dst, len, 2);
	EXPECT_TRUE(mem_check(src, len, 1));
	mem_fill(src, len, 3);
	EXPECT_TRUE(mem_check(dst, len, 2));
}

/* And share it until then. */
static void check_duplicate(struct __test_metadata *_metadata, char *src,
			    char *dst, size_t len)
{
	EXPECT_EQ(len / MEM_PAGE, mem_shared_pages(src, dst, len));
	check_duplicate_content(_metadata, src, dst, len);
}

TEST_F(kept, heap_is_duplicated)
{
	char *old = sbrk(self->len + MEM_PAGE), *src, *dst;

	ASSERT_NE((char *)-1, old);
	src = (char *)((uintptr_t)(old + MEM_PAGE - 1) & ~(MEM_PAGE - 1));
	mem_fill(src, self->len, 1);
	dst = mem_dup(self->fd, src, self->len);
	ASSERT_NE(NULL, dst);
	check_duplicate(_metadata, src, dst, self->len);
	/* And the heap is a heap still. */
	ASSERT_NE((void *)-1, sbrk(PAGES(4)));
	ASSERT_EQ(0, brk(old));
	EXPECT_TRUE(mem_check(dst, self->len, 2));
}

static size_t __attribute__((noinline)) use_stack(size_t len)
{
	volatile char room[PAGES(4)];

	memset((char *)room, 1, sizeof(room));
	return sizeof(room) + (len > sizeof(room) ?
			       use_stack(len - sizeof(room)) : 0);
}

/* Not to grow: a neighbour below it would be grown into. */
TEST_F(kept, stack_is_duplicated_and_does_not_grow)
{
	char room[PAGES(NR + 1)], *src, *dst;

	src = (char *)((uintptr_t)(room + MEM_PAGE - 1) & ~(MEM_PAGE - 1));
	mem_fill(src, self->len, 1);
	ASSERT_TRUE(mem_smaps_flag(src, "gd"));
	dst = mem_dup(self->fd, src, self->len);
	ASSERT_NE(NULL, dst);
	EXPECT_FALSE(mem_smaps_flag(dst, "gd"));
	EXPECT_TRUE(mem_smaps_flag(src, "gd"));
	check_duplicate(_metadata, src, dst, self->len);
	/* And the stack is a stack still. */
	EXPECT_EQ(1 << 20, use_stack(1 << 20));
	EXPECT_TRUE(mem_check(dst, self->len, 2));
}

TEST_F(kept, growsdown_is_not_taken_over)
{
	char *src, *dst, *low;
	struct cowsnap_remap r;

	low = mem_free_range(PAGES(300 + NR), MEM_HUGE, 0);
	ASSERT_NE(NULL, low);
	src = mmap(low + PAGES(300), self->len, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN |
		   MAP_FIXED_NOREPLACE, -1, 0);
	ASSERT_NE(MAP_FAILED, src);
	mem_fill(src, self->len, 1);
	ASSERT_TRUE(mem_smaps_flag(src, "gd"));
	/* Room to grow for both. */
	low = mem_free_range(PAGES(300 + NR), MEM_HUGE, 0);
	ASSERT_NE(NULL, low);
	dst = low + PAGES(300);
	ASSERT_EQ(0, mem_remap(self->fd, src, self->len, dst,
			       COWSNAP_REMAP_FIXED_NOREPLACE, &r));
	EXPECT_FALSE(mem_smaps_flag(dst, "gd"));
	EXPECT_TRUE(mem_smaps_flag(src, "gd"));
	check_duplicate(_metadata, src, dst, self->len);
	EXPECT_EQ(SIGSEGV, store_at(dst - 1));
	EXPECT_TRUE(mem_is_free(low, PAGES(300)));
	/* The source grows on, with all that it held. */
	EXPECT_EQ(0, store_at(src - 1));
	EXPECT_TRUE(mem_check(src, self->len, 3));
	EXPECT_TRUE(mem_check(dst, self->len, 2));
}

/* A thread's stack while it runs, with the guard below it. */
struct counting {
	pthread_t thread;
	_Atomic(volatile uint64_t *) room;
	_Atomic bool stop;
};

#define ROOM	(PAGES(8) / sizeof(uint64_t))

static void *count_on_stack(void *arg)
{
	volatile uint64_t room[ROOM] = { 0 };
	struct counting *c = arg;

	c->room = room;
	while (!c->stop) {
		room[0]++;
		room[ROOM - 1]++;
	}
	return (void *)(uintptr_t)(room[0] == room[ROOM - 1]);
}

TEST_F(kept, thread_stack_is_duplicated_with_its_guard)
{
	unsigned long start, end, guard;
	struct counting c = { .room = NULL };
	uint64_t first, last, before, after;
	volatile uint64_t *copy;
	void *right = NULL;
	char perms[5], *dst;

	ASSERT_EQ(0, pthread_create(&c.thread, NULL, count_on_stack, &c));
	while (!c.room || !c.room[ROOM - 1])
		usleep(1000);
	ASSERT_TRUE(mem_vma((char *)c.room, &start, &end, NULL));
	ASSERT_TRUE(mem_vma((char *)start - 1, &guard, NULL, perms));
	ASSERT_STREQ("---p", perms);
	guard = start - MEM_PAGE;
	before = c.room[0];
	dst = mem_dup(self->fd, (char *)guard, end - guard);
	ASSERT_NE(NULL, dst);
	after = c.room[0];
	copy = (uint64_t *)(dst + ((char *)c.room - (char *)guard));
	first = copy[0];
	last = copy[ROOM - 1];
	EXPECT_LE(before, first);
	EXPECT_GE(after, first);
	EXPECT_GE(1, first - last);
	EXPECT_EQ(SIGSEGV, load_at(dst));
	EXPECT_EQ(SIGSEGV, store_at(dst + MEM_PAGE - 1));
	EXPECT_EQ(SIGSEGV, store_at((char *)guard));
	/* It runs on, on its own stack. */
	while (c.room[0] < after + 1000)
		usleep(1000);
	EXPECT_EQ(first, copy[0]);
	EXPECT_EQ(last, copy[ROOM - 1]);
	memset(dst + MEM_PAGE, 0x5a, end - start);
	c.stop = true;
	ASSERT_EQ(0, pthread_join(c.thread, &right));
	EXPECT_NE(NULL, right);
}

/* Reserved or not, as the source: a charge too few is given back too often. */
TEST_F(kept, noreserve_is_kept_and_charged_nothing)
{
	size_t len = 64UL << 20;
	struct mem_counters a, b;
	char *src, *dst;

	if (mem_read_long("/proc/sys/vm/overcommit_memory") == 2)
		SKIP(return, "vm.overcommit_memory is 2");
	src = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE |
		   MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ASSERT_NE(MAP_FAILED, src);
	ASSERT_TRUE(mem_smaps_flag(src, "nr"));
	mem_counters(&a);
	dst = mem_dup(self->fd, src, len);
	ASSERT_NE(NULL, dst);
	mem_counters(&b);
	EXPECT_TRUE(mem_smaps_flag(dst, "nr"));
	EXPECT_FALSE(mem_smaps_flag(dst, "ac"));
	EXPECT_LT(labs(b.committed - a.committed), (long)(len >> 10) / 2);
	munmap(dst, len);
	mem_counters(&b);
	EXPECT_TRUE(mem_counters_equal(&a, &b));
}

TEST_F(kept, reserved_memory_is_charged_and_given_back)
{
	size_t len = 64UL << 20;
	struct mem_counters a, b;
	char *src = mem_map_alone(len), *dst;

	ASSERT_NE(NULL, src);
	ASSERT_EQ(0, munmap(mem_dup(self->fd, src, len), len));
	mem_counters(&a);
	dst = mem_dup(self->fd, src, len);
	ASSERT_NE(NULL, dst);
	mem_counters(&b);
	EXPECT_TRUE(mem_smaps_flag(dst, "ac"));
	EXPECT_GT(b.committed - a.committed, (long)(len >> 10) / 2);
	munmap(dst, len);
	mem_counters(&b);
	EXPECT_TRUE(mem_counters_equal(&a, &b));
}

/* Guest RAM of a VMM is marked so. It is to be duplicated, and not by fork. */
TEST_F(kept, dontfork_memory_is_duplicated_but_not_forked)
{
	int status;
	char *dst;
	pid_t pid;

	ASSERT_EQ(0, madvise(self->src, self->len, MADV_DONTFORK));
	dst = mem_dup(self->fd, self->src, self->len);
	ASSERT_NE(NULL, dst);
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid)
		_exit(!mem_is_free(self->src, self->len) ||
		      !mem_is_free(dst, self->len));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	check_duplicate(_metadata, self->src, dst, self->len);
}

/* Names */

static int set_name(void *p, size_t len, const char *name)
{
	return prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, p, len, name);
}

/* It outlives the source, and neither can rename the other. */
TEST_F(kept, name_is_kept)
{
	char name[64], *dst;

	if (set_name(self->src, self->len, "cowsnap test"))
		SKIP(return, "PR_SET_VMA_ANON_NAME: %s", strerror(errno));
	dst = mem_dup(self->fd, self->src, self->len);
	ASSERT_NE(NULL, dst);
	ASSERT_TRUE(mem_vma_name(dst, name, sizeof(name)));
	EXPECT_STREQ("[anon:cowsnap test]", name);
	ASSERT_EQ(0, set_name(self->src, self->len, "another"));
	ASSERT_TRUE(mem_vma_name(dst, name, sizeof(name)));
	EXPECT_STREQ("[anon:cowsnap test]", name);
	ASSERT_EQ(0, munmap(self->src, self->len));
	ASSERT_TRUE(mem_vma_name(dst, name, sizeof(name)));
	EXPECT_STREQ("[anon:cowsnap test]", name);
	ASSERT_EQ(0, munmap(dst, self->len));
}

/* Protection keys guard against stray stores: no way around them. */
TEST_F(kept, protection_key_is_kept)
{
	int key = pkey_alloc(0, 0);
	char *dst;

	if (key < 0)
		SKIP(return, "pkey_alloc: %s", strerror(errno));
	ASSERT_EQ(0, pkey_mprotect(self->src, self->len, PROT_READ |
				   PROT_WRITE, key));
	dst = mem_dup(self->fd, self->src, self->len);
	ASSERT_NE(NULL, dst);
	EXPECT_EQ(key, mem_smaps(self->src, "ProtectionKey"));
	EXPECT_EQ(key, mem_smaps(dst, "ProtectionKey"));
	check_duplicate(_metadata, self->src, dst, self->len);
}

/* In the page-table entries, too: a key that denies denies there as well. */
TEST_F(kept, protection_key_holds_for_the_duplicate)
{
	int key = pkey_alloc(0, 0), status;
	char *dst;
	pid_t pid;

	if (key < 0)
		SKIP(return, "pkey_alloc: %s", strerror(errno));
	ASSERT_EQ(0, pkey_mprotect(self->src, self->len, PROT_READ |
				   PROT_WRITE, key));
	dst = mem_dup(self->fd, self->src, self->len);
	ASSERT_NE(NULL, dst);
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		pkey_set(key, PKEY_DISABLE_ACCESS);
		(void)*(volatile char *)dst;
		_exit(0);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
}

/* Nobody gets at what is copied at once, or by a later write, around the key. */
TEST_F(kept, protection_key_holds_for_copies)
{
	int key = pkey_alloc(0, 0), err;
	struct cowsnap_remap r;
	struct uring ring;
	char *dst;
	size_t i;

	if (key < 0)
		SKIP(return, "pkey_alloc: %s", strerror(errno));
	err = uring_open(&ring);
	if (err)
		SKIP(return, "no io_uring: %s", strerror(-err));
	ASSERT_EQ(0, uring_pin(&ring, self->src, PAGES(4)));
	ASSERT_EQ(0, pkey_mprotect(self->src, self->len, PROT_READ |
				   PROT_WRITE, key));
	ASSERT_EQ(0, mem_remap(self->fd, self->src, self->len, NULL, 0, &r));
	EXPECT_EQ(4, r.copied);
	dst = (char *)r.dst;
	mem_fill(dst, PAGES(8), 1);
	for (i = 0; i < NR; i++) {
		pkey_set(key, PKEY_DISABLE_WRITE);
		EXPECT_EQ(SIGSEGV, store_at(dst + PAGES(i)));
		pkey_set(key, PKEY_DISABLE_WRITE);
		EXPECT_EQ(SIGSEGV, store_at(self->src + PAGES(i)));
		pkey_set(key, PKEY_DISABLE_ACCESS);
		EXPECT_EQ(SIGSEGV, load_at(dst + PAGES(i)));
		pkey_set(key, PKEY_DISABLE_ACCESS);
		EXPECT_EQ(SIGSEGV, load_at(self->src + PAGES(i)));
	}
	pkey_set(key, 0);
	check_duplicate_content(_metadata, self->src, dst, self->len);
	uring_unpin(&ring);
	uring_close(&ring);
}

/* Locked memory */

/* The limit on it is for what was asked to be locked. */
TEST_F(kept, mlock_is_not_taken_over)
{
	struct mem_counters before, after;
	char *dst;

	if (mlock(self->src, self->len))
		SKIP(return, "mlock: %s", strerror(errno));
	mem_counters(&before);
	dst = mem_dup(self->fd, self->src, self->len);
	ASSERT_NE(NULL, dst);
	mem_counters(&after);
	EXPECT_EQ(before.locked, after.locked);
	EXPECT_FALSE(mem_smaps_flag(dst, "lo"));
	EXPECT_TRUE(mem_smaps_flag(self->src, "lo"));
	EXPECT_EQ(0, mem_smaps(dst, "Locked"));
	check_duplicate(_metadata, self->src, dst, self->len);
	ASSERT_EQ(0, munmap(dst, self->len));
	mem_counters(&after);
	EXPECT_EQ(before.locked, after.locked);
	ASSERT_EQ(0, munlock(self->src, self->len));
	mem_counters(&after);
	EXPECT_EQ(before.locked - (long)(self->len >> 10), after.locked);
}

TEST_F(kept, lock_on_fault_is_not_taken_over)
{
	struct mem_counters before, after;
	char *src = mem_map_alone(self->len), *dst;

	ASSERT_NE(NULL, src);
	mem_fill(src, self->len / 2, 1);
	if (mlock2(src, self->len, MLOCK_ONFAULT))
		SKIP(return, "mlock2: %s", strerror(errno));
	mem_counters(&before);
	dst = mem_dup(self->fd, src, self->len);
	ASSERT_NE(NULL, dst);
	mem_counters(&after);
	EXPECT_EQ(before.locked, after.locked);
	EXPECT_FALSE(mem_smaps_flag(dst, "lo"));
	EXPECT_FALSE(mem_smaps_flag(dst, "lf"));
	EXPECT_TRUE(mem_smaps_flag(src, "lo"));
	EXPECT_TRUE(mem_untouched(dst + self->len / 2));
	EXPECT_TRUE(mem_untouched(src + self->len / 2));
}

/* All that is mapped from now on is locked: by mmap(), which this is not. */
TEST_F(kept, duplicate_is_not_locked_by_mlockall)
{
	struct mem_counters before, after;
	char *src = mem_map_alone(self->len), *dst;

	ASSERT_NE(NULL, src);
	if (mlockall(MCL_FUTURE))
		SKIP(return, "mlockall: %s", strerror(errno));
	mem_counters(&before);
	dst = mem_dup(self->fd, src, self->len);
	ASSERT_NE(NULL, dst);
	mem_counters(&after);
	EXPECT_EQ(before.locked, after.locked);
	EXPECT_FALSE(mem_smaps_flag(dst, "lo"));
	EXPECT_TRUE(mem_untouched(dst));
	munlockall();
}

static long mlocked_pages(void)
{
	mem_drain();
	mem_write("/proc/sys/vm/stat_refresh", "1");
	return mem_vmstat("nr_mlock");
}

/*
 * What the kernel counts as locked are the pages that the source maps, be they
 * shared or its own.
 */
TEST_F(kept, locked_pages_are_those_of_the_source)
{
	long none = mlocked_pages();
	char *dup[2];

	if (mlock(self->src, self->len))
		SKIP(return, "mlock: %s", strerror(errno));
	ASSERT_EQ(none + NR, mlocked_pages());
	dup[0] = mem_dup(self->fd, self->src, self->len);
	dup[1] = mem_dup(self->fd, self->src, self->len);
	ASSERT_TRUE(dup[0] && dup[1]);
	EXPECT_EQ(none + NR, mlocked_pages());
	mem_fill(dup[0], self->len, 2);
	EXPECT_EQ(none + NR, mlocked_pages());
	mem_fill(self->src, self->len, 3);
	EXPECT_EQ(none + NR, mlocked_pages());
	EXPECT_TRUE(mem_check(dup[1], self->len, 1));
	ASSERT_EQ(0, munmap(dup[0], self->len));
	ASSERT_EQ(0, munmap(dup[1], self->len));
	EXPECT_EQ(none + NR, mlocked_pages());
	ASSERT_EQ(0, munlock(self->src, self->len));
	EXPECT_EQ(none, mlocked_pages());
}

/* Or it could never be unmapped. */
TEST_F(kept, seal_is_not_taken_over)
{
	char *dst;

	if (syscall(SYS_mseal, self->src, self->len, 0))
		SKIP(return, "this kernel has no mseal()");
	dst = mem_dup(self->fd, self->src, self->len);
	ASSERT_NE(NULL, dst);
	check_duplicate(_metadata, self->src, dst, self->len);
	EXPECT_EQ(0, mprotect(dst, self->len, PROT_READ));
	EXPECT_EQ(0, munmap(dst, self->len));
	EXPECT_EQ(-1, munmap(self->src, self->len));
}

/* Markers in the page table, where a stack or an allocator ends. */
TEST_F(kept, guard_regions_are_kept)
{
	char *src = self->src, *dst;
	struct cowsnap_remap r;

	if (madvise(src + PAGES(4), PAGES(2), MADV_GUARD_INSTALL))
		SKIP(return, "this kernel has no guard regions");
	ASSERT_EQ(0, mem_remap(self->fd, src, self->len, NULL, 0, &r));
	EXPECT_EQ(NR - 2, r.shared);
	dst = (char *)r.dst;
	EXPECT_EQ(SIGSEGV, load_at(dst + PAGES(4)));
	EXPECT_EQ(SIGSEGV, store_at(dst + PAGES(5)));
	EXPECT_EQ(SIGSEGV, load_at(src + PAGES(4)));
	EXPECT_TRUE(mem_check(dst, PAGES(4), 1));
	mem_fill(dst + PAGES(6), self->len - PAGES(6), 2);
	/* Each can be taken away by itself. */
	ASSERT_EQ(0, madvise(dst + PAGES(4), PAGES(2), MADV_GUARD_REMOVE));
	EXPECT_TRUE(mem_is_zero(dst + PAGES(4), PAGES(2)));
	EXPECT_EQ(SIGSEGV, store_at(src + PAGES(5)));
	ASSERT_EQ(0, madvise(src, self->len, MADV_GUARD_REMOVE));
	EXPECT_TRUE(mem_check(src, PAGES(4), 1));
	EXPECT_TRUE(mem_is_zero(src + PAGES(4), PAGES(2)));
}

TEST_HARNESS_MAIN
