// SPDX-License-Identifier: GPL-2.0
/*
 * UNSHARE: afterwards every page is private to the range and written without a
 * fault; what needs no copy is not copied; nobody's content changes.
 */
#include <sys/wait.h>
#include <unistd.h>

#include "ops.h"

FIXTURE(unshare)
{
	int fd;
	size_t len;
	char *src;
	char *dup;
	struct cowsnap_unshare u;
	struct mem_counters before;
};

FIXTURE_VARIANT(unshare)
{
	bool huge;
};

FIXTURE_VARIANT_ADD(unshare, small) { .huge = false };
FIXTURE_VARIANT_ADD(unshare, huge) { .huge = true };

FIXTURE_SETUP(unshare)
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

FIXTURE_TEARDOWN(unshare)
{
	munmap(self->src, self->len);
	munmap(self->dup, self->len);
	close(self->fd);
}

TEST_F(unshare, copies_what_is_shared)
{
	size_t nr = self->len / MEM_PAGE;

	ASSERT_EQ(0, op_unshare(self->fd, self->src, self->len, 0, &self->u))
		TH_LOG("reason %u", self->u.reason);
	EXPECT_EQ(nr, self->u.copied);
	EXPECT_EQ(0, self->u.reused);
	EXPECT_EQ(0, mem_shared_pages(self->src, self->dup, self->len));
	EXPECT_EQ(0, op_faults_of_writes(self->src, self->len));
	EXPECT_TRUE(mem_check(self->src, self->len, 1));
	EXPECT_TRUE(mem_check(self->dup, self->len, 1));
	mem_fill(self->src, self->len, 2);
	EXPECT_TRUE(mem_check(self->dup, self->len, 1));
	mem_fill(self->dup, self->len, 3);
	EXPECT_TRUE(mem_check(self->src, self->len, 2));
}

TEST_F(unshare, reuses_what_the_duplicate_has_left)
{
	size_t nr = self->len / MEM_PAGE;
	uint64_t pfn = mem_pfn(self->src);
	struct mem_counters after;

	munmap(self->dup, self->len);
	ASSERT_EQ(0, op_unshare(self->fd, self->src, self->len,
				COWSNAP_UNSHARE_REUSE, &self->u));
	EXPECT_EQ(0, self->u.copied);
	EXPECT_EQ(nr, self->u.reused);
	EXPECT_EQ(pfn, mem_pfn(self->src));
	EXPECT_EQ(0, op_faults_of_writes(self->src, self->len));
	EXPECT_TRUE(mem_check(self->src, self->len, 1));
	mem_counters(&after);
	EXPECT_TRUE(mem_counters_equal(&self->before, &after));
}

TEST_F(unshare, with_reuse_leaves_what_is_shared)
{
	ASSERT_EQ(0, op_unshare(self->fd, self->src, self->len,
				COWSNAP_UNSHARE_REUSE, &self->u));
	EXPECT_EQ(0, self->u.copied);
	EXPECT_EQ(0, self->u.reused);
	EXPECT_EQ(self->len / MEM_PAGE,
		  mem_shared_pages(self->src, self->dup, self->len));
	mem_fill(self->src, self->len, 2);
	EXPECT_TRUE(mem_check(self->dup, self->len, 1));
}

TEST_F(unshare, of_one_page_leaves_its_neighbours)
{
	char *page = self->src + PAGES(5);

	ASSERT_EQ(0, op_unshare(self->fd, page, MEM_PAGE, 0, &self->u));
	EXPECT_EQ(1, self->u.copied);
	EXPECT_EQ(self->len / MEM_PAGE - 1,
		  mem_shared_pages(self->src, self->dup, self->len));
	EXPECT_EQ(0, op_faults_of_writes(page, MEM_PAGE));
	mem_fill(self->src, self->len, 2);
	EXPECT_TRUE(mem_check(self->dup, self->len, 1));
}

/* Who has a page from before a fork shares it with another process. */
TEST_F(unshare, copies_what_a_child_has)
{
	int status = -1, to_child[2];
	char c = 0;
	pid_t pid;

	munmap(self->dup, self->len);
	ASSERT_EQ(0, pipe(to_child));
	pid = fork();
	if (!pid) {
		close(to_child[1]);
		if (read(to_child[0], &c, 1) < 0)
			_exit(2);
		_exit(!mem_check(self->src, self->len, 1));
	}
	ASSERT_EQ(0, op_unshare(self->fd, self->src, self->len, 0, &self->u));
	EXPECT_EQ(self->len / MEM_PAGE, self->u.copied);
	EXPECT_EQ(0, op_faults_of_writes(self->src, self->len));
	mem_fill(self->src, self->len, 2);
	close(to_child[1]);
	waitpid(pid, &status, 0);
	EXPECT_EQ(0, status);
}

TEST_HARNESS_MAIN
