// SPDX-License-Identifier: GPL-2.0
/*
 * Write access for who has a page alone, see reuse.h.
 */
#include "reuse.h"

/**
 * cowsnap_may_write - may an entry for a page of our own be writable?
 * @vma: private
 * @pte: what the entry says now, or of the page that the new one replaces
 *
 * As can_change_pte_writable(): not where somebody waits for the first write, a
 * userfaultfd or a soft-dirty tracker.
 */
bool cowsnap_may_write(struct vm_area_struct *vma, pte_t pte)
{
	if (!(vma->vm_flags & VM_WRITE) || pte_uffd(pte))
		return false;
	return !IS_ENABLED(CONFIG_MEM_SOFT_DIRTY) || pte_soft_dirty(pte) ||
	       vma->vm_flags & VM_SOFTDIRTY;
}

/**
 * cowsnap_take_folio - make a page exclusive that is mapped nowhere else
 * @folio: anonymous, of one page, mapped by @vma; page-table lock held
 * @vma: private
 *
 * The rule of do_wp_page(), wp_can_reuse_anon_folio(): under the folio lock the
 * only reference is that of the mapping, so that nobody can share or pin the
 * page without passing the page table that we hold the lock of.
 *
 * Return: false when somebody else may have the page, or soon will.
 */
bool cowsnap_take_folio(struct folio *folio, struct vm_area_struct *vma)
{
	bool alone;

	if (folio_test_large(folio) || folio_test_ksm(folio) ||
	    folio_ref_count(folio) > 1 + folio_test_swapcache(folio))
		return false;
	if (!folio_trylock(folio))
		return false;
	if (folio_test_swapcache(folio))
		ksym(folio_free_swap)(folio);
	/* KSM does not always raise the count. */
	alone = !folio_test_ksm(folio) && folio_ref_count(folio) == 1;
	if (alone)
		cowsnap_make_exclusive(folio, &folio->page, vma);
	folio_unlock(folio);
	return alone;
}
