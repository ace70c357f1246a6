/* SPDX-License-Identifier: GPL-2.0 */
/* What moves pages about under a snapshot: movers.c, for wl_migrate.c. */
#ifndef MOVERS_H
#define MOVERS_H

#include "bench.h"

struct mover {
	const char *name;
	/* NULL, or why it cannot be done here. */
	const char *(*missing)(bool system);
	/* NULL, or why it did not do it. Both sides stay as they are. */
	const char *(*move)(struct snap *s);
};

extern const struct mover movers[];
extern const unsigned int nr_movers;

/* Where the pages are to go: a node with memory other than this, or -1. */
int mover_other_node(int node);

/* NULL, or why NUMA balancing cannot be so. */
const char *balancing_set(bool on, bool system);
void balancing_restore(void);

#endif
