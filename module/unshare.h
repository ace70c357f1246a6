/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The walk of UNSHARE, see unshare.c.
 */
#ifndef COWSNAP_UNSHARE_WALK_H
#define COWSNAP_UNSHARE_WALK_H

#include "compat.h"
#include "cowsnap.h"

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
	int home;		/* node of the caller, for who works for him */
	unsigned int nr_spare;
	struct page *spare[BATCH];	/* for the copies of a batch */
	unsigned int nr;
	struct shared_page pages[BATCH];
};

static inline bool cowsnap_only_reuse(const struct unshare *u)
{
	return u->op->flags & COWSNAP_UNSHARE_REUSE;
}

struct folio *cowsnap_alloc_copy(struct unshare *u, unsigned long addr,
				 unsigned int order);
int cowsnap_copy_page(struct unshare *u, struct page *to, struct page *from,
		      unsigned long addr);

#ifdef CONFIG_TRANSPARENT_HUGEPAGE
int cowsnap_unshare_huge(struct unshare *u, pmd_t *pmdp, unsigned long addr,
			 unsigned long end);
#else
static inline int cowsnap_unshare_huge(struct unshare *u, pmd_t *pmdp,
				       unsigned long addr, unsigned long end)
{
	WARN_ON_ONCE(1);
	return -EIO;
}
#endif

#endif /* COWSNAP_UNSHARE_WALK_H */
