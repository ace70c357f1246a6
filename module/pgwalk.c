// SPDX-License-Identifier: GPL-2.0
/*
 * The walk over two ranges of page tables, see pgwalk.h.
 *
 * The caller holds the mmap lock for writing and has write-locked both vmas, so
 * nobody faults in them, no page table is freed and no range is collapsed into
 * a huge page. What still happens at any time, under the page-table locks, is
 * what reaches entries through the rmap: reclaim, migration and the split of a
 * huge page, and in the mapping of a file its truncation. Every entry is
 * therefore read again under its lock. (khugepaged frees page tables of file
 * mappings without the mmap lock, but not of those that have an anon_vma:
 * remap.c sees to that.)
 */
#include "pgwalk.h"

/*
 * The two tables may be one: take that lock once. Otherwise the lower address
 * goes first, the order that everybody follows who takes two of one mm without
 * the mmap lock held for writing (UFFDIO_MOVE).
 */
void cowsnap_lock_both(spinlock_t *a, spinlock_t *b)
{
	if (a > b)
		swap(a, b);
	spin_lock(a);
	if (a != b)
		spin_lock_nested(b, SINGLE_DEPTH_NESTING);
}

void cowsnap_unlock_both(spinlock_t *a, spinlock_t *b)
{
	spin_unlock(a);
	if (a != b)
		spin_unlock(b);
}

/* Both pmd entries may lie in one page: always so within 1 GiB on x86. */
void cowsnap_lock_pmds(struct mm_struct *mm, const struct cowsnap_span *span)
{
	cowsnap_lock_both(pmd_lockptr(mm, span->src_pmd),
			  pmd_lockptr(mm, span->dst_pmd));
}

void cowsnap_unlock_pmds(struct mm_struct *mm, const struct cowsnap_span *span)
{
	cowsnap_unlock_both(pmd_lockptr(mm, span->src_pmd),
			    pmd_lockptr(mm, span->dst_pmd));
}

/*
 * The pmd entry of @addr, or NULL where a higher level is empty. *@next is
 * where the entry that was found, or the empty one, ends.
 */
static pmd_t *find_pmd(struct mm_struct *mm, unsigned long addr,
		       unsigned long end, unsigned long *next)
{
	pgd_t *pgd = pgd_offset(mm, addr);
	p4d_t *p4d;
	pud_t *pud;

	*next = pgd_addr_end(addr, end);
	if (pgd_none(*pgd))
		return NULL;
	p4d = p4d_offset(pgd, addr);
	*next = p4d_addr_end(addr, end);
	if (p4d_none(*p4d))
		return NULL;
	pud = pud_offset(p4d, addr);
	*next = pud_addr_end(addr, end);
	if (pud_none(*pud))
		return NULL;
	*next = pmd_addr_end(addr, end);
	return pmd_offset(pud, addr);
}

/* The pmd entry of @addr, allocating what is above it, or NULL. */
static pmd_t *alloc_pmd(struct mm_struct *mm, unsigned long addr)
{
	pgd_t *pgd = pgd_offset(mm, addr);
	p4d_t *p4d;
	pud_t *pud;

	if (pgd_none(*pgd) && ksym_or(-ENOMEM, __p4d_alloc, mm, pgd, addr))
		return NULL;
	p4d = p4d_offset(pgd, addr);
	if (p4d_none(*p4d) && ksym_or(-ENOMEM, __pud_alloc, mm, p4d, addr))
		return NULL;
	pud = pud_offset(p4d, addr);
	if (pud_none(*pud) && ksym_or(-ENOMEM, __pmd_alloc, mm, pud, addr))
		return NULL;
	return pmd_offset(pud, addr);
}

static void add_rss(struct cowsnap_walk *walk)
{
	struct mm_struct *mm = walk->op->mm;

	if (walk->rss_anon)
		cowsnap_add_rss(mm, MM_ANONPAGES, walk->rss_anon);
	if (walk->rss_swap)
		cowsnap_add_rss(mm, MM_SWAPENTS, walk->rss_swap);
	walk->rss_anon = 0;
	walk->rss_swap = 0;
}

/*
 * The locked part of walk_ptes(). Once a page table is there it stays, see the
 * head of this file: pte_offset_kernel() needs no check.
 */
static unsigned long ptes_locked(struct cowsnap_walk *walk,
				 struct cowsnap_span *span)
{
	struct mm_struct *mm = walk->op->mm;
	spinlock_t *src_ptl = pte_lockptr(mm, span->src_pmd);
	spinlock_t *dst_ptl = pte_lockptr(mm, span->dst_pmd);
	unsigned long done;

	span->src_pte = pte_offset_kernel(span->src_pmd, span->src);
	span->dst_pte = pte_offset_kernel(span->dst_pmd, span->dst);
	cowsnap_lock_both(src_ptl, dst_ptl);
	lazy_mmu_mode_enable();
	done = walk->ops->ptes(walk, span);
	lazy_mmu_mode_disable();
	/* Before the locks go: reclaim may take the new entries at once. */
	add_rss(walk);
	cowsnap_unlock_both(src_ptl, dst_ptl);
	return done * PAGE_SIZE;
}

static int walk_ptes(struct cowsnap_walk *walk, struct cowsnap_span *span)
{
	unsigned long done;
	int err;

	if (pmd_none(*span->dst_pmd) &&
	    ksym_or(-ENOMEM, __pte_alloc, walk->op->mm, span->dst_pmd))
		return -ENOMEM;
	for (;;) {
		done = ptes_locked(walk, span);
		span->src += done;
		span->dst += done;
		span->len -= done;
		if (!span->len)
			return 0;
		err = walk->ops->blocked(walk, span);
		if (err)
			return err;
	}
}

/* A page of the file itself: the duplicate faults it in when it needs it. */
static bool is_file_page(pte_t pte)
{
	return pte_present(pte) && !pte_special(pte) &&
	       !folio_test_anon(page_folio(pte_page(pte)));
}

/*
 * The same for the mapping of a file, most of which is the file's own pages.
 * What is looked at of a page needs the lock: without it the page may be gone
 * to swap already, and another one in its place.
 */
static bool file_span_is_empty(struct mm_struct *mm,
			       const struct cowsnap_span *span)
{
	pte_t *pte = pte_offset_kernel(span->src_pmd, span->src);
	pte_t *end = pte + span->len / PAGE_SIZE;
	spinlock_t *ptl = pte_lockptr(mm, span->src_pmd);

	spin_lock(ptl);
	while (pte < end && (pte_none(ptep_get(pte)) ||
			     is_file_page(ptep_get(pte))))
		pte++;
	spin_unlock(ptl);
	return pte == end;
}

/*
 * Nothing to do, and nothing to allocate. No lock: entries appear by faults,
 * which are kept out, and a page table that was seen stays.
 */
static bool span_is_empty(struct cowsnap_walk *walk,
			  const struct cowsnap_span *span)
{
	pte_t *pte = pte_offset_kernel(span->src_pmd, span->src);
	pte_t *end = pte + span->len / PAGE_SIZE;

	while (pte < end && pte_none(ptep_get(pte)))
		pte++;
	return pte == end || (!vma_is_anonymous(walk->src_vma) &&
			      file_span_is_empty(walk->op->mm, span));
}

/* One span: huge entries first, since a huge one may become a page table. */
static int walk_span(struct cowsnap_walk *walk, struct cowsnap_span *span)
{
	pmd_t pmd = READ_ONCE(*span->src_pmd);
	int err;

	if (!cowsnap_pmd_is_huge(pmd) && !pmd_bad(pmd) && span_is_empty(walk, span))
		return 0;
	span->dst_pmd = alloc_pmd(walk->op->mm, span->dst);
	if (!span->dst_pmd)
		return -ENOMEM;
	while (cowsnap_pmd_is_huge(READ_ONCE(*span->src_pmd))) {
		err = walk->ops->huge(walk, span);
		add_rss(walk);
		if (err != -EAGAIN)
			return err;
		if (cowsnap_killed())
			return -EINTR;
	}
	if (pmd_none(*span->src_pmd))
		return 0;
	if (WARN_ON_ONCE(pmd_bad(*span->src_pmd)))
		return -EIO;
	/*
	 * An earlier pass shared a huge page whole, and reclaim has split the
	 * source's entry since: it comes to the duplicate's later, or never.
	 * There is no page table on that side, and nothing left to do.
	 */
	if (cowsnap_pmd_is_huge(READ_ONCE(*span->dst_pmd)))
		return 0;
	return walk_ptes(walk, span);
}

/* Say why the walk ended at @addr, unless an operation has said it. */
static int walk_failed(struct cowsnap_walk *walk, unsigned long addr, int err)
{
	struct cowsnap_op *op = walk->op;

	if (op->reason)
		return err;
	if (err == -EINTR)
		return cowsnap_refuse(op, addr, COWSNAP_REASON_SIGNAL, err);
	return cowsnap_refuse(op, addr, COWSNAP_REASON_NO_MEMORY, err);
}

/* The pages of a hugetlb vma, the size of which both ends are multiples of. */
static int walk_hugetlb(struct cowsnap_walk *walk, unsigned long start,
			unsigned long end)
{
	unsigned long size = huge_page_size(hstate_vma(walk->src_vma));
	unsigned long addr;
	int err;

	for (addr = start; addr < end; addr += size) {
		do {
			if (cowsnap_killed())
				return walk_failed(walk, addr, -EINTR);
			err = walk->ops->hugetlb(walk, addr);
			cond_resched();
		} while (err == -EAGAIN);
		if (err)
			return walk_failed(walk, addr, err);
	}
	return 0;
}

/**
 * cowsnap_walk - call @walk->ops for each piece of page table of a range
 * @walk: operations, the two vmas and how far they are apart
 * @start: start in the source
 * @end: end in the source
 *
 * Page tables of the destination are allocated where the source has some.
 *
 * Return: 0; -EINTR when the caller is being killed, -ENOMEM, or what an
 * operation returned. @walk->op has reason and address then.
 */
int cowsnap_walk(struct cowsnap_walk *walk, unsigned long start,
		 unsigned long end)
{
	unsigned long offset = walk->offset;
	unsigned long addr, next;
	int err;

	mmap_assert_write_locked(walk->op->mm);
	if (is_vm_hugetlb_page(walk->src_vma))
		return walk_hugetlb(walk, start, end);
	for (addr = start; addr != end; addr = next) {
		struct cowsnap_span span = { .src = addr, .dst = addr + offset };

		if (cowsnap_killed())
			return walk_failed(walk, addr, -EINTR);
		span.src_pmd = find_pmd(walk->op->mm, addr, end, &next);
		if (!span.src_pmd || pmd_none(READ_ONCE(*span.src_pmd)))
			continue;
		next = pmd_addr_end(addr + offset, next + offset) - offset;
		span.len = next - addr;
		err = walk_span(walk, &span);
		if (err)
			return walk_failed(walk, addr, err);
		cond_resched();
	}
	return 0;
}
