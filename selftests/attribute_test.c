// SPDX-License-Identifier: GPL-2.0
/*
 * Attributes of a mapping, one by one: which of them the duplicate has, that
 * the source keeps all of its own, that content is apart whatever they are, and
 * that accounting goes up by the duplicate and comes back.
 */
#include <errno.h>
#include <linux/mempolicy.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "harness.h"
#include "kernel.h"
#include "uffd.h"

#define PAGES(n)	((n) * MEM_PAGE)
#define NR		16
#define LEN		PAGES(NR)

/* Newer than the headers of Debian 12. */
#ifndef SYS_mseal
#define SYS_mseal	462
#endif
#ifndef PR_SET_VMA
#define PR_SET_VMA	0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif

FIXTURE(attribute)
{
	int fd;
	char *src;
	size_t len;
};

FIXTURE_VARIANT(attribute)
{
	int (*put)(char *p, int arg);	/* 0, or -1 with errno */
	int arg;
	const char *flag;	/* in VmFlags of smaps; NULL for none */
	bool lost;		/* the duplicate does not have it */
	bool locked;
};

static int put_nothing(char *p, int arg)
{
	(void)p;
	(void)arg;
	return 0;
}

static int put_advice(char *p, int advice)
{
	return madvise(p, LEN, advice);
}

static int put_protection(char *p, int prot)
{
	return mprotect(p, LEN, prot);
}

static int put_lock(char *p, int flags)
{
	return mlock2(p, LEN, flags);
}

static int put_watch(char *p, int mode)
{
	int uffd = open_uffd(0);

	return uffd < 0 ? -1 : watch(uffd, p, LEN, mode);
}

static int put_key(char *p, int arg)
{
	int key = pkey_alloc(0, arg);

	return key < 0 ? -1 : pkey_mprotect(p, LEN, PROT_READ | PROT_WRITE, key);
}

static int put_policy(char *p, int mode)
{
	unsigned long node = 1;

	return syscall(SYS_mbind, p, LEN, mode, &node, 8 * sizeof(node), 0);
}

static int put_name(char *p, int arg)
{
	return prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME + arg, p, LEN, "a name");
}

static int put_seal(char *p, int arg)
{
	return syscall(SYS_mseal, p, LEN, arg);
}

/* Other than by advice, it is a property from the start. */
static int put_map(char *p, int flags)
{
	int all = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | flags;

	if (mmap(p, LEN, PROT_READ | PROT_WRITE, all, -1, 0) != p)
		return -1;
	mem_fill(p, LEN, 1);
	return 0;
}

#define KEPT(name, how_, arg_, flag_, ...)				\
	FIXTURE_VARIANT_ADD(attribute, name) {				\
		.put = put_##how_, .arg = arg_, .flag = flag_,		\
		__VA_ARGS__						\
	}
#define LOST(name, how_, arg_, flag_, ...)				\
	KEPT(name, how_, arg_, flag_, .lost = true, __VA_ARGS__)

KEPT(none, nothing, 0, NULL);
KEPT(dontfork, advice, MADV_DONTFORK, "dc");
KEPT(dontdump, advice, MADV_DONTDUMP, "dd");
KEPT(hugepage, advice, MADV_HUGEPAGE, "hg");
KEPT(nohugepage, advice, MADV_NOHUGEPAGE, "nh");
KEPT(mergeable, advice, MADV_MERGEABLE, "mg");
KEPT(random, advice, MADV_RANDOM, "rr");
KEPT(sequential, advice, MADV_SEQUENTIAL, "sr");
KEPT(inaccessible, protection, PROT_NONE, NULL);
KEPT(read_only, protection, PROT_READ, NULL);
KEPT(executable, protection, PROT_READ | PROT_EXEC, "ex");
KEPT(noreserve, map, MAP_NORESERVE, "nr");
KEPT(stack, map, MAP_STACK, NULL);
KEPT(protection_key, key, 0, NULL);
KEPT(bind_policy, policy, MPOL_BIND, NULL);
KEPT(interleave_policy, policy, MPOL_INTERLEAVE, NULL);
KEPT(name, name, 0, NULL);
LOST(growsdown, map, MAP_GROWSDOWN, "gd");
LOST(locked, lock, 0, "lo", .locked = true);
LOST(locked_on_fault, lock, MLOCK_ONFAULT, "lo", .locked = true);
LOST(userfaultfd_missing, watch, UFFDIO_REGISTER_MODE_MISSING, "um");
LOST(userfaultfd_wp, watch, UFFDIO_REGISTER_MODE_WP, "uw");
LOST(sealed, seal, 0, "sl");

FIXTURE_SETUP(attribute)
{
	self->fd = mem_open();
	ASSERT_GE(self->fd, 0)
		TH_LOG("%s: %s. Is the module loaded?", MEM_DEVICE,
		       strerror(errno));
	self->len = LEN;
	/* Not mem_map_alone(): its MADV_NOHUGEPAGE is one of these. */
	self->src = mmap(NULL, 3 * LEN, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS |
			 MAP_NORESERVE, -1, 0);
	ASSERT_NE(MAP_FAILED, self->src);
	self->src += LEN;
	ASSERT_EQ(0, put_map(self->src, 0));
	/* So that the mark of new memory tells which is new. */
	mem_write("/proc/self/clear_refs", "4");
	if (variant->put(self->src, variant->arg))
		SKIP(return, "not here: %s", strerror(errno));
	if (variant->flag)
		ASSERT_TRUE(mem_smaps_flag(self->src, variant->flag));
}

FIXTURE_TEARDOWN(attribute)
{
	close(self->fd);
}

/* Every flag in @a but for those of @except is in @b. */
static bool contains(const char *b, const char *a, const char *except)
{
	char flag[4];

	for (; a[0] && a[1]; a += 3) {
		snprintf(flag, sizeof(flag), "%.2s ", a);
		if (strstr(except, flag) || strstr(b, flag))
			continue;
		fprintf(stderr, "# %s: in \"%s\", not in \"%s\"\n", flag, a, b);
		return false;
	}
	return true;
}

/* Where they cannot be shared, both sides have no huge pages from then on. */
static const char *flag_after(int fd, const char *flag)
{
	return flag && !strcmp(flag, "hg") && !mem_huge_whole(fd) ? "nh" : flag;
}

/* There the duplicate is not for KSM, either. */
static bool is_lost(int fd, bool lost, const char *flag)
{
	return lost || (flag && !strcmp(flag, "mg") && !mem_huge_whole(fd));
}

/* Each side as its mapping says, and not a right more. */
TEST_F(attribute, is_as_promised_on_both_sides)
{
	char was[256], src[256], dst[256], perms[2][5], name[2][64];
	const char *flag = flag_after(self->fd, variant->flag);
	bool lost = is_lost(self->fd, variant->lost, flag);
	char except[16] = "";
	char *plain, *dup;

	dup = mem_dup(self->fd, self->src, LEN);
	ASSERT_NE(NULL, dup);
	/* "sd", memory that is new, is for the duplicate alone. */
	mem_write("/proc/self/clear_refs", "4");
	ASSERT_TRUE(mem_smaps_flags(self->src, was, sizeof(was)));
	plain = dup;
	dup = mem_dup(self->fd, self->src, LEN);
	ASSERT_NE(NULL, dup);
	ASSERT_TRUE(mem_smaps_flags(self->src, src, sizeof(src)));
	ASSERT_TRUE(mem_smaps_flags(dup, dst, sizeof(dst)));
	EXPECT_STREQ(was, src);
	/* With it goes MLOCK_ONFAULT, which 6.1 calls "??". */
	if (lost)
		snprintf(except, sizeof(except), "%s lf ?? ", variant->flag);
	EXPECT_TRUE(contains(dst, src, except));
	EXPECT_TRUE(contains(src, dst, "sd "));
	if (flag)
		EXPECT_EQ(!lost, mem_smaps_flag(dup, flag));
	ASSERT_TRUE(mem_vma(self->src, NULL, NULL, perms[0]));
	ASSERT_TRUE(mem_vma(dup, NULL, NULL, perms[1]));
	EXPECT_STREQ(perms[0], perms[1]);
	EXPECT_EQ(mem_smaps(self->src, "ProtectionKey"),
		  mem_smaps(dup, "ProtectionKey"));
	ASSERT_TRUE(mem_vma_name(self->src, name[0], sizeof(name[0])));
	ASSERT_TRUE(mem_vma_name(dup, name[1], sizeof(name[1])));
	EXPECT_STREQ(name[0], name[1]);
	/* Neither does what was duplicated before know of it. */
	ASSERT_TRUE(mem_smaps_flags(plain, src, sizeof(src)));
	EXPECT_TRUE(contains(src, dst, "sd "));
}

static void open_up(char *p, const char *perms)
{
	if (strncmp(perms, "rw", 2))
		mprotect(p, LEN, PROT_READ | PROT_WRITE);
}

TEST_F(attribute, content_is_apart)
{
	char perms[5], *dup;
	size_t i;

	ASSERT_TRUE(mem_vma(self->src, NULL, NULL, perms));
	dup = mem_dup(self->fd, self->src, LEN);
	ASSERT_NE(NULL, dup);
	EXPECT_EQ(NR, mem_shared_pages(self->src, dup, LEN));
	open_up(dup, perms);
	open_up(self->src, perms);
	EXPECT_TRUE(mem_check(dup, LEN, 1));
	for (i = 0; i < NR; i += 2) {
		mem_fill(dup + PAGES(i), MEM_PAGE, 100 + i);
		mem_fill(self->src + PAGES(i + 1), MEM_PAGE, 200 + i);
	}
	EXPECT_EQ(0, mem_shared_pages(self->src, dup, LEN));
	mem_fill(self->src, MEM_PAGE, 300);
	for (i = 0; i < NR; i += 2)
		EXPECT_TRUE(mem_check(dup + PAGES(i), MEM_PAGE, 100 + i));
	ASSERT_EQ(0, munmap(dup, LEN));
	EXPECT_TRUE(mem_check(self->src, MEM_PAGE, 300));
	for (i = 0; i < NR; i += 2)
		EXPECT_TRUE(mem_check(self->src + PAGES(i + 1), MEM_PAGE,
				      200 + i));
}

TEST_F(attribute, counters_go_up_by_the_duplicate_and_return)
{
	struct mem_counters before, during, after;
	char perms[5], *dup;
	int round;

	ASSERT_TRUE(mem_vma(self->src, NULL, NULL, perms));
	open_up(self->src, perms);
	/* The first round is for page tables that stay. */
	for (round = 0; round < 2; round++) {
		mem_counters(&before);
		dup = mem_dup(self->fd, self->src, LEN);
		ASSERT_NE(NULL, dup);
		mem_counters(&during);
		mem_fill(self->src, LEN / 2, 3);
		mem_fill(dup + LEN / 4, LEN / 2, 4);
		ASSERT_EQ(0, munmap(dup, LEN));
		mem_counters(&after);
	}
	EXPECT_EQ(before.vm_size + (long)(LEN >> 10), during.vm_size);
	EXPECT_EQ(before.rss_anon + (long)(LEN >> 10), during.rss_anon);
	EXPECT_EQ(before.locked, during.locked);
	EXPECT_EQ(variant->locked ? (long)(LEN >> 10) : 0, during.locked);
	EXPECT_EQ(before.swap, during.swap);
	EXPECT_EQ(before.maps + 1, during.maps);
	EXPECT_TRUE(mem_counters_equal(&before, &after));
}

TEST_HARNESS_MAIN
