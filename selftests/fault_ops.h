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

#include "fault_pairs.h"

struct op_sweep {
	int fd;
	unsigned long cmd;
	unsigned int flags;
	bool (*make)(struct pair *p, int fd);
	const struct injector *by;
	struct cgroup *cg;	/* that we are in, or NULL */
	struct state before;
	struct charge_meter meter;
	long charge;
	bool counted;	/* that is how it shall be after each step */
	int steps, recovered;
};

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

/* A scene may swap; what is looked at may not be, see account.h. */
static long op_charge(struct op_sweep *w)
{
	long charge;

	account_hold(w->cg);
	charge = meter_read(&w->meter);
	account_release(w->cg);
	return charge;
}

/*
 * After all steps, since it takes its time: what each leaves behind adds up. What
 * is freed after a grace period is waited for.
 */
static bool is_charged_no_more(struct op_sweep *w)
{
	double end = seconds() + 5;
	long now;

	if (!w->cg)
		return true;
	while ((now = op_charge(w)) > w->charge + CHARGE_SLACK) {
		if (seconds() > end)
			return complain("the cgroup was charged %ld pages, is %ld",
					w->charge, now);
		usleep(10000);
	}
	return true;
}

static bool nothing_is_left(struct op_sweep *w)
{
	mem_drain();
	return state_is_still(&w->before);
}

static void take_op_state(struct op_sweep *w)
{
	mem_drain();
	take_state(&w->before);
	if (w->cg)
		w->charge = op_charge(w);
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
	take_op_state(w);
	w->counted = nothing_is_left(w);
	w->steps = w->recovered = 0;
	if (!w->counted || !op_sweep_steps(w))
		return 1;
	if (w->by == &module_injector) {
		w->by = &point_injector;
		if (!fail_missed_points(op_step_at_point, w))
			return complain("after a failure at %s", chosen_point) + 1;
	}
	return !is_charged_no_more(w);
}

/*
 * In a cgroup, which takes staying on one CPU. A neighbour that is to be kept
 * waiting has another one.
 */
static int op_sweep_charged(struct op_sweep *w)
{
	struct cgroup cg;
	int ret;

	if (w->make == pair_busy)
		return op_sweep_all(w);
	w->cg = account_enter(&cg) ? NULL : &cg;
	if (w->cg && (account_release(w->cg) || !meter_open(&w->meter, w->cg)))
		return complain("the charge cannot be read") + 1;
	ret = op_sweep_all(w);
	if (w->cg)
		cgroup_leave(&cg);
	return ret;
}

#endif /* COWSNAP_SELFTESTS_FAULT_OPS_H */
