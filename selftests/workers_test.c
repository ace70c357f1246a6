// SPDX-License-Identifier: GPL-2.0
/*
 * Several workers for one range: everything comes out as when the caller does it
 * alone. Whether a worker gets a CPU in time is up to the scheduler, so what is
 * tested is repeated until some did.
 */
#include <sys/prctl.h>

#include "account.h"
#include "counters.h"
#undef PAGES
#include "ops.h"
#include "workers.h"

#define LEN		(5 * MEM_HUGE + PAGES(30))
#define NR		(LEN / MEM_PAGE)
#define SHIFT		PAGES(7)	/* of the source from a huge page */
#define ROOM		(6 * MEM_HUGE)	/* mapped for it */
#define SEED		5
#define BALANCING	"/proc/sys/kernel/numa_balancing"
#define PATIENCE	20.0		/* seconds */

/*
 * What the balancing of nodes has made inaccessible is not taken back, faults
 * twice, and is nowhere for who asks.
 */
static char balancing[8];

static void balancing_off(void)
{
	snprintf(balancing, sizeof(balancing), "%ld", mem_read_long(BALANCING));
	mem_write(BALANCING, "0");
}

static void balancing_as_before(void)
{
	mem_write(BALANCING, balancing);
}

FIXTURE(workers)
{
	int fd;
	char *src;
};

FIXTURE_VARIANT(workers)
{
	bool huge;
	bool swap;
	size_t shift;		/* of the duplicate from a congruent address */
};

FIXTURE_VARIANT_ADD(workers, pages) { .huge = false };
FIXTURE_VARIANT_ADD(workers, huge) { .huge = true };
/* Two of them meet in each page table of the duplicate. */
FIXTURE_VARIANT_ADD(workers, huge_elsewhere) { .huge = true, .shift = PAGES(3) };
/* Much is given back to the caller. */
FIXTURE_VARIANT_ADD(workers, swapped) { .swap = true };

static char *make_source(bool huge, bool swap)
{
	char *p = huge ? mem_map_huge(ROOM) : mem_map_offset(ROOM, MEM_HUGE, 0);

	if (!p)
		return NULL;
	mem_fill(p + SHIFT, LEN, SEED);
	mem_drain();
	if (swap && mem_pageout(p + SHIFT, LEN / 2) < NR / 4)
		return NULL;
	return p + SHIFT;
}

FIXTURE_SETUP(workers)
{
	self->fd = mem_open();
	ASSERT_LE(0, self->fd);
	balancing_off();
	if (variant->swap && !mem_have_swap())
		SKIP(return, "no swap");
	self->src = make_source(variant->huge, false);
	if (!self->src && variant->huge)
		SKIP(return, "no huge pages");
	ASSERT_NE(NULL, self->src);
}

FIXTURE_TEARDOWN(workers)
{
	workers_default();
	balancing_as_before();
	close(self->fd);
}

/* All that the calls of a snapshot's life say, and what is left of it. */
struct story {
	struct cowsnap_remap remap;
	struct cowsnap_diff diff[2];
	struct cowsnap_sync sync;
	struct cowsnap_unshare unshare;
	struct cowsnap_release release;
	struct cowsnap_range ranges[300];
	size_t shared[3];
	long faults;
};

/* Pages of both sides, here and there, many of them next to each other. */
static void scatter(char *p, size_t step, unsigned int seed)
{
	size_t i;

	for (i = 0; i < NR; i += step)
		mem_fill(p + PAGES(i), PAGES(1 + i % 3), seed);
}

static bool tell(struct story *s, int fd, char *src, size_t shift)
{
	char *at = mem_free_range(LEN, MEM_HUGE, SHIFT + shift), *dup;
	unsigned int flags = COWSNAP_REMAP_FIXED_NOREPLACE;

	memset(s, 0, sizeof(*s));
	if (mem_remap(fd, src, LEN, at, flags, &s->remap))
		return fail("REMAP: reason %u", s->remap.reason);
	dup = at;
	s->shared[0] = mem_shared_pages(src, dup, LEN);
	if (!mem_check(dup, LEN, SEED))
		return fail("the duplicate is none");
	scatter(src, 50, SEED + 1);
	scatter(dup, 70, SEED + 2);
	if (op_diff(fd, src, dup, LEN, s->ranges, 300, &s->diff[0]))
		return fail("DIFF: reason %u", s->diff[0].reason);
	if (op_sync(fd, src, dup, LEN, &s->sync))
		return fail("SYNC: reason %u", s->sync.reason);
	if (op_diff(fd, src, dup, LEN, NULL, 0, &s->diff[1]) ||
	    s->diff[1].next_offset != LEN)
		return fail("after SYNC they differ at %#lx",
			    (long)s->diff[1].next_offset);
	s->shared[1] = mem_shared_pages(src, dup, LEN);
	if (memcmp(src, dup, LEN))
		return fail("after SYNC they differ");
	if (op_unshare(fd, dup + PAGES(100), LEN / 2, 0, &s->unshare))
		return fail("UNSHARE: reason %u", s->unshare.reason);
	s->shared[2] = mem_shared_pages(src, dup, LEN);
	if (op_faults_of_writes(dup + PAGES(100), LEN / 2))
		return fail("writes fault after UNSHARE");
	if (memcmp(src, dup, LEN))
		return fail("after UNSHARE they differ");
	if (op_release(fd, src, dup, LEN, &s->release))
		return fail("RELEASE: reason %u", s->release.reason);
	s->faults = op_faults_of_writes(src, LEN);
	/* Addresses are of no interest. */
	s->remap.dst = 0;
	s->sync.to = 0;
	s->unshare.addr = 0;
	s->release.dst = 0;
	s->diff[0].b = 0;
	s->diff[1].b = 0;
	return mem_is_free(at, LEN) || fail("something is left");
}

/* From the start again: nothing of what a story has left matters to the next. */
static bool story_of(struct story *s, FIXTURE_DATA(workers) *self,
		     const FIXTURE_VARIANT(workers) *variant)
{
	char *src = make_source(variant->huge, variant->swap);
	bool good;

	if (!src)
		return fail("no memory of that kind");
	good = tell(s, self->fd, src, variant->shift);
	munmap(src - SHIFT, ROOM);
	return good;
}

/* If this fails, what a call does depends on how many do it. */
TEST_F_TIMEOUT(workers, come_to_what_one_comes_to, 120)
{
	static struct story alone, others;
	double end = seconds() + PATIENCE * mem_slowness();
	long before = workers_pieces();
	unsigned int tries = 0;

	workers_force(1);
	ASSERT_TRUE(story_of(&alone, self, variant))
		TH_LOG("%s", problem);
	EXPECT_EQ(before, workers_pieces());
	workers_force(3);
	do {
		ASSERT_TRUE(story_of(&others, self, variant))
			TH_LOG("%s", problem);
		EXPECT_EQ(alone.remap.shared, others.remap.shared);
		EXPECT_EQ(alone.remap.copied, others.remap.copied);
		EXPECT_EQ(alone.sync.changed, others.sync.changed);
		EXPECT_EQ(alone.unshare.copied, others.unshare.copied);
		EXPECT_EQ(alone.unshare.reused, others.unshare.reused);
		EXPECT_EQ(alone.release.reused, others.release.reused);
		EXPECT_EQ(alone.diff[0].nr, others.diff[0].nr);
		EXPECT_EQ(0, memcmp(alone.ranges, others.ranges,
				    sizeof(alone.ranges)));
		EXPECT_EQ(0, memcmp(alone.shared, others.shared,
				    sizeof(alone.shared)));
		/* Huge pages come and go. */
		if (!variant->huge) {
			EXPECT_EQ(alone.faults, others.faults);
		}
		tries++;
	} while (_metadata->exit_code == KSFT_PASS && seconds() < end &&
		 (tries < mem_fewer(4) ||
		  workers_pieces() < before + mem_fewer(20)));
	TH_LOG("%lu pieces in %u tries; %lu shared, %lu copied, %lu changed, %lu copied, %lu reused",
	       workers_pieces() - before, tries, (long)others.remap.shared,
	       (long)others.remap.copied, (long)others.sync.changed,
	       (long)others.unshare.copied, (long)others.release.reused);
	EXPECT_LT(before, workers_pieces());
}

/* Small ranges never pay for it. */
TEST_F(workers, leave_small_ranges_alone)
{
	long before = workers_pieces();
	struct cowsnap_remap r;
	unsigned int i;

	workers_default();
	for (i = 0; i < mem_fewer(20); i++) {
		ASSERT_EQ(0, mem_remap(self->fd, self->src, LEN, NULL, 0, &r));
		ASSERT_EQ(0, munmap((void *)(uintptr_t)r.dst, LEN));
	}
	EXPECT_EQ(before, workers_pieces());
}

/* A kworker would wait for I/O that waits for the caller. */
TEST_F(workers, leave_those_alone_who_serve_io)
{
	double end = seconds() + PATIENCE * mem_slowness();
	long before = workers_pieces();
	unsigned int i;

	workers_force(3);
	if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0))
		SKIP(return, "prctl: %s", strerror(errno));
	for (i = 0; i < mem_fewer(20); i++)
		ASSERT_EQ(0, munmap(mem_dup(self->fd, self->src, LEN), LEN));
	EXPECT_EQ(before, workers_pieces());
	ASSERT_EQ(0, prctl(PR_SET_IO_FLUSHER, 0, 0, 0, 0));
	while (workers_pieces() == before && seconds() < end)
		ASSERT_EQ(0, munmap(mem_dup(self->fd, self->src, LEN), LEN));
	EXPECT_LT(before, workers_pieces());
}

/*
 * A worker does not read swapped-out pages in: he gives back what is left of his
 * piece. If this fails, nobody has done it.
 */
TEST(swapped_pages_are_left_to_the_caller)
{
	double end = seconds() + PATIENCE * mem_slowness();
	int fd = mem_open(), times = 0;
	struct cowsnap_unshare u;
	char *src, *dup;
	long before;

	ASSERT_LE(0, fd);
	if (!mem_have_swap())
		SKIP(return, "no swap");
	balancing_off();
	workers_force(3);
	src = make_source(false, true);
	ASSERT_NE(NULL, src);
	while (times < (int)mem_fewer(5) && seconds() < end) {
		dup = mem_dup(fd, src, LEN);
		ASSERT_NE(NULL, dup);
		before = workers_pieces();
		ASSERT_EQ(0, op_unshare(fd, dup, LEN, 0, &u));
		times += workers_pieces() > before;
		ASSERT_EQ(0, op_faults_of_writes(dup, LEN));
		EXPECT_TRUE(mem_check(dup, LEN, SEED));
		munmap(dup, LEN);
	}
	EXPECT_LT(0, times);
	workers_default();
	balancing_as_before();
	munmap(src - SHIFT, ROOM);
	close(fd);
}

/* Goes on where the vec was full; returns how many of @all were not found. */
static size_t diff_in_steps(int fd, char *src, char *dup,
			    const struct cowsnap_range *all, size_t nr)
{
	struct cowsnap_range some[3];
	struct cowsnap_diff d = {};
	size_t i, at = 0;

	while (d.next_offset < LEN) {
		d = (struct cowsnap_diff){
			.size = sizeof(d), .a = U64(src), .b = U64(dup),
			.len = LEN, .vec = U64(some), .vec_len = 3,
			.start_offset = d.next_offset,
		};
		if (op_call(fd, COWSNAP_DIFF, &d) ||
		    (!d.nr && d.next_offset < LEN))
			return nr;
		for (i = 0; i < d.nr && at < nr; i++, at++)
			if (all[at].start != some[i].start ||
			    all[at].end != some[i].end)
				return nr;
		if (i < d.nr)
			return nr;
	}
	return nr - at;
}

/*
 * DIFF with a small vec, whose first ranges are far apart: what comes later is
 * found earlier.
 */
TEST_F_TIMEOUT(workers, list_differences_in_order, 120)
{
	double end = seconds() + PATIENCE * mem_slowness();
	static struct cowsnap_range all[300];
	char *dup = mem_dup(self->fd, self->src, LEN);
	long before = workers_pieces();
	struct cowsnap_diff d;

	ASSERT_NE(NULL, dup);
	scatter(dup, 97, SEED + 1);
	workers_force(1);
	ASSERT_EQ(0, op_diff(self->fd, self->src, dup, LEN, all, 300, &d));
	ASSERT_EQ(LEN, d.next_offset);
	workers_force(4);
	do {
		ASSERT_EQ(0, diff_in_steps(self->fd, self->src, dup, all, d.nr));
	} while (workers_pieces() == before && seconds() < end);
	EXPECT_LT(before, workers_pieces());
	munmap(dup, LEN);
}

/* The group is charged for page tables, whoever allocates them. */

FIXTURE(charge)
{
	int fd;
	struct cgroup cg;
};

FIXTURE_SETUP(charge)
{
	self->fd = mem_open();
	ASSERT_LE(0, self->fd);
	if (account_enter(&self->cg))
		SKIP(return, "no memory cgroup");
	ASSERT_EQ(0, account_hold(&self->cg));
}

FIXTURE_TEARDOWN(charge)
{
	workers_default();
	cgroup_leave(&self->cg);
	close(self->fd);
}

#define TABLES		128L

/* If this fails, page tables are memory that no limit holds for. */
TEST_F_TIMEOUT(charge, page_tables_are_the_callers, 60)
{
	double end = seconds() + PATIENCE * mem_slowness();
	long before, after, pieces = workers_pieces();
	size_t len = TABLES * MEM_HUGE, i;
	char *src = mem_map_offset(len, MEM_HUGE, 0);
	struct cowsnap_remap r;

	ASSERT_NE(NULL, src);
	for (i = 0; i < len; i += MEM_HUGE)
		src[i] = 1;
	workers_force(4);
	do {
		before = settled_charge(&self->cg);
		ASSERT_EQ(0, mem_remap(self->fd, src, len, NULL, 0, &r));
		after = settled_charge(&self->cg);
		EXPECT_LE(TABLES - CHARGE_SLACK, after - before);
		ASSERT_EQ(0, munmap((void *)(uintptr_t)r.dst, len));
	} while (_metadata->exit_code == KSFT_PASS && seconds() < end &&
		 workers_pieces() < pieces + 8);
	EXPECT_LT(pieces, workers_pieces());
}

/* Copies of UNSHARE are where the caller's own would be. */

FIXTURE(node)
{
	int fd;
	char *src;
};

FIXTURE_VARIANT(node)
{
	int task_mode, vma_mode;
	bool flag;		/* COWSNAP_UNSHARE_NODE */
	int expected;
};

FIXTURE_VARIANT_ADD(node, of_the_cpu) { .expected = 0 };
FIXTURE_VARIANT_ADD(node, of_the_task) {
	.task_mode = MPOL_BIND, .expected = 1,
};
FIXTURE_VARIANT_ADD(node, preferred_by_the_task) {
	.task_mode = MPOL_PREFERRED, .expected = 1,
};
FIXTURE_VARIANT_ADD(node, of_the_mapping) {
	.vma_mode = MPOL_BIND, .expected = 1,
};
FIXTURE_VARIANT_ADD(node, preferred_by_the_mapping) {
	.vma_mode = MPOL_PREFERRED, .expected = 1,
};
FIXTURE_VARIANT_ADD(node, asked_for) { .flag = true, .expected = 1 };

FIXTURE_SETUP(node)
{
	/* They begin where they find their pages: on the wrong node. */
	unsigned long node1 = 2, other = variant->expected ? 1 : 2;

	self->fd = mem_open();
	ASSERT_LE(0, self->fd);
	if (mem_nodes() < 2)
		SKIP(return, "only one NUMA node");
	balancing_off();
	on_cpu(0);	/* of node 0 */
	self->src = mem_map_offset(LEN, MEM_HUGE, SHIFT);
	ASSERT_NE(NULL, self->src);
	ASSERT_EQ(0, syscall(SYS_set_mempolicy, MPOL_BIND, &other,
			     8 * sizeof(other)));
	mem_fill(self->src, LEN, SEED);
	mem_drain();
	syscall(SYS_set_mempolicy, MPOL_DEFAULT, NULL, 0);
	if (variant->vma_mode)
		ASSERT_EQ(0, syscall(SYS_mbind, self->src, LEN, variant->vma_mode,
				     &node1, 8 * sizeof(node1), 0));
	if (variant->task_mode)
		ASSERT_EQ(0, syscall(SYS_set_mempolicy, variant->task_mode,
				     &node1, 8 * sizeof(node1)));
}

FIXTURE_TEARDOWN(node)
{
	workers_default();
	if (balancing[0])
		balancing_as_before();
	syscall(SYS_set_mempolicy, MPOL_DEFAULT, NULL, 0);
	close(self->fd);
}

static size_t pages_on(char *p, int node)
{
	static void *pages[NR];
	static int status[NR];
	size_t i, count = 0;

	for (i = 0; i < NR; i++)
		pages[i] = p + PAGES(i);
	if (syscall(SYS_move_pages, 0, NR, pages, NULL, status, 0))
		return 0;
	for (i = 0; i < NR; i++)
		count += status[i] == node;
	return count;
}

TEST_F_TIMEOUT(node, of_copies_is_the_same_for_all_workers, 60)
{
	unsigned int flags = variant->flag ? COWSNAP_UNSHARE_NODE : 0;
	struct cowsnap_unshare u;
	char *dup;
	int i;

	workers_force(4);
	for (i = 0; i < 5; i++) {
		dup = mem_dup(self->fd, self->src, LEN);
		ASSERT_NE(NULL, dup);
		u = (struct cowsnap_unshare){
			.size = sizeof(u), .flags = flags, .addr = U64(dup),
			.len = LEN, .node = variant->flag,
		};
		ASSERT_EQ(0, op_call(self->fd, COWSNAP_UNSHARE, &u));
		EXPECT_EQ(NR, u.copied);
		EXPECT_EQ(NR, pages_on(dup, variant->expected));
		EXPECT_TRUE(mem_check(dup, LEN, SEED));
		munmap(dup, LEN);
	}
}

/* One instant, whoever protects the pages */

#define WRITERS		2

FIXTURE(crowd)
{
	int fd;
	struct counters c;
	struct writer writers[WRITERS];
};

FIXTURE_SETUP(crowd)
{
	self->fd = mem_open();
	ASSERT_LE(0, self->fd);
	self->c.len = 8 * MEM_HUGE;
	self->c.base = mem_map_offset(self->c.len, MEM_HUGE, 0);
	ASSERT_NE(NULL, self->c.base);
	place_counters(&self->c, 64, SHUFFLED);
	mem_fill(self->c.base, self->c.len, FILL_SEED);
	mem_drain();
	workers_force(4);
}

FIXTURE_TEARDOWN(crowd)
{
	workers_default();
	munmap(self->c.base, self->c.len);
	close(self->fd);
}

static bool sync_once(FIXTURE_DATA(crowd) *self, struct duplicate *d)
{
	uint64_t min[WRITERS];
	struct cowsnap_sync s;
	int w;

	for (w = 0; w < WRITERS; w++)
		min[w] = *counter(&self->c, self->c.base, self->c.nr - 1, w);
	if (op_sync(self->fd, self->c.base, d->at, self->c.len, &s))
		return fail("SYNC: reason %u", s.reason);
	for (w = 0; w < WRITERS; w++)
		if (!one_instant(&self->c, d->at, w, min[w],
				 *counter(&self->c, self->c.base, 0, w),
				 d->saved[w]))
			return false;
	return true;
}

TEST_F_TIMEOUT(crowd, takes_one_instant, 120)
{
	double end = seconds() + 3 * SECONDS;
	static struct duplicate d;
	struct cowsnap_release r;
	unsigned int calls;
	uint64_t copied;

	ASSERT_TRUE(start_writers(self->writers, WRITERS, &self->c, STORE));
	for (calls = 0; !stop && (seconds() < end || calls < 8); calls++) {
		d.at = NULL;
		if (!duplicate_once(self->fd, &self->c, WRITERS, &d, 0, &copied) ||
		    !unchanged(&self->c, WRITERS, &d) ||
		    !sync_once(self, &d) || !unchanged(&self->c, WRITERS, &d))
			break;
		if (op_release(self->fd, self->c.base, d.at, self->c.len, &r))
			fail("RELEASE: reason %u", r.reason);
	}
	stop_writers(self->writers, WRITERS);
	ASSERT_STREQ("", problem);
	EXPECT_TRUE(mem_check(self->c.base, self->c.len, FILL_SEED));
	TH_LOG("%u calls", calls);
	EXPECT_LE(8, calls);
}

TEST_HARNESS_MAIN
