// SPDX-License-Identifier: GPL-2.0
/*
 * COWSNAP_UNSHARE: what a write fault does to a shared page, for a whole range
 * and before anybody faults.
 *
 * Under the mmap lock for reading, beside the faults of other threads: all that
 * is decided about an entry is decided, or checked again, under its page-table
 * lock.
 *
 * A page mapped nowhere else is taken back in place (reuse.c). Others are copied
 * in batches, without a lock. That is sound as in wp_page_copy(): our reference
 * keeps everybody from taking the page for his own, so that nobody can write to
 * it as long as the entry is the same. Then, under the lock: take the old
 * entries out, flush the TLBs once, put the new ones in.
 */
#include <linux/cpuset.h>
#include <linux/slab.h>

#include "cowsnap.h"
#include "hot.h"
#include "hugetlb.h"
#include "pgwalk.h"
#include "reuse.h"
#include "unshare.h"
#include "workers.h"

/* Unshared already, but not writable yet: after mprotect(2), for instance. */
static void make_writable(struct unshare *u, unsigned long addr, pte_t *ptep,
			  pte_t pte)
{
	if (pte_protnone(pte) || !cowsnap_may_write(u->vma, pte))
		return;
	/* More rights: who has the old entry in his TLB faults and finds this. */
	set_pte_at(u->op->mm, addr, ptep, cowsnap_writable(pte));
	u->op->reused++;
}

static bool look_at_absent(struct unshare *u, pte_t pte)
{
	softleaf_t entry = softleaf_from_pte(pte);

	if (softleaf_is_migration(entry))
		u->obstacle = OBSTACLE_MIGRATION;
	else if (softleaf_is_swap(entry) && !cowsnap_only_reuse(u) &&
		 !pte_swp_exclusive(pte))
		u->obstacle = OBSTACLE_SWAPPED;
	return u->obstacle == OBSTACLE_NONE;
}

/* Page-table lock held. Returns false when it must be dropped first. */
static bool look_at(struct unshare *u, unsigned long addr, pte_t *ptep)
{
	pte_t pte = ptep_get(ptep);
	struct folio *folio;
	struct page *page;

	if (pte_none(pte))
		return true;
	if (!pte_present(pte))
		return look_at_absent(u, pte);
	/* Whom a userfaultfd traps is up to its owner. */
	if (pte_write(pte) || pte_special(pte) || pte_uffd(pte))
		return true;
	page = pte_page(pte);
	folio = page_folio(page);
	if (!folio_test_anon(folio))
		return true;
	if (!PageAnonExclusive(page) && cowsnap_in_lru_batch(folio) &&
	    !u->drained) {
		u->obstacle = OBSTACLE_LRU_BATCH;
		return false;
	}
	if (PageAnonExclusive(page) || cowsnap_take_folio(folio, u->vma)) {
		make_writable(u, addr, ptep, pte);
		return true;
	}
	if (cowsnap_only_reuse(u))
		return true;
	folio_get(folio);
	u->pages[u->nr++] = (struct shared_page){
		.addr = addr, .pte = pte, .page = page,
	};
	return true;
}

/*
 * Take back what is plain and ours alone; returns where the first other one is.
 * Inlined, its loop would lack registers.
 */
static noinline unsigned int take_back(struct unshare *u, struct hot_entries at,
				       unsigned int nr)
{
	struct vm_area_struct *vma = u->vma;
	struct hot_taker taker = {
		.anon_vma = cowsnap_mapping_of(vma),
		.tracked = IS_ENABLED(CONFIG_MEM_SOFT_DIRTY) &&
			   !(vma->vm_flags & VM_SOFTDIRTY),
	};
	unsigned int done;

	if (!entries_are_plain() || !(vma->vm_flags & VM_WRITE))
		return 0;
	done = hot_take_back(at, nr, &taker);
	u->op->reused += taker.taken;
	return done;
}

/*
 * Take back what can be, collect what must be copied. Returns where it stopped:
 * at @end, with a full batch, or at an obstacle.
 */
static unsigned long collect(struct unshare *u, pmd_t *pmd, unsigned long addr,
			     unsigned long end)
{
	struct hot_entries at = { u->op->mm, addr };
	unsigned int i, nr = (end - addr) / PAGE_SIZE;
	spinlock_t *ptl;

	at.ptep = cowsnap_pte_lock(u->op->mm, pmd, addr, &ptl);
	if (!at.ptep)	/* gone, and with it what was to be done */
		return end;
	hot_prefetch_first(at.ptep, nr);
	for (i = 0; u->nr < BATCH; i++) {
		/* Of two pages in a row to be copied the third is likely one. */
		if (!u->nr || u->pages[u->nr - 1].addr != addr + (i - 1) * PAGE_SIZE)
			i += take_back(u, hot_from(at, i), nr - i);
		if (i == nr || !look_at(u, addr + i * PAGE_SIZE, at.ptep + i))
			break;
	}
	spin_unlock(ptl);
	return addr + i * PAGE_SIZE;
}

/* The caller tries harder, and may be chosen by the OOM killer then. */
static gfp_t how_hard(void)
{
	return cowsnap_in_worker() ? __GFP_NORETRY | __GFP_NOWARN : 0;
}

/* Do all copies come from where the caller runs, no policy saying else? */
static bool is_from_home(struct unshare *u)
{
	return vma_is_anonymous(u->vma) && !u->vma->vm_policy &&
	       (cowsnap_in_worker() || !current->mempolicy);
}

/*
 * Pages for the copies of a batch, all at once, unless each has to ask a policy.
 * Fewer than were wanted: the others are allocated one by one.
 */
static void fetch_spare(struct unshare *u)
{
	gfp_t gfp = GFP_HIGHUSER_MOVABLE | how_hard();

	if (u->op->flags & COWSNAP_UNSHARE_NODE)
		u->nr_spare = cowsnap_alloc_bulk(gfp | __GFP_THISNODE | __GFP_NOWARN,
						 u->op->node, u->nr, u->spare);
	else if (is_from_home(u))
		u->nr_spare = cowsnap_alloc_bulk(gfp, cowsnap_in_worker() ?
						 u->home : numa_mem_id(),
						 u->nr, u->spare);
}

static struct folio *take_spare(struct unshare *u)
{
	struct page *page = u->spare[--u->nr_spare];

	u->spare[u->nr_spare] = NULL;
	return page_folio(page);
}

static void drop_spare(struct unshare *u)
{
	while (u->nr_spare)
		folio_put(take_spare(u));
}

/* A base page or a huge one for the copy of what is at @addr, or NULL. */
struct folio *cowsnap_alloc_copy(struct unshare *u, unsigned long addr,
				 unsigned int order)
{
	gfp_t how = how_hard();
	gfp_t gfp = order ? GFP_TRANSHUGE_LIGHT : GFP_HIGHUSER_MOVABLE | how;
	struct folio *folio = NULL;

	if (cowsnap_fault())
		return NULL;
	if (!order && u->nr_spare)
		folio = take_spare(u);
	else if (u->op->flags & COWSNAP_UNSHARE_NODE)
		folio = cowsnap_alloc_on_node(u->op->node, order);
	else if (cowsnap_in_worker() && !u->vma->vm_policy)
		/* A huge page from there or none, as for the caller. */
		folio = __folio_alloc(order ? gfp | __GFP_THISNODE : gfp, order,
				      u->home, NULL);
	else if (order)
		folio = cowsnap_alloc_huge(u->vma, addr);
	else
		folio = cowsnap_alloc_folio(u->vma, addr, how);
	if (!folio)
		return NULL;
	if (cowsnap_charge(folio, u->op->mm,
			   order ? GFP_TRANSHUGE_LIGHT : GFP_KERNEL | how) ||
	    (order && cowsnap_charged_large(folio))) {
		folio_put(folio);
		return NULL;
	}
	return folio;
}

/* One base page. No lock is held but the mmap lock. */
int cowsnap_copy_page(struct unshare *u, struct page *to, struct page *from,
		      unsigned long addr)
{
	if (cowsnap_killed())
		return cowsnap_refuse(u->op, addr, COWSNAP_REASON_SIGNAL, -EINTR);
	if (cowsnap_fault_once() || copy_mc_user_highpage(to, from, addr, u->vma))
		return cowsnap_refuse(u->op, addr, COWSNAP_REASON_POISON,
				      -EOPNOTSUPP);
	cond_resched();
	return 0;
}

/* It is not to be replaced after all. */
static void drop_page(struct shared_page *p)
{
	if (p->copy)
		folio_put(p->copy);
	folio_put(page_folio(p->page));
}

static int copy_one(struct unshare *u, struct shared_page *p)
{
	p->copy = cowsnap_alloc_copy(u, p->addr, 0);
	if (!p->copy && cowsnap_in_worker())
		return -EAGAIN;
	if (!p->copy)
		return cowsnap_refuse(u->op, p->addr, COWSNAP_REASON_NO_MEMORY,
				      -ENOMEM);
	return cowsnap_copy_page(u, &p->copy->page, p->page, p->addr);
}

/* After an error the batch is what has been copied until then. */
static int copy_batch(struct unshare *u)
{
	unsigned int i, nr = u->nr;
	int err = 0;

	fetch_spare(u);
	for (i = 0; i < nr && !err; i++)
		err = copy_one(u, &u->pages[i]);
	drop_spare(u);
	if (!err)
		return 0;
	u->nr = i - 1;
	for (i = u->nr; i < nr; i++)
		drop_page(&u->pages[i]);
	return err;
}

/* A copy that is ours alone takes the place of what @old says. */
static pte_t entry_of_copy(struct unshare *u, struct folio *copy, pte_t old)
{
	pte_t pte = mk_pte(&copy->page, u->vma->vm_page_prot);

	if (cowsnap_may_write(u->vma, old))
		return cowsnap_writable(pte);
	/* Nothing was written, which soft-dirty and nobody else is to see. */
	pte = pte_mkyoung(pte_wrprotect(pte));
	return pte_soft_dirty(old) ? pte_mksoft_dirty(pte) : pte;
}

/*
 * Page-table lock held: take out the entries that are still what was copied.
 * Of the others the copy is dropped here. Returns how many are left.
 */
static unsigned int take_out(struct unshare *u, pte_t *first,
			     unsigned long first_addr)
{
	unsigned int nr = 0, i;

	for (i = 0; i < u->nr; i++) {
		struct shared_page p = u->pages[i];
		pte_t *pte = first + ((p.addr - first_addr) >> PAGE_SHIFT);

		if (!pte_same(ptep_get(pte), p.pte)) {
			drop_page(&p);
			continue;
		}
		/* The CPU may set the accessed bit meanwhile, nothing else. */
		ptep_get_and_clear(u->op->mm, p.addr, pte);
		u->pages[nr++] = p;
	}
	return nr;
}

static void put_in(struct unshare *u, pte_t *first, unsigned long first_addr)
{
	struct shared_page *p;

	for (p = u->pages; p < u->pages + u->nr; p++) {
		pte_t *pte = first + ((p->addr - first_addr) >> PAGE_SHIFT);

		cowsnap_add_new_folio(p->copy, u->vma, p->addr);
		set_pte_at(u->op->mm, p->addr, pte,
			   entry_of_copy(u, p->copy, p->pte));
		/*
		 * Not before the flush: once the map count is lower somebody
		 * may take the page for his own and write to it.
		 */
		cowsnap_remove_rmap(page_folio(p->page), p->page, u->vma);
		p->copy = NULL;
	}
	u->op->copied += u->nr;
}

/* After their entries were replaced: our reference and that of the entry. */
static void put_old_pages(struct unshare *u)
{
	struct shared_page *p;

	for (p = u->pages; p < u->pages + u->nr; p++) {
		struct folio *old = page_folio(p->page);

		cowsnap_free_swap_cache(old);
		folio_put(old);
		folio_put(old);
	}
	u->nr = 0;
}

/* Returns where to go on: where the first entry was that had changed. */
static unsigned long install(struct unshare *u, pmd_t *pmd, unsigned long addr)
{
	unsigned long start = u->pages[0].addr;
	unsigned long end = u->pages[u->nr - 1].addr + PAGE_SIZE;
	struct mmu_notifier_range range;
	unsigned int nr = u->nr, done = 0;
	spinlock_t *ptl;
	pte_t *pte;

	cowsnap_notify_start(&range, u->op->mm, MMU_NOTIFY_CLEAR, start, end);
	pte = cowsnap_pte_lock(u->op->mm, pmd, start, &ptl);
	if (pte) {
		done = take_out(u, pte, start);
		u->nr = done;
		if (done)
			cowsnap_flush_replaced(u->op->mm, start, end);
		put_in(u, pte, start);
		spin_unlock(ptl);
	}
	cowsnap_notify_end(&range);
	if (pte) {
		put_old_pages(u);
		return done == nr ? addr : start;
	}
	while (u->nr)
		drop_page(&u->pages[--u->nr]);
	return start;
}

static int overcome(struct unshare *u, pmd_t *pmd, unsigned long addr)
{
	if (cowsnap_in_worker() && u->obstacle != OBSTACLE_MIGRATION)
		return u->obstacle == OBSTACLE_NONE ? 0 : -EAGAIN;
	switch (u->obstacle) {
	case OBSTACLE_MIGRATION:
		ksym(migration_entry_wait)(u->op->mm, pmd, addr);
		return 0;
	case OBSTACLE_SWAPPED:
		/* To be read: what the copy is made of, and where, is up to us. */
		return cowsnap_touch(u->op, u->vma, addr, 0);
	case OBSTACLE_LRU_BATCH:
		ksym(lru_add_drain_all)();
		u->drained = true;
		return 0;
	case OBSTACLE_NONE:
		break;
	}
	return 0;
}

/* One batch, or what keeps the next page from being in one. */
static int unshare_ptes(struct unshare *u, pmd_t *pmd, unsigned long *addr,
			unsigned long end)
{
	int err;

	u->obstacle = OBSTACLE_NONE;
	*addr = collect(u, pmd, *addr, end);
	if (!u->nr)
		return overcome(u, pmd, *addr);
	err = copy_batch(u);
	if (u->nr)
		*addr = install(u, pmd, *addr);
	return err;
}

/* What one pmd entry maps of the range. */
static int unshare_pmd(struct unshare *u, pmd_t *pmdp, unsigned long addr,
		       unsigned long end)
{
	int err;

	while (addr < end) {
		pmd_t pmd = cowsnap_read_pmd(u->op->mm, pmdp);

		if (pmd_none(pmd))
			return 0;
		if (cowsnap_killed())
			return cowsnap_refuse(u->op, addr,
					      COWSNAP_REASON_SIGNAL, -EINTR);
		if (cowsnap_pmd_is_huge(pmd)) {
			err = cowsnap_unshare_huge(u, pmdp, addr, end);
			if (err != -EAGAIN)
				return err;
			continue;
		}
		err = unshare_ptes(u, pmdp, &addr, end);
		if (err)
			return err;
	}
	return 0;
}

/* What the next pmd entry maps; *@addr becomes where that ends. */
static int unshare_next(struct unshare *u, unsigned long *addr, unsigned long end)
{
	unsigned long next;
	pmd_t *pmd = cowsnap_find_pmd(u->op->mm, *addr, end, &next);
	int err = pmd ? unshare_pmd(u, pmd, *addr, next) : 0;

	if (!err)
		*addr = next;
	cond_resched();
	return err;
}

static void begin_copy(void *own, const void *of_caller)
{
	memcpy(own, of_caller, sizeof(struct unshare));
}

static int unshare_piece(void *own, struct cowsnap_op *op, unsigned int nr)
{
	unsigned long addr = op->src, end = op->src + op->len;
	struct unshare *u = own;
	int err = 0;

	u->op = op;
	while (addr < end && !err)
		err = unshare_next(u, &addr, end);
	op->src = addr;
	op->len = end - addr;
	return err;
}

/*
 * Would a kworker put a copy on the node where the caller would? Not by the
 * policy of the task, nor by one that depends on which CPU asks.
 */
static bool worker_finds_node(struct unshare *u)
{
	struct mempolicy *policy = u->vma->vm_policy;

	if (num_node_state(N_MEMORY) == 1 || cowsnap_only_reuse(u) ||
	    u->op->flags & COWSNAP_UNSHARE_NODE)
		return true;
	/* A file may have a policy of its own. */
	if (!vma_is_anonymous(u->vma) ||
	    !nodes_subset(node_states[N_MEMORY], cpuset_current_mems_allowed))
		return false;
	if (!policy)
		return !current->mempolicy;
	return policy->mode == MPOL_PREFERRED ||
	       policy->mode == MPOL_INTERLEAVE ||
	       (policy->mode == MPOL_BIND && nodes_weight(policy->nodes) == 1);
}

/* By several, if it is worth it and they can: returns false otherwise. */
static bool unshare_parallel(struct unshare *u, unsigned long *addr,
			     unsigned long end, int *err)
{
	struct cowsnap_op *op = u->op;
	struct cowsnap_job job = {
		.op = op, .start = *addr, .end = end, .yields = true,
		.own = u, .size = sizeof(*u),
		.begin = begin_copy, .piece = unshare_piece,
	};
	bool done;

	if (!worker_finds_node(u))
		return false;
	u->home = numa_mem_id();
	done = cowsnap_parallel(&job, err);
	u->op = op;
	if (done)
		*addr = job.end;
	return done;
}

/*
 * The mapping ends at @end, or the range does. Ends earlier when others wait to
 * change mappings, but not without some progress.
 */
static int unshare_vma(struct unshare *u, unsigned long *addr, unsigned long end)
{
	int err;

	if (unshare_parallel(u, addr, end, &err))
		return err;
	do {
		err = unshare_next(u, addr, end);
	} while (!err && *addr < end && !mmap_lock_is_contended(u->op->mm));
	return err;
}

static int relock(struct unshare *u, unsigned long addr)
{
	mmap_read_unlock(u->op->mm);
	cond_resched();
	mmap_read_lock(u->op->mm);
	if (cowsnap_killed())
		return cowsnap_refuse(u->op, addr, COWSNAP_REASON_SIGNAL, -EINTR);
	return cowsnap_check_vmas(u->op, addr, u->op->src + u->op->len - addr);
}

/**
 * cowsnap_alloc_unshare - what cowsnap_take_back() needs
 * @op: the request
 *
 * Return: to be given to kfree(), or NULL.
 */
struct unshare *cowsnap_alloc_unshare(struct cowsnap_op *op)
{
	struct unshare *u = cowsnap_fault() ? NULL : kzalloc(sizeof(*u), GFP_KERNEL);

	if (u)
		u->op = op;
	return u;
}

/**
 * cowsnap_take_back - the walk of UNSHARE over [src, src + len)
 * @u: from cowsnap_alloc_unshare(); what has been done is counted in the
 *	request, also after an error
 *
 * Context: mmap lock held for reading; it may be dropped and taken again.
 * Return: 0, -EINTR, -ENOMEM or -EOPNOTSUPP, with reason and address there.
 */
int cowsnap_take_back(struct unshare *u)
{
	unsigned long addr = u->op->src, end = u->op->src + u->op->len;
	int err = 0;

	while (addr < end && !err) {
		u->vma = find_vma(u->op->mm, addr);
		if (is_vm_hugetlb_page(u->vma))
			err = cowsnap_unshare_hugetlb(u->op, u->vma, &addr,
						      min(end, u->vma->vm_end));
		else
			err = unshare_vma(u, &addr, min(end, u->vma->vm_end));
		if (!err && addr < end && mmap_lock_is_contended(u->op->mm))
			err = relock(u, addr);
	}
	return err;
}

static int check_node(struct cowsnap_op *op)
{
	if (!(op->flags & COWSNAP_UNSHARE_NODE)) {
		if (op->node)
			return cowsnap_refuse(op, 0, COWSNAP_REASON_NODE, -EINVAL);
		return 0;
	}
	if (op->node >= MAX_NUMNODES || !node_state(op->node, N_MEMORY) ||
	    !node_isset(op->node, cpuset_current_mems_allowed))
		return cowsnap_refuse(op, 0, COWSNAP_REASON_NODE, -EINVAL);
	return 0;
}

static int check_args(struct cowsnap_op *op)
{
	int err = cowsnap_check_flags(op, COWSNAP_UNSHARE_FLAGS);

	if (err)
		return err;
	if (op->reserved)
		return cowsnap_refuse(op, 0, COWSNAP_REASON_RESERVED, -EINVAL);
	err = check_node(op);
	return err ?: cowsnap_check_range(op, op->src, op->len);
}

/**
 * cowsnap_unshare - end sharing in [src, src + len) of op->mm
 * @op: the request; results, reason and address are left in it
 *
 * Context: process context of a task that uses op->mm; takes its mmap lock.
 * Return: 0 or what include/uapi says of COWSNAP_UNSHARE.
 */
int cowsnap_unshare(struct cowsnap_op *op)
{
	int err = check_args(op);
	struct unshare *u;

	if (err)
		return err;
	u = cowsnap_alloc_unshare(op);
	if (!u)
		return cowsnap_refuse(op, op->src, COWSNAP_REASON_NO_MEMORY,
				      -ENOMEM);
	if (cowsnap_fault_once() || mmap_read_lock_killable(op->mm)) {
		err = cowsnap_refuse(op, op->src, COWSNAP_REASON_SIGNAL, -EINTR);
		goto out_free;
	}
	err = cowsnap_check_vmas(op, op->src, op->len);
	if (!err && op->flags & COWSNAP_UNSHARE_NODE && op->align)
		err = cowsnap_refuse(op, op->src, COWSNAP_REASON_HUGETLB,
				     -EOPNOTSUPP);
	if (!err)
		err = cowsnap_take_back(u);
	mmap_read_unlock(op->mm);
out_free:
	kfree(u);
	return err;
}
