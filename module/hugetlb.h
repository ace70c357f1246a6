/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Private hugetlb mappings, see hugetlb.c.
 */
#ifndef COWSNAP_HUGETLB_H
#define COWSNAP_HUGETLB_H

#include "pgwalk.h"

#ifdef CONFIG_HUGETLB_PAGE
enum cowsnap_reason cowsnap_hugetlb_refusal(struct vm_area_struct *vma);
int cowsnap_open_hugetlb(struct vm_area_struct *vma,
			 struct vm_area_struct *src_vma);
int cowsnap_share_hugetlb(struct cowsnap_walk *walk, unsigned long addr);
int cowsnap_copy_hugetlb(struct cowsnap_walk *walk, unsigned long addr);
int cowsnap_unshare_hugetlb(struct cowsnap_op *op, struct vm_area_struct *vma,
			    unsigned long *addr, unsigned long end);
bool cowsnap_hugetlb_same(struct vm_area_struct *a, unsigned long addr_a,
			  struct vm_area_struct *b, unsigned long addr_b,
			  bool same_file);
#else
static inline enum cowsnap_reason
cowsnap_hugetlb_refusal(struct vm_area_struct *vma)
{
	return COWSNAP_REASON_HUGETLB;
}

static inline int cowsnap_open_hugetlb(struct vm_area_struct *vma,
				       struct vm_area_struct *src_vma)
{
	return -EOPNOTSUPP;
}

static inline int cowsnap_unshare_hugetlb(struct cowsnap_op *op,
					  struct vm_area_struct *vma,
					  unsigned long *addr, unsigned long end)
{
	return -EOPNOTSUPP;
}

static inline bool cowsnap_hugetlb_same(struct vm_area_struct *a,
					unsigned long addr_a,
					struct vm_area_struct *b,
					unsigned long addr_b, bool same_file)
{
	return false;
}

#define cowsnap_share_hugetlb	NULL
#define cowsnap_copy_hugetlb	NULL
#endif

#endif /* COWSNAP_HUGETLB_H */
