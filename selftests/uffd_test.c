// SPDX-License-Identifier: GPL-2.0
/*
 * userfaultfd: a monitor goes on watching the source, and knows nothing of the
 * duplicate.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "mem.h"

#define PAGES(n)	((n) * MEM_PAGE)
#define U64(p)		((__u64)(uintptr_t)(p))
#define NR		16

/* Newer than the headers of Debian 12. */
#define WP_UNPOPULATED	(1ULL << 13)	/* UFFD_FEATURE_WP_UNPOPULATED */

/* What every test here starts from: some written memory of its own. */
FIXTURE(uffd)
{
	int fd;
	char *src;
	size_t len;
};

FIXTURE_SETUP(uffd)
{
	self->fd = mem_open();
	ASSERT_GE(self->fd, 0)
		TH_LOG("%s: %s. Is the module loaded?", MEM_DEVICE,
		       strerror(errno));
	self->len = PAGES(NR);
	self->src = mem_map_alone(self->len);
	ASSERT_NE(NULL, self->src);
	mem_fill(self->src, self->len, 1);
}

FIXTURE_TEARDOWN(uffd)
{
	close(self->fd);
}

static int open_uffd(__u64 features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return -1;
	if (!ioctl(fd, UFFDIO_API, &api))
		return fd;
	close(fd);
	return -1;
}

static int watch(int uffd, void *p, size_t len, __u64 mode)
{
	struct uffdio_register reg = { .range = { U64(p), len },
				       .mode = mode };

	return ioctl(uffd, UFFDIO_REGISTER, &reg);
}

static int protect(int uffd, void *p, size_t len, bool on)
{
	struct uffdio_writeprotect wp = {
		.range = { U64(p), len },
		.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	return ioctl(uffd, UFFDIO_WRITEPROTECT, &wp);
}

struct monitor {
	int uffd;
	bool wp;
	int events;
	__u64 address;
};

/* Answers one fault: with a zero page, or by taking the protection away. */
static void *answer_one(void *arg)
{
	struct monitor *m = arg;
	struct pollfd p = { .fd = m->uffd, .events = POLLIN };
	struct uffdio_zeropage zero = { .range.len = MEM_PAGE };
	struct uffd_msg msg;

	if (poll(&p, 1, 10000) != 1 ||
	    read(m->uffd, &msg, sizeof(msg)) != sizeof(msg) ||
	    msg.event != UFFD_EVENT_PAGEFAULT)
		return NULL;
	m->events++;
	m->address = msg.arg.pagefault.address & ~(MEM_PAGE - 1);
	if (m->wp) {
		protect(m->uffd, (void *)m->address, MEM_PAGE, false);
	} else {
		zero.range.start = m->address;
		ioctl(m->uffd, UFFDIO_ZEROPAGE, &zero);
	}
	return NULL;
}

static bool no_event(int uffd)
{
	struct pollfd p = { .fd = uffd, .events = POLLIN };

	return poll(&p, 1, 0) == 0;
}

/* The monitor does not know of the duplicate: nobody would ever answer. */
TEST_F(uffd, does_not_watch_the_duplicate)
{
	int uffd = open_uffd(0);
	struct monitor m = { .uffd = uffd };
	char *src = mem_map_alone(self->len), *dst;
	pthread_t thread;

	ASSERT_NE(NULL, src);
	if (uffd < 0)
		SKIP(return, "userfaultfd: %s", strerror(errno));
	mem_fill(src, self->len / 2, 1);
	ASSERT_EQ(0, watch(uffd, src, self->len, UFFDIO_REGISTER_MODE_MISSING));
	dst = mem_dup(self->fd, src, self->len);
	ASSERT_NE(NULL, dst);
	EXPECT_FALSE(mem_smaps_flag(dst, "um"));
	EXPECT_TRUE(mem_smaps_flag(src, "um"));
	/* Hangs if it does watch. */
	EXPECT_TRUE(mem_is_zero(dst + self->len / 2, self->len / 2));
	mem_fill(dst, self->len, 2);
	EXPECT_TRUE(no_event(uffd));

	/* And still watches the source. */
	ASSERT_EQ(0, pthread_create(&thread, NULL, answer_one, &m));
	*(volatile char *)(src + self->len - 1) = 1;
	pthread_join(thread, NULL);
	EXPECT_EQ(1, m.events);
	EXPECT_EQ(U64(src) + self->len - MEM_PAGE, m.address);
	EXPECT_TRUE(mem_check(src, self->len / 2, 1));
}

/*
 * A page protected through userfaultfd stays so in the source, and none is in
 * the duplicate: there the mark would tell a monitor of somebody else's memory.
 */
TEST_F(uffd, protection_stays_with_the_source)
{
	int uffd = open_uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
	struct monitor m = { .uffd = uffd, .wp = true };
	pthread_t thread;
	char *dst;
	size_t i;

	if (uffd < 0 || watch(uffd, self->src, self->len,
			      UFFDIO_REGISTER_MODE_WP))
		SKIP(return, "userfaultfd cannot write-protect");
	ASSERT_EQ(0, protect(uffd, self->src, self->len / 2, true));
	dst = mem_dup(self->fd, self->src, self->len);
	ASSERT_NE(NULL, dst);
	EXPECT_FALSE(mem_smaps_flag(dst, "uw"));
	EXPECT_TRUE(mem_smaps_flag(self->src, "uw"));
	EXPECT_EQ(NR, mem_shared_pages(self->src, dst, self->len));
	for (i = 0; i < NR; i++) {
		EXPECT_EQ(i < NR / 2, !!(mem_pagemap(self->src + PAGES(i)) &
					 MEM_PM_UFFD_WP));
		EXPECT_EQ(0, mem_pagemap(dst + PAGES(i)) & MEM_PM_UFFD_WP);
	}
	mem_fill(dst, self->len, 2);
	/* The half that is not protected. */
	mem_fill(self->src + self->len / 2, self->len / 2, 3);
	EXPECT_TRUE(no_event(uffd));

	ASSERT_EQ(0, pthread_create(&thread, NULL, answer_one, &m));
	mem_fill(self->src, MEM_PAGE, 3);
	pthread_join(thread, NULL);
	EXPECT_EQ(1, m.events);
	EXPECT_EQ(U64(self->src), m.address);
	EXPECT_TRUE(mem_check(self->src, MEM_PAGE, 3));
	EXPECT_TRUE(mem_check(dst, self->len, 2));
}

/* The mark lives in swap entries as well. */
TEST_F(uffd, protection_of_swapped_pages_stays_with_the_source)
{
	int uffd = open_uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
	char *dst;
	size_t i;

	if (uffd < 0 || watch(uffd, self->src, self->len,
			      UFFDIO_REGISTER_MODE_WP))
		SKIP(return, "userfaultfd cannot write-protect");
	if (!mem_have_swap())
		SKIP(return, "no swap");
	ASSERT_EQ(0, protect(uffd, self->src, self->len, true));
	if (mem_pageout(self->src, self->len) != NR)
		SKIP(return, "cannot swap out");
	dst = mem_dup(self->fd, self->src, self->len);
	ASSERT_NE(NULL, dst);
	for (i = 0; i < NR; i++) {
		EXPECT_TRUE(mem_swapped(dst + PAGES(i)));
		EXPECT_NE(0, mem_pagemap(self->src + PAGES(i)) &
			  MEM_PM_UFFD_WP);
		EXPECT_EQ(0, mem_pagemap(dst + PAGES(i)) & MEM_PM_UFFD_WP);
	}
	EXPECT_TRUE(mem_check(dst, self->len, 1));
	mem_fill(dst, self->len, 2);
	EXPECT_TRUE(mem_check(self->src, self->len, 1));
	for (i = 0; i < NR; i++)
		EXPECT_NE(0, mem_pagemap(self->src + PAGES(i)) &
			  MEM_PM_UFFD_WP);
	EXPECT_TRUE(no_event(uffd));
}

/* Protected before it was touched: a marker where no page is. */
TEST_F(uffd, protection_of_nothing_stays_with_the_source)
{
	int uffd = open_uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP | WP_UNPOPULATED);
	char *src = mem_map_alone(self->len), *dst;
	struct cowsnap_remap r;
	size_t i;

	ASSERT_NE(NULL, src);
	if (uffd < 0 || watch(uffd, src, self->len, UFFDIO_REGISTER_MODE_WP))
		SKIP(return, "userfaultfd cannot protect what is not there");
	ASSERT_EQ(0, protect(uffd, src, self->len, true));
	ASSERT_EQ(0, mem_remap(self->fd, src, self->len, NULL, 0, &r));
	EXPECT_EQ(0, r.shared);
	dst = (char *)r.dst;
	for (i = 0; i < NR; i++) {
		EXPECT_NE(0, mem_pagemap(src + PAGES(i)) & MEM_PM_UFFD_WP);
		EXPECT_EQ(0, mem_pagemap(dst + PAGES(i)) & MEM_PM_UFFD_WP);
		EXPECT_TRUE(mem_untouched(dst + PAGES(i)));
	}
	mem_fill(dst, self->len, 2);
	EXPECT_TRUE(no_event(uffd));
	EXPECT_TRUE(mem_check(dst, self->len, 2));
}

/* And in the entry that maps a huge page. */
TEST_F(uffd, protection_of_a_huge_page_stays_with_the_source)
{
	int uffd = open_uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
	char *src = mem_map_huge(MEM_HUGE), *dst;

	if (!src)
		SKIP(return, "no huge pages");
	if (uffd < 0 || watch(uffd, src, MEM_HUGE, UFFDIO_REGISTER_MODE_WP))
		SKIP(return, "userfaultfd cannot write-protect");
	mem_fill(src, MEM_HUGE, 1);
	ASSERT_EQ(0, protect(uffd, src, MEM_HUGE, true));
	ASSERT_TRUE(mem_all_huge(src, MEM_HUGE));
	dst = mem_dup(self->fd, src, MEM_HUGE);
	ASSERT_NE(NULL, dst);
	EXPECT_EQ(512, mem_shared_pages(src, dst, MEM_HUGE));
	EXPECT_NE(0, mem_pagemap(src + PAGES(7)) & MEM_PM_UFFD_WP);
	EXPECT_EQ(0, mem_pagemap(dst + PAGES(7)) & MEM_PM_UFFD_WP);
	mem_fill(dst, MEM_HUGE, 2);
	EXPECT_TRUE(mem_check(src, MEM_HUGE, 1));
	EXPECT_TRUE(no_event(uffd));
}

TEST_HARNESS_MAIN
