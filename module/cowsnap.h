/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Types and functions shared by the files of the module.
 */
#ifndef COWSNAP_H
#define COWSNAP_H

#include <linux/cowsnap.h>
#include <linux/mm_types.h>

struct unshare;

/*
 * One request on its way through the module. Ranges are half open and page
 * aligned from check_args() on.
 */
struct cowsnap_op {
	/* What the caller asked for. */
	struct mm_struct *mm;
	unsigned long src;
	unsigned long len;
	unsigned long dst;	/* becomes the address of the duplicate */
	u32 flags;
	u32 reserved;
	bool no_answer;		/* the caller's struct ends before dst */

	/* What check_src() found in the source. */
	unsigned int nr_vmas;
	unsigned long nr_pages;		/* mapped, holes left out */
	unsigned long nr_data;		/* of them, those RLIMIT_DATA counts */
	unsigned long nr_account;	/* of them, those the commit limit counts */
	unsigned long align;		/* size of the largest hugetlb page, or a page */

	/* What count_dst() found at the destination: FIXED frees it. */
	unsigned int freed_vmas;
	unsigned long freed_pages;
	unsigned long freed_account;

	/* What must be undone: commit charge that no vma owns yet. */
	unsigned long charged;
	bool src_cut;		/* mappings of the source cut at its ends */

	/* Pages that the first pass over the page tables left to the second. */
	unsigned long left;

	/* UNSHARE and DIFF only. */
	u32 node;
	struct cowsnap_range __user *vec;
	u64 vec_len;
	u64 offset;		/* DIFF begins there, and ended there */

	/* Results. */
	u64 shared;
	u64 copied;
	u64 reused;
	u64 changed;
	u64 nr;
	u64 fault_addr;
	u32 reason;
};

/*
 * Refuse the request because of what is at @addr. Returns @err, so that it
 * reads "return cowsnap_refuse(op, addr, COWSNAP_REASON_HOLE, -ENOMEM)".
 */
static inline int cowsnap_refuse(struct cowsnap_op *op, unsigned long addr,
				 enum cowsnap_reason reason, int err)
{
	op->fault_addr = addr;
	op->reason = reason;
	return err;
}

/* The page offset of @addr in its mapping, in base pages for hugetlb, too. */
static inline unsigned long cowsnap_file_pgoff(struct vm_area_struct *vma,
					       unsigned long addr)
{
	return vma->vm_pgoff + ((addr - vma->vm_start) >> PAGE_SHIFT);
}

#define COWSNAP_REMAP_FLAGS	(COWSNAP_REMAP_FIXED |			\
				 COWSNAP_REMAP_FIXED_NOREPLACE |	\
				 COWSNAP_REMAP_READONLY |		\
				 COWSNAP_REMAP_HOLES)

#define COWSNAP_UNSHARE_FLAGS	(COWSNAP_UNSHARE_REUSE | COWSNAP_UNSHARE_NODE)

/* range.c */
bool cowsnap_range_fits(unsigned long start, unsigned long len);
int cowsnap_check_range(struct cowsnap_op *op, unsigned long start,
			unsigned long len);
int cowsnap_check_flags(struct cowsnap_op *op, u32 known);
int cowsnap_check_pair(struct cowsnap_op *op);
int cowsnap_check_vma(struct cowsnap_op *op, struct vm_area_struct *vma,
		      unsigned long start, unsigned long end);
int cowsnap_check_vmas(struct cowsnap_op *op, unsigned long start,
		       unsigned long len);

int cowsnap_touch(struct cowsnap_op *op, struct vm_area_struct *vma,
		  unsigned long addr, unsigned int flags);

/* main.c */
int cowsnap_remap_answer(struct cowsnap_op *op);

/* remap.c */
int cowsnap_remap(struct cowsnap_op *op);
int cowsnap_make_writable(struct cowsnap_op *op, unsigned long addr);
int cowsnap_check_seals(struct cowsnap_op *op);
void cowsnap_unmap_complete(struct cowsnap_op *op, struct list_head *uf);

/* vma.c */
unsigned long cowsnap_dst_vm_flags(const struct cowsnap_op *op,
				   struct vm_area_struct *vma);
int cowsnap_reserve_vma(struct cowsnap_op *op, struct vm_area_struct *src_vma,
			unsigned long start, unsigned long end);
int cowsnap_unmap_dst(struct cowsnap_op *op, struct list_head *uf);

/* share.c */
int cowsnap_share(struct cowsnap_op *op);

/* unshare.c, diff.c, release.c, sync.c */
int cowsnap_unshare(struct cowsnap_op *op);
struct unshare *cowsnap_alloc_unshare(struct cowsnap_op *op);
int cowsnap_take_back(struct unshare *u);
int cowsnap_diff(struct cowsnap_op *op);
int cowsnap_release(struct cowsnap_op *op);
int cowsnap_sync(struct cowsnap_op *op);

#endif /* COWSNAP_H */
