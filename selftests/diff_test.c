// SPDX-License-Identifier: GPL-2.0
/*
 * DIFF: what differs is listed, whatever the page tables look like and whoever
 * writes meanwhile; what is one and the same page is not.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "hugepool.h"
#include "ops.h"

#define NR	1024UL
#define LEN	PAGES(NR)
#define VEC	1024

FIXTURE(diff)
{
	int fd;
	char *a;
	char *b;
	struct cowsnap_diff d;
	struct cowsnap_range vec[VEC];
};

FIXTURE_VARIANT(diff)
{
	bool huge;
};

FIXTURE_VARIANT_ADD(diff, small) { .huge = false };
FIXTURE_VARIANT_ADD(diff, huge) { .huge = true };

FIXTURE_SETUP(diff)
{
	self->fd = mem_open();
	ASSERT_GE(self->fd, 0);
	self->a = variant->huge ? mem_map_huge(LEN) : mem_map_alone(LEN);
	if (!self->a && variant->huge)
		SKIP(return, "no huge pages");
	ASSERT_NE(NULL, self->a);
	mem_fill(self->a, LEN, 1);
	self->b = mem_dup(self->fd, self->a, LEN);
	ASSERT_NE(NULL, self->b);
}

FIXTURE_TEARDOWN(diff)
{
	close(self->fd);
}

static int diff(FIXTURE_DATA(diff) *self, size_t vec_len)
{
	return op_diff(self->fd, self->a, self->b, LEN, self->vec, vec_len,
		       &self->d);
}

static bool listed(const FIXTURE_DATA(diff) *self, size_t page)
{
	size_t i;

	for (i = 0; i < self->d.nr; i++)
		if (self->vec[i].start <= PAGES(page) &&
		    PAGES(page) < self->vec[i].end)
			return true;
	return false;
}

/* In order, without an overlap, neighbours together. */
static bool well_formed(const FIXTURE_DATA(diff) *self)
{
	__u64 last = 0;
	size_t i;

	for (i = 0; i < self->d.nr; i++) {
		if (self->vec[i].start >= self->vec[i].end ||
		    (i && self->vec[i].start <= last))
			return false;
		last = self->vec[i].end;
	}
	return last <= self->d.next_offset && self->d.next_offset <= LEN;
}

/* More ranges than the module collects at a time. */
TEST_F(diff, many_ranges_in_one_call)
{
	size_t i;

	for (i = 0; i < NR; i += 2)
		(i & 2 ? self->a : self->b)[PAGES(i)]++;
	ASSERT_EQ(0, diff(self, VEC));
	EXPECT_EQ(NR / 2, self->d.nr);
	EXPECT_EQ(LEN, self->d.next_offset);
	for (i = 0; i < self->d.nr; i++) {
		ASSERT_EQ(PAGES(2 * i), self->vec[i].start);
		ASSERT_EQ(PAGES(2 * i + 1), self->vec[i].end);
	}
}

/* A vector as long as the module's buffer, and around that. */
TEST_F(diff, vectors_of_many_lengths)
{
	static const size_t len[] = { 1, 2, 127, 128, 129, 255, 256, 257, 511,
				      512, 513 };
	size_t i, j;

	for (i = 0; i < NR; i += 2)
		self->a[PAGES(i)]++;
	for (i = 0; i < ARRAY_SIZE(len); i++) {
		size_t nr = len[i] < NR / 2 ? len[i] : NR / 2;

		memset(self->vec, 0xa5, sizeof(self->vec));
		ASSERT_EQ(0, diff(self, len[i]));
		ASSERT_EQ(nr, self->d.nr);
		ASSERT_EQ(nr < NR / 2 ? PAGES(2 * nr) : LEN, self->d.next_offset);
		for (j = 0; j < nr; j++)
			ASSERT_EQ(PAGES(2 * j), self->vec[j].start);
		if (nr < VEC)
			ASSERT_EQ(0xa5a5a5a5a5a5a5a5ULL, self->vec[nr].start);
	}
}

/* Neighbours that the buffer's end parts are still one range. */
TEST_F(diff, neighbours_are_one_range)
{
	size_t i;

	for (i = 0; i < 300; i++)
		self->a[PAGES(i)]++;
	self->b[PAGES(300)]++;
	for (i = 400; i < NR; i++)
		self->b[PAGES(i)]++;
	ASSERT_EQ(0, diff(self, VEC));
	ASSERT_EQ(2, self->d.nr);
	EXPECT_EQ(PAGES(301), self->vec[0].end);
	EXPECT_EQ(PAGES(400), self->vec[1].start);
	EXPECT_EQ(LEN, self->vec[1].end);
}

TEST_F(diff, zero_pages_equal_untouched_ones)
{
	madvise(self->a, LEN, MADV_DONTNEED);
	madvise(self->b, LEN, MADV_DONTNEED);
	ASSERT_EQ(0, diff(self, VEC));
	EXPECT_EQ(0, self->d.nr);
	EXPECT_TRUE(mem_is_zero(self->a, PAGES(3)));
	EXPECT_TRUE(mem_is_zero(self->b + MEM_HUGE, PAGES(2)));
	ASSERT_EQ(0, diff(self, VEC));
	EXPECT_EQ(0, self->d.nr);
	self->b[PAGES(1)]++;
	ASSERT_EQ(0, diff(self, VEC));
	EXPECT_TRUE(well_formed(self));
	EXPECT_TRUE(listed(self, 1));
	EXPECT_FALSE(listed(self, NR - 1));
}

/* Private memory as long as the fixture's, of a file full of pattern @seed. */
static char *map_file_at(unsigned char seed, off_t offset)
{
	int fd = memfd_create("diff_test", MFD_CLOEXEC);
	char *p = mem_map_alone(LEN), *whole;

	whole = mmap(NULL, LEN + offset, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (fd < 0 || !p || ftruncate(fd, LEN + offset) || whole == MAP_FAILED ||
	    mmap(p, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd,
		 offset) != p)
		return NULL;
	mem_fill(whole, LEN + offset, seed);
	munmap(whole, LEN + offset);
	close(fd);
	return p;
}

/*
 * What nobody has touched is zeroes in one mapping and the file's in another.
 * With one page touched on each side there are page tables to compare.
 */
TEST_F(diff, untouched_pages_of_unlike_memory_differ)
{
	char *of[] = {
		mem_map_alone(LEN), mem_map_alone(LEN), map_file_at(1, 0),
		map_file_at(2, 0), map_file_at(1, MEM_PAGE),
	};
	size_t i, k;

	for (i = 0; i < ARRAY_SIZE(of); i++) {
		ASSERT_NE(NULL, of[i]);
		*(volatile char *)of[i] = i;
		*(volatile char *)(of[i] + MEM_HUGE) = i;
	}
	for (i = 0; i < ARRAY_SIZE(of); i++) {
		for (k = i + 1; k < ARRAY_SIZE(of); k++) {
			ASSERT_EQ(0, op_diff(self->fd, of[i], of[k], LEN,
					     self->vec, VEC, &self->d));
			/* Of the two that are anonymous only what is touched. */
			EXPECT_EQ(k == 1 ? 2 : 1, self->d.nr);
			EXPECT_EQ(0, self->vec[0].start);
			EXPECT_EQ(k == 1 ? MEM_PAGE : LEN, self->vec[0].end)
				TH_LOG("%zu and %zu", i, k);
		}
	}
	for (i = 0; i < ARRAY_SIZE(of); i++)
		munmap(of[i], LEN);
}

TEST_F(diff, changes_nothing)
{
	struct mem_counters before, after;
	uint64_t maps;

	self->a[PAGES(7)]++;
	madvise(self->b + PAGES(600), PAGES(20), MADV_DONTNEED);
	ASSERT_EQ(0, diff(self, VEC));
	mem_counters(&before);
	maps = mem_maps_hash();
	ASSERT_EQ(0, diff(self, VEC));
	EXPECT_EQ(2, self->d.nr);
	mem_counters(&after);
	EXPECT_TRUE(mem_counters_equal(&before, &after));
	EXPECT_EQ(maps, mem_maps_hash());
	EXPECT_TRUE(mem_untouched(self->b + PAGES(610)));
}

/* One side huge, the other page by page: still one page. */
TEST_F(diff, split_on_one_side)
{
	ASSERT_EQ(0, mprotect(self->b + PAGES(9), MEM_PAGE, PROT_READ));
	ASSERT_EQ(0, diff(self, VEC));
	EXPECT_EQ(0, self->d.nr);
	self->b[PAGES(700)]++;
	ASSERT_EQ(0, diff(self, VEC));
	EXPECT_EQ(1, self->d.nr);
	EXPECT_EQ(PAGES(700), self->vec[0].start);
	EXPECT_EQ(PAGES(701), self->vec[0].end);
}

TEST_F(diff, mappings_cut_differently)
{
	ASSERT_EQ(0, mprotect(self->a + PAGES(10), PAGES(7), PROT_READ));
	ASSERT_EQ(0, mprotect(self->b + PAGES(13), PAGES(600), PROT_READ));
	self->a[PAGES(9)]++;
	self->b[PAGES(12)]++;
	self->a[PAGES(17)]++;
	self->b[PAGES(613)]++;
	ASSERT_EQ(0, diff(self, VEC));
	EXPECT_EQ(4, self->d.nr);
	EXPECT_TRUE(listed(self, 9) && listed(self, 12) && listed(self, 17) &&
		    listed(self, 613));
}

TEST_F(diff, range_of_itself_is_refused_but_any_two_may_be_compared)
{
	char *other = mem_map_alone(LEN);

	ASSERT_NE(NULL, other);
	EXPECT_EQ(-EINVAL, op_diff(self->fd, self->a, self->a, LEN, self->vec,
				   VEC, &self->d));
	ASSERT_EQ(0, op_diff(self->fd, self->a, other, LEN, self->vec, VEC,
			     &self->d));
	EXPECT_EQ(1, self->d.nr);
	EXPECT_EQ(0, self->vec[0].start);
	EXPECT_EQ(LEN, self->vec[0].end);
}

TEST_F(diff, swapped_out_pages)
{
	if (!mem_have_swap())
		SKIP(return, "no swap");
	munmap(self->b, LEN);
	/* MADV_PAGEOUT takes only what is mapped once. */
	ASSERT_EQ(0, madvise(self->a, LEN, MADV_NOHUGEPAGE));
	ASSERT_LE(64, mem_pageout(self->a, LEN));
	self->b = mem_dup(self->fd, self->a, LEN);
	ASSERT_NE(NULL, self->b);
	ASSERT_EQ(0, diff(self, VEC));
	EXPECT_EQ(0, self->d.nr);
	/* Written on one side: brought in and copied, or taken. */
	mem_fill(self->b + PAGES(5), MEM_PAGE, 2);
	ASSERT_EQ(0, diff(self, VEC));
	EXPECT_TRUE(well_formed(self));
	EXPECT_TRUE(listed(self, 5));
	/* Another page's swap entry. */
	mem_fill(self->b + PAGES(40), PAGES(4), 3);
	mem_pageout(self->b + PAGES(40), PAGES(4));
	ASSERT_EQ(0, diff(self, VEC));
	EXPECT_TRUE(listed(self, 40) && listed(self, 43));
	EXPECT_FALSE(listed(self, 39));
	/* Emptied on one side. */
	ASSERT_EQ(0, madvise(self->b + PAGES(50), MEM_PAGE, MADV_DONTNEED));
	ASSERT_EQ(0, diff(self, VEC));
	EXPECT_TRUE(listed(self, 50));
}

static _Atomic bool over;

static void *write_elsewhere(void *arg)
{
	volatile char *p = arg;
	size_t i;

	while (!over)
		for (i = 1; i < NR && !over; i += 2) {
			p[PAGES(i)]++;
			if (i % 64 == 1)
				madvise((char *)p + PAGES(i), MEM_PAGE,
					MADV_PAGEOUT);
		}
	return NULL;
}

/* What was different when the call began is listed, each time. */
TEST_F(diff, never_misses_while_others_write)
{
	pthread_t threads[2];
	size_t i, round, missed = 0;

	for (i = 0; i < NR; i += 8)
		self->a[PAGES(i)]++;
	over = false;
	ASSERT_EQ(0, pthread_create(&threads[0], NULL, write_elsewhere, self->a));
	ASSERT_EQ(0, pthread_create(&threads[1], NULL, write_elsewhere, self->b));
	for (round = 0; round < 30 && !missed; round++) {
		ASSERT_EQ(0, diff(self, VEC));
		ASSERT_TRUE(well_formed(self));
		ASSERT_EQ(LEN, self->d.next_offset);
		for (i = 0; i < NR; i += 8)
			missed += !listed(self, i);
		/* One more that differs from now on. */
		self->b[PAGES(2 + 8 * round)]++;
		ASSERT_EQ(0, diff(self, VEC));
		missed += !listed(self, 2 + 8 * round);
	}
	over = true;
	pthread_join(threads[0], NULL);
	pthread_join(threads[1], NULL);
	EXPECT_EQ(0, missed);
}

/* Hugetlb */

TEST(hugetlb_pages_are_compared_whole)
{
	struct cowsnap_range vec[4];
	struct cowsnap_diff d;
	int fd = mem_open();
	char *a, *b;

	ASSERT_GE(fd, 0);
	if (!pool_set(MEM_HUGE, POOL))
		SKIP(return, "no hugetlb pages");
	a = map_pages(MEM_HUGE, 3, MAP_NORESERVE);
	ASSERT_NE(NULL, a);
	fill_page(a, MEM_HUGE, 1);
	fill_page(a + MEM_HUGE, MEM_HUGE, 3);
	b = mem_dup(fd, a, 3 * MEM_HUGE);
	ASSERT_NE(NULL, b);
	ASSERT_EQ(0, op_diff(fd, a, b, 3 * MEM_HUGE, vec, 4, &d));
	EXPECT_EQ(0, d.nr);
	b[MEM_HUGE + 77]++;
	ASSERT_EQ(0, op_diff(fd, a, b, 3 * MEM_HUGE, vec, 4, &d));
	ASSERT_EQ(1, d.nr);
	EXPECT_EQ(MEM_HUGE, vec[0].start);
	EXPECT_EQ(2 * MEM_HUGE, vec[0].end);
	a[2 * MEM_HUGE]++;
	ASSERT_EQ(0, op_diff(fd, a, b, 3 * MEM_HUGE, vec, 4, &d));
	ASSERT_EQ(1, d.nr);
	EXPECT_EQ(3 * MEM_HUGE, vec[0].end);
	EXPECT_EQ(3 * MEM_HUGE, d.next_offset);
	munmap(a, 3 * MEM_HUGE);
	munmap(b, 3 * MEM_HUGE);
	pool_set(MEM_HUGE, 0);
}

TEST_HARNESS_MAIN
