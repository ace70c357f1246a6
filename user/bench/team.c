// SPDX-License-Identifier: GPL-2.0
/* Threads on chosen CPUs, memory that both sides see, and Ctrl-C. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "bench.h"

/* Shared, so that a child that holds a snapshot sees it as well. */
static volatile sig_atomic_t *stop;

void *shared_alloc(size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		die("out of memory: mmap of %zu KiB: %s", len / KIB, strerror(errno));
	return p;
}

void shared_free(void *p, size_t len)
{
	munmap(p, len);
}

static void on_interrupt(int sig)
{
	(void)sig;
	*stop = 1;
}

bool interrupted(void)
{
	return *stop;
}

void interrupt_init(void)
{
	struct sigaction sa = { .sa_handler = on_interrupt, .sa_flags = SA_RESTART };

	stop = shared_alloc(page_size);
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGHUP, &sa, NULL);
}

static void *run_worker(void *p)
{
	struct worker *w = p;
	struct team *t = w->team;

	place_bind(w->cpu);
	pthread_barrier_wait(&t->ready);
	pthread_barrier_wait(&t->gate);
	t->fn(w, t->arg);
	w->end = now_ns();
	return NULL;
}

void team_make(struct team *t, unsigned int nr, void (*fn)(struct worker *w, void *arg),
	       void *arg, int (*cpu_of)(unsigned int nr, void *arg))
{
	unsigned int i;
	int err;

	t->nr = nr;
	t->fn = fn;
	t->arg = arg;
	t->workers = calloc(nr, sizeof(*t->workers));
	if (!t->workers)
		die("out of memory for %u threads", nr);
	pthread_barrier_init(&t->ready, NULL, nr + 1);
	pthread_barrier_init(&t->gate, NULL, nr + 1);

	for (i = 0; i < nr; i++) {
		struct worker *w = &t->workers[i];

		w->nr = i;
		w->cpu = cpu_of(i, arg);
		w->team = t;
		err = pthread_create(&w->thread, NULL, run_worker, w);
		if (err)
			die("cannot create %u threads: %s", nr, strerror(err));
	}
	pthread_barrier_wait(&t->ready);
}

void team_go(struct team *t)
{
	pthread_barrier_wait(&t->gate);
}

uint64_t team_join(struct team *t)
{
	uint64_t last = 0;
	unsigned int i;

	for (i = 0; i < t->nr; i++) {
		pthread_join(t->workers[i].thread, NULL);
		if (t->workers[i].end > last)
			last = t->workers[i].end;
	}
	pthread_barrier_destroy(&t->ready);
	pthread_barrier_destroy(&t->gate);
	free(t->workers);
	return last;
}
