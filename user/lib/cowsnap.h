/* SPDX-License-Identifier: GPL-2.0 */
/*
 * libcowsnap: duplicate memory of this process at another address,
 * copy-on-write, through /dev/cowsnap.
 *
 *	int fd = cowsnap_open();
 *	char *snap = cowsnap_snapshot(fd, data, len);
 *
 *	if (snap == MAP_FAILED)
 *		errx(1, "%s", cowsnap_error());
 *	...			// data may change, snap does not
 *	munmap(snap, len);
 *
 * A duplicate is ordinary private memory: munmap(2) drops it, mprotect(2),
 * madvise(2) and fork(2) do what they always do, and it may be duplicated
 * again. The library keeps no state but the text behind cowsnap_error(), so
 * every call may be made from any thread. <linux/cowsnap.h> is the reference
 * of the structures, flags and errors.
 */
#ifndef COWSNAP_H
#define COWSNAP_H

#include <stddef.h>
#include <linux/cowsnap.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * cowsnap_open - open /dev/cowsnap
 *
 * The descriptor has close-on-exec set. It serves all threads and, since the
 * device acts on the memory of whoever calls, also a child of fork(2).
 *
 * Return: a descriptor for the calls below, to be closed with close(2), or -1
 * with errno of open(2): ENOENT when the module is not loaded, EACCES when the
 * device node does not admit the caller. cowsnap_error() says what to do.
 */
int cowsnap_open(void);

/**
 * cowsnap_query - ask what the loaded module can do on this kernel
 * @fd:	from cowsnap_open()
 * @q:	filled in; what it held before does not matter
 *
 * Members that an older module does not know are 0.
 *
 * Return: 0, or -1 with errno: EBADF or ENOTTY when @fd is not the device.
 */
int cowsnap_query(int fd, struct cowsnap_query *q);

/**
 * cowsnap_remap - duplicate memory, with every input and output of the ioctl
 * @fd:	from cowsnap_open()
 * @r:	in: flags, src, len, dst (bytes; the rest 0). The library fills in size
 *	and clears the outputs. out: dst, shared, copied (base pages), and on
 *	failure reason and fault_addr
 *
 * A request that failed may be passed again as it is.
 *
 * Return: 0, or -1 with errno as <linux/cowsnap.h> lists it, or EBADF or ENOTTY
 * when @fd is not the device.
 */
int cowsnap_remap(int fd, struct cowsnap_remap *r);

/**
 * cowsnap_snapshot - duplicate memory where the kernel finds room
 * @fd:		from cowsnap_open()
 * @addr:	start of the memory, a multiple of the page size
 * @len:	its length in bytes, a multiple of the page size, not 0
 *
 * The duplicate has the protection of the source. Drop it with munmap(2).
 *
 * Return: the address of the duplicate, or MAP_FAILED (sys/mman.h) with errno
 * as of cowsnap_remap(): EINVAL when @addr or @len are no multiples of the page
 * size, ENOMEM for a hole in the range, EOPNOTSUPP for memory that cannot be
 * duplicated. cowsnap_error() says which and where.
 */
void *cowsnap_snapshot(int fd, const void *addr, size_t len);

/**
 * cowsnap_snapshot_at - duplicate memory at a chosen address, or with flags
 * @fd:		from cowsnap_open()
 * @addr:	start of the memory, a multiple of the page size
 * @len:	its length in bytes, a multiple of the page size, not 0
 * @dst:	the destination with COWSNAP_REMAP_FIXED (what is mapped there is
 *		replaced) or COWSNAP_REMAP_FIXED_NOREPLACE; else NULL or a hint
 * @flags:	COWSNAP_REMAP_*, for instance COWSNAP_REMAP_READONLY
 *
 * Return: as cowsnap_snapshot(); also EEXIST with FIXED_NOREPLACE when something
 * is mapped at @dst, and EPERM when @dst must not be replaced.
 */
void *cowsnap_snapshot_at(int fd, const void *addr, size_t len, void *dst,
			  unsigned int flags);

/**
 * cowsnap_reason - the sentence for an enum cowsnap_reason
 * @reason:	from the reason member of a request
 *
 * Return: a constant string, without a final dot, that says what is wrong and
 * what to do next; for a number this library does not know a string that says
 * so; never NULL.
 */
const char *cowsnap_reason(unsigned int reason);

/**
 * cowsnap_strerror - what went wrong with a call, as one sentence
 * @r:		the request that failed, or NULL when cowsnap_open() failed
 * @err:	errno of that call
 * @buf:	where the sentence goes; always terminated when @n is not 0
 * @n:		size of @buf in bytes; 256 is enough
 *
 * For instance "0x7f12c0000000: MAP_SHARED memory cannot be duplicated; use a
 * private mapping". errno is left alone.
 *
 * Return: the length of the whole sentence as snprintf(3) returns it: when it
 * is @n or more, @buf holds the beginning.
 */
int cowsnap_strerror(const struct cowsnap_remap *r, int err, char *buf,
		     size_t n);

/**
 * cowsnap_error - the sentence for the last failed call of this thread
 *
 * Set by each call above that fails, and not changed by those that succeed.
 *
 * Return: a string that stays as it is until another call fails in this
 * thread; empty when none has failed yet; never NULL.
 */
const char *cowsnap_error(void);

#ifdef __cplusplus
}
#endif

#endif /* COWSNAP_H */
