// SPDX-License-Identifier: GPL-2.0
/*
 * What is asked of UNSHARE, SYNC, DIFF and RELEASE and answered by them: sizes
 * of structs, flags, ranges, nodes, every refusal that needs no luck. Whatever
 * is refused has changed nothing.
 */
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>

#include "request.h"

#define NR	4	/* pages of each range */

FIXTURE(ops)
{
	int fd;
	char *src;
	char *dup;
	size_t len;
	union any req;
	struct cowsnap_range vec[NR];
	/* What nobody may change. */
	uint64_t maps;
	uint64_t entries[2][NR];
};

FIXTURE_VARIANT(ops)
{
	unsigned long cmd;
	size_t size;		/* of the struct */
	size_t out;		/* where outputs begin */
	size_t reserved, reason, fault_addr;
	bool two;		/* ranges */
};

#define OFFSETS(name, first_out)					\
	.size = sizeof(struct cowsnap_ ## name),			\
	.out = offsetof(struct cowsnap_ ## name, first_out),		\
	.reserved = offsetof(struct cowsnap_ ## name, reserved),	\
	.reason = offsetof(struct cowsnap_ ## name, reason),		\
	.fault_addr = offsetof(struct cowsnap_ ## name, fault_addr)

FIXTURE_VARIANT_ADD(ops, unshare) {
	.cmd = COWSNAP_UNSHARE, OFFSETS(unshare, copied), .two = false,
};
FIXTURE_VARIANT_ADD(ops, sync) {
	.cmd = COWSNAP_SYNC, OFFSETS(sync, changed), .two = true,
};
FIXTURE_VARIANT_ADD(ops, diff) {
	.cmd = COWSNAP_DIFF, OFFSETS(diff, nr), .two = true,
};
FIXTURE_VARIANT_ADD(ops, release) {
	.cmd = COWSNAP_RELEASE, OFFSETS(release, reused), .two = true,
};

static void set_ranges(FIXTURE_DATA(ops) *self, const FIXTURE_VARIANT(ops) *v,
		       void *first, void *second, size_t len)
{
	self->req.first = U64(first);
	if (v->two) {
		self->req.second = U64(second);
		self->req.len = len;
	} else {
		self->req.len_of_one = len;
	}
}

static void fill_request(FIXTURE_DATA(ops) *self, const FIXTURE_VARIANT(ops) *v)
{
	memset(&self->req, 0, sizeof(self->req));
	self->req.size = v->size;
	set_ranges(self, v, self->src, self->dup, self->len);
	if (v->cmd == COWSNAP_DIFF) {
		self->req.diff.vec = U64(self->vec);
		self->req.diff.vec_len = NR;
	}
}

/* Some pages shared, one of each side its own: each command had work to do. */
FIXTURE_SETUP(ops)
{
	self->fd = mem_open();
	ASSERT_GE(self->fd, 0);
	self->len = PAGES(NR);
	self->src = mem_map_alone(self->len);
	ASSERT_NE(NULL, self->src);
	mem_fill(self->src, self->len, 1);
	self->dup = mem_dup(self->fd, self->src, self->len);
	ASSERT_NE(NULL, self->dup);
	mem_fill(self->src, MEM_PAGE, 2);
	mem_fill(self->dup + PAGES(3), MEM_PAGE, 3);
	mem_pagemap_read(self->src, self->entries[0], NR);
	mem_pagemap_read(self->dup, self->entries[1], NR);
	self->maps = mem_maps_hash();
	fill_request(self, variant);
}

FIXTURE_TEARDOWN(ops)
{
	close(self->fd);
}

static __u32 u32_at(const union any *req, size_t at)
{
	__u32 v;

	memcpy(&v, req->bytes + at, sizeof(v));
	return v;
}

static __u64 u64_at(const union any *req, size_t at)
{
	__u64 v;

	memcpy(&v, req->bytes + at, sizeof(v));
	return v;
}

static bool untouched(FIXTURE_DATA(ops) *self)
{
	uint64_t now[2][NR];

	if (mem_maps_hash() != self->maps) {
		fprintf(stderr, "# the mappings have changed\n");
		return false;
	}
	mem_pagemap_read(self->src, now[0], NR);
	mem_pagemap_read(self->dup, now[1], NR);
	if (memcmp(now, self->entries, sizeof(now))) {
		fprintf(stderr, "# the page tables have changed\n");
		return false;
	}
	return mem_check(self->src, MEM_PAGE, 2) &&
	       mem_check(self->dup, MEM_PAGE, 1) &&
	       mem_check(self->dup + PAGES(3), MEM_PAGE, 3);
}

/*
 * A request that is to be refused: -errno, 0, or MEM_BROKEN when it left a
 * trace: memory or an input changed, an output not stored.
 */
static int refused(FIXTURE_DATA(ops) *self, const FIXTURE_VARIANT(ops) *v)
{
	union any is = self->req, was;
	__u32 reserved = u32_at(&self->req, v->reserved);
	__u32 zero = 0;
	int err;

	memset(is.bytes + v->out, 0xa5, v->size - v->out);
	memcpy(is.bytes + v->reserved, &reserved, sizeof(reserved));
	was = is;
	err = call(self->fd, v->cmd, &is);
	self->req = is;
	if (!err)
		return 0;
	memset(was.bytes + v->out, 0, v->size - v->out);
	memcpy(was.bytes + v->reserved, &reserved, sizeof(reserved));
	memcpy(was.bytes + v->reason, is.bytes + v->reason, sizeof(__u32));
	memcpy(was.bytes + v->fault_addr, is.bytes + v->fault_addr, sizeof(__u64));
	if (v->cmd == COWSNAP_UNSHARE)
		memcpy(was.bytes + offsetof(struct cowsnap_unshare, reserved2),
		       &zero, sizeof(zero));
	if (v->cmd == COWSNAP_DIFF)
		was.diff.next_offset = was.diff.start_offset;
	if (memcmp(&was, &is, v->size)) {
		fprintf(stderr, "# the answer to a refused request is odd\n");
		return MEM_BROKEN;
	}
	return untouched(self) ? err : MEM_BROKEN;
}

#define EXPECT_REFUSED(errno_, reason_)	do {				\
	EXPECT_EQ(-(errno_), refused(self, variant));			\
	EXPECT_EQ(COWSNAP_REASON_ ## reason_,				\
		  u32_at(&self->req, variant->reason));			\
} while (0)

#define EXPECT_REFUSED_AT(errno_, reason_, at_)	do {			\
	EXPECT_REFUSED(errno_, reason_);				\
	EXPECT_EQ(U64(at_), u64_at(&self->req, variant->fault_addr));	\
} while (0)

/* The request that the others are bad forms of. */
TEST_F(ops, a_good_request_is_served)
{
	EXPECT_EQ(0, call(self->fd, variant->cmd, &self->req));
	EXPECT_EQ(0, u32_at(&self->req, variant->reason));
	EXPECT_EQ(0, u64_at(&self->req, variant->fault_addr));
}

TEST_F(ops, size_below_8_is_refused)
{
	unsigned int size;
	union any was;

	for (size = 0; size < 8; size++) {
		self->req.size = size;
		was = self->req;
		EXPECT_EQ(-EINVAL, call(self->fd, variant->cmd, &self->req));
		EXPECT_EQ(0, memcmp(&was, &self->req, sizeof(was)));
	}
	EXPECT_TRUE(untouched(self));
}

/* Without all of the inputs there is no range: it is empty. */
TEST_F(ops, struct_that_ends_before_len_is_empty)
{
	size_t size, end = variant->two ? offsetof(union any, len) :
					  offsetof(union any, len_of_one);
	union any req;

	for (size = 8; size <= end; size++) {
		fill_request(self, variant);
		self->req.size = size;
		memset(self->req.bytes + size, 0xa5, sizeof(req) - size);
		req = self->req;
		EXPECT_EQ(-EINVAL, call(self->fd, variant->cmd, &self->req));
		EXPECT_EQ(0, memcmp(&req, &self->req, sizeof(req)));
	}
	EXPECT_TRUE(untouched(self));
}

TEST_F(ops, short_struct_gets_what_fits_and_nothing_more)
{
	size_t size;

	for (size = variant->out; size < variant->size; size++) {
		fill_request(self, variant);
		self->req.size = size;
		if (variant->cmd == COWSNAP_RELEASE)
			self->dup = mem_dup(self->fd, self->src, self->len);
		set_ranges(self, variant, self->src, self->dup, self->len);
		memset(self->req.bytes + size, 0xa5,
		       sizeof(self->req) - size);
		ASSERT_EQ(0, call(self->fd, variant->cmd, &self->req))
			TH_LOG("size %zu", size);
		ASSERT_TRUE(all_bytes(self->req.bytes + size, 0xa5,
				      sizeof(self->req) - size))
			TH_LOG("size %zu", size);
	}
}

TEST_F(ops, long_struct_with_zero_tail_is_accepted)
{
	char *page = mem_map_alone(PAGES(3));
	union any *req = (union any *)page;

	ASSERT_NE(NULL, page);
	self->req.size = PAGES(3);
	memcpy(req, &self->req, variant->size);
	ASSERT_EQ(0, call(self->fd, variant->cmd, req));
	EXPECT_TRUE(all_bytes(page + variant->size, 0,
			      PAGES(3) - variant->size));
}

TEST_F(ops, long_struct_with_dirty_tail_is_refused)
{
	static const unsigned int at[] = { 0, 1, 7, 100, 4095 };
	char *page = mem_map(PAGES(2));
	union any *req = (union any *)page;
	size_t i;

	ASSERT_NE(NULL, page);
	self->maps = mem_maps_hash();
	for (i = 0; i < ARRAY_SIZE(at); i++) {
		memcpy(req, &self->req, variant->size);
		req->size += at[i] + 1;
		page[variant->size + at[i]] = 1;
		EXPECT_EQ(-E2BIG, call(self->fd, variant->cmd, req));
		EXPECT_EQ(COWSNAP_REASON_STRUCT_TAIL,
			  u32_at(req, variant->reason));
		EXPECT_EQ(1, page[variant->size + at[i]]);
		page[variant->size + at[i]] = 0;
	}
	EXPECT_TRUE(untouched(self));
}

TEST_F(ops, unknown_flag_is_refused)
{
	struct cowsnap_query q = { .size = sizeof(q) };
	__u32 known[8] = { 0 };
	int bit;

	ASSERT_EQ(0, call(self->fd, COWSNAP_QUERY, &q));
	known[_IOC_NR(COWSNAP_UNSHARE)] = q.unshare_flags;
	known[_IOC_NR(COWSNAP_SYNC)] = q.sync_flags;
	known[_IOC_NR(COWSNAP_DIFF)] = q.diff_flags;
	known[_IOC_NR(COWSNAP_RELEASE)] = q.release_flags;
	EXPECT_EQ(variant->two ? 0 : COWSNAP_UNSHARE_REUSE | COWSNAP_UNSHARE_NODE,
		  known[_IOC_NR(variant->cmd)]);
	for (bit = 0; bit < 32; bit++) {
		if (known[_IOC_NR(variant->cmd)] & 1u << bit)
			continue;
		fill_request(self, variant);
		self->req.flags = 1u << bit;
		EXPECT_REFUSED(EOPNOTSUPP, FLAG_UNKNOWN);
		/* Flags come before ranges. */
		self->req.first++;
		EXPECT_REFUSED(EOPNOTSUPP, FLAG_UNKNOWN);
	}
}

TEST_F(ops, query_says_that_the_command_exists)
{
	struct cowsnap_query q = { .size = sizeof(q) };

	ASSERT_EQ(0, call(self->fd, COWSNAP_QUERY, &q));
	EXPECT_TRUE(q.ops & 1u << _IOC_NR(variant->cmd));
}

TEST_F(ops, non_zero_reserved_is_refused)
{
	__u32 value;
	int bit;

	for (bit = 0; bit < 32; bit++) {
		fill_request(self, variant);
		value = 1u << bit;
		memcpy(self->req.bytes + variant->reserved, &value,
		       sizeof(value));
		EXPECT_REFUSED(EINVAL, RESERVED);
	}
}

TEST_F(ops, misaligned_range_is_refused)
{
	static const unsigned int off[] = { 1, 8, 511, 2048, 4095 };
	size_t i;

	for (i = 0; i < ARRAY_SIZE(off); i++) {
		fill_request(self, variant);
		self->req.first += off[i];
		EXPECT_REFUSED(EINVAL, ALIGN);
		fill_request(self, variant);
		set_ranges(self, variant, self->src, self->dup,
			   self->len - off[i]);
		EXPECT_REFUSED(EINVAL, ALIGN);
		if (!variant->two)
			continue;
		fill_request(self, variant);
		self->req.second += off[i];
		EXPECT_REFUSED(EINVAL, ALIGN);
	}
}

TEST_F(ops, empty_range_is_refused)
{
	set_ranges(self, variant, self->src, self->dup, 0);
	EXPECT_REFUSED(EINVAL, EMPTY);
}

TEST_F(ops, range_that_leaves_the_address_space_is_refused)
{
	static const __u64 len[] = {
		1ULL << 57, 1ULL << 63, -MEM_PAGE, -PAGES(4),
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(len); i++) {
		fill_request(self, variant);
		set_ranges(self, variant, self->src, self->dup, len[i]);
		EXPECT_REFUSED(EINVAL, OVERFLOW);
	}
	fill_request(self, variant);
	self->req.first = KERNEL_ADDR;
	EXPECT_REFUSED(EINVAL, OVERFLOW);
	fill_request(self, variant);
	self->req.first = -MEM_PAGE;
	EXPECT_REFUSED(EINVAL, OVERFLOW);
	if (!variant->two)
		return;
	fill_request(self, variant);
	self->req.second = KERNEL_ADDR;
	EXPECT_REFUSED(EINVAL, OVERFLOW);
	fill_request(self, variant);
	self->req.second = -self->len;
	EXPECT_REFUSED(EINVAL, OVERFLOW);
}

TEST_F(ops, overlapping_ranges_are_refused)
{
	long shift;

	if (!variant->two)
		return;
	for (shift = 1 - NR; shift < NR; shift++) {
		set_ranges(self, variant, self->src,
			   self->src + shift * (long)MEM_PAGE, self->len);
		EXPECT_REFUSED(EINVAL, OVERLAP);
	}
}

/* Neighbours do not overlap. */
TEST_F(ops, neighbouring_ranges_are_no_overlap)
{
	if (!variant->two)
		return;
	set_ranges(self, variant, self->src, self->src + PAGES(2), PAGES(2));
	if (variant->cmd == COWSNAP_SYNC) {
		EXPECT_REFUSED(EOPNOTSUPP, UNRELATED);
		return;
	}
	EXPECT_EQ(0, call(self->fd, variant->cmd, &self->req));
}

TEST_F(ops, hole_is_refused_and_named)
{
	char *holed = mem_map_alone(self->len);
	char *hole = holed + PAGES(2);
	size_t i;

	ASSERT_NE(NULL, holed);
	munmap(hole, MEM_PAGE);
	self->maps = mem_maps_hash();
	set_ranges(self, variant, holed, self->dup, self->len);
	EXPECT_REFUSED_AT(ENOMEM, HOLE, hole);
	set_ranges(self, variant, holed, self->dup, PAGES(3));
	EXPECT_REFUSED_AT(ENOMEM, HOLE, hole);
	set_ranges(self, variant, hole, self->dup, PAGES(1));
	EXPECT_REFUSED_AT(ENOMEM, HOLE, hole);
	if (!variant->two)
		return;
	for (i = 0; i < 3; i++) {
		set_ranges(self, variant, self->src, holed + PAGES(i),
			   self->len - PAGES(i));
		EXPECT_REFUSED_AT(ENOMEM, HOLE, hole);
	}
}

/* A mapping of another kind at @at, in the first range and in the second. */
#define EXPECT_KIND_REFUSED(start_, at_, reason_) do {			\
	self->maps = mem_maps_hash();					\
	fill_request(self, variant);					\
	set_ranges(self, variant, start_, self->dup, self->len);	\
	EXPECT_REFUSED_AT(EOPNOTSUPP, reason_, at_);			\
	if (variant->two) {						\
		set_ranges(self, variant, self->src, start_, self->len); \
		EXPECT_REFUSED_AT(EOPNOTSUPP, reason_, at_);		\
	}								\
} while (0)

TEST_F(ops, shared_mapping_is_refused)
{
	char *p = mem_map_alone(self->len);

	ASSERT_NE(NULL, p);
	ASSERT_NE(MAP_FAILED, mmap(p + PAGES(2), MEM_PAGE, PROT_READ | PROT_WRITE,
				   MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	EXPECT_KIND_REFUSED(p, p + PAGES(2), SHARED);
}

TEST_F(ops, wipeonfork_is_refused)
{
	char *p = mem_map_alone(self->len);

	ASSERT_NE(NULL, p);
	ASSERT_EQ(0, madvise(p + PAGES(1), MEM_PAGE, MADV_WIPEONFORK));
	EXPECT_KIND_REFUSED(p, p + PAGES(1), WIPEONFORK);
}

TEST_F(ops, the_kernels_own_mapping_is_refused)
{
	char *vdso = (char *)getauxval(AT_SYSINFO_EHDR);

	ASSERT_NE(NULL, vdso);
	self->len = MEM_PAGE;
	EXPECT_KIND_REFUSED(vdso, vdso, SPECIAL);
}

TEST_F(ops, node_without_flag_or_memory_is_refused)
{
	static const __u32 none[] = { 63, 1023, 1024, 1025, 1u << 31, -1u };
	size_t i;

	if (variant->cmd != COWSNAP_UNSHARE)
		return;
	self->req.unshare.node = 1;
	EXPECT_REFUSED(EINVAL, NODE);
	self->req.flags = COWSNAP_UNSHARE_REUSE;
	EXPECT_REFUSED(EINVAL, NODE);
	for (i = 0; i < ARRAY_SIZE(none); i++) {
		fill_request(self, variant);
		self->req.flags = COWSNAP_UNSHARE_NODE;
		self->req.unshare.node = none[i];
		EXPECT_REFUSED(EINVAL, NODE);
	}
	self->req.unshare.node = mem_nodes();
	EXPECT_REFUSED(EINVAL, NODE);
	self->req.unshare.node = 0;
	EXPECT_EQ(0, call(self->fd, COWSNAP_UNSHARE, &self->req));
	EXPECT_EQ(2, self->req.unshare.copied);
}

TEST_HARNESS_MAIN
