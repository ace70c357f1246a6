// SPDX-License-Identifier: GPL-2.0
/*
 * What moves pages about under a snapshot: same-page merging, compaction, NUMA
 * balancing, move_pages, memory that goes offline.
 */
#include <errno.h>
#include <numaif.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "movers.h"

#define KSM		"/sys/kernel/mm/ksm"
#define COMPACT		"/proc/sys/vm/compact_memory"
#define BALANCING	"/proc/sys/kernel/numa_balancing"
#define SCHED_DEBUG	"/sys/kernel/debug/sched/numa_balancing"
#define BATCH		512

#define KSM_PATIENCE_NS		(20 * 1000000000ull)
#define BALANCING_NS		(1500 * 1000000ull)

static const char *never_missing(bool system)
{
	(void)system;
	return NULL;
}

/* For the jitter of a thread that nothing disturbs but the harness itself. */
static const char *move_nothing(struct snap *s)
{
	(void)s;
	usleep(200 * 1000);
	return NULL;
}

static const char *needs_file(bool system, const char *path)
{
	if (!system)
		return "would change this machine for all who use it; give --allow-system";
	if (access(path, W_OK))
		return sentence("%s: %s", path, strerror(errno));
	return NULL;
}

static const char *ksm_missing(bool system)
{
	return needs_file(system, KSM "/run");
}

static uint64_t ksm_scans(void)
{
	char buf[32];

	return setting_read(KSM "/full_scans", buf, sizeof(buf)) ? strtoull(buf, NULL, 10) : 0;
}

static void advise_merging(struct snap *s, void *arg)
{
	(void)arg;
	madvise(s->addr, s->src->len, MADV_MERGEABLE);
}

/* A page is merged when it has not changed from one scan to the next. */
static const char *move_by_ksm(struct snap *s)
{
	uint64_t start = now_ns(), scans = ksm_scans();
	const char *why = NULL;

	madvise(s->src->addr, s->src->len, MADV_MERGEABLE);
	snap_run(s, advise_merging, NULL);
	setting_set(KSM "/pages_to_scan", "2000");
	setting_set(KSM "/sleep_millisecs", "1");
	setting_set(KSM "/run", "1");
	while (ksm_scans() < scans + 4 && !why && !interrupted()) {
		usleep(20 * 1000);
		if (now_ns() - start > KSM_PATIENCE_NS)
			why = "ksmd did not get through it in 20 s";
	}
	setting_restore(KSM "/run");
	setting_restore(KSM "/sleep_millisecs");
	setting_restore(KSM "/pages_to_scan");
	return why;
}

static const char *compaction_missing(bool system)
{
	return needs_file(system, COMPACT);
}

static const char *move_by_compaction(struct snap *s)
{
	(void)s;
	if (!setting_poke(COMPACT, "1"))
		return sentence("%s: %s", COMPACT, strerror(errno));
	return NULL;
}

int mover_other_node(int node)
{
	unsigned int i;

	for (i = 0; i < place_nodes(); i++)
		if (place_node(i) != node && place_node_has_memory(place_node(i)))
			return place_node(i);
	return -1;
}

static const char *balancing_missing(bool system)
{
	if (mover_other_node(place_node(0)) < 0)
		return "needs two nodes with memory";
	return needs_file(system, BALANCING);
}

/* Scans come early where debugfs can say so; else it takes its time and moves less. */
const char *balancing_set(bool on, bool system)
{
	const char *why = needs_file(system, BALANCING);

	if (why)
		return why;
	if (on) {
		setting_set(SCHED_DEBUG "/scan_delay_ms", "1");
		setting_set(SCHED_DEBUG "/scan_period_min_ms", "20");
	}
	return setting_set(BALANCING, on ? "1" : "0");
}

void balancing_restore(void)
{
	setting_restore(BALANCING);
	setting_restore(SCHED_DEBUG "/scan_period_min_ms");
	setting_restore(SCHED_DEBUG "/scan_delay_ms");
}

/* Read from the other node over and over, until its hinting faults move pages. */
static const char *move_by_balancing(struct snap *s)
{
	int cpu = place_cpu_on(mover_other_node(s->src->node), 0);
	uint64_t start = now_ns(), sum = 0;
	const char *why;
	size_t i;

	if (cpu < 0)
		return "the other node has no CPU that may be used";
	why = balancing_set(/* on= */true, /* system= */true);
	place_bind(cpu);
	while (!why && now_ns() - start < BALANCING_NS && !interrupted())
		for (i = 0; i < s->src->len; i += page_size)
			sum += *(volatile uint64_t *)(s->src->addr + i);
	place_bind(place_cpu_on(s->src->node, 0));
	balancing_restore();
	return why;
}

static const char *move_pages_missing(bool system)
{
	(void)system;
	if (mover_other_node(place_node(0)) < 0)
		return "needs two nodes with memory";
	return geteuid() ? "moving pages that others map needs root" : NULL;
}

static const char *move_range(pid_t pid, char *addr, size_t len, int node)
{
	int target[BATCH], status[BATCH];
	size_t nr = len / page_size, i, n, k;
	void *pages[BATCH];

	for (i = 0; i < nr; i += n) {
		n = nr - i < BATCH ? nr - i : BATCH;
		for (k = 0; k < n; k++) {
			pages[k] = addr + (i + k) * page_size;
			target[k] = node;
		}
		/* Pages that could not be moved are a positive number, and no error. */
		if (move_pages(pid, n, pages, target, status, MPOL_MF_MOVE_ALL) < 0)
			return sentence("move_pages: %s", strerror(errno));
	}
	return NULL;
}

static const char *move_by_move_pages(struct snap *s)
{
	int node = mover_other_node(s->src->node);
	const char *why = move_range(0, s->src->addr, s->src->len, node);

	return why ? why : move_range(s->pid, s->addr, s->src->len, node);
}

/* The block of the first page of the source; most of the others are near it. */
static const char *move_by_offlining(struct snap *s)
{
	uint64_t frame;

	if (!place_frames(0, s->src->addr, page_size, &frame) || !frame)
		return "cannot tell where the source is";
	return memblock_cycle(frame);
}

const struct mover movers[] = {
	{ "nothing", never_missing, move_nothing },
	{ "ksm", ksm_missing, move_by_ksm },
	{ "compaction", compaction_missing, move_by_compaction },
	{ "balancing", balancing_missing, move_by_balancing },
	{ "move_pages", move_pages_missing, move_by_move_pages },
	{ "offline", memblock_missing, move_by_offlining },
};
const unsigned int nr_movers = ARRAY_SIZE(movers);
