/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Several workers for one large range, see workers.c.
 */
#ifndef COWSNAP_WORKERS_H
#define COWSNAP_WORKERS_H

#include <linux/sched/signal.h>
#include <linux/types.h>

struct cowsnap_op;
struct mm_struct;
struct vm_area_struct;

/* What can be done in pieces, by several at a time. */
struct cowsnap_job {
	struct cowsnap_op *op;	/* counters are added up there, a refusal left */
	unsigned long start;	/* of the part of its source to be done */
	unsigned long end;	/* and of what has been done, on return */
	unsigned int max_pieces;
	bool allocates;		/* page tables, by policy and cpuset of the caller */
	bool yields;		/* ends early when others wait for the mmap lock */

	void *own;		/* what the caller works with */
	/* Each other worker has a copy of it, of that size, that begin() makes. */
	size_t size;
	void (*begin)(void *own, const void *of_caller);
	/*
	 * Do piece @nr: @op is the request with only that piece for a source,
	 * and counts for itself. -EAGAIN, for who is in a kworker: from what
	 * @op->src is now the caller himself must go on.
	 */
	int (*piece)(void *own, struct cowsnap_op *op, unsigned int nr);
	/* In the worker, after its last piece. Not for the caller. */
	void (*finish)(void *own);
};

unsigned int cowsnap_count_workers(const struct cowsnap_job *job);
bool cowsnap_parallel(struct cowsnap_job *job, int *err);
bool cowsnap_worker_must_stop(void);
bool cowsnap_worker_is_near_limit(void);
struct vm_area_struct *cowsnap_find_vma(struct mm_struct *mm, unsigned long addr);

int cowsnap_workers_init(void);
void cowsnap_workers_exit(void);

/*
 * Is this one that works for somebody else? Then what depends on the caller, as
 * a fault or a user's page by the policy of the task, is not for us to do.
 */
static inline bool cowsnap_in_worker(void)
{
	return unlikely(current->flags & PF_WQ_WORKER);
}

/* Page tables, which are charged to the caller. */
static inline bool cowsnap_must_not_allocate(void)
{
	return cowsnap_in_worker() && cowsnap_worker_is_near_limit();
}

static inline bool cowsnap_must_stop(void)
{
	return cowsnap_in_worker() ? cowsnap_worker_must_stop() :
				     fatal_signal_pending(current);
}

#endif /* COWSNAP_WORKERS_H */
