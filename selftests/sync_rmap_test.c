// SPDX-License-Identifier: GPL-2.0
/*
 * Reclaim, migration and memory errors find what a SYNC has shared, on both
 * sides: they count what was moved, since content alone does not tell.
 */
#include "kernel.h"
#include "ops.h"

#define NR	64UL
#define LEN	PAGES(NR)

#define NUMA_BALANCING	"/proc/sys/kernel/numa_balancing"

FIXTURE(found)
{
	int fd;
	char *src;
	char *dup;
	struct cgroup cg;
	long balancing;
	struct cowsnap_sync s;
};

FIXTURE_VARIANT(found)
{
	bool back;
	bool source_gone;
};

FIXTURE_VARIANT_ADD(found, refresh) { .back = false };
FIXTURE_VARIANT_ADD(found, rollback) { .back = true };
FIXTURE_VARIANT_ADD(found, refresh_then_unmapped) { .source_gone = true };
FIXTURE_VARIANT_ADD(found, rollback_then_unmapped) {
	.back = true, .source_gone = true,
};

/* New pages on the side that is taken over: they hang on its anon_vma. */
FIXTURE_SETUP(found)
{
	char *from, *to;

	self->balancing = mem_read_long(NUMA_BALANCING);
	mem_write(NUMA_BALANCING, "0");
	self->fd = mem_open();
	ASSERT_GE(self->fd, 0);
	self->cg.dir[0] = 0;
	if (!mem_have_swap() || cgroup_enter(&self->cg))
		SKIP(return, "no swap or no memory cgroup");
	self->src = mem_map_alone(LEN);
	ASSERT_NE(NULL, self->src);
	mem_fill(self->src, LEN, 1);
	self->dup = mem_dup(self->fd, self->src, LEN);
	ASSERT_NE(NULL, self->dup);
	from = variant->back ? self->dup : self->src;
	to = variant->back ? self->src : self->dup;
	mem_fill(from, LEN, 2);
	mem_fill(to, LEN / 2, 3);
	mem_drain();
	ASSERT_EQ(0, op_sync(self->fd, from, to, LEN, &self->s));
	ASSERT_EQ(NR, self->s.changed);
	if (variant->source_gone) {
		munmap(from, LEN);
		from = to;
	}
	self->src = from;
	self->dup = to;
}

FIXTURE_TEARDOWN(found)
{
	if (self->balancing > 0)
		mem_write(NUMA_BALANCING, "1");
	cgroup_leave(&self->cg);
	close(self->fd);
}

TEST_F(found, by_reclaim)
{
	mem_drain();
	EXPECT_EQ(variant->source_gone ? 1 : 2, page_count(self->src));
	EXPECT_EQ(NR, cgroup_swap_out(&self->cg, self->src, LEN));
	EXPECT_EQ(NR, swapped_pages(self->dup, LEN));
	EXPECT_TRUE(mem_check(self->dup, LEN, 2));
	EXPECT_TRUE(mem_check(self->src, LEN, 2));
	EXPECT_EQ(NR, mem_shared_pages(self->src, self->dup, LEN));
}

TEST_F(found, by_migration)
{
	int node = mem_nodes() - 1;

	if (!node)
		SKIP(return, "one node");
	EXPECT_EQ(NR, move_to_node(self->dup, LEN, 0));
	EXPECT_EQ(NR, move_to_node(self->dup, LEN, node));
	EXPECT_EQ(NR, mem_shared_pages(self->src, self->dup, LEN));
	EXPECT_TRUE(mem_check(self->src, LEN, 2));
}

TEST_F(found, by_soft_offline)
{
	uint64_t was = mem_pfn(self->dup + PAGES(3));

	mem_drain();
	if (madvise(self->dup + PAGES(3), MEM_PAGE, MADV_SOFT_OFFLINE) &&
	    (errno == EINVAL || errno == EOPNOTSUPP))
		SKIP(return, "no soft offline: %m");
	EXPECT_NE(was, mem_pfn(self->dup + PAGES(3)));
	EXPECT_EQ(NR, mem_shared_pages(self->src, self->dup, LEN));
	EXPECT_TRUE(mem_check(self->dup, LEN, 2));
}

TEST_HARNESS_MAIN
