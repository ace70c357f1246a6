/* SPDX-License-Identifier: GPL-2.0 */
/* Shared by the sources of cowsnap-preload.so. */
#ifndef COWSNAP_PRELOAD_H
#define COWSNAP_PRELOAD_H

#include <linux/cowsnap.h>

#include "counts.h"
#include "sys.h"

#define PAGE		4096UL
#define HUGE		(2UL << 20)

/* Of one round. */
#define MAX_TARGETS	16
/* Of one duplicate: pages looked up in pagemap, pages read. */
#define WINDOW		256
#define SAMPLES		64

struct target {
	unsigned long start, end;
	bool file;
};

/* All that the thread owns; at the end of its arena. */
struct preload {
	struct counts *counts;
	unsigned long arena, arena_end;
	unsigned long max_maps;
	uint64_t random;
	uint32_t kinds;
	bool huge_whole;
	bool split;		/* may huge pages be cut into pieces? */
	int device, smaps, pagemap, mem, statm;
	unsigned int advices;	/* when the mappings were read, see advice.c */

	unsigned int nr_targets;
	struct target target[MAX_TARGETS];
	struct target busiest;	/* with the most anonymous pages */
	unsigned long most_anon;

	uint64_t before[WINDOW], after[WINDOW], dup[WINDOW];
	uint64_t once[SAMPLES], again[SAMPLES];
	uint64_t page[3][PAGE / sizeof(uint64_t)];
	char text[16384];
};

/* Choose up to MAX_TARGETS private mappings of the program: their number. */
unsigned int pick_targets(struct preload *p);

/* Duplicate, check, drop. */
void try_target(struct preload *p, const struct target *t);

/* End the program: message, address, SIGABRT. */
void fail(struct preload *p, const char *what, unsigned long addr, long value)
	__attribute__((noreturn));

void nap(unsigned long us);

/* Kernels where a duplicate and MADV_HUGEPAGE exclude each other: advice.c. */
void advice_forget(void);
void advice_look(struct preload *p);
bool advice_enter(struct preload *p);
void advice_leave(void);

static inline void count(uint64_t *counter, uint64_t n)
{
	__atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

/* Below @n, which is not 0. */
static inline uint64_t random_below(struct preload *p, uint64_t n)
{
	p->random ^= p->random << 13;
	p->random ^= p->random >> 7;
	p->random ^= p->random << 17;
	return p->random % n;
}

#endif
