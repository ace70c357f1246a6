/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Failing each step of UNSHARE, SYNC, DIFF and RELEASE, as fault_sweep.h does
 * with those of REMAP. These change memory that stays: each step gets memory of
 * its own, of which it is known page by page what both sides hold. After a
 * failure nobody's content is another than it may be, and the same call goes on
 * from there; what then is unmapped was all there was.
 */
#ifndef COWSNAP_SELFTESTS_FAULT_OPS_H
#define COWSNAP_SELFTESTS_FAULT_OPS_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>

#include "fault_scenes.h"
#include "ops.h"

#define MAX_PAGES	(3 * MEM_HUGE / MEM_PAGE)

/* Two ranges, and the seed of each page's pattern; 0: zeroes. */
struct pair {
	char *a, *b;
	size_t nr;
	unsigned char in_a[MAX_PAGES], in_b[MAX_PAGES];
	struct uring ring;
	bool differs;	/* by nature, also after a SYNC: pinned and KSM pages */
	bool busy;	/* somebody wants the mmap lock all the time */
	size_t guard;	/* bytes of inaccessible memory at both ends of @a */
	pid_t child;	/* that has all of it, too, or 0 */
};

struct op_sweep {
	int fd;
	unsigned long cmd;
	unsigned int flags;
	bool (*make)(struct pair *p, int fd);
	const struct injector *by;
	struct mem_counters before;
	bool counted;	/* that is how it shall be after each step */
	int steps, recovered;
};

static void set_a(struct pair *p, size_t i, unsigned char seed)
{
	if (seed)
		mem_fill(p->a + PAGES(i), MEM_PAGE, seed);
	else
		madvise(p->a + PAGES(i), MEM_PAGE, MADV_DONTNEED);
	p->in_a[i] = seed;
}

static void set_b(struct pair *p, size_t i, unsigned char seed)
{
	if (seed)
		mem_fill(p->b + PAGES(i), MEM_PAGE, seed);
	else
		madvise(p->b + PAGES(i), MEM_PAGE, MADV_DONTNEED);
	p->in_b[i] = seed;
}

static bool page_is(const char *page, unsigned char seed)
{
	return seed ? *(const volatile uint64_t *)page && mem_check(page, MEM_PAGE, seed) :
		      mem_is_zero(page, MEM_PAGE);
}

/* All of @a written, and a duplicate of it. */
static bool duplicated(struct pair *p, int fd, char *a, size_t nr)
{
	size_t i;

	p->a = a;
	p->nr = nr;
	if (!a)
		return false;
	for (i = 0; i < nr; i++)
		set_a(p, i, 1 + i % 50);
	p->b = mem_dup(fd, a, PAGES(nr));
	memcpy(p->in_b, p->in_a, nr);
	return p->b;
}

/* Differences of each kind in the pages from @i on. */
static void differ(struct pair *p, size_t i)
{
	set_a(p, i, 101);
	set_b(p, i + 1, 102);
	set_a(p, i + 2, 103);
	set_b(p, i + 2, 104);
	set_a(p, i + 4, 0);
	set_b(p, i + 5, 0);
	set_a(p, i + 6, 0);
	set_b(p, i + 7, 0);
	/* The zero page. */
	page_is(p->a + PAGES(i + 6), 0);
	page_is(p->b + PAGES(i + 7), 0);
}

static bool pair_plain(struct pair *p, int fd)
{
	p->guard = MEM_PAGE;
	if (!duplicated(p, fd, mem_map_alone(PAGES(24)), 24))
		return false;
	differ(p, 8);
	return true;
}

static bool pair_swapped(struct pair *p, int fd)
{
	char *a = mem_map_alone(PAGES(16));
	size_t i;

	p->guard = MEM_PAGE;
	if (!a || !mem_have_swap())
		return false;
	for (i = 0; i < 16; i++)
		mem_fill(a + PAGES(i), MEM_PAGE, p->in_a[i] = p->in_b[i] = 1 + i);
	p->a = a;
	p->nr = 16;
	if (mem_pageout(a, PAGES(16)) != 16)
		return false;
	p->b = mem_dup(fd, a, PAGES(16));
	if (!p->b)
		return false;
	set_b(p, 3, 101);
	set_b(p, 4, 0);
	set_a(p, 6, 102);
	return true;
}

/* One side huge, the other torn; a huge page that comes whole. */
static bool pair_huge(struct pair *p, int fd)
{
	size_t i;

	if (!duplicated(p, fd, mem_map_huge(3 * MEM_HUGE), 3 * MEM_HUGE / MEM_PAGE))
		return false;
	set_b(p, 9, 101);
	set_a(p, 512 + 9, 102);
	madvise(p->b + 2 * MEM_HUGE, MEM_HUGE, MADV_DONTNEED);
	for (i = 1024; i < 1536; i++)
		p->in_b[i] = 0;
	return true;
}

/* Huge pages that a child has, on all kernels. @b has the same contents. */
static bool pair_of_child(struct pair *p, int fd)
{
	size_t i;

	p->nr = MEM_HUGE / MEM_PAGE;
	p->a = mem_map_huge(MEM_HUGE);
	p->b = mem_map_offset(MEM_HUGE, MEM_HUGE, 0);
	if (fd < 0 || !p->a || !p->b)
		return false;
	for (i = 0; i < p->nr; i++) {
		set_a(p, i, 1 + i % 50);
		set_b(p, i, 1 + i % 50);
	}
	p->child = fork();
	if (p->child)
		return p->child > 0;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	pause();
	_exit(0);
}

/* The huge zero page, which one side has torn: it is huge on all kernels. */
static bool pair_huge_zero(struct pair *p, int fd)
{
	p->a = mem_map_offset(MEM_HUGE, MEM_HUGE, 0);
	p->nr = MEM_HUGE / MEM_PAGE;
	if (!p->a || madvise(p->a, MEM_HUGE, MADV_HUGEPAGE) ||
	    !mem_is_zero(p->a, MEM_PAGE))
		return false;
	p->b = mem_dup(fd, p->a, MEM_HUGE);
	if (!p->b)
		return false;
	set_a(p, 3, 101);
	return true;
}

/* Of what @b has some 500 pages are replaced at once. */
static bool pair_large(struct pair *p, int fd)
{
	size_t i;

	p->guard = MEM_PAGE;
	if (!duplicated(p, fd, mem_map_alone(PAGES(700)), 700))
		return false;
	for (i = 0; i < 700; i++)
		set_b(p, i, 60 + i % 50);
	return true;
}

static bool pair_pinned(struct pair *p, int fd)
{
	char *a = mem_map_alone(PAGES(16));

	if (!a || uring_open(&p->ring) || uring_pin(&p->ring, a + PAGES(4), PAGES(3)))
		return false;
	p->guard = MEM_PAGE;
	p->differs = true;
	if (!duplicated(p, fd, a, 16))
		return false;
	set_b(p, 5, 101);
	set_a(p, 6, 102);
	return true;
}

static bool pair_merged(struct pair *p, int fd)
{
	char *a = mem_map_alone(PAGES(4));
	size_t i;

	if (!a)
		return false;
	p->a = a;
	p->nr = 4;
	p->guard = MEM_PAGE;
	p->differs = true;
	for (i = 0; i < 4; i++)
		mem_fill(a + PAGES(i), MEM_PAGE, p->in_a[i] = p->in_b[i] = 1 + i % 2);
	if (!ksm_merge(a, PAGES(4)))
		return false;
	p->b = mem_dup(fd, a, PAGES(4));
	if (!p->b)
		return false;
	set_b(p, 1, 101);
	return true;
}

static bool pair_file(struct pair *p, int fd)
{
	struct scene s = { 0 };
	size_t i;

	if (!file(&s))
		return false;
	p->guard = MEM_PAGE;
	if (!duplicated(p, fd, s.src, LEN / MEM_PAGE))
		return false;
	for (i = 0; i < 8; i++) {
		set_a(p, i, i % 2 ? 101 : 0);
		set_b(p, i + 4, i % 2 ? 102 : 0);
	}
	return true;
}

static bool pair_hugetlb(struct pair *p, int fd)
{
	struct scene s = { 0 };

	if (!hugetlb_shared(&s))
		return false;
	p->a = s.src;
	p->nr = s.len / MEM_PAGE;
	if (!duplicated(p, fd, s.src, p->nr))
		return false;
	set_b(p, 5, 101);
	return true;
}

/* A few pages below each of several page tables. */
static bool pair_sparse(struct pair *p, int fd)
{
	size_t i;

	p->a = mem_map_offset(3 * MEM_HUGE, MEM_HUGE, 0);
	p->nr = 3 * MEM_HUGE / MEM_PAGE;
	if (!p->a)
		return false;
	for (i = 0; i < p->nr; i += 100)
		set_a(p, i, 1 + i % 50);
	p->b = mem_dup(fd, p->a, PAGES(p->nr));
	memcpy(p->in_b, p->in_a, p->nr);
	return p->b;
}

/* And an impatient neighbour. */
static bool pair_busy(struct pair *p, int fd)
{
	p->busy = true;
	return pair_sparse(p, fd);
}

/* Differences in each of the pieces. */
static bool pair_by_several(struct pair *p, int fd)
{
	size_t i;

	workers_force(3);
	if (!pair_sparse(p, fd))
		return false;
	for (i = 0; i < 3; i++)
		differ(p, i * MEM_HUGE / MEM_PAGE + 110);
	return true;
}

static _Atomic bool rest, wants;

static void *want_mmap_lock(void *unused)
{
	do {
		munmap(mmap(NULL, MEM_PAGE, PROT_NONE, MAP_PRIVATE |
			    MAP_ANONYMOUS, -1, 0), MEM_PAGE);
		wants = true;
	} while (!rest);
	return unused;
}

static struct cowsnap_range op_vec[256];

/* 0 or -errno, and the reason. */
static int op_request(struct op_sweep *w, struct pair *p, unsigned int *reason)
{
	struct cowsnap_unshare u;
	struct cowsnap_sync s;
	struct cowsnap_diff d;
	struct cowsnap_release r;
	size_t len = PAGES(p->nr);
	int err;

	switch (w->cmd) {
	case COWSNAP_UNSHARE:
		err = op_unshare(w->fd, p->a, len, w->flags, &u);
		*reason = u.reason;
		return err;
	case COWSNAP_SYNC:
		err = op_sync(w->fd, p->a, p->b, len, &s);
		*reason = s.reason;
		return err;
	case COWSNAP_DIFF:
		err = op_diff(w->fd, p->a, p->b, len, op_vec, 256, &d);
		*reason = d.reason;
		return err;
	default:
		err = op_release(w->fd, p->a, p->b, len, &r);
		*reason = r.reason;
		return err;
	}
}

static int op_step(struct op_sweep *w, struct pair *p, long n, long *left,
		   unsigned int *reason)
{
	pthread_t thread;
	int err;

	rest = false;
	wants = false;
	if (p->busy && pthread_create(&thread, NULL, want_mmap_lock, NULL))
		return 1;
	while (p->busy && !wants)
		;
	if (!w->by->arm(n))
		return 1;
	err = op_request(w, p, reason);
	*left = w->by->left();
	while (!w->by->arm(0))
		;
	rest = true;
	if (p->busy)
		pthread_join(thread, NULL);
	return err;
}

static bool a_is_sound(const struct pair *p)
{
	size_t i;

	for (i = 0; i < p->nr; i++)
		if (!page_is(p->a + PAGES(i), p->in_a[i]))
			return complain("page %zu of the source has changed", i);
	return true;
}

/* What @b holds: its own; or that of @a where it was taken over. */
static bool b_is_sound(const struct pair *p, bool its_own, bool taken_over)
{
	size_t i;

	for (i = 0; i < p->nr; i++) {
		uint64_t first = *(volatile uint64_t *)(p->b + PAGES(i));
		uint64_t of_a = 0;
		unsigned char seed = p->in_b[i];

		if (p->in_a[i])
			of_a = *(volatile uint64_t *)(p->a + PAGES(i));
		if (taken_over && (!its_own || first == of_a))
			seed = p->in_a[i];
		if (!page_is(p->b + PAGES(i), seed))
			return complain("page %zu of the duplicate is odd", i);
	}
	return true;
}

static bool op_failed_well(struct op_sweep *w, struct pair *p, int err,
			   unsigned int reason)
{
	struct cowsnap_remap r = { .reason = reason };

	if (err == -EFAULT && w->cmd == COWSNAP_DIFF)
		r.reason = 0;
	if (!reason_is_sound(err, &r))
		return complain("it failed with %s, reason %u", strerror(-err),
				reason);
	/* The answer was lost, the work was done. */
	if (err == -EFAULT && w->cmd == COWSNAP_RELEASE &&
	    mem_is_free(p->b, PAGES(p->nr))) {
		p->b = NULL;
		return a_is_sound(p);
	}
	return a_is_sound(p) && b_is_sound(p, true, w->cmd == COWSNAP_SYNC);
}

/* They may share those: the zero page, the file's. */
static size_t both_zero(const struct pair *p)
{
	size_t i, count = 0;

	for (i = 0; i < p->nr; i++)
		count += !p->in_a[i] && !p->in_b[i];
	return count;
}

static bool op_succeeded(struct op_sweep *w, struct pair *p)
{
	size_t len = PAGES(p->nr);
	struct cowsnap_diff d;

	if (!a_is_sound(p))
		return false;
	switch (w->cmd) {
	case COWSNAP_UNSHARE:
		if (!b_is_sound(p, true, false))
			return false;
		return w->flags & COWSNAP_UNSHARE_REUSE ||
		       mem_shared_pages(p->a, p->b, len) <= both_zero(p) ||
		       complain("pages are still shared");
	case COWSNAP_SYNC:
		if (!b_is_sound(p, false, true))
			return false;
		return p->differs ||
		       (!op_diff(w->fd, p->a, p->b, len, op_vec, 256, &d) &&
			!d.nr) || complain("they differ afterwards");
	case COWSNAP_DIFF:
		return b_is_sound(p, true, false);
	default:
		if (!mem_is_free(p->b, len))
			return complain("the duplicate is still there");
		p->b = NULL;
		return true;
	}
}

static void op_forget(struct pair *p)
{
	size_t len = PAGES(p->nr);

	if (p->ring.fd >= 0) {
		uring_unpin(&p->ring);
		uring_close(&p->ring);
	}
	if (p->child) {
		kill(p->child, SIGKILL);
		waitpid(p->child, NULL, 0);
	}
	if (p->b)
		munmap(p->b, len);
	if (p->a)
		munmap(p->a - p->guard, len + 2 * p->guard);
}

static bool op_make(struct op_sweep *w, struct pair *p)
{
	memset(p, 0, sizeof(*p));
	p->ring.fd = -1;
	return w->make(p, w->fd);
}

static bool nothing_is_left(struct op_sweep *w)
{
	struct mem_counters now;

	mem_drain();
	mem_counters(&now);
	return mem_counters_equal(&w->before, &now);
}

/* Returns 1 to go on, 0 past the last step, -1 when broken. */
static int op_sweep_step(struct op_sweep *w, struct pair *p, long n)
{
	unsigned int reason = 0;
	long left = -1;
	int err;

	if (!op_make(w, p))
		return complain("step %ld: no such memory any more", n) - 1;
	err = op_step(w, p, n, &left, &reason);
	if (err > 0 || left < 0 || (err && left))
		return complain("step %ld: %d, the counter is at %ld", n, err,
				left) - 1;
	if (err && !op_failed_well(w, p, err, reason))
		return complain("after a failure at step %ld", n) - 1;
	if (err && p->b) {
		err = op_request(w, p, &reason);
		if (err)
			return complain("again after step %ld: %s, reason %u",
					n, strerror(-err), reason) - 1;
		err = -1;
	}
	if (!(err && !p->b) && !op_succeeded(w, p))
		return complain("with a failure at step %ld", n) - 1;
	op_forget(p);
	if (w->counted && !nothing_is_left(w))
		return complain("after step %ld", n) - 1;
	w->steps += !left;
	w->recovered += !left && !err;
	return !left;
}

#define OP_STEPS	8000

/* One for all: it is touched before anything is counted. */
static struct pair op_pair;

static bool op_sweep_steps(struct op_sweep *w)
{
	int ret = 1;
	long n;

	for (n = 1; n < OP_STEPS && ret > 0; n += n > 40 ? n / 6 : 1)
		ret = op_sweep_step(w, &op_pair, n);
	if (ret > 0)
		complain("no end");
	return !ret;
}

static int op_step_at_point(void *arg)
{
	return op_sweep_step(arg, &op_pair, 1);
}

/* 0, 1 when something is broken, 2 when there is no memory of that kind. */
static int op_sweep_all(struct op_sweep *w)
{
	struct pair *p = &op_pair;
	unsigned int reason = 0;
	pthread_t thread;
	int i;

	note_points();
	for (i = 0; i < 2; i++) {
		if (!op_make(w, p))
			return 2;
		/* Without a failure; and for the stack that all of it takes. */
		if (op_request(w, p, &reason) || !op_succeeded(w, p))
			return complain("without a failure: reason %u", reason) + 1;
		/* That of the thread stays, for the next one. */
		rest = true;
		if (p->busy && !pthread_create(&thread, NULL, want_mmap_lock, NULL))
			pthread_join(thread, NULL);
		op_forget(p);
	}
	/* What judging touches for the first time is our own. */
	if (op_sweep_step(w, p, 1) < 0)
		return 1;
	mem_drain();
	mem_counters(&w->before);
	w->counted = nothing_is_left(w);
	w->steps = w->recovered = 0;
	if (!w->counted || !op_sweep_steps(w))
		return 1;
	w->by = &point_injector;
	if (!fail_missed_points(op_step_at_point, w))
		return complain("after a failure at %s", chosen_point) + 1;
	return 0;
}

#endif /* COWSNAP_SELFTESTS_FAULT_OPS_H */
