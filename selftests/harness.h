/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The kernel's harness; each test has as much more time as the machine is slower
 * than usual, and more than its 30 s: others may have the machine meanwhile. Or
 * COWSNAP_TIMEOUT seconds, where a test is expected not to end.
 */
#ifndef COWSNAP_SELFTESTS_HARNESS_H
#define COWSNAP_SELFTESTS_HARNESS_H

#include <kselftest_harness.h>

#include "mem.h"

static inline void extend_timeouts(void)
{
	const char *limit = getenv("COWSNAP_TIMEOUT");
	struct __fixture_metadata *f;
	struct __test_metadata *t;

	for (f = __fixture_list; f; f = f->next)
		for (t = f->tests; t; t = t->next)
			t->timeout = limit ? atoi(limit) :
				     (t->timeout < 120 ? 120 : t->timeout) *
				     (int)mem_slowness();
}

#undef TEST_HARNESS_MAIN
#define TEST_HARNESS_MAIN						\
	int main(int argc, char **argv)					\
	{								\
		extend_timeouts();					\
		return test_harness_run(argc, argv);			\
	}

#endif /* COWSNAP_SELFTESTS_HARNESS_H */
