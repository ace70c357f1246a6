// SPDX-License-Identifier: GPL-2.0
/*
 * Private hugetlb: contents, the counters of the pool at every step, and what
 * happens when the pool is exhausted. The pool is as large as each test needs
 * it: nothing else on the machine must use it meanwhile.
 *
 * Memory with a reservation is shared where QUERY says so, and copied elsewhere.
 */
#include <stdlib.h>
#include <sys/wait.h>

#include "hugepool.h"
#include "ops.h"
#include "uring.h"
#include "harness.h"

FIXTURE(pages)
{
	int fd;
	size_t size;		/* of a page */
	size_t len;		/* of the source */
	bool reserved;
	bool copied;		/* instead of shared */
	long pool;		/* as it was */
	char *src;
};

FIXTURE_VARIANT(pages)
{
	size_t size;
	int nr;			/* pages of the source, the last is untouched */
	int pool;
	int flags;
};

FIXTURE_VARIANT_ADD(pages, reserved) {
	.size = MEM_HUGE, .nr = 3, .pool = POOL,
};
FIXTURE_VARIANT_ADD(pages, unreserved) {
	.size = MEM_HUGE, .nr = 3, .pool = POOL, .flags = MAP_NORESERVE,
};
FIXTURE_SETUP(pages)
{
	size_t i;

	self->src = NULL;
	self->size = variant->size;
	self->pool = pool_value(self->size, "nr_hugepages");
	self->fd = mem_open();
	ASSERT_GE(self->fd, 0);
	self->len = variant->nr * variant->size;
	self->reserved = !(variant->flags & MAP_NORESERVE);
	self->copied = self->reserved &&
		       !(kinds(self->fd) & COWSNAP_KIND_HUGETLB_RESERVED);
	if (!pool_set(self->size, variant->pool))
		SKIP(return, "no %zu pages of %zu kB", (size_t)variant->pool,
		     self->size >> 10);
	self->src = map_pages(self->size, variant->nr, variant->flags);
	ASSERT_NE(NULL, self->src);
	for (i = 0; i + 1 < (size_t)variant->nr; i++)
		fill_page(self->src + i * self->size, self->size, 10 * i);
}

FIXTURE_TEARDOWN(pages)
{
	pool_set(self->size, self->pool);
	close(self->fd);
}

#define PAGE(p, i)	((p) + (i) * self->size)
#define TOUCHED		(variant->nr - 1)
#define UNTOUCHED	(self->reserved ? 1 : 0)	/* and still reserved */

TEST_F_TIMEOUT(pages, are_shared_or_copied_as_query_says, 90)
{
	size_t nr = TOUCHED * self->size / MEM_PAGE;
	long rss = hugetlb_rss();
	struct cowsnap_remap r;
	char *dup, perms[5];
	int i;

	ASSERT_EQ(0, mem_remap(self->fd, self->src, self->len, NULL, 0, &r));
	dup = (char *)(uintptr_t)r.dst;
	EXPECT_EQ(self->copied ? 0 : nr, r.shared);
	EXPECT_EQ(self->copied ? nr : 0, r.copied);
	EXPECT_EQ(0, r.dst % self->size);
	EXPECT_EQ(2 * rss, hugetlb_rss());
	EXPECT_TRUE(mem_smaps_flag(dup, "ht"));
	ASSERT_TRUE(mem_vma(dup, NULL, NULL, perms));
	EXPECT_STREQ("rw-p", perms);
	for (i = 0; i < TOUCHED; i++) {
		EXPECT_EQ(!self->copied, mem_pfn(PAGE(self->src, i)) ==
					 mem_pfn(PAGE(dup, i)));
		EXPECT_TRUE(check_page(PAGE(dup, i), self->size, 10 * i));
	}
	EXPECT_TRUE(mem_untouched(PAGE(dup, TOUCHED)));
	ASSERT_EQ(0, munmap(dup, self->len));
	EXPECT_EQ(rss, hugetlb_rss());
}

TEST_F_TIMEOUT(pages, write_to_either_side_leaves_the_other, 90)
{
	char *dup = mem_dup(self->fd, self->src, self->len);
	int i;

	ASSERT_NE(NULL, dup);
	/* At once: through an entry that the TLB might have. */
	for (i = 0; i < TOUCHED; i++)
		fill_page(PAGE(self->src, i), self->size, 100 + 10 * i);
	for (i = 0; i < TOUCHED; i++) {
		EXPECT_TRUE(check_page(PAGE(dup, i), self->size, 10 * i));
		fill_page(PAGE(dup, i), self->size, 200 + 10 * i);
		EXPECT_TRUE(check_page(PAGE(self->src, i), self->size,
				       100 + 10 * i));
	}
	munmap(self->src, self->len);
	for (i = 0; i < TOUCHED; i++)
		EXPECT_TRUE(check_page(PAGE(dup, i), self->size, 200 + 10 * i));
}

TEST_F_TIMEOUT(pages, either_side_outlives_the_other, 90)
{
	char *dup = mem_dup(self->fd, self->src, self->len), *again;

	ASSERT_NE(NULL, dup);
	ASSERT_EQ(0, munmap(self->src, self->len));
	EXPECT_TRUE(check_page(dup, self->size, 0));
	/* A duplicate has no reservation: its own duplicates are shared. */
	again = mem_dup(self->fd, dup, self->len);
	ASSERT_NE(NULL, again);
	EXPECT_EQ(mem_pfn(dup), mem_pfn(again));
	ASSERT_EQ(0, munmap(dup, self->len));
	EXPECT_TRUE(check_page(again, self->size, 0));
	fill_page(again, self->size, 7);
	EXPECT_TRUE(check_page(again, self->size, 7));
}

/* As with fork: the duplicate takes from what is free, and reserves nothing. */
TEST_F_TIMEOUT(pages, counters_of_the_pool_are_right_at_every_step, 90)
{
	const size_t size = self->size;
	long r = UNTOUCHED, n = TOUCHED;
	long free = variant->pool - n, own = self->copied ? n : 0;
	struct cowsnap_remap req;
	char *dup;

	EXPECT_TRUE(pool_is(size, free, r));
	ASSERT_EQ(0, mem_remap(self->fd, self->src, self->len, NULL, 0, &req));
	dup = (char *)(uintptr_t)req.dst;
	EXPECT_TRUE(pool_is(size, free -= own, r));
	EXPECT_TRUE(check_page(dup, size, 0));
	EXPECT_TRUE(pool_is(size, free, r));
	fill_page(self->src, size, 1);
	free -= !self->copied;
	EXPECT_TRUE(pool_is(size, free, r));
	fill_page(dup, size, 2);	/* the only one to map it now */
	EXPECT_TRUE(pool_is(size, free, r));
	fill_page(PAGE(dup, n), size, 3);
	EXPECT_TRUE(pool_is(size, free -= 1, r));
	fill_page(PAGE(self->src, n), size, 4);
	EXPECT_TRUE(pool_is(size, free -= 1, r = 0));
	ASSERT_EQ(0, munmap(self->src, self->len));
	/* What was not written is the duplicate's still. */
	free += self->copied ? n + 1 : 2;
	EXPECT_TRUE(pool_is(size, free, 0));
	EXPECT_TRUE(check_page(dup, size, 2));
	ASSERT_EQ(0, munmap(dup, self->len));
	EXPECT_TRUE(pool_is(size, variant->pool, 0));
}

/* In the other order, and the reservation of what was never touched goes back. */
TEST_F_TIMEOUT(pages, counters_are_right_when_the_duplicate_goes_first, 90)
{
	long free = variant->pool - TOUCHED;
	char *dup = mem_dup(self->fd, self->src, self->len);

	ASSERT_NE(NULL, dup);
	fill_page(dup, self->size, 1);
	ASSERT_EQ(0, munmap(dup, self->len));
	EXPECT_TRUE(pool_is(self->size, free, UNTOUCHED));
	fill_page(self->src, self->size, 2);
	EXPECT_TRUE(pool_is(self->size, free, UNTOUCHED));
	dup = mem_dup(self->fd, self->src, self->len);
	ASSERT_NE(NULL, dup);
	ASSERT_EQ(0, munmap(self->src, self->len));
	EXPECT_TRUE(pool_is(self->size, free, 0));
	ASSERT_EQ(0, munmap(dup, self->len));
	EXPECT_TRUE(pool_is(self->size, variant->pool, 0));
}

/* A part of the source, and parts of the duplicate unmapped. */
TEST_F_TIMEOUT(pages, parts_are_duplicated, 90)
{
	char *dup = mem_dup(self->fd, PAGE(self->src, 1), self->len - self->size);

	ASSERT_NE(NULL, dup);
	if (TOUCHED > 1)
		EXPECT_TRUE(check_page(dup, self->size, 10));
	EXPECT_TRUE(mem_untouched(dup + self->len - 2 * self->size));
	fill_page(dup, self->size, 5);
	ASSERT_EQ(0, munmap(self->src, self->len));
	EXPECT_TRUE(check_page(dup, self->size, 5));
	ASSERT_EQ(0, munmap(dup, self->size));
	if (variant->nr > 2)
		ASSERT_EQ(0, munmap(PAGE(dup, 1), self->len - 2 * self->size));
	EXPECT_TRUE(pool_is(self->size, variant->pool, 0));
}

/*
 * Not a page left: the duplicate cannot be made of copies, and of shared pages
 * the source keeps its own, whoever has to do without.
 */
TEST_F_TIMEOUT(pages, an_exhausted_pool_does_no_harm_to_the_source, 90)
{
	struct mem_counters before, after;
	struct cowsnap_remap r = {
		.size = sizeof(r), .src = (uintptr_t)self->src, .len = self->len,
	};
	char *dup;

	ASSERT_TRUE(pool_exhaust(self->size));
	ASSERT_TRUE(pool_is(self->size, UNTOUCHED, UNTOUCHED));
	if (self->copied) {
		mem_counters(&before);
		EXPECT_EQ(-ENOMEM, mem_refused(self->fd, &r));
		EXPECT_EQ(COWSNAP_REASON_HUGETLB_POOL, r.reason);
		EXPECT_EQ((uintptr_t)self->src, r.fault_addr);
		mem_counters(&after);
		EXPECT_TRUE(mem_counters_equal(&before, &after));
	} else {
		dup = mem_dup(self->fd, self->src, self->len);
		ASSERT_NE(NULL, dup);
		EXPECT_TRUE(is_bus(dup, true));
		EXPECT_TRUE(check_page(dup, self->size, 0));
		EXPECT_EQ(!self->reserved, is_bus(self->src, true));
		EXPECT_TRUE(check_page(self->src, self->size, 0));
		/* Its page was taken: an error, not zeroes. */
		EXPECT_EQ(self->reserved, is_bus(dup, false));
		if (!self->reserved)
			EXPECT_TRUE(check_page(dup, self->size, 0));
		ASSERT_EQ(0, munmap(dup, self->len));
	}
	EXPECT_TRUE(pool_is(self->size, UNTOUCHED, UNTOUCHED));
	fill_page(self->src, self->size, 1);
	EXPECT_TRUE(check_page(self->src, self->size, 1));
	/* The page that was reserved is there. */
	EXPECT_EQ(!self->reserved, is_bus(PAGE(self->src, TOUCHED), true));
}

/*
 * The owner of the reservation writes to a page that a child shares, and there
 * is none free: the kernel takes it from the child. And not from the owner, at
 * whose address it looks in all other mappings of that file.
 */
TEST_F_TIMEOUT(pages, an_owner_with_a_duplicate_and_a_child_keeps_its_page, 90)
{
	char *dup = mem_dup(self->fd, self->src, self->len);
	int ready[2], done[2], status;
	pid_t pid;
	char c;

	ASSERT_NE(NULL, dup);
	if (!self->reserved)
		SKIP(return, "nobody owns it");
	ASSERT_EQ(0, pipe(ready));
	ASSERT_EQ(0, pipe(done));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		char *third = mem_dup(self->fd, self->src, self->len);
		bool good = third && check_page(third, self->size, 0);

		good &= write(ready[1], "", 1) == 1;
		good &= read(done[0], &c, 1) == 1;
		/* Lost is an error and not zeroes; a copy is kept. */
		if (!is_bus(self->src, false))
			good &= check_page(self->src, self->size, 0);
		if (third && !is_bus(third, false))
			good &= check_page(third, self->size, 0);
		if (!is_bus(dup, false))
			good &= check_page(dup, self->size, 0);
		_exit(!good);
	}
	ASSERT_EQ(1, read(ready[0], &c, 1));
	ASSERT_TRUE(pool_exhaust(self->size));
	EXPECT_FALSE(is_bus(self->src, true));
	EXPECT_TRUE(check_page(self->src, self->size, 0));
	fill_page(self->src, self->size, 1);
	EXPECT_TRUE(check_page(self->src, self->size, 1));
	if (self->copied)
		EXPECT_TRUE(check_page(dup, self->size, 0));
	ASSERT_EQ(1, write(done[1], "", 1));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
}

/*
 * What a child has lost to the owner is an error when it looks, and so it is in
 * a duplicate that the child makes then: not zeroes.
 */
TEST_F_TIMEOUT(pages, lost_pages_are_lost_in_the_duplicate, 90)
{
	int ready[2], status;
	char *dup, c;
	pid_t pid;

	if (!self->reserved)
		SKIP(return, "nobody owns it");
	ASSERT_EQ(0, pipe(ready));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		bool good = read(ready[0], &c, 1) == 1;

		good &= is_bus(self->src, false);
		dup = mem_dup(self->fd, self->src, self->len);
		_exit(!good || !dup || !is_bus(dup, false));
	}
	ASSERT_TRUE(pool_exhaust(self->size));
	fill_page(self->src, self->size, 1);
	/* For what else the duplicate must copy. */
	ASSERT_TRUE(pool_set(self->size, variant->pool));
	ASSERT_EQ(1, write(ready[1], "", 1));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
}

/*
 * A mapping that has lost a page is SIGBUS wherever it has none, the other one is
 * zeroes there: they differ also in what nobody has touched.
 */
TEST_F_TIMEOUT(pages, diff_lists_untouched_pages_beside_lost_ones, 90)
{
	struct cowsnap_range range[2];
	struct cowsnap_diff d = { .nr = 0 };
	int ready[2], status;
	char *dup, c;
	pid_t pid;

	if (!self->reserved)
		SKIP(return, "nobody owns it");
	dup = mem_dup(self->fd, self->src, self->len);
	ASSERT_NE(NULL, dup);
	ASSERT_EQ(0, pipe(ready));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		/* Where duplicates of an owner are copies, the child's source loses. */
		bool good = read(ready[0], &c, 1) == 1;

		if (self->copied)
			good &= !op_diff(self->fd, self->src, dup, self->len,
					 range, 2, &d) && d.nr == 1 &&
				range[0].start == 0 && range[0].end == self->len;
		_exit(!good);
	}
	ASSERT_TRUE(pool_exhaust(self->size));
	fill_page(self->src, self->size, 1);
	ASSERT_EQ(1, write(ready[1], "", 1));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	if (!self->copied) {
		ASSERT_EQ(0, op_diff(self->fd, self->src, dup, self->len, range, 2, &d));
		ASSERT_EQ(2, d.nr);
		EXPECT_EQ(0, range[0].start);
		EXPECT_EQ(self->size, range[0].end);
		EXPECT_EQ(TOUCHED * self->size, range[1].start);
		EXPECT_EQ(self->len, range[1].end);
	}
}

/* Of a duplicate that is made while an owner takes pages, for both processes. */
struct taking {
	int ready, taken;
	int made;		/* duplicates */
	double start;		/* of the duplicate, seconds of the clock */
	double took;		/* the last one, seconds */
};

#define TAKINGS	64

static void wait_until(double when)
{
	while (seconds() < when)
		;
}

static void wait_for(int *flag)
{
	while (!__atomic_load_n(flag, __ATOMIC_ACQUIRE))
		;
}

/* In the child: is what the duplicate has what the source had, or an error? */
static int dup_while_taking(int fd, struct taking *t, char *src, size_t size)
{
	char *dup;

	t->start = seconds() + 0.0005;
	__atomic_store_n(&t->ready, 1, __ATOMIC_RELEASE);
	wait_until(t->start);
	dup = mem_dup(fd, src, 2 * size);
	t->took = seconds() - t->start;
	if (!dup)		/* the owner took the page that a copy needs */
		return 0;
	t->made++;
	wait_for(&t->taken);
	return !check_page(dup, size, 0) ||
	       (!is_bus(dup + size, false) && !check_page(dup + size, size, 10));
}

/* The same of what the owner takes while the duplicate is being made. */
TEST_F_TIMEOUT(pages, pages_lost_meanwhile_are_lost_in_the_duplicate, 90)
{
	struct taking *t = mmap(NULL, sizeof(*t), PROT_READ | PROT_WRITE,
				MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int i, status;
	pid_t pid;

	ASSERT_NE(MAP_FAILED, (void *)t);
	if (!self->reserved)
		SKIP(return, "nobody owns it");
	for (i = 0; i < TAKINGS; i++) {
		/* Nothing for the owner; one page for a duplicate that needs copies. */
		ASSERT_TRUE(pool_set(self->size, variant->nr + self->copied));
		t->ready = t->taken = 0;
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid)
			_exit(dup_while_taking(self->fd, t, self->src, self->size));
		wait_for(&t->ready);
		wait_until(t->start + (i % 64 - 32) * t->took / 32);
		EXPECT_FALSE(is_bus(PAGE(self->src, 1), true));
		/* What is SIGBUS now is not for want of a page. */
		ASSERT_TRUE(pool_set(self->size, variant->pool));
		__atomic_store_n(&t->taken, 1, __ATOMIC_RELEASE);
		ASSERT_EQ(pid, waitpid(pid, &status, 0));
		ASSERT_EQ(0, status)
			TH_LOG("in round %d", i);
	}
	EXPECT_NE(0, t->made);
}

/* The pin's owner keeps the page, the duplicate gets a copy. */
TEST_F_TIMEOUT(pages, a_pinned_page_is_copied, 90)
{
	size_t nr = self->size / MEM_PAGE;
	struct cowsnap_remap r;
	struct uring ring;
	uint64_t pfn;
	char *dup;
	int err;

	err = uring_open(&ring);
	if (err)
		SKIP(return, "no io_uring: %s", strerror(-err));
	ASSERT_EQ(0, uring_pin(&ring, self->src + MEM_PAGE, 2 * MEM_PAGE));
	pfn = mem_pfn(self->src);
	ASSERT_EQ(0, mem_remap(self->fd, self->src, self->len, NULL, 0, &r));
	dup = (char *)(uintptr_t)r.dst;
	EXPECT_EQ(self->copied ? TOUCHED * nr : nr, r.copied);
	EXPECT_EQ(self->copied ? 0 : (TOUCHED - 1) * nr, r.shared);
	fill_page(self->src, self->size, 3);
	EXPECT_EQ(pfn, mem_pfn(self->src));
	EXPECT_NE(pfn, mem_pfn(dup));
	EXPECT_TRUE(check_page(dup, self->size, 0));
	EXPECT_TRUE(check_page(self->src, self->size, 3));
	uring_unpin(&ring);
	uring_close(&ring);
}

TEST_F_TIMEOUT(pages, a_child_has_both, 90)
{
	char *dup = mem_dup(self->fd, self->src, self->len);
	int status;
	pid_t pid;

	ASSERT_NE(NULL, dup);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		bool good = check_page(self->src, self->size, 0) &&
			    check_page(dup, self->size, 0);

		fill_page(dup, self->size, 3);
		_exit(!good || !check_page(self->src, self->size, 0));
	}
	fill_page(self->src, self->size, 2);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_TRUE(check_page(dup, self->size, 0));
	EXPECT_TRUE(check_page(self->src, self->size, 2));
}

TEST_F_TIMEOUT(pages, the_duplicate_is_ordinary_memory, 90)
{
	char *dup = mem_dup(self->fd, self->src, self->len), *to;

	ASSERT_NE(NULL, dup);
	to = mem_free_range(self->len, self->size, 0);
	if (mremap(dup, self->len, self->len, MREMAP_MAYMOVE | MREMAP_FIXED,
		   to) == to)
		dup = to;
	ASSERT_EQ(0, mprotect(dup, self->len, PROT_READ));
	EXPECT_TRUE(check_page(dup, self->size, 0));
	ASSERT_EQ(0, mprotect(dup, self->len, PROT_READ | PROT_WRITE));
	fill_page(dup, self->size, 6);
	EXPECT_TRUE(check_page(self->src, self->size, 0));
	ASSERT_EQ(0, munmap(dup, self->len));
	ASSERT_EQ(0, munmap(self->src, self->len));
	EXPECT_TRUE(pool_is(self->size, variant->pool, 0));
}

/* Half a page is not duplicated, nor is a whole one put at half an address. */
TEST_F_TIMEOUT(pages, half_a_page_is_refused, 90)
{
	struct cowsnap_remap r = {
		.size = sizeof(r), .src = (uintptr_t)self->src + MEM_PAGE,
		.len = self->len - MEM_PAGE,
	};
	char *at;

	EXPECT_EQ(-EINVAL, mem_refused(self->fd, &r));
	EXPECT_EQ(COWSNAP_REASON_ALIGN, r.reason);
	EXPECT_EQ(r.src, r.fault_addr);
	r.src = (uintptr_t)self->src;
	EXPECT_EQ(-EINVAL, mem_refused(self->fd, &r));
	EXPECT_EQ(COWSNAP_REASON_ALIGN, r.reason);
	EXPECT_EQ(r.src + r.len, r.fault_addr);
	r.len = self->size;
	at = mem_free_range(self->len, self->size, MEM_PAGE);
	r.dst = (uintptr_t)at;
	r.flags = COWSNAP_REMAP_FIXED;
	EXPECT_EQ(-EINVAL, mem_refused(self->fd, &r));
	EXPECT_EQ(COWSNAP_REASON_ALIGN, r.reason);
	EXPECT_EQ(r.dst, r.fault_addr);
	/* As a hint it is not taken. */
	ASSERT_EQ(0, mem_remap(self->fd, self->src, self->size, at, 0, &r));
	EXPECT_EQ(0, r.dst % self->size);
	EXPECT_TRUE(check_page((char *)(uintptr_t)r.dst, self->size, 0));
}

TEST_F_TIMEOUT(pages, fixed_replaces_hugetlb_memory, 90)
{
	char *at = map_pages(self->size, variant->nr, MAP_NORESERVE);
	struct cowsnap_remap r;

	ASSERT_NE(NULL, at);
	fill_page(at, self->size, 9);
	ASSERT_EQ(0, mem_remap(self->fd, self->src, self->len, at,
			       COWSNAP_REMAP_FIXED, &r));
	EXPECT_TRUE(check_page(at, self->size, 0));
	munmap(at, self->len);
	munmap(self->src, self->len);
	EXPECT_TRUE(pool_is(self->size, variant->pool, 0));
}

/*
 * munmap cuts the mapping at the near end, and then finds that the hugetlb page at
 * the far one cannot be cut.
 */
TEST_F_TIMEOUT(pages, fixed_over_half_a_page_leaves_all_mappings, 90)
{
	const size_t size = self->size;
	char *at = mem_free_range(3 * size, size, 0), *huge = at + size;
	char *src = mem_map_alone(size), *end[] = { huge, huge + size };
	struct cowsnap_remap r = {
		.size = sizeof(r), .src = (uintptr_t)src, .len = size,
		.flags = COWSNAP_REMAP_FIXED,
	};
	int i;

	ASSERT_NE(NULL, src);
	ASSERT_EQ(at, mmap(at, 3 * size, PROT_READ | PROT_WRITE, MAP_PRIVATE |
			   MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0));
	ASSERT_EQ(huge, mmap(huge, size, PROT_READ | PROT_WRITE, MAP_PRIVATE |
			     MAP_ANONYMOUS | MAP_HUGETLB | MAP_FIXED |
			     variant->flags |
			     __builtin_ctzl(size) << MAP_HUGE_SHIFT, -1, 0));
	fill_page(huge, size, 9);
	for (i = 0; i < 2; i++) {
		r.dst = (uintptr_t)end[i] - size / 2;
		EXPECT_EQ(-EINVAL, mem_refused(self->fd, &r));
		EXPECT_EQ(COWSNAP_REASON_ALIGN, r.reason);
		EXPECT_EQ((uintptr_t)huge + size / 2, r.fault_addr);
		EXPECT_TRUE(check_page(huge, size, 9));
	}
}

TEST_F_TIMEOUT(pages, read_only_until_it_is_made_writable, 90)
{
	struct cowsnap_remap r;
	char *dup, perms[5];

	ASSERT_EQ(0, mem_remap(self->fd, self->src, self->len, NULL,
			       COWSNAP_REMAP_READONLY, &r));
	dup = (char *)(uintptr_t)r.dst;
	ASSERT_TRUE(mem_vma(dup, NULL, NULL, perms));
	EXPECT_STREQ("r--p", perms);
	EXPECT_TRUE(check_page(dup, self->size, 0));
	ASSERT_EQ(0, mprotect(dup, self->len, PROT_READ | PROT_WRITE));
	fill_page(dup, self->size, 8);
	EXPECT_TRUE(check_page(self->src, self->size, 0));
}

/* The reverse map finds both: else the page could not leave its node. */
TEST_F_TIMEOUT(pages, migration_finds_both_sides, 90)
{
	char *dup = mem_dup(self->fd, self->src, self->len), *again;
	int node;

	if (mem_nodes() < 2 || self->size != MEM_HUGE)
		SKIP(return, "one node, or too large to move");
	ASSERT_NE(NULL, dup);
	again = mem_dup(self->fd, dup, self->len);
	ASSERT_NE(NULL, again);
	for (node = 0; node < 4; node++) {
		EXPECT_EQ(1, move_to_node(dup, MEM_PAGE, node & 1));
		EXPECT_EQ(mem_pfn(dup), mem_pfn(again));
		if (!self->copied)
			EXPECT_EQ(mem_pfn(dup), mem_pfn(self->src));
	}
	EXPECT_TRUE(check_page(dup, self->size, 0));
	EXPECT_TRUE(check_page(again, self->size, 0));
	EXPECT_TRUE(check_page(self->src, self->size, 0));
	fill_page(again, self->size, 4);
	EXPECT_TRUE(check_page(dup, self->size, 0));
}

/* What is copied comes from where the policy says, not from where the caller runs. */
TEST_F_TIMEOUT(pages, policy_decides_where_copies_come_from, 90)
{
	unsigned long node1 = 2;
	struct cowsnap_remap r;
	struct uring ring;
	char *dup;
	int i, err;

	if (mem_nodes() < 2)
		SKIP(return, "only one NUMA node");
	err = uring_open(&ring);
	if (err)
		SKIP(return, "no io_uring: %s", strerror(-err));
	ASSERT_EQ(0, run_on_cpu0());
	/* Pages that are there stay where they are. */
	ASSERT_EQ(0, syscall(SYS_mbind, self->src, self->len, MPOL_BIND, &node1,
			     8 * sizeof(node1), 0));
	ASSERT_EQ(0, uring_pin(&ring, self->src, TOUCHED * self->size));
	ASSERT_EQ(0, mem_remap(self->fd, self->src, self->len, NULL, 0, &r));
	dup = (char *)(uintptr_t)r.dst;
	EXPECT_EQ(TOUCHED * self->size / MEM_PAGE, r.copied);
	for (i = 0; i < TOUCHED; i++) {
		EXPECT_EQ(1, node_of(PAGE(dup, i)));
		EXPECT_TRUE(check_page(PAGE(dup, i), self->size, 10 * i));
	}
	/* Also later. */
	fill_page(PAGE(dup, TOUCHED), self->size, 1);
	EXPECT_EQ(1, node_of(PAGE(dup, TOUCHED)));
	uring_unpin(&ring);
	uring_close(&ring);
}

/* SIGBUS, not zeroes. After the others: the page is lost to the machine, too. */
TEST_F_TIMEOUT(pages, page_lost_to_an_error_before_is_lost_in_the_duplicate, 90)
{
	size_t nr = (TOUCHED - 1) * self->size / MEM_PAGE;
	struct cowsnap_remap r;
	char *dup;
	int err;

	err = lose_page(self->src + 5 * MEM_PAGE);
	if (err == -EINVAL)
		SKIP(return, "no memory errors on request");
	ASSERT_EQ(0, err);
	ASSERT_EQ(0, mem_remap(self->fd, self->src, self->len, NULL, 0, &r));
	dup = (char *)(uintptr_t)r.dst;
	EXPECT_EQ(self->copied ? 0 : nr, r.shared);
	EXPECT_EQ(self->copied ? nr : 0, r.copied);
	EXPECT_TRUE(is_bus(dup, false));
	EXPECT_TRUE(is_bus(dup + self->size - MEM_PAGE, true));
	EXPECT_TRUE(is_bus(self->src, false));
	EXPECT_TRUE(check_page(PAGE(dup, 1), self->size, 10));
	EXPECT_TRUE(check_page(PAGE(self->src, 1), self->size, 10));
	ASSERT_EQ(0, munmap(self->src, self->len));
	EXPECT_TRUE(is_bus(dup, false));
	EXPECT_TRUE(check_page(PAGE(dup, 1), self->size, 10));
	ASSERT_EQ(0, munmap(dup, self->len));
	EXPECT_TRUE(pool_is(self->size, variant->pool - 1, 0));
}

TEST_HARNESS_MAIN
