// SPDX-License-Identifier: GPL-2.0
/* The table of workloads, in the order in which they run and are reported. */
#include "bench.h"

const struct workload *const workloads[] = {
	&wl_create,
	&wl_ops,
	&wl_touch,
	&wl_checkpoint,
	&wl_frequent,
	&wl_rollback,
	&wl_many,
	&wl_threads,
	&wl_numa,
	&wl_refcount,
	&wl_migrate,
	&wl_pcp,
};
const unsigned int nr_workloads = ARRAY_SIZE(workloads);
