/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Making several workers do what one would do alone: the module's parameters.
 */
#ifndef COWSNAP_SELFTESTS_WORKERS_H
#define COWSNAP_SELFTESTS_WORKERS_H

#include <stdio.h>

#include "mem.h"

#define WORKERS		"/sys/module/cowsnap/parameters/workers"

/* @nr of them wherever there is more than one huge page to do. */
static inline void workers_force(int nr)
{
	char text[16];

	snprintf(text, sizeof(text), "%d", nr);
	mem_write(WORKERS, text);
	mem_write(WORKERS "_min", "0");
}

/* As the module is loaded. */
static inline void workers_default(void)
{
	mem_write(WORKERS, "0");
	mem_write(WORKERS "_min", "64");
}

/* How many pieces were not done by a caller, ever. */
static inline long workers_pieces(void)
{
	return mem_read_long(WORKERS "_pieces");
}

#endif /* COWSNAP_SELFTESTS_WORKERS_H */
