// SPDX-License-Identifier: GPL-2.0
/*
 * Failure at each step, see fault_sweep.h. After each failure everything is as
 * before the call: mappings, contents, what is charged to whom. With FIXED what
 * stood at the destination may be gone, as a whole.
 *
 * The module lists its fault points itself; the last test insists that each of
 * them has failed in one of the others.
 */
#include <sys/wait.h>

#include "fault_ops.h"
#include "harness.h"

FIXTURE(fault) {
	int fd;
};

FIXTURE_VARIANT(fault) {
	bool (*make)(struct scene *s);
	bool (*make_fd)(struct scene *s, int fd);
	bool needs;	/* something that may be missing */
	bool lasting;	/* also with memory staying short from each step on */
	bool sample;	/* of its kind */
};

FIXTURE_VARIANT_ADD(fault, plain) { .make = plain, .sample = true };
FIXTURE_VARIANT_ADD(fault, by_several) { .make = by_several };
FIXTURE_VARIANT_ADD(fault, untouched) { .make = untouched };
FIXTURE_VARIANT_ADD(fault, far_away) { .make = far_away };
FIXTURE_VARIANT_ADD(fault, beyond_47_bits) {
	.make = beyond_47_bits, .needs = true,
};
FIXTURE_VARIANT_ADD(fault, at_a_hint) { .make = at_a_hint };
FIXTURE_VARIANT_ADD(fault, several_mappings) {
	.make = several_mappings, .lasting = true,
};
FIXTURE_VARIANT_ADD(fault, with_policies) { .make = with_policies };
FIXTURE_VARIANT_ADD(fault, locked) { .make = locked };
FIXTURE_VARIANT_ADD(fault, with_a_hole) { .make = with_a_hole };
FIXTURE_VARIANT_ADD(fault, readonly) { .make = readonly };
FIXTURE_VARIANT_ADD(fault, over_memory) { .make = over_memory };
FIXTURE_VARIANT_ADD(fault, over_a_part_of_memory) {
	.make = over_a_part_of_memory,
};
FIXTURE_VARIANT_ADD(fault, huge) {
	.make = huge, .needs = true, .sample = true,
};
FIXTURE_VARIANT_ADD(fault, huge_elsewhere) {
	.make = huge_elsewhere, .needs = true, .lasting = true,
};
FIXTURE_VARIANT_ADD(fault, part_of_huge_pinned) {
	.make = part_of_huge_pinned, .needs = true, .lasting = true,
};
FIXTURE_VARIANT_ADD(fault, pinned) {
	.make = pinned, .needs = true, .sample = true,
};
FIXTURE_VARIANT_ADD(fault, huge_pinned) { .make = huge_pinned, .needs = true };
FIXTURE_VARIANT_ADD(fault, swapped) {
	.make = swapped, .needs = true, .sample = true,
};
FIXTURE_VARIANT_ADD(fault, swapped_often) {
	.make_fd = swapped_often, .needs = true, .lasting = true,
};
FIXTURE_VARIANT_ADD(fault, swapped_in_a_child) {
	.make_fd = swapped_in_a_child, .needs = true,
};
FIXTURE_VARIANT_ADD(fault, of_all_kinds) {
	.make = of_all_kinds, .needs = true, .lasting = true,
};

FIXTURE_VARIANT_ADD(fault, file) { .make = file, .sample = true };
FIXTURE_VARIANT_ADD(fault, dev_zero) { .make = dev_zero };
FIXTURE_VARIANT_ADD(fault, hugetlb_shared) {
	.make = hugetlb_shared, .needs = true, .sample = true,
};
FIXTURE_VARIANT_ADD(fault, hugetlb_pinned) {
	.make = hugetlb_pinned, .needs = true,
};
FIXTURE_VARIANT_ADD(fault, hugetlb_reserved) {
	.make_fd = hugetlb_reserved, .needs = true,
};
/* After all swapped ones: see shared_swap_is_read_in(). */
FIXTURE_VARIANT_ADD(fault, merged) { .make = merged, .needs = true };

FIXTURE_SETUP(fault)
{
	self->fd = mem_open();
	ASSERT_LE(0, self->fd);
}

FIXTURE_TEARDOWN(fault)
{
	arm_module(0);
	workers_default();
	if (variant->make == merged)
		ksm_stop();
	if (variant->make == hugetlb_shared || variant->make == hugetlb_pinned ||
	    variant->make_fd == hugetlb_reserved)
		mem_write(POOL_SIZE, "0");
	close(self->fd);
}

struct outcome {
	int steps, recovered;
	bool cgroup;
};

/* 0, 1 when something is broken, 2 when there is no memory of that kind. */
static int sweep_scene(struct sweep *w, bool (*make)(struct scene *),
		       bool (*make_fd)(struct scene *, int),
		       struct outcome *out)
{
	struct scene s = { .ring.fd = -1 };
	struct cgroup cg;
	int broken;

	w->scene = &s;
	w->cg = account_enter(&cg) ? NULL : &cg;
	out->cgroup = w->cg;
	if (!(make ? make(&s) : make_fd(&s, w->fd))) {
		broken = 2;
	} else {
		s.loses_huge = !mem_huge_whole(w->fd);
		s.read_in |= s.content == SWAPPED && shared_swap_is_read_in(w->fd);
		/* What is read in is charged. */
		if (s.read_in)
			w->cg = NULL;
		broken = !sweep(w);
		out->steps = w->steps;
		out->recovered = w->recovered;
	}
	if (s.ring.fd >= 0) {
		uring_unpin(&s.ring);
		uring_close(&s.ring);
	}
	if (out->cgroup)
		cgroup_leave(&cg);
	return broken;
}

/* In a child, so that the kernel checks the counters when it exits. */
static int run_sweep(struct sweep *w, bool (*make)(struct scene *),
		     bool (*make_fd)(struct scene *, int), struct outcome *out)
{
	struct outcome *shared = mmap(NULL, MEM_PAGE, PROT_READ | PROT_WRITE,
				      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int status = -1;
	pid_t pid;

	if (shared == MAP_FAILED)
		return -1;
	pid = fork();
	if (!pid)
		_exit(sweep_scene(w, make, make_fd, shared));
	if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return -1;
	*out = *shared;
	munmap(shared, MEM_PAGE);
	return WEXITSTATUS(status);
}

/* If this fails, a machine short of memory loses more of it, or data. */
TEST_F_TIMEOUT(fault, each_failing_step_is_undone, 300)
{
	struct sweep w = { .fd = self->fd, .by = &module_injector };
	struct outcome out;
	int ret;

	if (access(FAIL_NTH, W_OK))
		SKIP(return, "the module was built without fault injection");
	ret = run_sweep(&w, variant->make, variant->make_fd, &out);
	if (ret == 2 && variant->needs)
		SKIP(return, "no memory of that kind here");
	ASSERT_EQ(0, ret);
	TH_LOG("%d steps can fail, of which %d are got over%s", out.steps,
	       out.recovered, out.cgroup ? "" : "; no memory cgroup");
	/* The request, room or its check, the reservation, the answer. */
	EXPECT_LE(10, out.steps);
	if (!variant->lasting)
		return;
	w = (struct sweep) {
		.fd = self->fd, .by = &module_injector, .lasting = true,
	};
	EXPECT_EQ(0, run_sweep(&w, variant->make, variant->make_fd, &out));
	EXPECT_LE(10, out.steps);
}

/* Quietly, and also what may sleep. */
static void prepare_kernel(void)
{
	static const char *const attrs[] = {
		"failslab", "fail_page_alloc", "fail_usercopy", "fail_futex",
		"fail_make_request", "fail_io_timeout", "fail_function",
	};
	char path[80];
	size_t i;

	for (i = 0; i < sizeof(attrs) / sizeof(*attrs); i++) {
		snprintf(path, sizeof(path), "/sys/kernel/debug/%s/verbose",
			 attrs[i]);
		mem_write(path, "0");
		snprintf(path, sizeof(path),
			 "/sys/kernel/debug/%s/ignore-gfp-wait", attrs[i]);
		mem_write(path, "N");
	}
	mem_write("/sys/kernel/debug/fail_page_alloc/ignore-gfp-highmem", "N");
	mem_write("/sys/kernel/debug/fail_page_alloc/min-order", "0");
}

/* The same with each allocation below the call: it fails in a callee's midst. */
TEST_F_TIMEOUT(fault, each_failing_allocation_is_undone, 300)
{
	struct sweep w = {
		.fd = self->fd, .by = &kernel_injector,
		.sample = variant->sample,
	};
	struct outcome out;
	int ret;

	if (access(KERNEL_FAIL_NTH, W_OK))
		SKIP(return, "the kernel has no fault injection");
	prepare_kernel();
	ret = run_sweep(&w, variant->make, variant->make_fd, &out);
	if (ret == 2 && variant->needs)
		SKIP(return, "no memory of that kind here");
	ASSERT_EQ(0, ret);
	TH_LOG("%d allocations can fail, of which %d are got over", out.steps,
	       out.recovered);
	EXPECT_LT(0, out.steps);
}

/* The commands that work on a duplicate */

FIXTURE(fault_op) {
	int fd;
};

FIXTURE_VARIANT(fault_op) {
	unsigned long cmd;
	unsigned int flags;
	bool (*make)(struct pair *p, int fd);
};

#define FAULT_OP_IN(fixture, cmd_, name, make_, flags_)			\
FIXTURE_VARIANT_ADD(fixture, name) {					\
	.cmd = COWSNAP_ ## cmd_, .flags = (flags_), .make = (make_),	\
}
#define FAULT_OP(cmd_, name, make_, flags_)				\
	FAULT_OP_IN(fault_op, cmd_, name, make_, flags_)

FAULT_OP(UNSHARE, unshare_plain, pair_plain, 0);
FAULT_OP(UNSHARE, unshare_reuse, pair_plain, COWSNAP_UNSHARE_REUSE);
FAULT_OP(UNSHARE, unshare_to_node, pair_plain, COWSNAP_UNSHARE_NODE);
FAULT_OP(UNSHARE, unshare_swapped, pair_swapped, 0);
FAULT_OP(UNSHARE, unshare_huge, pair_huge, 0);
FAULT_OP(UNSHARE, unshare_huge_of_child, pair_of_child, 0);
FAULT_OP(UNSHARE, unshare_pinned, pair_pinned, 0);
FAULT_OP(UNSHARE, unshare_merged, pair_merged, 0);
FAULT_OP(UNSHARE, unshare_file, pair_file, 0);
FAULT_OP(UNSHARE, unshare_hugetlb, pair_hugetlb, 0);
FAULT_OP(UNSHARE, unshare_busy, pair_busy, 0);
FAULT_OP(UNSHARE, unshare_by_several, pair_by_several, 0);
/* Before SYNC, which is judged by it. */
FAULT_OP(DIFF, diff_by_several, pair_by_several, 0);
FAULT_OP(DIFF, diff_plain, pair_plain, 0);
FAULT_OP(DIFF, diff_huge, pair_huge, 0);
FAULT_OP(DIFF, diff_hugetlb, pair_hugetlb, 0);
FAULT_OP(SYNC, sync_plain, pair_plain, 0);
FAULT_OP(SYNC, sync_large, pair_large, 0);
FAULT_OP(SYNC, sync_swapped, pair_swapped, 0);
FAULT_OP(SYNC, sync_huge, pair_huge, 0);
FAULT_OP(SYNC, sync_huge_zero, pair_huge_zero, 0);
FAULT_OP(SYNC, sync_pinned, pair_pinned, 0);
FAULT_OP(SYNC, sync_merged, pair_merged, 0);
FAULT_OP(SYNC, sync_file, pair_file, 0);
FAULT_OP(SYNC, sync_by_several, pair_by_several, 0);
FAULT_OP(RELEASE, release_by_several, pair_by_several, 0);
FAULT_OP(RELEASE, release_plain, pair_plain, 0);
FAULT_OP(RELEASE, release_swapped, pair_swapped, 0);
FAULT_OP(RELEASE, release_huge, pair_huge, 0);
FAULT_OP(RELEASE, release_pinned, pair_pinned, 0);
FAULT_OP(RELEASE, release_file, pair_file, 0);
FAULT_OP(RELEASE, release_hugetlb, pair_hugetlb, 0);

FIXTURE_SETUP(fault_op)
{
	self->fd = mem_open();
	ASSERT_LE(0, self->fd);
}

FIXTURE_TEARDOWN(fault_op)
{
	arm_module(0);
	workers_default();
	if (variant->make == pair_merged)
		ksm_stop();
	if (variant->make == pair_hugetlb)
		mem_write(POOL_SIZE, "0");
	close(self->fd);
}

/* In a child, as run_sweep(). */
static int run_op_sweep(struct op_sweep *w, struct outcome *out)
{
	struct outcome *shared = mmap(NULL, MEM_PAGE, PROT_READ | PROT_WRITE,
				      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int status = -1;
	pid_t pid;

	if (shared == MAP_FAILED)
		return -1;
	pid = fork();
	if (!pid) {
		status = op_sweep_charged(w);
		shared->steps = w->steps;
		shared->recovered = w->recovered;
		shared->cgroup = w->cg;
		_exit(status);
	}
	if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return -1;
	*out = *shared;
	munmap(shared, MEM_PAGE);
	return WEXITSTATUS(status);
}

/* If this fails, a machine short of memory loses data of both sides. */
TEST_F_TIMEOUT(fault_op, each_failing_step_can_be_tried_again, 300)
{
	struct op_sweep w = {
		.fd = self->fd, .cmd = variant->cmd, .flags = variant->flags,
		.make = variant->make, .by = &module_injector,
	};
	struct outcome out;
	int ret;

	if (access(FAIL_NTH, W_OK))
		SKIP(return, "the module was built without fault injection");
	ret = run_op_sweep(&w, &out);
	if (ret == 2)
		SKIP(return, "no memory of that kind here");
	ASSERT_EQ(0, ret);
	/* The room for the answer, memory, the lock, the answer. */
	EXPECT_LE(4, out.steps);
	TH_LOG("%d steps can fail, of which %d are got over%s", out.steps,
	       out.recovered, out.cgroup ? "" : "; no memory cgroup");
}

/*
 * The same with each allocation below the call, as of REMAP: scenes of the kinds
 * with the most of them, since each takes seconds where the kernel can do that.
 */
FIXTURE(fault_below) {
	int fd;
};

FIXTURE_VARIANT(fault_below) {
	unsigned long cmd;
	unsigned int flags;
	bool (*make)(struct pair *p, int fd);
};

#define FAULT_BELOW(cmd_, name, make_)					\
	FAULT_OP_IN(fault_below, cmd_, name, make_, 0)

FAULT_BELOW(UNSHARE, unshare_plain, pair_plain);
FAULT_BELOW(UNSHARE, unshare_swapped, pair_swapped);
FAULT_BELOW(UNSHARE, unshare_file, pair_file);
FAULT_BELOW(DIFF, diff_plain, pair_plain);
FAULT_BELOW(SYNC, sync_plain, pair_plain);
FAULT_BELOW(SYNC, sync_huge, pair_huge);
FAULT_BELOW(RELEASE, release_plain, pair_plain);
FAULT_BELOW(RELEASE, release_file, pair_file);

FIXTURE_SETUP(fault_below)
{
	self->fd = mem_open();
	ASSERT_LE(0, self->fd);
}

FIXTURE_TEARDOWN(fault_below)
{
	close(self->fd);
}

TEST_F_TIMEOUT(fault_below, each_failing_allocation_can_be_tried_again, 300)
{
	struct op_sweep w = {
		.fd = self->fd, .cmd = variant->cmd, .flags = variant->flags,
		.make = variant->make, .by = &kernel_injector,
	};
	struct outcome out;
	int ret;

	if (access(KERNEL_FAIL_NTH, W_OK))
		SKIP(return, "the kernel has no fault injection");
	prepare_kernel();
	ret = run_op_sweep(&w, &out);
	if (ret == 2)
		SKIP(return, "no memory of that kind here");
	ASSERT_EQ(0, ret);
	TH_LOG("%d allocations can fail, of which %d are got over", out.steps,
	       out.recovered);
	EXPECT_LT(0, out.steps);
}

/* The fault points that the module announces */

#define MODULE_FILE	"/cowsnap.ko"

/* Loads the module so that the @n-th step of that fails: 0 or -errno. */
static int load(long n)
{
	char args[32];
	int fd = open(MODULE_FILE, O_RDONLY | O_CLOEXEC), err;

	if (fd < 0)
		return -errno;
	snprintf(args, sizeof(args), "fail_nth=%ld", n);
	err = syscall(__NR_finit_module, fd, args, 0) ? -errno : 0;
	close(fd);
	return err;
}

/*
 * Steps of loading the module: after a failure there is no module. Afterwards
 * it is loaded, and its points have been reached as often as steps have failed.
 */
static int sweep_load(void)
{
	long n, left;
	int err;

	if (syscall(__NR_delete_module, "cowsnap", O_NONBLOCK))
		return -errno;
	for (n = 1; n < MAX_STEPS; n++) {
		err = load(n);
		if (!err)
			break;
		if (!access(PARAMETERS, F_OK) || !access(MEM_DEVICE, F_OK))
			return -EEXIST;
		if (err != -ENOMEM && err != -ENOENT)
			return err;
	}
	left = module_left();
	arm_module(0);
	return left > 0 ? n - 1 : -EIO;
}

/* Points that this machine cannot reach. */
static bool is_beyond_this_cpu(const struct point *p)
{
	return strstr(p->name, "__p4d_alloc") && !have_la57();
}

/* The last fixture: this runs after the sweeps. */
FIXTURE(points) {
};

FIXTURE_SETUP(points)
{
}

FIXTURE_TEARDOWN(points)
{
}

/*
 * A point that no scene reaches is a failure whose undoing nobody has tried:
 * whoever adds one writes a scene for it.
 */
TEST_F_TIMEOUT(points, each_has_failed, 300)
{
	static struct point points[MAX_POINTS], loading[MAX_POINTS];
	int nr, i, steps, reached = 0;

	if (access(FAIL_NTH, W_OK))
		SKIP(return, "the module was built without fault injection");
	nr = read_points(points);
	ASSERT_LT(20, nr);
	ASSERT_GT(MAX_POINTS, nr);
	if (access(MODULE_FILE, R_OK))
		SKIP(return, "no " MODULE_FILE " to load");
	steps = sweep_load();
	ASSERT_LT(30, steps);
	ASSERT_EQ(nr, read_points(loading));
	for (i = 0; i < nr; i++) {
		/* The list is of one build, in one order. */
		ASSERT_STREQ(points[i].name, loading[i].name);
		reached += loading[i].reached;
		points[i].failed += loading[i].reached;
		printf("# %-60s %-22s failed %d\n", points[i].name,
		       points[i].function, points[i].failed);
	}
	fflush(stdout);
	EXPECT_EQ(steps, reached);
	for (i = 0; i < nr; i++) {
		EXPECT_TRUE(points[i].failed || is_beyond_this_cpu(&points[i]))
			TH_LOG("%s (%s): reached %d times, never failed",
			       points[i].name, points[i].function,
			       points[i].reached);
	}
	TH_LOG("%d fault points; %d steps of loading", nr, steps);
}

TEST_HARNESS_MAIN
