// SPDX-License-Identifier: GPL-2.0
/*
 * REMAP while the rest of the process goes on: the duplicate holds what the
 * source held at one instant, and never changes afterwards.
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
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/wait.h>

#include "kernel.h"
#include "uring.h"
#include <kselftest_harness.h>

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
static bool fail(const char *fmt, ...)
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

static void on_cpu(int cpu)
{
	long nr = sysconf(_SC_NPROCESSORS_ONLN);
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu % nr, &set);
	if (nr > 1)
		sched_setaffinity(0, sizeof(set), &set);
}

static void spin(unsigned int loops)
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
};

enum order { FORWARD, BACKWARD, SHUFFLED };

static void place_counters(struct counters *c, unsigned int nr,
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
static volatile uint64_t *counter(const struct counters *c, const char *base,
				  unsigned int i, int writer)
{
	return (uint64_t *)(base + c->page[i] * MEM_PAGE + 96 + 64 * writer);
}

/*
 * Are the counters in [@at, @at + @len) of @dup, a duplicate of that part of
 * the range, those of one instant between @min and @max? Keeps them in @saved.
 */
static bool one_instant(const struct counters *c, const char *dup, int writer,
			uint64_t min, uint64_t max, uint64_t *saved)
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

static bool same_as_before(const struct counters *c, const char *dup,
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

static bool store_round(struct writer *w, uint64_t n)
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
static bool pipe_round(struct writer *w, uint64_t n)
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
static bool writev_round(struct writer *w, uint64_t n)
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

static void *write_rounds(void *arg)
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
	}
	return NULL;
}

/* One of them gets a CPU of its own; more share all CPUs. */
static bool start_writers(struct writer *w, int nr, const struct counters *c,
			  enum style style)
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

static void stop_writers(struct writer *w, int nr)
{
	int i;

	stop = true;
	for (i = 0; i < nr; i++) {
		pthread_join(w[i].thread, NULL);
		close(w[i].pipe[0]);
		close(w[i].pipe[1]);
	}
}

FIXTURE(instant) {
	int fd;
	struct counters c;
	struct writer writers[MAX_WRITERS];
	struct uring ring;
	char *arena;		/* room for two duplicates */
	size_t stride;
	uint64_t rounds;
};

FIXTURE_VARIANT(instant) {
	unsigned int counters;
	enum order order;
	enum style style;
	int writers;
	bool huge;
	size_t shift;		/* of the duplicate from a congruent address */
	bool many_vmas;
	bool swap;
	unsigned int pinned;	/* so many counters, spread */
	bool all_pinned;
};

/* What breaks all of these: no TLB flush of the source. */
FIXTURE_VARIANT_ADD(instant, hot_pages) {
	.counters = 8, .writers = 1,
};
FIXTURE_VARIANT_ADD(instant, hot_pages_backward) {
	.counters = 8, .writers = 1, .order = BACKWARD,
};
FIXTURE_VARIANT_ADD(instant, two_hot_pages) {
	.counters = 2, .writers = 1, .order = BACKWARD,
};
/* Always some page to be faulted in: page faults that do not wait. */
FIXTURE_VARIANT_ADD(instant, cold_pages) {
	.counters = 256, .writers = 1, .order = SHUFFLED,
};
FIXTURE_VARIANT_ADD(instant, four_writers) {
	.counters = 32, .writers = 4, .order = SHUFFLED,
};
FIXTURE_VARIANT_ADD(instant, read_from_a_pipe) {
	.counters = 16, .writers = 2, .order = SHUFFLED, .style = READ_PIPE,
};
FIXTURE_VARIANT_ADD(instant, stored_through_passing_pins) {
	.counters = 16, .writers = 2, .order = SHUFFLED, .style = WRITEV_SELF,
};
FIXTURE_VARIANT_ADD(instant, huge) {
	.counters = 8, .writers = 1, .huge = true,
};
FIXTURE_VARIANT_ADD(instant, huge_elsewhere) {
	.counters = 8, .writers = 2, .huge = true, .shift = 3 * MEM_PAGE,
};
FIXTURE_VARIANT_ADD(instant, many_mappings) {
	.counters = 64, .writers = 1, .order = SHUFFLED, .many_vmas = true,
};
FIXTURE_VARIANT_ADD(instant, partly_swapped) {
	.counters = 16, .writers = 1, .order = BACKWARD, .swap = true,
};
/* A copy of a pinned page made before the flush is of another instant. */
FIXTURE_VARIANT_ADD(instant, some_pinned) {
	.counters = 8, .writers = 1, .pinned = 3,
};
FIXTURE_VARIANT_ADD(instant, some_pinned_backward) {
	.counters = 8, .writers = 1, .order = BACKWARD, .pinned = 3,
};
FIXTURE_VARIANT_ADD(instant, cold_pages_some_pinned) {
	.counters = 64, .writers = 2, .order = SHUFFLED, .pinned = 16,
};
FIXTURE_VARIANT_ADD(instant, all_pinned) {
	.counters = 8, .writers = 1, .all_pinned = true,
};
FIXTURE_VARIANT_ADD(instant, huge_pinned) {
	.counters = 8, .writers = 1, .huge = true, .pinned = 2,
};

/* Pin every so many'th counter's page: part of the stores go to pinned pages. */
static int pin_counters(struct uring *ring, struct counters *c, unsigned int nr)
{
	struct iovec iov[MAX_SLOTS];
	unsigned int i;

	for (i = 0; i < nr; i++) {
		iov[i].iov_base = c->base + c->page[i * c->nr / nr] * MEM_PAGE;
		iov[i].iov_len = MEM_PAGE;
	}
	return uring_pinv(ring, iov, nr);
}

FIXTURE_SETUP(instant)
{
	struct counters *c = &self->c;
	size_t i;
	int err;

	self->ring.fd = -1;
	self->fd = mem_open();
	ASSERT_LE(0, self->fd);
	if (variant->swap && !mem_have_swap())
		SKIP(return, "no swap");
	if (variant->huge)
		c->base = mem_map_huge(RANGE);
	else
		c->base = mem_map_offset(RANGE, MEM_HUGE, 0);
	if (!c->base && variant->huge)
		SKIP(return, "no huge pages");
	ASSERT_NE(NULL, c->base);
	c->len = RANGE;
	place_counters(c, variant->counters, variant->order);
	for (i = 0; variant->many_vmas && i < 32; i += 2)
		ASSERT_EQ(0, madvise(c->base + i * RANGE / 32, RANGE / 32,
				     MADV_DONTDUMP));
	if (variant->huge)
		memset(c->base, 0, RANGE);
	mem_fill(c->base, RANGE, FILL_SEED);

	self->stride = RANGE + MEM_HUGE;
	self->arena = mem_map_offset(2 * self->stride, MEM_HUGE, 0);
	ASSERT_NE(NULL, self->arena);
	ASSERT_EQ(0, mprotect(self->arena, 2 * self->stride, PROT_NONE));

	if (!variant->pinned && !variant->all_pinned)
		return;
	err = uring_open(&self->ring);
	if (err)
		SKIP(return, "no io_uring: %s", strerror(-err));
	if (variant->all_pinned)
		err = uring_pin(&self->ring, c->base, RANGE);
	else
		err = pin_counters(&self->ring, c, variant->pinned);
	ASSERT_EQ(0, err);
}

FIXTURE_TEARDOWN(instant)
{
	if (self->ring.fd >= 0) {
		uring_unpin(&self->ring);
		uring_close(&self->ring);
	}
	close(self->fd);
}

/* Swap two of four parts out; the writer brings its pages back. */
static void swap_parts(struct counters *c)
{
	madvise(c->base, RANGE / 4, MADV_PAGEOUT);
	madvise(c->base + RANGE / 2, RANGE / 4, MADV_PAGEOUT);
}

struct duplicate {
	char *at;
	bool live;
	uint64_t saved[MAX_WRITERS][MAX_SLOTS];
};

/* One REMAP with everything that is known about its result. */
static bool duplicate_once(int fd, const struct counters *c, int writers,
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

static bool unchanged(const struct counters *c, int writers,
		      const struct duplicate *d)
{
	int w;

	for (w = 0; w < writers; w++)
		if (!same_as_before(c, d->at, w, d->saved[w]))
			return false;
	return true;
}

/*
 * If this fails, a snapshot is of no use: it shows a state that never was, or
 * goes on changing with the source.
 */
TEST_F(instant, duplicate_is_of_one_instant_and_stays)
{
	static struct duplicate d[2];
	struct counters *c = &self->c;
	double end = seconds() + SECONDS;
	uint64_t random = 99, copied = 0;
	unsigned int calls, this;

	ASSERT_TRUE(start_writers(self->writers, variant->writers, c,
				  variant->style));
	for (calls = 0; !stop && (seconds() < end || calls < 8); calls++) {
		this = calls % 2;
		d[this].at = self->arena + this * self->stride + variant->shift;
		if (variant->swap)
			swap_parts(c);
		/* Every third call follows at once, while the writer faults. */
		if (calls % 3)
			spin(next_random(&random) % 2000);
		if (!duplicate_once(self->fd, c, variant->writers, &d[this],
				    COWSNAP_REMAP_FIXED, &copied))
			break;
		if (d[!this].live && !unchanged(c, variant->writers, &d[!this]))
			break;
		if (calls % 3 == 2)
			usleep(next_random(&random) % 500);
		if (!unchanged(c, variant->writers, &d[this]))
			break;
		if (calls % 16 == 0 && !mem_check(d[this].at, RANGE, FILL_SEED))
			fail("the duplicate lacks what was never written again");
		if (variant->swap)
			munmap(d[this].at, RANGE), d[this].live = false;
	}
	stop_writers(self->writers, variant->writers);
	ASSERT_STREQ("", problem);
	EXPECT_TRUE(mem_check(c->base, RANGE, FILL_SEED));
	if (variant->all_pinned || (variant->huge && variant->pinned)) {
		EXPECT_EQ(PAGES, copied);
	} else if (variant->style != WRITEV_SELF) {
		EXPECT_EQ(variant->pinned, copied);
	}
	TH_LOG("%u calls in %lu rounds", calls, self->writers[0].rounds);
	EXPECT_LE(8, calls);
}

/* The same with other things going on */

FIXTURE(race) {
	int fd;
	struct counters c;
	struct writer writer;
};

FIXTURE_SETUP(race)
{
	self->fd = mem_open();
	ASSERT_LE(0, self->fd);
	self->c.len = RANGE;
	self->c.base = mem_map_alone(RANGE);
	ASSERT_NE(NULL, self->c.base);
	place_counters(&self->c, 32, SHUFFLED);
	mem_fill(self->c.base, RANGE, FILL_SEED);
}

FIXTURE_TEARDOWN(race)
{
	mem_unmap_alone(self->c.base, RANGE);
	close(self->fd);
}

/* Duplicate where the kernel likes, check, drop, until the time is over. */
static unsigned int duplicate_for(int fd, const struct counters *c, double time)
{
	double end = seconds() + time;
	struct duplicate *d = calloc(1, sizeof(*d));
	unsigned int calls;
	uint64_t copied;

	for (calls = 0; !stop && (seconds() < end || calls < 4); calls++) {
		d->at = NULL;
		if (!duplicate_once(fd, c, 1, d, 0, &copied))
			break;
		if (calls % 4 == 0)
			usleep(200);
		if (!unchanged(c, 1, d))
			break;
		munmap(d->at, c->len);
	}
	free(d);
	return calls;
}

struct helper {
	pthread_t thread;
	void *(*run)(void *arg);
	int fd;
	struct counters *c;
	unsigned long done;
};

static bool start_helper(struct helper *h, void *(*run)(void *), int fd,
			 struct counters *c)
{
	h->run = run;
	h->fd = fd;
	h->c = c;
	h->done = 0;
	return !pthread_create(&h->thread, NULL, run, h);
}

static void *duplicate_too(void *arg)
{
	struct helper *h = arg;
	struct counters part = *h->c;
	unsigned int i, nr = 0;

	/* The second three quarters, which the other call overlaps. */
	part.base += RANGE / 4;
	part.len = RANGE / 4 * 3;
	for (i = 0; i < h->c->nr; i++)
		if (h->c->page[i] >= PAGES / 4)
			part.page[nr++] = h->c->page[i] - PAGES / 4;
	part.nr = nr;
	h->done = duplicate_for(h->fd, &part, SECONDS);
	return NULL;
}

/* Two snapshots of the same memory taken at once spoil neither. */
TEST_F(race, two_threads_duplicate_overlapping_ranges)
{
	struct helper h;
	unsigned int calls;

	ASSERT_TRUE(start_writers(&self->writer, 1, &self->c, STORE));
	ASSERT_TRUE(start_helper(&h, duplicate_too, self->fd, &self->c));
	calls = duplicate_for(self->fd, &self->c, SECONDS);
	pthread_join(h.thread, NULL);
	stop_writers(&self->writer, 1);
	ASSERT_STREQ("", problem);
	EXPECT_LE(4, calls);
	EXPECT_LE(4UL, h.done);
	EXPECT_TRUE(mem_check(self->c.base, RANGE, FILL_SEED));
}

static void *fork_children(void *arg)
{
	struct helper *h = arg;
	int status;
	pid_t pid;

	while (!stop) {
		pid = fork();
		if (!pid)
			_exit(!one_instant(h->c, h->c->base, 0, 1, UINT64_MAX,
					   NULL));
		if (pid < 0 || waitpid(pid, &status, 0) != pid)
			fail("fork: %m");
		else if (status)
			fail("the child of a fork sees another state: %#x",
			     status);
		h->done++;
	}
	return NULL;
}

/* fork(2) shares the same pages the same way: neither may undo the other. */
TEST_F(race, fork_in_another_thread)
{
	struct helper h;

	ASSERT_TRUE(start_writers(&self->writer, 1, &self->c, STORE));
	ASSERT_TRUE(start_helper(&h, fork_children, self->fd, &self->c));
	duplicate_for(self->fd, &self->c, SECONDS);
	stop_writers(&self->writer, 1);
	pthread_join(h.thread, NULL);
	ASSERT_STREQ("", problem);
	EXPECT_LT(0UL, h.done);
	EXPECT_TRUE(mem_check(self->c.base, RANGE, FILL_SEED));
}

/* Neighbours of the same kind merge with the source's mapping and split off. */
static void *change_neighbours(void *arg)
{
	struct helper *h = arg;
	char *before = h->c->base - MEM_PAGE, *after = h->c->base + RANGE;
	char *side;

	while (!stop) {
		side = h->done++ % 2 ? before : after;
		mprotect(side, MEM_PAGE, PROT_READ | PROT_WRITE);
		madvise(side, MEM_PAGE, MADV_NOHUGEPAGE);
		*(volatile char *)side = 1;
		if (mmap(side, MEM_PAGE, PROT_NONE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
			 -1, 0) != side)
			fail("mmap: %m");
	}
	return NULL;
}

TEST_F(race, neighbours_come_and_go)
{
	struct helper h;

	ASSERT_TRUE(start_writers(&self->writer, 1, &self->c, STORE));
	ASSERT_TRUE(start_helper(&h, change_neighbours, self->fd, &self->c));
	duplicate_for(self->fd, &self->c, SECONDS / 2);
	stop_writers(&self->writer, 1);
	pthread_join(h.thread, NULL);
	ASSERT_STREQ("", problem);
	EXPECT_TRUE(mem_check(self->c.base, RANGE, FILL_SEED));
}

struct reader {
	pthread_t thread;
	const struct counters *c;
	_Atomic(char *) at;
	unsigned long done;
};

static void *read_destination(void *arg)
{
	struct reader *rd = arg;
	uint64_t seen = 0, v;
	unsigned int i;

	on_cpu(1);
	while (!stop) {
		i = rd->done++ % rd->c->nr;
		v = *counter(rd->c, rd->at, 0, 0);
		if (v < seen)
			fail("the destination went back from %lu to %lu",
			     seen, v);
		seen = v;
		/* Others too, so that there are faults all the time. */
		if (!*counter(rd->c, rd->at, i, 0))
			fail("the destination was empty for a moment");
	}
	return NULL;
}

/* FIXED replaces as mmap(2) does: nobody sees a hole or an empty page. */
TEST_F(race, reader_of_a_replaced_destination_sees_old_or_new)
{
	struct reader rd = { .c = &self->c };
	double end = seconds() + SECONDS;
	static struct duplicate d;
	uint64_t copied;

	ASSERT_TRUE(start_writers(&self->writer, 1, &self->c, STORE));
	ASSERT_TRUE(duplicate_once(self->fd, &self->c, 1, &d, 0, &copied));
	rd.at = d.at;
	ASSERT_EQ(0, pthread_create(&rd.thread, NULL, read_destination, &rd));
	while (!stop && seconds() < end)
		duplicate_once(self->fd, &self->c, 1, &d, COWSNAP_REMAP_FIXED,
			       &copied);
	stop_writers(&self->writer, 1);
	pthread_join(rd.thread, NULL);
	ASSERT_STREQ("", problem);
	EXPECT_LT(0UL, rd.done);
}

/* First touches */

struct toucher {
	pthread_t thread;
	struct counters c;
	_Atomic int turn;	/* odd: touch */
	_Atomic uint64_t done;
};

static void *touch_in_order(void *arg)
{
	struct toucher *t = arg;
	unsigned int i;

	on_cpu(1);
	for (;;) {
		while (!(t->turn & 1) && !stop)
			;
		if (stop)
			return NULL;
		for (i = 0; i < t->c.nr; i++) {
			*counter(&t->c, t->c.base, i, 0) = 1;
			t->done = i + 1;
		}
		t->turn++;
	}
}

/*
 * A page touched for the first time during the call is in the duplicate when
 * it was touched before the instant: a fault that does not wait for the call
 * shows a later page and not the earlier one.
 */
TEST_F(race, first_touches_belong_to_the_instant)
{
	struct toucher t = { .c.len = RANGE };
	double end = seconds() + SECONDS;
	uint64_t random = 5, before;
	unsigned int calls, mid = 0;
	struct cowsnap_remap r;

	place_counters(&t.c, MAX_SLOTS, SHUFFLED);
	stop = false;
	on_cpu(0);
	t.c.base = mem_map(RANGE);
	ASSERT_NE(NULL, t.c.base);
	ASSERT_EQ(0, pthread_create(&t.thread, NULL, touch_in_order, &t));
	for (calls = 0; !stop && (seconds() < end || !mid); calls++) {
		ASSERT_EQ(0, madvise(t.c.base, RANGE, MADV_DONTNEED));
		t.done = 0;
		t.turn++;
		before = next_random(&random) % MAX_SLOTS;
		while (t.done < before)
			;
		ASSERT_EQ(0, mem_remap(self->fd, t.c.base, RANGE, NULL, 0, &r));
		if (t.done < MAX_SLOTS)
			mid++;
		one_instant(&t.c, (char *)(uintptr_t)r.dst, 0, 0, 1, NULL);
		while (t.turn & 1)
			;
		munmap((void *)(uintptr_t)r.dst, RANGE);
	}
	stop = true;
	pthread_join(t.thread, NULL);
	ASSERT_STREQ("", problem);
	TH_LOG("%u of %u calls hit the middle", mid, calls);
}

/* Content under every kind of change */

#define CHURN_PAGES	512
#define CHURNERS	4

enum churn { TOUCH, DROP, PAGEOUT, PROTECT };

struct churner {
	pthread_t thread;
	char *base;		/* its own part of the range */
	unsigned int nr;
	unsigned int first;	/* number of its first page */
	unsigned int ops;	/* bits of enum churn */
	uint64_t random;
	uint32_t gen[CHURN_PAGES];
	unsigned long done;
};

static uint64_t stamp(unsigned int page, uint32_t gen)
{
	return gen ? (uint64_t)gen << 32 | page : 0;
}

static void churn_page(struct churner *ch, unsigned int i, enum churn op)
{
	char *page = ch->base + i * MEM_PAGE;
	volatile uint64_t *head = (uint64_t *)page;
	volatile uint64_t *tail = (uint64_t *)(page + MEM_PAGE) - 1;

	switch (op) {
	case TOUCH:
		ch->gen[i]++;
		*head = stamp(ch->first + i, ch->gen[i]);
		*tail = stamp(ch->first + i, ch->gen[i]);
		break;
	case DROP:
		madvise(page, MEM_PAGE, MADV_DONTNEED);
		ch->gen[i] = 0;
		break;
	case PAGEOUT:
		madvise(page, MEM_PAGE, MADV_PAGEOUT);
		break;
	case PROTECT:
		mprotect(page, MEM_PAGE, PROT_READ);
		mprotect(page, MEM_PAGE, PROT_READ | PROT_WRITE);
		break;
	}
	if (*head != stamp(ch->first + i, ch->gen[i]) || *tail != *head)
		fail("the source lost page %u: %#lx %#lx, generation %u",
		     ch->first + i, *head, *tail, ch->gen[i]);
}

static void *churn(void *arg)
{
	struct churner *ch = arg;
	enum churn op;

	while (!stop) {
		do
			op = next_random(&ch->random) % 4;
		while (!(ch->ops & 1 << op));
		churn_page(ch, next_random(&ch->random) % ch->nr, op);
		ch->done++;
	}
	return NULL;
}

/* Some moment of each page's own life; then for ever. */
static bool check_churned(const char *dup, uint64_t *saved, bool again)
{
	unsigned int i;

	for (i = 0; i < CHURN_PAGES; i++) {
		const volatile uint64_t *head = (uint64_t *)(dup + i * MEM_PAGE);
		uint64_t h = *head, t = head[MEM_PAGE / 8 - 1];

		if (again && (h ^ t << 1) != saved[i])
			return fail("page %u of the duplicate changed", i);
		saved[i] = h ^ t << 1;
		if ((h && (uint32_t)h != i) || (t && (uint32_t)t != i) ||
		    t >> 32 > h >> 32 || (h >> 32) - (t >> 32) > (t ? 1U : ~0U))
			return fail("page %u of the duplicate has %#lx %#lx",
				    i, h, t);
	}
	return true;
}

FIXTURE(churn) {
	int fd;
	char *base;
	struct churner ch[CHURNERS];
};

FIXTURE_VARIANT(churn) {
	unsigned int ops;
	bool huge;
};

FIXTURE_VARIANT_ADD(churn, dontneed) {
	.ops = 1 << TOUCH | 1 << DROP,
};
FIXTURE_VARIANT_ADD(churn, pageout) {
	.ops = 1 << TOUCH | 1 << PAGEOUT,
};
FIXTURE_VARIANT_ADD(churn, mprotect) {
	.ops = 1 << TOUCH | 1 << PROTECT,
};
FIXTURE_VARIANT_ADD(churn, everything) {
	.ops = 1 << TOUCH | 1 << DROP | 1 << PAGEOUT | 1 << PROTECT,
};
FIXTURE_VARIANT_ADD(churn, everything_huge) {
	.ops = 1 << TOUCH | 1 << DROP | 1 << PAGEOUT | 1 << PROTECT,
	.huge = true,
};

FIXTURE_SETUP(churn)
{
	size_t len = CHURN_PAGES * MEM_PAGE;

	self->fd = mem_open();
	ASSERT_LE(0, self->fd);
	if (variant->ops & 1 << PAGEOUT && !mem_have_swap())
		SKIP(return, "no swap");
	self->base = variant->huge ? mem_map_huge(len) : mem_map(len);
	if (!self->base && variant->huge)
		SKIP(return, "no huge pages");
	ASSERT_NE(NULL, self->base);
	memset(self->base, 0, variant->huge ? len : 0);
}

FIXTURE_TEARDOWN(churn)
{
	close(self->fd);
}

/*
 * Whatever the other threads do to the very pages: each page of the duplicate
 * is one that the source had, and the source loses nothing.
 */
TEST_F(churn, each_page_is_zero_or_its_value)
{
	static uint64_t saved[CHURN_PAGES];
	double end = seconds() + SECONDS;
	unsigned int i, calls;
	char *dup;

	stop = false;
	for (i = 0; i < CHURNERS; i++) {
		struct churner *ch = &self->ch[i];

		ch->nr = CHURN_PAGES / CHURNERS;
		ch->first = i * ch->nr;
		ch->base = self->base + ch->first * MEM_PAGE;
		ch->ops = variant->ops;
		ch->random = i + 1;
		ASSERT_EQ(0, pthread_create(&ch->thread, NULL, churn, ch));
	}
	for (calls = 0; !stop && (seconds() < end || calls < 4); calls++) {
		dup = mem_dup(self->fd, self->base, CHURN_PAGES * MEM_PAGE);
		if (!dup) {
			fail("REMAP failed");
			break;
		}
		check_churned(dup, saved, false);
		if (calls % 4 == 0)
			usleep(500);
		check_churned(dup, saved, true);
		munmap(dup, CHURN_PAGES * MEM_PAGE);
	}
	stop = true;
	for (i = 0; i < CHURNERS; i++)
		pthread_join(self->ch[i].thread, NULL);
	ASSERT_STREQ("", problem);
	TH_LOG("%u calls, %lu changes by the first", calls, self->ch[0].done);
}

/* Pinning during the call */

#define PIN_PAGES	32

struct pinner {
	pthread_t thread;
	struct uring ring;
	char *base;
	_Atomic int round;	/* main's: go */
	_Atomic int done;	/* ours: pinned */
	_Atomic int err;
};

static void *pin_each_round(void *arg)
{
	struct pinner *p = arg;
	uint64_t random = 3;
	int round = 0, err;

	on_cpu(1);
	while (!stop) {
		if (p->round == round)
			continue;
		round = p->round;
		spin(next_random(&random) % 300);
		err = uring_pin(&p->ring, p->base, PIN_PAGES * MEM_PAGE);
		if (err)
			p->err = err;
		p->done = round;
	}
	return NULL;
}

/*
 * A page is either pinned first and then copied, or shared first and then the
 * pin gets a page of its own. When both go unnoticed, the owner of the pin is
 * left with a page that the process no longer sees once it stores to it: lost
 * DMA. So a page that is pinned for writing is never one that is shared.
 */
TEST_F(race, pin_taken_during_the_call_stays_with_the_source)
{
	unsigned int round, copied = 0, mixed = 0;
	double start = seconds();
	struct pinner p = { .err = 0 };
	struct cowsnap_remap r;
	uint64_t random = 11;
	int err;

	err = uring_open(&p.ring);
	if (err)
		SKIP(return, "no io_uring: %s", strerror(-err));
	stop = false;
	on_cpu(0);
	p.base = mem_map(PIN_PAGES * MEM_PAGE);
	ASSERT_NE(NULL, p.base);
	memset(p.base, 1, PIN_PAGES * MEM_PAGE);
	ASSERT_EQ(0, pthread_create(&p.thread, NULL, pin_each_round, &p));
	/* A few hundred, if the machine is not too slow. */
	for (round = 1; !stop; round++) {
		double time = seconds() - start;

		if (time > 15 || (round > 300 && time > 2))
			break;
		p.round = round;
		spin(next_random(&random) % 300);
		err = mem_remap(self->fd, p.base, PIN_PAGES * MEM_PAGE, NULL, 0,
				&r);
		while (p.done != (int)round)
			;
		if (err || p.err)
			fail("REMAP %d, pinning %d", err, p.err);
		else if (mem_shared_pages(p.base, (void *)(uintptr_t)r.dst,
					  PIN_PAGES * MEM_PAGE))
			fail("round %u: a pinned page is shared", round);
		copied += r.copied == PIN_PAGES;
		mixed += r.copied && r.shared;
		uring_unpin(&p.ring);
		munmap((void *)(uintptr_t)r.dst, PIN_PAGES * MEM_PAGE);
	}
	stop = true;
	pthread_join(p.thread, NULL);
	uring_close(&p.ring);
	ASSERT_STREQ("", problem);
	TH_LOG("%u rounds, pinned first in %u, partly in %u", round - 1, copied,
	       mixed);
}

static void *read_by_pins(void *arg)
{
	struct helper *h = arg;
	uint64_t v, seen = 0;
	struct iovec to = { &v, sizeof(v) }, from = { NULL, sizeof(v) };
	int pipefd[2];

	if (pipe(pipefd)) {
		fail("pipe: %m");
		return NULL;
	}
	from.iov_base = (void *)counter(h->c, h->c->base, 0, 0);
	while (!stop) {
		if (h->done++ % 2) {
			if (process_vm_readv(getpid(), &to, 1, &from, 1, 0) < 0)
				fail("process_vm_readv: %m");
		} else if (vmsplice(pipefd[1], &from, 1, 0) < 0 ||
			   read(pipefd[0], &v, sizeof(v)) != sizeof(v)) {
			fail("vmsplice: %m");
		}
		if (v < seen)
			fail("read through a reference: %lu after %lu", v, seen);
		seen = v;
	}
	close(pipefd[0]);
	close(pipefd[1]);
	return NULL;
}

/* Short references to the pages by get_user_pages() in other threads. */
TEST_F(race, page_references_come_and_go)
{
	struct helper h;

	ASSERT_TRUE(start_writers(&self->writer, 1, &self->c, STORE));
	ASSERT_TRUE(start_helper(&h, read_by_pins, self->fd, &self->c));
	duplicate_for(self->fd, &self->c, SECONDS);
	stop_writers(&self->writer, 1);
	pthread_join(h.thread, NULL);
	ASSERT_STREQ("", problem);
	EXPECT_LT(0UL, h.done);
}

/* A fatal signal */

#define SPARSE_TABLES	6000

/* Duplicates memory of which each page has a page table of its own. */
static void duplicate_sparse(int fd, _Atomic int *calls, _Atomic double *took)
{
	size_t len = SPARSE_TABLES * MEM_HUGE, i;
	struct cowsnap_remap r;
	double start;
	char *p;

	p = mmap(NULL, len, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		_exit(1);
	madvise(p, len, MADV_NOHUGEPAGE);
	for (i = 0; i < len; i += MEM_HUGE)
		p[i] = 1;
	for (;;) {
		start = seconds();
		if (mem_remap(fd, p, len, NULL, 0, &r))
			_exit(2);
		*took = seconds() - start;
		munmap((void *)(uintptr_t)r.dst, len);
		(*calls)++;
	}
}

static long commit_charge(void)
{
	struct mem_counters c;

	mem_counters(&c);
	return c.committed;
}

/*
 * A process that is being killed does not first finish a long call, nor does
 * the half of it that was done stay behind.
 */
TEST_F(race, fatal_signal_ends_a_long_call)
{
	struct shared {
		_Atomic int calls;
		_Atomic double took;
	} *s;
	double killed, end;
	long committed;
	int status, i;
	pid_t pid;

	s = mmap(NULL, MEM_PAGE, PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, s);
	committed = commit_charge();
	for (i = 0; i < 3; i++) {
		s->calls = 0;
		pid = fork();
		if (!pid)
			duplicate_sparse(self->fd, &s->calls, &s->took);
		ASSERT_LT(0, pid);
		while (!s->calls && !waitpid(pid, &status, WNOHANG))
			usleep(1000);
		ASSERT_EQ(0, kill(pid, 0));
		usleep(s->took * 1e6 * (i + 1) / 5);
		killed = seconds();
		ASSERT_EQ(0, kill(pid, SIGKILL));
		ASSERT_EQ(pid, waitpid(pid, &status, 0));
		EXPECT_TRUE(WIFSIGNALED(status));
		TH_LOG("a call took %.3f s, dying %.3f s", s->took,
		       seconds() - killed);
		EXPECT_GT(5.0, seconds() - killed);
	}
	for (end = seconds() + 2; seconds() < end; usleep(10000))
		if (commit_charge() <= committed + MEM_COMMIT_SLACK)
			break;
	EXPECT_GE(committed + MEM_COMMIT_SLACK, commit_charge());
}

TEST_HARNESS_MAIN
