// SPDX-License-Identifier: GPL-2.0
/*
 * RELEASE: the duplicate is gone as by munmap(2), and the source is written
 * without a fault.
 */
#include <stdlib.h>
#include <unistd.h>

#include "ops.h"

FIXTURE(release)
{
	int fd;
	size_t len;
	char *src;
	char *dup;
	struct cowsnap_release r;
	struct mem_counters before;
};

FIXTURE_VARIANT(release)
{
	bool huge;
};

FIXTURE_VARIANT_ADD(release, small) { .huge = false };
FIXTURE_VARIANT_ADD(release, huge) { .huge = true };

FIXTURE_SETUP(release)
{
	self->fd = mem_open();
	ASSERT_GE(self->fd, 0);
	self->len = 2 * MEM_HUGE;
	self->src = variant->huge ? mem_map_huge(self->len) : mem_map(self->len);
	if (!self->src && variant->huge)
		SKIP(return, "no huge pages");
	ASSERT_NE(NULL, self->src);
	mem_fill(self->src, self->len, 1);
	mem_drain();
	mem_counters(&self->before);
	self->dup = mem_dup(self->fd, self->src, self->len);
	ASSERT_NE(NULL, self->dup);
}

FIXTURE_TEARDOWN(release)
{
	munmap(self->src, self->len);
	close(self->fd);
}

TEST_F(release, gives_the_source_all_it_had)
{
	struct mem_counters after;

	ASSERT_EQ(0, op_release(self->fd, self->src, self->dup, self->len,
				&self->r));
	EXPECT_EQ(self->len / MEM_PAGE, self->r.reused);
	EXPECT_EQ(0, self->r.copied);
	EXPECT_TRUE(mem_is_free(self->dup, self->len));
	EXPECT_EQ(0, op_faults_of_writes(self->src, self->len));
	EXPECT_TRUE(mem_check(self->src, self->len, 1));
	mem_counters(&after);
	EXPECT_TRUE(mem_counters_equal(&self->before, &after));
}

/* A value of /proc/self/status, in bytes. */
static size_t status_of(const char *name)
{
	FILE *f = fopen("/proc/self/status", "re");
	size_t len = strlen(name), kb = 0;
	char line[200];

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, name, len) && line[len] == ':')
			kb = strtoul(line + len + 1, NULL, 10);
	if (f)
		fclose(f);
	return kb << 10;
}

/* As munmap(2) does: getrusage() tells of it long afterwards. */
TEST_F(release, peak_of_the_rss_is_kept)
{
	ASSERT_EQ(0, op_release(self->fd, self->src, self->dup, self->len,
				&self->r));
	ASSERT_EQ(0, mem_write("/proc/self/clear_refs", "5"));
	self->dup = mem_dup(self->fd, self->src, self->len);
	ASSERT_NE(NULL, self->dup);
	ASSERT_EQ(0, op_release(self->fd, self->src, self->dup, self->len,
				&self->r));
	/* The counters of a process are not read to the page. */
	EXPECT_LE(status_of("VmRSS") + self->len / 2, status_of("VmHWM"));
}

TEST_F(release, frees_what_the_duplicate_had_alone)
{
	struct mem_counters after;

	mem_fill(self->dup, self->len / 2, 2);
	mem_drain();
	ASSERT_EQ(0, op_release(self->fd, self->src, self->dup, self->len,
				&self->r));
	EXPECT_TRUE(mem_is_free(self->dup, self->len));
	EXPECT_EQ(0, op_faults_of_writes(self->src, self->len));
	EXPECT_TRUE(mem_check(self->src, self->len, 1));
	mem_counters(&after);
	EXPECT_TRUE(mem_counters_equal(&self->before, &after));
}

/* Mapped by the duplicate alone, and read-only: not like what both sides map. */
TEST_F(release, frees_what_the_source_has_replaced)
{
	size_t len = 4 * MEM_HUGE;
	char *src = mem_map_alone(len), *dup;
	long before, after;

	ASSERT_NE(NULL, src);
	mem_fill(src, len, 1);
	dup = mem_dup(self->fd, src, len);
	ASSERT_NE(NULL, dup);
	mem_drain();
	before = mem_vmstat("nr_anon_pages");
	mem_fill(src, len, 2);
	ASSERT_EQ(0, op_release(self->fd, src, dup, len, &self->r));
	EXPECT_TRUE(mem_check(src, len, 2));
	mem_drain();
	after = mem_vmstat("nr_anon_pages");
	EXPECT_GT(MEM_HUGE / MEM_PAGE, labs(after - before))
		TH_LOG("%ld mapped pages, then %ld", before, after);
	mem_unmap_alone(src, len);
}

TEST_F(release, leaves_what_another_duplicate_has)
{
	char *other = mem_dup(self->fd, self->src, self->len);

	ASSERT_NE(NULL, other);
	ASSERT_EQ(0, op_release(self->fd, self->src, self->dup, self->len,
				&self->r));
	EXPECT_EQ(0, self->r.reused);
	mem_fill(self->src, self->len, 2);
	EXPECT_TRUE(mem_check(other, self->len, 1));
	ASSERT_EQ(0, op_release(self->fd, self->src, other, self->len, &self->r));
	EXPECT_TRUE(mem_check(self->src, self->len, 2));
}

TEST_F(release, of_a_part)
{
	size_t half = self->len / 2;

	ASSERT_EQ(0, op_release(self->fd, self->src + PAGES(3),
				self->dup + PAGES(3), half, &self->r));
	EXPECT_TRUE(mem_is_free(self->dup + PAGES(3), half));
	EXPECT_FALSE(mem_is_free(self->dup, PAGES(3)));
	/* Of a huge page that others map in part, the kernel takes back nothing. */
	if (!variant->huge || !mem_huge_whole(self->fd)) {
		EXPECT_EQ(half / MEM_PAGE, self->r.reused);
		EXPECT_EQ(0, op_faults_of_writes(self->src + PAGES(3), half));
	}
	mem_fill(self->src, self->len, 2);
	EXPECT_TRUE(mem_check(self->dup, PAGES(3), 1));
}

TEST_HARNESS_MAIN
