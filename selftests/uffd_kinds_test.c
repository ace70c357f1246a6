// SPDX-License-Identifier: GPL-2.0
/*
 * userfaultfd on private mappings of a memfd and of hugetlb: what is promised of
 * anonymous memory in uffd_test.c holds there, where page tables are walked and
 * marked in other ways.
 */
#include <poll.h>
#include <pthread.h>

#include "hugepool.h"
#include "uffd.h"
#include "harness.h"

/*
 * Units of one page each, in two of which something is written. The third is
 * the file's, if there is one; the others nobody has touched. All but the first
 * two are zeroes.
 */
#define NR		5
#define WRITTEN		2
#define LAST		(NR - 1)
#define UNIT(p, i)	((p) + (i) * variant->size)
#define LEN		(NR * variant->size)

FIXTURE(uffd)
{
	int fd;
	int uffd;
	long pool;
	char *src;
	char *dup;
};

FIXTURE_VARIANT(uffd)
{
	size_t size;		/* of a page */
	int flags;
};

FIXTURE_VARIANT_ADD(uffd, memfd) { .size = MEM_PAGE };
FIXTURE_VARIANT_ADD(uffd, hugetlb) {
	.size = MEM_HUGE, .flags = MAP_NORESERVE,
};
FIXTURE_VARIANT_ADD(uffd, hugetlb_reserved) { .size = MEM_HUGE };

static char *map_memfd(size_t len)
{
	int fd = memfd_create("uffd", MFD_CLOEXEC);
	char *p;

	if (fd < 0 || ftruncate(fd, len) ||
	    pwrite(fd, "", 1, 2 * MEM_PAGE) != 1)
		return NULL;
	p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	close(fd);
	return p == MAP_FAILED ? NULL : p;
}

FIXTURE_SETUP(uffd)
{
	int i;

	self->uffd = -1;
	self->fd = mem_open();
	ASSERT_GE(self->fd, 0)
		TH_LOG("%s: %s. Is the module loaded?", MEM_DEVICE,
		       strerror(errno));
	self->pool = pool_value(MEM_HUGE, "nr_hugepages");
	if (variant->size == MEM_PAGE)
		self->src = map_memfd(LEN);
	else if (!pool_set(MEM_HUGE, POOL))
		SKIP(return, "no huge pages");
	else
		self->src = map_pages(MEM_HUGE, NR, variant->flags);
	ASSERT_NE(NULL, self->src);
	for (i = 0; i < WRITTEN; i++)
		mem_fill(UNIT(self->src, i), MEM_PAGE, i);
	if (variant->size == MEM_PAGE)
		ASSERT_TRUE(mem_is_zero(UNIT(self->src, 2), MEM_PAGE));
}

FIXTURE_TEARDOWN(uffd)
{
	close(self->uffd);
	if (variant->size != MEM_PAGE)
		pool_set(MEM_HUGE, self->pool);
	close(self->fd);
}

#define WATCH(features, mode) do {					\
	self->uffd = open_uffd(features);				\
	if (self->uffd < 0 || watch(self->uffd, self->src, LEN, mode))	\
		SKIP(return, "userfaultfd has no such mode here: %s",	\
		     strerror(errno));					\
} while (0)

static bool has_content(char *unit, int i)
{
	return i < WRITTEN ? mem_check(unit, MEM_PAGE, i) :
			     mem_is_zero(unit, MEM_PAGE);
}

/* Answers one fault, with a page that holds seed 7 if one is missing. */
struct monitor {
	int uffd;
	size_t size;
	__u64 mode;		/* of UFFDIO_REGISTER */
	void *page;
	int events;
	__u64 address;
};

static void *answer_one(void *arg)
{
	struct monitor *m = arg;
	struct pollfd p = { .fd = m->uffd, .events = POLLIN };
	struct uffdio_copy copy = { .src = U64(m->page), .len = m->size };
	struct uffd_msg msg;
	void *at;

	if (poll(&p, 1, 10000) != 1 ||
	    read(m->uffd, &msg, sizeof(msg)) != sizeof(msg) ||
	    msg.event != UFFD_EVENT_PAGEFAULT)
		return NULL;
	m->events++;
	m->address = msg.arg.pagefault.address & ~(m->size - 1);
	at = (void *)m->address;
	copy.dst = m->address;
	if (m->mode == UFFDIO_REGISTER_MODE_MISSING)
		ioctl(m->uffd, UFFDIO_COPY, &copy);
	else if (m->mode == UFFDIO_REGISTER_MODE_WP)
		protect(m->uffd, at, m->size, false);
	else
		trap(m->uffd, at, m->size, false);
	return NULL;
}

/* Does touching a unit wait for the monitor, which is told where? */
static bool is_told(struct monitor *m, char *unit, bool store)
{
	pthread_t thread;

	m->events = 0;
	if (pthread_create(&thread, NULL, answer_one, m))
		return false;
	if (store)
		mem_fill(unit, MEM_PAGE, 3);
	else
		(void)*(volatile char *)unit;
	pthread_join(thread, NULL);
	return m->events == 1 && m->address == U64(unit);
}

/* Hangs if somebody waits for an event there. */
static bool duplicate_is_free(int uffd, char *dup, size_t size, int nr)
{
	bool good = true;
	int i;

	for (i = 0; i < nr; i++) {
		good &= has_content(dup + i * size, i);
		mem_fill(dup + i * size, MEM_PAGE, 20 + i);
	}
	return good && no_event(uffd);
}

static bool duplicate_is_unchanged(char *dup, size_t size, int nr)
{
	int i;

	for (i = 0; i < nr; i++)
		if (!mem_check(dup + i * size, MEM_PAGE, 20 + i))
			return false;
	return true;
}

/* The last unit is touched in the source only: in a file one finds what one made. */
TEST_F_TIMEOUT(uffd, missing_pages_are_told_of_the_source_alone, 90)
{
	struct monitor m = {
		.size = variant->size, .mode = UFFDIO_REGISTER_MODE_MISSING,
	};

	WATCH(0, m.mode);
	m.uffd = self->uffd;
	m.page = mem_map(variant->size);
	ASSERT_NE(NULL, m.page);
	mem_fill(m.page, MEM_PAGE, 7);
	self->dup = mem_dup(self->fd, self->src, LEN);
	ASSERT_NE(NULL, self->dup);
	EXPECT_TRUE(mem_smaps_flag(self->src, "um"));
	EXPECT_FALSE(mem_smaps_flag(self->dup, "um"));
	EXPECT_TRUE(duplicate_is_free(m.uffd, self->dup, m.size, LAST));
	EXPECT_TRUE(is_told(&m, UNIT(self->src, LAST), false));
	EXPECT_TRUE(mem_check(UNIT(self->src, LAST), MEM_PAGE, 7));
	EXPECT_TRUE(mem_is_zero(UNIT(self->dup, LAST), MEM_PAGE));
	EXPECT_TRUE(has_content(self->src, 0));
	EXPECT_TRUE(duplicate_is_unchanged(self->dup, m.size, LAST));
	EXPECT_TRUE(no_event(m.uffd));
}

/*
 * Marks are in the entries of pages, and stand where no page is. If this fails, a
 * monitor is not told of a write, or is asked for somebody else's memory.
 */
TEST_F_TIMEOUT(uffd, protection_stays_with_the_source, 90)
{
	struct monitor m = {
		.size = variant->size, .mode = UFFDIO_REGISTER_MODE_WP,
	};
	int i;

	WATCH(UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM,
	      m.mode);
	m.uffd = self->uffd;
	ASSERT_EQ(0, protect(m.uffd, self->src, LEN, true));
	self->dup = mem_dup(self->fd, self->src, LEN);
	ASSERT_NE(NULL, self->dup);
	EXPECT_TRUE(mem_smaps_flag(self->src, "uw"));
	EXPECT_FALSE(mem_smaps_flag(self->dup, "uw"));
	for (i = 0; i < NR; i++) {
		/* Of hugetlb not all kernels tell what is where no page is. */
		if (i < WRITTEN || variant->size == MEM_PAGE)
			EXPECT_NE(0, mem_pagemap(UNIT(self->src, i)) &
				  MEM_PM_UFFD_WP);
		/* A store to it would wait for ever. */
		ASSERT_EQ(0, mem_pagemap(UNIT(self->dup, i)) & MEM_PM_UFFD_WP);
	}
	EXPECT_TRUE(duplicate_is_free(m.uffd, self->dup, m.size, NR));
	for (i = 0; i < NR; i++) {
		EXPECT_TRUE(has_content(UNIT(self->src, i), i));
		ASSERT_TRUE(is_told(&m, UNIT(self->src, i), true));
		EXPECT_TRUE(mem_check(UNIT(self->src, i), MEM_PAGE, 3));
	}
	EXPECT_TRUE(duplicate_is_unchanged(self->dup, m.size, NR));
	EXPECT_TRUE(no_event(m.uffd));
}

/* Newer kernels trap loads, too. */
TEST_F_TIMEOUT(uffd, access_is_trapped_in_the_source_alone, 90)
{
	struct monitor m = {
		.size = variant->size, .mode = UFFDIO_REGISTER_MODE_RWP,
	};
	int i;

	WATCH(UFFD_FEATURE_RWP, m.mode);
	m.uffd = self->uffd;
	ASSERT_EQ(0, trap(m.uffd, self->src, LEN, true));
	self->dup = mem_dup(self->fd, self->src, LEN);
	ASSERT_NE(NULL, self->dup);
	EXPECT_TRUE(duplicate_is_free(m.uffd, self->dup, m.size, NR));
	for (i = 0; i < WRITTEN; i++) {
		EXPECT_TRUE(is_told(&m, UNIT(self->src, i), i == 0));
		EXPECT_TRUE(mem_check(UNIT(self->src, i), MEM_PAGE, i ? i : 3));
	}
	EXPECT_TRUE(duplicate_is_unchanged(self->dup, m.size, NR));
	EXPECT_TRUE(no_event(m.uffd));
}

TEST_HARNESS_MAIN
