// SPDX-License-Identifier: GPL-2.0
/*
 * Duplicating while pages move: to another node, to swap, and out of reach for a
 * NUMA hint.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>

#include "kernel.h"
#include "harness.h"

#define NR	256UL
#define LEN	(NR * MEM_PAGE)
#define SEED	5

FIXTURE(moving) {
	int fd;
	struct cgroup cg;
	char *src;
};

FIXTURE_SETUP(moving)
{
	int err;

	self->cg.dir[0] = 0;
	self->fd = mem_open();
	ASSERT_LE(0, self->fd);
	if (!mem_have_swap())
		SKIP(return, "no swap");
	err = cgroup_enter(&self->cg);
	if (err)
		SKIP(return, "no memory cgroup: %s", strerror(-err));
	self->src = mem_map_alone(LEN);
	ASSERT_NE(NULL, self->src);
	mem_fill(self->src, LEN, SEED);
}

FIXTURE_TEARDOWN(moving)
{
	cgroup_leave(&self->cg);
	close(self->fd);
}

static _Atomic bool stop;
static char *moving;

static void *move_to_and_fro(void *arg)
{
	_Atomic unsigned long *moves = arg;
	int node;

	while (!stop) {
		if (mem_nodes() < 2) {
			mem_write("/proc/sys/vm/compact_memory", "1");
			(*moves)++;
			continue;
		}
		for (node = 0; node < 2; node++)
			*moves += move_to_node(moving, LEN, node);
	}
	return NULL;
}

static void *count_up(void *arg)
{
	volatile uint64_t *first = (uint64_t *)(moving + 8);
	volatile uint64_t *last = (uint64_t *)(moving + LEN - MEM_PAGE + 8);
	uint64_t n;

	(void)arg;
	for (n = 1; !stop; n++) {
		*first = n;
		*last = n;
	}
	return NULL;
}

/*
 * A page on its way is waited for. Were its migration entry copied, one that
 * the mover has already passed would stay behind and hang whoever touches it.
 */
TEST_F(moving, pages_moved_during_the_call)
{
	_Atomic unsigned long moves = 0;
	double end = seconds() + 1.5;
	pthread_t mover, writer;
	unsigned int calls;
	uint64_t first, last;
	char *dup;

	moving = self->src;
	ASSERT_EQ(0, pthread_create(&mover, NULL, move_to_and_fro, &moves));
	ASSERT_EQ(0, pthread_create(&writer, NULL, count_up, NULL));
	for (calls = 0; seconds() < end; calls++) {
		dup = mem_dup(self->fd, self->src, LEN);
		if (!dup || !mem_check(dup, LEN, SEED))
			break;
		first = *(volatile uint64_t *)(dup + 8);
		last = *(volatile uint64_t *)(dup + LEN - MEM_PAGE + 8);
		EXPECT_GE(1U, first - last);
		usleep(200);
		EXPECT_EQ(first, *(volatile uint64_t *)(dup + 8));
		EXPECT_EQ(last, *(volatile uint64_t *)(dup + LEN - MEM_PAGE + 8));
		munmap(dup, LEN);
	}
	stop = true;
	pthread_join(mover, NULL);
	pthread_join(writer, NULL);
	EXPECT_LE(end, seconds());
	EXPECT_TRUE(mem_check(self->src, LEN, SEED));
	EXPECT_LT(0UL, moves);
	TH_LOG("%u calls, %lu moves", calls, moves);
}

/* The same for huge pages, whole. */
TEST_F(moving, huge_pages_moved_during_the_call)
{
	double end = seconds() + 1.0;
	_Atomic unsigned long moves = 0;
	unsigned int calls;
	pthread_t mover;
	char *dup;

	moving = mem_map_huge(2 * MEM_HUGE);
	if (!moving)
		SKIP(return, "no huge pages");
	mem_fill(moving, 2 * MEM_HUGE, SEED);
	ASSERT_EQ(0, pthread_create(&mover, NULL, move_to_and_fro, &moves));
	for (calls = 0; seconds() < end; calls++) {
		dup = mem_dup(self->fd, moving, 2 * MEM_HUGE);
		if (!dup || !mem_check(dup, 2 * MEM_HUGE, SEED))
			break;
		munmap(dup, 2 * MEM_HUGE);
	}
	stop = true;
	pthread_join(mover, NULL);
	EXPECT_LE(end, seconds());
	EXPECT_TRUE(mem_check(moving, 2 * MEM_HUGE, SEED));
	TH_LOG("%u calls, %lu moves", calls, moves);
}

/* While reclaim takes the very pages out. */
static void *reclaim_all(void *arg)
{
	struct cgroup *cg = arg;

	while (!stop)
		cgroup_reclaim(cg);
	return NULL;
}

TEST_F(moving, pages_reclaimed_during_the_call)
{
	double end = seconds() + 1.5;
	pthread_t reclaimer, writer;
	unsigned int calls;
	uint64_t first, last;
	char *dup;

	moving = self->src;
	ASSERT_EQ(0, pthread_create(&reclaimer, NULL, reclaim_all, &self->cg));
	ASSERT_EQ(0, pthread_create(&writer, NULL, count_up, NULL));
	for (calls = 0; seconds() < end; calls++) {
		dup = mem_dup(self->fd, self->src, LEN);
		if (!dup || !mem_check(dup, LEN, SEED))
			break;
		first = *(volatile uint64_t *)(dup + 8);
		last = *(volatile uint64_t *)(dup + LEN - MEM_PAGE + 8);
		EXPECT_GE(1U, first - last);
		usleep(200);
		EXPECT_EQ(first, *(volatile uint64_t *)(dup + 8));
		EXPECT_EQ(last, *(volatile uint64_t *)(dup + LEN - MEM_PAGE + 8));
		munmap(dup, LEN);
	}
	stop = true;
	pthread_join(reclaimer, NULL);
	pthread_join(writer, NULL);
	EXPECT_LE(end, seconds());
	EXPECT_TRUE(mem_check(self->src, LEN, SEED));
	TH_LOG("%u calls", calls);
}

/* NUMA hints: entries made inaccessible so that the next touch is noticed. */

#define NUMA_BALANCING	"/proc/sys/kernel/numa_balancing"
#define SCAN_DELAY	"/sys/kernel/debug/sched/numa_balancing/scan_delay_ms"
#define SCAN_PERIOD	"/sys/kernel/debug/sched/numa_balancing/scan_period_min_ms"

TEST_F(moving, pages_with_numa_hints)
{
	double end = seconds() + 8;
	long delay = mem_read_long(SCAN_DELAY);
	long period = mem_read_long(SCAN_PERIOD);
	long was = mem_vmstat("numa_pte_updates"), updates = 0, now;
	long balancing = mem_read_long(NUMA_BALANCING);
	char text[24], *dup;
	size_t i;

	if (mem_nodes() < 2)
		SKIP(return, "one node");
	if (was < 0 || mem_write(NUMA_BALANCING, "1"))
		SKIP(return, "no NUMA balancing");
	mem_write(SCAN_DELAY, "10");
	mem_write(SCAN_PERIOD, "10");
	/* The delay holds for tasks that start now. */
	pid_t pid = fork();

	if (!pid) {
		unsigned int calls = 0;
		bool good = true;

		mem_fill(self->src, LEN, SEED);
		while (seconds() < end && good && calls < 3) {
			for (i = 0; i < LEN; i += MEM_PAGE)
				(void)*(volatile char *)(self->src + i);
			now = mem_vmstat("numa_pte_updates");
			if (now < was + (long)NR / 2)
				continue;
			updates += now - was;
			calls++;
			dup = mem_dup(self->fd, self->src, LEN);
			good = dup && mem_check(dup, LEN, SEED) &&
			       mem_check(self->src, LEN, SEED);
			if (!good)
				break;
			mem_fill(self->src, LEN, SEED + 1);
			good = mem_check(dup, LEN, SEED);
			mem_fill(dup, LEN, SEED);
			munmap(self->src, LEN);
			self->src = dup;
			was = mem_vmstat("numa_pte_updates");
		}
		_exit(!good ? 1 : calls ? 0 : 2);
	}
	int status;

	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	snprintf(text, sizeof(text), "%ld", delay);
	mem_write(SCAN_DELAY, text);
	snprintf(text, sizeof(text), "%ld", period);
	mem_write(SCAN_PERIOD, text);
	if (!balancing)
		mem_write(NUMA_BALANCING, "0");
	ASSERT_TRUE(WIFEXITED(status));
	if (WEXITSTATUS(status) == 2)
		SKIP(return, "the kernel gave no hints in time");
	EXPECT_EQ(0, WEXITSTATUS(status));
}

TEST_HARNESS_MAIN
