// SPDX-License-Identifier: GPL-2.0
/*
 * Where threads run and where pages are: bound explicitly, then asked for
 * instead of believed (move_pages query, /proc/PID/pagemap).
 */
#include <errno.h>
#include <fcntl.h>
#include <numa.h>
#include <numaif.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

#define MAX_CPUS	1024
#define MAX_NODES	64

/* More are not asked for before each measurement, but evenly spread ones. */
#define QUERY_PAGES	16384
#define BATCH		512

#define PM_PRESENT	(1ull << 63)
#define PM_PFN		((1ull << 55) - 1)

static int cpus[MAX_CPUS], cpu_node[MAX_CPUS];
static unsigned int nr_cpus;
static int nodes[MAX_NODES];
static unsigned int nr_nodes;
static bool has_numa;

uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

void place_init(void)
{
	cpu_set_t *set = CPU_ALLOC(MAX_CPUS);
	size_t len = CPU_ALLOC_SIZE(MAX_CPUS);
	int i;

	has_numa = numa_available() >= 0;

	CPU_ZERO_S(len, set);
	if (sched_getaffinity(0, len, set))
		CPU_SET_S(0, len, set);
	for (i = 0; i < MAX_CPUS; i++) {
		if (!CPU_ISSET_S(i, len, set))
			continue;
		cpu_node[nr_cpus] = has_numa ? numa_node_of_cpu(i) : 0;
		cpus[nr_cpus++] = i;
	}
	CPU_FREE(set);

	if (!has_numa) {
		nodes[nr_nodes++] = 0;
		return;
	}
	for (i = 0; i <= numa_max_node() && i < MAX_NODES; i++)
		if (place_node_has_memory(i) || place_cpu_on(i, 0) >= 0)
			nodes[nr_nodes++] = i;
}

unsigned int place_cpus(void)
{
	return nr_cpus;
}

int place_cpu(unsigned int i)
{
	return cpus[i % nr_cpus];
}

unsigned int place_nodes(void)
{
	return nr_nodes;
}

int place_node(unsigned int i)
{
	return nodes[i % nr_nodes];
}

bool place_node_has_memory(int node)
{
	if (!has_numa)
		return node == 0;
	return node >= 0 && node <= numa_max_node() &&
	       numa_bitmask_isbitset(numa_all_nodes_ptr, node) &&
	       numa_node_size64(node, NULL) > 0;
}

int place_cpu_on(int node, unsigned int i)
{
	unsigned int c, nr = 0;

	for (c = 0; c < nr_cpus; c++)
		nr += cpu_node[c] == node;
	if (!nr)
		return -1;

	i %= nr;
	for (c = 0; cpu_node[c] != node || i--; c++)
		;
	return cpus[c];
}

void place_bind(int cpu)
{
	cpu_set_t *set;
	size_t len = CPU_ALLOC_SIZE(MAX_CPUS);

	if (cpu < 0)
		return;
	set = CPU_ALLOC(MAX_CPUS);
	CPU_ZERO_S(len, set);
	CPU_SET_S(cpu, len, set);
	if (sched_setaffinity(0, len, set))
		die("CPU %d: cannot run there: %s", cpu, strerror(errno));
	CPU_FREE(set);
}

void place_memory(int node)
{
	unsigned long mask = 1ul << (node < 0 ? 0 : node);

	if (!has_numa)
		return;
	if (node < 0) {
		set_mempolicy(MPOL_DEFAULT, NULL, 0);
		return;
	}
	if (set_mempolicy(MPOL_BIND, &mask, MAX_NODES + 1))
		die("node %d: cannot take memory from it: %s", node,
		    strerror(errno));
}

/*
 * A child that runs before its parent has read the clock would be counted as
 * part of fork. Best effort: without CAP_SYS_NICE the scheduler decides.
 */
void place_undisturbed(bool on)
{
	struct sched_param param = { .sched_priority = on ? 1 : 0 };

	sched_setscheduler(0, on ? SCHED_FIFO | SCHED_RESET_ON_FORK : SCHED_OTHER,
			   &param);
}

int place_query(pid_t pid, const char *addr, size_t len, size_t *count, int max)
{
	size_t nr = len / page_size, step = 1, i, n;
	void *pages[BATCH];
	int status[BATCH];

	memset(count, 0, max * sizeof(*count));
	if (!has_numa)
		return -1;
	if (nr > QUERY_PAGES)
		step = nr / QUERY_PAGES;

	for (i = 0; i < nr;) {
		for (n = 0; n < BATCH && i < nr; n++, i += step)
			pages[n] = (char *)addr + i * page_size;
		if (move_pages(pid, n, pages, NULL, status, 0))
			return -1;
		while (n--)
			if (status[n] >= 0 && status[n] < max)
				count[status[n]]++;
	}
	return 0;
}

const char *place_verify(const struct region *r)
{
	size_t count[MAX_NODES], all = 0;
	int i;

	if (r->node < 0 || place_query(0, r->addr, r->len, count, MAX_NODES))
		return NULL;
	for (i = 0; i < MAX_NODES; i++)
		all += count[i];
	if (all && count[r->node] == all)
		return NULL;
	return sentence("only %zu of %zu pages are on node %d as asked",
			count[r->node], all, r->node);
}

static int open_pagemap(pid_t pid)
{
	char path[64];

	if (!pid)
		return open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)pid);
	return open(path, O_RDONLY | O_CLOEXEC);
}

static bool read_entries(int fd, const char *addr, uint64_t *e, size_t nr)
{
	off_t at = (uintptr_t)addr / page_size * sizeof(*e);

	return pread(fd, e, nr * sizeof(*e), at) == (ssize_t)(nr * sizeof(*e));
}

size_t place_present(const char *addr, size_t len)
{
	size_t nr = len / page_size, i, n, k, present = 0;
	uint64_t e[BATCH];
	int fd = open_pagemap(0);

	for (i = 0; i < nr && fd >= 0; i += n) {
		n = nr - i < BATCH ? nr - i : BATCH;
		if (!read_entries(fd, addr + i * page_size, e, n))
			break;
		for (k = 0; k < n; k++)
			present += !!(e[k] & PM_PRESENT);
	}
	close(fd);
	return present;
}

bool place_frames(pid_t pid, const char *addr, size_t len, uint64_t *frame)
{
	size_t nr = len / page_size, i;
	int fd = open_pagemap(pid);
	bool told = fd >= 0 && read_entries(fd, addr, frame, nr);

	/* Without CAP_SYS_ADMIN all frame numbers read 0. */
	for (i = 0; i < nr; i++)
		frame[i] = told && (frame[i] & PM_PRESENT) ? frame[i] & PM_PFN : 0;
	close(fd);
	return told;
}

double place_shared(const struct region *r, pid_t pid, const char *addr)
{
	int src = open_pagemap(0), snap = open_pagemap(pid);
	uint64_t a[BATCH], b[BATCH];
	size_t nr = r->len / page_size, i, n, present = 0, same = 0;
	bool blind = src < 0 || snap < 0;

	for (i = 0; i < nr && !blind; i += n) {
		size_t k;

		n = nr - i < BATCH ? nr - i : BATCH;
		blind = !read_entries(src, r->addr + i * page_size, a, n) ||
			!read_entries(snap, addr + i * page_size, b, n);
		for (k = 0; k < n && !blind; k++) {
			if (!(a[k] & PM_PRESENT))
				continue;
			present++;
			same += (b[k] & PM_PRESENT) && (a[k] & PM_PFN) &&
				(a[k] & PM_PFN) == (b[k] & PM_PFN);
			/* Without CAP_SYS_ADMIN all frame numbers read 0. */
			blind = !(a[k] & PM_PFN);
		}
	}
	close(src);
	close(snap);
	return blind || !present ? -1 : (double)same / present;
}
