/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * cowsnap: duplicate a range of memory at another address, copy-on-write.
 *
 * The ABI of /dev/cowsnap, and its reference. Usable from C and C++ with
 * "-Iuapi" and #include <linux/cowsnap.h>.
 *
 * Every command works on the memory of the calling process, also through a
 * descriptor that was inherited or passed, and stores nothing in it: closing
 * the descriptor changes no mapping. What a call leaves behind is ordinary
 * memory, with nothing of the module behind it.
 *
 * Each argument is a pointer to a struct that begins with
 *
 *	__u32 size;	sizeof the struct the caller was compiled with
 *	__u32 flags;	flags of the command
 *
 * A smaller size means that the later members are zero and that outputs which
 * do not fit are not stored. A larger one is accepted while the tail that this
 * kernel does not know is zero. Outputs are stored on success and on failure,
 * as far as the request could be read at all; "dst" is changed by success
 * only, so that a failed request can be tried again as it is.
 *
 * Errors, the same for all commands. Checks come in this order: the size of
 * the struct, flags, range arithmetic, then mappings and limits.
 *
 *	EINVAL		size below 8; misaligned, empty or overflowing range;
 *			overlap; non-zero reserved member; contradicting flags; node
 *			without memory, or without its flag
 *	E2BIG		a larger struct with a tail that is not zero
 *	EOPNOTSUPP	unknown flag, or memory that cannot be duplicated soundly
 *	EFAULT		the argument cannot be read or written, or has no room for the
 *			address of a duplicate
 *	ENOMEM		hole in the range, a limit, or no memory
 *	EEXIST		FIXED_NOREPLACE, and something is there
 *	EPERM		a sealed mapping would be replaced, or the destination lies
 *			below vm.mmap_min_addr
 *	EINTR		a fatal signal arrived
 *	ENOTTY		unknown command
 *
 * "reason" (enum cowsnap_reason) tells the cases of one errno apart, and
 * "fault_addr" is the first address that refused.
 */
#ifndef _UAPI_LINUX_COWSNAP_H
#define _UAPI_LINUX_COWSNAP_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* Grows when the meaning of something below grows. Ask QUERY, do not compare. */
#define COWSNAP_ABI		1

#define COWSNAP_IOC_MAGIC	0xC5
#define COWSNAP_QUERY		_IO(COWSNAP_IOC_MAGIC, 0)
#define COWSNAP_REMAP		_IO(COWSNAP_IOC_MAGIC, 1)
#define COWSNAP_UNSHARE		_IO(COWSNAP_IOC_MAGIC, 2)
#define COWSNAP_SYNC		_IO(COWSNAP_IOC_MAGIC, 3)
#define COWSNAP_DIFF		_IO(COWSNAP_IOC_MAGIC, 4)
#define COWSNAP_RELEASE		_IO(COWSNAP_IOC_MAGIC, 5)

/* Kinds of mapping that REMAP duplicates: bits of cowsnap_query.kinds. */
#define COWSNAP_KIND_ANON	(1u << 0)	/* private anonymous, base pages */
#define COWSNAP_KIND_THP	(1u << 1)	/* transparent huge pages in it */
#define COWSNAP_KIND_FILE	(1u << 2)	/* private file mappings */
#define COWSNAP_KIND_HUGETLB	(1u << 3)	/* private hugetlb */
/* Hugetlb pages are shared also where their mapping has a reservation. */
#define COWSNAP_KIND_HUGETLB_RESERVED (1u << 4)

/*
 * Why a call was refused. New reasons are appended; a program that meets one
 * it does not know still has the errno.
 */
enum cowsnap_reason {
	COWSNAP_REASON_NONE = 0,	/* it was not */

	/* The request itself. */
	COWSNAP_REASON_STRUCT_TAIL = 1,	/* E2BIG: unknown members are not zero */
	COWSNAP_REASON_FLAG_UNKNOWN,	/* EOPNOTSUPP: a flag this module lacks */
	COWSNAP_REASON_FLAG_CONFLICT,	/* EINVAL: FIXED and FIXED_NOREPLACE */
	COWSNAP_REASON_RESERVED,	/* EINVAL: a reserved member is not zero */
	COWSNAP_REASON_ALIGN,		/* EINVAL: not a multiple of the (hugetlb) page size */
	COWSNAP_REASON_EMPTY,		/* EINVAL: len is 0 */
	COWSNAP_REASON_OVERFLOW,	/* EINVAL: the range leaves the address space */
	COWSNAP_REASON_OVERLAP,		/* EINVAL: src and dst overlap */
	COWSNAP_REASON_NODE,		/* EINVAL: no such node, or no memory on it */
	COWSNAP_REASON_OFFSET,		/* EINVAL: start_offset lies outside of the range */

	/* Memory. fault_addr is where, in the source if both sides are alike. */
	COWSNAP_REASON_HOLE = 32,	/* ENOMEM: nothing is mapped there */
	COWSNAP_REASON_SHARED,		/* EOPNOTSUPP: MAP_SHARED */
	COWSNAP_REASON_PFNMAP,		/* EOPNOTSUPP: device memory (PFN, IO, mixed map) */
	COWSNAP_REASON_WIPEONFORK,	/* EOPNOTSUPP: MADV_WIPEONFORK or droppable */
	COWSNAP_REASON_SHADOW_STACK,	/* EOPNOTSUPP: a CPU shadow stack */
	COWSNAP_REASON_SPECIAL,		/* EOPNOTSUPP: vdso, vvar, a driver's own mapping */
	COWSNAP_REASON_FILE,		/* EOPNOTSUPP: private file mapping (QUERY.kinds) */
	COWSNAP_REASON_HUGETLB,		/* EOPNOTSUPP: hugetlb (QUERY.kinds), see REMAP */
	COWSNAP_REASON_DEVICE,		/* EOPNOTSUPP: page lent to a device (HMM) */
	COWSNAP_REASON_POISON,		/* EOPNOTSUPP: memory error while a page is copied */
	COWSNAP_REASON_UNRELATED,	/* EOPNOTSUPP: neither range is a duplicate of the other */
	COWSNAP_REASON_UFFD,		/* EOPNOTSUPP: a userfaultfd watches what would change */
	COWSNAP_REASON_HUGEPAGE,	/* EOPNOTSUPP: MADV_HUGEPAGE, and QUERY.huge_whole is 0 */

	/* The destination. fault_addr is where in the destination. */
	COWSNAP_REASON_EXISTS = 64,	/* EEXIST: something is mapped there */
	COWSNAP_REASON_SEALED,		/* EPERM: mseal()ed */
	COWSNAP_REASON_MIN_ADDR,	/* EPERM: below vm.mmap_min_addr */
	COWSNAP_REASON_NO_ROOM,		/* ENOMEM: no free range of that length */

	/*
	 * Limits and events. fault_addr is where in the source it was noticed, or
	 * in the duplicate that RELEASE drops.
	 */
	COWSNAP_REASON_MAP_COUNT = 96,	/* ENOMEM: vm.max_map_count */
	COWSNAP_REASON_RLIMIT,		/* ENOMEM: RLIMIT_AS or RLIMIT_DATA */
	COWSNAP_REASON_COMMIT,		/* ENOMEM: vm.overcommit_memory */
	COWSNAP_REASON_NO_MEMORY,	/* ENOMEM: memory or the memory cgroup is full */
	COWSNAP_REASON_SIGNAL,		/* EINTR: the caller is being killed */
	COWSNAP_REASON_RESULT,		/* EFAULT: the result cannot be stored */
	COWSNAP_REASON_HUGETLB_POOL,	/* ENOMEM: no free page in the hugetlb pool */
};

/**
 * struct cowsnap_query - what this module on this kernel can do (COWSNAP_QUERY)
 * @size:	in: sizeof(struct cowsnap_query)
 * @flags:	in: 0
 * @abi:	out: COWSNAP_ABI of the module
 * @ops:	out: bit n is set when command number n exists
 * @remap_flags: out: flags that REMAP knows
 * @unshare_flags: out: flags that UNSHARE knows
 * @sync_flags:	out: flags that SYNC knows
 * @diff_flags:	out: flags that DIFF knows
 * @release_flags: out: flags that RELEASE knows
 * @kinds:	out: COWSNAP_KIND_* that can be duplicated
 * @huge_whole:	out: 1 when huge pages are shared whole where addresses allow;
 *		0: they are split, see struct cowsnap_remap for what that asks
 * @reason:	out: enum cowsnap_reason
 * @fault_addr:	out: always 0
 */
struct cowsnap_query {
	__u32 size;
	__u32 flags;
	__u32 abi;
	__u32 ops;
	__u32 remap_flags;
	__u32 unshare_flags;
	__u32 sync_flags;
	__u32 diff_flags;
	__u32 release_flags;
	__u32 kinds;
	__u32 huge_whole;
	__u32 reason;
	__u64 fault_addr;
};

/* Exactly at dst, replacing what is mapped there. */
#define COWSNAP_REMAP_FIXED		(1u << 0)
/* Exactly at dst, or EEXIST. */
#define COWSNAP_REMAP_FIXED_NOREPLACE	(1u << 1)
/* The duplicate is mapped without write permission. */
#define COWSNAP_REMAP_READONLY		(1u << 2)
/* A hole in the source becomes a hole in the duplicate instead of ENOMEM. */
#define COWSNAP_REMAP_HOLES		(1u << 3)

/**
 * struct cowsnap_remap - duplicate memory, copy-on-write (COWSNAP_REMAP)
 * @size:	in: sizeof(struct cowsnap_remap)
 * @flags:	in: COWSNAP_REMAP_*
 * @src:	in: start of the source, a multiple of the page size
 * @len:	in: its length in bytes, a multiple of the page size
 * @dst:	in: 0, a hint, or with FIXED and FIXED_NOREPLACE the address;
 *		out on success: where the duplicate is
 * @shared:	out: base pages with content (present or swapped out) that both
 *		now map; untouched and zero pages count nowhere
 * @copied:	out: base pages copied at once because sharing them would not be
 *		sound: pinned ones (the owner of the pin keeps the page), KSM
 *		pages (the kernel finds a KSM page at one address per process)
 *		and hugetlb pages with a reservation, and some with
 *		QUERY.huge_whole 0, see below
 * @fault_addr:	out: on failure, the first address that refused
 * @reason:	out: enum cowsnap_reason
 * @reserved:	in: 0
 *
 * The duplicate holds exactly what the source held at one instant of the call,
 * as a child holds it after fork(2), also while other threads write to the
 * source. From then on either side may be written and the other does not
 * change. Both can be duplicated again. What a device writes through a pin of
 * the source is in no order with that instant. Some I/O takes plain references
 * to pages instead of pins (O_DIRECT on 6.1, and on 6.12 that of NFS, FUSE and
 * 9p): as with fork(2), let a read(2) of that kind into the source end first.
 *
 * Protection, memory policy, madvise(2) advice, name and protection key of each
 * mapping carry over; mlock(2), userfaultfd(2) registration, mseal(2) and
 * MAP_GROWSDOWN do not. MADV_DONTFORK memory is duplicated and keeps the mark.
 * Pages that MADV_FREE has marked are kept from then on, on both sides.
 * Splitting the mapping of a huge page leaves that page of the source soft-dirty:
 * a tracker is told too much, never too little.
 *
 * MADV_MERGEABLE carries over, too, except where QUERY.huge_whole is 0. A page
 * that both sides share and that KSM merges later is found by reclaim and
 * migration on one side only, until the other is written or KSM has come by
 * there: it stays where it is for that time, which costs memory, not contents.
 *
 * Without FIXED or FIXED_NOREPLACE a free hint in @dst is taken as it is;
 * otherwise the kernel chooses an address congruent to @src modulo the size of
 * a huge page. Only congruent duplicates share huge pages whole; elsewhere the
 * mapping (not the page) is split first.
 *
 * Of a private file mapping the pages that were written are shared; the others
 * stay the file's, in the duplicate as in the source, and count nowhere. The
 * duplicate holds the file open as any mapping of it does. Private /dev/zero is
 * like anonymous memory. Mappings of drivers are SPECIAL, DAX is PFNMAP.
 *
 * Private hugetlb: a range begins and ends at a multiple of the hugetlb page
 * size, and so does the duplicate (ALIGN otherwise; a hint that does not is not
 * taken). The duplicate has no reservation, like fork's child: memory that is
 * written, or touched first, takes a page of the pool that is free and not
 * reserved, or is SIGBUS. Where the source has a reservation (mmap() without
 * MAP_NORESERVE; not fork's child, not a duplicate) its own writes succeed when
 * the pool is exhausted: the kernel takes the page from the duplicate, which is
 * SIGBUS from then on. Kernels before 7.3 would take it from the wrong address.
 * There, without COWSNAP_KIND_HUGETLB_RESERVED, pages that somebody with a
 * reservation may map are copied at once, from the pool (HUGETLB_POOL when it
 * has not enough), and mappings of a hugetlbfs file or memfd that somebody maps
 * with a reservation are HUGETLB; do not map such a file with a reservation while
 * a duplicate of it is there. Without any reservation whoever writes to a shared
 * page needs a free one: the source as well.
 *
 * Where QUERY.huge_whole is 0 (kernels with CONFIG_MM_ID, from 6.15 on) the
 * kernel writes a huge page in place when one process has all its mappings. No
 * huge page of any size may be mapped by both sides there. Those of the source
 * are split, and the pages count as shared; of one that cannot be split, since
 * it is pinned, the pages are copied. Source and duplicate are as after
 * MADV_NOHUGEPAGE. Pages that a child or the parent has, too, whose mapping may
 * have huge pages, are copied; this ends with the child, and does not befall
 * children forked after the first duplicate. Once KSM has scanned anything since
 * the system was booted, pages that are swapped out and not exclusive are read
 * in, and those that others still have in swap are copied; the duplicate is as
 * after MADV_UNMERGEABLE.
 *
 * On such a kernel MADV_HUGEPAGE MUST NOT be called on a mapping of pages that
 * some process maps twice: on either side, in a child or the parent that has these
 * pages, too, also when this process has dropped the duplicate but a child has
 * not; nor MADV_MERGEABLE on the duplicate. (A DAMON scheme that does so is a
 * call as well.) With huge pages smaller than a PMD enabled and swap on zram,
 * swapped out pages would come back as one huge page to both, and stores to one
 * side appear on the other.
 *
 * With FIXED and HOLES all of [dst, dst + len) is replaced, holes included.
 * Whatever can be checked is checked before anything is replaced. In all other
 * respects a failed call leaves mappings, contents and accounting as they were.
 * Where huge_whole is 0, a part of a private mapping of a file may stay a mapping of
 * its own, if the file system wants to hear of each that is unmapped (FUSE).
 */
struct cowsnap_remap {
	__u32 size;
	__u32 flags;
	__u64 src;
	__u64 len;
	__u64 dst;
	__u64 shared;
	__u64 copied;
	__u64 fault_addr;
	__u32 reason;
	__u32 reserved;
};

/* Take back only what needs no copy. */
#define COWSNAP_UNSHARE_REUSE		(1u << 0)
/* Put the copies on NUMA node "node". */
#define COWSNAP_UNSHARE_NODE		(1u << 1)

/**
 * struct cowsnap_unshare - end sharing over a range (COWSNAP_UNSHARE)
 * @size:	in: sizeof(struct cowsnap_unshare)
 * @flags:	in: COWSNAP_UNSHARE_*
 * @addr:	in: start, a multiple of the page size
 * @len:	in: length in bytes, a multiple of the page size
 * @node:	in: with NODE, where copies go; 0 without
 * @reserved:	in: 0
 * @copied:	out: base pages copied, since somebody else has them, too
 * @reused:	out: base pages that can be written without a fault again, since
 *		nobody else has them (any more)
 * @fault_addr:	out: on failure, the first address that refused
 * @reason:	out: enum cowsnap_reason
 * @reserved2:	out: 0
 *
 * Afterwards every page of the range is private to it, and writable where the
 * mapping is, without a fault: what a write to each page would have done, with
 * one TLB flush for many. With REUSE pages that somebody else has stay shared.
 * That is what to call on the source when a snapshot has been unmapped.
 *
 * A huge page stays one where another can be had, and becomes base pages else.
 * Parts of a huge page, of one that is no more mapped as a whole, are copied also
 * when nobody else has them (any more), and not taken back.
 * Pages that were never touched and zero pages stay so, as do the unmodified
 * pages of a private file mapping, swapped-out pages that are shared with nobody
 * (with REUSE: all), and pages that a userfaultfd write-protects. Soft-dirty
 * tracking goes on: a page that is clean in that sense stays write-protected.
 *
 * With NODE a copy comes from that node or not at all (ENOMEM), whatever the
 * memory policy; hugetlb memory is HUGETLB then. Else the policy of the mapping
 * decides.
 *
 * Other threads may use the memory meanwhile. The outputs tell what was done
 * also when the call fails (EINTR, ENOMEM), and calling again goes on from there.
 *
 * Hugetlb pages are copied as a write would copy them: of a mapping with a
 * reservation that shares pages (from 7.3 on) and an exhausted pool, the pages
 * are taken from the duplicate, which is SIGBUS from then on.
 */
struct cowsnap_unshare {
	__u32 size;
	__u32 flags;
	__u64 addr;
	__u64 len;
	__u32 node;
	__u32 reserved;
	__u64 copied;
	__u64 reused;
	__u64 fault_addr;
	__u32 reason;
	__u32 reserved2;
};

/**
 * struct cowsnap_sync - make one range equal to another (COWSNAP_SYNC)
 * @size:	in: sizeof(struct cowsnap_sync)
 * @flags:	in: 0
 * @from:	in: start of the range to be taken over, a multiple of the page size
 * @to:		in: start of the range to be changed, a multiple of the page size
 * @len:	in: length of both in bytes, a multiple of the page size
 * @changed:	out: base pages of @to that were replaced, filled or emptied
 * @fault_addr:	out: on failure, the first address that refused
 * @reason:	out: enum cowsnap_reason
 * @reserved:	in: 0
 *
 * Afterwards @to holds what @from held at one instant of the call, shared
 * copy-on-write as after COWSNAP_REMAP, by the same rules. One is a duplicate of
 * the other: from source to duplicate that is a refresh, the other way a
 * rollback. Pages that both share cost a look at their page-table entries.
 *
 * UNRELATED when the kernel could not find shared pages in @to: it is no
 * duplicate of @from, mappings are not at the same distance any more, or a child
 * of fork(2) wants to sync a duplicate of its own making in the other direction.
 * UFFD when a userfaultfd waits for faults in @to, SEALED when @to is sealed and
 * read-only, HUGETLB for hugetlb memory, HUGEPAGE when one side has been given
 * MADV_HUGEPAGE where that is forbidden, see struct cowsnap_remap. Nothing has
 * changed then.
 *
 * What @to holds of pages that are replaced is gone, as by munmap(2), pins
 * notwithstanding: a device that has one pinned goes on with the old page.
 * A failure for want of memory, for a fatal signal, or at a page that is DEVICE or
 * POISON leaves each page of @to either as it was or as in @from; calling again
 * goes on.
 */
struct cowsnap_sync {
	__u32 size;
	__u32 flags;
	__u64 from;
	__u64 to;
	__u64 len;
	__u64 changed;
	__u64 fault_addr;
	__u32 reason;
	__u32 reserved;
};

/* Bytes [start, end) from the start of both ranges. */
struct cowsnap_range {
	__u64 start;
	__u64 end;
};

/**
 * struct cowsnap_diff - where two ranges may differ (COWSNAP_DIFF)
 * @size:	in: sizeof(struct cowsnap_diff)
 * @flags:	in: 0
 * @a:		in: start of a range, a multiple of the page size
 * @b:		in: start of the other, a multiple of the page size
 * @len:	in: length of both in bytes, a multiple of the page size
 * @vec:	in: pointer to struct cowsnap_range
 * @vec_len:	in: how many of them there is room for
 * @start_offset: in: where to begin, 0 or what next_offset was
 * @nr:		out: how many ranges have been stored
 * @next_offset: out: where to go on when @vec was full; @len when done
 * @fault_addr:	out: on failure, the first address that refused
 * @reason:	out: enum cowsnap_reason
 * @reserved:	in: 0
 *
 * Lists the pages that are not one and the same in both ranges, in order, with
 * neighbours together. A page that is listed may still have equal bytes; one
 * that is not has. Whatever differed when the call began is listed, also while
 * others write; not what others make equal meanwhile, by SYNC or by dropping both
 * pages. Changes nothing; other threads may fault meanwhile. The ranges may be any
 * memory that REMAP duplicates.
 */
struct cowsnap_diff {
	__u32 size;
	__u32 flags;
	__u64 a;
	__u64 b;
	__u64 len;
	__u64 vec;
	__u64 vec_len;
	__u64 start_offset;
	__u64 nr;
	__u64 next_offset;
	__u64 fault_addr;
	__u32 reason;
	__u32 reserved;
};

/**
 * struct cowsnap_release - drop a duplicate (COWSNAP_RELEASE)
 * @size:	in: sizeof(struct cowsnap_release)
 * @flags:	in: 0
 * @src:	in: start of the source, a multiple of the page size
 * @dst:	in: start of the duplicate, a multiple of the page size
 * @len:	in: length of both in bytes, a multiple of the page size
 * @reused:	out: base pages of the source that can be written without a fault
 *		again
 * @copied:	out: 0
 * @fault_addr:	out: on failure, the first address that refused
 * @reason:	out: enum cowsnap_reason
 * @reserved:	in: 0
 *
 * As munmap(2) of the duplicate and UNSHARE with REUSE of the source. Nothing is
 * unmapped when the call fails, except when only the result could not be stored
 * (EFAULT). SEALED when a mapping of the duplicate is sealed, MAP_COUNT when a part
 * out of its middle would leave one mapping too many.
 */
struct cowsnap_release {
	__u32 size;
	__u32 flags;
	__u64 src;
	__u64 dst;
	__u64 len;
	__u64 reused;
	__u64 copied;
	__u64 fault_addr;
	__u32 reason;
	__u32 reserved;
};

#endif /* _UAPI_LINUX_COWSNAP_H */
