/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Fail the first step of a call that can fail, then the second, and so on until
 * the call succeeds; compare everything with the start after each.
 *
 * Two injectors. That of the module (build with COWSNAP_FAULTS) reaches each
 * step of the module itself, by the parameter fail_nth: n > 0 makes the n-th
 * step from then on fail, -n also all later ones that want memory; it reads 0
 * once it has, and more when the call ended before. That of the kernel
 * (CONFIG_FAULT_INJECTION) fails the n-th allocation anywhere below the call, in
 * the same way, by /proc/thread-self/fail-nth.
 */
#ifndef COWSNAP_SELFTESTS_FAULT_SWEEP_H
#define COWSNAP_SELFTESTS_FAULT_SWEEP_H

#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>

#include "account.h"
#include "fault_points.h"
#include "uring.h"

#define FAIL_NTH	PARAMETERS "fail_nth"
#define KERNEL_FAIL_NTH	"/proc/thread-self/fail-nth"

#define SEED	21
#define DST_SEED	22

enum content { FILLED, UNTOUCHED, SWAPPED, MERGED };

struct scene {
	char *src;
	size_t len;
	char *dst;		/* 0, a hint, or with FIXED... where */
	unsigned int flags;
	enum content content;
	char *hole;		/* of one page in the source, or NULL */
	char *swapped;		/* from here on it is swapped out, or NULL */
	struct uring ring;
	uint64_t shared, copied;	/* what success says */
	bool many;		/* too many steps to take each of them */
	bool read_in;		/* swapped pages may be read in, and stay so */
	bool loses_huge;	/* QUERY.huge_whole is 0 */
};

struct injector {
	bool (*arm)(long n);
	long (*left)(void);
	bool kernel;
};

#define MAX_STEPS	4000

static bool complain(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	fputs("# ", stderr);
	vfprintf(stderr, fmt, args);
	fputc('\n', stderr);
	va_end(args);
	return false;
}

static bool arm_module(long n)
{
	char text[24];

	snprintf(text, sizeof(text), "%ld", n);
	return !mem_write(FAIL_NTH, text);
}

static long module_left(void)
{
	return mem_read_long(FAIL_NTH);
}

static const struct injector module_injector = {
	.arm = arm_module, .left = module_left,
};

static const struct injector point_injector = {
	.arm = arm_point, .left = point_left,
};

/* Open all the while: opening allocates, which counts. */
static int kernel_fd(void)
{
	static int fd = -1;

	if (fd < 0)
		fd = open(KERNEL_FAIL_NTH, O_RDWR | O_CLOEXEC);
	return fd;
}

/* A copy from user space may be what is to fail: the write itself. */
static bool arm_kernel(long n)
{
	char text[24];
	int len = snprintf(text, sizeof(text), "%ld\n", n), tries;

	for (tries = 0; tries < 3; tries++)
		if (pwrite(kernel_fd(), text, len, 0) == len)
			return true;
	return false;
}

/* And so may be the copy of what is read. */
static long kernel_left(void)
{
	char text[24] = "";

	if (pread(kernel_fd(), text, sizeof(text) - 1, 0) <= 0)
		return 1;
	return atol(text);
}

static const struct injector kernel_injector = {
	.arm = arm_kernel, .left = kernel_left, .kernel = true,
};

/* What stands at the destination of FIXED before each call. */
static bool furnish(struct scene *s)
{
	if (!(s->flags & COWSNAP_REMAP_FIXED))
		return true;
	if (mmap(s->dst, s->len, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != s->dst)
		return false;
	madvise(s->dst, s->len, MADV_NOHUGEPAGE);
	mem_fill(s->dst, s->len / 2, DST_SEED);
	return true;
}

/* As it was, or gone. */
static bool destination_is_sound(struct scene *s)
{
	if (!s->dst)
		return true;
	if (mem_is_free(s->dst, s->len))
		return true;
	if (!(s->flags & COWSNAP_REMAP_FIXED))
		return complain("something is left at the destination");
	return mem_check(s->dst, s->len / 2, DST_SEED) &&
	       mem_is_zero(s->dst + s->len / 2, s->len / 2);
}

static bool content_is(struct scene *s, char *p)
{
	size_t before;

	switch (s->content) {
	case UNTOUCHED:
		return !mem_touched_pages(p, s->len);
	case MERGED:
		return ksm_check(p, s->len, SEED);
	default:
		if (!s->hole)
			return mem_check(p, s->len, SEED);
		before = s->hole - s->src;
		/* The pattern runs on in spite of the hole, a page long. */
		return mem_check(p, before, SEED) &&
		       mem_check(p + before + MEM_PAGE,
				 s->len - before - MEM_PAGE, SEED + 1);
	}
}

/* Reading swapped pages would bring them back: they are looked at in the end. */
static bool source_is_sound(struct scene *s)
{
	size_t present = s->swapped ? (size_t)(s->swapped - s->src) : 0;

	if (s->read_in)	/* reading would read in the rest */
		return true;
	if (s->content != SWAPPED)
		return content_is(s, s->src);
	return mem_check(s->src, present, SEED) &&
	       swapped_pages(s->src + present, s->len - present) ==
	       (s->len - present) / MEM_PAGE;
}

struct state {
	struct mem_counters counters;
	struct huge_pool pool;
	uint64_t maps;
};

static void take_state(struct state *st)
{
	mem_counters(&st->counters);
	huge_pool(&st->pool);
	st->maps = mem_maps_hash();
}

static bool state_is_still(const struct state *st)
{
	struct state now;

	take_state(&now);
	if (!mem_counters_equal(&st->counters, &now.counters))
		return false;
	if (!huge_pool_is(&st->pool))
		return false;
	return now.maps == st->maps || complain("the mappings have changed");
}

static bool state_is(const struct scene *s, const struct state *st)
{
	if (s->read_in)
		return mem_maps_hash() == st->maps ||
		       complain("the mappings have changed");
	return state_is_still(st);
}

/*
 * What a step is documented to come to when it fails. The kernel's injector
 * also fails copies from and to user space.
 */
static bool reason_is_sound(int err, const struct cowsnap_remap *r)
{
	switch (err) {
	case -ENOMEM:
		return (r->reason >= COWSNAP_REASON_NO_ROOM &&
			r->reason <= COWSNAP_REASON_NO_MEMORY) ||
		       r->reason == COWSNAP_REASON_HUGETLB_POOL;
	case -EINTR:
		return r->reason == COWSNAP_REASON_SIGNAL;
	case -EFAULT:	/* and there may have been no way to say why */
		return !r->reason || r->reason == COWSNAP_REASON_RESULT;
	case -EINVAL:	/* an address that the kernel does not give */
		return r->reason == COWSNAP_REASON_OVERFLOW;
	case -EOPNOTSUPP:
		return r->reason == COWSNAP_REASON_POISON;
	}
	return false;
}

static bool failure_is_sound(struct scene *s, struct state *st, int err,
			     const struct cowsnap_remap *r)
{
	if (!reason_is_sound(err, r))
		return complain("it failed with %s, reason %u", strerror(-err),
				r->reason);
	if (r->dst != (uintptr_t)s->dst)
		return complain("dst was changed");
	if (r->shared || r->copied)
		return complain("%llu shared, %llu copied by a failure",
				(unsigned long long)r->shared,
				(unsigned long long)r->copied);
	if (!destination_is_sound(s))
		return false;
	/* furnish() would join the pieces. */
	if (s->dst && !mem_is_free(s->dst, s->len) &&
	    mem_maps_hash() != st->maps)
		return complain("what is at the destination was cut");
	return furnish(s) && source_is_sound(s) && state_is(s, st);
}

/* A source that has lost huge pages may be a mapping of its own, see cowsnap.h. */
static void follow_mappings(struct state *st)
{
	struct state now;

	take_state(&now);
	st->maps = now.maps;
	st->counters.maps = now.counters.maps;
}

/* Look at the duplicate and drop it. Of swapped pages the content comes last. */
static bool success_is_sound(struct scene *s, struct state *st,
			     const struct cowsnap_remap *r, bool last)
{
	char *dup = (char *)(uintptr_t)r->dst;

	if (r->shared != s->shared || r->copied != s->copied)
		return complain("%llu shared, %llu copied",
				(unsigned long long)r->shared,
				(unsigned long long)r->copied);
	if (s->content != SWAPPED && !content_is(s, dup))
		return complain("the duplicate is none");
	if (s->content == SWAPPED && last && !content_is(s, dup))
		return complain("the duplicate is none");
	if (munmap(dup, s->len) || !furnish(s))
		return complain("munmap: %s", strerror(errno));
	if (s->content == SWAPPED && last)
		return content_is(s, s->src);
	if (s->loses_huge)
		follow_mappings(st);
	return state_is(s, st) && source_is_sound(s);
}

struct sweep {
	int fd;
	struct scene *scene;
	const struct injector *by;
	bool lasting;		/* what fails goes on failing */
	bool sample;		/* one of its kind: looked at also where that is slow */
	struct cgroup *cg;	/* that we are in, or NULL */
	struct state state;
	long charge;
	int steps;		/* result */
	int recovered;		/* of them, those that the call got over */
};

/* One call with the @n-th step failing. *@left: 0 when that step was reached. */
static int call(struct sweep *w, long n, struct cowsnap_remap *r, long *left)
{
	struct scene *s = w->scene;
	int err;

	if (!w->by->arm(w->lasting ? -n : n))
		return 1;
	err = mem_remap(w->fd, s->src, s->len, s->dst, s->flags, r);
	*left = w->by->left();
	while (!w->by->arm(0))
		;
	return err;
}

/* Returns 1 to go on, 0 when the call was past its last step, -1 when broken. */
static int step(struct sweep *w, long n)
{
	struct scene *s = w->scene;
	struct cowsnap_remap r;
	long left = -1;
	int err = call(w, n, &r, &left);
	bool sound;

	if (err > 0 || left < 0 || (err && left))
		return complain("step %ld: %d, the counter is at %ld", n, err,
				left) - 1;
	if (err)
		sound = failure_is_sound(s, &w->state, err, &r);
	else
		sound = success_is_sound(s, &w->state, &r, left);
	if (!sound)
		return complain("after a failure at step %ld (%s)", n,
				err ? strerror(-err) : "it succeeded") - 1;
	w->steps += !left;
	w->recovered += !left && !err;
	return !left;
}

/*
 * The same failure a few times more without looking: what it leaves behind in
 * the cgroup then adds up to more than small objects come to. Not of all scenes
 * where that takes minutes: there kmemleak looks at each object.
 */
#define AGAIN	6

static bool again(struct sweep *w, long n)
{
	struct cowsnap_remap r;
	int i, err = -1;
	long left;

	if (!w->cg || w->lasting || (mem_slowness() != 1 && !w->sample))
		return true;
	for (i = 0; i < AGAIN; i++) {
		err = call(w, n, &r, &left);
		if (!err)
			munmap((void *)(uintptr_t)r.dst, w->scene->len);
		if (!furnish(w->scene))
			return false;
	}
	return charge_returned(w->cg, w->charge);
}

/* Once unjudged: what judging touches for the first time is our own. */
static bool warm_up(struct sweep *w)
{
	struct scene *s = w->scene;
	struct cowsnap_remap r;
	long left;
	int i;

	if (w->cg && account_hold(w->cg))
		return complain("no memory.swap.max");
	for (i = 0; i < 2; i++) {
		if (!furnish(s))
			return false;
		take_state(&w->state);
		/* A failing allocation may be got over. */
		if (!call(w, 1, &r, &left))
			munmap((void *)(uintptr_t)r.dst, s->len);
		if (!destination_is_sound(s) || !furnish(s) ||
		    !source_is_sound(s))
			return complain("the first failure has done harm");
		if (w->cg)
			w->charge = settled_charge(w->cg);
	}
	if (!again(w, 1))
		return complain("after the first failures");
	state_is(s, &w->state);
	take_state(&w->state);
	return true;
}

static bool sweep_steps(struct sweep *w)
{
	int ret;
	long n;

	for (n = 1; n < MAX_STEPS; n += w->scene->many && n > 60 ? n / 7 : 1) {
		ret = step(w, n);
		if (ret <= 0)
			return !ret;
		if (!again(w, n))
			return complain("after failures at step %ld", n);
	}
	return complain("no end after %d steps", MAX_STEPS);
}

static int step_at_point(void *arg)
{
	return step(arg, 1);
}

static bool sweep(struct sweep *w)
{
	note_points();
	if (!warm_up(w) || !sweep_steps(w))
		return false;
	if (w->by != &module_injector || w->lasting)
		return true;
	w->by = &point_injector;
	return fail_missed_points(step_at_point, w) ||
	       complain("after a failure at %s", chosen_point);
}

#endif /* COWSNAP_SELFTESTS_FAULT_SWEEP_H */
