// SPDX-License-Identifier: GPL-2.0
/*
 * Trackers of written pages: what they are told of the source is neither lost
 * nor invented, and the duplicate is new to them.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "harness.h"
#include "mem.h"
#include "uffd.h"
#include "uring.h"

#define PAGES(n)	((n) * MEM_PAGE)
#define NR		16
#define NR_HUGE		(MEM_HUGE / MEM_PAGE)

/*
 * The ioctl PAGEMAP_SCAN of /proc/PID/pagemap, newer than the headers of Debian
 * 12 (Linux 6.7).
 */
struct scan {
	__u64 size, flags, start, end, walk_end, vec, vec_len, max_pages;
	__u64 category_inverted, category_mask, category_anyof_mask;
	__u64 return_mask;
};

struct scan_region {
	__u64 start, end, categories;
};

#define SCAN			_IOWR('f', 16, struct scan)
#define SCAN_WP_MATCHING	(1 << 0)
#define SCAN_CHECK_WPASYNC	(1 << 1)
#define IS_WRITTEN		(1 << 1)
#define IS_SOFT_DIRTY		(1 << 7)

/*
 * Says of each page whether it is of @category, all of them with one look;
 * marks them as not written with SCAN_WP_MATCHING. 0 or -errno.
 */
static int scan(const void *p, size_t nr, int flags, int category, bool *is)
{
	static struct scan_region region[NR_HUGE];
	struct scan arg = {
		.size = sizeof(arg), .flags = flags,
		.start = U64(p), .end = U64(p) + PAGES(nr),
		.vec = U64(region), .vec_len = NR_HUGE,
		.category_mask = category, .return_mask = category,
	};
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC), i, found;
	__u64 at;

	found = fd < 0 ? -1 : ioctl(fd, SCAN, &arg);
	if (found < 0)
		found = -errno;
	close(fd);
	memset(is, 0, nr);
	for (i = 0; i < found; i++)
		for (at = region[i].start; at < region[i].end; at += MEM_PAGE)
			is[(at - U64(p)) / MEM_PAGE] = true;
	return found < 0 ? found : 0;
}

/* What every test here starts from: some written memory of its own. */
FIXTURE(dirty)
{
	int fd;
	char *src;
	size_t len;
};

FIXTURE_SETUP(dirty)
{
	self->fd = mem_open();
	ASSERT_GE(self->fd, 0)
		TH_LOG("%s: %s. Is the module loaded?", MEM_DEVICE,
		       strerror(errno));
	self->len = PAGES(NR);
	self->src = mem_map_alone(self->len);
	ASSERT_NE(NULL, self->src);
	mem_fill(self->src, self->len, 1);
}

FIXTURE_TEARDOWN(dirty)
{
	close(self->fd);
}

/* Soft-dirty: which pages were written since the last look. */

static bool have_soft_dirty(void)
{
	char *p = mem_map(PAGES(2));
	bool have;

	if (!p || mem_write("/proc/self/clear_refs", "4"))
		return false;
	*(volatile char *)p = 1;
	have = mem_pagemap(p) & MEM_PM_SOFT_DIRTY;
	mem_write("/proc/self/clear_refs", "4");
	have &= !(mem_pagemap(p) & MEM_PM_SOFT_DIRTY);
	munmap(p, PAGES(2));
	return have;
}

/* Marks every page of the process as not written. */
static bool forget_writes(void)
{
	return !mem_write("/proc/self/clear_refs", "4");
}

static bool is_dirty(const void *p)
{
	return mem_pagemap(p) & MEM_PM_SOFT_DIRTY;
}

/* Neither lost nor invented by duplicating. */
TEST_F(dirty, soft_dirty_marks_of_the_source_stay)
{
	char *dst;
	size_t i;

	if (!have_soft_dirty())
		SKIP(return, "no soft-dirty tracking");
	ASSERT_TRUE(forget_writes());
	for (i = 0; i < NR; i += 2)
		mem_fill(self->src + PAGES(i), MEM_PAGE, 7);
	dst = mem_dup(self->fd, self->src, self->len);
	ASSERT_NE(NULL, dst);
	for (i = 0; i < NR; i++)
		EXPECT_EQ(i % 2 == 0, is_dirty(self->src + PAGES(i)))
			TH_LOG("page %zu", i);
}

/* An incremental checkpoint would miss the page. */
TEST_F(dirty, write_to_the_source_is_seen_as_soft_dirty)
{
	char *dst;
	size_t i;

	if (!have_soft_dirty())
		SKIP(return, "no soft-dirty tracking");
	ASSERT_TRUE(forget_writes());
	dst = mem_dup(self->fd, self->src, self->len);
	ASSERT_NE(NULL, dst);
	for (i = 0; i < NR; i += 4)
		mem_fill(self->src + PAGES(i), MEM_PAGE, 7);
	for (i = 0; i < NR; i++)
		EXPECT_EQ(i % 4 == 0, is_dirty(self->src + PAGES(i)))
			TH_LOG("page %zu", i);
	/* In place by now, and still seen. */
	munmap(dst, self->len);
	ASSERT_TRUE(forget_writes());
	mem_fill(self->src + PAGES(1), MEM_PAGE, 7);
	EXPECT_TRUE(is_dirty(self->src + PAGES(1)));
	EXPECT_FALSE(is_dirty(self->src + PAGES(2)));
}

/* New at its address, like any new mapping: all of it has changed there. */
TEST_F(dirty, duplicate_is_soft_dirty)
{
	char *dst;
	size_t i;

	if (!have_soft_dirty())
		SKIP(return, "no soft-dirty tracking");
	ASSERT_TRUE(forget_writes());
	dst = mem_dup(self->fd, self->src, self->len);
	ASSERT_NE(NULL, dst);
	for (i = 0; i < NR; i++)
		EXPECT_TRUE(is_dirty(dst + PAGES(i)));
	/* From then on it is tracked as any memory is. */
	ASSERT_TRUE(forget_writes());
	mem_fill(dst + PAGES(3), MEM_PAGE, 7);
	EXPECT_TRUE(is_dirty(dst + PAGES(3)));
	EXPECT_FALSE(is_dirty(dst + PAGES(4)));
	EXPECT_FALSE(is_dirty(self->src + PAGES(3)));
}

/* The marks in swap entries. */
TEST_F(dirty, soft_dirty_marks_of_swapped_pages_stay)
{
	char *dst;
	size_t i;

	if (!have_soft_dirty())
		SKIP(return, "no soft-dirty tracking");
	if (!mem_have_swap())
		SKIP(return, "no swap");
	ASSERT_TRUE(forget_writes());
	for (i = 0; i < NR; i += 2)
		mem_fill(self->src + PAGES(i), MEM_PAGE, 7);
	if (mem_pageout(self->src, self->len) != NR)
		SKIP(return, "cannot swap out");
	dst = mem_dup(self->fd, self->src, self->len);
	ASSERT_NE(NULL, dst);
	for (i = 0; i < NR; i++) {
		EXPECT_TRUE(mem_swapped(self->src + PAGES(i)));
		EXPECT_EQ(i % 2 == 0, is_dirty(self->src + PAGES(i)));
	}
}

static bool shares_huge_pages(int fd)
{
	struct cowsnap_query q = { .size = sizeof(q) };

	return !ioctl(fd, COWSNAP_QUERY, &q) && q.huge_whole;
}

/*
 * A huge page has one mark for all of it, or one for each page of it. Where the
 * kernel takes its mapping apart, as it has to when the page cannot be shared
 * whole, it takes the pages for soft-dirty (__split_huge_pmd).
 */
TEST_F(dirty, soft_dirty_marks_of_a_huge_page_stay)
{
	char *src = mem_map_huge(MEM_HUGE), *dst;

	if (!have_soft_dirty())
		SKIP(return, "no soft-dirty tracking");
	if (!src)
		SKIP(return, "no huge pages");
	ASSERT_TRUE(forget_writes());
	dst = mem_dup(self->fd, src, MEM_HUGE);
	ASSERT_NE(NULL, dst);
	EXPECT_TRUE(is_dirty(dst));
	if (!shares_huge_pages(self->fd))
		ASSERT_TRUE(forget_writes());
	EXPECT_FALSE(is_dirty(src));
	EXPECT_FALSE(is_dirty(src + MEM_HUGE - MEM_PAGE));
	mem_fill(dst, MEM_HUGE, 2);
	EXPECT_FALSE(is_dirty(src + PAGES(5)));
	mem_fill(src + PAGES(5), MEM_PAGE, 3);
	EXPECT_TRUE(is_dirty(src + PAGES(5)));
}

/*
 * More references than mappings, so many that they might be pins, without a
 * store to the page: pipes that hold it.
 */
#define PIPES	6

static bool hold_in_pipes(int pipes[PIPES][2], char *page)
{
	struct iovec iov = { page, 1 };
	int i, n, held = 0;

	for (i = 0; i < PIPES; i++) {
		if (pipe2(pipes[i], O_NONBLOCK | O_CLOEXEC))
			return false;
		fcntl(pipes[i][1], F_SETPIPE_SZ, 1 << 20);
		for (n = 0; n < 256; n++)
			held += vmsplice(pipes[i][1], &iov, 1, 0) == 1;
	}
	return held > 1024;
}

/*
 * A page that may be pinned is copied, and given back for writing as it was: not
 * when its next store is to be seen. Something must be pinned in the process
 * for the kernel to look at the references.
 */
TEST_F(dirty, write_to_a_pinned_page_is_seen_as_soft_dirty)
{
	char *other = mem_map_alone(MEM_PAGE), *page = self->src + PAGES(3);
	int pipes[PIPES][2], err;
	struct cowsnap_remap r;
	struct uring ring;

	if (!have_soft_dirty())
		SKIP(return, "no soft-dirty tracking");
	err = uring_open(&ring);
	if (err)
		SKIP(return, "no io_uring: %s", strerror(-err));
	ASSERT_EQ(0, uring_pin(&ring, other, MEM_PAGE));
	ASSERT_TRUE(forget_writes());
	ASSERT_TRUE(hold_in_pipes(pipes, page));
	ASSERT_FALSE(is_dirty(page));
	ASSERT_EQ(0, mem_remap(self->fd, self->src, self->len, NULL, 0, &r));
	EXPECT_EQ(1, r.copied);
	EXPECT_FALSE(is_dirty(page));
	EXPECT_TRUE(is_dirty((char *)r.dst + PAGES(3)));
	mem_fill(page, MEM_PAGE, 7);
	EXPECT_TRUE(is_dirty(page));
	EXPECT_TRUE(mem_check((char *)r.dst, self->len, 1));
	uring_unpin(&ring);
	uring_close(&ring);
}

/*
 * The newer way to ask, and exact: userfaultfd's write protection, taken away
 * by the kernel itself when a page is written.
 */
FIXTURE(scan)
{
	int fd;
	int uffd;
	size_t nr;
	char *src;
	struct uring ring;
	bool is[NR_HUGE];
	bool expect[NR_HUGE];
};

FIXTURE_VARIANT(scan)
{
	bool huge, untouched, swap, pin;
	unsigned int before;	/* every so many'th page is written before */
	size_t offset;		/* of the duplicate, modulo a huge page */
};

#define SCAN_OF(name, ...)						\
	FIXTURE_VARIANT_ADD(scan, name) { __VA_ARGS__ }

SCAN_OF(small, .before = 3);
SCAN_OF(untouched, .untouched = true, .before = 4);
SCAN_OF(swapped, .swap = true, .before = 3);
SCAN_OF(pinned, .pin = true, .before = 3);
SCAN_OF(huge, .huge = true);
SCAN_OF(huge_elsewhere, .huge = true, .offset = PAGES(3));
SCAN_OF(huge_torn, .huge = true, .before = 5);

FIXTURE_SETUP(scan)
{
	self->ring.fd = -1;
	self->fd = mem_open();
	ASSERT_LE(0, self->fd);
	self->nr = variant->huge ? NR_HUGE : NR;
	self->src = variant->huge ? mem_map_huge(MEM_HUGE) :
				    mem_map_alone(PAGES(NR));
	if (variant->huge && !self->src)
		SKIP(return, "no huge pages");
	ASSERT_NE(NULL, self->src);
	if (!variant->untouched)
		mem_fill(self->src, PAGES(self->nr), 1);
	if (variant->swap && !mem_have_swap())
		SKIP(return, "no swap");
	if (variant->pin && uring_open(&self->ring))
		SKIP(return, "no io_uring");
	if (variant->pin)
		ASSERT_EQ(0, uring_pin(&self->ring, self->src, PAGES(NR / 2)));
	self->uffd = open_uffd(UFFD_FEATURE_WP_ASYNC);
	if (self->uffd < 0 || watch(self->uffd, self->src, PAGES(self->nr),
				    UFFDIO_REGISTER_MODE_WP))
		SKIP(return, "no asynchronous write protection");
}

FIXTURE_TEARDOWN(scan)
{
	if (self->ring.fd >= 0) {
		uring_unpin(&self->ring);
		uring_close(&self->ring);
	}
	close(self->fd);
}

/* What a tracker is told of the source must be what we know was written. */
static void check_scan(struct __test_metadata *_metadata,
		       FIXTURE_DATA(scan) *self, int flags)
{
	size_t i;

	ASSERT_EQ(0, scan(self->src, self->nr, flags | SCAN_CHECK_WPASYNC,
			  IS_WRITTEN, self->is));
	for (i = 0; i < self->nr; i++)
		EXPECT_EQ(self->expect[i], self->is[i])
			TH_LOG("page %zu", i);
}

static void store_every(FIXTURE_DATA(scan) *self, unsigned int nth, int seed)
{
	size_t i;

	for (i = 0; nth && i < self->nr; i += nth) {
		mem_fill(self->src + PAGES(i), MEM_PAGE, seed);
		self->expect[i] = true;
	}
}

TEST_F(scan, tells_exactly_what_was_written_to_the_source)
{
	struct cowsnap_remap r;
	size_t len = PAGES(self->nr);
	char *dst;

	/* Everything has been written; from here on nothing has. */
	memset(self->expect, true, self->nr);
	check_scan(_metadata, self, SCAN_WP_MATCHING);
	memset(self->expect, false, self->nr);
	check_scan(_metadata, self, 0);
	store_every(self, variant->before, 2);
	if (variant->swap && mem_pageout(self->src, len) != NR)
		SKIP(return, "cannot swap out");

	dst = mem_free_range(len, MEM_HUGE, variant->offset);
	ASSERT_NE(NULL, dst);
	ASSERT_EQ(0, mem_remap(self->fd, self->src, len, dst, 0, &r));
	ASSERT_EQ(U64(dst), r.dst);
	EXPECT_EQ(variant->pin ? NR / 2 : 0, r.copied);
	EXPECT_FALSE(mem_smaps_flag(dst, "uw"));
	check_scan(_metadata, self, 0);
	/* Stores to the duplicate are not the source's. */
	mem_fill(dst, len, 4);
	check_scan(_metadata, self, 0);
	/* Stores to the source are, and the tracker begins anew. */
	store_every(self, 7, 5);
	check_scan(_metadata, self, SCAN_WP_MATCHING);
	memset(self->expect, false, self->nr);
	check_scan(_metadata, self, 0);
	store_every(self, 11, 6);
	check_scan(_metadata, self, 0);
	EXPECT_TRUE(mem_check(dst, len, 4));

	/* And when the source has its pages for itself again. */
	ASSERT_EQ(0, munmap(dst, len));
	check_scan(_metadata, self, SCAN_WP_MATCHING);
	memset(self->expect, false, self->nr);
	store_every(self, 13, 7);
	check_scan(_metadata, self, 0);
}

/* As new memory is: all of it has changed where it is now. */
TEST_F(scan, tells_that_all_of_the_duplicate_is_written)
{
	char *other = mem_map_alone(MEM_PAGE), *dst;
	size_t len = PAGES(self->nr), i;
	struct cowsnap_remap r;
	bool written;

	ASSERT_NE(NULL, other);
	ASSERT_EQ(0, scan(self->src, self->nr, SCAN_WP_MATCHING, IS_WRITTEN,
			  self->is));
	ASSERT_TRUE(forget_writes());
	if (variant->swap && mem_pageout(self->src, len) != NR)
		SKIP(return, "cannot swap out");
	dst = mem_free_range(len, MEM_HUGE, variant->offset);
	ASSERT_NE(NULL, dst);
	ASSERT_EQ(0, mem_remap(self->fd, self->src, len, dst, 0, &r));
	ASSERT_EQ(U64(dst), r.dst);
	EXPECT_TRUE(mem_smaps_flag(dst, "sd"));
	EXPECT_FALSE(mem_smaps_flag(self->src, "sd"));
	/* From Linux 7 on only memory that is watched can be "written". */
	mem_fill(other, MEM_PAGE, 1);
	ASSERT_EQ(0, scan(other, 1, 0, IS_WRITTEN, &written));
	ASSERT_EQ(0, scan(dst, self->nr, 0, IS_WRITTEN, self->is));
	for (i = 0; i < self->nr; i++)
		EXPECT_EQ(written, self->is[i]);
	ASSERT_EQ(0, scan(dst, self->nr, 0, IS_SOFT_DIRTY, self->is));
	for (i = 0; i < self->nr; i++)
		EXPECT_TRUE(self->is[i]);
	/* A pinned page is never taken for clean; huge ones, see above. */
	ASSERT_EQ(0, scan(self->src, self->nr, 0, IS_SOFT_DIRTY, self->is));
	i = variant->pin ? NR / 2 : 0;
	if (variant->huge && (variant->offset || !shares_huge_pages(self->fd)))
		i = self->nr;
	for (; i < self->nr; i++)
		EXPECT_FALSE(self->is[i]);
	ASSERT_EQ(0, scan(self->src, self->nr, 0, IS_WRITTEN, self->is));
	for (i = 0; i < self->nr; i++)
		EXPECT_FALSE(self->is[i]);
	/* Nobody watches the duplicate, so it cannot be marked as not written. */
	EXPECT_EQ(-EPERM, scan(dst, self->nr, SCAN_WP_MATCHING |
			       SCAN_CHECK_WPASYNC, IS_WRITTEN, self->is));
}

TEST_HARNESS_MAIN
