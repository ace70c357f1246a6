// SPDX-License-Identifier: GPL-2.0
/*
 * Kinds of anonymous memory: what the duplicate takes over from its source, and
 * what it does not.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "mem.h"

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

/* Both hold it, share it, and are apart when written. */
static void check_duplicate(struct __test_metadata *_metadata, char *src,
			    char *dst, size_t len)
{
	EXPECT_EQ(len / MEM_PAGE, mem_shared_pages(src, dst, len));
	EXPECT_TRUE(mem_check(dst, len, 1));
	mem_fill(dst, len, 2);
	EXPECT_TRUE(mem_check(src, len, 1));
	mem_fill(src, len, 3);
	EXPECT_TRUE(mem_check(dst, len, 2));
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
}

TEST_F(kept, growsdown_is_not_taken_over)
{
	char *src, *dst, *low;

	low = mem_free_range(PAGES(300 + NR), MEM_HUGE, 0);
	ASSERT_NE(NULL, low);
	src = mmap(low + PAGES(300), self->len, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN |
		   MAP_FIXED_NOREPLACE, -1, 0);
	ASSERT_NE(MAP_FAILED, src);
	mem_fill(src, self->len, 1);
	ASSERT_TRUE(mem_smaps_flag(src, "gd"));
	dst = mem_dup(self->fd, src, self->len);
	ASSERT_NE(NULL, dst);
	EXPECT_FALSE(mem_smaps_flag(dst, "gd"));
	check_duplicate(_metadata, src, dst, self->len);
	/* The source grows on. */
	*(volatile char *)(src - 1) = 1;
	EXPECT_TRUE(mem_check(dst, self->len, 2));
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

/* Advice, by the flag that it sets in VmFlags of smaps. */
FIXTURE(advice)
{
	int fd;
	char *src;
	size_t len;
};

FIXTURE_VARIANT(advice)
{
	int advice;
	const char *flag;
};

#define ADVICE(name, advice_, flag_)					\
	FIXTURE_VARIANT_ADD(advice, name) { advice_, flag_ }

ADVICE(dontfork, MADV_DONTFORK, "dc");
ADVICE(dontdump, MADV_DONTDUMP, "dd");
ADVICE(hugepage, MADV_HUGEPAGE, "hg");
ADVICE(nohugepage, MADV_NOHUGEPAGE, "nh");
ADVICE(mergeable, MADV_MERGEABLE, "mg");
ADVICE(random, MADV_RANDOM, "rr");
ADVICE(sequential, MADV_SEQUENTIAL, "sr");

FIXTURE_SETUP(advice)
{
	self->fd = mem_open();
	ASSERT_GE(self->fd, 0)
		TH_LOG("%s: %s. Is the module loaded?", MEM_DEVICE,
		       strerror(errno));
	self->len = PAGES(NR);
	self->src = mmap(NULL, 3 * self->len, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->src);
	self->src += self->len;
	mem_fill(self->src, self->len, 1);
}

FIXTURE_TEARDOWN(advice)
{
	close(self->fd);
}

TEST_F(advice, is_kept_and_none_is_added)
{
	char *plain, *dst;

	plain = mem_dup(self->fd, self->src, self->len);
	ASSERT_NE(NULL, plain);
	EXPECT_FALSE(mem_smaps_flag(plain, variant->flag));
	if (madvise(self->src, self->len, variant->advice))
		SKIP(return, "madvise(%d): %s", variant->advice,
		     strerror(errno));
	dst = mem_dup(self->fd, self->src, self->len);
	ASSERT_NE(NULL, dst);
	EXPECT_TRUE(mem_smaps_flag(dst, variant->flag));
	EXPECT_TRUE(mem_smaps_flag(self->src, variant->flag));
	EXPECT_FALSE(mem_smaps_flag(plain, variant->flag));
	EXPECT_TRUE(mem_check(dst, self->len, 1));
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

TEST_HARNESS_MAIN
