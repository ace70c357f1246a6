// SPDX-License-Identifier: GPL-2.0
/*
 * The ABI of /dev/cowsnap as such: sizes of structs, flags, every row of the
 * errno table, what is stored where. What REMAP does to memory is tested next
 * door, in remap_test.c and the others.
 */
#include <stdio.h>

#include "request.h"

REQUEST_FIXTURE(remap)

TEST_F(remap, size_below_8_is_refused)
{
	uint64_t maps = mem_maps_hash();
	struct cowsnap_remap r, was;
	unsigned int size;

	for (size = 0; size < 8; size++) {
		r = self->r;
		r.size = size;
		was = r;
		EXPECT_EQ(-EINVAL, call(self->fd, COWSNAP_REMAP, &r));
		EXPECT_EQ(0, memcmp(&r, &was, sizeof(r)));
	}
	EXPECT_EQ(maps, mem_maps_hash());
}

/*
 * Without room for dst nobody would know of the duplicate: whatever the errno,
 * there must be none. Bytes behind the struct belong to somebody else.
 */
TEST_F(remap, struct_without_room_for_dst_duplicates_nothing)
{
	uint64_t maps = mem_maps_hash();
	struct cowsnap_remap r;
	unsigned int size;

	for (size = 8; size < 32; size++) {
		r = self->r;
		memset((char *)&r + size, 0xa5, sizeof(r) - size);
		r.size = size;
		ASSERT_NE(0, call(self->fd, COWSNAP_REMAP, &r))
			TH_LOG("size %u", size);
		ASSERT_TRUE(all_bytes((char *)&r + size, 0xa5,
				      sizeof(r) - size))
			TH_LOG("size %u", size);
		ASSERT_EQ(maps, mem_maps_hash())
			TH_LOG("size %u", size);
	}
}

TEST_F(remap, short_struct_gets_what_fits_and_nothing_more)
{
	struct cowsnap_remap r;
	unsigned int size;

	for (size = 32; size < sizeof(r); size++) {
		r = self->r;
		memset((char *)&r + size, 0xa5, sizeof(r) - size);
		r.size = size;
		ASSERT_EQ(0, call(self->fd, COWSNAP_REMAP, &r))
			TH_LOG("size %u", size);
		ASSERT_TRUE(all_bytes((char *)&r + size, 0xa5,
				      sizeof(r) - size))
			TH_LOG("size %u", size);
		if (size >= 40)
			ASSERT_EQ(4, r.shared);
		if (size >= 48)
			ASSERT_EQ(0, r.copied);
		ASSERT_TRUE(mem_check((void *)r.dst, self->len, 1));
		ASSERT_EQ(0, munmap((void *)r.dst, self->len));
	}
}

/* "reserved" is zero for a program that does not have it, garbage or not. */
TEST_F(remap, short_struct_has_zero_in_later_members)
{
	self->r.size = offsetof(struct cowsnap_remap, reserved);
	self->r.reserved = 0xdead;
	EXPECT_EQ(0, call(self->fd, COWSNAP_REMAP, &self->r));
	EXPECT_EQ(0xdead, self->r.reserved);
}

TEST_F(remap, long_struct_with_zero_tail_is_accepted)
{
	static const unsigned int extra[] = { 1, 4, 8, 4096, 65536 };
	struct cowsnap_remap *r = mem_map(PAGES(32));
	size_t i;

	ASSERT_NE(NULL, r);
	for (i = 0; i < ARRAY_SIZE(extra); i++) {
		*r = self->r;
		r->size += extra[i];
		ASSERT_EQ(0, call(self->fd, COWSNAP_REMAP, r))
			TH_LOG("%u bytes more", extra[i]);
		EXPECT_EQ(4, r->shared);
		EXPECT_TRUE(all_bytes(r + 1, 0, extra[i]));
		EXPECT_TRUE(mem_check((void *)r->dst, self->len, 1));
	}
}

/* What an older module cannot know it must not ignore. */
TEST_F(remap, long_struct_with_dirty_tail_is_refused)
{
	static const unsigned int at[] = { 0, 1, 7, 100, 4095, 65535 };
	struct cowsnap_remap *r = mem_map(PAGES(32));
	size_t i;

	ASSERT_NE(NULL, r);
	for (i = 0; i < ARRAY_SIZE(at); i++) {
		char *byte = (char *)(r + 1) + at[i];

		*r = self->r;
		r->size += at[i] + 1;
		*byte = 1;
		EXPECT_EQ(-E2BIG, mem_refused(self->fd, r))
			TH_LOG("byte %u of the tail", at[i]);
		EXPECT_EQ(COWSNAP_REASON_STRUCT_TAIL, r->reason);
		EXPECT_EQ(1, *byte);
		*byte = 0;
	}
}

TEST_F(remap, unknown_flag_is_refused)
{
	struct cowsnap_query q = { .size = sizeof(q) };
	int bit;

	ASSERT_EQ(0, call(self->fd, COWSNAP_QUERY, &q));
	for (bit = 0; bit < 32; bit++) {
		if (q.remap_flags & (1u << bit))
			continue;
		self->r.flags = 1u << bit;
		EXPECT_EQ(-EOPNOTSUPP, mem_refused(self->fd, &self->r))
			TH_LOG("bit %d", bit);
		EXPECT_EQ(COWSNAP_REASON_FLAG_UNKNOWN, self->r.reason);
		self->r.flags |= COWSNAP_REMAP_READONLY | COWSNAP_REMAP_HOLES;
		EXPECT_EQ(-EOPNOTSUPP, mem_refused(self->fd, &self->r));
	}
}

TEST_F(remap, contradicting_flags_are_refused)
{
	self->r.dst = U64(mem_free_range(self->len, MEM_HUGE, 0));
	self->r.flags = COWSNAP_REMAP_FIXED | COWSNAP_REMAP_FIXED_NOREPLACE;
	EXPECT_EQ(-EINVAL, mem_refused(self->fd, &self->r));
	EXPECT_EQ(COWSNAP_REASON_FLAG_CONFLICT, self->r.reason);
}

TEST_F(remap, non_zero_reserved_is_refused)
{
	int bit;

	for (bit = 0; bit < 32; bit++) {
		self->r.reserved = 1u << bit;
		EXPECT_EQ(-EINVAL, mem_refused(self->fd, &self->r));
		EXPECT_EQ(COWSNAP_REASON_RESERVED, self->r.reason);
	}
}

TEST_F(remap, misaligned_range_is_refused)
{
	static const unsigned int off[] = { 1, 8, 511, 2048, 4095 };
	struct cowsnap_remap r;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(off); i++) {
		r = self->r;
		r.src += off[i];
		EXPECT_EQ(-EINVAL, mem_refused(self->fd, &r));
		EXPECT_EQ(COWSNAP_REASON_ALIGN, r.reason);

		r = self->r;
		r.len -= off[i];
		EXPECT_EQ(-EINVAL, mem_refused(self->fd, &r));
		EXPECT_EQ(COWSNAP_REASON_ALIGN, r.reason);

		r = self->r;
		r.flags = COWSNAP_REMAP_FIXED;
		r.dst = U64(mem_free_range(self->len, MEM_HUGE, 0)) + off[i];
		EXPECT_EQ(-EINVAL, mem_refused(self->fd, &r));
		EXPECT_EQ(COWSNAP_REASON_ALIGN, r.reason);

		r.flags = COWSNAP_REMAP_FIXED_NOREPLACE;
		EXPECT_EQ(-EINVAL, mem_refused(self->fd, &r));
		EXPECT_EQ(COWSNAP_REASON_ALIGN, r.reason);
	}
}

TEST_F(remap, empty_range_is_refused)
{
	self->r.len = 0;
	EXPECT_EQ(-EINVAL, mem_refused(self->fd, &self->r));
	EXPECT_EQ(COWSNAP_REASON_EMPTY, self->r.reason);
}

/* Sums that wrap would make later comparisons pass. */
TEST_F(remap, source_that_leaves_the_address_space_is_refused)
{
	static const struct {
		__u64 src, len;
	} bad[] = {
		{ -4096ULL, 4096 },		/* the sum is 0 */
		{ -4096ULL, 8192 },
		{ 1ULL << 63, 1ULL << 63 },
		{ KERNEL_ADDR, 4096 },
		{ 1ULL << 62, 4096 },
		{ 4096, 1ULL << 63 },
		{ 65536, -65536ULL },
		{ 65536, -4096ULL },
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		self->r.src = bad[i].src;
		self->r.len = bad[i].len;
		EXPECT_EQ(-EINVAL, mem_refused(self->fd, &self->r))
			TH_LOG("%#llx + %#llx", bad[i].src, bad[i].len);
		EXPECT_EQ(COWSNAP_REASON_OVERFLOW, self->r.reason);
		/* A hole is none where nothing can be. */
		self->r.flags ^= COWSNAP_REMAP_HOLES;
	}
	self->r.src = U64(self->src);
	self->r.len = -self->r.src;
	EXPECT_EQ(-EINVAL, mem_refused(self->fd, &self->r));
	EXPECT_EQ(COWSNAP_REASON_OVERFLOW, self->r.reason);
}

TEST_F(remap, destination_that_leaves_the_address_space_is_refused)
{
	static const __u64 bad[] = {
		-4096ULL, -8192ULL, -16384ULL, 1ULL << 63, 1ULL << 62,
		KERNEL_ADDR,
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		self->r.dst = bad[i];
		self->r.flags = COWSNAP_REMAP_FIXED;
		EXPECT_EQ(-EINVAL, mem_refused(self->fd, &self->r))
			TH_LOG("%#llx", bad[i]);
		EXPECT_EQ(COWSNAP_REASON_OVERFLOW, self->r.reason);
		self->r.flags = COWSNAP_REMAP_FIXED_NOREPLACE;
		EXPECT_EQ(-EINVAL, mem_refused(self->fd, &self->r));
		EXPECT_EQ(COWSNAP_REASON_OVERFLOW, self->r.reason);
	}
}

static const long overlaps[] = { 0, 1, 2, 3, -1, -2, -3 };

/* Replacing the source while reading it can only destroy it. */
TEST_F(remap, overlap_is_refused)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(overlaps); i++) {
		self->r.dst = self->r.src + PAGES(overlaps[i]);
		self->r.flags = COWSNAP_REMAP_FIXED;
		EXPECT_EQ(-EINVAL, mem_refused(self->fd, &self->r))
			TH_LOG("%ld pages further", overlaps[i]);
		EXPECT_EQ(COWSNAP_REASON_OVERLAP, self->r.reason);
		self->r.flags = COWSNAP_REMAP_FIXED_NOREPLACE;
		EXPECT_EQ(-EINVAL, mem_refused(self->fd, &self->r));
		EXPECT_EQ(COWSNAP_REASON_OVERLAP, self->r.reason);
	}
}

TEST_F(remap, overlapping_hint_is_only_a_hint)
{
	struct cowsnap_remap r;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(overlaps); i++) {
		r = self->r;
		r.dst = r.src + PAGES(overlaps[i]);
		ASSERT_EQ(0, call(self->fd, COWSNAP_REMAP, &r));
		EXPECT_TRUE(r.dst + r.len <= r.src || r.dst >= r.src + r.len);
		EXPECT_TRUE(mem_check((void *)r.dst, self->len, 1));
	}
}

/*
 * Programs probe: which error they get for a request with two must not depend
 * on the version. Each request below is wrong in one more way than the next.
 */
TEST_F(remap, checks_come_in_the_documented_order)
{
	struct {
		struct cowsnap_remap r;
		__u64 tail;
	} a = { .r = self->r };
	void *p = mem_map(self->len);

	ASSERT_NE(NULL, p);
	munmap(p, self->len);
	a.r.src = U64(p) + 1;			/* a hole, and misaligned */
	a.r.flags = 1u << 31;
	a.r.size = sizeof(a);
	a.tail = 1;
	EXPECT_EQ(-E2BIG, mem_refused(self->fd, &a.r));
	a.r.size = 7;
	EXPECT_EQ(-EINVAL, call(self->fd, COWSNAP_REMAP, &a.r));

	a.r.size = sizeof(a.r);
	EXPECT_EQ(-EOPNOTSUPP, mem_refused(self->fd, &a.r));
	EXPECT_EQ(COWSNAP_REASON_FLAG_UNKNOWN, a.r.reason);

	a.r.flags = COWSNAP_REMAP_FIXED | COWSNAP_REMAP_FIXED_NOREPLACE;
	EXPECT_EQ(-EINVAL, mem_refused(self->fd, &a.r));
	EXPECT_EQ(COWSNAP_REASON_FLAG_CONFLICT, a.r.reason);

	a.r.flags = COWSNAP_REMAP_FIXED;
	EXPECT_EQ(-EINVAL, mem_refused(self->fd, &a.r));
	EXPECT_EQ(COWSNAP_REASON_ALIGN, a.r.reason);

	a.r.src = a.r.dst = U64(p);		/* a hole, and overlap */
	EXPECT_EQ(-EINVAL, mem_refused(self->fd, &a.r));
	EXPECT_EQ(COWSNAP_REASON_OVERLAP, a.r.reason);

	a.r.dst = 0;
	a.r.flags = 0;
	EXPECT_EQ(-ENOMEM, mem_refused(self->fd, &a.r));
	EXPECT_EQ(COWSNAP_REASON_HOLE, a.r.reason);
}

TEST_F(remap, unknown_command_is_enotty)
{
	struct cowsnap_query q = { .size = sizeof(q) };
	struct cowsnap_remap r;
	unsigned int nr;

	ASSERT_EQ(0, call(self->fd, COWSNAP_QUERY, &q));
	for (nr = 2; nr < 256; nr++) {
		if (nr < 32 && q.ops & (1u << nr))
			continue;
		r = self->r;
		EXPECT_EQ(-ENOTTY, call(self->fd, _IO(COWSNAP_IOC_MAGIC, nr),
					&r));
		EXPECT_EQ(0, memcmp(&r, &self->r, sizeof(r)));
		EXPECT_EQ(-ENOTTY, call(self->fd, _IO(COWSNAP_IOC_MAGIC, nr),
					NULL));
	}
	r = self->r;
	for (nr = 0; nr < 2; nr++) {
		EXPECT_EQ(-ENOTTY, call(self->fd, _IO(0, nr), &r));
		EXPECT_EQ(-ENOTTY, call(self->fd, _IO(0xc4, nr), &r));
		EXPECT_EQ(-ENOTTY, call(self->fd, _IO('T', nr), &r));
		EXPECT_EQ(-ENOTTY, call(self->fd,
					_IOWR(COWSNAP_IOC_MAGIC, nr,
					      struct cowsnap_remap), &r));
		EXPECT_EQ(-ENOTTY, call(self->fd,
					_IOR(COWSNAP_IOC_MAGIC, nr, int), &r));
	}
}

/* Outputs are those of this call, whatever the struct held before. */
TEST_F(remap, success_stores_every_output)
{
	memset(&self->r.shared, 0xa5, 3 * sizeof(__u64) + sizeof(__u32));
	ASSERT_EQ(0, call(self->fd, COWSNAP_REMAP, &self->r));
	EXPECT_EQ(sizeof(self->r), self->r.size);
	EXPECT_EQ(0, self->r.flags);
	EXPECT_EQ(U64(self->src), self->r.src);
	EXPECT_EQ(self->len, self->r.len);
	EXPECT_NE(0, self->r.dst);
	EXPECT_EQ(4, self->r.shared);
	EXPECT_EQ(0, self->r.copied);
	EXPECT_EQ(0, self->r.fault_addr);
	EXPECT_EQ(COWSNAP_REASON_NONE, self->r.reason);
	EXPECT_EQ(0, self->r.reserved);
}

/* That is why dst is left alone on failure: the hint is still in it. */
TEST_F(remap, refused_request_can_be_tried_again_as_it_is)
{
	char *hint = mem_free_range(self->len, MEM_HUGE, MEM_PAGE);

	ASSERT_NE(NULL, hint);
	self->r.dst = U64(hint);
	munmap(self->src + PAGES(2), MEM_PAGE);
	EXPECT_EQ(-ENOMEM, mem_refused(self->fd, &self->r));
	ASSERT_NE(MAP_FAILED, mmap(self->src + PAGES(2), MEM_PAGE,
				   PROT_READ | PROT_WRITE, MAP_FIXED |
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	mem_fill(self->src, self->len, 1);
	ASSERT_EQ(0, call(self->fd, COWSNAP_REMAP, &self->r));
	EXPECT_EQ(U64(hint), self->r.dst);
	EXPECT_EQ(COWSNAP_REASON_NONE, self->r.reason);
	EXPECT_EQ(0, self->r.fault_addr);
	EXPECT_TRUE(mem_check(hint, self->len, 1));
}

/* The first page of the source that is missing, and no other. */
TEST_F(remap, hole_is_refused_where_it_begins)
{
	struct cowsnap_remap r;
	char *src;
	int first, last;

	for (first = 0; first < 4; first++) {
		for (last = first; last < 4; last++) {
			src = mem_map_alone(self->len);
			ASSERT_NE(NULL, src);
			munmap(src + PAGES(first), PAGES(last - first + 1));
			r = self->r;
			r.src = U64(src);
			ASSERT_EQ(-ENOMEM, mem_refused(self->fd, &r));
			EXPECT_EQ(COWSNAP_REASON_HOLE, r.reason);
			EXPECT_EQ(U64(src) + PAGES(first), r.fault_addr);
			mem_unmap_alone(src, self->len);
		}
	}
	/* Two holes: the first counts. */
	src = mem_map_alone(self->len);
	munmap(src + PAGES(1), MEM_PAGE);
	munmap(src + PAGES(3), MEM_PAGE);
	r = self->r;
	r.src = U64(src);
	ASSERT_EQ(-ENOMEM, mem_refused(self->fd, &r));
	EXPECT_EQ(U64(src) + PAGES(1), r.fault_addr);
}

TEST_HARNESS_MAIN
