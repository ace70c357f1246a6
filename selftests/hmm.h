/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A device with memory and page tables of its own, as the kernel's module
 * test_hmm emulates it. What lib/test_hmm_uapi.h has to say, in our words: it is
 * in no package of headers.
 */
#ifndef COWSNAP_SELFTESTS_HMM_H
#define COWSNAP_SELFTESTS_HMM_H

#include <errno.h>
#include <fcntl.h>
#include <linux/ioctl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "mem.h"

struct hmm_dmirror_cmd {
	uint64_t addr;		/* of the process, that the device works on */
	uint64_t ptr;		/* data to and from the device */
	uint64_t npages;
	uint64_t cpages;	/* out: pages done */
	uint64_t faults;	/* out: page faults of the device */
};

#define HMM_DMIRROR_READ		_IOWR('H', 0, struct hmm_dmirror_cmd)
#define HMM_DMIRROR_WRITE		_IOWR('H', 1, struct hmm_dmirror_cmd)
#define HMM_DMIRROR_MIGRATE_TO_DEV	_IOWR('H', 2, struct hmm_dmirror_cmd)
#define HMM_DMIRROR_MIGRATE_TO_SYS	_IOWR('H', 3, struct hmm_dmirror_cmd)
#define HMM_DMIRROR_EXCLUSIVE		_IOWR('H', 5, struct hmm_dmirror_cmd)

#define HMM_DEVICE	"/dev/hmm_dmirror0"

/*
 * The device of this process; -1 without one. The module stays loaded: it loses
 * the names of its devices when it goes (6.12), which the guest takes for a leak.
 */
static inline int hmm_open(void)
{
	if (access(HMM_DEVICE, F_OK) && system("modprobe -q test_hmm 2>/dev/null"))
		return -1;
	return open(HMM_DEVICE, O_RDWR | O_CLOEXEC);
}

/* Faults that the device took, or -errno. All of the pages, or it is EIO. */
static inline int hmm_call(int hmm, unsigned long cmd, const void *addr,
			   size_t len, void *data)
{
	struct hmm_dmirror_cmd c = {
		.addr = (uintptr_t)addr, .ptr = (uintptr_t)data,
		.npages = len / MEM_PAGE,
	};

	if (ioctl(hmm, cmd, &c))
		return -errno;
	return c.cpages == c.npages ? (int)c.faults : -EIO;
}

#endif /* COWSNAP_SELFTESTS_HMM_H */
