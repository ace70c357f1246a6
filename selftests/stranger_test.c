// SPDX-License-Identifier: GPL-2.0
/*
 * Large folios and one mm, the way in by KSM: pages of ours that were merged with
 * those of a process that is no relative, and swapped out. Both have their swap
 * entries then; what he reads in as a large folio, source and duplicate find in
 * the swap cache. See mm_id_test.c for why they must not.
 */
#include "mm_id.h"
#include "harness.h"

/* Pages of its own, to be merged with ours, which it reads when told to. */
static void map_the_same(char *p, size_t len, int go, int done)
{
	p = mem_map_offset(len, MEM_HUGE, 0);
	if (!p || madvise(p, len, MADV_HUGEPAGE) ||
	    madvise(p, len, MADV_MERGEABLE))
		_exit(1);
	mem_fill(p, len, SEED);
	if (write(done, "", 1) == 1)
		read_when_told(p, len, go, done);
}

/* A process that is no relative of the memory mapped from now on. */
static bool start_stranger(struct child *child, size_t len)
{
	char c;

	return start(child, map_the_same, NULL, len) && read(child->done, &c, 1) == 1;
}

/* Is each page mapped elsewhere, too? */
static bool all_merged(const char *p, size_t len)
{
	size_t i;

	for (i = 0; i < len; i += MEM_PAGE)
		if (page_count(p + i) < 2)
			return false;
	return true;
}

static bool merge_with_stranger(char *p, size_t len)
{
	double end = seconds() + 8 * mem_slowness();
	bool merged = false;

	if (madvise(p, len, MADV_MERGEABLE) || !ksm_start())
		return false;
	while (!merged && seconds() < end) {
		usleep(20000);
		merged = all_merged(p, len);
	}
	ksm_pause();
	return merged;
}

FIXTURE(stranger)
{
	int fd;
	char mthp[16];
	struct cgroup cg;
	struct child child;
	struct rows rows;
	char *src;
};

FIXTURE_VARIANT(stranger)
{
	bool read_before;	/* and swap out what the source had to itself */
	bool unmerge;
};

FIXTURE_VARIANT_ADD(stranger, swapped_out) { };
FIXTURE_VARIANT_ADD(stranger, read_in_by_the_source) { .read_before = true };
FIXTURE_VARIANT_ADD(stranger, no_longer_mergeable) { .unmerge = true };

#define STRANGER_LEN	(8 * MTHP_LEN)

FIXTURE_SETUP(stranger)
{
	read_choice(MTHP, self->mthp, sizeof(self->mthp));
	self->cg.dir[0] = 0;
	self->fd = mem_open();
	ASSERT_LE(0, self->fd);
	if (access(KSM_DIR "run", W_OK))
		SKIP(return, "no KSM");
	if (!mem_have_swap())
		SKIP(return, "no swap");
	if (cgroup_enter(&self->cg))
		SKIP(return, "no memory cgroup with memory.reclaim");
}

FIXTURE_TEARDOWN(stranger)
{
	ksm_stop();
	cgroup_leave(&self->cg);
	if (self->mthp[0])
		mem_write(MTHP, self->mthp);
	close(self->fd);
}

/*
 * Swapped out are pages that KSM had merged with those of a stranger. How many
 * blocks could he read in as a whole?
 */
static size_t swap_out_merged(struct __test_metadata *_metadata,
			      FIXTURE_DATA(stranger) *self)
{
	mem_write(MTHP, "never");
	ASSERT_TRUE(start_stranger(&self->child, STRANGER_LEN));
	pad_slots(&self->rows);
	self->src = mem_map_offset(STRANGER_LEN, MEM_HUGE, 0);
	ASSERT_NE(NULL, self->src);
	mem_fill(self->src, STRANGER_LEN, SEED);
	ASSERT_TRUE(merge_with_stranger(self->src, STRANGER_LEN));
	cgroup_swap_out(&self->cg, self->src, STRANGER_LEN);
	return count_rows(&self->rows, self->src, STRANGER_LEN);
}

/*
 * The stranger has the swap entries, reads a large folio in, and source and
 * duplicate find it in the swap cache. When he is gone it belongs to one process.
 */
TEST_F(stranger, reads_what_ksm_had_merged)
{
	struct cowsnap_remap r;
	size_t tries, count = 0;
	char *dst;

	for (tries = 0; tries < 20; tries++) {
		count = swap_out_merged(_metadata, self);
		if (count)
			break;
		ASSERT_TRUE(end_child(&self->child));
		munmap(self->src, STRANGER_LEN);
		renew_swap();
	}
	if (!count)
		SKIP(return, "swap slots do not come in a row");
	if (variant->unmerge)
		ASSERT_EQ(0, madvise(self->src, STRANGER_LEN, MADV_UNMERGEABLE));
	if (variant->read_before)
		ASSERT_TRUE(read_all(self->src, STRANGER_LEN));
	ASSERT_EQ(0, mem_remap(self->fd, self->src, STRANGER_LEN, NULL, 0, &r));
	dst = (char *)(uintptr_t)r.dst;
	EXPECT_EQ(STRANGER_LEN / MEM_PAGE, r.shared + r.copied);
	if (variant->read_before)
		cgroup_swap_out(&self->cg, self->src, STRANGER_LEN);
	mem_write(MTHP, "always");
	EXPECT_TRUE(child_reads(&self->child));
	EXPECT_TRUE(read_all(self->src, STRANGER_LEN));
	EXPECT_TRUE(read_all(dst, STRANGER_LEN));
	ASSERT_TRUE(end_child(&self->child));
	EXPECT_TRUE(stay_apart(self->src, dst, STRANGER_LEN));
	munmap(dst, STRANGER_LEN);
	munmap(self->src, STRANGER_LEN);
}

TEST_HARNESS_MAIN
