/* SPDX-License-Identifier: GPL-2.0 */
/*
 * userfaultfd: registering ranges and write-protecting them.
 */
#ifndef COWSNAP_SELFTESTS_UFFD_H
#define COWSNAP_SELFTESTS_UFFD_H

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define U64(p)		((__u64)(uintptr_t)(p))

/* Newer than the headers of Debian 12. */
#ifndef UFFD_FEATURE_WP_HUGETLBFS_SHMEM
#define UFFD_FEATURE_WP_HUGETLBFS_SHMEM	(1 << 12)
#endif
#ifndef UFFD_FEATURE_WP_UNPOPULATED
#define UFFD_FEATURE_WP_UNPOPULATED	(1 << 13)
#endif
#ifndef UFFD_FEATURE_POISON
#define UFFD_FEATURE_POISON		(1 << 14)
#endif
#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC		(1 << 15)
#endif
#ifndef UFFD_FEATURE_RWP		/* Linux 7 */
#define UFFD_FEATURE_RWP		(1 << 17)
#define UFFDIO_REGISTER_MODE_RWP	((__u64)1 << 3)
#define UFFDIO_RWPROTECT_MODE_RWP	((__u64)1 << 0)
#define UFFDIO_RWPROTECT		_IOWR(UFFDIO, 0x09,		\
					      struct uffdio_rwprotect)

struct uffdio_rwprotect {
	struct uffdio_range range;
	__u64 mode;
};
#endif

#ifndef UFFDIO_MOVE			/* Linux 6.8 */
#define UFFD_FEATURE_MOVE		(1 << 16)
#define UFFDIO_MOVE			_IOWR(UFFDIO, 0x05, struct uffdio_move)

struct uffdio_move {
	__u64 dst;
	__u64 src;
	__u64 len;
	__u64 mode;
	__s64 move;
};
#endif

static inline int open_uffd(__u64 features)
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

static inline int watch(int uffd, void *p, size_t len, __u64 mode)
{
	struct uffdio_register reg = { .range = { U64(p), len },
				       .mode = mode };

	return ioctl(uffd, UFFDIO_REGISTER, &reg);
}

static inline int protect(int uffd, void *p, size_t len, bool on)
{
	struct uffdio_writeprotect wp = {
		.range = { U64(p), len },
		.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	return ioctl(uffd, UFFDIO_WRITEPROTECT, &wp);
}

/* Trap loads, too. */
static inline int trap(int uffd, void *p, size_t len, bool on)
{
	struct uffdio_rwprotect rwp = {
		.range = { U64(p), len },
		.mode = on ? UFFDIO_RWPROTECT_MODE_RWP : 0,
	};

	return ioctl(uffd, UFFDIO_RWPROTECT, &rwp);
}

/* Does the monitor know of nothing? */
static inline bool no_event(int uffd)
{
	struct pollfd p = { .fd = uffd, .events = POLLIN };

	return poll(&p, 1, 0) == 0;
}

#endif /* COWSNAP_SELFTESTS_UFFD_H */
