/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A model of a process's memory, for the model test: what each page of a range
 * of addresses must be and hold after a random sequence of operations.
 *
 *	model.c		the model: pages, picks, loads and stores, the log
 *	model_ops.c	the table of operations, and a step
 *	model_map.c	operations on mappings: map, unmap, protect, move, lock
 *	model_advise.c	madvise
 *	model_dup.c	REMAP, with a forecast of what it answers
 *	model_kernel.c	what the kernel does to pages: reclaim, migration, pins
 *	model_uffd.c	userfaultfd
 *	model_fork.c	fork, and the life of the child
 *	model_proc.c	/proc: maps, smaps, pagemap
 *	model_verify.c	the model against the truth
 *	model_test.c	sequences, processes, threads
 *
 * A world is owned by one thread. Its arena is a span of addresses that nobody
 * else uses, so that all that is mapped there, or not, is known. Duplicates
 * that the kernel places live on islands: there only what is mapped is known.
 */
#ifndef COWSNAP_SELFTESTS_MODEL_H
#define COWSNAP_SELFTESTS_MODEL_H

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>

#include "kernel.h"
#include "uring.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ	22
#define MADV_POPULATE_WRITE	23
#endif

#define ARENA_PAGES	2048U
#define ARENA_START	0x200000000000UL	/* mmap(2) comes from above */
#define ARENA_STRIDE	0x40000000UL
#define HUGE_PAGES	(MEM_HUGE / MEM_PAGE)
#define ISLANDS		3
#define ISLAND_PAGES	640U
#define FILE_PAGES	512U
#define MAX_OPS		48
#define LOG_LINES	48
#define LOG_WIDTH	112

enum kind { HOLE, ANON, FILE_PRIVATE, FILE_SHARED };

enum page_flags {
	LOCKED = 1,
	DONTFORK = 2,
	WIPEONFORK = 4,
	MERGEABLE = 8,
	UFFD = 16,		/* registered: missing, write protection */
	PINNED = 32,
	MAYBE_ZERO = 64,	/* after MADV_FREE */
	OWN = 128,		/* of a private file mapping: written */
};

struct page {
	uint64_t val;		/* of its first, middle and last word; else 0 */
	uint32_t off;		/* page of the file */
	uint16_t flags;
	uint8_t kind;
	uint8_t prot;
};

struct zone {
	char *at;		/* NULL: an island that does not exist */
	unsigned int nr;
	bool island;
	struct page *page;
};

/* Some pages of a zone, half open. nr is 0 when there are none. */
struct run {
	struct zone *z;
	unsigned int first;
	unsigned int nr;
};

/* How often an operation was tried, and had its effect. */
struct tally {
	_Atomic unsigned long tried;
	_Atomic unsigned long done;
};

/* In shared memory: outlives the process, and children write to it. */
struct report {
	_Atomic bool taken;
	_Atomic unsigned int lines;
	char text[1024];
	char log[LOG_LINES][LOG_WIDTH];
};

struct totals {
	struct tally op[MAX_OPS];
	_Atomic unsigned long steps;
	_Atomic unsigned long verified;		/* pages */
	_Atomic unsigned long counted;		/* pages, by kpagecount */
	_Atomic unsigned long shared;		/* by REMAP */
	_Atomic unsigned long copied;
	_Atomic unsigned long reclaimed;
	_Atomic unsigned long migrated;
};

struct uffd {
	int fd;
	int stop[2];
	pthread_t thread;
};

struct world {
	/* Set by whoever makes it. */
	int fd;			/* the device */
	unsigned int id;	/* which arena, and part of each value stored */
	uint64_t seed;
	bool alone;		/* nobody else in this system is busy */
	bool threads;		/* in a process with others */
	bool merging;		/* KSM is at work */
	const struct cgroup *cg;
	struct report *report;
	struct totals *totals;

	uint64_t random;
	uint64_t stamp;
	unsigned int step;
	const char *op;
	unsigned int relatives;	/* processes that may share our pages */
	unsigned int child;	/* how many forks away from the first */
	unsigned int kinds;	/* of QUERY */
	bool huge_whole;
	int nodes;		/* of NUMA, 1 or more */
	uint64_t zero_frame;	/* PFN of the zero page */
	bool swap;
	bool trace;

	int mem;		/* /proc/self/mem */
	int pagemap;
	int file;		/* what file mappings map */
	struct uffd uffd;
	struct uring ring;
	unsigned int pinned;	/* pages, 0: the ring holds none */
	struct mem_counters start;
	long start_account;	/* kB with commit charge */

	struct zone arena;
	struct zone island[ISLANDS];
	struct page arena_page[ARENA_PAGES];
	struct page island_page[ISLANDS][ISLAND_PAGES];
};

enum outcome {
	FAILED,		/* the kernel's answer is wrong; reported */
	NOTHING,	/* there was nothing to do it to */
	REFUSED,	/* allowed, but without effect */
	DONE,
};

/* model.c */
bool model_start(struct world *w);
bool model_end(struct world *w);
bool model_open_files(struct world *w);
void model_close_files(struct world *w);
uint64_t model_file_value(unsigned int off);
bool __attribute__((format(printf, 2, 3)))
model_fail(struct world *w, const char *fmt, ...);
void __attribute__((format(printf, 2, 3)))
model_log(struct world *w, const char *fmt, ...);

static inline unsigned int pick(struct world *w, unsigned int n)
{
	return next_random(&w->random) % n;
}

static inline bool chance(struct world *w, unsigned int percent)
{
	return pick(w, 100) < percent;
}

static inline char *page_addr(const struct zone *z, unsigned int i)
{
	return z->at + i * MEM_PAGE;
}

static inline char *run_addr(const struct run *r)
{
	return page_addr(r->z, r->first);
}

static inline struct page *run_page(const struct run *r, unsigned int i)
{
	return &r->z->page[r->first + i];
}

static inline size_t run_len(const struct run *r)
{
	return r->nr * MEM_PAGE;
}

typedef bool (*page_filter)(const struct page *p);

bool page_is_mapped(const struct page *p);
bool page_is_private(const struct page *p);
bool page_is_anon(const struct page *p);
bool page_is_hole(const struct page *p);
bool page_is_writable(const struct page *p);
bool page_is_locked(const struct page *p);

/* Any pages of the arena; pages that all pass; the same on islands, too. */
struct run model_pick_any(struct world *w, unsigned int max);
struct run model_pick(struct world *w, page_filter filter, unsigned int max);
struct run model_pick_zone(struct world *w, struct zone *z, page_filter filter,
			   unsigned int max);
bool run_has(const struct run *r, page_filter filter);
unsigned int run_first_hole(const struct run *r);
void run_forget(const struct run *r);	/* it is unmapped */

bool model_load(struct world *w, const struct zone *z, unsigned int i,
		uint64_t v[3]);
void model_store(struct world *w, const struct zone *z, unsigned int i);
bool model_page_is_right(struct world *w, const struct zone *z, unsigned int i);
bool model_run_is_right(struct world *w, const struct run *r);
struct zone *model_zone(struct world *w, unsigned int i);	/* or NULL */
void model_drop_island(struct world *w, struct zone *z);

/* model_ops.c */
bool model_step(struct world *w);
const char *model_op_name(unsigned int i);
unsigned int model_nr_ops(void);

/* For operations that are made of others. */
struct run model_pick_huge(struct world *w);
enum outcome model_map_run(struct world *w, const struct run *r, int flags,
			   bool huge);
void model_store_some(struct world *w, const struct run *r,
		      unsigned int percent);

/* The operations. */
enum outcome op_map(struct world *w);
enum outcome op_map_huge(struct world *w);
enum outcome op_map_file(struct world *w);
enum outcome op_unmap(struct world *w);
enum outcome op_protect(struct world *w);
enum outcome op_move(struct world *w);
enum outcome op_resize(struct world *w);
enum outcome op_move_away(struct world *w);
enum outcome op_lock(struct world *w);
enum outcome op_unlock(struct world *w);
enum outcome op_store(struct world *w);
enum outcome op_load(struct world *w);
enum outcome op_drop_island(struct world *w);

enum outcome op_dontneed(struct world *w);
enum outcome op_free(struct world *w);
enum outcome op_fork_advice(struct world *w);
enum outcome op_mergeable(struct world *w);
enum outcome op_advise(struct world *w);
enum outcome op_populate(struct world *w);
enum outcome op_collapse(struct world *w);
enum outcome op_pageout(struct world *w);

enum outcome op_dup(struct world *w);
enum outcome op_dup_fixed(struct world *w);
enum outcome op_dup_island(struct world *w);
enum outcome op_dup_wrong(struct world *w);
enum outcome op_dup_limit(struct world *w);

enum outcome op_reclaim(struct world *w);
enum outcome op_migrate(struct world *w);
enum outcome op_policy(struct world *w);
enum outcome op_pin(struct world *w);
enum outcome op_unpin(struct world *w);

enum outcome op_uffd_register(struct world *w);
enum outcome op_uffd_unregister(struct world *w);
enum outcome op_uffd_protect(struct world *w);
bool model_uffd_start(struct world *w);
void model_uffd_stop(struct world *w);
void model_uffd_forked(struct world *w);

enum outcome op_fork(struct world *w);

/* model_proc.c */
struct map_entry {
	unsigned long start;
	unsigned long end;
	unsigned long off;
	char perms[5];
	char flags[160];	/* VmFlags of smaps, "" for maps */
};

struct map_reader {
	int fd;
	size_t pos, end;
	char line[512];
	bool pending;		/* the line is that of the next mapping */
	char data[4096];
};

bool maps_open(struct map_reader *m, bool smaps);
bool maps_next(struct map_reader *m, struct map_entry *e);
void maps_close(struct map_reader *m);
bool map_flag(const struct map_entry *e, const char *two_letters);
bool maps_find(const void *addr, struct map_entry *e);
long maps_account(void);	/* kB with commit charge, or -1 */
long status_value(const char *name);	/* of /proc/self/status */
bool model_pagemap(struct world *w, const void *addr, uint64_t *e, size_t nr);

/* A page frame with anonymous content, and our entries that map it. */
struct frame_use {
	uint64_t frame;
	unsigned int maps;
	unsigned int flags;	/* of any of the pages */
};

#define MAX_FRAMES	(ARENA_PAGES + ISLANDS * ISLAND_PAGES)
unsigned int model_frames(struct world *w, struct frame_use *u);

static inline uint64_t entry_frame(uint64_t entry)
{
	return entry & MEM_PM_PRESENT ? entry & ((1ULL << 55) - 1) : 0;
}

/* Is there an anonymous page, present or swapped out, behind this entry? */
#define MEM_PM_FILE	(1ULL << 61)

static inline bool entry_has_content(uint64_t entry, uint64_t zero_frame)
{
	if (entry & MEM_PM_FILE)
		return false;
	if (entry & MEM_PM_PRESENT)
		return entry_frame(entry) != zero_frame;
	return entry & MEM_PM_SWAPPED;
}

/* model_verify.c */
bool model_verify(struct world *w);

#endif /* COWSNAP_SELFTESTS_MODEL_H */
