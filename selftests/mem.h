/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests need to make memory of a certain kind and to look at it from
 * outside: page tables through pagemap, mappings through smaps, accounting
 * through status. Nothing here knows the test harness.
 *
 * The functions that read a text file of /proc share one static buffer, so
 * that looking changes no counter: call them from one thread at a time. The
 * pagemap ones may be called from any thread. All of them work in a forked
 * child, too, and then look at the child.
 */
#ifndef COWSNAP_SELFTESTS_MEM_H
#define COWSNAP_SELFTESTS_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <linux/cowsnap.h>

#define MEM_PAGE	4096UL
#define MEM_HUGE	(2UL << 20)	/* what one PMD maps */
#define MEM_GIB		(1UL << 30)	/* what one page of PMDs maps */

#define MEM_DEVICE	"/dev/cowsnap"

/* Bits of a pagemap entry that are not explained by a function below. */
#define MEM_PM_SOFT_DIRTY	(1ULL << 55)
#define MEM_PM_EXCLUSIVE	(1ULL << 56)	/* map count is 1 */
#define MEM_PM_UFFD_WP		(1ULL << 57)
#define MEM_PM_SWAPPED		(1ULL << 62)
#define MEM_PM_PRESENT		(1ULL << 63)

/* A descriptor of the device, or -1 with errno. */
int mem_open(void);

/*
 * Private anonymous memory, readable and writable, never huge, untouched. May
 * be merged by the kernel with a neighbour of the same kind. NULL on failure.
 */
void *mem_map(size_t len);

/* The same at an address that is @offset modulo @align (a power of two). */
void *mem_map_offset(size_t len, size_t align, size_t offset);

/*
 * The same between two inaccessible pages, so that it is a mapping of its own
 * and stays one. mem_unmap_alone() removes it and them.
 */
void *mem_map_alone(size_t len);
void mem_unmap_alone(void *p, size_t len);

/*
 * MADV_HUGEPAGE memory at a multiple of MEM_HUGE, populated by writing, all of
 * it mapped as huge pages (verified). NULL when they are not to be had.
 */
void *mem_map_huge(size_t len);
void *mem_map_huge_at(void *at, size_t len);

/* Are all of the pages of this mapping, of at least @len bytes, huge ones? */
bool mem_all_huge(const void *p, size_t len);

/* @len bytes of address space where nothing is mapped right now, or NULL. */
void *mem_free_range(size_t len, size_t align, size_t offset);

/* Fills @r with the request and issues it: 0 or -errno. */
int mem_remap(int fd, void *src, size_t len, void *dst, unsigned int flags,
	      struct cowsnap_remap *r);

/*
 * Issues a request that is to be refused. -errno, or 0 when it was not, or
 * MEM_BROKEN with the cause on stderr when it left a trace: a mapping, an input
 * changed (dst is one on failure), an output not stored. "reason" and
 * "fault_addr" are for the caller to look at.
 */
#define MEM_BROKEN	(-9999)
int mem_refused(int fd, struct cowsnap_remap *r);

/* Does QUERY say that huge pages are shared whole? */
bool mem_huge_whole(int fd);

/* A duplicate where the kernel likes, or NULL with the reason on stderr. */
void *mem_dup(int fd, void *src, size_t len);

/* The pagemap entry of the page at @addr, 0 when it has none. */
uint64_t mem_pagemap(const void *addr);

/* The same for @nr pages. Returns false when pagemap cannot be read. */
bool mem_pagemap_read(const void *addr, uint64_t *entries, size_t nr);

/* Physical page number, 0 when no page is present. Needs root. */
uint64_t mem_pfn(const void *addr);

/* Is the page swapped out? */
bool mem_swapped(const void *addr);

/* Is there nothing at all in the page table: neither a page nor swap? */
bool mem_untouched(const void *addr);

/* PFN of the zero page. */
uint64_t mem_zero_pfn(void);

/* Pages with something in the page table (the zero page included). */
size_t mem_touched_pages(const void *p, size_t len);

/* Pages that both map: equal physical page numbers that are not 0. */
size_t mem_shared_pages(const void *a, const void *b, size_t len);

/* A pattern that differs from page to page and from seed to seed. */
void mem_fill(void *p, size_t len, unsigned int seed);
bool mem_check(const void *p, size_t len, unsigned int seed);
bool mem_is_zero(const void *p, size_t len);

/* Field of /proc/self/smaps in kB for the mapping of @addr, or -1. */
long mem_smaps(const void *addr, const char *field);

/* Is the VmFlags mnemonic set on the mapping of @addr? */
bool mem_smaps_flag(const void *addr, const char *two_letters);

/* All of its mnemonics, each followed by a blank. */
bool mem_smaps_flags(const void *addr, char *flags, size_t size);

/* Mapping of @addr as /proc/self/maps has it; false when there is none. */
bool mem_vma(const void *addr, unsigned long *start, unsigned long *end,
	     char perms[5]);

/* The name in the last column of /proc/self/maps; "" for none. */
bool mem_vma_name(const void *addr, char *name, size_t size);

/* Is no part of the range mapped? */
bool mem_is_free(const void *addr, size_t len);

/* A number that changes when any mapping does (a hash of /proc/self/maps). */
uint64_t mem_maps_hash(void);

/*
 * Accounting of this process, in kB but for maps, and the commit charge of the
 * whole system. rss_anon and swap are those of smaps_rollup, which walks the
 * page tables, because the counters in status may lag by a batch for each CPU.
 * Counters that do not add up are reported by the kernel when the process
 * exits ("Bad rss-counter state"), and whoever runs the tests looks for that.
 */
struct mem_counters {
	long vm_size;
	long vm_data;
	long rss_anon;
	long rss_file;
	long rss_shmem;
	long hugetlb;
	long swap;
	long pte;
	long locked;
	long maps;
	long committed;
};

void mem_counters(struct mem_counters *c);

/*
 * Prints what differs on stderr, as TAP comments. File pages may differ by
 * 2 MB (code of the test faulted in meanwhile). The commit charge is read
 * again for up to two seconds until it equals that of @a, since others may be
 * at work; what then remains must not be more than MEM_COMMIT_SLACK kB.
 */
#define MEM_COMMIT_SLACK	256
bool mem_counters_equal(const struct mem_counters *a,
			const struct mem_counters *b);

/* Empties the per-CPU batches of pages on their way to the LRU lists. */
void mem_drain(void);

/* MADV_PAGEOUT, repeated; returns how many pages are swapped out now. */
size_t mem_pageout(void *addr, size_t len);

bool mem_have_swap(void);

/* NUMA nodes with memory, at least 1. */
int mem_nodes(void);

/*
 * How many times slower than usual this machine is: COWSNAP_SLOWNESS, or 1.
 * Tests get so many times longer, and those that only repeat themselves do with
 * mem_fewer(): @n divided by it, at least 1.
 */
unsigned int mem_slowness(void);
unsigned int mem_fewer(unsigned int n);

/* First number in a file, or -1. */
long mem_read_long(const char *path);

/* 0 or -errno. */
int mem_write(const char *path, const char *text);

/* Counter of /proc/vmstat, or -1. */
long mem_vmstat(const char *name);

#endif /* COWSNAP_SELFTESTS_MEM_H */
