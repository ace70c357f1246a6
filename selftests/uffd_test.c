// SPDX-License-Identifier: GPL-2.0
/*
 * userfaultfd: a monitor goes on watching the source, and knows nothing of the
 * duplicate.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "harness.h"
#include "kernel.h"
#include "touch.h"
#include "uffd.h"
#include "uring.h"

#define PAGES(n)	((n) * MEM_PAGE)
#define NR		16

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

enum answer { ZEROPAGE, UNPROTECT, CONTINUE, UNTRAP };

struct monitor {
	int uffd;
	enum answer answer;
	int events;
	__u64 address;
};

static void give_answer(const struct monitor *m)
{
	struct uffdio_zeropage zero = { .range = { m->address, MEM_PAGE } };
	struct uffdio_continue cont = { .range = { m->address, MEM_PAGE } };

	switch (m->answer) {
	case ZEROPAGE:
		ioctl(m->uffd, UFFDIO_ZEROPAGE, &zero);
		break;
	case UNPROTECT:
		protect(m->uffd, (void *)m->address, MEM_PAGE, false);
		break;
	case CONTINUE:
		ioctl(m->uffd, UFFDIO_CONTINUE, &cont);
		break;
	case UNTRAP:
		trap(m->uffd, (void *)m->address, MEM_PAGE, false);
		break;
	}
}

/* Answers one fault. */
static void *answer_one(void *arg)
{
	struct monitor *m = arg;
	struct pollfd p = { .fd = m->uffd, .events = POLLIN };
	struct uffd_msg msg;

	if (poll(&p, 1, 10000) != 1 ||
	    read(m->uffd, &msg, sizeof(msg)) != sizeof(msg) ||
	    msg.event != UFFD_EVENT_PAGEFAULT)
		return NULL;
	m->events++;
	m->address = msg.arg.pagefault.address & ~(MEM_PAGE - 1);
	give_answer(m);
	return NULL;
}

/* A store to a protected page waits for the monitor, which is told where. */
static void store_and_answer(struct __test_metadata *_metadata, int uffd,
			     char *page)
{
	struct monitor m = { .uffd = uffd, .answer = UNPROTECT };
	pthread_t thread;

	ASSERT_EQ(0, pthread_create(&thread, NULL, answer_one, &m));
	mem_fill(page, MEM_PAGE, 3);
	pthread_join(thread, NULL);
	EXPECT_EQ(1, m.events);
	EXPECT_EQ(U64(page), m.address);
	EXPECT_TRUE(mem_check(page, MEM_PAGE, 3));
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

	store_and_answer(_metadata, uffd, self->src);
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
	int uffd = open_uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_UNPOPULATED);
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
	/* The first store to the source is still told of. */
	store_and_answer(_metadata, uffd, src + PAGES(3));
	EXPECT_TRUE(mem_check(dst, self->len, 2));
	EXPECT_TRUE(mem_is_zero(src, PAGES(3)));
}

/*
 * A pinned page is copied and the source given it back for writing, as it was;
 * not one whose owner wants to be told of writes.
 */
TEST_F(uffd, protection_of_a_pinned_page_stays_with_the_source)
{
	int uffd = open_uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP), err;
	struct cowsnap_remap r;
	struct uring ring;
	char *dst;
	size_t i;

	if (uffd < 0 || watch(uffd, self->src, self->len,
			      UFFDIO_REGISTER_MODE_WP))
		SKIP(return, "userfaultfd cannot write-protect");
	err = uring_open(&ring);
	if (err)
		SKIP(return, "no io_uring: %s", strerror(-err));
	ASSERT_EQ(0, uring_pin(&ring, self->src + PAGES(2), PAGES(2)));
	ASSERT_EQ(0, protect(uffd, self->src, PAGES(3), true));
	ASSERT_EQ(0, mem_remap(self->fd, self->src, self->len, NULL, 0, &r));
	EXPECT_EQ(2, r.copied);
	dst = (char *)r.dst;
	for (i = 0; i < NR; i++) {
		EXPECT_EQ(i < 3, !!(mem_pagemap(self->src + PAGES(i)) &
				    MEM_PM_UFFD_WP));
		EXPECT_EQ(0, mem_pagemap(dst + PAGES(i)) & MEM_PM_UFFD_WP);
	}
	mem_fill(dst, self->len, 2);
	mem_fill(self->src + PAGES(3), PAGES(2), 3);
	EXPECT_TRUE(no_event(uffd));
	store_and_answer(_metadata, uffd, self->src + PAGES(2));
	EXPECT_TRUE(mem_check(dst, self->len, 2));
	uring_unpin(&ring);
	uring_close(&ring);
}

/* And in the entry that maps a huge page, shared whole or in pieces. */
static void check_huge_wp(struct __test_metadata *_metadata, int fd,
			  size_t offset)
{
	int uffd = open_uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
	char *src = mem_map_huge(MEM_HUGE), *dst;
	struct cowsnap_remap r;
	size_t i;

	if (!src)
		SKIP(return, "no huge pages");
	if (uffd < 0 || watch(uffd, src, MEM_HUGE, UFFDIO_REGISTER_MODE_WP))
		SKIP(return, "userfaultfd cannot write-protect");
	mem_fill(src, MEM_HUGE, 1);
	ASSERT_EQ(0, protect(uffd, src, MEM_HUGE, true));
	ASSERT_TRUE(mem_all_huge(src, MEM_HUGE));
	dst = mem_free_range(MEM_HUGE, MEM_HUGE, offset);
	ASSERT_NE(NULL, dst);
	ASSERT_EQ(0, mem_remap(fd, src, MEM_HUGE, dst,
			       COWSNAP_REMAP_FIXED_NOREPLACE, &r));
	EXPECT_EQ(512, mem_shared_pages(src, dst, MEM_HUGE));
	for (i = 0; i < MEM_HUGE; i += PAGES(7)) {
		EXPECT_NE(0, mem_pagemap(src + i) & MEM_PM_UFFD_WP);
		EXPECT_EQ(0, mem_pagemap(dst + i) & MEM_PM_UFFD_WP);
	}
	mem_fill(dst, MEM_HUGE, 2);
	EXPECT_TRUE(mem_check(src, MEM_HUGE, 1));
	EXPECT_TRUE(no_event(uffd));
	store_and_answer(_metadata, uffd, src + PAGES(300));
	EXPECT_NE(0, mem_pagemap(src + PAGES(301)) & MEM_PM_UFFD_WP);
	EXPECT_TRUE(mem_check(src, PAGES(300), 1));
	EXPECT_TRUE(mem_check(dst, MEM_HUGE, 2));
}

TEST_F(uffd, protection_of_a_huge_page_stays_with_the_source)
{
	check_huge_wp(_metadata, self->fd, 0);
}

TEST_F(uffd, protection_of_a_huge_page_in_pieces_stays_with_the_source)
{
	check_huge_wp(_metadata, self->fd, PAGES(3));
}

/*
 * A page in the page cache that the source has not mapped yet: the monitor says
 * when it may, for the source. The duplicate just maps it.
 */
TEST_F(uffd, minor_faults_are_told_of_the_source_alone)
{
	struct cowsnap_query q = { .size = sizeof(q) };
	int uffd = open_uffd(UFFD_FEATURE_MINOR_SHMEM), file;
	struct monitor m = { .uffd = uffd, .answer = CONTINUE };
	struct cowsnap_remap r;
	pthread_t thread;
	char *src, *dst;

	file = memfd_create("uffd", MFD_CLOEXEC);
	ASSERT_LE(0, file);
	ASSERT_EQ(0, ftruncate(file, self->len));
	ASSERT_EQ((ssize_t)self->len, pwrite(file, self->src, self->len, 0));
	src = mmap(NULL, self->len, PROT_READ | PROT_WRITE, MAP_PRIVATE, file,
		   0);
	ASSERT_NE(MAP_FAILED, src);
	if (uffd < 0 || watch(uffd, src, self->len,
			      UFFDIO_REGISTER_MODE_MINOR))
		SKIP(return, "userfaultfd has no minor mode");
	ASSERT_EQ(0, ioctl(self->fd, COWSNAP_QUERY, &q));
	if (!(q.kinds & COWSNAP_KIND_FILE)) {
		r = (struct cowsnap_remap) {
			.size = sizeof(r), .src = U64(src), .len = self->len,
		};
		EXPECT_EQ(-EOPNOTSUPP, mem_refused(self->fd, &r));
		EXPECT_EQ(COWSNAP_REASON_FILE, r.reason);
		EXPECT_TRUE(mem_smaps_flag(src, "ui"));
		return;
	}
	dst = mem_dup(self->fd, src, self->len);
	ASSERT_NE(NULL, dst);
	EXPECT_TRUE(mem_smaps_flag(src, "ui"));
	EXPECT_FALSE(mem_smaps_flag(dst, "ui"));
	/* Hangs if it does watch. */
	EXPECT_TRUE(mem_check(dst, self->len, 1));
	mem_fill(dst, self->len, 2);
	EXPECT_TRUE(no_event(uffd));
	ASSERT_EQ(0, pthread_create(&thread, NULL, answer_one, &m));
	EXPECT_TRUE(mem_check(src, MEM_PAGE, 1));
	pthread_join(thread, NULL);
	EXPECT_EQ(1, m.events);
	EXPECT_EQ(U64(src), m.address);
}

/* Newer kernels can trap every access: those to the source, not the duplicate. */
TEST_F(uffd, access_is_trapped_in_the_source_alone)
{
	int uffd = open_uffd(UFFD_FEATURE_RWP), err;
	struct monitor m = { .uffd = uffd, .answer = UNTRAP };
	struct cowsnap_remap r;
	struct uring ring;
	pthread_t thread;
	char *dst;

	if (uffd < 0 || watch(uffd, self->src, self->len,
			      UFFDIO_REGISTER_MODE_RWP))
		SKIP(return, "userfaultfd cannot trap loads");
	err = uring_open(&ring);
	if (err)
		SKIP(return, "no io_uring: %s", strerror(-err));
	ASSERT_EQ(0, uring_pin(&ring, self->src, PAGES(2)));
	ASSERT_EQ(0, trap(uffd, self->src, self->len, true));
	ASSERT_EQ(0, mem_remap(self->fd, self->src, self->len, NULL, 0, &r));
	EXPECT_EQ(2, r.copied);
	dst = (char *)r.dst;
	/* Hangs if it is trapped. */
	EXPECT_TRUE(mem_check(dst, self->len, 1));
	mem_fill(dst, self->len, 2);
	EXPECT_TRUE(no_event(uffd));
	ASSERT_EQ(0, pthread_create(&thread, NULL, answer_one, &m));
	EXPECT_TRUE(mem_check(self->src, MEM_PAGE, 1));
	pthread_join(thread, NULL);
	EXPECT_EQ(1, m.events);
	EXPECT_EQ(U64(self->src), m.address);
	m.events = 0;
	ASSERT_EQ(0, pthread_create(&thread, NULL, answer_one, &m));
	mem_fill(self->src + PAGES(5), MEM_PAGE, 3);
	pthread_join(thread, NULL);
	EXPECT_EQ(1, m.events);
	EXPECT_EQ(U64(self->src + PAGES(5)), m.address);
	EXPECT_TRUE(mem_check(dst, self->len, 2));
	ASSERT_EQ(0, trap(uffd, self->src, self->len, false));
	EXPECT_TRUE(mem_check(self->src, PAGES(5), 1));
	EXPECT_TRUE(mem_check(self->src + PAGES(5), MEM_PAGE, 3));
	uring_unpin(&ring);
	uring_close(&ring);
}

/* What is lost is lost for both: zeros in the duplicate would be a lie. */
TEST_F(uffd, poisoned_page_is_poisoned_in_both)
{
	/* struct uffdio_poison, newer than the headers of Debian 12. */
	struct {
		struct uffdio_range range;
		__u64 mode;
		__s64 updated;
	} poison = { .range.len = PAGES(2) };
	int uffd = open_uffd(UFFD_FEATURE_POISON);
	char *src = mem_map_alone(self->len), *dst;
	struct cowsnap_remap r;

	ASSERT_NE(NULL, src);
	mem_fill(src, PAGES(4), 1);
	if (uffd < 0 || watch(uffd, src, self->len,
			      UFFDIO_REGISTER_MODE_MISSING))
		SKIP(return, "userfaultfd cannot poison");
	poison.range.start = U64(src) + PAGES(4);
	ASSERT_EQ(0, ioctl(uffd, _IOWR(UFFDIO, 0x08, poison), &poison));
	ASSERT_EQ(0, mem_remap(self->fd, src, self->len, NULL, 0, &r));
	EXPECT_EQ(4, r.shared);
	dst = (char *)r.dst;
	EXPECT_EQ(SIGBUS, load_at(dst + PAGES(4)));
	EXPECT_EQ(SIGBUS, store_at(dst + PAGES(5)));
	EXPECT_EQ(SIGBUS, load_at(src + PAGES(4)));
	EXPECT_EQ(SIGBUS, store_at(src + PAGES(5)));
	EXPECT_TRUE(mem_check(dst, PAGES(4), 1));
	EXPECT_TRUE(mem_is_zero(dst + PAGES(6), self->len - PAGES(6)));
	EXPECT_TRUE(mem_check(src, PAGES(4), 1));
	EXPECT_TRUE(no_event(uffd));
	/* Given up on one side, it is left on the other. */
	ASSERT_EQ(0, madvise(dst + PAGES(4), MEM_PAGE, MADV_DONTNEED));
	EXPECT_EQ(0, load_at(dst + PAGES(4)));
	EXPECT_EQ(SIGBUS, load_at(src + PAGES(4)));
}

TEST_HARNESS_MAIN
