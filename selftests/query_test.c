// SPDX-License-Identifier: GPL-2.0
/*
 * COWSNAP_QUERY: what it says there is exists, and the struct may be shorter or
 * longer than the module knows it.
 */
#include <stdio.h>
#include <sys/utsname.h>

#include "request.h"

FIXTURE(query)
{
	int fd;
	struct cowsnap_query q;
};

FIXTURE_SETUP(query)
{
	self->fd = mem_open();
	ASSERT_GE(self->fd, 0)
		TH_LOG("%s: %s. Is the module loaded?", MEM_DEVICE,
		       strerror(errno));
	memset(&self->q, 0xa5, sizeof(self->q));
	self->q.size = sizeof(self->q);
	self->q.flags = 0;
}

FIXTURE_TEARDOWN(query)
{
	close(self->fd);
}

/* Programs decide by this what to do without. */
TEST_F(query, says_what_there_is)
{
	struct cowsnap_query *q = &self->q;

	ASSERT_EQ(0, call(self->fd, COWSNAP_QUERY, q));
	EXPECT_EQ(COWSNAP_ABI, q->abi);
	EXPECT_EQ(3, q->ops & 3);
	EXPECT_EQ(COWSNAP_REMAP_FIXED | COWSNAP_REMAP_FIXED_NOREPLACE |
		  COWSNAP_REMAP_READONLY | COWSNAP_REMAP_HOLES,
		  q->remap_flags);
	EXPECT_LE(q->huge_whole, 1);
	EXPECT_EQ(COWSNAP_REASON_NONE, q->reason);
	EXPECT_EQ(0, q->fault_addr);
	EXPECT_EQ(sizeof(*q), q->size);
	EXPECT_EQ(0, q->flags);
}

/* Is this kernel of series @major.@minor or later? */
static bool kernel_is_from(unsigned int major, unsigned int minor)
{
	struct utsname name;
	unsigned int is_major, is_minor;

	return !uname(&name) &&
	       sscanf(name.release, "%u.%u", &is_major, &is_minor) == 2 &&
	       (is_major > major || (is_major == major && is_minor >= minor));
}

/*
 * All that this kernel has and nothing else: a program believes what it says,
 * and a kind too many is refused, or worse, when it comes to it.
 */
TEST_F(query, kinds_are_those_that_this_kernel_has)
{
	__u32 kinds = COWSNAP_KIND_ANON | COWSNAP_KIND_FILE;

	if (!access("/sys/kernel/mm/transparent_hugepage", F_OK))
		kinds |= COWSNAP_KIND_THP;
	if (!access("/sys/kernel/mm/hugepages", F_OK)) {
		kinds |= COWSNAP_KIND_HUGETLB;
		/* An earlier one takes pages back from the wrong address. */
		if (kernel_is_from(7, 3))
			kinds |= COWSNAP_KIND_HUGETLB_RESERVED;
	}
	ASSERT_EQ(0, call(self->fd, COWSNAP_QUERY, &self->q));
	EXPECT_EQ(kinds, self->q.kinds);
}

/* An operation that is announced exists, and one that is not has no flags. */
TEST_F(query, operations_are_those_that_exist)
{
	__u32 flags[6], nr;

	ASSERT_EQ(0, call(self->fd, COWSNAP_QUERY, &self->q));
	memcpy(flags + 2, &self->q.unshare_flags, 4 * sizeof(flags[0]));
	for (nr = 2; nr < 32; nr++) {
		int err = call(self->fd, _IO(COWSNAP_IOC_MAGIC, nr), NULL);

		if (self->q.ops & (1u << nr)) {
			EXPECT_EQ(-EFAULT, err);
			continue;
		}
		EXPECT_EQ(-ENOTTY, err)
			TH_LOG("command %u", nr);
		if (nr < 6)
			EXPECT_EQ(0, flags[nr]);
	}
}

TEST_F(query, unknown_flag_is_refused)
{
	int bit;

	for (bit = 0; bit < 32; bit++) {
		self->q.size = sizeof(self->q);
		self->q.flags = 1u << bit;
		EXPECT_EQ(-EOPNOTSUPP, call(self->fd, COWSNAP_QUERY, &self->q));
		EXPECT_EQ(COWSNAP_REASON_FLAG_UNKNOWN, self->q.reason);
		EXPECT_EQ(0, self->q.fault_addr);
	}
}

TEST_F(query, size_below_8_is_refused)
{
	unsigned int size;

	for (size = 0; size < 8; size++) {
		struct cowsnap_query q = self->q;

		q.size = size;
		EXPECT_EQ(-EINVAL, call(self->fd, COWSNAP_QUERY, &q));
		EXPECT_TRUE(all_bytes(&q.abi, 0xa5, sizeof(q) - 8));
	}
}

/* An older program's struct ends early; what follows it is not ours. */
TEST_F(query, short_struct_gets_what_fits_and_nothing_more)
{
	unsigned int size;

	for (size = 8; size < sizeof(self->q); size++) {
		struct cowsnap_query q = self->q;

		q.size = size;
		ASSERT_EQ(0, call(self->fd, COWSNAP_QUERY, &q));
		ASSERT_TRUE(all_bytes((char *)&q + size, 0xa5,
				      sizeof(q) - size))
			TH_LOG("size %u", size);
		if (size >= offsetof(struct cowsnap_query, ops))
			ASSERT_EQ(COWSNAP_ABI, q.abi);
		if (size >= offsetof(struct cowsnap_query, remap_flags))
			ASSERT_EQ(3, q.ops & 3);
	}
}

/* A newer program talks to an older module as long as it wants nothing new. */
TEST_F(query, long_struct_with_zero_tail_is_accepted)
{
	static const unsigned int extra[] = { 1, 4, 8, 4096, 65536, 1 << 20 };
	size_t max = sizeof(self->q) + (1 << 20);
	struct cowsnap_query *q;
	size_t i;

	q = mem_map((max + MEM_PAGE - 1) & ~(MEM_PAGE - 1));
	ASSERT_NE(NULL, q);
	for (i = 0; i < ARRAY_SIZE(extra); i++) {
		memset(q, 0, sizeof(*q));
		q->size = sizeof(*q) + extra[i];
		ASSERT_EQ(0, call(self->fd, COWSNAP_QUERY, q))
			TH_LOG("%u bytes more", extra[i]);
		EXPECT_EQ(COWSNAP_ABI, q->abi);
		EXPECT_TRUE(all_bytes(q + 1, 0, extra[i]));
	}
}

TEST_F(query, long_struct_with_dirty_tail_is_refused)
{
	static const unsigned int at[] = { 0, 1, 7, 100, 4095, 65535 };
	struct cowsnap_query *q;
	size_t i;

	q = mem_map(PAGES(32));
	ASSERT_NE(NULL, q);
	for (i = 0; i < ARRAY_SIZE(at); i++) {
		char *byte = (char *)(q + 1) + at[i];

		memset(q, 0, sizeof(*q));
		q->size = sizeof(*q) + at[i] + 1;
		*byte = 1;
		EXPECT_EQ(-E2BIG, call(self->fd, COWSNAP_QUERY, q))
			TH_LOG("byte %u of the tail", at[i]);
		EXPECT_EQ(COWSNAP_REASON_STRUCT_TAIL, q->reason);
		*byte = 0;
	}
}

TEST_F(query, unreadable_argument_is_efault)
{
	EXPECT_EQ(-EFAULT, call(self->fd, COWSNAP_QUERY, NULL));
	EXPECT_EQ(-EFAULT, call(self->fd, COWSNAP_QUERY, (void *)KERNEL_ADDR));
}

TEST_HARNESS_MAIN
