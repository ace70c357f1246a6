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
#include "hugetlb.h"
#include "pgwalk.h"
#include "reuse.h"

/* Pages copied for one flush. Beyond some 33 x86 flushes everything anyway. */
#define BATCH	64

/* What a look at an entry meets and cannot do under the page-table lock. */
enum obstacle {
	OBSTACLE_NONE,
	OBSTACLE_MIGRATION,	/* the page is on its way: wait */
	OBSTACLE_SWAPPED,	/* a shared page must be read in to be copied */
	OBSTACLE_LRU_BATCH,	/* a reference that is worth to be got rid of */
};

struct shared_page {
	unsigned long addr;
	pte_t pte;
	struct page *page;	/* with a reference */
	struct folio *copy;
};

struct unshare {
	struct cowsnap_op *op;
	struct vm_area_struct *vma;
	enum obstacle obstacle;
	bool drained;
	unsigned int nr;
	struct shared_page pages[BATCH];
};

static bool only_reuse(const struct unshare *u)
{
	return u->op->flags & COWSNAP_UNSHARE_REUSE;
}

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
	else if (softleaf_is_swap(entry) && !only_reuse(u) &&
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
	if (only_reuse(u))
		return true;
	folio_get(folio);
	u->pages[u->nr++] = (struct shared_page){
		.addr = addr, .pte = pte, .page = page,
	};
	return true;
}

/*
 * Take back what can be, collect what must be copied. Returns where it stopped:
 * at @end, with a full batch, or at an obstacle.
 */
static unsigned long collect(struct unshare *u, pmd_t *pmd, unsigned long addr,
			     unsigned long end)
{
	spinlock_t *ptl;
	pte_t *pte = cowsnap_pte_lock(u->op->mm, pmd, addr, &ptl);

	if (!pte)	/* gone, and with it what was to be done */
		return end;
	for (; addr < end && u->nr < BATCH; addr += PAGE_SIZE, pte++)
		if (!look_at(u, addr, pte))
			break;
	spin_unlock(ptl);
	return addr;
}

static struct folio *alloc_copy(struct unshare *u, unsigned long addr,
				unsigned int order)
{
	struct folio *folio = NULL;

	if (cowsnap_fault())
		return NULL;
	if (u->op->flags & COWSNAP_UNSHARE_NODE)
		folio = cowsnap_alloc_on_node(u->op->node, order);
	else if (order)
		folio = cowsnap_alloc_huge(u->vma, addr);
	else
		folio = cowsnap_alloc_folio(u->vma, addr);
	if (!folio)
		return NULL;
	if (!mem_cgroup_disabled() &&
	    ksym_or(-ENOMEM, __mem_cgroup_charge, folio, u->op->mm,
		    order ? GFP_TRANSHUGE_LIGHT : GFP_KERNEL)) {
		folio_put(folio);
		return NULL;
	}
	return folio;
}

static int copy_page_of(struct unshare *u, struct page *to, struct page *from,
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
	p->copy = alloc_copy(u, p->addr, 0);
	if (!p->copy)
		return cowsnap_refuse(u->op, p->addr, COWSNAP_REASON_NO_MEMORY,
				      -ENOMEM);
	return copy_page_of(u, &p->copy->page, p->page, p->addr);
}

/* After an error the batch is what has been copied until then. */
static int copy_batch(struct unshare *u)
{
	unsigned int i, nr = u->nr;
	int err = 0;

	for (i = 0; i < nr && !err; i++)
		err = copy_one(u, &u->pages[i]);
	if (!err)
		return 0;
	u->nr = i - 1;
	for (i = u->nr; i < nr; i++)
		drop_page(&u->pages[i]);
	return err;
}

static void flush(struct unshare *u, unsigned long start, unsigned long end)
{
	cowsnap_flush_tlb(u->op->mm, start, end);
	cowsnap_flush_secondary(u->op->mm, start, end);
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
			flush(u, start, end);
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

#ifdef CONFIG_TRANSPARENT_HUGEPAGE
/* As cowsnap_take_folio(), the rule of do_huge_pmd_wp_page(). */
static bool take_huge(struct folio *folio, struct vm_area_struct *vma)
{
	bool alone;

	if (!folio_trylock(folio))
		return false;
	alone = folio_ref_count(folio) <=
		1 + folio_test_swapcache(folio) * folio_nr_pages(folio);
	if (alone && folio_test_swapcache(folio))
		ksym(folio_free_swap)(folio);
	alone = alone && folio_ref_count(folio) == 1;
	if (alone)
		cowsnap_make_exclusive(folio, &folio->page, vma);
	folio_unlock(folio);
	return alone;
}

static pmd_t writable_pmd(pmd_t pmd)
{
	return cowsnap_pmd_mkwrite(pmd_mkyoung(pmd_mkdirty(pmd)));
}

/*
 * The lock of the entry held. Returns the page to be copied, with a reference,
 * or NULL when there is nothing to do any more.
 */
static struct page *look_at_huge(struct unshare *u, pmd_t *pmdp,
				 unsigned long addr, unsigned long end)
{
	pmd_t pmd = *pmdp;
	struct page *page = pmd_page(pmd);
	struct folio *folio = page_folio(page);

	if (pmd_write(pmd) || pmd_uffd(pmd) || !folio_test_anon(folio))
		return NULL;
	if (PageAnonExclusive(page) || take_huge(folio, u->vma)) {
		/* The bits that decide are at the same place in both. */
		if (!pmd_protnone(pmd) &&
		    cowsnap_may_write(u->vma, __pte(pmd_val(pmd)))) {
			set_pmd_at(u->op->mm, addr & HPAGE_PMD_MASK, pmdp,
				   writable_pmd(pmd));
			u->op->reused += (end - addr) >> PAGE_SHIFT;
		}
		return NULL;
	}
	if (only_reuse(u))
		return NULL;
	folio_get(folio);
	return page;
}

static void install_huge(struct unshare *u, unsigned long addr, pmd_t *pmdp,
			 pmd_t old, struct folio *copy)
{
	struct vm_area_struct *vma = u->vma;
	struct page *page = pmd_page(old);
	pmd_t pmd = pmd_mkhuge(pfn_pmd(page_to_pfn(&copy->page),
				       vma->vm_page_prot));

	if (cowsnap_may_write(vma, __pte(pmd_val(old))))
		pmd = writable_pmd(pmd);
	else if (pmd_soft_dirty(old))
		pmd = pmd_mksoft_dirty(pmd);
	/*
	 * Not empty for a moment, see change_huge_pmd(): MADV_DONTNEED of another
	 * thread would take it for that, without a lock. This also flushes.
	 */
	ksym(pmdp_invalidate)(vma, addr, pmdp);
	cowsnap_flush_secondary(vma->vm_mm, addr, addr + HPAGE_PMD_SIZE);
	cowsnap_add_new_folio(copy, vma, addr);
	/* The page table deposited with the old entry stays for the new one. */
	set_pmd_at(vma->vm_mm, addr, pmdp, pmd);
	cowsnap_remove_rmap_pmd(page_folio(page), page, vma);
	u->op->copied += HPAGE_PMD_NR;
}

/* -EBUSY: no huge page to be had. -EAGAIN: the entry has changed. */
static int copy_huge(struct unshare *u, unsigned long addr, pmd_t *pmdp, pmd_t old)
{
	struct folio *copy = alloc_copy(u, addr, HPAGE_PMD_ORDER);
	struct page *page = pmd_page(old);
	struct mmu_notifier_range range;
	int i, err = copy ? 0 : -EBUSY;
	spinlock_t *ptl;

	for (i = 0; i < HPAGE_PMD_NR && !err; i++)
		err = copy_page_of(u, folio_page(copy, i), page + i,
				   addr + i * PAGE_SIZE);
	if (err)
		goto out_put;
	cowsnap_notify_start(&range, u->op->mm, MMU_NOTIFY_CLEAR, addr,
			     addr + HPAGE_PMD_SIZE);
	ptl = pmd_lock(u->op->mm, pmdp);
	err = pmd_same(*pmdp, old) ? 0 : -EAGAIN;
	if (!err)
		install_huge(u, addr, pmdp, old, copy);
	spin_unlock(ptl);
	cowsnap_notify_end(&range);
	if (!err) {
		copy = NULL;
		cowsnap_free_swap_cache(page_folio(page));
		folio_put(page_folio(page));
	}
out_put:
	if (copy)
		folio_put(copy);
	return err;
}

/* A huge entry. -EAGAIN: look again, it may be a page table now. */
static int unshare_huge(struct unshare *u, pmd_t *pmdp, unsigned long addr,
			unsigned long end)
{
	spinlock_t *ptl = pmd_lock(u->op->mm, pmdp);
	pmd_t pmd = *pmdp;
	struct page *page = NULL;
	int err = -EBUSY;

	if (pmd_present(pmd) && pmd_trans_huge(pmd))
		page = look_at_huge(u, pmdp, addr, end);
	spin_unlock(ptl);
	if (!cowsnap_pmd_is_huge(pmd))
		return -EAGAIN;
	if (!pmd_present(pmd) && !cowsnap_pmd_is_device(pmd)) {
		ksym(pmd_migration_entry_wait)(u->op->mm, pmdp);
		return -EAGAIN;
	}
	if (!page)
		return 0;
	if (end - addr == HPAGE_PMD_SIZE)
		err = copy_huge(u, addr, pmdp, pmd);
	folio_put(page_folio(page));
	if (err != -EBUSY)
		return err;
	/* Of a part of it, or for want of another one: page by page. */
	cowsnap_split_huge_pmd(u->vma, pmdp, addr);
	return -EAGAIN;
}
#else
static int unshare_huge(struct unshare *u, pmd_t *pmdp, unsigned long addr,
			unsigned long end)
{
	WARN_ON_ONCE(1);
	return -EIO;
}
#endif

/* What one pmd entry maps of the range. */
static int unshare_pmd(struct unshare *u, pmd_t *pmdp, unsigned long addr,
		       unsigned long end)
{
	int err;

	while (addr < end) {
		pmd_t pmd = READ_ONCE(*pmdp);

		if (pmd_none(pmd))
			return 0;
		if (cowsnap_killed())
			return cowsnap_refuse(u->op, addr,
					      COWSNAP_REASON_SIGNAL, -EINTR);
		if (cowsnap_pmd_is_huge(pmd)) {
			err = unshare_huge(u, pmdp, addr, end);
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

/*
 * The mapping ends at @end, or the range does. Ends earlier when others wait to
 * change mappings, but not without some progress.
 */
static int unshare_vma(struct unshare *u, unsigned long *addr, unsigned long end)
{
	struct mm_struct *mm = u->op->mm;
	unsigned long next;
	int err = 0;
	pmd_t *pmd;

	do {
		pmd = cowsnap_find_pmd(mm, *addr, end, &next);
		if (pmd)
			err = unshare_pmd(u, pmd, *addr, next);
		if (err)
			return err;
		*addr = next;
		cond_resched();
	} while (next < end && !mmap_lock_is_contended(mm));
	return 0;
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
	int err;

	if (op->flags & ~COWSNAP_UNSHARE_FLAGS)
		return cowsnap_refuse(op, 0, COWSNAP_REASON_FLAG_UNKNOWN,
				      -EOPNOTSUPP);
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
