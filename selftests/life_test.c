// SPDX-License-Identifier: GPL-2.0
/*
 * What a call leaves behind is ordinary memory: everything that can be done to
 * memory can be done to either side, in any order, and the other keeps what it
 * had.
 */
#include <sys/wait.h>

#include "kernel.h"
#include "harness.h"

#define SEED	7
#define NR	16UL
#define LEN	(NR * MEM_PAGE)

FIXTURE(life) {
	int fd;
	char *src;
	char *dup;
};

FIXTURE_SETUP(life)
{
	self->fd = mem_open();
	ASSERT_LE(0, self->fd);
	self->src = mem_map_alone(LEN);
	ASSERT_NE(NULL, self->src);
	mem_fill(self->src, LEN, SEED);
	self->dup = mem_dup(self->fd, self->src, LEN);
	ASSERT_NE(NULL, self->dup);
}

FIXTURE_TEARDOWN(life)
{
	close(self->fd);
}

/* Runs in a child, so that the kernel checks the counters when it exits. */
#define IN_CHILD(statement) do {					\
	int _status;							\
	pid_t _pid = fork();						\
									\
	if (!_pid) {							\
		statement;						\
		_exit(0);						\
	}								\
	ASSERT_EQ(_pid, waitpid(_pid, &_status, 0));			\
	EXPECT_EQ(0, _status);						\
} while (0)

/* If this fails, the kernel's accounting or the sharing is broken for good. */
TEST_F(life, source_may_go_first)
{
	ASSERT_EQ(0, munmap(self->src, LEN));
	EXPECT_TRUE(mem_check(self->dup, LEN, SEED));
	mem_fill(self->dup, LEN, SEED + 1);
	EXPECT_TRUE(mem_check(self->dup, LEN, SEED + 1));
}

/*
 * After the duplicate is gone a store to the source takes a fault, and no copy:
 * the page is the source's own again.
 */
TEST_F(life, page_is_taken_back_without_a_copy)
{
	uint64_t before[NR], after[NR];

	ASSERT_TRUE(mem_pagemap_read(self->src, before, NR));
	ASSERT_EQ(0, munmap(self->dup, LEN));
	mem_drain();
	mem_fill(self->src, LEN, SEED + 1);
	ASSERT_TRUE(mem_pagemap_read(self->src, after, NR));
	for (size_t i = 0; i < NR; i++)
		EXPECT_EQ(before[i] & ((1ULL << 55) - 1),
			  after[i] & ((1ULL << 55) - 1));
}

TEST_F(life, huge_page_is_taken_back_without_a_copy)
{
	char *src = mem_map_huge(MEM_HUGE), *dup;
	uint64_t before;

	if (!src)
		SKIP(return, "no huge pages");
	mem_fill(src, MEM_HUGE, SEED);
	before = mem_pfn(src);
	dup = mem_dup(self->fd, src, MEM_HUGE);
	ASSERT_NE(NULL, dup);
	ASSERT_EQ(0, munmap(dup, MEM_HUGE));
	mem_drain();
	src[0] = 1;
	EXPECT_EQ(before, mem_pfn(src));
	if (mem_huge_whole(self->fd))
		EXPECT_LE(2048, mem_smaps(src, "AnonHugePages"));
}

/* A child has both sides as they were; what it does stays with it. */
TEST_F(life, child_has_both_sides)
{
	IN_CHILD({
		if (!mem_check(self->src, LEN, SEED) ||
		    !mem_check(self->dup, LEN, SEED))
			_exit(1);
		mem_fill(self->src, LEN, SEED + 1);
		if (!mem_check(self->dup, LEN, SEED))
			_exit(2);
		mem_fill(self->dup, LEN, SEED + 2);
		if (!mem_check(self->src, LEN, SEED + 1))
			_exit(3);
		munmap(self->src, LEN);
		if (!mem_check(self->dup, LEN, SEED + 2))
			_exit(4);
	});
	EXPECT_TRUE(mem_check(self->src, LEN, SEED));
	EXPECT_TRUE(mem_check(self->dup, LEN, SEED));
	EXPECT_EQ(NR, mem_shared_pages(self->src, self->dup, LEN));
}

/* Memory inherited copy-on-write is shared by three then; none sees another. */
TEST_F(life, child_duplicates_what_it_inherited)
{
	int ready[2], go[2];
	char c;
	int status;
	pid_t pid;

	ASSERT_EQ(0, pipe(ready));
	ASSERT_EQ(0, pipe(go));
	pid = fork();
	if (!pid) {
		char *more = mem_dup(self->fd, self->src, LEN);

		if (!more || write(ready[1], "x", 1) != 1 ||
		    read(go[0], &c, 1) != 1)
			_exit(1);
		/* The parent has written to its source meanwhile. */
		if (!mem_check(more, LEN, SEED) ||
		    !mem_check(self->src, LEN, SEED))
			_exit(2);
		mem_fill(self->src, LEN, SEED + 3);
		if (!mem_check(more, LEN, SEED))
			_exit(3);
		mem_fill(more, LEN, SEED + 4);
		_exit(!mem_check(self->dup, LEN, SEED));
	}
	ASSERT_EQ(1, read(ready[0], &c, 1));
	mem_fill(self->src, LEN, SEED + 1);
	ASSERT_EQ(1, write(go[1], "x", 1));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_TRUE(mem_check(self->src, LEN, SEED + 1));
	EXPECT_TRUE(mem_check(self->dup, LEN, SEED));
}

/* The parent exits first; the child's mappings live on. */
TEST_F(life, duplicate_outlives_the_parent)
{
	int result[2];
	char c = 0;

	ASSERT_EQ(0, pipe(result));
	IN_CHILD({
		char *more = mem_dup(self->fd, self->src, LEN);

		if (!more)
			_exit(1);
		if (!fork()) {
			usleep(50000);	/* by then it is gone */
			munmap(self->src, LEN);
			c = mem_check(more, LEN, SEED) ? 'y' : 'n';
			mem_fill(more, LEN, SEED + 1);
			if (!mem_check(self->dup, LEN, SEED))
				c = 'n';
			_exit(write(result[1], &c, 1) != 1);
		}
	});
	ASSERT_EQ(1, read(result[0], &c, 1));
	EXPECT_EQ('y', c);
}

TEST_F(life, mremap_moves_either_side)
{
	char *to = mem_free_range(2 * LEN, MEM_HUGE, 7 * MEM_PAGE);

	self->dup = mremap(self->dup, LEN, LEN, MREMAP_MAYMOVE | MREMAP_FIXED,
			   to);
	ASSERT_EQ(to, self->dup);
	to = mem_free_range(2 * LEN, MEM_HUGE, 9 * MEM_PAGE);
	self->src = mremap(self->src, LEN, 2 * LEN,
			   MREMAP_MAYMOVE | MREMAP_FIXED, to);
	ASSERT_EQ(to, self->src);
	EXPECT_EQ(NR, mem_shared_pages(self->src, self->dup, LEN));
	EXPECT_TRUE(mem_is_zero(self->src + LEN, LEN));
	mem_fill(self->src, LEN, SEED + 1);
	EXPECT_TRUE(mem_check(self->dup, LEN, SEED));
	/* What was moved can be duplicated again. */
	to = mem_dup(self->fd, self->dup, LEN);
	ASSERT_NE(NULL, to);
	ASSERT_EQ(0, munmap(self->dup, LEN));
	EXPECT_TRUE(mem_check(to, LEN, SEED));
}

TEST_F(life, mremap_shrinks_either_side)
{
	ASSERT_EQ(self->src, mremap(self->src, LEN, LEN / 2, 0));
	EXPECT_TRUE(mem_check(self->dup, LEN, SEED));
	ASSERT_EQ(self->dup, mremap(self->dup, LEN, LEN / 4, 0));
	EXPECT_TRUE(mem_check(self->src, LEN / 2, SEED));
}

/* DONTNEED empties the one side it is said of. */
TEST_F(life, dontneed_empties_one_side)
{
	ASSERT_EQ(0, madvise(self->src, LEN, MADV_DONTNEED));
	EXPECT_TRUE(mem_is_zero(self->src, LEN));
	EXPECT_TRUE(mem_check(self->dup, LEN, SEED));
	mem_fill(self->src, LEN, SEED + 1);
	ASSERT_EQ(0, madvise(self->dup, LEN, MADV_DONTNEED));
	EXPECT_TRUE(mem_is_zero(self->dup, LEN));
	EXPECT_TRUE(mem_check(self->src, LEN, SEED + 1));
}

/* Write permission given later does not open a way to the shared page. */
TEST_F(life, mprotect_opens_no_way_around)
{
	struct cowsnap_remap r;
	char *ro;

	ASSERT_EQ(0, mem_remap(self->fd, self->src, LEN, NULL,
			       COWSNAP_REMAP_READONLY, &r));
	ro = (char *)(uintptr_t)r.dst;
	ASSERT_EQ(0, mprotect(ro, LEN, PROT_READ | PROT_WRITE));
	ASSERT_EQ(0, mprotect(self->src, LEN, PROT_NONE));
	mem_fill(ro, LEN, SEED + 1);
	ASSERT_EQ(0, mprotect(self->src, LEN, PROT_READ | PROT_WRITE));
	EXPECT_TRUE(mem_check(self->src, LEN, SEED));
	EXPECT_TRUE(mem_check(self->dup, LEN, SEED));
	mem_fill(self->src, LEN, SEED + 2);
	EXPECT_TRUE(mem_check(self->dup, LEN, SEED));
	EXPECT_TRUE(mem_check(ro, LEN, SEED + 1));
}

/* Collapsed into a huge page one side gets pages of its own. */
TEST_F(life, collapse_of_either_side)
{
	char *src = mem_map_offset(2 * MEM_HUGE, MEM_HUGE, 0), *dup;

	ASSERT_NE(NULL, src);
	mem_fill(src, MEM_HUGE, SEED);
	dup = mem_dup(self->fd, src, MEM_HUGE);
	ASSERT_NE(NULL, dup);
	madvise(src, MEM_HUGE, MADV_HUGEPAGE);
	madvise(dup, MEM_HUGE, MADV_HUGEPAGE);
	/*
	 * For pages mapped twice that may be refused, but not halfway.
	 */
	madvise(src, MEM_HUGE, MADV_COLLAPSE);
	EXPECT_TRUE(mem_check(src, MEM_HUGE, SEED));
	madvise(dup, MEM_HUGE, MADV_COLLAPSE);
	EXPECT_TRUE(mem_check(dup, MEM_HUGE, SEED));
	mem_fill(dup, MEM_HUGE, SEED + 1);
	EXPECT_TRUE(mem_check(src, MEM_HUGE, SEED));
	madvise(src, MEM_HUGE, MADV_COLLAPSE);
	madvise(dup, MEM_HUGE, MADV_COLLAPSE);
	EXPECT_TRUE(mem_check(src, MEM_HUGE, SEED));
	EXPECT_TRUE(mem_check(dup, MEM_HUGE, SEED + 1));
}

/* exec(2) and exit(2) with duplicates of everything. */
TEST_F(life, exec_drops_duplicates)
{
	int status, null;
	pid_t pid = fork();

	if (!pid) {
		null = open("/dev/null", O_WRONLY);
		dup2(null, 1);
		dup2(null, 2);
		execl("/proc/self/exe", "life_test", "-h", NULL);
		_exit(99);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) != 99);
}

TEST_F(life, exit_without_unmapping)
{
	IN_CHILD({
		for (int i = 0; i < 20; i++)
			if (!mem_dup(self->fd, i % 2 ? self->dup : self->src,
				     LEN))
				_exit(1);
	});
	EXPECT_TRUE(mem_check(self->src, LEN, SEED));
	EXPECT_TRUE(mem_check(self->dup, LEN, SEED));
}

/* Copies of copies */

#define DEPTH	50

TEST_F(life, fifty_generations)
{
	static char *gen[DEPTH + 1];
	int i, j;

	gen[0] = self->src;
	for (i = 1; i <= DEPTH; i++) {
		gen[i] = mem_dup(self->fd, gen[i - 1], LEN);
		ASSERT_NE(NULL, gen[i]);
		/* Each generation changes one page. */
		mem_fill(gen[i] + i % NR * MEM_PAGE, MEM_PAGE, 100 + i);
	}
	EXPECT_TRUE(mem_check(self->src, LEN, SEED));
	EXPECT_TRUE(mem_check(self->dup, LEN, SEED));
	/* Drop from the middle outwards; each survivor is as it was. */
	for (i = DEPTH / 2; i > 0; i--) {
		ASSERT_EQ(0, munmap(gen[i], LEN));
		ASSERT_EQ(0, munmap(gen[DEPTH + 1 - i], LEN));
		gen[i] = gen[DEPTH + 1 - i] = NULL;
		for (j = 1; j <= DEPTH; j++)
			if (gen[j])
				ASSERT_TRUE(mem_check(gen[j] + j % NR * MEM_PAGE,
						      MEM_PAGE, 100 + j));
	}
	EXPECT_TRUE(mem_check(self->src, LEN, SEED));
}

#define SNAPSHOTS	1000

/* Each has the content of its moment, whichever of the others are gone. */
TEST_F(life, thousand_snapshots)
{
	static char *snap[SNAPSHOTS];
	struct mem_counters before, after;
	uint64_t random = 1;
	unsigned int i, j, k;
	char *t;

	for (i = 0; i < SNAPSHOTS; i++)
		snap[i] = NULL;
	mem_counters(&before);
	mem_counters(&before);
	for (i = 0; i < SNAPSHOTS; i++) {
		*(volatile uint64_t *)(self->src + i % NR * MEM_PAGE) = i;
		snap[i] = mem_dup(self->fd, self->src, LEN);
		ASSERT_NE(NULL, snap[i]);
	}
	for (i = SNAPSHOTS; i; i--) {
		j = next_random(&random) % i;
		/* Page k was written last at the last step congruent to it. */
		t = snap[j];
		uint64_t moment = *(uint64_t *)t;

		for (k = 1; k < NR; k++) {
			uint64_t v = *(uint64_t *)(t + k * MEM_PAGE);

			if (v < SNAPSHOTS && v > moment)
				moment = v;
		}
		for (k = 0; k < NR && moment >= NR; k++)
			ASSERT_EQ(moment - (moment - k) % NR,
				  *(uint64_t *)(t + k * MEM_PAGE));
		/* Some are written to first, which the others do not see. */
		if (j % 4 == 0)
			memset(t, 0xff, LEN);
		ASSERT_EQ(0, munmap(t, LEN));
		snap[j] = snap[i - 1];
		snap[i - 1] = NULL;
	}
	mem_counters(&after);
	EXPECT_TRUE(mem_counters_equal(&before, &after));
}

/* All together: what everything did is undone when it is unmapped. */
TEST_F(life, counters_return_to_the_start)
{
	struct mem_counters before, after;
	char *dup[8], *src;
	int i, round;

	for (round = 0; round < 2; round++) {
		mem_counters(&before);
		src = mem_map_alone(64 * MEM_PAGE);
		ASSERT_NE(NULL, src);
		mem_fill(src, 48 * MEM_PAGE, SEED);
		mem_pageout(src, 16 * MEM_PAGE);
		for (i = 0; i < 8; i++) {
			dup[i] = mem_dup(self->fd, i ? dup[i - 1] : src,
					 64 * MEM_PAGE);
			ASSERT_NE(NULL, dup[i]);
			mem_fill(dup[i] + i * MEM_PAGE, MEM_PAGE, i);
		}
		mem_unmap_alone(src, 64 * MEM_PAGE);
		for (i = 0; i < 8; i++)
			ASSERT_EQ(0, munmap(dup[(i * 5) % 8], 64 * MEM_PAGE));
		mem_counters(&after);
	}
	EXPECT_TRUE(mem_counters_equal(&before, &after));
}

TEST_HARNESS_MAIN
