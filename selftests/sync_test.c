// SPDX-License-Identifier: GPL-2.0
/*
 * SYNC: afterwards one range holds what the other holds, and shares it; only
 * pages that differed are touched; nothing leaks. DIFF says what differed.
 */
#include <unistd.h>

#include "kernel.h"
#include "ops.h"

#define VEC	64

FIXTURE(sync)
{
	int fd;
	size_t len;
	char *src;
	char *dup;
	struct cowsnap_sync s;
	struct cowsnap_diff d;
	struct cowsnap_range vec[VEC];
	struct mem_counters before;
};

static int diff(FIXTURE_DATA(sync) *self)
{
	return op_diff(self->fd, self->src, self->dup, self->len, self->vec, VEC,
		       &self->d);
}

FIXTURE_VARIANT(sync)
{
	bool huge;
	bool back;	/* rollback: the source is changed */
};

FIXTURE_VARIANT_ADD(sync, refresh) { .huge = false, .back = false };
FIXTURE_VARIANT_ADD(sync, rollback) { .huge = false, .back = true };
FIXTURE_VARIANT_ADD(sync, refresh_huge) { .huge = true, .back = false };
FIXTURE_VARIANT_ADD(sync, rollback_huge) { .huge = true, .back = true };

/* What the tests will need of it is there before pages are counted. */
static void touch_stack(void)
{
	volatile char room[64 << 10];
	size_t i;

	for (i = 0; i < sizeof(room); i += MEM_PAGE)
		room[i] = 1;
}

FIXTURE_SETUP(sync)
{
	char *src, *dup;

	self->fd = mem_open();
	ASSERT_GE(self->fd, 0);
	self->len = 2 * MEM_HUGE;
	src = variant->huge ? mem_map_huge(self->len) : mem_map(self->len);
	if (!src && variant->huge)
		SKIP(return, "no huge pages");
	ASSERT_NE(NULL, src);
	mem_fill(src, self->len, 1);
	mem_drain();
	dup = mem_dup(self->fd, src, self->len);
	ASSERT_NE(NULL, dup);
	self->src = variant->back ? dup : src;
	self->dup = variant->back ? src : dup;
	touch_stack();
	mem_counters(&self->before);
}

FIXTURE_TEARDOWN(sync)
{
	munmap(self->src, self->len);
	munmap(self->dup, self->len);
	close(self->fd);
}

TEST_F(sync, of_what_is_the_same_changes_nothing)
{
	struct mem_counters after;

	ASSERT_EQ(0, diff(self));
	EXPECT_EQ(0, self->d.nr);
	EXPECT_EQ(self->len, self->d.next_offset);
	ASSERT_EQ(0, op_sync(self->fd, self->src, self->dup, self->len, &self->s))
		TH_LOG("reason %u at %#llx", self->s.reason, self->s.fault_addr);
	EXPECT_EQ(0, self->s.changed);
	EXPECT_EQ(self->len / MEM_PAGE,
		  mem_shared_pages(self->src, self->dup, self->len));
	mem_counters(&after);
	EXPECT_TRUE(mem_counters_equal(&self->before, &after));
}

TEST_F(sync, takes_over_what_was_written)
{
	struct mem_counters after;

	mem_fill(self->src + PAGES(3), PAGES(2), 2);
	mem_fill(self->src + MEM_HUGE + PAGES(7), PAGES(1), 2);
	ASSERT_EQ(0, diff(self));
	ASSERT_EQ(2, self->d.nr);
	EXPECT_EQ(PAGES(3), self->vec[0].start);
	EXPECT_EQ(PAGES(5), self->vec[0].end);
	EXPECT_EQ(MEM_HUGE + PAGES(7), self->vec[1].start);
	EXPECT_EQ(MEM_HUGE + PAGES(8), self->vec[1].end);
	ASSERT_EQ(0, op_sync(self->fd, self->src, self->dup, self->len, &self->s))
		TH_LOG("reason %u at %#llx", self->s.reason, self->s.fault_addr);
	EXPECT_EQ(3, self->s.changed);
	EXPECT_EQ(self->len / MEM_PAGE,
		  mem_shared_pages(self->src, self->dup, self->len));
	EXPECT_TRUE(mem_check(self->dup + PAGES(3), PAGES(2), 2));
	EXPECT_TRUE(mem_check(self->dup, PAGES(3), 1));
	ASSERT_EQ(0, diff(self));
	EXPECT_EQ(0, self->d.nr);
	mem_counters(&after);
	EXPECT_TRUE(mem_counters_equal(&self->before, &after));
}

TEST_F(sync, undoes_what_the_other_side_wrote)
{
	struct mem_counters after;

	mem_fill(self->dup, self->len, 2);
	ASSERT_EQ(0, op_sync(self->fd, self->src, self->dup, self->len, &self->s));
	EXPECT_EQ(self->len / MEM_PAGE, self->s.changed);
	EXPECT_TRUE(mem_check(self->dup, self->len, 1));
	EXPECT_TRUE(mem_check(self->src, self->len, 1));
	mem_fill(self->dup, self->len, 3);
	EXPECT_TRUE(mem_check(self->src, self->len, 1));
	ASSERT_EQ(0, op_sync(self->fd, self->src, self->dup, self->len, &self->s));
	mem_counters(&after);
	EXPECT_TRUE(mem_counters_equal(&self->before, &after));
}

TEST_F(sync, empties_what_is_empty_and_fills_what_was)
{
	ASSERT_EQ(0, madvise(self->src, MEM_HUGE, MADV_DONTNEED));
	ASSERT_EQ(0, madvise(self->dup + MEM_HUGE, MEM_HUGE, MADV_DONTNEED));
	/* The zero page on one side: what is read there must not stay. */
	ASSERT_TRUE(mem_is_zero(self->dup + MEM_HUGE, PAGES(2)));
	ASSERT_TRUE(mem_is_zero(self->src, PAGES(2)));
	ASSERT_EQ(0, diff(self));
	EXPECT_EQ(1, self->d.nr);
	ASSERT_EQ(0, op_sync(self->fd, self->src, self->dup, self->len, &self->s));
	EXPECT_EQ(self->len / MEM_PAGE, self->s.changed);
	EXPECT_TRUE(mem_is_zero(self->dup, MEM_HUGE));
	EXPECT_EQ(0, memcmp(self->dup + MEM_HUGE, self->src + MEM_HUGE, MEM_HUGE));
	ASSERT_EQ(0, diff(self));
	EXPECT_EQ(0, self->d.nr);
}

/*
 * The duplicate of what was untouched has no page tables at any level. They come
 * with the first SYNC; what one of them maps is not what one of the source's does.
 */
TEST_F(sync, fills_a_duplicate_made_elsewhere_of_untouched_memory)
{
	char *src, *dup = mem_free_range(2 * MEM_GIB, MEM_GIB, 0);
	struct cowsnap_remap r;

	ASSERT_NE(NULL, dup);
	dup += MEM_GIB / 2 + PAGES(3);
	src = mem_map_offset(self->len, MEM_HUGE, 0);
	ASSERT_NE(NULL, src);
	madvise(src, self->len, variant->huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	ASSERT_EQ(0, mem_remap(self->fd, src, self->len, dup,
			       COWSNAP_REMAP_FIXED_NOREPLACE, &r));
	mem_fill(src, self->len, 3);
	ASSERT_EQ(0, op_sync(self->fd, src, dup, self->len, &self->s))
		TH_LOG("reason %u at %#llx", self->s.reason, self->s.fault_addr);
	EXPECT_EQ(self->len / MEM_PAGE, self->s.changed);
	EXPECT_TRUE(mem_check(dup, self->len, 3));
	mem_fill(src, self->len, 4);
	EXPECT_TRUE(mem_check(dup, self->len, 3));
	mem_fill(dup, self->len, 5);
	EXPECT_TRUE(mem_check(src, self->len, 4));
	munmap(dup, self->len);
	munmap(src, self->len);
}

TEST_F(sync, swapped_out_pages)
{
	size_t nr = PAGES(32);
	struct cgroup cg;

	if (!mem_have_swap())
		SKIP(return, "no swap");
	ASSERT_EQ(0, cgroup_enter(&cg));
	/* Charged to the group: pages written now. */
	mem_fill(self->src, nr, 2);
	EXPECT_EQ(32, cgroup_swap_out(&cg, self->src, nr));
	ASSERT_EQ(0, op_sync(self->fd, self->src, self->dup, self->len, &self->s));
	EXPECT_EQ(32, self->s.changed);
	EXPECT_EQ(32, swapped_pages(self->dup, nr));
	ASSERT_EQ(0, diff(self));
	EXPECT_EQ(0, self->d.nr);
	EXPECT_TRUE(mem_check(self->dup, nr, 2));
	EXPECT_TRUE(mem_check(self->src, nr, 2));
	/* Both share them, in the swap cache or not; one side alone changes. */
	EXPECT_EQ(32, cgroup_swap_out(&cg, self->dup, nr));
	mem_fill(self->src, PAGES(8), 3);
	mem_fill(self->dup + PAGES(16), PAGES(8), 4);
	EXPECT_LE(16, cgroup_swap_out(&cg, self->dup, nr));
	ASSERT_EQ(0, op_sync(self->fd, self->src, self->dup, self->len, &self->s));
	EXPECT_TRUE(mem_check(self->dup, PAGES(8), 3));
	EXPECT_TRUE(mem_check(self->src, PAGES(8), 3));
	EXPECT_EQ(0, memcmp(self->dup, self->src, nr));
	cgroup_leave(&cg);
}

TEST_F(sync, diff_goes_on_where_the_vector_was_full)
{
	size_t i, nr = 0, offset = 0;

	for (i = 0; i < 20; i++)
		self->src[PAGES(i * 13)]++;
	do {
		self->d = (struct cowsnap_diff){
			.size = sizeof(self->d), .a = U64(self->src),
			.b = U64(self->dup), .len = self->len,
			.vec = U64(self->vec), .vec_len = 3,
			.start_offset = offset,
		};
		ASSERT_EQ(0, op_call(self->fd, COWSNAP_DIFF, &self->d));
		ASSERT_LE(self->d.nr, 3);
		for (i = 0; i < self->d.nr; i++, nr++) {
			EXPECT_EQ(PAGES(nr * 13), self->vec[i].start);
			EXPECT_EQ(PAGES(nr * 13 + 1), self->vec[i].end);
		}
		ASSERT_TRUE(self->d.next_offset > offset);
		offset = self->d.next_offset;
	} while (offset < self->len);
	EXPECT_EQ(20, nr);
}

TEST_HARNESS_MAIN
