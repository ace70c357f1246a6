// SPDX-License-Identifier: GPL-2.0
/*
 * Mappings with a file that are something else besides: the running program,
 * private /dev/zero, huge pages of a tmpfs.
 */
#include "mapped.h"
#include "harness.h"

/* What the program itself is made of */

static char data[NR * MEM_PAGE] __attribute__((aligned(4096))) = { 1 };

TEST(the_programs_own_data_is_duplicated)
{
	int fd = mem_open();
	char src[256], dst[256], *dup;

	mem_fill(data, LEN, 1);
	dup = mem_dup(fd, data, LEN);
	ASSERT_NE(NULL, dup);
	ASSERT_TRUE(maps_line(data, src, sizeof(src)));
	ASSERT_TRUE(maps_line(dup, dst, sizeof(dst)));
	/* The same program behind it, at another offset as maps has parts. */
	EXPECT_STREQ(strrchr(src, ' '), strrchr(dst, ' '));
	EXPECT_EQ(NR, mem_shared_pages(data, dup, LEN));
	mem_fill(data, LEN, 2);
	EXPECT_TRUE(mem_check(dup, LEN, 1));
	mem_fill(dup, LEN, 3);
	EXPECT_TRUE(mem_check(data, LEN, 2));
	munmap(dup, LEN);
	close(fd);
}

/* Needs nothing from where it is. */
static int __attribute__((noinline, aligned(4096))) answer(int a)
{
	return 3 * a;
}

TEST(the_programs_own_text_runs_in_the_duplicate)
{
	int fd = mem_open();
	int (*there)(int);
	char *dup = mem_dup(fd, (void *)answer, MEM_PAGE);

	ASSERT_NE(NULL, dup);
	there = (int (*)(int))(uintptr_t)dup;
	EXPECT_EQ(answer(14), there(14));
	munmap(dup, MEM_PAGE);
	close(fd);
}

/* Private /dev/zero: anonymous memory that has a file */

FIXTURE(zero)
{
	int fd;
	int file;
	char *src;
	struct cgroup cg;
};

FIXTURE_SETUP(zero)
{
	self->cg.dir[0] = 0;
	self->fd = mem_open();
	ASSERT_GE(self->fd, 0);
	self->file = open("/dev/zero", O_RDWR | O_CLOEXEC);
	ASSERT_GE(self->file, 0);
}

FIXTURE_TEARDOWN(zero)
{
	cgroup_leave(&self->cg);
	close(self->file);
	close(self->fd);
}

TEST_F(zero, is_duplicated_with_its_file_and_offset)
{
	struct cowsnap_remap r;
	char src[256], dst[256], *dup;
	size_t i;

	self->src = map_file(self->file, LEN, PROT_READ | PROT_WRITE, OFFSET);
	ASSERT_NE(NULL, self->src);
	for (i = 0; i < NR; i++) {
		if (is_written(i))
			mem_fill(PAGE(self->src, i), MEM_PAGE, 1);
		else if (i & 1)
			(void)*(volatile char *)PAGE(self->src, i);
	}
	ASSERT_EQ(0, mem_remap(self->fd, self->src, LEN, NULL, 0, &r));
	dup = (char *)(uintptr_t)r.dst;
	EXPECT_EQ(WRITTEN, r.shared);
	EXPECT_EQ(0, r.copied);
	ASSERT_TRUE(maps_line(self->src, src, sizeof(src)));
	ASSERT_TRUE(maps_line(dup, dst, sizeof(dst)));
	EXPECT_STREQ(src, dst);
	EXPECT_EQ(OFFSET, strtoul(dst, NULL, 16));
	mem_fill(self->src, LEN, 2);
	for (i = 0; i < NR; i++) {
		if (is_written(i)) {
			EXPECT_TRUE(mem_check(PAGE(dup, i), MEM_PAGE, 1));
		} else {
			EXPECT_TRUE(mem_is_zero(PAGE(dup, i), MEM_PAGE));
		}
	}
	mem_fill(dup, LEN, 3);
	EXPECT_TRUE(mem_check(self->src, LEN, 2));
	munmap(self->src, LEN);
	EXPECT_TRUE(mem_check(dup, LEN, 3));
}

/* Many at once, in and out of the file's tree in another order. */
TEST_F(zero, many_parts_come_and_go)
{
	char *dup[NR];
	size_t i;

	self->src = map_file(self->file, LEN, PROT_READ | PROT_WRITE, OFFSET);
	ASSERT_NE(NULL, self->src);
	mem_fill(self->src, LEN, 1);
	for (i = 0; i < NR; i++) {
		dup[i] = mem_dup(self->fd, PAGE(self->src, i), LEN - i * MEM_PAGE);
		ASSERT_NE(NULL, dup[i]);
	}
	for (i = 0; i < NR; i += 2)
		ASSERT_EQ(0, munmap(dup[i], LEN - i * MEM_PAGE));
	for (i = 1; i < NR; i += 2) {
		EXPECT_EQ(0, memcmp(dup[i], PAGE(self->src, i),
				    LEN - i * MEM_PAGE));
		ASSERT_EQ(0, munmap(dup[i], LEN - i * MEM_PAGE));
	}
}

TEST_F(zero, reclaim_takes_pages_from_both)
{
	char *dup;
	int err;

	if (!mem_have_swap())
		SKIP(return, "no swap");
	err = cgroup_enter(&self->cg);
	if (err)
		SKIP(return, "no memory cgroup: %s", strerror(-err));
	self->src = map_file(self->file, LEN, PROT_READ | PROT_WRITE, OFFSET);
	ASSERT_NE(NULL, self->src);
	mem_fill(self->src, LEN, 1);
	dup = mem_dup(self->fd, PAGE(self->src, 4), LEN - 4 * MEM_PAGE);
	ASSERT_NE(NULL, dup);
	EXPECT_EQ(NR, cgroup_swap_out(&self->cg, self->src, LEN));
	EXPECT_EQ(NR - 4, swapped_pages(dup, LEN - 4 * MEM_PAGE));
	EXPECT_TRUE(mem_check(self->src, LEN, 1));
	EXPECT_EQ(0, memcmp(dup, PAGE(self->src, 4), LEN - 4 * MEM_PAGE));
}

/* Huge pages of the file itself */

#define SHMEM_ENABLED	"/sys/kernel/mm/transparent_hugepage/shmem_enabled"

/* Left to the file as small ones are, and split where it was written. */
TEST(huge_pages_of_the_file_are_left_to_it)
{
	int fd = mem_open(), file = memfd_create("cowsnap", MFD_CLOEXEC);
	struct cowsnap_remap r;
	char *shared, *src, *dup;

	if (mem_write(SHMEM_ENABLED, "advise"))
		SKIP(return, "no huge pages in tmpfs here");
	ASSERT_EQ(0, ftruncate(file, 2 * MEM_HUGE));
	shared = mem_free_range(2 * MEM_HUGE, MEM_HUGE, 0);
	ASSERT_EQ(shared, mmap(shared, 2 * MEM_HUGE, PROT_READ | PROT_WRITE,
			       MAP_SHARED | MAP_FIXED_NOREPLACE, file, 0));
	madvise(shared, 2 * MEM_HUGE, MADV_HUGEPAGE);
	mem_fill(shared, 2 * MEM_HUGE, 1);
	src = mem_free_range(2 * MEM_HUGE, MEM_HUGE, 0);
	ASSERT_EQ(src, mmap(src, 2 * MEM_HUGE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_FIXED_NOREPLACE, file, 0));
	madvise(src, 2 * MEM_HUGE, MADV_HUGEPAGE);
	EXPECT_TRUE(mem_check(src, 2 * MEM_HUGE, 1));
	mem_write(SHMEM_ENABLED, "never");
	if (mem_smaps(src, "ShmemPmdMapped") <= 0)
		SKIP(return, "the kernel mapped no huge page");
	ASSERT_EQ(0, mem_remap(fd, src, 2 * MEM_HUGE, NULL, 0, &r));
	EXPECT_EQ(0, r.shared);
	dup = (char *)(uintptr_t)r.dst;
	EXPECT_TRUE(mem_check(dup, 2 * MEM_HUGE, 1));
	mem_fill(PAGE(src, 5), MEM_PAGE, 2);
	EXPECT_TRUE(mem_check(dup, 2 * MEM_HUGE, 1));
	ASSERT_EQ(0, munmap(dup, 2 * MEM_HUGE));
	/* Now one half is a page table with a page of ours in it. */
	ASSERT_EQ(0, mem_remap(fd, src, 2 * MEM_HUGE, NULL, 0, &r));
	EXPECT_EQ(1, r.shared);
	dup = (char *)(uintptr_t)r.dst;
	EXPECT_TRUE(mem_check(PAGE(dup, 5), MEM_PAGE, 2));
	EXPECT_EQ(0, memcmp(src, dup, 2 * MEM_HUGE));
	munmap(src, 2 * MEM_HUGE);
	munmap(shared, 2 * MEM_HUGE);
	munmap(dup, 2 * MEM_HUGE);
	close(file);
	close(fd);
}

TEST_HARNESS_MAIN
