/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The walk over two ranges of page tables of one mm, in step.
 *
 *	source         ...|----- pmd -----|----- pmd -----|...
 *	spans             |  1  | 2 |  3  |  4  | 5 ...
 *	destination  ...----- pmd -----|----- pmd -----|...
 *
 * A span is the largest piece that lies within one pmd entry on either side.
 * Where both addresses agree modulo the size of a pmd, spans are whole pmds.
 */
#ifndef COWSNAP_PGWALK_H
#define COWSNAP_PGWALK_H

#include "compat.h"
#include "cowsnap.h"

struct cowsnap_replaced;
struct cowsnap_walk;

struct cowsnap_span {
	unsigned long src;	/* address in the source */
	unsigned long dst;	/* and in the destination */
	unsigned long len;	/* bytes */
	pmd_t *src_pmd;
	pmd_t *dst_pmd;
	pte_t *src_pte;		/* set for ->ptes() */
	pte_t *dst_pte;
};

struct cowsnap_walk_ops {
	/*
	 * Instead of all below but ->hugetlb(), which then may be absent, when
	 * the destination has content of its own: decide about a whole span.
	 * Either pmd pointer may be NULL, where a level above is empty. No lock
	 * is held. Returns 0 or an error.
	 */
	int (*span)(struct cowsnap_walk *walk, struct cowsnap_span *span);
	/*
	 * The source entry is a huge page or on its way to another place. No
	 * lock is held. Returns 0 when the span is done, -EAGAIN when it shall
	 * be looked at again, or an error.
	 */
	int (*huge)(struct cowsnap_walk *walk, struct cowsnap_span *span);
	/*
	 * Base pages, both page-table locks held. Returns how many entries are
	 * done; fewer than the span has: ->blocked() is called for the next one.
	 */
	unsigned int (*ptes)(struct cowsnap_walk *walk,
			     const struct cowsnap_span *span);
	/*
	 * The locks are dropped: do what ->ptes() could not do under them.
	 * Returns 0 to go on at the same entry, or an error.
	 */
	int (*blocked)(struct cowsnap_walk *walk,
		       const struct cowsnap_span *span);
	/*
	 * One page of a hugetlb vma, at @addr of the source. No lock is held.
	 * Returns as ->huge() does.
	 */
	int (*hugetlb)(struct cowsnap_walk *walk, unsigned long addr);
	/* What has begun must be finished. */
	bool unkillable;
	/*
	 * Several workers may walk over a large range, see workers.h. Each has
	 * a copy of the walk and of what ->private points to, which ->begin()
	 * makes his own; ->end() drops what is held there.
	 */
	bool parallel;
	bool allocates;		/* page tables */
	void (*begin)(struct cowsnap_walk *walk);
	void (*end)(struct cowsnap_walk *walk);
};

struct cowsnap_walk {
	const struct cowsnap_walk_ops *ops;
	struct cowsnap_op *op;
	struct vm_area_struct *src_vma;
	struct vm_area_struct *dst_vma;
	unsigned long offset;	/* destination - source; may wrap, added it fits */
	bool has_relatives;	/* see large.c; so are */
	bool has_strangers;
	const struct folio *unsplit;
	/* What ->ptes() and ->huge() mapped, added to the mm by the walk. */
	long rss_anon;
	long rss_swap;
	long rss_file;
	long rss_shmem;
	/* Set by SYNC: what is taken out of the destination goes there. */
	struct cowsnap_replaced *replaced;
	void *private;
	size_t private_size;
};

int cowsnap_walk(struct cowsnap_walk *walk);
void cowsnap_walk_add_rss(struct cowsnap_walk *walk);
int cowsnap_walk_ptes(struct cowsnap_walk *walk, struct cowsnap_span *span);
bool cowsnap_span_is_empty(struct cowsnap_walk *walk,
			   const struct cowsnap_span *span);
pmd_t *cowsnap_alloc_pmd(struct mm_struct *mm, unsigned long addr);
pmd_t cowsnap_read_pmd(struct mm_struct *mm, pmd_t *pmdp);
pmd_t *cowsnap_find_pmd(struct mm_struct *mm, unsigned long addr,
			unsigned long end, unsigned long *next);
pte_t *cowsnap_pte_lock(struct mm_struct *mm, pmd_t *pmd, unsigned long addr,
			spinlock_t **ptl);
void cowsnap_lock_both(spinlock_t *a, spinlock_t *b);
void cowsnap_unlock_both(spinlock_t *a, spinlock_t *b);
void cowsnap_lock_pmds(struct mm_struct *mm, const struct cowsnap_span *span);
void cowsnap_unlock_pmds(struct mm_struct *mm, const struct cowsnap_span *span);

/*
 * Can no more mappings be added to this page? References are counted in an int,
 * and nothing else limits how often a process may duplicate.
 */
static inline bool cowsnap_refs_exhausted(const struct folio *folio)
{
	return (unsigned int)folio_ref_count(folio) > INT_MAX / 2;
}

#endif /* COWSNAP_PGWALK_H */
