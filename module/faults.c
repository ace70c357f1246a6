// SPDX-License-Identifier: GPL-2.0
/*
 * The fault points of the fault-injection build, see faults.h. Not part of the
 * ordinary one.
 */
#include <linux/sysfs.h>

#include "faults.h"

static atomic_t fail_nth = ATOMIC_INIT(0);
static bool fail_on;	/* and then all that follow, for want of memory */
static bool failing;

static int fail_nth_set(const char *val, const struct kernel_param *kp)
{
	int n, err = kstrtoint(val, 0, &n);

	if (err)
		return err;
	atomic_set(&fail_nth, 0);
	WRITE_ONCE(failing, false);
	WRITE_ONCE(fail_on, n < 0);
	atomic_set(&fail_nth, n < 0 ? -n : n);
	return 0;
}

static int fail_nth_get(char *buf, const struct kernel_param *kp)
{
	return sysfs_emit(buf, "%d\n", atomic_read(&fail_nth));
}

static const struct kernel_param_ops fail_nth_ops = {
	.set = fail_nth_set,
	.get = fail_nth_get,
};
module_param_cb(fail_nth, &fail_nth_ops, NULL, 0600);
MODULE_PARM_DESC(fail_nth, "n: the n-th fallible step from now fails; -n: and from then on all that need memory (test build)");

static int point_get(char *buf, const struct kernel_param *kp)
{
	struct cowsnap_fault_point *point = kp->arg;

	return sysfs_emit(buf, "%s %d %d %d\n", point->function,
			  atomic_read(&point->reached),
			  atomic_read(&point->failed),
			  atomic_read(&point->armed));
}

static int point_set(const char *val, const struct kernel_param *kp)
{
	struct cowsnap_fault_point *point = kp->arg;
	int n, err = kstrtoint(val, 0, &n);

	if (err || n < 0)
		return err ?: -EINVAL;
	atomic_set(&point->armed, n);
	return 0;
}

const struct kernel_param_ops cowsnap_fault_point_ops = {
	.set = point_set,
	.get = point_get,
};

/* Several workers may ask: one of them is the n-th. */
static bool is_nth(atomic_t *left)
{
	return atomic_fetch_add_unless(left, -1, 0) == 1;
}

/* True when the step that asks is one that shall fail. */
bool cowsnap_fault_at(const struct kernel_param *param)
{
	struct cowsnap_fault_point *point = param->arg;
	bool fails = is_nth(&point->armed);

	atomic_inc(&point->reached);
	if (is_nth(&fail_nth)) {
		WRITE_ONCE(failing, READ_ONCE(fail_on));
		fails = true;
	} else if (READ_ONCE(failing) && !point->once) {
		fails = true;
	}
	if (fails)
		atomic_inc(&point->failed);
	return fails;
}
