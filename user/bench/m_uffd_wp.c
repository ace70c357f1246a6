// SPDX-License-Identifier: GPL-2.0
/*
 * Method uffd-wp: the source is write-protected by userfaultfd(2), and a thread
 * saves each page before it changes. The snapshot is memory in which nothing is
 * yet: a page comes there when the source's is about to be written, or when it
 * is looked at (the kernel's admin-guide/mm/userfaultfd.rst; virtual machine
 * monitors save a running guest so).
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bench.h"

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY	1
#endif
#ifndef UFFD_FEATURE_WP_HUGETLBFS_SHMEM
#define UFFD_FEATURE_WP_HUGETLBFS_SHMEM	(1 << 12)
#endif

/* A snapshot, as its thread sees it. */
struct watch {
	int fd;			/* userfaultfd */
	int stop;		/* eventfd */
	int cpu;
	char *src, *snap;
	size_t len, granule;
	pthread_t thread;
};

/* -1 with errno. Without privileges: faults of user mode only, which is all we have. */
static int open_uffd(enum page_kind page)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_PAGEFAULT_FLAG_WP |
			    (page == PAGE_HUGETLB ? UFFD_FEATURE_WP_HUGETLBFS_SHMEM : 0),
	};
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd < 0 && errno == EPERM)
		fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	if (fd >= 0 && ioctl(fd, UFFDIO_API, &api)) {
		int err = errno;

		close(fd);
		errno = err;
		return -1;
	}
	return fd;
}

static const char *uffd_missing(size_t len, enum page_kind page)
{
	int fd = open_uffd(page);

	if (fd < 0 && errno == EINVAL)
		return sentence("this kernel does not write-protect %s memory by userfaultfd",
				page_names[page]);
	if (fd < 0)
		return sentence("userfaultfd: %s", strerror(errno));
	close(fd);
	/* hugetlb has its own pool, which region_reserve() looks at. */
	return page == PAGE_HUGETLB ? NULL : memory_lacks(len, 1);
}

static void wake(struct watch *w, char *addr)
{
	struct uffdio_range range = { .start = (uintptr_t)addr, .len = w->granule };

	ioctl(w->fd, UFFDIO_WAKE, &range);
}

/*
 * The page as it is in the source, which is as it was: this thread alone lets
 * anybody write there, and only after it has saved the page.
 */
static void save(struct watch *w, size_t offset)
{
	struct uffdio_copy copy = {
		.dst = (uintptr_t)(w->snap + offset),
		.src = (uintptr_t)(w->src + offset),
		.len = w->granule,
	};

	while (ioctl(w->fd, UFFDIO_COPY, &copy)) {
		if (errno == EAGAIN)
			continue;
		/* It is there already; or its side has unmapped it. */
		if (errno != EEXIST && errno != ENOENT)
			die("uffd-wp: cannot save a page: %s", strerror(errno));
		wake(w, w->snap + offset);
		return;
	}
}

static int protect(struct watch *w, size_t offset, size_t len, bool on)
{
	struct uffdio_writeprotect wp = {
		.range = { .start = (uintptr_t)(w->src + offset), .len = len },
		.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};
	int err;

	do
		err = ioctl(w->fd, UFFDIO_WRITEPROTECT, &wp);
	while (err && errno == EAGAIN);
	return err;
}

static void handle_fault(struct watch *w, uint64_t address)
{
	char *page = (char *)(uintptr_t)(address & ~(uint64_t)(w->granule - 1));
	size_t offset = page - w->src;

	if (page < w->src || offset >= w->len) {
		save(w, page - w->snap);
		return;
	}
	save(w, offset);
	/* ENOENT: unregistered meanwhile, with which the protection has gone. */
	if (protect(w, offset, w->granule, /* on= */false) && errno != ENOENT)
		die("uffd-wp: cannot let a page be written: %s", strerror(errno));
}

static void *handle_faults(void *arg)
{
	struct watch *w = arg;
	struct pollfd fds[] = {
		{ .fd = w->fd, .events = POLLIN }, { .fd = w->stop, .events = POLLIN },
	};
	struct uffd_msg msg[16];
	uint64_t begun;
	ssize_t n;

	place_bind(w->cpu);
	/* Not before all of the source is protected: it is a snapshot of one instant. */
	while (read(w->stop, &begun, sizeof(begun)) < 0)
		poll(&fds[1], 1, -1);
	for (;;) {
		if (poll(fds, 2, -1) < 0)
			continue;
		while ((n = read(w->fd, msg, sizeof(msg))) > 0) {
			size_t i, nr = n / sizeof(msg[0]);

			for (i = 0; i < nr; i++)
				if (msg[i].event == UFFD_EVENT_PAGEFAULT)
					handle_fault(w, msg[i].arg.pagefault.address);
		}
		if (fds[1].revents & POLLIN)
			return NULL;
	}
}

static void tell(struct watch *w)
{
	const uint64_t one = 1;

	if (write(w->stop, &one, sizeof(one)) != sizeof(one))
		die("uffd-wp: its thread cannot be told: %s", strerror(errno));
}

static const char *watch_range(struct watch *w, char *addr, uint64_t mode)
{
	struct uffdio_register reg = {
		.range = { .start = (uintptr_t)addr, .len = w->len }, .mode = mode,
	};

	return ioctl(w->fd, UFFDIO_REGISTER, &reg) ?
	       sentence("userfaultfd: UFFDIO_REGISTER: %s", strerror(errno)) : NULL;
}

/* A program has it at hand, so making it is not part of making a snapshot. */
static const char *start_watch(struct snap *s)
{
	struct watch *w = calloc(1, sizeof(*w));
	int err;

	if (!w)
		die("out of memory for a snapshot");
	*w = (struct watch){
		.src = s->src->addr, .len = s->src->len,
		.granule = s->src->page == PAGE_HUGETLB ? HUGE_SIZE : page_size,
		.cpu = place_cpu_on(s->src->node < 0 ? place_node(0) : s->src->node, 1),
		.fd = open_uffd(s->src->page),
	};
	if (w->fd < 0) {
		free(w);
		return sentence("userfaultfd: %s", strerror(errno));
	}
	w->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE);
	err = w->stop < 0 ? errno : pthread_create(&w->thread, NULL, handle_faults, w);
	if (err)
		die("uffd-wp: cannot create its thread: %s", strerror(err));
	s->data = w;
	return NULL;
}

/* Unregistering takes the protection away, and wakes whoever waits. */
static void end_watch(struct snap *s)
{
	struct watch *w = s->data;
	struct uffdio_range range = { .start = (uintptr_t)w->src, .len = w->len };

	ioctl(w->fd, UFFDIO_UNREGISTER, &range);
	tell(w);
	pthread_join(w->thread, NULL);
	close(w->fd);
	close(w->stop);
	free(w);
}

static const char *uffd_take(struct snap *s)
{
	const char *why = start_watch(s);
	struct watch *w = s->data;
	uint64_t start = now_ns();

	if (why)
		return why;
	why = region_reserve(&s->copy, w->len, s->src->page);
	w->snap = s->copy.addr;
	if (!why)
		why = watch_range(w, w->snap, UFFDIO_REGISTER_MODE_MISSING);
	if (!why)
		why = watch_range(w, w->src, UFFDIO_REGISTER_MODE_WP);
	if (!why && protect(w, 0, w->len, /* on= */true))
		why = sentence("userfaultfd: UFFDIO_WRITEPROTECT: %s", strerror(errno));
	tell(w);
	s->take_ns = now_ns() - start;
	s->addr = w->snap;
	if (why) {
		end_watch(s);
		region_free(&s->copy);
	}
	return why;
}

static void uffd_drop(struct snap *s)
{
	uint64_t start = now_ns();

	copy_drop(s);
	end_watch(s);
	s->drop_ns = now_ns() - start;
}

const struct method method_uffd_wp = {
	.name = "uffd-wp",
	.help = "userfaultfd write-protects the source, a thread saves pages",
	.single = "memory has one userfaultfd, and each snapshot needs its own",
	.missing = uffd_missing,
	.take = uffd_take,
	.start = thread_start,
	.wait = thread_wait,
	.drop = uffd_drop,
};
