// SPDX-License-Identifier: GPL-2.0
/*
 * UNSHARE for pages that one pmd entry maps: copied as huge pages, which the
 * kernel's own write fault would split. See unshare.c for why it is sound.
 */
#include "cowsnap.h"
#include "pgwalk.h"
#include "reuse.h"
#include "unshare.h"

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
	if (cowsnap_only_reuse(u))
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
	struct folio *copy = cowsnap_alloc_copy(u, addr, HPAGE_PMD_ORDER);
	struct page *page = pmd_page(old);
	struct mmu_notifier_range range;
	int i, err = copy ? 0 : -EBUSY;
	spinlock_t *ptl;

	for (i = 0; i < HPAGE_PMD_NR && !err; i++)
		err = cowsnap_copy_page(u, folio_page(copy, i), page + i,
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

/**
 * cowsnap_unshare_huge - what UNSHARE does to a huge entry
 * @u: the walk, mmap lock held for reading
 * @pmdp: the entry; it may have changed since it was seen
 * @addr: in the range
 * @end: of the range within this entry
 *
 * Return: 0; -EAGAIN: look again, it may be a page table now; or an error.
 */
int cowsnap_unshare_huge(struct unshare *u, pmd_t *pmdp, unsigned long addr,
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
