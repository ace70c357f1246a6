// SPDX-License-Identifier: GPL-2.0
/*
 * Threads that run a loop over their share of the tables, each on a CPU of its
 * own, and how long that takes.
 */
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "native.h"

#define MAX_THREADS	2

struct runner {
	const struct memory *m;
	const struct way *way;
	bool fresh_dst;
	size_t first, end;	/* tables */
	int cpu;
	pthread_barrier_t *ready;
	size_t done;		/* pages */
	double from, to;
	bool disturbed;
};

bool time_realtime;

void die(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	fputs("bench-native: ", stderr);
	vfprintf(stderr, fmt, args);
	fputc('\n', stderr);
	va_end(args);
	exit(1);
}

/* The nth CPU that this process may use, or -1. */
static int cpu_number(int n)
{
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set))
		return -1;
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &set) && !n--)
			return cpu;
	return -1;
}

int time_cpus(void)
{
	cpu_set_t set;

	return sched_getaffinity(0, sizeof(set), &set) ? 1 : CPU_COUNT(&set);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1e9 + ts.tv_nsec;
}

static long switches(void)
{
	struct rusage usage;

	getrusage(RUSAGE_THREAD, &usage);
	return usage.ru_nivcsw;
}

/*
 * Alone on its CPU, and with root's rights for the few milliseconds of a round
 * not to be interrupted by other processes: who shares the machine is not what
 * is measured.
 */
static void take_cpu(int cpu)
{
	struct sched_param param = { .sched_priority = 1 };
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (pthread_setaffinity_np(pthread_self(), sizeof(set), &set))
		die("cannot run on CPU %d", cpu);
	if (!pthread_setschedparam(pthread_self(), SCHED_FIFO, &param))
		__atomic_store_n(&time_realtime, true, __ATOMIC_RELAXED);
}

static size_t pass(const struct runner *r, struct work *work, loop_fn *loop)
{
	size_t done = 0;

	for (size_t i = r->first; i < r->end; i++) {
		const struct tables *t = &r->m->tables[i];

		/* As the allocator does on both ways. */
		if (r->fresh_dst)
			memset(t->dst, 0, PTRS_PER_PTE * sizeof(pte_t));
		done += loop(work, t);
	}
	return done;
}

static void *run(void *arg)
{
	struct runner *r = arg;
	struct work work;
	long before;

	work_init(&work);
	take_cpu(r->cpu);
	pthread_barrier_wait(r->ready);
	before = switches();
	r->from = now();
	r->done = pass(r, &work, r->way->loop);
	if (r->way->finish)
		r->way->finish(&work);
	if (r->way->again && pass(r, &work, r->way->again) != r->done)
		die("a second pass dealt with other pages than the first");
	r->to = now();
	r->disturbed = switches() != before;
	work_free(&work);
	return NULL;
}

/* @fresh_dst: the destination's tables are new, and so were zeroed just before. */
struct timing time_way(const struct memory *m, const struct way *way,
		       bool fresh_dst, int threads)
{
	struct timing timing = { .disturbed = false };
	struct runner runners[MAX_THREADS];
	pthread_t ids[MAX_THREADS];
	pthread_barrier_t ready;
	double from = 0, to = 0;
	size_t done = 0;

	pthread_barrier_init(&ready, NULL, threads);
	for (int i = 0; i < threads; i++) {
		runners[i] = (struct runner){
			.m = m, .way = way, .fresh_dst = fresh_dst,
			.first = m->nr_tables * i / threads,
			.end = m->nr_tables * (i + 1) / threads,
			.cpu = cpu_number(i), .ready = &ready,
		};
		if (pthread_create(&ids[i], NULL, run, &runners[i]))
			die("cannot start a thread");
	}
	for (int i = 0; i < threads; i++) {
		pthread_join(ids[i], NULL);
		from = !i || runners[i].from < from ? runners[i].from : from;
		to = runners[i].to > to ? runners[i].to : to;
		done += runners[i].done;
		timing.disturbed |= runners[i].disturbed;
	}
	pthread_barrier_destroy(&ready);
	if (done != m->nr_pages)
		die("a loop dealt with %zu pages of %zu", done, m->nr_pages);
	timing.ns = to - from;
	return timing;
}
