/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A request for REMAP and memory for it, for the tests that are about what is
 * asked and answered.
 */
#ifndef COWSNAP_SELFTESTS_REQUEST_H
#define COWSNAP_SELFTESTS_REQUEST_H

#include <errno.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "harness.h"
#include "mem.h"

#define PAGES(n)	((n) * MEM_PAGE)
#define U64(p)		((__u64)(uintptr_t)(p))

/* A multiple of the page size beyond user space with any page-table depth. */
#define KERNEL_ADDR	0xffff888000000000ULL

static inline int call(int fd, unsigned long cmd, void *arg)
{
	return ioctl(fd, cmd, arg) ? -errno : 0;
}

/* Is each of these bytes @value? */
static inline bool all_bytes(const void *p, unsigned char value, size_t len)
{
	const unsigned char *at = p;
	size_t i;

	for (i = 0; i < len; i++)
		if (at[i] != value)
			return false;
	return true;
}

/* A request to UNSHARE, SYNC, DIFF or RELEASE, by what they have in common. */
union any {
	struct {
		__u32 size, flags;
		__u64 first;
		union {
			__u64 second;
			__u64 len_of_one;
		};
		__u64 len;
	};
	struct cowsnap_unshare unshare;
	struct cowsnap_sync sync;
	struct cowsnap_diff diff;
	struct cowsnap_release release;
	char bytes[128];
};

/* Four pages of source between guards, and a request for them. */
#define REQUEST_FIXTURE(name)						\
FIXTURE(name)								\
{									\
	int fd;								\
	char *src;							\
	size_t len;							\
	struct cowsnap_remap r;						\
};									\
									\
FIXTURE_SETUP(name)							\
{									\
	self->fd = mem_open();						\
	ASSERT_GE(self->fd, 0)						\
		TH_LOG("%s: %s. Is the module loaded?", MEM_DEVICE,	\
		       strerror(errno));				\
	self->len = PAGES(4);						\
	self->src = mem_map_alone(self->len);				\
	ASSERT_NE(NULL, self->src);					\
	mem_fill(self->src, self->len, 1);				\
	self->r = (struct cowsnap_remap) {				\
		.size = sizeof(self->r),				\
		.src = U64(self->src),					\
		.len = self->len,					\
	};								\
}									\
									\
FIXTURE_TEARDOWN(name)							\
{									\
	EXPECT_TRUE(mem_check(self->src, self->len, 1));		\
	close(self->fd);						\
}

#endif /* COWSNAP_SELFTESTS_REQUEST_H */
