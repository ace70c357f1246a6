// SPDX-License-Identifier: GPL-2.0
/*
 * Ranges: parts of mappings, several, holes between them; duplicates of
 * duplicates.
 */
#include <linux/mman.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "mem.h"

#define PAGES(n)	((n) * MEM_PAGE)
#define U64(p)		((__u64)(uintptr_t)(p))

static int open_device(struct __test_metadata *_metadata)
{
	int fd = mem_open();

	ASSERT_GE(fd, 0)
		TH_LOG("%s: %s. Is the module loaded?", MEM_DEVICE,
		       strerror(errno));
	return fd;
}

static void make_writable(void *p, size_t len)
{
	mprotect(p, len, PROT_READ | PROT_WRITE);
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

FIXTURE(range)
{
	int fd;
};

FIXTURE_SETUP(range)
{
	self->fd = open_device(_metadata);
}

FIXTURE_TEARDOWN(range)
{
	close(self->fd);
}

/* The source must not be cut up for being read. */
TEST_F(range, part_of_a_mapping_is_duplicated_alone)
{
	char *src = mem_map_alone(PAGES(16)), *dst;
	unsigned long start, end, dst_start, dst_end;

	ASSERT_NE(NULL, src);
	mem_fill(src, PAGES(16), 1);
	dst = mem_free_range(PAGES(5), MEM_HUGE, 0);
	ASSERT_NE(NULL, dst);
	ASSERT_EQ(0, mem_remap(self->fd, src + PAGES(6), PAGES(5), dst, 0,
			       &(struct cowsnap_remap){}));
	EXPECT_EQ(5, mem_shared_pages(src + PAGES(6), dst, PAGES(5)));
	ASSERT_TRUE(mem_vma(src + PAGES(6), &start, &end, NULL));
	EXPECT_EQ((unsigned long)src, start);
	EXPECT_EQ((unsigned long)src + PAGES(16), end);
	ASSERT_TRUE(mem_vma(dst, &dst_start, &dst_end, NULL));
	EXPECT_EQ((unsigned long)dst, dst_start);
	EXPECT_EQ((unsigned long)dst + PAGES(5), dst_end);
	mem_fill(src, PAGES(16), 2);
	mem_fill(dst, PAGES(5), 3);
	EXPECT_TRUE(mem_check(src, PAGES(16), 2));
}

/* Every page on its own, at every place of a mapping. */
TEST_F(range, any_part_of_a_mapping_may_be_duplicated)
{
	char *src = mem_map_alone(PAGES(5)), *dst;
	size_t first, nr, i;

	ASSERT_NE(NULL, src);
	for (i = 0; i < 5; i++)
		mem_fill(src + PAGES(i), MEM_PAGE, i);
	for (first = 0; first < 5; first++) {
		for (nr = 1; first + nr <= 5; nr++) {
			dst = mem_dup(self->fd, src + PAGES(first), PAGES(nr));
			ASSERT_NE(NULL, dst);
			for (i = 0; i < nr; i++)
				EXPECT_TRUE(mem_check(dst + PAGES(i), MEM_PAGE,
						      first + i));
			munmap(dst, PAGES(nr));
		}
	}
}

static const int prots[] = {
	PROT_READ | PROT_WRITE, PROT_READ, PROT_NONE,
	PROT_READ | PROT_WRITE | PROT_EXEC, PROT_READ | PROT_EXEC, PROT_WRITE,
};

static const char *const perms_of[] = {
	"rw-p", "r--p", "---p", "rwxp", "r-xp", "-w-p",
};

/* Four pages of each protection in turn, all of them written before. */
static char *make_protections(void)
{
	char *p = mem_map_alone(PAGES(4 * ARRAY_SIZE(prots)));
	size_t i;

	if (!p)
		return NULL;
	mem_fill(p, PAGES(4 * ARRAY_SIZE(prots)), 1);
	for (i = 0; i < ARRAY_SIZE(prots); i++)
		if (mprotect(p + PAGES(4 * i), PAGES(4), prots[i]))
			return NULL;
	return p;
}

/* A duplicate with more rights than its source would be a hole in a sandbox. */
TEST_F(range, each_mapping_keeps_its_protection)
{
	size_t len = PAGES(4 * ARRAY_SIZE(prots)), i;
	char *src = make_protections(), *dst;
	struct cowsnap_remap r;
	char perms[5];

	ASSERT_NE(NULL, src);
	ASSERT_EQ(0, mem_remap(self->fd, src, len, NULL, 0, &r));
	EXPECT_EQ(len / MEM_PAGE, r.shared);
	dst = (char *)r.dst;
	for (i = 0; i < ARRAY_SIZE(prots); i++) {
		ASSERT_TRUE(mem_vma(dst + PAGES(4 * i), NULL, NULL, perms));
		EXPECT_STREQ(perms_of[i], perms);
		ASSERT_TRUE(mem_vma(src + PAGES(4 * i), NULL, NULL, perms));
		EXPECT_STREQ(perms_of[i], perms);
	}
	EXPECT_EQ(len / MEM_PAGE, mem_shared_pages(src, dst, len));
	make_writable(src, len);
	make_writable(dst, len);
	EXPECT_TRUE(mem_check(dst, len, 1));
	mem_fill(dst, len, 2);
	EXPECT_TRUE(mem_check(src, len, 1));
}

TEST_F(range, read_only_takes_write_away_and_nothing_else)
{
	static const char *const expect[] = {
		"r--p", "r--p", "---p", "r-xp", "r-xp", "---p",
	};
	size_t len = PAGES(4 * ARRAY_SIZE(prots)), i;
	char *src = make_protections(), *dst;
	struct cowsnap_remap r;
	char perms[5];

	ASSERT_NE(NULL, src);
	ASSERT_EQ(0, mem_remap(self->fd, src, len, NULL,
			       COWSNAP_REMAP_READONLY, &r));
	dst = (char *)r.dst;
	for (i = 0; i < ARRAY_SIZE(prots); i++) {
		ASSERT_TRUE(mem_vma(dst + PAGES(4 * i), NULL, NULL, perms));
		EXPECT_STREQ(expect[i], perms);
		ASSERT_TRUE(mem_vma(src + PAGES(4 * i), NULL, NULL, perms));
		EXPECT_STREQ(perms_of[i], perms);
	}
	EXPECT_EQ(len / MEM_PAGE, mem_shared_pages(src, dst, len));
}

/* Status of a child that stores one byte. */
static int store_in_child(char *at)
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		*(volatile char *)at = 1;
		_exit(0);
	}
	waitpid(pid, &status, 0);
	return status;
}

/* A snapshot that someone can write to by accident is no snapshot. */
TEST_F(range, store_to_a_read_only_duplicate_is_a_segfault)
{
	char *src = mem_map_alone(PAGES(4)), *dst;
	struct cowsnap_remap r;
	int status;

	ASSERT_NE(NULL, src);
	mem_fill(src, PAGES(3), 1);
	ASSERT_EQ(0, mem_remap(self->fd, src, PAGES(4), NULL,
			       COWSNAP_REMAP_READONLY, &r));
	dst = (char *)r.dst;
	status = store_in_child(dst);
	EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
	status = store_in_child(dst + PAGES(3));	/* untouched */
	EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
	EXPECT_EQ(0, store_in_child(src));
	EXPECT_TRUE(mem_check(dst, PAGES(3), 1));
}

/* It is a mapping like any: write permission can be given, and it is COW. */
TEST_F(range, read_only_duplicate_can_be_made_writable)
{
	char *src = mem_map_alone(PAGES(8)), *dst;
	struct cowsnap_remap r;

	ASSERT_NE(NULL, src);
	mem_fill(src, PAGES(8), 1);
	ASSERT_EQ(0, mem_remap(self->fd, src, PAGES(8), NULL,
			       COWSNAP_REMAP_READONLY, &r));
	dst = (char *)r.dst;
	ASSERT_EQ(0, mprotect(dst, PAGES(8), PROT_READ | PROT_WRITE));
	EXPECT_EQ(8, mem_shared_pages(src, dst, PAGES(8)));
	mem_fill(dst, PAGES(4), 2);
	EXPECT_TRUE(mem_check(src, PAGES(8), 1));
	mem_fill(src, PAGES(8), 3);
	EXPECT_TRUE(mem_check(dst, PAGES(4), 2));
	EXPECT_TRUE(mem_check(src, PAGES(8), 3));
}

/* PROT_NONE now, but written before: it is content like any other. */
TEST_F(range, inaccessible_content_is_duplicated)
{
	char *src = mem_map_alone(PAGES(8)), *dst;

	ASSERT_NE(NULL, src);
	mem_fill(src, PAGES(8), 1);
	ASSERT_EQ(0, mprotect(src, PAGES(8), PROT_NONE));
	dst = mem_dup(self->fd, src, PAGES(8));
	ASSERT_NE(NULL, dst);
	make_writable(dst, PAGES(8));
	EXPECT_TRUE(mem_check(dst, PAGES(8), 1));
	mem_fill(dst, PAGES(8), 2);
	make_writable(src, PAGES(8));
	EXPECT_TRUE(mem_check(src, PAGES(8), 1));
}

/* From within the first to within the last of three mappings. */
TEST_F(range, may_begin_and_end_within_mappings)
{
	char *src = mem_map_alone(PAGES(12)), *dst;
	unsigned long start, end;
	struct cowsnap_remap r;
	char perms[5];

	ASSERT_NE(NULL, src);
	mem_fill(src, PAGES(12), 1);
	ASSERT_EQ(0, mprotect(src + PAGES(4), PAGES(4), PROT_READ));
	dst = mem_free_range(PAGES(8), MEM_HUGE, PAGES(100));
	ASSERT_EQ(0, mem_remap(self->fd, src + PAGES(2), PAGES(8), dst, 0,
			       &r));
	EXPECT_EQ(8, r.shared);
	EXPECT_EQ(8, mem_shared_pages(src + PAGES(2), dst, PAGES(8)));
	ASSERT_TRUE(mem_vma(dst, &start, &end, perms));
	EXPECT_EQ(U64(dst), start);
	EXPECT_EQ(U64(dst) + PAGES(2), end);
	ASSERT_TRUE(mem_vma(dst + PAGES(2), &start, &end, perms));
	EXPECT_EQ(U64(dst) + PAGES(2), start);
	EXPECT_EQ(U64(dst) + PAGES(6), end);
	EXPECT_STREQ("r--p", perms);
	ASSERT_TRUE(mem_vma(dst + PAGES(6), &start, &end, perms));
	EXPECT_EQ(U64(dst) + PAGES(8), end);
	EXPECT_TRUE(mem_is_free(dst + PAGES(8), MEM_PAGE));
	EXPECT_TRUE(mem_is_free(dst - MEM_PAGE, MEM_PAGE));
}

/* Mappings that the kernel did not merge hang on different anon_vmas, or on
 * none: all of them in one call.
 */
TEST_F(range, many_mappings_in_one_call)
{
	const size_t nr = 200;
	char *src = mem_map_alone(PAGES(nr)), *dst;
	struct mem_counters a, b;
	struct cowsnap_remap r;
	size_t i, written = 0;

	ASSERT_NE(NULL, src);
	for (i = 0; i < nr; i += 2)
		ASSERT_EQ(0, mprotect(src + PAGES(i), MEM_PAGE, PROT_READ |
				      PROT_WRITE | PROT_EXEC));
	for (i = 0; i < nr; i++) {
		if (i % 3)
			continue;
		mem_fill(src + PAGES(i), MEM_PAGE, i);
		written++;
	}
	mem_counters(&a);
	ASSERT_EQ(0, mem_remap(self->fd, src, PAGES(nr), NULL, 0, &r));
	mem_counters(&b);
	EXPECT_EQ(written, r.shared);
	EXPECT_EQ(a.maps + (long)nr, b.maps);
	dst = (char *)r.dst;
	for (i = 0; i < nr; i++) {
		if (i % 3) {
			EXPECT_TRUE(mem_untouched(dst + PAGES(i)));
		} else {
			EXPECT_TRUE(mem_check(dst + PAGES(i), MEM_PAGE, i));
		}
	}
	mem_fill(dst, PAGES(nr), 5000);
	for (i = 0; i < nr; i += 3)
		EXPECT_TRUE(mem_check(src + PAGES(i), MEM_PAGE, i));
}

/* Bit n of @mask: page n is there. */
static char *make_holes(unsigned int mask, size_t nr)
{
	char *p = mem_map_alone(PAGES(nr));
	size_t i;

	if (!p)
		return NULL;
	for (i = 0; i < nr; i++) {
		if (mask & (1u << i))
			mem_fill(p + PAGES(i), MEM_PAGE, i + 1);
		else
			munmap(p + PAGES(i), MEM_PAGE);
	}
	return p;
}

/* All the ways four pages may be there or not. */
TEST_F(range, holes_become_holes)
{
	unsigned int mask, i, nr;
	struct cowsnap_remap r;
	char *src, *dst;

	for (mask = 0; mask < 16; mask++) {
		src = make_holes(mask, 4);
		ASSERT_NE(NULL, src);
		dst = mem_free_range(PAGES(4), MEM_HUGE, 0);
		ASSERT_EQ(0, mem_remap(self->fd, src, PAGES(4), dst,
				       COWSNAP_REMAP_HOLES, &r))
			TH_LOG("pages %#x", mask);
		ASSERT_EQ(U64(dst), r.dst);
		nr = 0;
		for (i = 0; i < 4; i++) {
			if (mask & (1u << i)) {
				nr++;
				EXPECT_TRUE(mem_check(dst + PAGES(i), MEM_PAGE,
						      i + 1));
			} else {
				EXPECT_TRUE(mem_is_free(dst + PAGES(i),
							MEM_PAGE));
				EXPECT_TRUE(mem_is_free(src + PAGES(i),
							MEM_PAGE));
			}
		}
		EXPECT_EQ(nr, r.shared);
		munmap(dst, PAGES(4));
		munmap(src - MEM_PAGE, PAGES(6));
	}
}

/* Where the kernel chooses, it needs room for the holes as well. */
TEST_F(range, chosen_place_has_room_for_the_holes)
{
	char *src = make_holes(1 | 1u << 15, 16), *dst;
	struct cowsnap_remap r;

	ASSERT_NE(NULL, src);
	ASSERT_EQ(0, mem_remap(self->fd, src, PAGES(16), NULL,
			       COWSNAP_REMAP_HOLES, &r));
	dst = (char *)r.dst;
	EXPECT_TRUE(mem_check(dst, MEM_PAGE, 1));
	EXPECT_TRUE(mem_check(dst + PAGES(15), MEM_PAGE, 16));
	EXPECT_TRUE(mem_is_free(dst + MEM_PAGE, PAGES(14)));
}

TEST_F(range, nothing_but_a_hole_changes_nothing)
{
	char *src = mem_free_range(PAGES(4), MEM_HUGE, 0);
	struct cowsnap_remap r;
	uint64_t maps;

	ASSERT_NE(NULL, src);
	maps = mem_maps_hash();
	EXPECT_EQ(0, mem_remap(self->fd, src, PAGES(4), NULL,
			       COWSNAP_REMAP_HOLES, &r));
	EXPECT_EQ(0, r.shared);
	EXPECT_EQ(0, r.copied);
	EXPECT_EQ(maps, mem_maps_hash());
}

/* With HOLES, what is there is still duplicated right up to its ends. */
TEST_F(range, holes_may_hide_most_of_a_large_range)
{
	size_t len = 4 * MEM_GIB;
	char *src = mem_free_range(len, MEM_GIB, 0), *dst;
	struct cowsnap_remap r;

	ASSERT_NE(NULL, src);
	ASSERT_NE(NULL, map_at(src + MEM_GIB - PAGES(2), PAGES(4)));
	ASSERT_NE(NULL, map_at(src + 3 * MEM_GIB, PAGES(4)));
	mem_fill(src + MEM_GIB - PAGES(2), PAGES(4), 1);
	mem_fill(src + 3 * MEM_GIB, PAGES(4), 2);
	dst = mem_free_range(len, MEM_GIB, PAGES(33));
	ASSERT_NE(NULL, dst);
	ASSERT_EQ(0, mem_remap(self->fd, src, len, dst, COWSNAP_REMAP_HOLES,
			       &r));
	EXPECT_EQ(8, r.shared);
	EXPECT_TRUE(mem_check(dst + MEM_GIB - PAGES(2), PAGES(4), 1));
	EXPECT_TRUE(mem_check(dst + 3 * MEM_GIB, PAGES(4), 2));
	EXPECT_TRUE(mem_is_free(dst, MEM_GIB - PAGES(2)));
	EXPECT_TRUE(mem_is_free(dst + MEM_GIB + PAGES(2), MEM_GIB));
}

/*
 * A chain of duplicates, each made of the one before and changed in one page
 * of its own. In the end each must hold its own changes and those of its
 * ancestors, whichever of them are gone.
 */
#define DEPTH	50
#define CHAIN	200

static bool level_holds(const char *p, int level)
{
	int i;

	for (i = 0; i < CHAIN; i++) {
		unsigned int seed = i <= level ? 100 + i : 1;

		if (!mem_check(p + PAGES(i), MEM_PAGE, seed)) {
			fprintf(stderr, "# level %d, page %d\n", level, i);
			return false;
		}
	}
	return true;
}

TEST_F(range, fifty_duplicates_of_duplicates)
{
	char *level[DEPTH];
	int i;

	level[0] = mem_map_alone(PAGES(CHAIN));
	ASSERT_NE(NULL, level[0]);
	for (i = 0; i < CHAIN; i++)
		mem_fill(level[0] + PAGES(i), MEM_PAGE, 1);
	mem_fill(level[0], MEM_PAGE, 100);
	for (i = 1; i < DEPTH; i++) {
		level[i] = mem_dup(self->fd, level[i - 1], PAGES(CHAIN));
		ASSERT_NE(NULL, level[i]);
		mem_fill(level[i] + PAGES(i), MEM_PAGE, 100 + i);
		ASSERT_EQ(CHAIN - 1, mem_shared_pages(level[i - 1], level[i],
						      PAGES(CHAIN)));
	}
	for (i = 0; i < DEPTH; i++)
		ASSERT_TRUE(level_holds(level[i], i));
	/* Every third one goes, the oldest among them. */
	for (i = 0; i < DEPTH; i += 3)
		ASSERT_EQ(0, munmap(level[i], PAGES(CHAIN)));
	for (i = 0; i < DEPTH; i++)
		ASSERT_TRUE(i % 3 == 0 || level_holds(level[i], i));
	/* The rest is written, the deepest first. */
	for (i = DEPTH - 1; i > 0; i--) {
		if (!(i % 3))
			continue;
		ASSERT_TRUE(level_holds(level[i], i));
		mem_fill(level[i], PAGES(CHAIN), 2);
	}
}

/* The same source again and again, changed in between: a row of snapshots. */
TEST_F(range, fifty_snapshots_of_one_source)
{
	char *snap[DEPTH], *src = mem_map_alone(PAGES(CHAIN));
	int i;

	ASSERT_NE(NULL, src);
	for (i = 0; i < CHAIN; i++)
		mem_fill(src + PAGES(i), MEM_PAGE, 1);
	for (i = 0; i < DEPTH; i++) {
		mem_fill(src + PAGES(i), MEM_PAGE, 100 + i);
		snap[i] = mem_dup(self->fd, src, PAGES(CHAIN));
		ASSERT_NE(NULL, snap[i]);
	}
	mem_fill(src, PAGES(CHAIN), 2);
	for (i = 0; i < DEPTH; i++)
		ASSERT_TRUE(level_holds(snap[i], i));
	for (i = 0; i < DEPTH; i += 2)
		munmap(snap[i], PAGES(CHAIN));
	for (i = 1; i < DEPTH; i += 2)
		ASSERT_TRUE(level_holds(snap[i], i));
	EXPECT_TRUE(mem_check(src, PAGES(CHAIN), 2));
}

/* Refused in many ways: accounting must not drift by a page or a kB. */
TEST_F(range, refused_calls_leave_all_counters)
{
	size_t len = 2 * MEM_HUGE, i;
	struct mem_counters before, after;
	char *src, *busy, *hole, *shared;
	struct rlimit lim;

	src = mem_map_alone(len);
	busy = mem_map_alone(len);
	hole = mem_map_alone(len);
	ASSERT_TRUE(src && busy && hole);
	mem_fill(src, len, 1);
	mem_fill(busy, len, 2);
	munmap(hole + len - MEM_PAGE, MEM_PAGE);
	shared = mem_map_alone(len);
	ASSERT_NE(NULL, shared);
	ASSERT_NE(MAP_FAILED, mmap(shared + len - MEM_PAGE, MEM_PAGE,
				   PROT_READ, MAP_SHARED | MAP_ANONYMOUS |
				   MAP_FIXED, -1, 0));
	ASSERT_EQ(0, getrlimit(RLIMIT_AS, &lim));
	mem_counters(&before);
	for (i = 0; i < 3; i++) {
		struct rlimit tight = lim;
		struct cowsnap_remap r;

		EXPECT_EQ(-ENOMEM, mem_remap(self->fd, hole, len, NULL, 0,
					     &r));
		EXPECT_EQ(-ENOMEM, mem_remap(self->fd, hole, len, busy,
					     COWSNAP_REMAP_FIXED, &r));
		EXPECT_EQ(-EOPNOTSUPP, mem_remap(self->fd, shared, len, NULL,
						 0, &r));
		EXPECT_EQ(-EOPNOTSUPP, mem_remap(self->fd, shared, len, busy,
						 COWSNAP_REMAP_FIXED, &r));
		EXPECT_EQ(-EEXIST, mem_remap(self->fd, src, len, busy,
					     COWSNAP_REMAP_FIXED_NOREPLACE,
					     &r));
		EXPECT_EQ(-EINVAL, mem_remap(self->fd, src, len,
					     src + MEM_PAGE,
					     COWSNAP_REMAP_FIXED, &r));
		EXPECT_EQ(-EOPNOTSUPP, mem_remap(self->fd, src, len, busy,
						 1u << 30, &r));
		tight.rlim_cur = before.vm_size << 10;
		ASSERT_EQ(0, setrlimit(RLIMIT_AS, &tight));
		EXPECT_EQ(-ENOMEM, mem_remap(self->fd, src, len, NULL, 0, &r));
		ASSERT_EQ(0, setrlimit(RLIMIT_AS, &lim));
	}
	mem_counters(&after);
	EXPECT_TRUE(mem_counters_equal(&before, &after));
	EXPECT_TRUE(mem_check(src, len, 1));
	EXPECT_TRUE(mem_check(busy, len, 2));
	/* Nobody may have made the source's pages shared on the way. */
	EXPECT_NE(0, mem_pagemap(src) & MEM_PM_EXCLUSIVE);
}

TEST_HARNESS_MAIN
