/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Sharing page by page, see share.c. SYNC uses the same rules, for a destination
 * that has content of its own.
 */
#ifndef COWSNAP_SHARE_H
#define COWSNAP_SHARE_H

#include "pgwalk.h"

/* What a pass meets and cannot do under the page-table locks. */
enum block {
	BLOCK_NONE,
	BLOCK_MIGRATION,	/* the page is on its way: wait */
	BLOCK_SWAP_COUNT,	/* the swap count needs a continuation page */
	BLOCK_COPY,		/* a page to copy into is needed */
	BLOCK_LARGE,		/* the folio must be split */
	BLOCK_SWAPPED,		/* the page must be read in */
	BLOCK_REFUSED,		/* op->reason says why */
	BLOCK_POISON,		/* the page cannot be read */
};

struct share {
	enum block block;
	swp_entry_t entry;	/* of BLOCK_SWAP_COUNT */
	struct folio *large;	/* of BLOCK_LARGE, referenced */
	struct folio *folio;	/* to copy into, and only for this source address */
	unsigned long folio_addr;
};

/*
 * While pages become shared nobody may pin one by walking page tables without a
 * lock: who has begun to before finds the count changed, and unpins. He has
 * taken a reference then, which we see; that is what the barrier is for.
 * The raw variant: readers do not spin, and we may be preempted.
 */
static inline void cowsnap_sharing_begin(struct mm_struct *mm)
{
	raw_write_seqcount_begin(&mm->write_protect_seq);
	smp_mb();
}

static inline void cowsnap_sharing_end(struct mm_struct *mm)
{
	raw_write_seqcount_end(&mm->write_protect_seq);
}

/*
 * A clean page in no swap cache: MADV_FREE on one side, whenever it comes, would
 * let reclaim drop the page from both, since it looks at the map count of dirty
 * pages only; and one that MADV_FREE has marked before would be dropped from
 * under the duplicate. Dirty, it stays.
 */
static inline void cowsnap_keep_content(struct folio *folio)
{
	if (!folio_test_dirty(folio) && !folio_test_swapcache(folio))
		folio_set_dirty(folio);
}

/* Only a SYNC meets mappings with different protection, or protection key. */
static inline bool cowsnap_has_other_rights(struct cowsnap_walk *walk)
{
	return pgprot_val(walk->src_vma->vm_page_prot) !=
	       pgprot_val(walk->dst_vma->vm_page_prot);
}

bool cowsnap_share_entry(struct cowsnap_walk *walk, unsigned long addr,
			 pte_t *src, pte_t *dst);
bool cowsnap_copy_entry(struct cowsnap_walk *walk, unsigned long addr,
			pte_t *src, pte_t *dst);
int cowsnap_share_blocked(struct cowsnap_walk *walk,
			  const struct cowsnap_span *span);

#ifdef CONFIG_TRANSPARENT_HUGEPAGE
int cowsnap_share_huge(struct cowsnap_walk *walk, struct cowsnap_span *span);
#else
static inline int cowsnap_share_huge(struct cowsnap_walk *walk,
				     struct cowsnap_span *span)
{
	WARN_ON_ONCE(1);
	return -EIO;
}
#endif

void cowsnap_share_done(struct share *share);

/* sync.c */
void cowsnap_clear_dst(struct cowsnap_walk *walk, unsigned long addr, pte_t *dst);
void cowsnap_clear_dst_pmd(struct cowsnap_walk *walk,
			   const struct cowsnap_span *span);

#endif /* COWSNAP_SHARE_H */
