/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Random sequences of what can happen to large folios and to duplicates of
 * them, against a model of what every page has to hold.
 *
 *	large_test.c	the tests: processes that run sequences, what they count
 *	large_env.c	settings of the kernel: THP size, swap, NUMA hints
 *	large_model.c	views, their pages and what these hold; verification
 *	large_map.c	steps: REMAP, stores, changes of mappings, fork
 *	large_kernel.c	steps: migration, reclaim, collapse, pins
 *
 * A sequence is short and depends on its seed alone, so that one that failed is
 * run again by giving its seed.
 */
#ifndef COWSNAP_SELFTESTS_LARGE_H
#define COWSNAP_SELFTESTS_LARGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "kernel.h"
#include "mem.h"
#include "uring.h"

#ifndef MPOL_LOCAL
#define MPOL_LOCAL	4
#endif

#define LARGE_PAGES	1024UL	/* of a view, at most */
#define LARGE_VIEWS	6	/* at a time */
#define LARGE_STEPS	48	/* noted of a sequence, those of its child too */
#define LARGE_PINS	4	/* pages pinned at a time */
#define LARGE_OPS	64

/* settings of the kernel */

enum large_swap { SWAP_GIVEN, SWAP_ZRAM, SWAP_LOOP, SWAP_KINDS };

struct large_env {
	size_t size;		/* of the folios, bytes */
	int nodes;		/* with memory */
	bool huge_whole;	/* QUERY: huge pages are shared whole */
	bool hints;		/* NUMA balancing can be had */
	bool have_swap;		/* right now */
	bool force;		/* /proc/self/mem writes what is read-only */
};

/* Are folios of this size to be had in anonymous memory? */
bool large_offered(size_t size);
size_t large_nr_sizes(void);

/* All settings for folios of one size; the old ones are noted. */
bool large_env_set(struct large_env *env, size_t size);
void large_env_restore(void);

/* Swap to this device first, until it is taken away again. */
bool large_swap_on(struct large_env *env, enum large_swap kind);
bool large_swap_off(void);
const char *large_swap_name(enum large_swap kind);

/* the model */

enum {
	PAGE_HOLE = 1,		/* nothing is mapped */
	PAGE_READONLY = 2,
	PAGE_LOCKED = 4,
	PAGE_MAYBE_ZERO = 8,	/* MADV_FREE: may be emptied at any time */
	PAGE_UNTOUCHED = 16,	/* reading it would put the zero page there */
};

struct large_page {
	uint32_t stamp;		/* what it holds; 0: zeroes */
	uint8_t flags;
	uint8_t pin;		/* number of its pin + 1 */
};

/* A mapped range that is looked after; nr is 0 when there is none. */
struct large_view {
	char *base;
	size_t nr;
	unsigned int depth;	/* a duplicate of a duplicate of ... */
	unsigned int dups;	/* how often it was duplicated */
	struct large_page page[LARGE_PAGES];
};

/* What was done, for the reader of a failure. */
struct large_step {
	const char *name;
	int view;
	size_t start, nr;
	unsigned long arg;	/* see the step's function */
	uint32_t stamp;		/* the first that it gave */
	bool done, child;
};

/* Shared by all processes. */
struct large_stats {
	_Atomic unsigned long tried[LARGE_OPS], done[LARGE_OPS];
	_Atomic unsigned long next, finished, failed, first_failed;
	_Atomic unsigned long folios, folios_right, shared, copied;
	_Atomic unsigned long twice, of_duplicate, emptied;
};

struct large_seq {
	const struct large_env *env;
	struct large_stats *stats;
	int fd;			/* the device */
	struct cgroup cg;	/* has no directory when there is none */
	struct uring ring;	/* fd is -1 when there is none */
	int pipe[2];		/* what holds references to pages */
	int memfd;		/* read(2) comes from here */
	bool verbose;

	unsigned long seed;
	uint64_t random;
	struct large_view view[LARGE_VIEWS];
	unsigned int slots;	/* addresses given away, see large_place() */
	uint32_t stamp;		/* the last one given */
	struct large_step step[LARGE_STEPS];
	unsigned int nr_steps;
	size_t held;		/* bytes in the pipe */
	char *pinned;		/* where the pin was taken, or NULL */
	pid_t child;		/* forked and waiting, or 0 */
	int child_pipe;
	bool swapped;		/* something is, perhaps: nobody has looked since */
	bool locked;		/* something is, perhaps */
	bool in_child, failed;
};

/* A step: does one thing. Returns whether it took effect. */
struct large_op {
	const char *name;
	bool (*run)(struct large_seq *s, struct large_step *step);
	unsigned long arg;
	unsigned int weight;
	unsigned int flags;
};

enum {
	OP_MUST = 1,		/* takes effect if it is tried often enough */
	OP_CHILD = 2,		/* a forked child does it, too */
	OP_NODES = 4,		/* wants two nodes */
	OP_SWAP = 8,		/* wants swap */
	OP_HINTS = 16,		/* wants NUMA balancing */
	OP_PIN = 32,		/* wants io_uring */
	OP_CGROUP = 64,		/* wants a memory cgroup */
	OP_WHOLE = 128,		/* only where huge pages are shared whole */
	/* only when there is something to do it with: */
	OP_IF_HELD = 256,
	OP_IF_PINNED = 512,
	OP_IF_CHILD = 1024,
	OP_IF_LOCKED = 2048,
	OP_IF_SWAPPED = 4096,
	OP_IF_NOT = 8192,	/* only when not */
	OP_RARE = 16384,	/* often has nothing to work on */
};

extern const struct large_op large_map_ops[], large_kernel_ops[];

/* Once, before the first sequence: what steps are possible here? */
void large_fill_lotteries(const struct large_seq *s);

/* Run the sequence of @s->seed. False when it failed, which was printed. */
bool large_run(struct large_seq *s, size_t nr_folios);
/* One random step; in a child one of those meant for it. */
void large_random_step(struct large_seq *s);
const struct large_op *large_op(unsigned int i);
bool large_op_possible(const struct large_seq *s, const struct large_op *op);
void large_fail(struct large_seq *s, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
void large_print_steps(const struct large_seq *s);

static inline unsigned long large_pick(struct large_seq *s, unsigned long n)
{
	return next_random(&s->random) % n;
}

static inline char *large_at(const struct large_view *v, size_t page)
{
	return v->base + page * MEM_PAGE;
}

/* A random view, or NULL when nothing is left. The step notes it. */
struct large_view *large_pick_view(struct large_seq *s, struct large_step *st);

/*
 * A random run of pages in a random view, none of which has one of the flags.
 * The step notes it. NULL when there is none.
 */
struct large_view *large_pick_run(struct large_seq *s, struct large_step *st,
				  size_t max, unsigned int without);

/* A record for another view; unmaps one, but not @keep, when all are in use. */
struct large_view *large_new_view(struct large_seq *s,
				  const struct large_view *keep);
void large_drop_view(struct large_seq *s, struct large_view *v);

/* A free address for any view, @pages above a multiple of the PMD size. */
char *large_place(struct large_seq *s, size_t pages);

/* What page @i has to hold from now on. */
void large_stamp(struct large_seq *s, struct large_view *v, size_t i);
uint64_t large_word(uint32_t stamp, unsigned int i);
void large_store(struct large_view *v, size_t i);
#define LARGE_WORDS	2
extern const size_t large_offset[LARGE_WORDS];

bool large_verify(struct large_seq *s);

/* Physical page numbers of a view, to see afterwards how many have changed. */
void large_probe(const struct large_view *v);
size_t large_probe_changed(const struct large_view *v);
size_t large_swapped(const struct large_view *v, size_t start, size_t nr);

/* At the end: what a step has begun and no other has ended. */
void large_end_child(struct large_seq *s);
void large_release(struct large_seq *s);

#endif /* COWSNAP_SELFTESTS_LARGE_H */
