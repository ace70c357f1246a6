/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Counting writers, for tests of what a duplicate made meanwhile holds.
 *
 * A writer counts: it stores n in one page after the other, always in the same
 * order, then n + 1. At any instant the counters, read in that order, do not
 * rise, and the first is ahead of the last by at most one.
 *
 *	order	 0  1  2  3  4  5  6  7
 *	legal	 9  9  9  8  8  8  8  8		in the middle of a round
 *	torn	 9  9  8  8  9  8  8  8		of two instants
 *	torn	 9  9  9  8  8  8  7  7
 */
#ifndef COWSNAP_SELFTESTS_COUNTERS_H
#define COWSNAP_SELFTESTS_COUNTERS_H

#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/uio.h>

#include "kernel.h"

#define RANGE		(4UL << 20)
#define PAGES		(RANGE / MEM_PAGE)
#define MAX_SLOTS	256
#define MAX_WRITERS	4
#define SECONDS		0.6
#define FILL_SEED	77

static char problem[256];
static atomic_flag problem_taken = ATOMIC_FLAG_INIT;
static _Atomic bool stop;

/* The first problem any thread meets; the harness's macros are for one thread. */
static inline bool fail(const char *fmt, ...)
{
	va_list args;

	if (!atomic_flag_test_and_set(&problem_taken)) {
		va_start(args, fmt);
		vsnprintf(problem, sizeof(problem), fmt, args);
		va_end(args);
	}
	stop = true;
	return false;
}

static inline void on_cpu(int cpu)
{
	long nr = sysconf(_SC_NPROCESSORS_ONLN);
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu % nr, &set);
	if (nr > 1)
		sched_setaffinity(0, sizeof(set), &set);
}

static inline void spin(unsigned int loops)
{
	while (loops--)
		__asm__ volatile("pause");
}

/* The counters */

struct counters {
	char *base;
	size_t len;
	unsigned int nr;
	unsigned int page[MAX_SLOTS];	/* in the order of writing */
	unsigned int pause;		/* how long a writer spins after a round */
};

enum order { FORWARD, BACKWARD, SHUFFLED };

static inline void place_counters(struct counters *c, unsigned int nr,
				  enum order order)
{
	size_t last = c->len / MEM_PAGE - 1;
	uint64_t state = 42;
	unsigned int i, j, t;

	c->nr = nr;
	for (i = 0; i < nr; i++)
		c->page[i] = (order == BACKWARD ? nr - 1 - i : i) * last / (nr - 1);
	for (i = nr - 1; order == SHUFFLED && i; i--) {
		j = next_random(&state) % (i + 1);
		t = c->page[i];
		c->page[i] = c->page[j];
		c->page[j] = t;
	}
}

/* Each writer has words of its own, where mem_check() does not look. */
static inline volatile uint64_t *counter(const struct counters *c,
					 const char *base, unsigned int i,
					 int writer)
{
	return (uint64_t *)(base + c->page[i] * MEM_PAGE + 96 + 64 * writer);
}

/*
 * Are the counters in [@at, @at + @len) of @dup, a duplicate of that part of
 * the range, those of one instant between @min and @max? Keeps them in @saved.
 */
static inline bool one_instant(const struct counters *c, const char *dup,
			       int writer, uint64_t min, uint64_t max,
			       uint64_t *saved)
{
	uint64_t first = 0, last = 0, v;
	unsigned int i;

	for (i = 0; i < c->nr; i++) {
		v = *counter(c, dup, i, writer);
		if (saved)
			saved[i] = v;
		if (!i)
			first = last = v;
		if (v > last || first - v > 1)
			return fail("torn: counter %u of %u (page %u) is %lu, the one before %lu, the first %lu",
				    i, c->nr, c->page[i], v, last, first);
		last = v;
	}
	if (last < min || first > max)
		return fail("not of the time of the call: %lu to %lu, the source went from %lu to %lu",
			    last, first, min, max);
	return true;
}

static inline bool same_as_before(const struct counters *c, const char *dup,
				  int writer, const uint64_t *saved)
{
	unsigned int i;

	for (i = 0; i < c->nr; i++)
		if (*counter(c, dup, i, writer) != saved[i])
			return fail("the duplicate changed: counter %u (page %u) was %lu, is %lu",
				    i, c->page[i], saved[i],
				    *counter(c, dup, i, writer));
	return true;
}

/* The writers */

enum style { STORE, READ_PIPE, WRITEV_SELF };

struct writer {
	pthread_t thread;
	const struct counters *c;
	enum style style;
	int id;
	int cpu;
	int pipe[2];
	_Atomic uint64_t rounds;
};

static inline bool store_round(struct writer *w, uint64_t n)
{
	const struct counters *c = w->c;
	unsigned int i;
	uint64_t was;

	for (i = 0; i < c->nr; i++) {
		was = *counter(c, c->base, i, w->id);
		if (was != n - 1)
			return fail("a store to the source was lost: page %u has %lu, not %lu",
				    c->page[i], was, n - 1);
		*counter(c, c->base, i, w->id) = n;
		atomic_signal_fence(memory_order_seq_cst);
	}
	return true;
}

/* The kernel stores, by the address. */
static inline bool pipe_round(struct writer *w, uint64_t n)
{
	uint64_t values[MAX_SLOTS];
	unsigned int i;

	for (i = 0; i < w->c->nr; i++)
		values[i] = n;
	if (write(w->pipe[1], values, w->c->nr * sizeof(n)) < 0)
		return fail("write: %m");
	for (i = 0; i < w->c->nr; i++)
		if (read(w->pipe[0], (void *)counter(w->c, w->c->base, i, w->id),
			 sizeof(n)) != sizeof(n))
			return fail("read into the source: %m");
	return true;
}

/* The kernel pins each page for a moment and stores through the pin. */
static inline bool writev_round(struct writer *w, uint64_t n)
{
	struct iovec from = { &n, sizeof(n) }, to = { NULL, sizeof(n) };
	unsigned int i;

	for (i = 0; i < w->c->nr; i++) {
		to.iov_base = (void *)counter(w->c, w->c->base, i, w->id);
		if (process_vm_writev(getpid(), &from, 1, &to, 1, 0) != sizeof(n))
			return fail("process_vm_writev: %m");
	}
	return true;
}

static inline void *write_rounds(void *arg)
{
	struct writer *w = arg;
	bool good = true;
	uint64_t n;

	if (w->cpu >= 0)
		on_cpu(w->cpu);
	for (n = 1; !stop && good; n++) {
		if (w->style == STORE)
			good = store_round(w, n);
		else if (w->style == READ_PIPE)
			good = pipe_round(w, n);
		else
			good = writev_round(w, n);
		w->rounds = n;
		spin(w->c->pause);
	}
	return NULL;
}

/* One of them gets a CPU of its own; more share all CPUs. */
static inline bool start_writers(struct writer *w, int nr,
				 const struct counters *c, enum style style)
{
	int i;

	stop = false;
	on_cpu(0);
	for (i = 0; i < nr; i++) {
		w[i].c = c;
		w[i].style = style;
		w[i].id = i;
		w[i].cpu = i ? i : 1;
		w[i].rounds = 0;
		if (pipe(w[i].pipe) ||
		    pthread_create(&w[i].thread, NULL, write_rounds, &w[i]))
			return fail("cannot start a writer");
	}
	for (i = 0; i < nr; i++)
		while (w[i].rounds < 2 && !stop)
			usleep(1000);
	return true;
}

/*
 * Until each of them has stored to all pages once more, or for a second. What he
 * still had in his TLB from before has then been written through.
 */
static inline void let_write(const struct writer *w, int nr)
{
	double end = seconds() + 1;
	uint64_t then;
	int i;

	for (i = 0; i < nr; i++) {
		then = w[i].rounds + 2;
		while (w[i].rounds < then && !stop && seconds() < end)
			sched_yield();
	}
}

/* A number that grows with every store. */
static inline uint64_t count_stores(const struct counters *c, int writers)
{
	uint64_t count = 0;
	unsigned int i;
	int w;

	for (w = 0; w < writers; w++)
		for (i = 0; i < c->nr; i++)
			count += *counter(c, c->base, i, w);
	return count;
}

static inline void stop_writers(struct writer *w, int nr)
{
	int i;

	stop = true;
	for (i = 0; i < nr; i++) {
		pthread_join(w[i].thread, NULL);
		close(w[i].pipe[0]);
		close(w[i].pipe[1]);
	}
}

struct duplicate {
	char *at;
	bool live;
	uint64_t saved[MAX_WRITERS][MAX_SLOTS];
};

/* One REMAP with everything that is known about its result. */
static inline bool duplicate_once(int fd, const struct counters *c, int writers,
				  struct duplicate *d, unsigned int flags,
				  uint64_t *copied)
{
	uint64_t min[MAX_WRITERS], max;
	struct cowsnap_remap r;
	int err, w;

	for (w = 0; w < writers; w++)
		min[w] = *counter(c, c->base, c->nr - 1, w);
	err = mem_remap(fd, c->base, c->len, d->at, flags, &r);
	if (err)
		return fail("REMAP: %s, reason %u", strerror(-err), r.reason);
	d->at = (char *)(uintptr_t)r.dst;
	d->live = true;
	*copied = r.copied;
	for (w = 0; w < writers; w++) {
		max = *counter(c, c->base, 0, w);
		if (!one_instant(c, d->at, w, min[w], max, d->saved[w]))
			return false;
	}
	return true;
}

static inline bool unchanged(const struct counters *c, int writers,
			     const struct duplicate *d)
{
	int w;

	for (w = 0; w < writers; w++)
		if (!same_as_before(c, d->at, w, d->saved[w]))
			return false;
	return true;
}

#endif /* COWSNAP_SELFTESTS_COUNTERS_H */
