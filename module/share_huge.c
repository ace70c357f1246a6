// SPDX-License-Identifier: GPL-2.0
/*
 * Sharing a huge page whole, see share.c: copy_huge_pmd() of fork. Where that is
 * not sound, see large.c, or the two ranges are not a multiple of its size apart,
 * its entry is split.
 */
#include "large.h"
#include "share.h"

/* Both locks held. -EBUSY: cannot be shared, must be split and copied. */
static int share_pmd(struct cowsnap_walk *walk, const struct cowsnap_span *span,
		     pgtable_t pgtable)
{
	struct mm_struct *mm = walk->op->mm;
	pmd_t pmd = *span->src_pmd;
	struct page *page = pmd_page(pmd);
	struct folio *folio = page_folio(page);

	if (cowsnap_pmd_is_trapped(pmd, walk->src_vma) ||
	    unlikely(cowsnap_has_other_rights(walk)))
		return -EBUSY;
	/* In private anonymous memory the only other one is the huge zero page. */
	if (folio_test_anon(folio)) {
		if (!COWSNAP_HUGE_WHOLE || cowsnap_refs_exhausted(folio))
			return -EBUSY;
		/* First: nobody is to find more mappings than references. */
		folio_get(folio);
		if (cowsnap_dup_rmap_pmd(folio, page, walk->dst_vma,
					 walk->src_vma)) {
			folio_put(folio);	/* not the last one: src has it */
			return -EBUSY;
		}
		if (!pmd_dirty(pmd))
			cowsnap_keep_content(folio);
		walk->rss_anon += HPAGE_PMD_NR;
		walk->op->shared += HPAGE_PMD_NR;
	}
	if (walk->replaced)
		cowsnap_clear_dst_pmd(walk, span);
	/* Without it the duplicate's entry could not be split later. */
	mm_inc_nr_ptes(mm);
	ksym(pgtable_trans_huge_deposit)(mm, span->dst_pmd, pgtable);
	pmdp_set_wrprotect(mm, span->src, span->src_pmd);
	pmd = pmd_wrprotect(*span->src_pmd);
	pmd = pmd_mkold(pmd_clear_uffd(pmd));
	set_pmd_at(mm, span->dst, span->dst_pmd,
		   walk->replaced ? pmd_mksoft_dirty(pmd) : pmd);
	return 0;
}

/*
 * A duplicate made by REMAP comes after its source in the rmap: who walks it
 * finds a huge page that was shared meanwhile. A SYNC may go the other way, and
 * the split of a huge page would miss the new entry, so keep walks out.
 */
static void lock_rmap(struct cowsnap_walk *walk)
{
	if (walk->replaced)
		down_write(&walk->dst_vma->anon_vma->root->rwsem);
}

static void unlock_rmap(struct cowsnap_walk *walk)
{
	if (walk->replaced)
		up_write(&walk->dst_vma->anon_vma->root->rwsem);
}

/* Both locked. What a SYNC would replace may have been split, or be moving. */
static bool dst_takes_huge(struct cowsnap_walk *walk,
			   const struct cowsnap_span *span)
{
	pmd_t pmd = *span->dst_pmd;

	return pmd_none(pmd) || (walk->replaced && pmd_present(pmd) &&
				 pmd_trans_huge(pmd));
}

static int share_whole(struct cowsnap_walk *walk,
		       const struct cowsnap_span *span)
{
	struct mm_struct *mm = walk->op->mm;
	pgtable_t pgtable = ksym_or(NULL, pte_alloc_one, mm);
	int err = -EAGAIN;	/* unless it is still huge under the lock */

	if (!pgtable)
		return -ENOMEM;
	lock_rmap(walk);
	cowsnap_lock_pmds(mm, span);
	if (pmd_trans_huge(*span->src_pmd) && dst_takes_huge(walk, span))
		err = share_pmd(walk, span, pgtable);
	cowsnap_walk_add_rss(walk);
	cowsnap_unlock_pmds(mm, span);
	unlock_rmap(walk);
	if (err)
		cowsnap_pte_free(mm, pgtable);
	return err;
}

int cowsnap_share_huge(struct cowsnap_walk *walk, struct cowsnap_span *span)
{
	int err = -EBUSY;

	/* There a huge page is the file's own, or on its way as such. */
	if (!vma_is_anonymous(walk->src_vma))
		return 0;
	if (cowsnap_pmd_is_device(READ_ONCE(*span->src_pmd)))
		return cowsnap_refuse(walk->op, span->src,
				      COWSNAP_REASON_DEVICE, -EOPNOTSUPP);
	if (!pmd_present(READ_ONCE(*span->src_pmd))) {
		ksym(pmd_migration_entry_wait)(walk->op->mm, span->src_pmd);
		return -EAGAIN;
	}
	if (span->len == HPAGE_PMD_SIZE)
		err = share_whole(walk, span);
	if (err != -EBUSY)
		return err;
	cowsnap_split_huge_pmd(walk->src_vma, span->src_pmd, span->src);
	return -EAGAIN;
}
