/* SPDX-License-Identifier: GPL-2.0 */
/*
 * UNSHARE, SYNC, DIFF and RELEASE for the tests: each returns 0 or -errno.
 */
#ifndef COWSNAP_SELFTESTS_OPS_H
#define COWSNAP_SELFTESTS_OPS_H

#include <errno.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "harness.h"
#include "mem.h"

#define PAGES(n)	((n) * MEM_PAGE)
#define U64(p)		((__u64)(uintptr_t)(p))

/* In a fixture with fd, src and dup: LEN bytes of src get a duplicate. */
#define DUPLICATE() do {						\
	self->dup = mem_dup(self->fd, self->src, LEN);			\
	ASSERT_NE(NULL, self->dup);					\
} while (0)

static inline int op_call(int fd, unsigned long cmd, void *arg)
{
	return ioctl(fd, cmd, arg) ? -errno : 0;
}

static inline int op_unshare(int fd, void *addr, size_t len, unsigned int flags,
			     struct cowsnap_unshare *u)
{
	*u = (struct cowsnap_unshare){
		.size = sizeof(*u), .flags = flags, .addr = U64(addr), .len = len,
	};
	return op_call(fd, COWSNAP_UNSHARE, u);
}

static inline int op_sync(int fd, void *from, void *to, size_t len,
			  struct cowsnap_sync *s)
{
	*s = (struct cowsnap_sync){
		.size = sizeof(*s), .from = U64(from), .to = U64(to), .len = len,
	};
	return op_call(fd, COWSNAP_SYNC, s);
}

static inline int op_release(int fd, void *src, void *dst, size_t len,
			     struct cowsnap_release *r)
{
	*r = (struct cowsnap_release){
		.size = sizeof(*r), .src = U64(src), .dst = U64(dst), .len = len,
	};
	return op_call(fd, COWSNAP_RELEASE, r);
}

static inline int op_diff(int fd, void *a, void *b, size_t len,
			  struct cowsnap_range *vec, size_t vec_len,
			  struct cowsnap_diff *d)
{
	*d = (struct cowsnap_diff){
		.size = sizeof(*d), .a = U64(a), .b = U64(b), .len = len,
		.vec = U64(vec), .vec_len = vec_len,
	};
	return op_call(fd, COWSNAP_DIFF, d);
}

/* Minor faults of this thread so far. */
static inline long op_faults(void)
{
	struct rusage usage;

	getrusage(RUSAGE_THREAD, &usage);
	return usage.ru_minflt;
}

/* Minor faults that a write to each page takes; the content stays. */
static inline long op_faults_of_writes(void *p, size_t len)
{
	volatile char *at = p, *end = at + len;
	long before;

	/* The stack may fault when the first count is stored there. */
	op_faults();
	before = op_faults();
	for (; at < end; at += MEM_PAGE)
		*at = *at;
	return op_faults() - before;
}

#endif /* COWSNAP_SELFTESTS_OPS_H */
