// SPDX-License-Identifier: GPL-2.0
/*
 * Places: how source and destination lie to each other and to the borders of
 * page tables. All of it with small pages and, where they fit, huge ones.
 */
#include <linux/mman.h>
#include <sys/mman.h>
#include <unistd.h>

#include "harness.h"
#include "mem.h"

#define PAGES(n)	((n) * MEM_PAGE)
#define U64(p)		((__u64)(uintptr_t)(p))
#define HUGE_PAGES	(MEM_HUGE / MEM_PAGE)

static int open_device(struct __test_metadata *_metadata)
{
	int fd = mem_open();

	ASSERT_GE(fd, 0)
		TH_LOG("%s: %s. Is the module loaded?", MEM_DEVICE,
		       strerror(errno));
	return fd;
}

FIXTURE(place)
{
	int fd;
};

FIXTURE_SETUP(place)
{
	self->fd = open_device(_metadata);
}

FIXTURE_TEARDOWN(place)
{
	close(self->fd);
}

static void *map_at(void *at, size_t len)
{
	void *p = mmap(at, len, PROT_READ | PROT_WRITE, MAP_PRIVATE |
		       MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	madvise(p, len, MADV_NOHUGEPAGE);
	return p;
}

/*
 * Both hold what the source was filled with. Then each is written in one half,
 * and neither may show in the other.
 */
static void check_apart(struct __test_metadata *_metadata, char *src, char *dst,
			size_t half, size_t rest)
{
	EXPECT_TRUE(mem_check(dst, half, 1));
	EXPECT_TRUE(mem_check(dst + half, rest, 2));
	mem_fill(src, half, 3);
	EXPECT_TRUE(mem_check(dst, half, 1));
	mem_fill(dst + half, rest, 4);
	EXPECT_TRUE(mem_check(src + half, rest, 2));
	EXPECT_TRUE(mem_check(src, half, 3));
	EXPECT_TRUE(mem_check(dst + half, rest, 4));
	mem_fill(src + half, rest, 5);
	mem_fill(dst, half, 6);
	EXPECT_TRUE(mem_check(src, half, 3));
	EXPECT_TRUE(mem_check(dst + half, rest, 4));
}

/* Duplicates @src at @dst exactly, and looks at everything there is. */
static void check_pair(struct __test_metadata *_metadata, int fd, char *src,
		       char *dst, size_t len)
{
	size_t half = len / 2 & ~(MEM_PAGE - 1);
	struct cowsnap_remap r;

	mem_fill(src, half, 1);
	mem_fill(src + half, len - half, 2);
	ASSERT_EQ(0, mem_remap(fd, src, len, dst,
			       COWSNAP_REMAP_FIXED_NOREPLACE, &r))
		TH_LOG("reason %u at %#llx", r.reason, r.fault_addr);
	ASSERT_EQ(U64(dst), r.dst);
	EXPECT_EQ(len / MEM_PAGE, r.shared);
	EXPECT_EQ(0, r.copied);
	EXPECT_EQ(len / MEM_PAGE, mem_shared_pages(src, dst, len));
	check_apart(_metadata, src, dst, half, len - half);
	ASSERT_EQ(0, munmap(dst, len));
	EXPECT_TRUE(mem_check(src, half, 3));
	EXPECT_TRUE(mem_check(src + half, len - half, 5));
}

/* One lock for both, in either order, and neighbours without a gap. */
TEST_F(place, same_page_table_page)
{
	static const struct {
		size_t src, dst;
	} at[] = { { 16, 64 }, { 64, 16 }, { 16, 48 }, { 48, 16 }, { 0, 480 },
		   { 480, 0 } };
	char *base;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(at); i++) {
		base = mem_free_range(MEM_HUGE, MEM_HUGE, 0);
		ASSERT_NE(NULL, base);
		ASSERT_NE(NULL, map_at(base + PAGES(at[i].src), PAGES(32)));
		check_pair(_metadata, self->fd, base + PAGES(at[i].src),
			   base + PAGES(at[i].dst), PAGES(32));
		munmap(base, MEM_HUGE);
	}
}

/* The copy of one entry may lie where another is still to be read: never. */
TEST_F(place, neighbours_over_many_page_tables)
{
	size_t len = 3 * MEM_HUGE + PAGES(5), side;
	char *base, *src;

	for (side = 0; side < 2; side++) {
		base = mem_free_range(2 * len, MEM_HUGE, PAGES(77));
		ASSERT_NE(NULL, base);
		src = map_at(base + side * len, len);
		ASSERT_NE(NULL, src);
		check_pair(_metadata, self->fd, src, base + !side * len, len);
		munmap(base, 2 * len);
	}
}

TEST_F(place, any_offset_between_them)
{
	static const size_t offset[] = { 0, 1, 2, 255, 256, 257, 510, 511 };
	size_t len = MEM_HUGE + PAGES(3), i;
	char *src, *dst;

	src = mem_map_offset(len, MEM_HUGE, PAGES(500));
	ASSERT_NE(NULL, src);
	for (i = 0; i < ARRAY_SIZE(offset); i++) {
		dst = mem_free_range(len, MEM_HUGE, PAGES(offset[i]));
		ASSERT_NE(NULL, dst);
		check_pair(_metadata, self->fd, src, dst, len);
	}
}

static void check_border(struct __test_metadata *_metadata, int fd,
			 size_t border)
{
	static const struct {
		long src, dst;		/* pages of it before the border */
	} at[] = { { 8, 0 }, { 0, 8 }, { 8, 8 }, { 8, 24 }, { 31, 1 } };
	size_t len = PAGES(32), i;
	char *src, *dst;

	for (i = 0; i < ARRAY_SIZE(at); i++) {
		src = mem_free_range(len, border,
				     border - PAGES(at[i].src));
		if (!src)
			SKIP(return, "address space too small");
		ASSERT_NE(NULL, map_at(src, len));
		dst = mem_free_range(len, border,
				     border - PAGES(at[i].dst));
		if (!dst)
			SKIP(return, "address space too small");
		check_pair(_metadata, fd, src, dst, len);
		munmap(src, len);
	}
}

TEST_F(place, across_a_1_gib_border)
{
	check_border(_metadata, self->fd, MEM_GIB);
}

TEST_F(place, across_a_512_gib_border)
{
	check_border(_metadata, self->fd, 512 * MEM_GIB);
}

/* Beyond 47 bits memory is only given when asked for, and only with la57. */
TEST_F(place, across_the_47_bit_border)
{
	char *src, *dst, *border = (char *)(1UL << 47);

	dst = map_at(border - PAGES(8) + (1UL << 30), PAGES(32));
	if (!dst)
		SKIP(return, "no 5-level page tables");
	munmap(dst, PAGES(32));
	src = mem_map(PAGES(32));
	ASSERT_NE(NULL, src);
	check_pair(_metadata, self->fd, src, dst, PAGES(32));
	src = map_at((char *)(1UL << 48) - PAGES(16), PAGES(32));
	ASSERT_NE(NULL, src);
	check_pair(_metadata, self->fd, src, dst, PAGES(32));
}

static void check_huge_pair(struct __test_metadata *_metadata, int fd,
			    char *src, char *dst, size_t len)
{
	struct cowsnap_remap r;
	size_t half = len / 2;

	ASSERT_EQ(src, mem_map_huge_at(src, len))
		TH_LOG("no huge pages at %p", src);
	mem_fill(src, half, 1);
	mem_fill(src + half, half, 2);
	ASSERT_EQ(0, mem_remap(fd, src, len, dst,
			       COWSNAP_REMAP_FIXED_NOREPLACE, &r))
		TH_LOG("reason %u at %#llx", r.reason, r.fault_addr);
	EXPECT_EQ(len / MEM_PAGE, r.shared);
	EXPECT_EQ(len / MEM_PAGE, mem_shared_pages(src, dst, len));
	EXPECT_EQ(mem_huge_whole(fd), mem_all_huge(src, len));
	EXPECT_EQ(mem_huge_whole(fd), mem_all_huge(dst, len));
	check_apart(_metadata, src, dst, half, half);
	munmap(dst, len);
	munmap(src, len);
}

static bool have_huge(void)
{
	void *p = mem_map_huge(MEM_HUGE);

	if (p)
		munmap(p, MEM_HUGE);
	return p;
}

/* Their two locks are one and the same: taken twice, it hangs for ever. */
TEST_F(place, huge_pages_within_1_gib)
{
	static const struct {
		size_t src, dst;
	} at[] = {
		{ 4, 8 }, { 8, 4 }, { 4, 6 }, { 6, 4 }, { 0, 14 }, { 14, 0 },
	};
	size_t i;
	char *base;

	if (!have_huge())
		SKIP(return, "no huge pages");
	for (i = 0; i < ARRAY_SIZE(at); i++) {
		base = mem_free_range(16 * MEM_HUGE, MEM_GIB, MEM_GIB / 2);
		ASSERT_NE(NULL, base);
		check_huge_pair(_metadata, self->fd,
				base + at[i].src * MEM_HUGE,
				base + at[i].dst * MEM_HUGE, 2 * MEM_HUGE);
	}
}

TEST_F(place, huge_pages_in_different_gib)
{
	char *base;

	if (!have_huge())
		SKIP(return, "no huge pages");
	base = mem_free_range(2 * MEM_GIB, MEM_GIB, 0);
	ASSERT_NE(NULL, base);
	check_huge_pair(_metadata, self->fd, base, base + MEM_GIB, MEM_HUGE);
	check_huge_pair(_metadata, self->fd, base + MEM_GIB, base + MEM_HUGE,
			MEM_HUGE);
}

TEST_F(place, huge_pages_across_a_1_gib_border)
{
	char *base;

	if (!have_huge())
		SKIP(return, "no huge pages");
	base = mem_free_range(3 * MEM_GIB, MEM_GIB, 0);
	ASSERT_NE(NULL, base);
	check_huge_pair(_metadata, self->fd, base + MEM_GIB - MEM_HUGE,
			base + MEM_GIB + MEM_HUGE, 2 * MEM_HUGE);
	check_huge_pair(_metadata, self->fd, base + 4 * MEM_HUGE,
			base + 2 * MEM_GIB - MEM_HUGE, 2 * MEM_HUGE);
}

/* Written in one piece by incongruent duplicates within one page-table page. */
TEST_F(place, huge_page_duplicated_within_its_own_gib_incongruently)
{
	size_t len = MEM_HUGE;
	struct cowsnap_remap r;
	char *base, *dst;

	if (!have_huge())
		SKIP(return, "no huge pages");
	base = mem_free_range(8 * MEM_HUGE, MEM_GIB, MEM_GIB / 2);
	ASSERT_NE(NULL, base);
	ASSERT_EQ(base, mem_map_huge_at(base, len));
	mem_fill(base, len, 1);
	dst = base + len;
	ASSERT_EQ(0, mem_remap(self->fd, base, len, dst + PAGES(3),
			       COWSNAP_REMAP_FIXED_NOREPLACE, &r));
	EXPECT_EQ(HUGE_PAGES, r.shared);
	EXPECT_EQ(HUGE_PAGES, mem_shared_pages(base, dst + PAGES(3), len));
	mem_fill(base, len, 2);
	EXPECT_TRUE(mem_check(dst + PAGES(3), len, 1));
}

/* Nothing is there to copy: nothing is there to be slow about. */
TEST_F(place, sixteen_untouched_tib_take_no_time)
{
	size_t len = 16UL << 40;
	struct mem_counters a, b;
	struct cowsnap_remap r;
	char *src, *at;

	src = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS |
		   MAP_NORESERVE, -1, 0);
	if (src == MAP_FAILED)
		SKIP(return, "no 16 TiB of address space");
	/* Three pages in it, far from each other. */
	for (at = src; at < src + len; at += 7UL << 40) {
		mprotect(at, MEM_PAGE, PROT_READ | PROT_WRITE);
		mem_fill(at, MEM_PAGE, 1);
		mprotect(at, MEM_PAGE, PROT_NONE);
	}
	mem_counters(&a);
	ASSERT_EQ(0, mem_remap(self->fd, src, len, NULL, 0, &r));
	mem_counters(&b);
	EXPECT_EQ(3, r.shared);
	EXPECT_EQ(a.rss_anon + 3 * 4, b.rss_anon);
	EXPECT_LE(b.pte - a.pte, 64);
	munmap((void *)r.dst, len);
	munmap(src, len);
}

TEST_HARNESS_MAIN
