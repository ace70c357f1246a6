/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Pages pinned for as long as a test likes: buffers registered with io_uring
 * are pinned (FOLL_PIN, FOLL_LONGTERM, for writing) on every supported kernel,
 * and what is read into them goes through the pin and not through the page
 * table. The bare system calls, since not every machine has liburing.
 */
#ifndef COWSNAP_SELFTESTS_URING_H
#define COWSNAP_SELFTESTS_URING_H

#include <errno.h>
#include <linux/io_uring.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "mem.h"

#define URING_ENTRIES	64
#define URING_DISABLED	"/proc/sys/kernel/io_uring_disabled"

struct uring {
	int fd;
	unsigned int *sq_tail, *sq_array, sq_mask;
	unsigned int *cq_head, *cq_tail, cq_mask;
	struct io_uring_sqe *sqes;
	struct io_uring_cqe *cqes;
	void *rings;
	size_t rings_len;
	long was_disabled;	/* the sysctl to restore, or -1 */
};

static inline int uring_setup(struct uring *u, struct io_uring_params *p)
{
	char text[24];

	u->was_disabled = -1;
	u->fd = syscall(__NR_io_uring_setup, URING_ENTRIES, p);
	if (u->fd >= 0 || errno != EPERM)
		return u->fd < 0 ? -errno : 0;
	u->was_disabled = mem_read_long(URING_DISABLED);
	if (u->was_disabled <= 0 || mem_write(URING_DISABLED, "0"))
		return -EPERM;
	u->fd = syscall(__NR_io_uring_setup, URING_ENTRIES, p);
	if (u->fd >= 0)
		return 0;
	snprintf(text, sizeof(text), "%ld", u->was_disabled);
	mem_write(URING_DISABLED, text);
	return -EPERM;
}

/* 0 or -errno. */
static inline int uring_open(struct uring *u)
{
	struct io_uring_params p = { 0 };
	int err = uring_setup(u, &p);
	char *rings;

	if (err)
		return err;
	u->rings_len = p.sq_off.array + p.sq_entries * sizeof(unsigned int);
	if (u->rings_len < p.cq_off.cqes + p.cq_entries * sizeof(*u->cqes))
		u->rings_len = p.cq_off.cqes + p.cq_entries * sizeof(*u->cqes);
	rings = mmap(NULL, u->rings_len, PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_POPULATE, u->fd, IORING_OFF_SQ_RING);
	u->sqes = mmap(NULL, URING_ENTRIES * sizeof(*u->sqes),
		       PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
		       u->fd, IORING_OFF_SQES);
	if (rings == MAP_FAILED || u->sqes == MAP_FAILED)
		return -ENOMEM;
	u->rings = rings;
	u->sq_tail = (unsigned int *)(rings + p.sq_off.tail);
	u->sq_array = (unsigned int *)(rings + p.sq_off.array);
	u->sq_mask = *(unsigned int *)(rings + p.sq_off.ring_mask);
	u->cq_head = (unsigned int *)(rings + p.cq_off.head);
	u->cq_tail = (unsigned int *)(rings + p.cq_off.tail);
	u->cq_mask = *(unsigned int *)(rings + p.cq_off.ring_mask);
	u->cqes = (struct io_uring_cqe *)(rings + p.cq_off.cqes);
	return 0;
}

static inline void uring_close(struct uring *u)
{
	char text[24];

	if (u->fd < 0)
		return;
	munmap(u->sqes, URING_ENTRIES * sizeof(*u->sqes));
	munmap(u->rings, u->rings_len);
	close(u->fd);
	u->fd = -1;
	if (u->was_disabled <= 0)
		return;
	snprintf(text, sizeof(text), "%ld", u->was_disabled);
	mem_write(URING_DISABLED, text);
}

/* Pin the @nr pieces @iov. 0 or -errno. */
static inline int uring_pinv(struct uring *u, const struct iovec *iov,
			     unsigned int nr)
{
	return syscall(__NR_io_uring_register, u->fd, IORING_REGISTER_BUFFERS,
		       iov, nr) ? -errno : 0;
}

static inline int uring_pin(struct uring *u, void *addr, size_t len)
{
	struct iovec iov = { .iov_base = addr, .iov_len = len };

	return uring_pinv(u, &iov, 1);
}

/* All that is pinned. Has an effect at once, unlike closing the ring. */
static inline int uring_unpin(struct uring *u)
{
	return syscall(__NR_io_uring_register, u->fd,
		       IORING_UNREGISTER_BUFFERS, NULL, 0) ? -errno : 0;
}

/*
 * Request number @i of the next uring_submit(), within pinned piece 0. Requests
 * may be served in any order.
 */
static inline void uring_prepare(struct uring *u, unsigned int i, int op,
				 int fd, void *addr, size_t len, off_t off)
{
	unsigned int slot = (*u->sq_tail + i) & u->sq_mask;

	memset(&u->sqes[slot], 0, sizeof(u->sqes[slot]));
	u->sqes[slot].opcode = op;
	u->sqes[slot].fd = fd;
	u->sqes[slot].addr = (uintptr_t)addr;
	u->sqes[slot].len = len;
	u->sqes[slot].off = off;
	u->sq_array[slot] = slot;
}

/* Issues @nr requests, waits for them; the sum of their results or -errno. */
static inline long uring_submit(struct uring *u, unsigned int nr)
{
	long sum = 0;
	unsigned int i;

	__atomic_store_n(u->sq_tail, *u->sq_tail + nr, __ATOMIC_RELEASE);
	if (syscall(__NR_io_uring_enter, u->fd, nr, nr, IORING_ENTER_GETEVENTS,
		    NULL, 0) < 0)
		return -errno;
	for (i = 0; i < nr; i++) {
		unsigned int head = *u->cq_head;
		int res;

		if (head == __atomic_load_n(u->cq_tail, __ATOMIC_ACQUIRE))
			return -EIO;
		res = u->cqes[head & u->cq_mask].res;
		__atomic_store_n(u->cq_head, head + 1, __ATOMIC_RELEASE);
		if (res < 0)
			return res;
		sum += res;
	}
	return sum;
}

/* Read from @fd through the pin of @addr. */
static inline long uring_read(struct uring *u, int fd, void *addr, size_t len)
{
	uring_prepare(u, 0, IORING_OP_READ_FIXED, fd, addr, len, 0);
	return uring_submit(u, 1);
}

/* Write what the pinned page of @addr holds to @fd. */
static inline long uring_write(struct uring *u, int fd, void *addr, size_t len)
{
	uring_prepare(u, 0, IORING_OP_WRITE_FIXED, fd, addr, len, 0);
	return uring_submit(u, 1);
}

#endif /* COWSNAP_SELFTESTS_URING_H */
