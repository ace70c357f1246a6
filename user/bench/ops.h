/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Single operations of /dev/cowsnap on a region, timed and checked. Those with a
 * metric are recorded in group g, as of method "as"; without one they are not.
 * All that can fail return NULL or why.
 */
#ifndef BENCH_OPS_H
#define BENCH_OPS_H

#include "bench.h"

struct ops {
	struct group *g;
	const struct region *r;
	const struct method *as;	/* NULL: method_cowsnap */
	uint64_t start;
};

/* *snap is where the duplicate is. */
const char *op_remap(struct ops *o, const char *metric, char **snap);
const char *op_sync(struct ops *o, const char *metric, char *snap);
const char *op_diff(struct ops *o, const char *metric, char *snap, size_t changed);
const char *op_release(struct ops *o, const char *metric, char *snap);
/* Nearly all of the region has to be copied, or with COWSNAP_UNSHARE_REUSE taken back. */
const char *op_unshare(struct ops *o, const char *metric, unsigned int flags);

/* Not snapshots, but what a program does without the operation. */
extern const struct method by_munmap, by_fault;
void op_munmap(struct ops *o, const char *metric, char *snap);
/* A store to each page; how long that takes, and how many faults. */
void op_write_all(struct ops *o, const char *metric, const char *faults,
		  const struct method *m);

#endif
