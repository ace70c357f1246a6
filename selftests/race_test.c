// SPDX-License-Identifier: GPL-2.0
/*
 * REMAP while the rest of the process goes on: other threads duplicate, fork, map,
 * read, touch and pin; and a fatal signal arrives.
 */
#include <signal.h>
#include <sys/wait.h>

#include "counters.h"
#include "uring.h"
#include "harness.h"

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

/* First touches: page faults all the time, and no system call of the toucher's */

#define HALF	(32UL << 20)

struct toucher {
	pthread_t thread;
	char *base;
	_Atomic size_t done;	/* pages in each half */
};

/* A page of the lower half, then one of the upper. */
static void *touch_by_turns(void *arg)
{
	struct toucher *t = arg;
	volatile char *p = t->base;

	on_cpu(1);
	for (; t->done < HALF / MEM_PAGE && !stop; p += MEM_PAGE) {
		p[0] = 1;
		p[HALF] = 1;
		t->done++;
	}
	return NULL;
}

/* Returns whether the toucher got on meanwhile. */
static bool duplicate_touched(int fd, struct toucher *t)
{
	size_t before = t->done, lower, upper;
	char *dup = mem_dup(fd, t->base, 2 * HALF);
	bool went_on = t->done != before;

	if (!dup)
		return fail("REMAP: %m");
	lower = mem_touched_pages(dup, HALF);
	upper = mem_touched_pages(dup + HALF, HALF);
	if (lower - upper > 1)
		fail("%zu pages below, %zu above", lower, upper);
	munmap(dup, 2 * HALF);
	return went_on;
}

/*
 * A page touched for the first time during the call is in the duplicate when
 * it was touched before the instant: a fault that does not wait for the call
 * shows a later page and not the earlier one.
 */
TEST_F(race, first_touches_belong_to_the_instant)
{
	struct toucher t = { .base = NULL };
	double end = seconds() + 10;
	unsigned int calls = 0, mid = 0;

	stop = false;
	on_cpu(0);
	while (!stop && seconds() < end && mid < 8) {
		t.base = mem_map_offset(2 * HALF, MEM_HUGE, 0);
		ASSERT_NE(NULL, t.base);
		t.done = 0;
		ASSERT_EQ(0, pthread_create(&t.thread, NULL, touch_by_turns, &t));
		for (; t.done < HALF / MEM_PAGE && !stop; calls++)
			mid += duplicate_touched(self->fd, &t);
		pthread_join(t.thread, NULL);
		munmap(t.base, 2 * HALF);
	}
	ASSERT_STREQ("", problem);
	TH_LOG("%u of %u calls hit the middle", mid, calls);
	EXPECT_LT(0, mid);
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
