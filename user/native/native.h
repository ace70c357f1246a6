/* SPDX-License-Identifier: GPL-2.0 */
/* bench-native: what its files share. */
#ifndef NATIVE_H
#define NATIVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "shim.h"

/* In which state a round finds pages and entries. */
enum state {
	STATE_EXCLUSIVE,	/* source writable and dirty, destination empty */
	STATE_SHARED,		/* the same after a snapshot which is elsewhere */
	STATE_PAIRS,		/* both sides map the same pages */
	STATE_ALONE,		/* the other side has gone, source still protected */
};

/* In which order the pages of a range lie in physical memory. */
enum order {
	ORDER_LINEAR,
	ORDER_RUNS,		/* RUN of them side by side */
	ORDER_SHUFFLED,
	NR_ORDERS,
};

#define RUN	16

/* One page table of each side; together they map the same range of both. */
struct tables {
	pte_t *src;
	pte_t *dst;
	unsigned long addr;	/* in the source */
};

struct memory {
	size_t nr_pages;
	size_t nr_tables;
	struct tables *tables;
	uint32_t *frames;	/* number of the page that each entry maps */
	bool huge;		/* on huge pages, as in the kernel */
};

/* Pages that are unmapped, with references that go after the TLB flush. */
struct gather {
	unsigned int nr;
	struct page *pages[10000];
};

/* What a thread has at hand. */
struct work {
	struct mm_struct mm;
	struct vm_area_struct src_vma;
	struct vm_area_struct dst_vma;
	unsigned long offset;	/* of the destination */
	long rss[4];
	struct gather *gather;
};

/* Over one pair of tables; returns how many pages it dealt with. */
typedef unsigned int loop_fn(struct work *work, const struct tables *t);

/* Over all of them: once, then what was put off, then a second time. */
struct way {
	loop_fn *loop;
	void (*finish)(struct work *work);
	loop_fn *again;
};

extern const struct way kernel_share, kernel_compare, kernel_unmap, kernel_reuse;
extern const struct way hot_way_share, hot_way_compare, hot_way_drop,
			hot_way_take_back, hot_way_release;

void memory_init(struct memory *m, size_t nr_pages, uint64_t seed);
void memory_order(struct memory *m, enum order order, uint64_t seed);
void memory_reset(const struct memory *m, enum state state);
void memory_flush(const struct memory *m);
void memory_free(struct memory *m);
uint64_t random_next(uint64_t *state);
void work_init(struct work *work);
void work_free(struct work *work);

struct timing {
	double ns;		/* from the first thread's start to the last one's end */
	bool disturbed;		/* a thread had to give its CPU to others */
};

extern bool time_realtime;	/* the scheduler lets nobody in between */

int time_cpus(void);
struct timing time_way(const struct memory *m, const struct way *way,
		       bool fresh_dst, int threads);

void die(const char *fmt, ...) __attribute__((__noreturn__, __format__(__printf__, 1, 2)));

#endif /* NATIVE_H */
