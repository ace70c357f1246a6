/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Touching memory that may not be touched: which signal that gives, and on with
 * the test. From one thread only.
 */
#ifndef COWSNAP_SELFTESTS_TOUCH_H
#define COWSNAP_SELFTESTS_TOUCH_H

#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>

static sigjmp_buf touch_env;
static volatile sig_atomic_t touch_signal;

static inline void touch_failed(int sig)
{
	touch_signal = sig;
	siglongjmp(touch_env, 1);
}

/* 0, SIGSEGV or SIGBUS. */
static inline int touch(volatile char *p, bool store)
{
	struct sigaction act = { .sa_handler = touch_failed }, segv, bus;

	touch_signal = 0;
	sigaction(SIGSEGV, &act, &segv);
	sigaction(SIGBUS, &act, &bus);
	if (!sigsetjmp(touch_env, /* savemask= */1)) {
		if (store)
			*p = 1;
		else
			(void)*p;
	}
	sigaction(SIGSEGV, &segv, NULL);
	sigaction(SIGBUS, &bus, NULL);
	return touch_signal;
}

static inline int load_at(char *p)
{
	return touch(p, false);
}

static inline int store_at(char *p)
{
	return touch(p, true);
}

#endif /* COWSNAP_SELFTESTS_TOUCH_H */
