// SPDX-License-Identifier: GPL-2.0
/*
 * Where QUERY.huge_whole is 0 a program must not call MADV_HUGEPAGE on memory
 * that has a duplicate (cowsnap.h says why). Programs that know nothing of
 * duplicates do. So on such kernels our madvise() stands before libc's: it lets
 * the program wait until the thread's duplicate is dropped, and afterwards the
 * thread leaves such mappings alone (VmFlags in /proc/self/smaps). A program that
 * makes the system call without libc is not seen.
 */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "preload.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE	25
#endif

/* The process whose thread has a duplicate, or is about to: not its child. */
static int busy;
/* Callers of madvise() on their way, and how often one came or went. */
static unsigned int advising, advices;

/* In a child nobody is on the way. */
void advice_forget(void)
{
	__atomic_store_n(&busy, 0, __ATOMIC_SEQ_CST);
	__atomic_store_n(&advising, 0, __ATOMIC_SEQ_CST);
}

/* Before the list of mappings is read. */
void advice_look(struct preload *p)
{
	p->advices = __atomic_load_n(&advices, __ATOMIC_SEQ_CST);
}

/* May a duplicate be made of what was in that list? If so, it may until leave. */
bool advice_enter(struct preload *p)
{
	if (p->huge_whole)
		return true;
	__atomic_store_n(&busy, (int)sys(getpid), __ATOMIC_SEQ_CST);
	if (!__atomic_load_n(&advising, __ATOMIC_SEQ_CST) &&
	    p->advices == __atomic_load_n(&advices, __ATOMIC_SEQ_CST))
		return true;
	advice_leave();
	return false;
}

void advice_leave(void)
{
	__atomic_store_n(&busy, 0, __ATOMIC_SEQ_CST);
}

static void come_or_go(unsigned int one)
{
	__atomic_fetch_add(&advising, one, __ATOMIC_SEQ_CST);
	__atomic_fetch_add(&advices, 1, __ATOMIC_SEQ_CST);
}

/* Where huge pages are shared whole, nobody waits. */
__attribute__((visibility("default"))) int madvise(void *addr, size_t len, int advice)
{
	bool huge = advice == MADV_HUGEPAGE || advice == MADV_COLLAPSE;
	long ret;

	if (huge) {
		come_or_go(1);
		while (__atomic_load_n(&busy, __ATOMIC_SEQ_CST) == (int)sys(getpid))
			nap(100);
	}
	ret = sys(madvise, addr, len, advice);
	if (huge)
		come_or_go(-1U);
	if (!ret)
		return 0;
	errno = -ret;
	return -1;
}
