// SPDX-License-Identifier: GPL-2.0
/*
 * Several workers for one large range.
 *
 * The range is cut into pieces at multiples of the size of a huge page. The
 * caller takes one after the other, and so do works on a queue of our own, each
 * with a copy of the request that counts for itself. All of them are done, or
 * have been taken back from the queue, before the caller goes on: he holds the
 * mmap lock for them all, has raised write_protect_seq and started the
 * notifiers, and flushes when they have ended. What he did before is seen by who
 * finds his work on the queue. Among themselves they need nothing but the
 * page-table locks.
 *
 * Pieces are taken in order. Of failures the one at the lowest address counts,
 * as if the caller had done everything: when one has failed those before it are
 * finished and those after it end.
 *
 * A kworker is not the caller:
 *
 * - Page tables are charged to the group of the caller, see work().
 * - It has neither the memory policy nor the cpuset of the caller. Who has one,
 *   on a machine with several nodes, allocates himself.
 * - It does not fault: it gives back the rest of a piece where that is needed.
 * - Signals come to the caller: cowsnap_worker_must_stop().
 * - To lockdep it does not hold the mmap lock: nothing that asserts it.
 */
#include <linux/cpuset.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/sysfs.h>
#include <linux/workqueue.h>

#include "compat.h"
#include "cowsnap.h"
#include "pgwalk.h"
#include "workers.h"

/* More than so many wait for each other's cache lines. */
#define WORKERS_MAX	16
#define WORKERS_AUTO	4

/* Large enough to be worth the taking, small enough to end at about one time. */
#define PIECE_MAX	(32UL << 20)
#define PIECES_EACH	4

/* A worker that has given back so many pieces is of no use. */
#define RESTS_MAX	32

static unsigned int workers;
module_param(workers, uint, 0644);
MODULE_PARM_DESC(workers, "how many CPUs work on one large range; 0: as many as the caller may use, up to 4; 1: the caller alone (0)");

static unsigned int workers_min = 64;
module_param(workers_min, uint, 0644);
MODULE_PARM_DESC(workers_min, "MiB of a range that each of them must have to do; 0: one huge page (64)");

/* So that it can be seen that they do anything. */
static atomic_t pieces_done = ATOMIC_INIT(0);

static int pieces_get(char *buf, const struct kernel_param *kp)
{
	return sysfs_emit(buf, "%u\n", (unsigned int)atomic_read(&pieces_done));
}

static int pieces_set(const char *val, const struct kernel_param *kp)
{
	return -EPERM;
}

static const struct kernel_param_ops pieces_ops = {
	.get = pieces_get,
	.set = pieces_set,
};
module_param_cb(workers_pieces, &pieces_ops, NULL, 0444);
MODULE_PARM_DESC(workers_pieces, "how many pieces of ranges were not done by the caller himself");

static struct workqueue_struct *queue;

struct rest {
	unsigned int piece;
	unsigned long src;
};

struct worker {
	struct work_struct work;
	struct crew *crew;
	void *own;
	unsigned int piece;		/* at hand */
	struct cowsnap_op op;		/* for that piece; counts for all */
	unsigned int nr_rests;
	struct rest rests[RESTS_MAX];
};

struct crew {
	struct cowsnap_job *job;
	struct task_struct *caller;
	struct mem_cgroup *memcg;	/* of the caller */
	unsigned long piece_size;
	unsigned int nr_pieces;
	atomic_t next;			/* piece to be taken */

	spinlock_t lock;		/* of the rest */
	unsigned int failed;		/* that piece did, or there is none such */
	int err;
	u64 fault_addr;
	u32 reason;

	unsigned int nr_workers;
	struct worker *workers[WORKERS_MAX];	/* the first is the caller */
};

/**
 * cowsnap_find_vma - find_vma() for a worker
 * @mm: the caller holds its mmap lock
 * @addr: address
 *
 * find_vma() wants the lock to be held by the task that asks.
 */
struct vm_area_struct *cowsnap_find_vma(struct mm_struct *mm, unsigned long addr)
{
	return mt_find(&mm->mm_mt, &addr, ULONG_MAX);
}

/* Is the caller being killed, or has a piece failed before that at hand? */
bool cowsnap_worker_must_stop(void)
{
	struct worker *w = container_of(current_work(), struct worker, work);

	return fatal_signal_pending(w->crew->caller) ||
	       w->piece > READ_ONCE(w->crew->failed);
}

/* So much that all of them together hardly charge more before they look again. */
#define MEMCG_ROOM	((4UL << 20) >> PAGE_SHIFT)

/* Less than that in all: the OOM killer is near. */
#define GLOBAL_ROOM	((64UL << 20) >> PAGE_SHIFT)

/* Beyond "high" who charges is made to sleep, from which no signal wakes a kworker. */
static bool is_near(struct page_counter *counter)
{
	return page_counter_read(counter) + MEMCG_ROOM >
	       min(READ_ONCE(counter->max), READ_ONCE(counter->high));
}

/**
 * cowsnap_worker_is_near_limit - has the group of the caller, or the machine,
 *	hardly any memory left?
 *
 * A kworker that is refused memory calls the OOM killer, and waits for a task to
 * end: the caller, maybe, who waits for the kworker. Whoever allocates for
 * himself fails when he is the one to be killed. This is no reservation: others
 * may be faster. Then it takes the killer a second to look for another task.
 */
bool cowsnap_worker_is_near_limit(void)
{
	struct worker *w = container_of(current_work(), struct worker, work);
	struct mem_cgroup *memcg = w->crew->memcg;

	for (; memcg; memcg = parent_mem_cgroup(memcg))
		if (is_near(&memcg->memory) ||
		    (!cgroup_subsys_on_dfl(memory_cgrp_subsys) &&
		     is_near(&memcg->memsw)))
			return true;
	return si_mem_available() < GLOBAL_ROOM;
}

/* May what the caller allocates be put only where a kworker would not put it? */
static bool has_placement(void)
{
	return num_node_state(N_MEMORY) > 1 &&
	       (current->mempolicy || !nodes_subset(node_states[N_MEMORY],
						    cpuset_current_mems_allowed));
}

static unsigned long first_cut(const struct cowsnap_job *job)
{
	return ALIGN_DOWN(job->start, PMD_SIZE);
}

/**
 * cowsnap_count_workers - how many shall do a job, the caller included?
 * @job: with range, and what it allocates
 *
 * Starting one takes as long as sharing some thousand pages: small ranges do
 * without.
 */
unsigned int cowsnap_count_workers(const struct cowsnap_job *job)
{
	unsigned long each = (unsigned long)READ_ONCE(workers_min) << 20;
	unsigned long limit = READ_ONCE(workers), room;

	if (each)
		room = (job->end - job->start) / each;
	else
		room = DIV_ROUND_UP(job->end - first_cut(job), PMD_SIZE);
	if (room < 2)
		return 1;
	if (!limit)
		limit = min3(WORKERS_AUTO, cpumask_weight(current->cpus_ptr),
			     num_online_cpus());
	/* Nor may a kworker wait for I/O that the caller serves (PR_SET_IO_FLUSHER). */
	if (job->allocates && (has_placement() || current->flags &
			       (PF_MEMALLOC_NOIO | PF_MEMALLOC_NOFS)))
		return 1;
	return min3(limit, room, (unsigned long)WORKERS_MAX);
}

static void cut(struct crew *crew)
{
	struct cowsnap_job *job = crew->job;
	unsigned long len = job->end - first_cut(job);
	unsigned long size = len / (crew->nr_workers * PIECES_EACH);

	size = max(min(size, PIECE_MAX), PMD_SIZE);
	if (job->max_pieces)
		size = max(size, DIV_ROUND_UP(len, job->max_pieces));
	crew->piece_size = ALIGN(size, PMD_SIZE);
	crew->nr_pieces = DIV_ROUND_UP(len, crew->piece_size);
	crew->failed = crew->nr_pieces;
}

static unsigned long piece_start(const struct crew *crew, unsigned int piece)
{
	struct cowsnap_job *job = crew->job;

	return clamp(first_cut(job) + piece * crew->piece_size,
		     job->start, job->end);
}

static void set_failure(struct worker *w, int err)
{
	struct crew *crew = w->crew;

	spin_lock(&crew->lock);
	if (w->piece < crew->failed) {
		WRITE_ONCE(crew->failed, w->piece);
		crew->err = err;
		crew->fault_addr = w->op.fault_addr;
		crew->reason = w->op.reason;
	}
	spin_unlock(&crew->lock);
}

/* From @src to the end of piece @piece. */
static void do_piece(struct worker *w, unsigned int piece, unsigned long src)
{
	struct cowsnap_job *job = w->crew->job;
	int err;

	w->piece = piece;
	w->op.src = src;
	w->op.dst = job->op->dst + (src - job->op->src);
	w->op.len = piece_start(w->crew, piece + 1) - src;
	w->op.reason = COWSNAP_REASON_NONE;
	err = job->piece(w->own, &w->op, piece);
	if (err == -EAGAIN && !WARN_ON_ONCE(!cowsnap_in_worker()))
		w->rests[w->nr_rests++] = (struct rest){ piece, w->op.src };
	else if (err)
		set_failure(w, err);
}

/* The next piece, or one that need not be done. */
static unsigned int take_piece(struct crew *crew)
{
	struct cowsnap_job *job = crew->job;

	/* What has been taken is finished, and it is not nothing. */
	if (job->yields && atomic_read(&crew->next) &&
	    mmap_lock_is_contended(job->op->mm))
		return crew->nr_pieces;
	return atomic_fetch_inc(&crew->next);
}

static void do_pieces(struct worker *w)
{
	struct crew *crew = w->crew;
	unsigned int piece;

	while (w->nr_rests < RESTS_MAX) {
		piece = take_piece(crew);
		if (piece >= READ_ONCE(crew->failed))
			return;
		if (cowsnap_in_worker())
			atomic_inc(&pieces_done);
		do_piece(w, piece, piece_start(crew, piece));
	}
}

/* Without the group of the caller page tables would be charged to nobody. */
static void work(struct work_struct *work)
{
	struct worker *w = container_of(work, struct worker, work);
	struct mem_cgroup *old = set_active_memcg(w->crew->memcg);

	do_pieces(w);
	if (w->crew->job->finish)
		w->crew->job->finish(w->own);
	set_active_memcg(old);
}

/* The group that the caller's own page tables are charged to, or NULL. */
static struct mem_cgroup *get_memcg(void)
{
	struct mem_cgroup *memcg;

	if (mem_cgroup_disabled())
		return NULL;
	rcu_read_lock();
	do {
		memcg = mem_cgroup_from_task(current);
	} while (!css_tryget(&memcg->css));
	rcu_read_unlock();
	return memcg;
}

/* The node of the page table, or the huge page, at an address. */
static int node_at(struct mm_struct *mm, unsigned long addr)
{
	unsigned long next;
	pmd_t *pmdp = cowsnap_find_pmd(mm, addr, addr + PAGE_SIZE, &next);
	pmd_t pmd = pmdp ? READ_ONCE(*pmdp) : __pmd(0);

	if (pmd_none(pmd) || !pmd_present(pmd))
		return NUMA_NO_NODE;
	return page_to_nid(pmd_page(pmd));
}

static struct worker *alloc_worker(struct crew *crew, size_t size)
{
	struct cowsnap_op *op = crew->job->op;
	struct worker *w = NULL;

	/* Without it the caller works alone. */
	if (!cowsnap_fault())
		w = kvzalloc(sizeof(*w) + size,
			     GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN);
	if (!w)
		return NULL;
	w->crew = crew;
	w->op = *op;
	w->op.shared = 0;
	w->op.copied = 0;
	w->op.reused = 0;
	w->op.changed = 0;
	w->op.left = 0;
	w->own = crew->job->own;
	return w;
}

/* As many as there is memory for. */
static void hire(struct crew *crew, unsigned int nr)
{
	struct cowsnap_job *job = crew->job;
	struct worker *w;

	while (crew->nr_workers < nr) {
		w = alloc_worker(crew, crew->nr_workers ? job->size : 0);
		if (!w)
			return;
		if (crew->nr_workers && job->size) {
			w->own = w + 1;
			job->begin(w->own, job->own);
		}
		crew->workers[crew->nr_workers++] = w;
	}
}

/* They begin near to what they find after a while, if they begin at all. */
static void start(struct crew *crew)
{
	struct cowsnap_job *job = crew->job;
	unsigned long each = (job->end - job->start) / crew->nr_workers;
	unsigned int i;

	crew->memcg = get_memcg();
	for (i = 1; i < crew->nr_workers; i++) {
		struct worker *w = crew->workers[i];

		INIT_WORK(&w->work, work);
		queue_work_node(node_at(job->op->mm, job->start + i * each),
				queue, &w->work);
	}
}

/*
 * After this none of them runs any more, or will. Who has not begun until now
 * is not waited for: he may never get a kworker while memory is short.
 */
static void stop(struct crew *crew)
{
	unsigned int i;

	for (i = 1; i < crew->nr_workers; i++)
		cancel_work_sync(&crew->workers[i]->work);
	mem_cgroup_put(crew->memcg);
}

/*
 * What the workers could not do. When others wait, what is left of it is not
 * done: the job ends at the first of that, which is returned, and what was done
 * beyond is found done when it goes on there.
 */
static unsigned long do_rests(struct crew *crew)
{
	struct worker *me = crew->workers[0], *w;
	struct cowsnap_job *job = crew->job;
	unsigned long end = job->end;
	unsigned int i, k;

	for (i = 1; i < crew->nr_workers; i++) {
		w = crew->workers[i];
		for (k = 0; k < w->nr_rests; k++) {
			if (w->rests[k].piece >= crew->failed)
				continue;
			if (job->yields && mmap_lock_is_contended(job->op->mm))
				end = min(end, w->rests[k].src);
			else
				do_piece(me, w->rests[k].piece, w->rests[k].src);
		}
	}
	return end;
}

static void add_up(struct crew *crew)
{
	struct cowsnap_op *sum = crew->job->op;
	unsigned int i;

	for (i = 0; i < crew->nr_workers; i++) {
		const struct cowsnap_op *op = &crew->workers[i]->op;

		sum->shared += op->shared;
		sum->copied += op->copied;
		sum->reused += op->reused;
		sum->changed += op->changed;
		sum->left += op->left;
		kvfree(crew->workers[i]);
	}
	if (!crew->err)
		return;
	sum->fault_addr = crew->fault_addr;
	sum->reason = crew->reason;
}

/**
 * cowsnap_parallel - let several do a job, if that is worth it
 * @job: what, and where; where it ended is left in @job->end
 * @err: what came of it: 0 or what a piece returned, with reason and address in
 *	the request
 *
 * Context: the mmap lock is held, and stays so; all workers have ended on return.
 * Return: false when nothing was done, for the caller to do it alone.
 */
bool cowsnap_parallel(struct cowsnap_job *job, int *err)
{
	unsigned int nr = cowsnap_count_workers(job);
	struct crew crew = { .job = job, .caller = current };
	unsigned long end;

	if (nr < 2)
		return false;
	spin_lock_init(&crew.lock);
	hire(&crew, nr);
	if (crew.nr_workers < 2) {
		if (crew.nr_workers)
			kvfree(crew.workers[0]);
		return false;
	}
	cut(&crew);
	start(&crew);
	do_pieces(crew.workers[0]);
	stop(&crew);
	end = do_rests(&crew);
	/* There is more to do before what failed: that will fail again. */
	if (crew.err && end < piece_start(&crew, crew.failed))
		crew.err = 0;
	nr = min_t(unsigned int, crew.nr_pieces, atomic_read(&crew.next));
	job->end = min(end, piece_start(&crew, nr));
	add_up(&crew);
	*err = crew.err;
	return true;
}

int __init cowsnap_workers_init(void)
{
	/*
	 * Not for reclaim: a caller who waits for memory does not wait for them
	 * to be started.
	 */
	queue = cowsnap_fault() ? NULL : alloc_workqueue("cowsnap", WQ_UNBOUND, 0);
	return queue ? 0 : -ENOMEM;
}

void cowsnap_workers_exit(void)
{
	destroy_workqueue(queue);
}
