// SPDX-License-Identifier: GPL-2.0
/*
 * cowsnap-preload.so: LD_PRELOAD it, and a thread of the program goes on
 * duplicating the program's private mappings, checks each duplicate and drops
 * it. The program is to notice nothing: it must give the same results as alone.
 *
 * So the thread is not one of libc's. It has a stack and buffers of its own, all
 * signals blocked, and a table of descriptors of its own, in which the program
 * does not find ours, nor we the program's. A child of fork() gets a thread of
 * its own. Duplicates lie far from where the kernel puts mappings by itself.
 *
 * Environment: COWSNAP_PRELOAD_COUNTS, a file to add counts to (counts.h);
 * COWSNAP_PRELOAD_NAP, microseconds between two duplicates (500);
 * COWSNAP_PRELOAD_SPLIT, if set, duplicate parts of huge pages as well, and at
 * addresses where they cannot be shared whole, which a program may notice: the
 * source is then mapped by small pages, too.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "preload.h"

#define STACK	(64UL << 10)

static struct counts no_counts;
static struct counts *counts = &no_counts;
static unsigned long nap_us = 500;
static bool split;

void nap(unsigned long us)
{
	struct timespec t = { us / 1000000, us % 1000000 * 1000 };

	sys(nanosleep, &t, NULL);
}

static void append(char **to, const char *text)
{
	while (*text)
		*(*to)++ = *text++;
}

static void append_hex(char **to, unsigned long value)
{
	int shift;

	append(to, "0x");
	for (shift = 60; shift > 0 && !(value >> shift); shift -= 4)
		;
	for (; shift >= 0; shift -= 4)
		*(*to)++ = "0123456789abcdef"[value >> shift & 15];
}

/* The program's own standard error, which is not in our table. */
static void say(const char *text, size_t len)
{
	long fd = sys(open, "/proc/self/fd/2", O_WRONLY | O_APPEND | O_CLOEXEC);

	if (fd < 0)
		fd = sys(open, "/dev/kmsg", O_WRONLY | O_CLOEXEC);
	sys(write, fd, text, len);
}

void fail(struct preload *p, const char *what, unsigned long addr, long value)
{
	/* struct sigaction of the kernel: all zero is SIG_DFL. */
	unsigned long action[4] = {}, mask = ~0UL;
	char text[sizeof(p->counts->failure)], *end = text;
	long pid = sys(getpid), tid = sys(gettid);
	uint64_t none = 0;

	append(&end, "cowsnap-preload: ");
	append(&end, what);
	append(&end, " at ");
	append_hex(&end, addr);
	append(&end, " (");
	append_hex(&end, value);
	append(&end, ")\n");
	if (__atomic_compare_exchange_n(&p->counts->failures, &none, 1, false,
					__ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
		memcpy(p->counts->failure, text, end - text - 1);
	else
		count(&p->counts->failures, 1);
	say(text, end - text);
	for (;;) {
		sys(rt_sigaction, SIGABRT, action, NULL, 8);
		sys(rt_sigprocmask, SIG_UNBLOCK, &mask, NULL, 8);
		sys(tgkill, pid, tid, SIGABRT);
	}
}

static unsigned long read_max_maps(void)
{
	long fd = sys(open, "/proc/sys/vm/max_map_count", O_RDONLY | O_CLOEXEC);
	unsigned long value = 0;
	char text[16];
	long i, len = sys(read, fd, text, sizeof(text));

	for (i = 0; i < len && text[i] >= '0' && text[i] <= '9'; i++)
		value = value * 10 + text[i] - '0';
	sys(close, fd);
	return value;
}

static bool open_all(struct preload *p)
{
	struct cowsnap_query query = { .size = sizeof(query) };

	p->device = sys(open, "/dev/cowsnap", O_RDWR | O_CLOEXEC);
	p->smaps = sys(open, "/proc/self/smaps", O_RDONLY | O_CLOEXEC);
	p->pagemap = sys(open, "/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	p->mem = sys(open, "/proc/self/mem", O_RDONLY | O_CLOEXEC);
	p->statm = sys(open, "/proc/self/statm", O_RDONLY | O_CLOEXEC);
	if (p->device < 0 || p->smaps < 0 || p->pagemap < 0 || p->mem < 0 || p->statm < 0)
		return false;
	if (sys(ioctl, p->device, COWSNAP_QUERY, &query))
		return false;
	p->kinds = query.kinds;
	p->huge_whole = query.huge_whole;
	p->max_maps = read_max_maps();
	return true;
}

/* Also of a program that is bound to one CPU we want to be on another one. */
static void roam(void)
{
	unsigned long cpus[16];

	memset(cpus, 0xff, sizeof(cpus));
	sys(sched_setaffinity, 0, sizeof(cpus), cpus);
}

static void work(void *arg)
{
	struct preload *p = arg;
	unsigned int i, nr;

	sys(close_range, 0, ~0U, CLOSE_RANGE_UNSHARE);
	roam();
	if (!open_all(p)) {
		count(&p->counts->idle, 1);
		sys(exit, 0);
	}
	for (;;) {
		nr = pick_targets(p);
		count(&p->counts->rounds, 1);
		/* One is what the program is about; most others lie idle. */
		for (i = 0; i < 2 * nr && advice_enter(p); i++) {
			if (i % 2 == 0)
				try_target(p, &p->target[i / 2]);
			else if (p->busiest.end)
				try_target(p, &p->busiest);
			advice_leave();
			nap(nap_us);
		}
		if (!nr)
			nap(10 * nap_us);
	}
}

/* Guards around it keep the kernel from merging it with the program's. */
static struct preload *new_arena(void)
{
	unsigned long inner = (STACK + sizeof(struct preload) + PAGE - 1) & ~(PAGE - 1);
	long base = sys(mmap, NULL, inner + 2 * PAGE, PROT_NONE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct preload *p;

	if (sys_failed(base) ||
	    sys(mprotect, base + PAGE, inner, PROT_READ | PROT_WRITE))
		return NULL;
	p = (struct preload *)(base + PAGE + STACK);
	p->arena = base;
	p->arena_end = base + inner + 2 * PAGE;
	return p;
}

static void start(void)
{
	static struct preload *arena;
	const unsigned long flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND |
				    CLONE_THREAD | CLONE_SYSVSEM;
	unsigned long all = ~0UL, mask;
	struct timespec now = {};
	long tid = -1;

	count(&counts->processes, 1);
	advice_forget();
	/* A child has its parent's arena, as a copy without a thread in it. */
	if (!arena)
		arena = new_arena();
	if (arena) {
		sys(clock_gettime, CLOCK_MONOTONIC, &now);
		arena->counts = counts;
		arena->split = split;
		arena->random = (now.tv_nsec + ((uint64_t)sys(getpid) << 32)) | 1;
		/* The thread is born with the mask of its maker. */
		sys(rt_sigprocmask, SIG_SETMASK, &all, &mask, 8);
		tid = sys_thread(flags, arena, work, arena);
		sys(rt_sigprocmask, SIG_SETMASK, &mask, NULL, 8);
	}
	if (tid < 0)
		count(&counts->idle, 1);
}

static void map_counts(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
	void *at = MAP_FAILED;

	if (fd >= 0 && !ftruncate(fd, sizeof(*counts)))
		at = mmap(NULL, sizeof(*counts), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (fd >= 0)
		close(fd);
	if (at != MAP_FAILED)
		counts = at;
}

__attribute__((constructor)) static void load(void)
{
	const char *path = getenv(COUNTS_ENV), *us = getenv("COWSNAP_PRELOAD_NAP");
	int saved = errno;

	if (us)
		nap_us = strtoul(us, NULL, 10);
	split = getenv("COWSNAP_PRELOAD_SPLIT");
	if (path)
		map_counts(path);
	pthread_atfork(NULL, NULL, start);
	start();
	errno = saved;
}
