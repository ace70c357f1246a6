// SPDX-License-Identifier: GPL-2.0
/* libcowsnap: thin calls around /dev/cowsnap, and its errors as sentences. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "cowsnap.h"

#define DEVICE	"/dev/cowsnap"

static __thread char last_error[256];

/*
 * What is wrong; what to do. The errno of each is part of the ABI header, so it
 * is not repeated here.
 */
static const char *const reasons[] = {
	[COWSNAP_REASON_NONE] =
		"no reason was given",
	[COWSNAP_REASON_STRUCT_TAIL] =
		"the request uses members that this module does not know; load a newer module or leave them zero",
	[COWSNAP_REASON_FLAG_UNKNOWN] =
		"the request uses a flag that this module does not know; ask COWSNAP_QUERY which it has",
	[COWSNAP_REASON_FLAG_CONFLICT] =
		"FIXED and FIXED_NOREPLACE exclude each other; pass one of them",
	[COWSNAP_REASON_RESERVED] =
		"a reserved member is not zero; clear the struct before filling it in",
	[COWSNAP_REASON_ALIGN] =
		"address or length is not a multiple of the page size; round them to whole pages",
	[COWSNAP_REASON_EMPTY] =
		"the length is 0; there is nothing to duplicate",
	[COWSNAP_REASON_OVERFLOW] =
		"the range leaves the address space; check address and length",
	[COWSNAP_REASON_OVERLAP] =
		"source and destination overlap; choose a destination outside the source",
	[COWSNAP_REASON_NODE] =
		"no such NUMA node, no memory on it or not allowed here; choose one that numactl -H shows, with COWSNAP_UNSHARE_NODE",
	[COWSNAP_REASON_OFFSET] =
		"start_offset lies beyond the end of the range; pass 0, or what next_offset was",

	[COWSNAP_REASON_HOLE] =
		"nothing is mapped there; leave it out, or have COWSNAP_REMAP keep holes with COWSNAP_REMAP_HOLES",
	[COWSNAP_REASON_SHARED] =
		"MAP_SHARED memory cannot be duplicated; use a private mapping",
	[COWSNAP_REASON_PFNMAP] =
		"device memory cannot be duplicated; leave it out of the range",
	[COWSNAP_REASON_WIPEONFORK] =
		"memory with MADV_WIPEONFORK or MAP_DROPPABLE cannot be duplicated; use MADV_KEEPONFORK or leave it out",
	[COWSNAP_REASON_SHADOW_STACK] =
		"a shadow stack cannot be duplicated; leave it out of the range",
	[COWSNAP_REASON_SPECIAL] =
		"a mapping of the kernel or of a driver (vdso, vvar) cannot be duplicated; leave it out of the range",
	[COWSNAP_REASON_FILE] =
		"this module cannot duplicate private file mappings; use anonymous memory",
	[COWSNAP_REASON_HUGETLB] =
		"this cannot be done with this hugetlb memory; for a duplicate have all who map it use MAP_NORESERVE, or use transparent huge pages",
	[COWSNAP_REASON_DEVICE] =
		"the page is lent to a device; touch it from the CPU and try again",
	[COWSNAP_REASON_POISON] =
		"the page showed a memory error when it was copied; unmap it or leave it out of the range",
	[COWSNAP_REASON_UNRELATED] =
		"this is no duplicate of the other range; make a new one with COWSNAP_REMAP",
	[COWSNAP_REASON_UFFD] =
		"a userfaultfd waits for faults in what would be changed; unregister the range first",
	[COWSNAP_REASON_HUGEPAGE] =
		"MADV_HUGEPAGE has been called on a side of the snapshot, which this kernel does not allow; make a new one with COWSNAP_REMAP",

	[COWSNAP_REASON_EXISTS] =
		"something is mapped there; choose another destination, or COWSNAP_REMAP_FIXED to replace it",
	[COWSNAP_REASON_SEALED] =
		"a sealed mapping cannot be replaced, unmapped or changed; choose another destination",
	[COWSNAP_REASON_MIN_ADDR] =
		"the destination lies below vm.mmap_min_addr; choose a higher one",
	[COWSNAP_REASON_NO_ROOM] =
		"no free range of that length is left in the address space; unmap something or duplicate less",

	[COWSNAP_REASON_MAP_COUNT] =
		"too many mappings; unmap some or raise vm.max_map_count",
	[COWSNAP_REASON_RLIMIT] =
		"the duplicate would exceed RLIMIT_AS or RLIMIT_DATA; raise the limit (ulimit -v, ulimit -d)",
	[COWSNAP_REASON_COMMIT] =
		"the duplicate would exceed the commit limit; free memory or see vm.overcommit_memory",
	[COWSNAP_REASON_NO_MEMORY] =
		"out of memory, or the memory cgroup is full; free some and try again",
	[COWSNAP_REASON_SIGNAL] =
		"the call was given up because the process is being killed",
	[COWSNAP_REASON_RESULT] =
		"the result cannot be stored; the request must lie in writable memory",
	[COWSNAP_REASON_HUGETLB_POOL] =
		"the hugetlb pool has no free page; raise vm.nr_hugepages, or map the source with MAP_NORESERVE to have its pages shared",
};

const char *cowsnap_reason(unsigned int reason)
{
	if (reason < sizeof(reasons) / sizeof(reasons[0]) && reasons[reason])
		return reasons[reason];
	return "refused for a reason that this libcowsnap does not know; install the one that came with the module";
}

static const char *open_sentence(int err)
{
	switch (err) {
	case ENOENT:
		return DEVICE " does not exist; load the module (modprobe cowsnap)";
	case ENXIO:
	case ENODEV:
		return DEVICE " has no module behind it; load the module (modprobe cowsnap)";
	case EACCES:
	case EPERM:
		return DEVICE " may not be opened by this user; run as root, or install 60-cowsnap.rules and join the group cowsnap";
	case EMFILE:
	case ENFILE:
		return DEVICE ": too many open files; close some or raise the limit (ulimit -n)";
	default:
		return NULL;
	}
}

/* Errors that the request carries no reason for: the device did not see it. */
static const char *device_sentence(int err)
{
	switch (err) {
	case EBADF:
		return "the descriptor is not open; get one from cowsnap_open()";
	case ENOTTY:
		return "the descriptor is not " DEVICE ", or its module lacks this command";
	case EFAULT:
		return "the request cannot be read or written; it must lie in writable memory";
	default:
		return NULL;
	}
}

/* Address 0 means "no place", but for refusals that happen at the bottom. */
static int has_address(unsigned int reason, unsigned long long addr)
{
	return addr || reason == COWSNAP_REASON_HOLE ||
	       reason == COWSNAP_REASON_MIN_ADDR;
}

static int reason_sentence(unsigned int reason, unsigned long long addr,
			   char *buf, size_t n)
{
	const char *text = cowsnap_reason(reason);

	if (has_address(reason, addr))
		return snprintf(buf, n, "0x%llx: %s", addr, text);
	return snprintf(buf, n, "%s", text);
}

int cowsnap_strerror(const struct cowsnap_remap *r, int err, char *buf,
		     size_t n)
{
	const char *text;
	int saved = errno;
	int len;

	if (r && r->reason != COWSNAP_REASON_NONE) {
		len = reason_sentence(r->reason, r->fault_addr, buf, n);
		goto out;
	}

	text = r ? device_sentence(err) : open_sentence(err);
	if (text)
		len = snprintf(buf, n, "%s", text);
	else
		len = snprintf(buf, n, "%s: %s", r ? "cowsnap" : DEVICE,
			       strerror(err));
out:
	errno = saved;
	return len;
}

const char *cowsnap_error(void)
{
	return last_error;
}

/* Keeps errno, which is the other half of the report. */
static int failed(const struct cowsnap_remap *r)
{
	cowsnap_strerror(r, errno, last_error, sizeof(last_error));
	return -1;
}

/* The same of a request of any kind. */
static int refused(unsigned int reason, unsigned long long fault_addr)
{
	struct cowsnap_remap r = { .reason = reason, .fault_addr = fault_addr };

	return failed(&r);
}

int cowsnap_open(void)
{
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC);

	return fd < 0 ? failed(NULL) : fd;
}

int cowsnap_query(int fd, struct cowsnap_query *q)
{
	memset(q, 0, sizeof(*q));
	q->size = sizeof(*q);
	return ioctl(fd, COWSNAP_QUERY, q) ? refused(q->reason, q->fault_addr) : 0;
}

int cowsnap_remap(int fd, struct cowsnap_remap *r)
{
	/* A call that never reaches the module must not show an old reason. */
	r->size = sizeof(*r);
	r->shared = 0;
	r->copied = 0;
	r->fault_addr = 0;
	r->reason = COWSNAP_REASON_NONE;

	return ioctl(fd, COWSNAP_REMAP, r) ? failed(r) : 0;
}

void *cowsnap_snapshot_at(int fd, const void *addr, size_t len, void *dst,
			  unsigned int flags)
{
	struct cowsnap_remap r = {
		.flags = flags,
		.src = (uintptr_t)addr,
		.len = len,
		.dst = (uintptr_t)dst,
	};

	return cowsnap_remap(fd, &r) ? MAP_FAILED : (void *)(uintptr_t)r.dst;
}

void *cowsnap_snapshot(int fd, const void *addr, size_t len)
{
	return cowsnap_snapshot_at(fd, addr, len, NULL, 0);
}

/* A call that never reaches the module must not show an old result, either. */

int cowsnap_unshare(int fd, struct cowsnap_unshare *u)
{
	u->size = sizeof(*u);
	u->copied = 0;
	u->reused = 0;
	u->fault_addr = 0;
	u->reason = COWSNAP_REASON_NONE;
	return ioctl(fd, COWSNAP_UNSHARE, u) ? refused(u->reason, u->fault_addr) : 0;
}

int cowsnap_sync(int fd, struct cowsnap_sync *s)
{
	s->size = sizeof(*s);
	s->changed = 0;
	s->fault_addr = 0;
	s->reason = COWSNAP_REASON_NONE;
	return ioctl(fd, COWSNAP_SYNC, s) ? refused(s->reason, s->fault_addr) : 0;
}

static int sync_ranges(int fd, const void *from, void *to, size_t len)
{
	struct cowsnap_sync s = {
		.from = (uintptr_t)from, .to = (uintptr_t)to, .len = len,
	};

	return cowsnap_sync(fd, &s);
}

int cowsnap_refresh(int fd, const void *addr, void *snap, size_t len)
{
	return sync_ranges(fd, addr, snap, len);
}

int cowsnap_rollback(int fd, void *addr, const void *snap, size_t len)
{
	return sync_ranges(fd, snap, addr, len);
}

int cowsnap_release(int fd, void *addr, void *snap, size_t len)
{
	struct cowsnap_release r = {
		.size = sizeof(r), .src = (uintptr_t)addr,
		.dst = (uintptr_t)snap, .len = len,
	};

	return ioctl(fd, COWSNAP_RELEASE, &r) ? refused(r.reason, r.fault_addr) : 0;
}

int cowsnap_diff(int fd, struct cowsnap_diff *d)
{
	d->size = sizeof(*d);
	d->nr = 0;
	d->next_offset = 0;
	d->fault_addr = 0;
	d->reason = COWSNAP_REASON_NONE;
	return ioctl(fd, COWSNAP_DIFF, d) ? refused(d->reason, d->fault_addr) : 0;
}

void cowsnap_diff_begin(struct cowsnap_diff_iter *it, int fd, const void *a,
			const void *b, size_t len)
{
	*it = (struct cowsnap_diff_iter){
		.fd = fd, .a = (uintptr_t)a, .b = (uintptr_t)b, .len = len,
	};
}

/* The next ranges from the device, behind those that have not been told. */
static int fetch(struct cowsnap_diff_iter *it)
{
	struct cowsnap_diff d = {
		.a = it->a, .b = it->b, .len = it->len,
		.vec = (uintptr_t)it->vec, .vec_len = COWSNAP_DIFF_VEC,
		.start_offset = it->offset,
	};

	if (cowsnap_diff(it->fd, &d))
		return -1;
	it->offset = d.next_offset;
	it->nr = d.nr;
	it->at = 0;
	return 0;
}

int cowsnap_diff_next(struct cowsnap_diff_iter *it, struct cowsnap_range *r)
{
	int found = 0;

	/* A range may go on where the device had no room to say so. */
	for (;;) {
		while (it->at == it->nr && (!it->begun || it->offset < it->len)) {
			it->begun = 1;
			if (fetch(it))
				return -1;
		}
		if (it->at == it->nr ||
		    (found && it->vec[it->at].start != r->end))
			return found;
		if (found)
			r->end = it->vec[it->at].end;
		else
			*r = it->vec[it->at];
		found = 1;
		if (++it->at < it->nr)
			return 1;
	}
}
