// SPDX-License-Identifier: GPL-2.0
/*
 * Duplicating while pages move: to another node, to swap, and out of reach for a
 * NUMA hint.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>

#include "kernel.h"
#include "ops.h"
#include "uffd.h"
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

/* A huge page that userfaultfd moves from one place to the other and back. */
struct ferry {
	int uffd;
	char *at, *to;
	unsigned long moves;
};

static void *ferry_huge(void *arg)
{
	struct uffdio_move move;
	struct ferry *f = arg;
	char *was;

	while (!stop) {
		move = (struct uffdio_move){
			.dst = U64(f->to), .src = U64(f->at), .len = MEM_HUGE,
		};
		/* Somebody may have it locked for a moment. */
		if (ioctl(f->uffd, UFFDIO_MOVE, &move))
			continue;
		was = f->at;
		f->at = f->to;
		f->to = was;
		f->moves++;
	}
	return NULL;
}

/* It is always in one of both: they are never the same. */
TEST_F(moving, huge_page_in_one_of_both_is_listed_by_diff)
{
	struct ferry f = { .uffd = open_uffd(UFFD_FEATURE_MOVE) };
	double end = seconds() + 2;
	struct cowsnap_range range;
	struct cowsnap_diff d;
	unsigned int calls;
	pthread_t mover;
	char *p;

	if (f.uffd < 0)
		SKIP(return, "userfaultfd cannot move pages");
	p = mem_map_huge(2 * MEM_HUGE);
	if (!p)
		SKIP(return, "no huge pages");
	f.at = p;
	f.to = p + MEM_HUGE;
	mem_fill(f.at, MEM_HUGE, SEED);
	ASSERT_EQ(0, madvise(f.to, MEM_HUGE, MADV_DONTNEED));
	ASSERT_EQ(0, watch(f.uffd, p, 2 * MEM_HUGE, UFFDIO_REGISTER_MODE_MISSING));
	stop = false;
	ASSERT_EQ(0, pthread_create(&mover, NULL, ferry_huge, &f));
	for (calls = 0; seconds() < end; calls++) {
		ASSERT_EQ(0, op_diff(self->fd, p, p + MEM_HUGE, MEM_HUGE, &range, 1, &d));
		ASSERT_EQ(1, d.nr)
			TH_LOG("call %u", calls);
		ASSERT_EQ(0, range.start);
		ASSERT_EQ(MEM_HUGE, range.end);
	}
	stop = true;
	pthread_join(mover, NULL);
	EXPECT_LT(0UL, f.moves);
	TH_LOG("%u calls, %lu moves", calls, f.moves);
	close(f.uffd);
	munmap(p, 2 * MEM_HUGE);
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

/*
 * One page in each page table. Who moves or reclaims it empties its entry for a
 * moment: then there seems to be nothing at all.
 */
FIXTURE(sparse) {
	int fd;
	struct cgroup cg;
	long pool;
	pthread_t mover;
	size_t size;		/* of a page */
	char *src;
};

FIXTURE_VARIANT(sparse) {
	bool huge;		/* of hugetlb */
	bool reclaimed;
};

FIXTURE_VARIANT_ADD(sparse, moved) { .huge = false };
FIXTURE_VARIANT_ADD(sparse, reclaimed) { .reclaimed = true };
FIXTURE_VARIANT_ADD(sparse, hugetlb_moved) { .huge = true };

#define NR_SPARSE	8
#define SPARSE_LEN	(NR_SPARSE * MEM_HUGE)
#define NR_HUGEPAGES	"/proc/sys/vm/nr_hugepages"

static char *sparse_at(char *p, int i)
{
	return p + i * MEM_HUGE;
}

static bool sparse_is(char *p, int seed)
{
	bool good = true;
	int i;

	for (i = 0; i < NR_SPARSE; i++)
		good &= mem_check(sparse_at(p, i), MEM_PAGE, seed + i);
	return good;
}

static void sparse_fill(char *p, int seed)
{
	int i;

	for (i = 0; i < NR_SPARSE; i++)
		mem_fill(sparse_at(p, i), MEM_PAGE, seed + i);
}

/* At the same address each time: where the pages are moved goes on. */
static bool sparse_map(char *p, bool huge)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
	bool good = mmap(p, SPARSE_LEN, PROT_READ | PROT_WRITE, flags |
			 (huge ? MAP_HUGETLB | 21 << 26 : 0), -1, 0) == p;

	return good && (huge || !madvise(p, SPARSE_LEN, MADV_NOHUGEPAGE));
}

static void *move_sparse(void *arg)
{
	void *pages[NR_SPARSE];
	int nodes[NR_SPARSE], status[NR_SPARSE], i, node;

	for (i = 0; i < NR_SPARSE; i++)
		pages[i] = sparse_at(arg, i);
	for (node = 0; !stop; node = !node) {
		for (i = 0; i < NR_SPARSE; i++)
			nodes[i] = node;
		syscall(__NR_move_pages, 0, NR_SPARSE, pages, nodes, status,
			MPOL_MF_MOVE_ALL);
	}
	return NULL;
}

FIXTURE_SETUP(sparse)
{
	self->cg.dir[0] = 0;
	self->fd = mem_open();
	ASSERT_LE(0, self->fd);
	self->pool = mem_read_long(NR_HUGEPAGES);
	self->size = variant->huge ? MEM_HUGE : MEM_PAGE;
	if (variant->reclaimed ? !mem_have_swap() || cgroup_enter(&self->cg) :
				 mem_nodes() < 2)
		SKIP(return, "nobody can do that here");
	if (variant->huge && (mem_write(NR_HUGEPAGES, "48") ||
			      mem_read_long(NR_HUGEPAGES) < 48))
		SKIP(return, "no huge pages");
	self->src = mem_free_range(SPARSE_LEN, MEM_HUGE, 0);
	ASSERT_NE(NULL, self->src);
	ASSERT_TRUE(sparse_map(self->src, variant->huge));
	stop = false;
	ASSERT_EQ(0, pthread_create(&self->mover, NULL, variant->reclaimed ?
				    reclaim_all : move_sparse, variant->reclaimed ?
				    (void *)&self->cg : self->src));
}

FIXTURE_TEARDOWN(sparse)
{
	char text[24];

	stop = true;
	if (self->src)
		pthread_join(self->mover, NULL);
	cgroup_leave(&self->cg);
	if (self->src)
		munmap(self->src, SPARSE_LEN);
	snprintf(text, sizeof(text), "%ld", self->pool);
	if (variant->huge)
		mem_write(NR_HUGEPAGES, text);
	close(self->fd);
}

TEST_F(sparse, no_page_is_missed)
{
	double end = seconds() + 2;
	struct cowsnap_remap r;
	unsigned int calls;

	sparse_fill(self->src, SEED);
	for (calls = 0; seconds() < end; calls++) {
		ASSERT_EQ(0, mem_remap(self->fd, self->src, SPARSE_LEN, NULL, 0, &r));
		EXPECT_EQ(NR_SPARSE * self->size / MEM_PAGE, r.shared + r.copied);
		ASSERT_TRUE(sparse_is((char *)(uintptr_t)r.dst, SEED))
			TH_LOG("call %u", calls);
		munmap((void *)(uintptr_t)r.dst, SPARSE_LEN);
		/* Back from swap. */
		ASSERT_TRUE(sparse_is(self->src, SEED));
	}
}

/* The duplicate has no page table yet. */
TEST_F(sparse, no_page_is_missed_by_sync)
{
	double end = seconds() + 2;
	struct cowsnap_sync s;
	unsigned int calls;
	char *dup;

	if (variant->huge)
		SKIP(return, "SYNC refuses hugetlb memory");
	for (calls = 0; seconds() < end; calls++) {
		ASSERT_TRUE(sparse_map(self->src, false));
		dup = mem_dup(self->fd, self->src, SPARSE_LEN);
		ASSERT_NE(NULL, dup);
		sparse_fill(self->src, SEED);
		ASSERT_EQ(0, op_sync(self->fd, self->src, dup, SPARSE_LEN, &s));
		EXPECT_EQ(NR_SPARSE, s.changed);
		ASSERT_TRUE(sparse_is(dup, SEED))
			TH_LOG("call %u", calls);
		munmap(dup, SPARSE_LEN);
	}
}

/* NUMA hints: entries made inaccessible so that the next touch is noticed. */

#define NUMA_BALANCING	"/proc/sys/kernel/numa_balancing"
#define SCAN_DELAY	"/sys/kernel/debug/sched/numa_balancing/scan_delay_ms"
#define SCAN_PERIOD	"/sys/kernel/debug/sched/numa_balancing/scan_period_min_ms"

TEST_F(moving, pages_with_numa_hints)
{
	double end = seconds() + 20 * mem_slowness();
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
		/* What lies on the node of its only user is left alone. */
		bool good = !run_on_cpu0();

		mem_fill(self->src, LEN, SEED);
		move_to_node(self->src, LEN, 1);
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
			move_to_node(dup, LEN, 1);
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
