// SPDX-License-Identifier: GPL-2.0
/*
 * Devices that share the address space of a process. Memory that a device has
 * taken to itself cannot be shared copy-on-write: it is refused, and is ordinary
 * memory again when it has come back. And a device with page tables of its own,
 * filled by its faults: it is to meet a fault wherever the CPU would.
 *
 * Needs the module test_hmm (CONFIG_TEST_HMM), which no distribution has.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ops.h"
#include "hmm.h"

#define NR	16
#define LEN	PAGES(NR)
#define LENT	5		/* the first page that the device takes, */
#define NR_LENT	3		/* and how many */

static int open_device(struct __test_metadata *_metadata, int *fd)
{
	*fd = mem_open();
	ASSERT_GE(*fd, 0)
		TH_LOG("%s: %s. Is the module loaded?", MEM_DEVICE,
		       strerror(errno));
	return hmm_open();
}

/*
 * Lent: some pages in the middle are the device's, by migration to its memory
 * or by being mapped by it alone.
 */
FIXTURE(lent)
{
	int fd;
	int hmm;
	char *src;
	char *dup;
	char *data;
};

FIXTURE_VARIANT(lent)
{
	unsigned long cmd;
};

FIXTURE_VARIANT_ADD(lent, moved) { .cmd = HMM_DMIRROR_MIGRATE_TO_DEV };
FIXTURE_VARIANT_ADD(lent, exclusive) { .cmd = HMM_DMIRROR_EXCLUSIVE };

FIXTURE_SETUP(lent)
{
	self->hmm = open_device(_metadata, &self->fd);
	if (self->hmm < 0)
		SKIP(return, "no module test_hmm (CONFIG_TEST_HMM)");
	self->src = mem_map_alone(LEN);
	self->data = mem_map_alone(LEN);
	ASSERT_NE(NULL, self->src);
	ASSERT_NE(NULL, self->data);
	mem_fill(self->src, LEN, 1);
}

FIXTURE_TEARDOWN(lent)
{
	close(self->hmm);
	close(self->fd);
}

#define LEND() ASSERT_EQ(0, hmm_call(self->hmm, variant->cmd,		\
				     self->src + PAGES(LENT),		\
				     PAGES(NR_LENT), self->data))

/* Is there an entry that is not present in all that was lent, and nowhere else? */
static bool is_lent(const char *src)
{
	size_t i;

	for (i = 0; i < NR; i++)
		if ((i >= LENT && i < LENT + NR_LENT) ==
		    !!(mem_pagemap(src + PAGES(i)) & MEM_PM_PRESENT))
			return false;
	return true;
}

TEST_F(lent, pages_are_refused_and_left_to_the_device)
{
	struct cowsnap_remap r = {
		.size = sizeof(r), .src = U64(self->src), .len = LEN,
	};
	struct mem_counters before, after;
	uint64_t was[NR], is[NR];

	LEND();
	ASSERT_TRUE(is_lent(self->src));
	ASSERT_TRUE(mem_pagemap_read(self->src, was, NR));
	mem_counters(&before);
	EXPECT_EQ(-EOPNOTSUPP, mem_refused(self->fd, &r));
	EXPECT_EQ(COWSNAP_REASON_DEVICE, r.reason);
	EXPECT_EQ(U64(self->src) + PAGES(LENT), r.fault_addr);
	r.src += PAGES(LENT + 1);
	r.len = MEM_PAGE;
	EXPECT_EQ(-EOPNOTSUPP, mem_refused(self->fd, &r));
	EXPECT_EQ(COWSNAP_REASON_DEVICE, r.reason);
	EXPECT_EQ(r.src, r.fault_addr);
	mem_counters(&after);
	EXPECT_TRUE(mem_counters_equal(&before, &after));
	ASSERT_TRUE(mem_pagemap_read(self->src, is, NR));
	EXPECT_EQ(0, memcmp(was, is, sizeof(is)));
	/* What lies before them can be shared. */
	r.src = U64(self->src);
	r.len = PAGES(LENT);
	EXPECT_EQ(0, mem_refused(self->fd, &r));
	EXPECT_EQ(LENT, r.shared);
	EXPECT_TRUE(mem_check(self->src, LEN, 1));
}

TEST_F(lent, pages_are_duplicated_when_they_have_come_back)
{
	struct cowsnap_remap r;
	char *dup;

	LEND();
	ASSERT_TRUE(is_lent(self->src));
	/* The CPU's load fetches them. */
	ASSERT_TRUE(mem_check(self->src, LEN, 1));
	ASSERT_EQ(0, mem_remap(self->fd, self->src, LEN, NULL, 0, &r));
	EXPECT_EQ(NR, r.shared);
	dup = (char *)(uintptr_t)r.dst;
	mem_fill(self->src, LEN, 2);
	EXPECT_TRUE(mem_check(dup, LEN, 1));
	/* And away again: the duplicate stays where it is. */
	LEND();
	mem_fill(dup, LEN, 3);
	EXPECT_TRUE(mem_check(self->src, LEN, 2));
}

/* Is each page as in @a or as in @b? */
static bool is_either(const char *p, const char *a, const char *b)
{
	size_t i;

	for (i = 0; i < LEN; i += MEM_PAGE)
		if (memcmp(p + i, a + i, MEM_PAGE) &&
		    memcmp(p + i, b + i, MEM_PAGE))
			return false;
	return true;
}

/* In the range that is taken over: what comes before them may have been. */
TEST_F(lent, pages_are_refused_by_sync)
{
	char *old = mem_map_alone(LEN), *new = mem_map_alone(LEN);
	struct cowsnap_sync s;

	ASSERT_NE(NULL, old);
	ASSERT_NE(NULL, new);
	mem_fill(old, LEN, 1);
	mem_fill(new, LEN, 2);
	DUPLICATE();
	mem_fill(self->src, LEN, 2);
	LEND();
	EXPECT_EQ(-EOPNOTSUPP, op_sync(self->fd, self->src, self->dup, LEN, &s));
	EXPECT_EQ(COWSNAP_REASON_DEVICE, s.reason);
	EXPECT_EQ(U64(self->src) + PAGES(LENT), s.fault_addr);
	EXPECT_TRUE(is_lent(self->src));
	EXPECT_TRUE(is_either(self->dup, old, new));
	EXPECT_TRUE(mem_check(self->src, LEN, 2));
	ASSERT_EQ(0, op_sync(self->fd, self->src, self->dup, LEN, &s));
	EXPECT_TRUE(mem_check(self->dup, LEN, 2));
	mem_fill(self->src, LEN, 3);
	EXPECT_TRUE(mem_check(self->dup, LEN, 2));
}

/* And in the range that would change. */
TEST_F(lent, pages_are_not_replaced_by_sync)
{
	char *new = mem_map_alone(LEN);
	struct cowsnap_sync s;

	ASSERT_NE(NULL, new);
	mem_fill(new, LEN, 2);
	DUPLICATE();
	mem_fill(self->src, LEN, 2);
	LEND();
	EXPECT_EQ(-EOPNOTSUPP, op_sync(self->fd, self->dup, self->src, LEN, &s));
	EXPECT_EQ(COWSNAP_REASON_DEVICE, s.reason);
	EXPECT_EQ(U64(self->src) + PAGES(LENT), s.fault_addr);
	EXPECT_TRUE(is_lent(self->src));
	EXPECT_TRUE(is_either(self->src, self->dup, new));
	EXPECT_TRUE(mem_check(self->dup, LEN, 1));
	ASSERT_EQ(0, op_sync(self->fd, self->dup, self->src, LEN, &s));
	EXPECT_TRUE(mem_check(self->src, LEN, 1));
}

/* A device that reads and writes the memory through page tables of its own. */
FIXTURE(mirror)
{
	int fd;
	int hmm;
	char *src;
	char *dup;
	char *data;
};

FIXTURE_SETUP(mirror)
{
	self->hmm = open_device(_metadata, &self->fd);
	if (self->hmm < 0)
		SKIP(return, "no module test_hmm (CONFIG_TEST_HMM)");
	self->src = mem_map_alone(LEN);
	self->data = mem_map_alone(LEN);
	ASSERT_NE(NULL, self->src);
	ASSERT_NE(NULL, self->data);
}

FIXTURE_TEARDOWN(mirror)
{
	close(self->hmm);
	close(self->fd);
}

/* Both return how many faults the device took. */
static int device_fills(int hmm, char *p, char *data, unsigned int seed)
{
	mem_fill(data, LEN, seed);
	return hmm_call(hmm, HMM_DMIRROR_WRITE, p, LEN, data);
}

static int device_reads(int hmm, char *p, char *data)
{
	memset(data, 0, LEN);
	return hmm_call(hmm, HMM_DMIRROR_READ, p, LEN, data);
}

/*
 * If this fails, a device goes on writing into the snapshot: it has the pages in
 * its page tables, writable, from before.
 */
TEST_F(mirror, stores_after_the_call_stay_out_of_the_duplicate)
{
	ASSERT_LT(0, device_fills(self->hmm, self->src, self->data, 1));
	ASSERT_EQ(0, device_fills(self->hmm, self->src, self->data, 2));
	ASSERT_TRUE(mem_check(self->src, LEN, 2));
	DUPLICATE();
	ASSERT_EQ(NR, mem_shared_pages(self->src, self->dup, LEN));
	EXPECT_LT(0, device_fills(self->hmm, self->src, self->data, 3));
	EXPECT_TRUE(mem_check(self->dup, LEN, 2));
	EXPECT_TRUE(mem_check(self->src, LEN, 3));
	EXPECT_LT(0, device_fills(self->hmm, self->dup, self->data, 4));
	EXPECT_TRUE(mem_check(self->dup, LEN, 4));
	EXPECT_LE(0, device_reads(self->hmm, self->src, self->data));
	EXPECT_TRUE(mem_check(self->data, LEN, 3));
}

/* Pages that are replaced: the device is to read the new ones. */
TEST_F(mirror, reads_what_sync_has_brought)
{
	struct cowsnap_sync s;

	mem_fill(self->src, LEN, 1);
	DUPLICATE();
	ASSERT_LT(0, device_fills(self->hmm, self->src, self->data, 2));
	ASSERT_EQ(0, op_sync(self->fd, self->dup, self->src, LEN, &s));
	EXPECT_EQ(NR, s.changed);
	EXPECT_LE(0, device_reads(self->hmm, self->src, self->data));
	EXPECT_TRUE(mem_check(self->data, LEN, 1));
	/* And a store of it makes a page of its own again. */
	EXPECT_LT(0, device_fills(self->hmm, self->src, self->data, 3));
	EXPECT_TRUE(mem_check(self->dup, LEN, 1));
}

TEST_F(mirror, reads_the_copies_of_unshare)
{
	struct cowsnap_unshare u;

	mem_fill(self->src, LEN, 1);
	DUPLICATE();
	ASSERT_LT(0, device_reads(self->hmm, self->dup, self->data));
	ASSERT_TRUE(mem_check(self->data, LEN, 1));
	ASSERT_EQ(0, op_unshare(self->fd, self->dup, LEN, 0, &u));
	EXPECT_EQ(NR, u.copied);
	mem_fill(self->dup, LEN, 2);
	EXPECT_LE(0, device_reads(self->hmm, self->dup, self->data));
	EXPECT_TRUE(mem_check(self->data, LEN, 2));
	EXPECT_TRUE(mem_check(self->src, LEN, 1));
}

/* With FIXED: what stood there is gone for the device, too. */
TEST_F(mirror, reads_what_its_memory_was_replaced_with)
{
	char *at = mem_map_alone(LEN);
	struct cowsnap_remap r;

	ASSERT_NE(NULL, at);
	mem_fill(self->src, LEN, 1);
	ASSERT_LT(0, device_fills(self->hmm, at, self->data, 2));
	ASSERT_EQ(0, mem_remap(self->fd, self->src, LEN, at,
			       COWSNAP_REMAP_FIXED, &r));
	EXPECT_LE(0, device_reads(self->hmm, at, self->data));
	EXPECT_TRUE(mem_check(self->data, LEN, 1));
	EXPECT_LT(0, device_fills(self->hmm, at, self->data, 3));
	EXPECT_TRUE(mem_check(self->src, LEN, 1));
}

TEST_HARNESS_MAIN
