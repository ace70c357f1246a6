// SPDX-License-Identifier: GPL-2.0
/*
 * Private hugetlb mappings of files, pages of 1 GiB, and all kinds of memory in
 * one range.
 */
#include "hugepool.h"
#include "ops.h"
#include "harness.h"

/* Files: of a memfd everybody sees the pages that nobody wrote privately. */

FIXTURE(memfd)
{
	int fd;
	int file;
	bool shares_reserved;
	long pool;
};

FIXTURE_SETUP(memfd)
{
	self->fd = mem_open();
	ASSERT_GE(self->fd, 0);
	self->pool = pool_value(MEM_HUGE, "nr_hugepages");
	self->shares_reserved = kinds(self->fd) & COWSNAP_KIND_HUGETLB_RESERVED;
	if (!pool_set(MEM_HUGE, POOL))
		SKIP(return, "no huge pages");
	self->file = memfd_create("hugetlb_test", MFD_CLOEXEC | MFD_HUGETLB);
	ASSERT_GE(self->file, 0);
	ASSERT_EQ(0, ftruncate(self->file, 4 * MEM_HUGE));
}

FIXTURE_TEARDOWN(memfd)
{
	close(self->file);
	pool_set(MEM_HUGE, self->pool);
	close(self->fd);
}

static char *map_memfd(int file, int flags)
{
	char *p = mmap(NULL, 3 * MEM_HUGE, PROT_READ | PROT_WRITE, flags, file,
		       MEM_HUGE);

	return p == MAP_FAILED ? NULL : p;
}

TEST_F(memfd, clean_pages_are_the_files)
{
	char *shared = map_memfd(self->file, MAP_SHARED), *src, *dup;
	struct cowsnap_remap r;

	src = map_memfd(self->file, MAP_PRIVATE | MAP_NORESERVE);
	ASSERT_NE(NULL, shared);
	ASSERT_NE(NULL, src);
	fill_page(shared, MEM_HUGE, 1);
	fill_page(shared + MEM_HUGE, MEM_HUGE, 2);
	EXPECT_TRUE(check_page(src, MEM_HUGE, 1));
	fill_page(src + MEM_HUGE, MEM_HUGE, 3);
	ASSERT_EQ(0, mem_remap(self->fd, src, 3 * MEM_HUGE, NULL, 0, &r));
	dup = (char *)(uintptr_t)r.dst;
	EXPECT_EQ(MEM_HUGE / MEM_PAGE, r.shared);
	EXPECT_EQ(0, r.copied);
	EXPECT_TRUE(check_page(dup, MEM_HUGE, 1));
	EXPECT_TRUE(check_page(dup + MEM_HUGE, MEM_HUGE, 3));
	fill_page(shared, MEM_HUGE, 4);
	fill_page(shared + MEM_HUGE, MEM_HUGE, 5);
	EXPECT_TRUE(check_page(dup, MEM_HUGE, 4));
	EXPECT_TRUE(check_page(dup + MEM_HUGE, MEM_HUGE, 3));
	fill_page(dup, MEM_HUGE, 6);
	EXPECT_TRUE(check_page(src, MEM_HUGE, 4));

	/* By the file's tree, which has both at their offset. */
	ASSERT_EQ(0, ftruncate(self->file, 2 * MEM_HUGE));
	EXPECT_FALSE(is_bus(dup, false));
	EXPECT_TRUE(is_bus(src + MEM_HUGE, false));
	EXPECT_TRUE(is_bus(dup + MEM_HUGE, false));
	EXPECT_TRUE(check_page(dup, MEM_HUGE, 6));
}

/*
 * A reservation for a part of a file: shared, or refused. It cannot be given a
 * file of its own, as is done with anonymous memory.
 */
TEST_F(memfd, with_a_reservation_is_shared_or_refused)
{
	struct cowsnap_remap r = { .size = sizeof(r), .len = 3 * MEM_HUGE };
	char *src = map_memfd(self->file, MAP_PRIVATE);

	ASSERT_NE(NULL, src);
	fill_page(src, MEM_HUGE, 1);
	r.src = (uintptr_t)src;
	if (self->shares_reserved) {
		ASSERT_EQ(0, ioctl(self->fd, COWSNAP_REMAP, &r));
		EXPECT_EQ(MEM_HUGE / MEM_PAGE, r.shared);
	} else {
		EXPECT_EQ(-EOPNOTSUPP, mem_refused(self->fd, &r));
		EXPECT_EQ(COWSNAP_REASON_HUGETLB, r.reason);
		EXPECT_EQ(r.src, r.fault_addr);
	}
	EXPECT_TRUE(check_page(src, MEM_HUGE, 1));
	EXPECT_TRUE(pool_is(MEM_HUGE, POOL - 1, 2));
}

/* A stranger's reservation concerns only who wants another duplicate. */
TEST_F(memfd, with_a_strangers_reservation_only_remap_is_refused)
{
	char *src = map_memfd(self->file, MAP_PRIVATE | MAP_NORESERVE), *dup;
	struct cowsnap_range range;
	struct cowsnap_release r;
	struct cowsnap_unshare u;
	struct cowsnap_diff d;

	ASSERT_NE(NULL, src);
	fill_page(src, MEM_HUGE, 1);
	dup = mem_dup(self->fd, src, 3 * MEM_HUGE);
	ASSERT_NE(NULL, dup);
	ASSERT_NE(NULL, map_memfd(self->file, MAP_PRIVATE));
	EXPECT_EQ(self->shares_reserved, !!mem_dup(self->fd, src, 3 * MEM_HUGE));
	EXPECT_EQ(0, op_diff(self->fd, src, dup, 3 * MEM_HUGE, &range, 1, &d));
	EXPECT_EQ(0, d.nr);
	EXPECT_EQ(0, op_unshare(self->fd, dup, 3 * MEM_HUGE, 0, &u));
	EXPECT_EQ(MEM_HUGE / MEM_PAGE, u.copied);
	EXPECT_EQ(0, op_release(self->fd, src, dup, 3 * MEM_HUGE, &r));
	EXPECT_TRUE(check_page(src, MEM_HUGE, 1));
}

/* All kinds in one range: each as it is alone. */
TEST(anonymous_file_and_hugetlb_memory_in_one_range)
{
	int fd = mem_open(), file = memfd_create("mixed", MFD_CLOEXEC);
	long pool = pool_value(MEM_HUGE, "nr_hugepages");
	char *src, *dup;
	struct cowsnap_remap r;

	if (!pool_set(MEM_HUGE, 4))
		SKIP(return, "no huge pages");
	src = mem_map_offset(4 * MEM_HUGE, MEM_HUGE, 0);
	ASSERT_NE(NULL, src);
	ASSERT_EQ(0, ftruncate(file, MEM_HUGE));
	ASSERT_NE(MAP_FAILED, mmap(src + MEM_HUGE, 2 * MEM_HUGE, PROT_READ |
				   PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS |
				   MAP_HUGETLB | MAP_FIXED | MAP_NORESERVE |
				   21 << MAP_HUGE_SHIFT, -1, 0));
	ASSERT_NE(MAP_FAILED, mmap(src + 3 * MEM_HUGE, MEM_HUGE, PROT_READ |
				   PROT_WRITE, MAP_PRIVATE | MAP_FIXED, file,
				   0));
	mem_fill(src, PATCH, 1);
	fill_page(src + MEM_HUGE, MEM_HUGE, 2);
	mem_fill(src + 3 * MEM_HUGE, PATCH, 3);
	/* A part of the first and of the last. */
	ASSERT_EQ(0, mem_remap(fd, src + 2 * MEM_PAGE, 4 * MEM_HUGE - 4 * MEM_PAGE,
			       NULL, 0, &r));
	EXPECT_EQ(6 + MEM_HUGE / MEM_PAGE + 8, r.shared);
	EXPECT_EQ(0, r.copied);
	dup = (char *)(uintptr_t)r.dst - 2 * MEM_PAGE;
	EXPECT_EQ(0, (uintptr_t)dup % MEM_HUGE);
	EXPECT_EQ(0, memcmp(dup + 2 * MEM_PAGE, src + 2 * MEM_PAGE,
			    4 * MEM_HUGE - 4 * MEM_PAGE));
	mem_fill(src, PATCH, 4);
	fill_page(src + MEM_HUGE, MEM_HUGE, 5);
	mem_fill(src + 3 * MEM_HUGE, PATCH, 6);
	EXPECT_TRUE(check_page(dup + MEM_HUGE, MEM_HUGE, 2));
	EXPECT_TRUE(mem_check(dup + 3 * MEM_HUGE, PATCH, 3));
	munmap(src, 4 * MEM_HUGE);
	munmap(dup + 2 * MEM_PAGE, 4 * MEM_HUGE - 4 * MEM_PAGE);
	EXPECT_TRUE(pool_is(MEM_HUGE, 4, 0));
	pool_set(MEM_HUGE, pool);
	close(file);
	close(fd);
}

/*
 * Pages of 1 GiB, where the CPU has them and memory is not in pieces. One of
 * them is shared, or copied where it has a reservation that says so.
 */
FIXTURE(gigantic)
{
	int fd;
	long pool;
};

FIXTURE_VARIANT(gigantic)
{
	int flags;
};

FIXTURE_VARIANT_ADD(gigantic, reserved) { .flags = 0 };
FIXTURE_VARIANT_ADD(gigantic, unreserved) { .flags = MAP_NORESERVE };

FIXTURE_SETUP(gigantic)
{
	self->pool = pool_value(MEM_GIB, "nr_hugepages");
	self->fd = mem_open();
	ASSERT_GE(self->fd, 0);
	if (!pool_set(MEM_GIB, 2))
		SKIP(return, "no two pages of 1 GiB");
}

FIXTURE_TEARDOWN(gigantic)
{
	pool_set(MEM_GIB, self->pool);
	close(self->fd);
}

TEST_F_TIMEOUT(gigantic, is_shared_or_copied_and_counted, 800)
{
	bool copied = !variant->flags &&
		      !(kinds(self->fd) & COWSNAP_KIND_HUGETLB_RESERVED);
	char *src = map_pages(MEM_GIB, 1, variant->flags), *dup;
	size_t nr = MEM_GIB / MEM_PAGE;
	struct cowsnap_remap r;

	ASSERT_NE(NULL, src);
	fill_page(src, MEM_GIB, 1);
	EXPECT_TRUE(pool_is(MEM_GIB, 1, 0));
	r = (struct cowsnap_remap) {
		.size = sizeof(r), .src = (uintptr_t)src, .len = MEM_HUGE,
	};
	EXPECT_EQ(-EINVAL, mem_refused(self->fd, &r));
	EXPECT_EQ(COWSNAP_REASON_ALIGN, r.reason);
	ASSERT_EQ(0, mem_remap(self->fd, src, MEM_GIB, NULL, 0, &r));
	dup = (char *)(uintptr_t)r.dst;
	EXPECT_EQ(0, r.dst % MEM_GIB);
	EXPECT_EQ(copied ? 0 : nr, r.shared);
	EXPECT_EQ(copied ? nr : 0, r.copied);
	EXPECT_EQ(!copied, mem_pfn(src) == mem_pfn(dup));
	EXPECT_TRUE(pool_is(MEM_GIB, copied ? 0 : 1, 0));
	fill_page(src, MEM_GIB, 3);
	EXPECT_TRUE(pool_is(MEM_GIB, 0, 0));
	EXPECT_TRUE(check_page(dup, MEM_GIB, 1));
	fill_page(dup, MEM_GIB, 5);
	EXPECT_TRUE(check_page(src, MEM_GIB, 3));
	ASSERT_EQ(0, munmap(src, MEM_GIB));
	EXPECT_TRUE(pool_is(MEM_GIB, 1, 0));
	EXPECT_TRUE(check_page(dup, MEM_GIB, 5));
	ASSERT_EQ(0, munmap(dup, MEM_GIB));
	EXPECT_TRUE(pool_is(MEM_GIB, 2, 0));
}

TEST_HARNESS_MAIN
