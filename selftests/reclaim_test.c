// SPDX-License-Identifier: GPL-2.0
/*
 * Reclaim that comes at a bad moment: between the two passes of the call, and
 * to pages that look as if nobody would miss them.
 */
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>

#include "kernel.h"
#include "ops.h"
#include "uring.h"
#include "harness.h"

#define HUGE	(2UL << 20)
#define NR	256UL
#define LEN	(NR * MEM_PAGE)
#define SEED	11

FIXTURE(reclaim) {
	int fd;
	struct cgroup cg;
	pid_t child;
};

FIXTURE_SETUP(reclaim)
{
	int err;

	self->cg.dir[0] = 0;
	self->child = 0;
	self->fd = mem_open();
	ASSERT_LE(0, self->fd);
	if (!mem_have_swap())
		SKIP(return, "no swap");
	err = cgroup_enter(&self->cg);
	if (err)
		SKIP(return, "no memory cgroup: %s", strerror(-err));
}

FIXTURE_TEARDOWN(reclaim)
{
	if (self->child > 0) {
		kill(self->child, SIGKILL);
		waitpid(self->child, NULL, 0);
	}
	cgroup_leave(&self->cg);
	close(self->fd);
}

static void reclaim_some(const struct cgroup *cg)
{
	int i;

	for (i = 0; i < 4; i++) {
		mem_drain();
		cgroup_reclaim(cg);
	}
}

/*
 * A page read back from swap on memory (zram, brd) is clean and in no swap
 * cache. madvise asks for the map count of no such page, and reclaim drops it
 * from all who map it.
 */
TEST_F(reclaim, page_read_back_from_swap_survives_madv_free_of_the_other_side)
{
	char *src = mem_map_alone(LEN), *dup;

	ASSERT_NE(NULL, src);
	mem_fill(src, LEN, SEED);
	ASSERT_EQ(NR, mem_pageout(src, LEN));
	ASSERT_TRUE(mem_check(src, LEN, SEED));
	dup = mem_dup(self->fd, src, LEN);
	ASSERT_NE(NULL, dup);
	ASSERT_EQ(0, madvise(src, LEN, MADV_FREE));
	reclaim_some(&self->cg);
	EXPECT_TRUE(mem_check(dup, LEN, SEED));
}

/* What MADV_FREE has marked before is not dropped from under the duplicate. */
TEST_F(reclaim, duplicate_of_freed_pages_keeps_what_it_held)
{
	char *src = mem_map_alone(LEN), *dup;

	ASSERT_NE(NULL, src);
	mem_fill(src, LEN, SEED);
	mem_drain();
	ASSERT_EQ(0, madvise(src, LEN, MADV_FREE));
	dup = mem_dup(self->fd, src, LEN);
	ASSERT_NE(NULL, dup);
	/* Nothing was reclaimed yet: that instant had the content. */
	ASSERT_TRUE(mem_check(dup, LEN, SEED));
	reclaim_some(&self->cg);
	EXPECT_TRUE(mem_check(dup, LEN, SEED));
}

/*
 * The page is the snapshot's already, and nothing is to be done but to keep it:
 * else reclaim takes it from the source after all, which comes first.
 */
TEST_F(reclaim, freed_pages_rolled_back_keep_what_they_hold)
{
	char *src = mem_map_alone(LEN), *dup;
	struct cowsnap_sync s;

	ASSERT_NE(NULL, src);
	mem_fill(src, LEN, SEED);
	mem_drain();
	dup = mem_dup(self->fd, src, LEN);
	ASSERT_NE(NULL, dup);
	ASSERT_EQ(0, madvise(src, LEN, MADV_FREE));
	ASSERT_EQ(0, op_sync(self->fd, dup, src, LEN, &s));
	EXPECT_EQ(0, s.changed);
	reclaim_some(&self->cg);
	EXPECT_TRUE(mem_check(src, LEN, SEED));
	EXPECT_TRUE(mem_check(dup, LEN, SEED));
}

TEST_F(reclaim, duplicate_of_a_freed_huge_page_keeps_what_it_held)
{
	char *src = mem_map_huge(HUGE), *dup;

	if (!src)
		SKIP(return, "no huge page to be had");
	mem_fill(src, HUGE, SEED);
	mem_drain();
	ASSERT_EQ(0, madvise(src, HUGE, MADV_FREE));
	dup = mem_dup(self->fd, src, HUGE);
	ASSERT_NE(NULL, dup);
	ASSERT_TRUE(mem_check(dup, HUGE, SEED));
	reclaim_some(&self->cg);
	EXPECT_TRUE(mem_check(dup, HUGE, SEED));
}

/*
 * Its entries are clean, and not shared with others of the folio at once. What is
 * counted wrongly stays counted when everybody has gone.
 */
TEST_F(reclaim, duplicate_of_a_freed_huge_page_in_pieces_is_counted_right)
{
	size_t len = 4 * HUGE;
	struct cowsnap_remap r;
	long before, after;
	char *src, *dst;

	mem_drain();
	before = mem_vmstat("nr_anon_pages");
	src = mem_map_huge(len);
	if (!src)
		SKIP(return, "no huge page to be had");
	dst = mem_free_range(len + HUGE, HUGE, 0);
	ASSERT_NE(NULL, dst);
	mem_fill(src, len, SEED);
	ASSERT_EQ(0, madvise(src, len, MADV_FREE));
	ASSERT_TRUE(mem_check(src, len, SEED));
	ASSERT_EQ(0, mem_remap(self->fd, src, len, dst + MEM_PAGE,
			       COWSNAP_REMAP_FIXED_NOREPLACE, &r));
	EXPECT_TRUE(mem_check(dst + MEM_PAGE, len, SEED));
	munmap(dst + MEM_PAGE, len);
	munmap(src, len);
	mem_drain();
	after = mem_vmstat("nr_anon_pages");
	EXPECT_GT(HUGE / MEM_PAGE, labs(after - before))
		TH_LOG("%ld mapped pages, now %ld", before, after);
}

/*
 * Huge pages behind pinned base pages: the call shares the huge pages whole and
 * then needs a while to copy the pinned ones. MADV_FREE and a store make reclaim
 * split the huge entry of the source, and only that one, before it sees that
 * the page is in use. One that then takes the duplicate's huge page for a page
 * table writes entries into the user's memory.
 */
#define PINNED	(4 * HUGE)
#define HUGES	(8 * HUGE)

static char *freed_huge_pages(struct uring *u)
{
	char *p = mem_map_offset(PINNED + HUGES, HUGE, 0);
	size_t i;

	if (!p)
		return NULL;
	memset(p, 1, PINNED);
	if (uring_pin(u, p, PINNED))
		return NULL;
	madvise(p + PINNED, HUGES, MADV_HUGEPAGE);
	for (i = PINNED; i < PINNED + HUGES; i += HUGE)
		p[i + HUGE / 2] = 1;
	mem_drain();
	madvise(p + PINNED, HUGES, MADV_FREE);
	for (i = PINNED; i < PINNED + HUGES; i += HUGE)
		p[i + HUGE / 2] = 1;
	return p;
}

/* Words of the huge pages that are not what freed_huge_pages() stored. */
static size_t wrong_words(const char *p)
{
	const uint64_t *word = (const uint64_t *)(p + PINNED);
	size_t i, wrong = 0;

	for (i = 0; i < HUGES / sizeof(*word); i++)
		wrong += word[i] != (i % (HUGE / 8) == HUGE / 16);
	return wrong;
}

/*
 * Reclaims the group of its parent while *@go, until it is killed. Made before
 * the memory is, or it would map that, too.
 */
static pid_t start_reclaim(const struct cgroup *cg, atomic_bool *go)
{
	pid_t pid = fork();

	if (pid)
		return pid;
	mem_write(CGROUP_ROOT "/cgroup.procs", "0");
	for (;;) {
		while (!atomic_load(go))
			sched_yield();
		cgroup_reclaim(cg);
	}
}

TEST_F_TIMEOUT(reclaim, huge_page_split_between_the_passes_is_no_page_table, 90)
{
	atomic_bool *go = mmap(NULL, MEM_PAGE, PROT_READ | PROT_WRITE,
			       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	double end = seconds() + 12;
	struct uring u;
	char *src, *dup;
	int err = uring_open(&u), rounds = 0;

	if (err)
		SKIP(return, "no io_uring: %s", strerror(-err));
	self->child = start_reclaim(&self->cg, go);
	ASSERT_LT(0, self->child);
	while (rounds < 40 && seconds() < end) {
		src = freed_huge_pages(&u);
		ASSERT_NE(NULL, src);
		atomic_store(go, true);
		dup = mem_dup(self->fd, src, PINNED + HUGES);
		atomic_store(go, false);
		ASSERT_NE(NULL, dup);
		ASSERT_EQ(0, wrong_words(dup));
		ASSERT_EQ(0, wrong_words(src));
		munmap(dup, PINNED + HUGES);
		uring_unpin(&u);
		munmap(src, PINNED + HUGES);
		rounds++;
	}
	TH_LOG("%d rounds", rounds);
	uring_close(&u);
}

TEST_HARNESS_MAIN
