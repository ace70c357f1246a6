// SPDX-License-Identifier: GPL-2.0
/*
 * Private hugetlb where the pool is exhausted and the kernel may make surplus
 * pages (nr_overcommit_hugepages): writes take those, and they go when they are
 * unmapped. Free, reserved and surplus pages are counted at every step.
 *
 * Which pages go when some are unmapped depends on their nodes: only one side has
 * surplus pages at a time, and goes as a whole.
 */
#include "hugepool.h"
#include "harness.h"

#define NR	3		/* pages of the source, */
#define TOUCHED	2		/* of which the last is untouched */

FIXTURE(surplus)
{
	int fd;
	bool reserved;
	bool copied;		/* instead of shared */
	long pool;		/* as it was, */
	long overcommit;
	long untouched;		/* pages that are free and reserved */
	char *src;
};

FIXTURE_VARIANT(surplus)
{
	int flags;
};

FIXTURE_VARIANT_ADD(surplus, reserved) { .flags = 0 };
FIXTURE_VARIANT_ADD(surplus, unreserved) { .flags = MAP_NORESERVE };

#define PAGE(p, i)	((p) + (i) * MEM_HUGE)
#define LEN		(NR * MEM_HUGE)

FIXTURE_SETUP(surplus)
{
	self->pool = pool_value(MEM_HUGE, "nr_hugepages");
	self->overcommit = pool_value(MEM_HUGE, "nr_overcommit_hugepages");
	self->fd = mem_open();
	ASSERT_GE(self->fd, 0);
	self->reserved = !(variant->flags & MAP_NORESERVE);
	self->copied = self->reserved &&
		       !(kinds(self->fd) & COWSNAP_KIND_HUGETLB_RESERVED);
	self->untouched = self->reserved;
	if (!pool_set(MEM_HUGE, NR))
		SKIP(return, "no huge pages");
	self->src = map_pages(MEM_HUGE, NR, variant->flags);
	ASSERT_NE(NULL, self->src);
	fill_page(PAGE(self->src, 0), MEM_HUGE, 0);
	fill_page(PAGE(self->src, 1), MEM_HUGE, 10);
	ASSERT_TRUE(pool_exhaust(MEM_HUGE));
	ASSERT_TRUE(pool_is(MEM_HUGE, self->untouched, self->untouched));
}

FIXTURE_TEARDOWN(surplus)
{
	pool_overcommit(MEM_HUGE, self->overcommit);
	pool_set(MEM_HUGE, self->pool);
	close(self->fd);
}

/* What there is but for surplus pages stays as it was set up. */
#define EXPECT_SURPLUS(nr)						\
	EXPECT_TRUE(pool_has(MEM_HUGE, self->untouched, self->untouched, nr))

TEST_F_TIMEOUT(surplus, pages_serve_the_duplicate_and_go_with_it, 90)
{
	long total = TOUCHED + self->untouched;
	struct cowsnap_remap r;
	char *dup;

	ASSERT_TRUE(pool_overcommit(MEM_HUGE, 2));
	ASSERT_EQ(0, mem_remap(self->fd, self->src, LEN, NULL, 0, &r));
	dup = (char *)(uintptr_t)r.dst;
	EXPECT_SURPLUS(self->copied ? 2 : 0);
	fill_page(PAGE(dup, 0), MEM_HUGE, 20);
	EXPECT_SURPLUS(self->copied ? 2 : 1);
	fill_page(PAGE(dup, 1), MEM_HUGE, 30);
	EXPECT_SURPLUS(2);
	/* And no more than that: not the reserved one either. */
	EXPECT_TRUE(is_bus(PAGE(dup, 2), true));
	EXPECT_SURPLUS(2);
	EXPECT_TRUE(check_page(PAGE(self->src, 0), MEM_HUGE, 0));
	EXPECT_TRUE(check_page(PAGE(self->src, 1), MEM_HUGE, 10));
	/* Its own again. */
	fill_page(PAGE(self->src, 0), MEM_HUGE, 40);
	EXPECT_SURPLUS(2);
	EXPECT_EQ(!self->reserved, is_bus(PAGE(self->src, 2), true));
	self->untouched = 0;
	EXPECT_SURPLUS(2);
	EXPECT_TRUE(check_page(PAGE(dup, 0), MEM_HUGE, 20));
	EXPECT_TRUE(check_page(PAGE(dup, 1), MEM_HUGE, 30));
	ASSERT_EQ(0, munmap(dup, LEN));
	EXPECT_SURPLUS(0);
	EXPECT_TRUE(check_page(PAGE(self->src, 0), MEM_HUGE, 40));
	ASSERT_EQ(0, munmap(self->src, LEN));
	EXPECT_TRUE(pool_is(MEM_HUGE, total, 0));
}

/* What the duplicate has not touched it takes from there as well. */
TEST_F_TIMEOUT(surplus, page_serves_a_first_touch_of_the_duplicate, 90)
{
	long own = self->copied ? TOUCHED : 0;
	char *dup;

	ASSERT_TRUE(pool_overcommit(MEM_HUGE, own + 1));
	dup = mem_dup(self->fd, self->src, LEN);
	ASSERT_NE(NULL, dup);
	fill_page(PAGE(dup, 2), MEM_HUGE, 20);
	EXPECT_SURPLUS(own + 1);
	EXPECT_TRUE(mem_untouched(PAGE(self->src, 2)));
	EXPECT_TRUE(check_page(PAGE(dup, 1), MEM_HUGE, 10));
	ASSERT_EQ(0, munmap(dup, LEN));
	EXPECT_SURPLUS(0);
	EXPECT_TRUE(check_page(PAGE(self->src, 1), MEM_HUGE, 10));
}

/* Shared pages stay with who did not write: the source's new one is surplus. */
TEST_F_TIMEOUT(surplus, page_serves_the_source_and_goes_with_it, 90)
{
	char *dup;

	ASSERT_TRUE(pool_overcommit(MEM_HUGE, 2));
	dup = mem_dup(self->fd, self->src, LEN);
	ASSERT_NE(NULL, dup);
	fill_page(PAGE(self->src, 0), MEM_HUGE, 20);
	EXPECT_SURPLUS(self->copied ? 2 : 1);
	if (self->copied)	/* the surplus pages are the duplicate's */
		return;
	EXPECT_TRUE(check_page(PAGE(dup, 0), MEM_HUGE, 0));
	ASSERT_EQ(0, munmap(self->src, LEN));
	/* The reservation is given back, the page stays in the pool. */
	EXPECT_TRUE(pool_is(MEM_HUGE, self->untouched, 0));
	EXPECT_TRUE(check_page(PAGE(dup, 0), MEM_HUGE, 0));
	EXPECT_TRUE(check_page(PAGE(dup, 1), MEM_HUGE, 10));
	ASSERT_EQ(0, munmap(dup, LEN));
	EXPECT_TRUE(pool_is(MEM_HUGE, TOUCHED + self->untouched, 0));
}

/* Copies for which surplus pages do not suffice: those that were made are gone. */
TEST_F_TIMEOUT(surplus, pages_are_given_back_when_there_are_too_few, 90)
{
	struct cowsnap_remap r = {
		.size = sizeof(r), .src = (uintptr_t)self->src, .len = LEN,
	};
	struct mem_counters before, after;

	ASSERT_TRUE(pool_overcommit(MEM_HUGE, 1));
	mem_counters(&before);
	if (!self->copied) {
		EXPECT_EQ(0, mem_refused(self->fd, &r));
		EXPECT_SURPLUS(0);
		return;
	}
	EXPECT_EQ(-ENOMEM, mem_refused(self->fd, &r));
	EXPECT_EQ(COWSNAP_REASON_HUGETLB_POOL, r.reason);
	EXPECT_EQ(r.src + MEM_HUGE, r.fault_addr);
	mem_counters(&after);
	EXPECT_TRUE(mem_counters_equal(&before, &after));
	EXPECT_SURPLUS(0);
	EXPECT_TRUE(check_page(PAGE(self->src, 0), MEM_HUGE, 0));
	EXPECT_TRUE(check_page(PAGE(self->src, 1), MEM_HUGE, 10));
}

TEST_HARNESS_MAIN
