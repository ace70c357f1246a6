// SPDX-License-Identifier: GPL-2.0
/*
 * Failure at each step. The fault-injection build of the module has a parameter
 * fail_nth: writing n > 0 makes the n-th step from then on that can fail do so,
 * as if memory were short. Reading gives 0 once it has, and more when the call
 * ended before.
 *
 * After each failure everything is as before the call: mappings, contents,
 * accounting. With FIXED what stood at the destination may be gone, as a whole.
 */
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/wait.h>

#include "kernel.h"
#include "uring.h"
#include <kselftest_harness.h>

#define FAIL_NTH	"/sys/module/cowsnap/parameters/fail_nth"

#define SEED	21
#define LEN	(1UL << 20)	/* a leaked commit charge exceeds any slack */
#define DST_SEED	22

enum content { FILLED, UNTOUCHED, SWAPPED, MERGED };

struct scene {
	char *src;
	size_t len;
	char *dst;		/* 0 or, with FIXED..., where */
	unsigned int flags;
	enum content content;
	char *hole;		/* in the source, or NULL */
	struct uring ring;
	uint64_t shared, copied;	/* what success says */
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

static bool arm(int n)
{
	char text[24];

	snprintf(text, sizeof(text), "%d", n);
	return !mem_write(FAIL_NTH, text);
}

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
	if (s->content == SWAPPED)
		return swapped_pages(s->src, s->len) == s->len / MEM_PAGE;
	return content_is(s, s->src);
}

struct state {
	struct mem_counters counters;
	uint64_t maps;
};

static void take_state(struct state *st)
{
	mem_counters(&st->counters);
	st->maps = mem_maps_hash();
}

static bool state_is(struct state *st)
{
	struct state now;

	take_state(&now);
	if (!mem_counters_equal(&st->counters, &now.counters))
		return false;
	return now.maps == st->maps || complain("the mappings have changed");
}

static bool failure_is_sound(struct scene *s, struct state *st, int err,
			     const struct cowsnap_remap *r)
{
	if (err != -ENOMEM)
		return complain("it failed with %s", strerror(-err));
	if (r->reason < COWSNAP_REASON_NO_ROOM)
		return complain("the reason is %u", r->reason);
	if (r->dst != (uintptr_t)s->dst)
		return complain("dst was changed");
	if (r->shared || r->copied)
		return complain("%llu shared, %llu copied by a failure",
				(unsigned long long)r->shared,
				(unsigned long long)r->copied);
	return destination_is_sound(s) && furnish(s) && source_is_sound(s) &&
	       state_is(st);
}

static bool success_is_sound(struct scene *s, struct state *st,
			     const struct cowsnap_remap *r)
{
	char *dup = (char *)(uintptr_t)r->dst;

	if (r->shared != s->shared || r->copied != s->copied)
		return complain("%llu shared, %llu copied",
				(unsigned long long)r->shared,
				(unsigned long long)r->copied);
	if (s->content != SWAPPED && !content_is(s, dup))
		return complain("the duplicate is none");
	if (munmap(dup, s->len) || !furnish(s))
		return complain("munmap: %s", strerror(errno));
	if (!state_is(st))
		return false;
	return content_is(s, s->src);
}

/* The number of steps that can fail, or -1 when something is wrong. */
static int sweep(int fd, struct scene *s)
{
	struct cowsnap_remap r;
	struct state st;
	int n, err;
	long left;

	/* Once unjudged: what judging touches for the first time is our own. */
	if (!furnish(s) || !arm(1))
		return -1;
	take_state(&st);
	mem_remap(fd, s->src, s->len, s->dst, s->flags, &r);
	if (!destination_is_sound(s) || !furnish(s) || !source_is_sound(s))
		return -1;
	state_is(&st);
	take_state(&st);
	for (n = 1; n < MAX_STEPS; n += n < 60 ? 1 : n / 8) {
		if (!arm(n))
			return -1;
		err = mem_remap(fd, s->src, s->len, s->dst, s->flags, &r);
		left = mem_read_long(FAIL_NTH);
		arm(0);
		if (!err && left > 0)
			return success_is_sound(s, &st, &r) ? n - 1 : -1;
		if (!err || left) {
			complain("step %d: %s, the counter is at %ld", n,
				 strerror(-err), left);
			return -1;
		}
		if (!failure_is_sound(s, &st, err, &r)) {
			complain("after a failure at step %d", n);
			return -1;
		}
	}
	complain("no end after %d steps", n);
	return -1;
}

/* The scenes */

static bool plain(struct scene *s)
{
	s->src = mem_map_alone(LEN);
	s->len = LEN;
	s->shared = LEN / MEM_PAGE;
	if (s->src)
		mem_fill(s->src, LEN, SEED);
	return s->src;
}

static bool untouched(struct scene *s)
{
	s->src = mem_map_alone(LEN);
	s->len = LEN;
	s->content = UNTOUCHED;
	return s->src;
}

/* A destination so far away that it needs page tables of every level. */
static bool far_away(struct scene *s)
{
	s->dst = (char *)(23UL << 40);
	s->flags = COWSNAP_REMAP_FIXED_NOREPLACE;
	return plain(s) && mem_is_free(s->dst, LEN);
}

static bool several_mappings(struct scene *s)
{
	size_t i;

	if (!plain(s))
		return false;
	for (i = 0; i < 8; i += 2)
		madvise(s->src + i * LEN / 8, LEN / 8, MADV_DONTDUMP);
	return true;
}

static bool with_a_hole(struct scene *s)
{
	if (!plain(s))
		return false;
	s->hole = s->src + 5 * MEM_PAGE;
	mem_fill(s->hole + MEM_PAGE, LEN - 6 * MEM_PAGE, SEED + 1);
	s->flags = COWSNAP_REMAP_HOLES;
	s->shared--;
	return !munmap(s->hole, MEM_PAGE);
}

static bool readonly(struct scene *s)
{
	s->flags = COWSNAP_REMAP_READONLY;
	return plain(s);
}

/* Over a mapping of its own, and within another one. */
static bool over_memory(struct scene *s)
{
	s->flags = COWSNAP_REMAP_FIXED;
	s->dst = mem_map_alone(LEN);
	return s->dst && plain(s);
}

static bool over_a_part_of_memory(struct scene *s)
{
	s->flags = COWSNAP_REMAP_FIXED;
	s->dst = mem_map_alone(3 * LEN);
	if (!s->dst)
		return false;
	mem_fill(s->dst, 3 * LEN, 1);
	s->dst += LEN;
	return plain(s);
}

static bool two_huge(struct scene *s)
{
	s->src = mem_map_huge(2 * MEM_HUGE);
	s->len = 2 * MEM_HUGE;
	s->shared = s->len / MEM_PAGE;
	if (s->src)
		mem_fill(s->src, s->len, SEED);
	return s->src;
}

static bool huge(struct scene *s)
{
	return two_huge(s);
}

static bool huge_elsewhere(struct scene *s)
{
	s->flags = COWSNAP_REMAP_FIXED_NOREPLACE;
	if (!two_huge(s))
		return false;
	s->dst = mem_free_range(s->len, MEM_HUGE, 3 * MEM_PAGE);
	return true;
}

static bool pinned(struct scene *s)
{
	struct iovec iov[3];
	int i;

	if (!plain(s) || uring_open(&s->ring))
		return false;
	for (i = 0; i < 3; i++) {
		iov[i].iov_base = s->src + i * 100 * MEM_PAGE;
		iov[i].iov_len = 2 * MEM_PAGE;
	}
	s->copied = 6;
	s->shared -= 6;
	return !uring_pinv(&s->ring, iov, 3);
}

static bool huge_pinned(struct scene *s)
{
	if (!two_huge(s) || uring_open(&s->ring))
		return false;
	s->copied = MEM_HUGE / MEM_PAGE;
	s->shared -= s->copied;
	return !uring_pin(&s->ring, s->src + MEM_HUGE, MEM_PAGE);
}

static bool swapped(struct scene *s)
{
	s->content = SWAPPED;
	return mem_have_swap() && plain(s) &&
	       mem_pageout(s->src, LEN) == LEN / MEM_PAGE;
}

/* One duplicate more and the swap count needs another page. */
static bool swapped_often(struct scene *s, int fd)
{
	int i;

	if (!swapped(s))
		return false;
	for (i = 0; i < 61; i++)
		if (!mem_dup(fd, s->src, s->len))
			return false;
	return true;
}

static bool merged(struct scene *s)
{
	s->src = mem_map_alone(LEN / 8);
	s->len = LEN / 8;
	s->content = MERGED;
	s->copied = s->len / MEM_PAGE;
	if (!s->src)
		return false;
	ksm_fill(s->src, s->len, SEED);
	return ksm_merge(s->src, s->len);
}

FIXTURE(fault) {
	int fd;
};

FIXTURE_VARIANT(fault) {
	bool (*make)(struct scene *s);
	bool (*make_fd)(struct scene *s, int fd);
	int steps;	/* at least */
	bool needs;	/* something that may be missing */
};

/* may_expand_vm twice, commit charge, vma, policy, insert, link, page table */
FIXTURE_VARIANT_ADD(fault, plain) { .make = plain, .steps = 7 };
FIXTURE_VARIANT_ADD(fault, untouched) { .make = untouched, .steps = 6 };
FIXTURE_VARIANT_ADD(fault, far_away) { .make = far_away, .steps = 9 };
FIXTURE_VARIANT_ADD(fault, several_mappings) {
	.make = several_mappings, .steps = 8 * 4,
};
FIXTURE_VARIANT_ADD(fault, with_a_hole) { .make = with_a_hole, .steps = 10 };
FIXTURE_VARIANT_ADD(fault, readonly) { .make = readonly, .steps = 6 };
FIXTURE_VARIANT_ADD(fault, over_memory) { .make = over_memory, .steps = 5 };
FIXTURE_VARIANT_ADD(fault, over_a_part_of_memory) {
	.make = over_a_part_of_memory, .steps = 5,
};
FIXTURE_VARIANT_ADD(fault, huge) {
	.make = huge, .steps = 8, .needs = true,
};
FIXTURE_VARIANT_ADD(fault, huge_elsewhere) {
	.make = huge_elsewhere, .steps = 7, .needs = true,
};
FIXTURE_VARIANT_ADD(fault, pinned) {
	.make = pinned, .steps = 7 + 6, .needs = true,
};
FIXTURE_VARIANT_ADD(fault, huge_pinned) {
	.make = huge_pinned, .steps = 500, .needs = true,
};
FIXTURE_VARIANT_ADD(fault, swapped) {
	.make = swapped, .steps = 7, .needs = true,
};
FIXTURE_VARIANT_ADD(fault, swapped_often) {
	.make_fd = swapped_often, .steps = 8, .needs = true,
};
FIXTURE_VARIANT_ADD(fault, merged) {
	.make = merged, .steps = 7 + 32, .needs = true,
};

FIXTURE_SETUP(fault)
{
	self->fd = mem_open();
	ASSERT_LE(0, self->fd);
	if (access(FAIL_NTH, W_OK))
		SKIP(return, "the module was built without fault injection");
}

FIXTURE_TEARDOWN(fault)
{
	arm(0);
	if (variant->make == merged)
		ksm_stop();
	close(self->fd);
}

/* In a child, so that the kernel checks the counters when it exits. */
static int sweep_scene(int fd, bool (*make)(struct scene *),
		       bool (*make_fd)(struct scene *, int), int *steps)
{
	struct scene s = { .ring.fd = -1 };
	bool made = make ? make(&s) : make_fd(&s, fd);

	if (!made)
		return 2;
	*steps = sweep(fd, &s);
	if (s.ring.fd >= 0) {
		uring_unpin(&s.ring);
		uring_close(&s.ring);
	}
	return *steps < 0;
}

/* If this fails, a machine short of memory loses more of it, or data. */
TEST_F_TIMEOUT(fault, each_failing_step_is_undone, 90)
{
	int *steps = mmap(NULL, MEM_PAGE, PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int status;
	pid_t pid;

	ASSERT_NE(MAP_FAILED, steps);
	pid = fork();
	if (!pid)
		_exit(sweep_scene(self->fd, variant->make, variant->make_fd,
				  steps));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_TRUE(WIFEXITED(status));
	if (WEXITSTATUS(status) == 2 && variant->needs)
		SKIP(return, "no memory of that kind here");
	EXPECT_EQ(0, WEXITSTATUS(status));
	TH_LOG("%d steps can fail", *steps);
	EXPECT_LE(variant->steps, *steps);
}

FIXTURE(faults) {
	int fd;
	struct cgroup cg;
	struct scene s;
};

FIXTURE_VARIANT(faults) {
	bool (*make)(struct scene *s);
	int steps;
};

FIXTURE_VARIANT_ADD(faults, several_mappings) {
	.make = several_mappings, .steps = 8 * 4,
};
FIXTURE_VARIANT_ADD(faults, pinned) { .make = pinned, .steps = 7 + 6 };

FIXTURE_SETUP(faults)
{
	int err;

	self->s.ring.fd = -1;
	self->cg.dir[0] = 0;
	self->fd = mem_open();
	ASSERT_LE(0, self->fd);
	if (access(FAIL_NTH, W_OK))
		SKIP(return, "the module was built without fault injection");
	err = cgroup_enter(&self->cg);
	if (err)
		SKIP(return, "no memory cgroup: %s", strerror(-err));
	if (!variant->make(&self->s))
		SKIP(return, "no memory of that kind here");
}

FIXTURE_TEARDOWN(faults)
{
	arm(0);
	if (self->s.ring.fd >= 0) {
		uring_unpin(&self->s.ring);
		uring_close(&self->s.ring);
	}
	cgroup_leave(&self->cg);
	close(self->fd);
}

/*
 * Failures that leave a little behind each, in the memory cgroup or the commit
 * charge: a thousand of them.
 */
TEST_F_TIMEOUT(faults, add_up_to_nothing, 90)
{
	struct mem_counters before, after;
	struct scene *s = &self->s;
	struct cowsnap_remap r;
	long usage[2];
	int i;

	for (i = 0; i < 1000; i++) {
		ASSERT_TRUE(arm(1 + i % variant->steps));
		ASSERT_EQ(-ENOMEM, mem_remap(self->fd, s->src, s->len, s->dst,
					     s->flags, &r));
		if (i == 100) {
			mem_drain();
			usage[0] = cgroup_read(&self->cg, "memory.current");
			mem_counters(&before);
		}
	}
	arm(0);
	mem_drain();
	usage[1] = cgroup_read(&self->cg, "memory.current");
	mem_counters(&after);
	EXPECT_TRUE(mem_counters_equal(&before, &after));
	/* Each CPU keeps a stock of 64 pages. */
	EXPECT_GE(usage[0] + 64L * 4096 * sysconf(_SC_NPROCESSORS_ONLN),
		  usage[1]);
	EXPECT_TRUE(mem_check(s->src, s->len, SEED));
}

TEST_HARNESS_MAIN
