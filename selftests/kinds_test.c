// SPDX-License-Identifier: GPL-2.0
/*
 * Kinds of memory: what is refused, what the duplicate takes over from its
 * source, and what it does not.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "mem.h"

#define PAGES(n)	((n) * MEM_PAGE)
#define U64(p)		((__u64)(uintptr_t)(p))
#define NR		16

/* Newer than the headers of Debian 12. */
#ifndef SYS_mseal
#define SYS_mseal	462
#endif
#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE	0x08
#endif
#ifndef PR_SET_VMA
#define PR_SET_VMA	0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif
#define WP_UNPOPULATED	(1ULL << 13)	/* UFFD_FEATURE_WP_UNPOPULATED */

/*
 * Refused: 4 MiB, the upper half of which is of a kind that is not duplicated.
 */
FIXTURE(refused)
{
	int fd;
	char *good;
	char *bad;
	struct cowsnap_remap r;
};

FIXTURE_VARIANT(refused)
{
	bool (*put)(char *at, size_t len);
	unsigned int reason;
	unsigned int kind;	/* in QUERY.kinds, it is duplicated after all */
};

static bool put_shared(char *at, size_t len)
{
	return mmap(at, len, PROT_READ | PROT_WRITE, MAP_SHARED |
		    MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at;
}

static bool put_memfd(char *at, size_t len, int flags)
{
	int fd = memfd_create("kinds", MFD_CLOEXEC);
	bool done;

	done = fd >= 0 && !ftruncate(fd, len) &&
	       mmap(at, len, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd,
		    0) == at;
	close(fd);
	return done;
}

static bool put_shared_file(char *at, size_t len)
{
	return put_memfd(at, len, MAP_SHARED);
}

static bool put_private_file(char *at, size_t len)
{
	return put_memfd(at, len, MAP_PRIVATE);
}

/* Shared, but read-only: no reason to take it for private. */
static bool put_shared_read_only(char *at, size_t len)
{
	return put_memfd(at, len, MAP_SHARED) &&
	       !mprotect(at, len, PROT_READ);
}

static bool put_program(char *at, size_t len)
{
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	bool done = mmap(at, len, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd,
			 0) == at;

	close(fd);
	return done;
}

/* Its pages are anonymous, the mapping has a file. */
static bool put_dev_zero(char *at, size_t len)
{
	int fd = open("/dev/zero", O_RDWR | O_CLOEXEC);
	bool done = mmap(at, len, PROT_READ | PROT_WRITE, MAP_PRIVATE |
			 MAP_FIXED, fd, 0) == at;

	close(fd);
	return done;
}

static void set_pool(long pages)
{
	char text[32];

	snprintf(text, sizeof(text), "%ld", pages);
	mem_write("/proc/sys/vm/nr_hugepages", text);
}

/* One page more in the pool until it is reserved. */
static bool put_hugetlb(char *at, size_t len)
{
	long pool = mem_read_long("/proc/sys/vm/nr_hugepages");
	bool done;

	if (pool < 0)
		return false;
	set_pool(pool + 1);
	done = mmap(at, len, PROT_READ | PROT_WRITE, MAP_PRIVATE |
		    MAP_ANONYMOUS | MAP_HUGETLB | MAP_FIXED, -1, 0) == at;
	set_pool(pool);
	return done;
}

static bool put_wipeonfork(char *at, size_t len)
{
	return !madvise(at, len, MADV_WIPEONFORK);
}

static bool put_droppable(char *at, size_t len)
{
	return mmap(at, len, PROT_READ | PROT_WRITE, MAP_DROPPABLE |
		    MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at;
}

#define REFUSED(name, reason_, ...)					\
	FIXTURE_VARIANT_ADD(refused, name)				\
	{ .put = put_##name, .reason = COWSNAP_REASON_##reason_, __VA_ARGS__ }

REFUSED(shared, SHARED);
REFUSED(shared_file, SHARED);
REFUSED(shared_read_only, SHARED);
REFUSED(private_file, FILE, .kind = COWSNAP_KIND_FILE);
REFUSED(program, FILE, .kind = COWSNAP_KIND_FILE);
REFUSED(dev_zero, FILE, .kind = COWSNAP_KIND_FILE);
REFUSED(hugetlb, HUGETLB, .kind = COWSNAP_KIND_HUGETLB);
REFUSED(wipeonfork, WIPEONFORK);
REFUSED(droppable, WIPEONFORK);

FIXTURE_SETUP(refused)
{
	struct cowsnap_query q = { .size = sizeof(q) };

	self->fd = mem_open();
	ASSERT_GE(self->fd, 0)
		TH_LOG("%s: %s. Is the module loaded?", MEM_DEVICE,
		       strerror(errno));
	ASSERT_EQ(0, ioctl(self->fd, COWSNAP_QUERY, &q));
	if (q.kinds & variant->kind)
		SKIP(return, "this module duplicates it");
	self->good = mem_map_offset(2 * MEM_HUGE, MEM_HUGE, 0);
	ASSERT_NE(NULL, self->good);
	self->bad = self->good + MEM_HUGE;
	mem_fill(self->good, PAGES(NR), 1);
	/* Before it goes: MAP_FIXED would, if it failed, leave a hole. */
	if (!variant->put(self->bad, MEM_HUGE))
		SKIP(return, "no such memory here: %s", strerror(errno));
	self->r = (struct cowsnap_remap) { .size = sizeof(self->r) };
}

FIXTURE_TEARDOWN(refused)
{
	EXPECT_TRUE(mem_check(self->good, PAGES(NR), 1));
	close(self->fd);
}

TEST_F(refused, with_its_reason)
{
	self->r.src = U64(self->bad);
	self->r.len = MEM_HUGE;
	EXPECT_EQ(-EOPNOTSUPP, mem_refused(self->fd, &self->r));
	EXPECT_EQ(variant->reason, self->r.reason);
	EXPECT_EQ(self->r.src, self->r.fault_addr);
	/* A hole is something else: leaving it out would be silent. */
	self->r.flags = COWSNAP_REMAP_HOLES;
	EXPECT_EQ(-EOPNOTSUPP, mem_refused(self->fd, &self->r));
	EXPECT_EQ(variant->reason, self->r.reason);
}

TEST_F(refused, where_it_begins)
{
	self->r.src = U64(self->good);
	self->r.len = 2 * MEM_HUGE;
	EXPECT_EQ(-EOPNOTSUPP, mem_refused(self->fd, &self->r));
	EXPECT_EQ(variant->reason, self->r.reason);
	EXPECT_EQ(U64(self->bad), self->r.fault_addr);

	/* One page of it is enough. */
	self->r.len = MEM_HUGE + MEM_PAGE;
	EXPECT_EQ(-EOPNOTSUPP, mem_refused(self->fd, &self->r));
	EXPECT_EQ(U64(self->bad), self->r.fault_addr);

	/* From within: no part of the mapping before the range. */
	self->r.src = U64(self->bad) + PAGES(5);
	self->r.len = PAGES(3);
	EXPECT_EQ(-EOPNOTSUPP, mem_refused(self->fd, &self->r));
	EXPECT_EQ(variant->reason, self->r.reason);
	EXPECT_EQ(self->r.src, self->r.fault_addr);
}

TEST_F(refused, and_what_lies_before_it_is_not_shared)
{
	self->r.src = U64(self->good);
	self->r.len = 2 * MEM_HUGE;
	EXPECT_EQ(-EOPNOTSUPP, mem_refused(self->fd, &self->r));
	EXPECT_NE(0, mem_pagemap(self->good) & MEM_PM_EXCLUSIVE);
	self->r.len = MEM_HUGE;
	EXPECT_EQ(0, mem_refused(self->fd, &self->r));
	EXPECT_EQ(NR, self->r.shared);
}

/* What every test below starts from: some written memory of its own. */
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

/* Pages of the kernel's own: code and clocks that it maps for the process. */
TEST_F(kept, vdso_is_refused)
{
	char *vdso = (char *)getauxval(AT_SYSINFO_EHDR), name[64];
	struct cowsnap_remap r = { .size = sizeof(r), .len = MEM_PAGE };

	if (!vdso)
		SKIP(return, "no vdso");
	r.src = U64(vdso);
	EXPECT_EQ(-EOPNOTSUPP, mem_refused(self->fd, &r));
	EXPECT_EQ(COWSNAP_REASON_SPECIAL, r.reason);
	EXPECT_EQ(r.src, r.fault_addr);

	if (!mem_vma_name(vdso - MEM_PAGE, name, sizeof(name)) ||
	    strncmp(name, "[vvar", 5))
		return;
	r.src = U64(vdso - MEM_PAGE);
	EXPECT_EQ(-EOPNOTSUPP, mem_refused(self->fd, &r));
	/* It is both, a page frame mapping and the kernel's own. */
	EXPECT_TRUE(r.reason == COWSNAP_REASON_SPECIAL ||
		    r.reason == COWSNAP_REASON_PFNMAP);
	EXPECT_EQ(r.src, r.fault_addr);
}

/* No struct page behind it that could be counted. */
TEST_F(kept, device_memory_is_refused)
{
	struct cowsnap_remap r = { .size = sizeof(r), .len = PAGES(4) };
	int fd = open("/dev/mem", O_RDONLY | O_CLOEXEC);
	void *rom;

	if (fd < 0)
		SKIP(return, "/dev/mem: %s", strerror(errno));
	rom = mmap(NULL, PAGES(4), PROT_READ, MAP_PRIVATE, fd, 0xf0000);
	if (rom == MAP_FAILED)
		SKIP(return, "/dev/mem: %s", strerror(errno));
	r.src = U64(rom);
	EXPECT_EQ(-EOPNOTSUPP, mem_refused(self->fd, &r));
	EXPECT_EQ(COWSNAP_REASON_PFNMAP, r.reason);
	EXPECT_EQ(r.src, r.fault_addr);
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

/* Memory policy */

static int get_policy(void *p, int *mode, unsigned long *mask)
{
	unsigned long nodes[16] = { 0 };
	int err = syscall(SYS_get_mempolicy, mode, nodes, 8 * sizeof(nodes), p,
			  MPOL_F_ADDR);

	*mask = nodes[0];
	return err;
}

static int set_policy(void *p, size_t len, int mode, unsigned long mask)
{
	return syscall(SYS_mbind, p, len, mode, mask ? &mask : NULL,
		       8 * sizeof(mask), 0);
}

TEST_F(kept, memory_policy_is_kept)
{
	static const int modes[] = { MPOL_BIND, MPOL_INTERLEAVE,
				     MPOL_PREFERRED };
	unsigned long mask;
	int mode;
	size_t i;
	char *dst;

	for (i = 0; i < ARRAY_SIZE(modes); i++) {
		if (set_policy(self->src, self->len, modes[i], 1))
			SKIP(return, "mbind: %s", strerror(errno));
		dst = mem_dup(self->fd, self->src, self->len);
		ASSERT_NE(NULL, dst);
		ASSERT_EQ(0, get_policy(dst, &mode, &mask));
		EXPECT_EQ(modes[i], mode);
		EXPECT_EQ(1, mask);
		/* Its own: changing one leaves the other. */
		ASSERT_EQ(0, set_policy(dst, self->len, MPOL_DEFAULT, 0));
		ASSERT_EQ(0, get_policy(self->src, &mode, &mask));
		EXPECT_EQ(modes[i], mode);
		ASSERT_EQ(0, munmap(dst, self->len));
		ASSERT_EQ(0, get_policy(self->src, &mode, &mask));
		EXPECT_EQ(modes[i], mode);
	}
}

/* One of node 0. */
static int run_on_cpu0(void)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(0, &cpus);
	return sched_setaffinity(0, sizeof(cpus), &cpus);
}

static int node_of(void *p)
{
	int status = -1;

	if (syscall(SYS_move_pages, 0, 1, &p, NULL, &status, 0))
		return -errno;
	return status;
}

/* What is copied on a write goes where the source's policy says. */
TEST_F(kept, policy_decides_where_copies_go)
{
	unsigned long mask = 2;
	char *src, *dst;
	size_t i;

	if (mem_nodes() < 2)
		SKIP(return, "only one NUMA node");
	ASSERT_EQ(0, run_on_cpu0());
	src = mem_map_alone(self->len);
	ASSERT_NE(NULL, src);
	ASSERT_EQ(0, set_policy(src, self->len, MPOL_BIND, mask));
	mem_fill(src, self->len, 1);
	ASSERT_EQ(1, node_of(src));
	dst = mem_dup(self->fd, src, self->len);
	ASSERT_NE(NULL, dst);
	mem_fill(dst, self->len / 2, 2);
	mem_fill(src + self->len / 2, self->len / 2, 3);
	for (i = 0; i < NR; i++) {
		EXPECT_EQ(1, node_of(src + PAGES(i)));
		EXPECT_EQ(1, node_of(dst + PAGES(i)));
	}
}

/*
 * NUMA hinting: the kernel takes access away for a moment to see who asks for
 * it. The entry is neither missing nor readable, and must be shared as it is.
 */
#define SCAN	"/sys/kernel/debug/sched/numa_balancing/"
#define NR_SCAN	1024

FIXTURE(hinting)
{
	int fd;
	long balancing;
	long delay;
};

FIXTURE_SETUP(hinting)
{
	self->fd = mem_open();
	ASSERT_GE(self->fd, 0)
		TH_LOG("%s: %s. Is the module loaded?", MEM_DEVICE,
		       strerror(errno));
	self->balancing = mem_read_long("/proc/sys/kernel/numa_balancing");
	self->delay = mem_read_long(SCAN "scan_delay_ms");
	if (mem_nodes() < 2 || self->balancing < 0 || self->delay < 0)
		SKIP(return, "needs two nodes, NUMA balancing and debugfs");
	mem_write("/proc/sys/kernel/numa_balancing", "1");
	mem_write(SCAN "scan_delay_ms", "1");
}

static void write_long(const char *path, long value)
{
	char text[32];

	snprintf(text, sizeof(text), "%ld", value);
	mem_write(path, text);
}

FIXTURE_TEARDOWN(hinting)
{
	if (self->balancing >= 0)
		write_long("/proc/sys/kernel/numa_balancing", self->balancing);
	if (self->delay >= 0)
		write_long(SCAN "scan_delay_ms", self->delay);
	close(self->fd);
}

/* Runs until the kernel has taken access to that many pages away. */
static bool await_scan(long nr)
{
	long start = mem_vmstat("numa_pte_updates");
	clock_t end = clock() + 8 * CLOCKS_PER_SEC;

	while (clock() < end)
		if (mem_vmstat("numa_pte_updates") - start >= nr)
			return true;
	return false;
}

enum { SHARED, NOT_SHARED, NOT_DUPLICATED, NOT_APART, NOT_SCANNED };

static int share_hinting(int fd)
{
	size_t len = PAGES(NR_SCAN);
	char *src = mem_map_alone(len), *dst;
	unsigned long node1 = 2;
	struct cowsnap_remap r;
	size_t i;

	/* What lies on the node of its only user is left alone. */
	if (!src || run_on_cpu0() ||
	    syscall(SYS_set_mempolicy, MPOL_BIND, &node1, 8 * sizeof(node1)))
		return NOT_SCANNED;
	for (i = 0; i < NR_SCAN; i++)
		mem_fill(src + PAGES(i), MEM_PAGE, i);
	syscall(SYS_set_mempolicy, MPOL_DEFAULT, NULL, 0);
	if (!await_scan(NR_SCAN / 2))
		return NOT_SCANNED;
	if (mem_remap(fd, src, len, NULL, 0, &r) || r.shared != NR_SCAN)
		return NOT_DUPLICATED;
	dst = (char *)r.dst;
	if (mem_shared_pages(src, dst, len) != NR_SCAN)
		return NOT_SHARED;
	for (i = 0; i < NR_SCAN; i += 2)
		mem_fill(src + PAGES(i), MEM_PAGE, 5000);
	for (i = 1; i < NR_SCAN; i += 2)
		mem_fill(dst + PAGES(i), MEM_PAGE, 6000);
	for (i = 0; i < NR_SCAN; i++)
		if (!mem_check(src + PAGES(i), MEM_PAGE, i & 1 ? i : 5000) ||
		    !mem_check(dst + PAGES(i), MEM_PAGE, i & 1 ? 6000 : i))
			return NOT_APART;
	return SHARED;
}

/* A process takes the delay over when it is made. */
TEST_F(hinting, entries_are_shared)
{
	int status;
	pid_t pid;

	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid)
		_exit(share_hinting(self->fd));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_TRUE(WIFEXITED(status));
	if (WEXITSTATUS(status) == NOT_SCANNED)
		SKIP(return, "the kernel did not scan");
	EXPECT_EQ(SHARED, WEXITSTATUS(status));
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

/* userfaultfd */

static int open_uffd(__u64 features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return -1;
	if (!ioctl(fd, UFFDIO_API, &api))
		return fd;
	close(fd);
	return -1;
}

static int watch(int uffd, void *p, size_t len, __u64 mode)
{
	struct uffdio_register reg = { .range = { U64(p), len },
				       .mode = mode };

	return ioctl(uffd, UFFDIO_REGISTER, &reg);
}

static int protect(int uffd, void *p, size_t len, bool on)
{
	struct uffdio_writeprotect wp = {
		.range = { U64(p), len },
		.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	return ioctl(uffd, UFFDIO_WRITEPROTECT, &wp);
}

struct monitor {
	int uffd;
	bool wp;
	int events;
	__u64 address;
};

/* Answers one fault: with a zero page, or by taking the protection away. */
static void *answer_one(void *arg)
{
	struct monitor *m = arg;
	struct pollfd p = { .fd = m->uffd, .events = POLLIN };
	struct uffdio_zeropage zero = { .range.len = MEM_PAGE };
	struct uffd_msg msg;

	if (poll(&p, 1, 10000) != 1 ||
	    read(m->uffd, &msg, sizeof(msg)) != sizeof(msg) ||
	    msg.event != UFFD_EVENT_PAGEFAULT)
		return NULL;
	m->events++;
	m->address = msg.arg.pagefault.address & ~(MEM_PAGE - 1);
	if (m->wp) {
		protect(m->uffd, (void *)m->address, MEM_PAGE, false);
	} else {
		zero.range.start = m->address;
		ioctl(m->uffd, UFFDIO_ZEROPAGE, &zero);
	}
	return NULL;
}

static bool no_event(int uffd)
{
	struct pollfd p = { .fd = uffd, .events = POLLIN };

	return poll(&p, 1, 0) == 0;
}

/* The monitor does not know of the duplicate: nobody would ever answer. */
TEST_F(kept, userfaultfd_does_not_watch_the_duplicate)
{
	int uffd = open_uffd(0);
	struct monitor m = { .uffd = uffd };
	char *src = mem_map_alone(self->len), *dst;
	pthread_t thread;

	ASSERT_NE(NULL, src);
	if (uffd < 0)
		SKIP(return, "userfaultfd: %s", strerror(errno));
	mem_fill(src, self->len / 2, 1);
	ASSERT_EQ(0, watch(uffd, src, self->len, UFFDIO_REGISTER_MODE_MISSING));
	dst = mem_dup(self->fd, src, self->len);
	ASSERT_NE(NULL, dst);
	EXPECT_FALSE(mem_smaps_flag(dst, "um"));
	EXPECT_TRUE(mem_smaps_flag(src, "um"));
	/* Hangs if it does watch. */
	EXPECT_TRUE(mem_is_zero(dst + self->len / 2, self->len / 2));
	mem_fill(dst, self->len, 2);
	EXPECT_TRUE(no_event(uffd));

	/* And still watches the source. */
	ASSERT_EQ(0, pthread_create(&thread, NULL, answer_one, &m));
	*(volatile char *)(src + self->len - 1) = 1;
	pthread_join(thread, NULL);
	EXPECT_EQ(1, m.events);
	EXPECT_EQ(U64(src) + self->len - MEM_PAGE, m.address);
	EXPECT_TRUE(mem_check(src, self->len / 2, 1));
}

/*
 * A page protected through userfaultfd stays so in the source, and none is in
 * the duplicate: there the mark would tell a monitor of somebody else's memory.
 */
TEST_F(kept, userfaultfd_protection_stays_with_the_source)
{
	int uffd = open_uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
	struct monitor m = { .uffd = uffd, .wp = true };
	pthread_t thread;
	char *dst;
	size_t i;

	if (uffd < 0 || watch(uffd, self->src, self->len,
			      UFFDIO_REGISTER_MODE_WP))
		SKIP(return, "userfaultfd cannot write-protect");
	ASSERT_EQ(0, protect(uffd, self->src, self->len / 2, true));
	dst = mem_dup(self->fd, self->src, self->len);
	ASSERT_NE(NULL, dst);
	EXPECT_FALSE(mem_smaps_flag(dst, "uw"));
	EXPECT_TRUE(mem_smaps_flag(self->src, "uw"));
	EXPECT_EQ(NR, mem_shared_pages(self->src, dst, self->len));
	for (i = 0; i < NR; i++) {
		EXPECT_EQ(i < NR / 2, !!(mem_pagemap(self->src + PAGES(i)) &
					 MEM_PM_UFFD_WP));
		EXPECT_EQ(0, mem_pagemap(dst + PAGES(i)) & MEM_PM_UFFD_WP);
	}
	mem_fill(dst, self->len, 2);
	/* The half that is not protected. */
	mem_fill(self->src + self->len / 2, self->len / 2, 3);
	EXPECT_TRUE(no_event(uffd));

	ASSERT_EQ(0, pthread_create(&thread, NULL, answer_one, &m));
	mem_fill(self->src, MEM_PAGE, 3);
	pthread_join(thread, NULL);
	EXPECT_EQ(1, m.events);
	EXPECT_EQ(U64(self->src), m.address);
	EXPECT_TRUE(mem_check(self->src, MEM_PAGE, 3));
	EXPECT_TRUE(mem_check(dst, self->len, 2));
}

/* The mark lives in swap entries as well. */
TEST_F(kept, userfaultfd_protection_of_swapped_pages_stays_with_the_source)
{
	int uffd = open_uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
	char *dst;
	size_t i;

	if (uffd < 0 || watch(uffd, self->src, self->len,
			      UFFDIO_REGISTER_MODE_WP))
		SKIP(return, "userfaultfd cannot write-protect");
	if (!mem_have_swap())
		SKIP(return, "no swap");
	ASSERT_EQ(0, protect(uffd, self->src, self->len, true));
	if (mem_pageout(self->src, self->len) != NR)
		SKIP(return, "cannot swap out");
	dst = mem_dup(self->fd, self->src, self->len);
	ASSERT_NE(NULL, dst);
	for (i = 0; i < NR; i++) {
		EXPECT_TRUE(mem_swapped(dst + PAGES(i)));
		EXPECT_NE(0, mem_pagemap(self->src + PAGES(i)) &
			  MEM_PM_UFFD_WP);
		EXPECT_EQ(0, mem_pagemap(dst + PAGES(i)) & MEM_PM_UFFD_WP);
	}
	EXPECT_TRUE(mem_check(dst, self->len, 1));
	mem_fill(dst, self->len, 2);
	EXPECT_TRUE(mem_check(self->src, self->len, 1));
	for (i = 0; i < NR; i++)
		EXPECT_NE(0, mem_pagemap(self->src + PAGES(i)) &
			  MEM_PM_UFFD_WP);
	EXPECT_TRUE(no_event(uffd));
}

/* Protected before it was touched: a marker where no page is. */
TEST_F(kept, userfaultfd_protection_of_nothing_stays_with_the_source)
{
	int uffd = open_uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP | WP_UNPOPULATED);
	char *src = mem_map_alone(self->len), *dst;
	struct cowsnap_remap r;
	size_t i;

	ASSERT_NE(NULL, src);
	if (uffd < 0 || watch(uffd, src, self->len, UFFDIO_REGISTER_MODE_WP))
		SKIP(return, "userfaultfd cannot protect what is not there");
	ASSERT_EQ(0, protect(uffd, src, self->len, true));
	ASSERT_EQ(0, mem_remap(self->fd, src, self->len, NULL, 0, &r));
	EXPECT_EQ(0, r.shared);
	dst = (char *)r.dst;
	for (i = 0; i < NR; i++) {
		EXPECT_NE(0, mem_pagemap(src + PAGES(i)) & MEM_PM_UFFD_WP);
		EXPECT_EQ(0, mem_pagemap(dst + PAGES(i)) & MEM_PM_UFFD_WP);
		EXPECT_TRUE(mem_untouched(dst + PAGES(i)));
	}
	mem_fill(dst, self->len, 2);
	EXPECT_TRUE(no_event(uffd));
	EXPECT_TRUE(mem_check(dst, self->len, 2));
}

/* And in the entry that maps a huge page. */
TEST_F(kept, userfaultfd_protection_of_a_huge_page_stays_with_the_source)
{
	int uffd = open_uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
	char *src = mem_map_huge(MEM_HUGE), *dst;

	if (!src)
		SKIP(return, "no huge pages");
	if (uffd < 0 || watch(uffd, src, MEM_HUGE, UFFDIO_REGISTER_MODE_WP))
		SKIP(return, "userfaultfd cannot write-protect");
	mem_fill(src, MEM_HUGE, 1);
	ASSERT_EQ(0, protect(uffd, src, MEM_HUGE, true));
	ASSERT_TRUE(mem_all_huge(src, MEM_HUGE));
	dst = mem_dup(self->fd, src, MEM_HUGE);
	ASSERT_NE(NULL, dst);
	EXPECT_EQ(512, mem_shared_pages(src, dst, MEM_HUGE));
	EXPECT_NE(0, mem_pagemap(src + PAGES(7)) & MEM_PM_UFFD_WP);
	EXPECT_EQ(0, mem_pagemap(dst + PAGES(7)) & MEM_PM_UFFD_WP);
	mem_fill(dst, MEM_HUGE, 2);
	EXPECT_TRUE(mem_check(src, MEM_HUGE, 1));
	EXPECT_TRUE(no_event(uffd));
}

/* Soft-dirty: which pages were written since the last look. */

static bool have_soft_dirty(void)
{
	char *p = mem_map(PAGES(2));
	bool have;

	if (!p || mem_write("/proc/self/clear_refs", "4"))
		return false;
	*(volatile char *)p = 1;
	have = mem_pagemap(p) & MEM_PM_SOFT_DIRTY;
	mem_write("/proc/self/clear_refs", "4");
	have &= !(mem_pagemap(p) & MEM_PM_SOFT_DIRTY);
	munmap(p, PAGES(2));
	return have;
}

static bool is_dirty(const void *p)
{
	return mem_pagemap(p) & MEM_PM_SOFT_DIRTY;
}

/* Neither lost nor invented by duplicating. */
TEST_F(kept, soft_dirty_marks_of_the_source_stay)
{
	char *dst;
	size_t i;

	if (!have_soft_dirty())
		SKIP(return, "no soft-dirty tracking");
	ASSERT_EQ(0, mem_write("/proc/self/clear_refs", "4"));
	for (i = 0; i < NR; i += 2)
		mem_fill(self->src + PAGES(i), MEM_PAGE, 7);
	dst = mem_dup(self->fd, self->src, self->len);
	ASSERT_NE(NULL, dst);
	for (i = 0; i < NR; i++)
		EXPECT_EQ(i % 2 == 0, is_dirty(self->src + PAGES(i)))
			TH_LOG("page %zu", i);
}

/* An incremental checkpoint would miss the page. */
TEST_F(kept, write_to_the_source_is_seen_as_soft_dirty)
{
	char *dst;
	size_t i;

	if (!have_soft_dirty())
		SKIP(return, "no soft-dirty tracking");
	ASSERT_EQ(0, mem_write("/proc/self/clear_refs", "4"));
	dst = mem_dup(self->fd, self->src, self->len);
	ASSERT_NE(NULL, dst);
	for (i = 0; i < NR; i += 4)
		mem_fill(self->src + PAGES(i), MEM_PAGE, 7);
	for (i = 0; i < NR; i++)
		EXPECT_EQ(i % 4 == 0, is_dirty(self->src + PAGES(i)))
			TH_LOG("page %zu", i);
	/* In place by now, and still seen. */
	munmap(dst, self->len);
	ASSERT_EQ(0, mem_write("/proc/self/clear_refs", "4"));
	mem_fill(self->src + PAGES(1), MEM_PAGE, 7);
	EXPECT_TRUE(is_dirty(self->src + PAGES(1)));
	EXPECT_FALSE(is_dirty(self->src + PAGES(2)));
}

/* New at its address, like any new mapping: all of it has changed there. */
TEST_F(kept, duplicate_is_soft_dirty)
{
	char *dst;
	size_t i;

	if (!have_soft_dirty())
		SKIP(return, "no soft-dirty tracking");
	ASSERT_EQ(0, mem_write("/proc/self/clear_refs", "4"));
	dst = mem_dup(self->fd, self->src, self->len);
	ASSERT_NE(NULL, dst);
	for (i = 0; i < NR; i++)
		EXPECT_TRUE(is_dirty(dst + PAGES(i)));
	/* From then on it is tracked as any memory is. */
	ASSERT_EQ(0, mem_write("/proc/self/clear_refs", "4"));
	mem_fill(dst + PAGES(3), MEM_PAGE, 7);
	EXPECT_TRUE(is_dirty(dst + PAGES(3)));
	EXPECT_FALSE(is_dirty(dst + PAGES(4)));
	EXPECT_FALSE(is_dirty(self->src + PAGES(3)));
}

/* The marks in swap entries. */
TEST_F(kept, soft_dirty_marks_of_swapped_pages_stay)
{
	char *dst;
	size_t i;

	if (!have_soft_dirty())
		SKIP(return, "no soft-dirty tracking");
	if (!mem_have_swap())
		SKIP(return, "no swap");
	ASSERT_EQ(0, mem_write("/proc/self/clear_refs", "4"));
	for (i = 0; i < NR; i += 2)
		mem_fill(self->src + PAGES(i), MEM_PAGE, 7);
	if (mem_pageout(self->src, self->len) != NR)
		SKIP(return, "cannot swap out");
	dst = mem_dup(self->fd, self->src, self->len);
	ASSERT_NE(NULL, dst);
	for (i = 0; i < NR; i++) {
		EXPECT_TRUE(mem_swapped(self->src + PAGES(i)));
		EXPECT_EQ(i % 2 == 0, is_dirty(self->src + PAGES(i)));
	}
}

TEST_HARNESS_MAIN
