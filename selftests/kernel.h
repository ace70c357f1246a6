/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Making the kernel do to pages what it else does when it likes: reclaim,
 * migration, merging, giving them up. Needs root.
 */
#ifndef COWSNAP_SELFTESTS_KERNEL_H
#define COWSNAP_SELFTESTS_KERNEL_H

#include <errno.h>
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "mem.h"

#ifndef MADV_COLD
#define MADV_COLD	20
#endif
#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT	21
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE	25
#endif
#ifndef MADV_HWPOISON
#define MADV_HWPOISON	100
#endif
#ifndef MADV_SOFT_OFFLINE
#define MADV_SOFT_OFFLINE	101
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL	102
#define MADV_GUARD_REMOVE	103
#endif

static inline double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

/* How many page table entries map the page at @addr. */
static inline uint64_t page_count(const void *addr)
{
	int fd = open("/proc/kpagecount", O_RDONLY | O_CLOEXEC);
	uint64_t value = 0;

	if (fd < 0)
		return 0;
	if (pread(fd, &value, sizeof(value), mem_pfn(addr) * sizeof(value)) !=
	    sizeof(value))
		value = 0;
	close(fd);
	return value;
}

static inline size_t swapped_pages(const void *p, size_t len)
{
	size_t i, count = 0;

	for (i = 0; i < len; i += MEM_PAGE)
		count += mem_swapped((const char *)p + i);
	return count;
}

/*
 * A memory cgroup of our own. MADV_PAGEOUT leaves pages alone that are mapped
 * more than once; reclaim of the group does not.
 */
#define CGROUP_ROOT	"/sys/fs/cgroup"

struct cgroup {
	char dir[64];
	char from[256];		/* where we came from */
};

/* 0 or -errno. */
static inline int cgroup_enter(struct cgroup *cg)
{
	char path[128], line[200] = "", pid[16];
	FILE *f = fopen("/proc/self/cgroup", "re");
	int err;

	cg->dir[0] = 0;
	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, "0::", 3))
			break;
	if (f)
		fclose(f);
	if (strncmp(line, "0::", 3))
		return -ENOENT;
	line[strcspn(line, "\n")] = 0;
	snprintf(cg->from, sizeof(cg->from), CGROUP_ROOT "%s/cgroup.procs",
		 line + 3);
	mem_write(CGROUP_ROOT "/cgroup.subtree_control", "+memory");
	snprintf(cg->dir, sizeof(cg->dir), CGROUP_ROOT "/cowsnap-%d", getpid());
	if (mkdir(cg->dir, 0755)) {
		cg->dir[0] = 0;
		return -errno;
	}
	snprintf(path, sizeof(path), "%s/memory.reclaim", cg->dir);
	snprintf(pid, sizeof(pid), "%d", getpid());
	err = access(path, W_OK) ? -errno : 0;
	snprintf(path, sizeof(path), "%s/cgroup.procs", cg->dir);
	if (!err)
		err = mem_write(path, pid);
	if (err) {
		rmdir(cg->dir);
		cg->dir[0] = 0;
	}
	return err;
}

static inline void cgroup_leave(struct cgroup *cg)
{
	char pid[16];

	if (!cg->dir[0])
		return;
	snprintf(pid, sizeof(pid), "%d", getpid());
	mem_write(cg->from, pid);
	rmdir(cg->dir);
	cg->dir[0] = 0;
}

static inline long cgroup_read(const struct cgroup *cg, const char *file)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", cg->dir, file);
	return mem_read_long(path);
}

/*
 * Reclaim as much of the group as is possible in one go. How full its lists are
 * reclaim looks up in the statistics, which may be two seconds old: that of a
 * list of pages just activated may say that it is empty. Who reads them has them
 * brought up to date.
 */
static inline void cgroup_reclaim(const struct cgroup *cg)
{
	char path[128];

	cgroup_read(cg, "memory.stat");
	snprintf(path, sizeof(path), "%s/memory.reclaim", cg->dir);
	mem_write(path, "1G");
}

/* Until all of the range is swapped out or it is hopeless: pages swapped. */
static inline size_t cgroup_swap_out(const struct cgroup *cg, const void *p,
				     size_t len)
{
	size_t count = 0;
	int tries;

	for (tries = 0; tries < 12; tries++) {
		cgroup_reclaim(cg);
		count = swapped_pages(p, len);
		if (count == len / MEM_PAGE)
			break;
	}
	return count;
}

/*
 * Move the pages at @p to @node, mapped once or more often. Returns how many
 * are there then. Somebody may hold a reference for a moment: tries again.
 */
#define MOVE_MAX	1024

/* One of node 0: what is not placed on purpose goes there. */
static inline int run_on_cpu0(void)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(0, &cpus);
	return sched_setaffinity(0, sizeof(cpus), &cpus);
}

/* Of the page at @p, or -errno. */
static inline int node_of(void *p)
{
	int status = -1;

	if (syscall(__NR_move_pages, 0, 1, &p, NULL, &status, 0))
		return -errno;
	return status;
}

static inline size_t move_to_node(void *p, size_t len, int node)
{
	static void *pages[MOVE_MAX];
	static int nodes[MOVE_MAX], status[MOVE_MAX];
	size_t i, nr = len / MEM_PAGE, count = 0;
	int tries;

	for (i = 0; i < nr && i < MOVE_MAX; i++) {
		pages[i] = (char *)p + i * MEM_PAGE;
		nodes[i] = node;
	}
	for (tries = 0; tries < 5 && count < nr; tries++) {
		mem_drain();
		syscall(__NR_move_pages, 0, nr, pages, nodes, status,
			MPOL_MF_MOVE_ALL);
		/* Asking says where they are; the answer above what failed. */
		if (syscall(__NR_move_pages, 0, nr, pages, NULL, status, 0) < 0)
			return 0;
		for (i = 0, count = 0; i < nr; i++)
			count += status[i] == node;
	}
	return count;
}

static inline void ignore_signal(int sig)
{
	(void)sig;
}

/*
 * As if the memory of the page at @p had failed. Kernels after 6.1 say so at once,
 * by a SIGBUS, and not only to who reads it. 0 or -errno.
 */
static inline int lose_page(void *p)
{
	struct sigaction ignore = { .sa_handler = ignore_signal }, old;
	int err;

	sigaction(SIGBUS, &ignore, &old);
	err = madvise(p, MEM_PAGE, MADV_HWPOISON) ? -errno : 0;
	sigaction(SIGBUS, &old, NULL);
	return err;
}

/*
 * KSM: merge equal pages of MADV_MERGEABLE memory. Stopped before a duplicate
 * is looked at, or the duplicate would be merged, too.
 */
#define KSM_DIR		"/sys/kernel/mm/ksm/"

static inline bool ksm_start(void)
{
	mem_write(KSM_DIR "sleep_millisecs", "1");
	mem_write(KSM_DIR "pages_to_scan", "2000");
	return !mem_write(KSM_DIR "run", "1");
}

/*
 * Is what is shared in swap read in when it is duplicated? Where huge pages are not
 * shared whole, from the first page on that KSM has looked at.
 */
static inline bool shared_swap_is_read_in(int fd)
{
	return !mem_huge_whole(fd) &&
	       mem_read_long(KSM_DIR "pages_scanned") > 0;
}

static inline void ksm_pause(void)
{
	mem_write(KSM_DIR "run", "0");
}

/* Unmerge everything and put the defaults back. */
static inline void ksm_stop(void)
{
	mem_write(KSM_DIR "run", "2");
	mem_write(KSM_DIR "run", "0");
	mem_write(KSM_DIR "sleep_millisecs", "20");
	mem_write(KSM_DIR "pages_to_scan", "100");
}

/* Pages equal in pairs: the second half is like the first. */
static inline void ksm_fill(void *p, size_t len, unsigned int seed)
{
	mem_fill(p, len / 2, seed);
	mem_fill((char *)p + len / 2, len / 2, seed);
}

static inline bool ksm_check(const void *p, size_t len, unsigned int seed)
{
	return mem_check(p, len / 2, seed) &&
	       mem_check((const char *)p + len / 2, len / 2, seed);
}

/*
 * Wait until each page is merged with its pair. Not /proc/kpageflags: 6.12
 * says of every anonymous page that it is one of KSM's.
 */
static inline bool ksm_merge(void *p, size_t len)
{
	char *a = p, *b = a + len / 2;
	double end = seconds() + 8 * mem_slowness();

	if (madvise(p, len, MADV_MERGEABLE) || !ksm_start())
		return false;
	while (seconds() < end) {
		usleep(20000);
		if (mem_shared_pages(a, b, len / 2) == len / 2 / MEM_PAGE) {
			ksm_pause();
			return true;
		}
	}
	ksm_pause();
	return false;
}

/* A small generator, so that a seed reproduces a run on any machine. */
static inline uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state * 0x2545f4914f6cdd1dULL >> 16;
}

#endif /* COWSNAP_SELFTESTS_KERNEL_H */
