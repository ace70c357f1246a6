/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Large folios on kernels with CONFIG_MM_ID, see large.c. Elsewhere they are
 * shared as they are, and nothing of this exists.
 */
#ifndef COWSNAP_LARGE_H
#define COWSNAP_LARGE_H

#include "pgwalk.h"

/* What is to be done with a page that the duplicate shall have, too. */
enum large_rule {
	LARGE_SHARE,
	LARGE_SPLIT,	/* its folio first, then look again */
	LARGE_COPY,
};

#ifdef CONFIG_MM_ID
#define COWSNAP_HUGE_WHOLE	0

bool cowsnap_vma_has_relatives(struct vm_area_struct *vma);
bool cowsnap_swap_has_strangers(void);
bool cowsnap_leaves_swap_cache(struct folio *folio);
bool cowsnap_swap_needs_fault(struct cowsnap_walk *walk, pte_t pte);
void cowsnap_split(struct cowsnap_walk *walk, struct folio *folio);
unsigned int cowsnap_nohuge_splits(struct cowsnap_op *op);
int cowsnap_nohuge_prepare(struct cowsnap_op *op);
void cowsnap_nohuge_undo(struct cowsnap_op *op);
void cowsnap_nohuge_commit(struct cowsnap_op *op);
void cowsnap_large_init(void);

/* The flags of a mapping in which no large folio may come to be. */
static inline unsigned long cowsnap_nohuge_flags(unsigned long flags)
{
	if (flags & VM_HUGETLB)
		return flags;
	return (flags & ~VM_HUGEPAGE) | VM_NOHUGEPAGE;
}

/*
 * The same while a fault is served. Others must not take it for what will stay,
 * so it is both flags: no mapping has them otherwise, and the one that forbids
 * comes first.
 */
static inline unsigned long cowsnap_nohuge_now(unsigned long flags)
{
	if (flags & (VM_HUGETLB | VM_NOHUGEPAGE))
		return flags;
	return flags | VM_HUGEPAGE | VM_NOHUGEPAGE;
}

/* What the duplicate must not have, of the source's flags. */
#define COWSNAP_NOT_SHARED_FLAGS	VM_MERGEABLE

/* Page-table lock held. */
static inline enum large_rule cowsnap_large_rule(struct cowsnap_walk *walk,
						 struct folio *folio,
						 struct page *page)
{
	if (unlikely(walk->has_relatives) && !PageAnonExclusive(page))
		return LARGE_COPY;
	if (unlikely(walk->has_strangers) && !PageAnonExclusive(page) &&
	    folio_test_swapcache(folio) && !cowsnap_leaves_swap_cache(folio))
		return LARGE_COPY;
	if (likely(!folio_test_large(folio)))
		return LARGE_SHARE;
	return folio == walk->unsplit ? LARGE_COPY : LARGE_SPLIT;
}
#else
#define COWSNAP_HUGE_WHOLE	IS_ENABLED(CONFIG_TRANSPARENT_HUGEPAGE)

static inline bool cowsnap_vma_has_relatives(struct vm_area_struct *vma)
{
	return false;
}

static inline bool cowsnap_swap_has_strangers(void)
{
	return false;
}

static inline bool cowsnap_swap_needs_fault(struct cowsnap_walk *walk, pte_t pte)
{
	return false;
}

static inline void cowsnap_split(struct cowsnap_walk *walk, struct folio *folio)
{
}

static inline unsigned int cowsnap_nohuge_splits(struct cowsnap_op *op)
{
	return 0;
}

static inline int cowsnap_nohuge_prepare(struct cowsnap_op *op)
{
	return 0;
}

static inline void cowsnap_nohuge_undo(struct cowsnap_op *op) { }
static inline void cowsnap_nohuge_commit(struct cowsnap_op *op) { }
static inline void cowsnap_large_init(void) { }

static inline unsigned long cowsnap_nohuge_flags(unsigned long flags)
{
	return flags;
}

static inline unsigned long cowsnap_nohuge_now(unsigned long flags)
{
	return flags;
}

#define COWSNAP_NOT_SHARED_FLAGS	VM_NONE

static inline enum large_rule cowsnap_large_rule(struct cowsnap_walk *walk,
						 struct folio *folio,
						 struct page *page)
{
	return LARGE_SHARE;
}
#endif

#endif /* COWSNAP_LARGE_H */
