/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Failure on purpose. In the fault-injection build (COWSNAP_FAULTS) every use
 * of the macros below is a fault point that announces itself: the compiler
 * leaves a module parameter for it, so that the list of all points is that of
 * the files /sys/module/cowsnap/parameters/at:*, whoever wrote the code and
 * wherever it was inlined. Each file says: function, how often the point was
 * reached, how often it failed on purpose, and for what it is armed: written n,
 * it fails at the n-th time from then on that it is reached. No point is written
 * down twice, and a test can insist that each of them has failed.
 *
 * In the ordinary build nothing is left of them.
 */
#ifndef COWSNAP_FAULTS_H
#define COWSNAP_FAULTS_H

#include "workers.h"

#ifdef COWSNAP_FAULTS
#include <linux/atomic.h>
#include <linux/export.h>
#include <linux/moduleparam.h>
#include <linux/stringify.h>

struct cowsnap_fault_point {
	const char *function;
	bool once;	/* no failure for want of memory, which may last */
	atomic_t reached;
	atomic_t failed;
	atomic_t armed;
};

extern const struct kernel_param_ops cowsnap_fault_point_ops;
bool cowsnap_fault_at(const struct kernel_param *param);

/*
 * module_param_cb() would do, but marks its variables as used: an inline
 * function that nobody calls would then have a point that nobody can reach.
 */
#define cowsnap_fault_in(what, once_only) ({				\
	static struct cowsnap_fault_point __point = {			\
		.function = __func__,					\
		.once = (once_only),					\
	};								\
	static const struct kernel_param __param			\
	__section("__param") __aligned(__alignof__(struct kernel_param)) = { \
		.name = "at:" KBUILD_BASENAME ":" __FILE_NAME__ ":"	\
			__stringify(__LINE__) ":" what,			\
		.mod = THIS_MODULE,					\
		.ops = &cowsnap_fault_point_ops,			\
		.perm = 0600,						\
		.level = -1,						\
		.arg = &__point,					\
	};								\
									\
	cowsnap_fault_at(&__param);					\
})
#else
#define cowsnap_fault_in(what, once_only) false
#endif

/* Shall the step that follows fail? For what is no call through ksym(). */
#define cowsnap_fault() cowsnap_fault_in("step", false)

/* The same where failing has nothing to do with memory. */
#define cowsnap_fault_once() cowsnap_fault_in("step", true)

/*
 * Is the caller being killed? Then a long call ends, and undoes what it did. A
 * worker ends, too, when another one has failed.
 */
#define cowsnap_killed() \
	(cowsnap_fault_in("killed", true) || cowsnap_must_stop())

#endif /* COWSNAP_FAULTS_H */
