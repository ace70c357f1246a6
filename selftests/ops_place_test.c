// SPDX-License-Identifier: GPL-2.0
/*
 * What UNSHARE, SYNC, DIFF and RELEASE say to hugetlb memory, DIFF to the vector
 * it is given, and all of them to arguments in the memory that they work on.
 */
#include <stdio.h>
#include <string.h>

#include "hugepool.h"
#include "request.h"

#define NR	4	/* pages of each range */

/* Hugetlb */

FIXTURE(ops_hugetlb)
{
	int fd;
	char *src;
	char *dup;
};

FIXTURE_SETUP(ops_hugetlb)
{
	struct cowsnap_remap r;

	self->fd = mem_open();
	ASSERT_GE(self->fd, 0);
	if (!pool_set(MEM_HUGE, POOL))
		SKIP(return, "no hugetlb pages");
	self->src = map_pages(MEM_HUGE, 2, MAP_NORESERVE);
	ASSERT_NE(NULL, self->src);
	fill_page(self->src, MEM_HUGE, 1);
	fill_page(self->src + MEM_HUGE, MEM_HUGE, 2);
	ASSERT_EQ(0, mem_remap(self->fd, self->src, 2 * MEM_HUGE, NULL, 0, &r));
	self->dup = (char *)r.dst;
}

FIXTURE_TEARDOWN(ops_hugetlb)
{
	munmap(self->src, 2 * MEM_HUGE);
	munmap(self->dup, 2 * MEM_HUGE);
	pool_set(MEM_HUGE, 0);
	close(self->fd);
}

TEST_F(ops_hugetlb, part_of_a_page_is_refused)
{
	struct cowsnap_unshare u = {
		.size = sizeof(u), .addr = U64(self->src), .len = MEM_PAGE,
	};
	struct cowsnap_diff d = {
		.size = sizeof(d), .a = U64(self->src), .b = U64(self->dup),
		.len = MEM_HUGE + MEM_PAGE,
	};
	struct cowsnap_release r = {
		.size = sizeof(r), .src = U64(self->src + MEM_PAGE),
		.dst = U64(self->dup), .len = MEM_HUGE,
	};
	uint64_t maps = mem_maps_hash();

	EXPECT_EQ(-EINVAL, call(self->fd, COWSNAP_UNSHARE, &u));
	EXPECT_EQ(COWSNAP_REASON_ALIGN, u.reason);
	EXPECT_EQ(U64(self->src + MEM_PAGE), u.fault_addr);
	u.addr = U64(self->src + MEM_PAGE);
	u.len = MEM_HUGE - MEM_PAGE;
	EXPECT_EQ(-EINVAL, call(self->fd, COWSNAP_UNSHARE, &u));
	EXPECT_EQ(COWSNAP_REASON_ALIGN, u.reason);
	EXPECT_EQ(-EINVAL, call(self->fd, COWSNAP_DIFF, &d));
	EXPECT_EQ(COWSNAP_REASON_ALIGN, d.reason);
	EXPECT_EQ(-EINVAL, call(self->fd, COWSNAP_RELEASE, &r));
	EXPECT_EQ(COWSNAP_REASON_ALIGN, r.reason);
	r.src = U64(self->src);
	r.dst = U64(self->dup + MEM_PAGE);
	EXPECT_EQ(-EINVAL, call(self->fd, COWSNAP_RELEASE, &r));
	EXPECT_EQ(COWSNAP_REASON_ALIGN, r.reason);
	EXPECT_EQ(maps, mem_maps_hash());
	EXPECT_EQ(2 * MEM_HUGE / MEM_PAGE,
		  mem_shared_pages(self->src, self->dup, 2 * MEM_HUGE));
}

TEST_F(ops_hugetlb, is_never_synced)
{
	struct cowsnap_sync s = {
		.size = sizeof(s), .from = U64(self->src), .to = U64(self->dup),
		.len = 2 * MEM_HUGE,
	};
	char *small = mem_map_offset(2 * MEM_HUGE, MEM_HUGE, 0);

	EXPECT_EQ(-EOPNOTSUPP, call(self->fd, COWSNAP_SYNC, &s));
	EXPECT_EQ(COWSNAP_REASON_HUGETLB, s.reason);
	ASSERT_NE(NULL, small);
	s.to = U64(small);
	EXPECT_EQ(-EOPNOTSUPP, call(self->fd, COWSNAP_SYNC, &s));
	EXPECT_EQ(COWSNAP_REASON_HUGETLB, s.reason);
	EXPECT_TRUE(mem_untouched(small));
}

/* The pool has no pages of a node to give. */
TEST_F(ops_hugetlb, is_not_moved_to_a_node)
{
	struct cowsnap_unshare u = {
		.size = sizeof(u), .addr = U64(self->src), .len = MEM_HUGE,
		.flags = COWSNAP_UNSHARE_NODE,
	};

	EXPECT_EQ(-EOPNOTSUPP, call(self->fd, COWSNAP_UNSHARE, &u));
	EXPECT_EQ(COWSNAP_REASON_HUGETLB, u.reason);
	EXPECT_EQ(0, u.copied);
}

/* DIFF's own */

FIXTURE(diff_request)
{
	int fd;
	char *src;
	char *dup;
	struct cowsnap_diff d;
	struct cowsnap_range vec[NR];
};

FIXTURE_SETUP(diff_request)
{
	self->fd = mem_open();
	ASSERT_GE(self->fd, 0);
	self->src = mem_map_alone(PAGES(NR));
	ASSERT_NE(NULL, self->src);
	mem_fill(self->src, PAGES(NR), 1);
	self->dup = mem_dup(self->fd, self->src, PAGES(NR));
	ASSERT_NE(NULL, self->dup);
	self->src[PAGES(1)]++;
	self->src[PAGES(3)]++;
	self->d = (struct cowsnap_diff){
		.size = sizeof(self->d), .a = U64(self->src),
		.b = U64(self->dup), .len = PAGES(NR),
		.vec = U64(self->vec), .vec_len = NR,
	};
}

FIXTURE_TEARDOWN(diff_request)
{
	close(self->fd);
}

TEST_F(diff_request, vector_that_cannot_be_written_is_efault)
{
	char *ro = mem_map_alone(MEM_PAGE);
	__u64 bad[] = { 0, U64(ro), KERNEL_ADDR, U64(ro) + PAGES(1), 1ULL << 63 };
	size_t i;

	ASSERT_NE(NULL, ro);
	ASSERT_EQ(0, mprotect(ro, MEM_PAGE, PROT_READ));
	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		self->d.vec = bad[i];
		self->d.reason = 0xa5a5a5a5;
		self->d.nr = 77;
		EXPECT_EQ(-EFAULT, call(self->fd, COWSNAP_DIFF, &self->d))
			TH_LOG("vec %#llx", bad[i]);
		EXPECT_EQ(COWSNAP_REASON_RESULT, self->d.reason);
		EXPECT_EQ(0, self->d.nr);
	}
	/* Nothing to store: nobody asks where. */
	self->d.len = MEM_PAGE;
	EXPECT_EQ(0, call(self->fd, COWSNAP_DIFF, &self->d));
	EXPECT_EQ(0, self->d.nr);
	EXPECT_EQ(MEM_PAGE, self->d.next_offset);
}

/* Of two ranges the second has no room: the kernel must not write further. */
TEST_F(diff_request, vector_that_ends_where_memory_ends)
{
	char *page = mem_map_alone(MEM_PAGE);
	struct cowsnap_range *vec = (void *)(page + MEM_PAGE);

	ASSERT_NE(NULL, page);
	self->d.vec = U64(vec - 2);
	self->d.vec_len = 2;
	EXPECT_EQ(0, call(self->fd, COWSNAP_DIFF, &self->d));
	EXPECT_EQ(2, self->d.nr);
	EXPECT_EQ(PAGES(3), vec[-1].start);
	self->d.vec = U64(vec - 1);
	EXPECT_EQ(-EFAULT, call(self->fd, COWSNAP_DIFF, &self->d));
	self->d.vec_len = 1;
	EXPECT_EQ(0, call(self->fd, COWSNAP_DIFF, &self->d));
	EXPECT_EQ(1, self->d.nr);
	EXPECT_EQ(PAGES(1), vec[-1].start);
	EXPECT_EQ(PAGES(2), vec[-1].end);
	EXPECT_EQ(PAGES(3), self->d.next_offset);
}

TEST_F(diff_request, huge_vec_len_is_only_a_limit)
{
	self->d.vec_len = ~0ULL;
	EXPECT_EQ(0, call(self->fd, COWSNAP_DIFF, &self->d));
	EXPECT_EQ(2, self->d.nr);
	EXPECT_EQ(PAGES(NR), self->d.next_offset);
}

TEST_F(diff_request, no_room_tells_where_the_first_difference_is)
{
	self->d.vec_len = 0;
	self->d.vec = 0;
	EXPECT_EQ(0, call(self->fd, COWSNAP_DIFF, &self->d));
	EXPECT_EQ(0, self->d.nr);
	EXPECT_EQ(PAGES(1), self->d.next_offset);
	/* Without one it goes on to the end. */
	self->d.len = PAGES(1);
	EXPECT_EQ(0, call(self->fd, COWSNAP_DIFF, &self->d));
	EXPECT_EQ(PAGES(1), self->d.next_offset);
}

TEST_F(diff_request, start_offset_outside_or_within_a_page_is_refused)
{
	static const __u64 outside[] = { PAGES(NR) + 1, PAGES(NR + 1), 1ULL << 63,
					 ~0ULL };
	static const __u64 within[] = { 1, 8, 2048, 4095, PAGES(1) + 1 };
	size_t i;

	for (i = 0; i < ARRAY_SIZE(outside); i++) {
		self->d.start_offset = outside[i];
		EXPECT_EQ(-EINVAL, call(self->fd, COWSNAP_DIFF, &self->d));
		EXPECT_EQ(COWSNAP_REASON_OFFSET, self->d.reason);
		EXPECT_EQ(0, self->d.nr);
	}
	for (i = 0; i < ARRAY_SIZE(within); i++) {
		self->d.start_offset = within[i];
		EXPECT_EQ(-EINVAL, call(self->fd, COWSNAP_DIFF, &self->d));
		EXPECT_EQ(COWSNAP_REASON_ALIGN, self->d.reason);
	}
	self->d.start_offset = PAGES(NR);
	EXPECT_EQ(0, call(self->fd, COWSNAP_DIFF, &self->d));
	EXPECT_EQ(0, self->d.nr);
	EXPECT_EQ(PAGES(NR), self->d.next_offset);
	self->d.start_offset = PAGES(2);
	EXPECT_EQ(0, call(self->fd, COWSNAP_DIFF, &self->d));
	EXPECT_EQ(1, self->d.nr);
	EXPECT_EQ(PAGES(3), self->vec[0].start);
}

/* Where the arguments lie */

FIXTURE(ops_place)
{
	int fd;
	char *src;
	char *dup;
};

FIXTURE_SETUP(ops_place)
{
	self->fd = mem_open();
	ASSERT_GE(self->fd, 0);
	self->src = mem_map_alone(PAGES(NR));
	ASSERT_NE(NULL, self->src);
	mem_fill(self->src, PAGES(NR), 1);
	self->dup = mem_dup(self->fd, self->src, PAGES(NR));
	ASSERT_NE(NULL, self->dup);
}

FIXTURE_TEARDOWN(ops_place)
{
	close(self->fd);
}

/* Refused before anything happens when it can be foreseen. */
TEST_F(ops_place, read_only_argument_is_efault_and_changes_nothing)
{
	static const struct {
		unsigned long cmd;
		size_t size;
	} cmds[] = {
		{ COWSNAP_UNSHARE, sizeof(struct cowsnap_unshare) },
		{ COWSNAP_SYNC, sizeof(struct cowsnap_sync) },
		{ COWSNAP_DIFF, sizeof(struct cowsnap_diff) },
		{ COWSNAP_RELEASE, sizeof(struct cowsnap_release) },
	};
	union any *req = mem_map_alone(MEM_PAGE);
	uint64_t maps = 0;
	size_t i;

	ASSERT_NE(NULL, req);
	mem_fill(self->dup, MEM_PAGE, 2);
	for (i = 0; i < ARRAY_SIZE(cmds); i++) {
		ASSERT_EQ(0, mprotect(req, MEM_PAGE, PROT_READ | PROT_WRITE));
		memset(req, 0, sizeof(*req));
		req->size = cmds[i].size;
		req->first = U64(self->src);
		req->second = U64(self->dup);
		req->len = PAGES(NR);
		if (cmds[i].cmd == COWSNAP_UNSHARE) {
			req->unshare = (struct cowsnap_unshare){
				.size = sizeof(req->unshare),
				.addr = U64(self->src), .len = PAGES(NR),
			};
		}
		ASSERT_EQ(0, mprotect(req, MEM_PAGE, PROT_READ));
		maps = mem_maps_hash();
		EXPECT_EQ(-EFAULT, call(self->fd, cmds[i].cmd, req));
		EXPECT_EQ(maps, mem_maps_hash());
		EXPECT_EQ(NR - 1, mem_shared_pages(self->src, self->dup, PAGES(NR)));
	}
	EXPECT_EQ(-EFAULT, call(self->fd, COWSNAP_RELEASE, NULL));
	EXPECT_EQ(-EFAULT, call(self->fd, COWSNAP_SYNC, (void *)KERNEL_ADDR));
	EXPECT_EQ(maps, mem_maps_hash());
}

/* In the range itself: the answer is stored where the struct is then. */
TEST_F(ops_place, argument_in_the_range_that_is_unshared)
{
	struct cowsnap_unshare *u = (void *)(self->src + PAGES(1) + 64);

	*u = (struct cowsnap_unshare){
		.size = sizeof(*u), .addr = U64(self->src), .len = PAGES(NR),
	};
	ASSERT_EQ(0, call(self->fd, COWSNAP_UNSHARE, u));
	EXPECT_EQ(NR - 1, u->copied);
	EXPECT_TRUE(mem_check(self->dup, PAGES(NR), 1));
}

TEST_F(ops_place, argument_in_the_range_that_is_synced)
{
	struct cowsnap_sync *s = (void *)(self->dup + PAGES(1) + 64), was;
	unsigned char before[sizeof(*s)];

	memcpy(before, self->src + PAGES(1) + 64, sizeof(before));
	*s = (struct cowsnap_sync){
		.size = sizeof(*s), .from = U64(self->src), .to = U64(self->dup),
		.len = PAGES(NR),
	};
	was = *s;
	ASSERT_EQ(0, call(self->fd, COWSNAP_SYNC, s));
	/* The inputs are what the source had there, the outputs the answer. */
	EXPECT_EQ(0, memcmp(before, s, offsetof(struct cowsnap_sync, changed)));
	EXPECT_NE(0, memcmp(&was, s, offsetof(struct cowsnap_sync, changed)));
	EXPECT_EQ(1, s->changed);
	EXPECT_TRUE(mem_check(self->src, PAGES(NR), 1));
}

TEST_F(ops_place, vector_in_the_ranges_that_are_compared)
{
	struct cowsnap_range *vec = (void *)(self->src + PAGES(2));
	struct cowsnap_diff d = {
		.size = sizeof(d), .a = U64(self->src), .b = U64(self->dup),
		.len = PAGES(NR), .vec = U64(vec), .vec_len = NR,
	};

	self->src[0]++;
	ASSERT_EQ(0, call(self->fd, COWSNAP_DIFF, &d));
	EXPECT_EQ(1, d.nr);
	EXPECT_EQ(0, vec[0].start);
	EXPECT_EQ(MEM_PAGE, vec[0].end);
	EXPECT_TRUE(mem_check(self->dup, PAGES(NR), 1));
}

TEST_HARNESS_MAIN
