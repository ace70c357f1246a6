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
 * cowsnap_release - drop a snapshot and give its memory full write access back
 * @fd:		from cowsnap_open()
 * @addr:	start of the memory of which @snap is a snapshot
 * @snap:	its snapshot, unmapped by this call
 * @len:	length of both in bytes, a multiple of the page size
 *
 * Other than after munmap(2), writes to the memory take no page fault then,
 * where nobody else shares it.
 *
 * Return: 0, or -1 with errno: EINVAL, ENOMEM for a hole in one of the ranges or
 * one mapping too many (a part from the middle of a snapshot), EOPNOTSUPP for
 * memory that cannot be a snapshot, EPERM when the snapshot is sealed. Nothing was
 * unmapped then.
 */
int cowsnap_release(int fd, void *addr, void *snap, size_t len);

/**
 * cowsnap_refresh - make a snapshot anew, where it is
 * @fd:		from cowsnap_open()
 * @addr:	start of the memory of which @snap is a snapshot
 * @snap:	what is to hold what the memory holds now
 * @len:	length of both in bytes, a multiple of the page size
 *
 * Costs what has changed since the snapshot was made or refreshed, and a look at
 * the page tables of the rest. What was written to @snap is lost.
 *
 * Return: 0, or -1 with errno as of cowsnap_sync().
 */
int cowsnap_refresh(int fd, const void *addr, void *snap, size_t len);

/**
 * cowsnap_rollback - take back all that was written since a snapshot
 * @fd:		from cowsnap_open()
 * @addr:	start of the memory of which @snap is a snapshot; it is to hold
 *		what @snap holds. Pointers into it stay valid
 * @snap:	the snapshot, which stays
 * @len:	length of both in bytes, a multiple of the page size
 *
 * Return: 0, or -1 with errno as of cowsnap_sync().
 */
int cowsnap_rollback(int fd, void *addr, const void *snap, size_t len);

/**
 * cowsnap_sync - refresh or rollback, with every input and output of the ioctl
 * @fd:	from cowsnap_open()
 * @s:	in: from, to, len (bytes; the rest 0). The library fills in size and clears
 *	the outputs. out: changed (base pages), and on failure reason and fault_addr
 *
 * Return: 0, or -1 with errno: EINVAL, ENOMEM for a hole or for want of memory,
 * EOPNOTSUPP when one is no duplicate of the other any more, or memory that
 * cannot be shared so; see <linux/cowsnap.h>.
 */
int cowsnap_sync(int fd, struct cowsnap_sync *s);

/**
 * cowsnap_unshare - end sharing over a range before anybody faults
 * @fd:	from cowsnap_open()
 * @u:	in: flags (COWSNAP_UNSHARE_*), addr, len (bytes), node; the rest 0. The
 *	library fills in size and clears the outputs. out: copied, reused (base
 *	pages; also after a failure), and on failure reason and fault_addr
 *
 * Return: 0, or -1 with errno: EINVAL, ENOMEM for a hole or for want of memory,
 * EOPNOTSUPP; see <linux/cowsnap.h>. A call that failed may be made again.
 */
int cowsnap_unshare(int fd, struct cowsnap_unshare *u);

/**
 * cowsnap_diff - list where two ranges differ, as far as there is room
 * @fd:	from cowsnap_open()
 * @d:	in: a, b, len, start_offset (bytes), vec, vec_len; the rest 0. The library
 *	fills in size and clears the outputs. out: nr, next_offset, and on failure
 *	reason and fault_addr
 *
 * Return: 0, or -1 with errno: EINVAL, ENOMEM for a hole or for want of memory,
 * EOPNOTSUPP, EFAULT when @d->vec cannot be written; see <linux/cowsnap.h>.
 */
int cowsnap_diff(int fd, struct cowsnap_diff *d);

/* How many ranges an iterator asks for at a time. */
#define COWSNAP_DIFF_VEC	64

/* Over all differences of two ranges. The members are the library's. */
struct cowsnap_diff_iter {
	int fd;
	int begun;
	__u64 a;
	__u64 b;
	__u64 len;
	__u64 offset;
	__u64 nr;
	__u64 at;
	struct cowsnap_range vec[COWSNAP_DIFF_VEC];
};

/**
 * cowsnap_diff_begin - begin to go through the differences of two ranges
 * @it:		filled in; there is nothing to be freed afterwards
 * @fd:		from cowsnap_open()
 * @a:		start of a range, a multiple of the page size
 * @b:		start of the other
 * @len:	length of both in bytes, a multiple of the page size
 */
void cowsnap_diff_begin(struct cowsnap_diff_iter *it, int fd, const void *a,
			const void *b, size_t len);

/**
 * cowsnap_diff_next - the next difference, in rising order
 * @it:		from cowsnap_diff_begin()
 * @r:		out: start and end of it in bytes from the start of the ranges, half
 *		open, multiples of the page size; two of them never touch
 *
 * Pages listed may still have equal bytes; those left out have.
 *
 * Return: 1; 0 when there is none any more; -1 with errno as of cowsnap_diff().
 */
int cowsnap_diff_next(struct cowsnap_diff_iter *it, struct cowsnap_range *r);

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
