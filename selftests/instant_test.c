// SPDX-License-Identifier: GPL-2.0
/*
 * REMAP while other threads write to the source: the duplicate holds what the
 * source held at one instant, and never changes afterwards.
 */
#include "counters.h"
#include "hugepool.h"
#include "uring.h"
#include "harness.h"

#define KEEP	6

FIXTURE(instant) {
	int fd;
	struct counters c;
	struct writer writers[MAX_WRITERS];
	struct uring ring;
	char *arena;		/* room for KEEP duplicates */
	size_t stride;
	uint64_t rounds;
	uint64_t copied;	/* by each call */
	long pool;		/* as it was */
};

FIXTURE_VARIANT(instant) {
	unsigned int counters;
	enum order order;
	enum style style;
	int writers;
	bool huge;
	bool hugetlb;
	int map_flags;		/* of hugetlb */
	size_t shift;		/* of the duplicate from a congruent address */
	bool many_vmas;
	bool swap;
	unsigned int pinned;	/* so many counters, spread */
	bool all_pinned;
	unsigned int pause;
	bool hurry;		/* the next call while the writer faults */
};

/* What breaks all of these: no TLB flush of the source. */
FIXTURE_VARIANT_ADD(instant, hot_pages) {
	.counters = 8, .writers = 1,
};
FIXTURE_VARIANT_ADD(instant, hot_pages_backward) {
	.counters = 8, .writers = 1, .order = BACKWARD,
};
FIXTURE_VARIANT_ADD(instant, two_hot_pages) {
	.counters = 2, .writers = 1, .order = BACKWARD,
};
/* Always some page to be faulted in: page faults that do not wait. */
FIXTURE_VARIANT_ADD(instant, cold_pages) {
	.counters = 256, .writers = 1, .order = SHUFFLED, .hurry = true,
};
FIXTURE_VARIANT_ADD(instant, four_writers) {
	.counters = 32, .writers = 4, .order = SHUFFLED,
};
FIXTURE_VARIANT_ADD(instant, read_from_a_pipe) {
	.counters = 16, .writers = 2, .order = SHUFFLED, .style = READ_PIPE,
};
FIXTURE_VARIANT_ADD(instant, stored_through_passing_pins) {
	.counters = 16, .writers = 2, .order = SHUFFLED, .style = WRITEV_SELF,
};
FIXTURE_VARIANT_ADD(instant, huge) {
	.counters = 8, .writers = 1, .huge = true,
};
FIXTURE_VARIANT_ADD(instant, huge_elsewhere) {
	.counters = 8, .writers = 2, .huge = true, .shift = 3 * MEM_PAGE,
};
FIXTURE_VARIANT_ADD(instant, many_mappings) {
	.counters = 64, .writers = 1, .order = SHUFFLED, .many_vmas = true,
};
FIXTURE_VARIANT_ADD(instant, partly_swapped) {
	.counters = 16, .writers = 1, .order = BACKWARD, .swap = true,
};
/* A copy of a pinned page made before the flush is of another instant. */
FIXTURE_VARIANT_ADD(instant, some_pinned) {
	.counters = 8, .writers = 1, .pinned = 3,
};
FIXTURE_VARIANT_ADD(instant, some_pinned_backward) {
	.counters = 8, .writers = 1, .order = BACKWARD, .pinned = 3,
};
FIXTURE_VARIANT_ADD(instant, cold_pages_some_pinned) {
	.counters = 64, .writers = 2, .order = SHUFFLED, .pinned = 16,
};
FIXTURE_VARIANT_ADD(instant, all_pinned) {
	.counters = 8, .writers = 1, .all_pinned = true,
};
/*
 * So seldom that hardly a store meets just the page being copied: that one waits
 * for the end, and the writer is harmless from then on. On a busy host its CPU
 * runs for milliseconds from one flush to the next.
 */
FIXTURE_VARIANT_ADD(instant, all_pinned_seldom_written) {
	.counters = 2, .writers = 1, .all_pinned = true, .pause = 50000,
};
FIXTURE_VARIANT_ADD(instant, huge_pinned) {
	.counters = 8, .writers = 1, .huge = true, .pinned = 2,
};
/* Huge pages of a pool, shared; copied (before 7.3); one of each. */
FIXTURE_VARIANT_ADD(instant, hugetlb) {
	.counters = 8, .writers = 1, .hugetlb = true, .map_flags = MAP_NORESERVE,
};
FIXTURE_VARIANT_ADD(instant, hugetlb_reserved) {
	.counters = 8, .writers = 1, .hugetlb = true,
};
FIXTURE_VARIANT_ADD(instant, hugetlb_pinned) {
	.counters = 8, .writers = 1, .hugetlb = true, .map_flags = MAP_NORESERVE,
	.pinned = 1,
};

/* Pin every so many'th counter's page: part of the stores go to pinned pages. */
static int pin_counters(struct uring *ring, struct counters *c, unsigned int nr)
{
	struct iovec iov[MAX_SLOTS];
	unsigned int i;

	for (i = 0; i < nr; i++) {
		iov[i].iov_base = c->base + c->page[i * c->nr / nr] * MEM_PAGE;
		iov[i].iov_len = MEM_PAGE;
	}
	return uring_pinv(ring, iov, nr);
}

/* The source's pages, and on either side those of all duplicates. */
#define HUGETLB_POOL	((long)((2 * KEEP + 1) * RANGE / MEM_HUGE))

/* NULL with the pool of @was pages as it was. */
static char *map_hugetlb(int flags, long was)
{
	char *p = NULL;

	if (pool_set(MEM_HUGE, HUGETLB_POOL))
		p = map_pages(MEM_HUGE, RANGE / MEM_HUGE, flags);
	if (!p)
		pool_set(MEM_HUGE, was);
	return p;
}

/* Huge pages are copied whole. */
static uint64_t pages_to_copy(int fd, const FIXTURE_VARIANT(instant) *variant)
{
	bool reserved = variant->hugetlb && !(variant->map_flags & MAP_NORESERVE);

	if (variant->all_pinned ||
	    (reserved && !(kinds(fd) & COWSNAP_KIND_HUGETLB_RESERVED)))
		return PAGES;
	return variant->pinned * (variant->huge || variant->hugetlb ?
				  MEM_HUGE / MEM_PAGE : 1);
}

FIXTURE_SETUP(instant)
{
	struct counters *c = &self->c;
	size_t i;
	int err;

	self->ring.fd = -1;
	self->pool = pool_value(MEM_HUGE, "nr_hugepages");
	self->fd = mem_open();
	ASSERT_LE(0, self->fd);
	self->copied = pages_to_copy(self->fd, variant);
	if (variant->swap && !mem_have_swap())
		SKIP(return, "no swap");
	err = variant->pinned || variant->all_pinned ? uring_open(&self->ring) : 0;
	if (err)
		SKIP(return, "no io_uring: %s", strerror(-err));
	if (variant->huge)
		c->base = mem_map_huge(RANGE);
	else if (variant->hugetlb)
		c->base = map_hugetlb(variant->map_flags, self->pool);
	else
		c->base = mem_map_offset(RANGE, MEM_HUGE, 0);
	if (!c->base && (variant->huge || variant->hugetlb))
		SKIP(return, "no huge pages");
	ASSERT_NE(NULL, c->base);
	c->len = RANGE;
	c->pause = variant->pause;
	place_counters(c, variant->counters, variant->order);
	for (i = 0; variant->many_vmas && i < 32; i += 2)
		ASSERT_EQ(0, madvise(c->base + i * RANGE / 32, RANGE / 32,
				     MADV_DONTDUMP));
	if (variant->huge)
		memset(c->base, 0, RANGE);
	mem_fill(c->base, RANGE, FILL_SEED);

	self->stride = RANGE + MEM_HUGE;
	self->arena = mem_map_offset(KEEP * self->stride, MEM_HUGE, 0);
	ASSERT_NE(NULL, self->arena);
	ASSERT_EQ(0, mprotect(self->arena, KEEP * self->stride, PROT_NONE));

	if (!variant->pinned && !variant->all_pinned)
		return;
	if (variant->all_pinned)
		err = uring_pin(&self->ring, c->base, RANGE);
	else
		err = pin_counters(&self->ring, c, variant->pinned);
	ASSERT_EQ(0, err);
}

FIXTURE_TEARDOWN(instant)
{
	if (self->ring.fd >= 0) {
		uring_unpin(&self->ring);
		uring_close(&self->ring);
	}
	if (variant->hugetlb)
		pool_set(MEM_HUGE, self->pool);
	close(self->fd);
}

/* Swap two of four parts out; the writer brings its pages back. */
static void swap_parts(struct counters *c)
{
	madvise(c->base, RANGE / 4, MADV_PAGEOUT);
	madvise(c->base + RANGE / 2, RANGE / 4, MADV_PAGEOUT);
}

/*
 * A call while no writer has a CPU, since the host has taken it away, tells
 * nothing. Where there is one CPU for all there may be no other.
 */
#define ENOUGH	8

static bool is_enough(unsigned int calls, unsigned int overlaps, double start)
{
	double past = seconds() - start;

	return calls >= ENOUGH && past > SECONDS &&
	       (overlaps >= ENOUGH || past > 10 * SECONDS);
}

static void drop_all(struct duplicate *d)
{
	unsigned int i;

	for (i = 0; i < KEEP; i++) {
		if (d[i].live)
			munmap(d[i].at, RANGE);
		d[i].live = false;
	}
}

/*
 * If this fails, a snapshot is of no use: it shows a state that never was, or
 * goes on changing with the source.
 */
TEST_F(instant, duplicate_is_of_one_instant_and_stays)
{
	static struct duplicate d[KEEP], *this, *last = d;
	struct counters *c = &self->c;
	uint64_t random = 99, copied = 0, stores;
	unsigned int calls, overlaps = 0;
	double start = seconds();

	ASSERT_TRUE(start_writers(self->writers, variant->writers, c,
				  variant->style));
	for (calls = 0; !stop && !is_enough(calls, overlaps, start); calls++) {
		this = &d[calls % KEEP];
		if (this == d)
			drop_all(d);
		this->at = self->arena + (calls % KEEP) * self->stride +
			   variant->shift;
		if (variant->swap)
			swap_parts(c);
		/*
		 * One call finds all pages in TLBs, for writing, as does the next,
		 * and the third follows at once, while the writer faults.
		 */
		if (calls % 3 && !variant->hurry)
			spin(next_random(&random) % 2000);
		stores = count_stores(c, variant->writers);
		if (!duplicate_once(self->fd, c, variant->writers, this,
				    COWSNAP_REMAP_FIXED, &copied))
			break;
		overlaps += count_stores(c, variant->writers) != stores;
		if (last->live && !unchanged(c, variant->writers, last))
			break;
		if (calls % 3 != 2 && !variant->hurry)
			let_write(self->writers, variant->writers);
		if (!unchanged(c, variant->writers, this))
			break;
		if (calls % 16 == 0 && !mem_check(this->at, RANGE, FILL_SEED))
			fail("the duplicate lacks what was never written again");
		last = this;
		if (variant->swap)
			drop_all(d);
	}
	stop_writers(self->writers, variant->writers);
	ASSERT_STREQ("", problem);
	EXPECT_TRUE(mem_check(c->base, RANGE, FILL_SEED));
	if (variant->style != WRITEV_SELF)
		EXPECT_EQ(self->copied, copied);
	TH_LOG("%u calls, %u of them during %lu rounds", calls, overlaps,
	       self->writers[0].rounds);
	EXPECT_LE(ENOUGH, calls);
}

TEST_HARNESS_MAIN
