// SPDX-License-Identifier: GPL-2.0
/*
 * What every command asks of the ranges it is given.
 */
#include "compat.h"
#include "cowsnap.h"
#include "hugetlb.h"

bool cowsnap_range_fits(unsigned long start, unsigned long len)
{
	return len <= TASK_SIZE && start <= TASK_SIZE - len;
}

/**
 * cowsnap_check_range - is that a range of whole pages in user space?
 * @op: the request; a refusal is left in it
 * @start: address
 * @len: bytes
 *
 * Return: 0 or -EINVAL.
 */
int cowsnap_check_range(struct cowsnap_op *op, unsigned long start,
			unsigned long len)
{
	if (!PAGE_ALIGNED(start | len))
		return cowsnap_refuse(op, start, COWSNAP_REASON_ALIGN, -EINVAL);
	if (!len)
		return cowsnap_refuse(op, start, COWSNAP_REASON_EMPTY, -EINVAL);
	if (!cowsnap_range_fits(start, len))
		return cowsnap_refuse(op, start, COWSNAP_REASON_OVERFLOW,
				      -EINVAL);
	return 0;
}

/* Are all flags of the request among the @known ones? 0 or -EOPNOTSUPP. */
int cowsnap_check_flags(struct cowsnap_op *op, u32 known)
{
	if (op->flags & ~known)
		return cowsnap_refuse(op, 0, COWSNAP_REASON_FLAG_UNKNOWN,
				      -EOPNOTSUPP);
	return 0;
}

/* All of a request that has no flags and is about two ranges, apart. */
int cowsnap_check_pair(struct cowsnap_op *op)
{
	int err = cowsnap_check_flags(op, 0);

	if (!err && op->reserved)
		err = cowsnap_refuse(op, 0, COWSNAP_REASON_RESERVED, -EINVAL);
	if (!err)
		err = cowsnap_check_range(op, op->src, op->len);
	if (!err)
		err = cowsnap_check_range(op, op->dst, op->len);
	if (!err && op->dst < op->src + op->len && op->src < op->dst + op->len)
		err = cowsnap_refuse(op, max(op->src, op->dst),
				     COWSNAP_REASON_OVERLAP, -EINVAL);
	return err;
}

/*
 * Files of a file system are mapped privately as page cache and, where written,
 * as anonymous memory; fork, mremap and every split open such a mapping once
 * more. What a driver means by a mapping it knows alone.
 */
static enum cowsnap_reason file_refusal(struct vm_area_struct *vma)
{
	/* Private /dev/zero has a file, and is anonymous in all other respects. */
	if (vma_is_anonymous(vma))
		return COWSNAP_REASON_NONE;
	if (vma_is_dax(vma))
		return COWSNAP_REASON_PFNMAP;
	if (!vma->vm_file || !S_ISREG(file_inode(vma->vm_file)->i_mode) ||
	    vma->vm_flags & VM_DONTEXPAND)
		return COWSNAP_REASON_SPECIAL;
	/* What cares where it is, or where it is cut, is not plain page cache. */
	if (vma->vm_ops->mremap || vma->vm_ops->may_split)
		return COWSNAP_REASON_SPECIAL;
	return COWSNAP_REASON_NONE;
}

/* Why this mapping cannot be duplicated, or COWSNAP_REASON_NONE. */
static enum cowsnap_reason vma_refusal(struct vm_area_struct *vma)
{
	if (vma->vm_flags & (VM_SHARED | VM_MAYSHARE))
		return COWSNAP_REASON_SHARED;
	if (vma->vm_ops && !vma->vm_file)
		return COWSNAP_REASON_SPECIAL;
	if (vma->vm_flags & (VM_PFNMAP | VM_IO | VM_MIXEDMAP))
		return COWSNAP_REASON_PFNMAP;
	if (is_vm_hugetlb_page(vma))
		return COWSNAP_REASON_NONE;
	if (vma->vm_flags & VM_WIPEONFORK)
		return COWSNAP_REASON_WIPEONFORK;
	if (vma->vm_flags & VM_SHADOW_STACK)
		return COWSNAP_REASON_SHADOW_STACK;
	return file_refusal(vma);
}

/* A huge page of hugetlb is worked on as a whole. */
static int check_huge_ends(struct cowsnap_op *op, struct vm_area_struct *vma,
			   unsigned long start, unsigned long end)
{
	unsigned long size;

	if (!is_vm_hugetlb_page(vma))
		return 0;
	size = huge_page_size(hstate_vma(vma));
	op->align = max(op->align, size);
	if (!IS_ALIGNED(start, size))
		return cowsnap_refuse(op, start, COWSNAP_REASON_ALIGN, -EINVAL);
	if (!IS_ALIGNED(end, size))
		return cowsnap_refuse(op, end, COWSNAP_REASON_ALIGN, -EINVAL);
	return 0;
}

/**
 * cowsnap_check_vma - can memory of this mapping be shared and taken back?
 * @op: the request; a refusal is left in it
 * @vma: the mapping
 * @start: of the part of it that lies in the range
 * @end: of that part
 *
 * Return: 0, -EOPNOTSUPP or -EINVAL.
 */
int cowsnap_check_vma(struct cowsnap_op *op, struct vm_area_struct *vma,
		      unsigned long start, unsigned long end)
{
	enum cowsnap_reason reason = vma_refusal(vma);

	if (reason)
		return cowsnap_refuse(op, start, reason, -EOPNOTSUPP);
	return check_huge_ends(op, vma, start, end);
}

/**
 * cowsnap_check_vmas - the same of all mappings of a range without a hole
 * @op: the request; a refusal is left in it
 * @start: of the range
 * @len: of the range
 *
 * Return: 0, -EOPNOTSUPP, -EINVAL, or -ENOMEM for a hole.
 */
int cowsnap_check_vmas(struct cowsnap_op *op, unsigned long start,
		       unsigned long len)
{
	unsigned long end = start + len, next;
	struct vm_area_struct *vma;
	int err;

	mmap_assert_locked(op->mm);
	for (; start < end; start = next) {
		vma = find_vma(op->mm, start);
		if (!vma || vma->vm_start > start)
			return cowsnap_refuse(op, start, COWSNAP_REASON_HOLE,
					      -ENOMEM);
		next = min(end, vma->vm_end);
		err = cowsnap_check_vma(op, vma, start, next);
		if (err)
			return err;
	}
	return 0;
}

/**
 * cowsnap_touch - as if @addr had been accessed
 * @op: the request; a refusal is left in it
 * @vma: the mapping; the mmap lock is held and stays so
 * @addr: address
 * @flags: FAULT_FLAG_WRITE or FAULT_FLAG_UNSHARE, or 0 to read
 *
 * The fault may not drop the mmap lock and so is not killable.
 *
 * Return: 0, -ENOMEM or -EOPNOTSUPP.
 */
int cowsnap_touch(struct cowsnap_op *op, struct vm_area_struct *vma,
		  unsigned long addr, unsigned int flags)
{
	vm_fault_t fault = VM_FAULT_OOM;

	if (!cowsnap_fault())
		fault = handle_mm_fault(vma, addr, flags | FAULT_FLAG_REMOTE,
					NULL);
	if (!(fault & VM_FAULT_ERROR))
		return 0;
	if (fault & VM_FAULT_OOM)
		return cowsnap_refuse(op, addr, COWSNAP_REASON_NO_MEMORY, -ENOMEM);
	/* What else hugetlb has to say of an exhausted pool. */
	if (is_vm_hugetlb_page(vma) && fault & VM_FAULT_SIGBUS)
		return cowsnap_refuse(op, addr, COWSNAP_REASON_HUGETLB_POOL,
				      -ENOMEM);
	return cowsnap_refuse(op, addr, COWSNAP_REASON_POISON, -EOPNOTSUPP);
}
