// SPDX-License-Identifier: GPL-2.0
/*
 * Trackers of written pages: what they are told of the source is neither lost
 * nor invented, and the duplicate is new to them.
 */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "mem.h"

#define PAGES(n)	((n) * MEM_PAGE)
#define NR		16

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
	ASSERT_EQ(0, mem_write("/proc/self/clear_refs", "4"));
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
	ASSERT_EQ(0, mem_write("/proc/self/clear_refs", "4"));
	dst = mem_dup(self->fd, self->src, self->len);
	ASSERT_NE(NULL, dst);
	for (i = 0; i < NR; i += 4)
		mem_fill(self->src + PAGES(i), MEM_PAGE, 7);
	for (i = 0; i < NR; i++)
		EXPECT_EQ(i % 4 == 0, is_dirty(self->src + PAGES(i)))
			TH_LOG("page %zu", i);
	/* In place by now, and still seen. */
	munmap(dst, self->len);
	ASSERT_EQ(0, mem_write("/proc/self/clear_refs", "4"));
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
	ASSERT_EQ(0, mem_write("/proc/self/clear_refs", "4"));
	dst = mem_dup(self->fd, self->src, self->len);
	ASSERT_NE(NULL, dst);
	for (i = 0; i < NR; i++)
		EXPECT_TRUE(is_dirty(dst + PAGES(i)));
	/* From then on it is tracked as any memory is. */
	ASSERT_EQ(0, mem_write("/proc/self/clear_refs", "4"));
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
	ASSERT_EQ(0, mem_write("/proc/self/clear_refs", "4"));
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

TEST_HARNESS_MAIN
