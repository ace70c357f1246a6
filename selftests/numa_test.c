// SPDX-License-Identifier: GPL-2.0
/*
 * Nodes: where the pages of a duplicate come from, and entries that the kernel
 * has made inaccessible to see who asks for them.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "harness.h"
#include "kernel.h"
#include "uring.h"

#define PAGES(n)	((n) * MEM_PAGE)
#define NR		16

/* What every test here starts from: some written memory of its own. */
FIXTURE(policy)
{
	int fd;
	char *src;
	size_t len;
};

FIXTURE_SETUP(policy)
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

FIXTURE_TEARDOWN(policy)
{
	close(self->fd);
}

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

TEST_F(policy, memory_policy_is_kept)
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

/* What is copied on a write goes where the source's policy says. */
TEST_F(policy, policy_decides_where_copies_go)
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

/* And what is copied at once. */
TEST_F(policy, policy_decides_where_pinned_pages_are_copied_to)
{
	static const int modes[] = { MPOL_BIND, MPOL_PREFERRED };
	unsigned long mask = 2;
	struct cowsnap_remap r;
	struct uring ring;
	char *src, *dst;
	size_t i, j;
	int err;

	if (mem_nodes() < 2)
		SKIP(return, "only one NUMA node");
	err = uring_open(&ring);
	if (err)
		SKIP(return, "no io_uring: %s", strerror(-err));
	ASSERT_EQ(0, run_on_cpu0());
	for (j = 0; j < ARRAY_SIZE(modes); j++) {
		src = mem_map_alone(self->len);
		ASSERT_NE(NULL, src);
		mem_fill(src, self->len, 1);
		ASSERT_EQ(0, node_of(src));
		/* Pages that are there stay where they are. */
		ASSERT_EQ(0, set_policy(src, self->len, modes[j], mask));
		ASSERT_EQ(0, uring_pin(&ring, src, self->len / 2));
		ASSERT_EQ(0, mem_remap(self->fd, src, self->len, NULL, 0, &r));
		ASSERT_EQ(NR / 2, r.copied);
		dst = (char *)r.dst;
		for (i = 0; i < NR; i++) {
			EXPECT_EQ(0, node_of(src + PAGES(i)));
			EXPECT_EQ(i < NR / 2, node_of(dst + PAGES(i)));
		}
		EXPECT_TRUE(mem_check(dst, self->len, 1));
		uring_unpin(&ring);
		mem_unmap_alone(src, self->len);
	}
	uring_close(&ring);
}

/* Page by page in turn, at both ends of the same offset. */
TEST_F(policy, interleaved_copies_alternate)
{
	unsigned long mask = 3;
	char *src, *dst;
	size_t i;

	if (mem_nodes() < 2)
		SKIP(return, "only one NUMA node");
	src = mem_map_alone(self->len);
	ASSERT_NE(NULL, src);
	ASSERT_EQ(0, set_policy(src, self->len, MPOL_INTERLEAVE, mask));
	mem_fill(src, self->len, 1);
	dst = mem_dup(self->fd, src, self->len);
	ASSERT_NE(NULL, dst);
	mem_fill(dst, self->len, 2);
	for (i = 0; i < NR; i++)
		EXPECT_EQ(node_of(src + PAGES(i)), node_of(dst + PAGES(i)));
	for (i = 1; i < NR; i++)
		EXPECT_NE(node_of(dst + PAGES(i - 1)), node_of(dst + PAGES(i)));
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

TEST_HARNESS_MAIN
