// SPDX-License-Identifier: GPL-2.0
/*
 * SIGSEGV for methods that protect memory themselves (mprotect(2), sigaction(2)):
 * who writes to a guarded page has it made writable and goes on.
 *
 * The signal is a synchronous one, and nobody touches guarded memory in a way
 * that faults while holding the lock: so a handler may take it, and call what it
 * needs.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>

#include "bench.h"
#include "guard.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct guard *guards;

void guard_lock(void)
{
	pthread_mutex_lock(&lock);
}

void guard_unlock(void)
{
	pthread_mutex_unlock(&lock);
}

static void on_fault(int sig, siginfo_t *info, void *context)
{
	char *page = (char *)((uintptr_t)info->si_addr & ~(page_size - 1));
	int err = errno;
	struct guard *g;

	(void)context;
	guard_lock();
	for (g = guards; g; g = g->next)
		if (g->addr <= page && page < g->addr + g->len)
			break;
	if (g)
		g->write(g, page);
	guard_unlock();
	/* None of ours: once more, for the kernel to deal with. */
	if (!g)
		signal(sig, SIG_DFL);
	errno = err;
}

void guard_add(struct guard *g)
{
	struct sigaction sa = {
		.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_RESTART,
	};

	if (!guards)
		sigaction(SIGSEGV, &sa, NULL);
	g->next = guards;
	guards = g;
}

void guard_remove(struct guard *g)
{
	struct guard **at = &guards;

	while (*at != g)
		at = &(*at)->next;
	*at = g->next;
	if (!guards)
		signal(SIGSEGV, SIG_DFL);
}
