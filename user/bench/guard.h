/* SPDX-License-Identifier: GPL-2.0 */
/* Memory whose write protection is ours: guard.c. */
#ifndef BENCH_GUARD_H
#define BENCH_GUARD_H

#include <stddef.h>

struct guard {
	char *addr;
	size_t len;
	/*
	 * Somebody is about to write to this page of it: let it be written. Called
	 * in a signal handler, under the lock; spurious calls have to be borne,
	 * since two threads may come for the same page.
	 */
	void (*write)(struct guard *g, char *page);
	struct guard *next;
};

/* Protects what the handlers look at; not to be held while touching guarded memory. */
void guard_lock(void);
void guard_unlock(void);
/* Both under the lock. */
void guard_add(struct guard *g);
void guard_remove(struct guard *g);

#endif
