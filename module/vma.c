// SPDX-License-Identifier: GPL-2.0
/*
 * The vmas of the duplicate: what they take over from those of the source, what
 * they hold of a file, and how they are put where the rmap finds them.
 */
#include "compat.h"
#include "cowsnap.h"
#include "hugetlb.h"
#include "large.h"

/* What carries over to the duplicate of @vma. */
unsigned long cowsnap_dst_vm_flags(const struct cowsnap_op *op,
				   struct vm_area_struct *vma)
{
	unsigned long flags = vma->vm_flags;

	/* A seal on the duplicate could never be taken off again. */
	flags &= ~(VM_LOCKED_MASK | __VM_UFFD_FLAGS | VM_SEALED | VM_GROWSDOWN |
		   VM_GROWSUP | COWSNAP_NOT_SHARED_FLAGS);
	if (op->flags & COWSNAP_REMAP_READONLY)
		flags &= ~VM_WRITE;
	/* As mmap: all of a new mapping is news to a soft-dirty tracker. */
	return cowsnap_nohuge_flags(flags) | VM_SOFTDIRTY;
}

/* What a mapping of a file holds: a reference, and what its driver counts. */
static int open_file(struct vm_area_struct *vma, struct vm_area_struct *src_vma)
{
	if (is_vm_hugetlb_page(vma)) {
		if (cowsnap_open_hugetlb(vma, src_vma))
			return -ENOMEM;
	} else if (vma->vm_file) {
		get_file(vma->vm_file);
	}
	if (vma->vm_ops && vma->vm_ops->open)
		vma->vm_ops->open(vma);
	return 0;
}

/* A vma that is in no tree, with all it holds. */
static void free_vma(struct vm_area_struct *vma)
{
	if (vma->vm_ops && vma->vm_ops->close)
		vma->vm_ops->close(vma);
	if (vma->vm_file)
		fput(vma->vm_file);
	if (vma->vm_policy)
		ksym(__mpol_put)(vma->vm_policy);
	ksym(vm_area_free)(vma);
}

/*
 * A copy of @src_vma that is in no tree yet, for [start, end) of it. Its pages
 * and their rmap come later: insert_vm_struct() wants a vma without anon_vma.
 */
static struct vm_area_struct *new_vma(struct cowsnap_op *op,
				      struct vm_area_struct *src_vma,
				      unsigned long start, unsigned long end)
{
	unsigned long flags = cowsnap_dst_vm_flags(op, src_vma);
	struct vm_area_struct *vma;

	vma = ksym_or(NULL, vm_area_dup, src_vma);
	if (!vma)
		return NULL;
	vma->anon_vma = NULL;
	vma->vm_start = start - op->src + op->dst;
	vma->vm_end = end - op->src + op->dst;
	vma->vm_pgoff = cowsnap_file_pgoff(src_vma, start);
	vma->vm_userfaultfd_ctx = NULL_VM_UFFD_CTX;
	/* Its commit charge is ours already, see check_limits(). */
	cowsnap_set_vm_flags(vma, flags & ~VM_ACCOUNT);
	vma->vm_page_prot = vm_get_page_prot(flags);
	if (ksym_or(-ENOMEM, vma_dup_policy, src_vma, vma))
		goto err_free;
	if (open_file(vma, src_vma))
		goto err_policy;
	return vma;

err_policy:
	if (vma->vm_policy)
		ksym(__mpol_put)(vma->vm_policy);
err_free:
	ksym(vm_area_free)(vma);
	return NULL;
}

/*
 * A file finds its vmas by their page offset, which must be right before they
 * are linked to it, and not change from then on. insert_vm_struct() gives the
 * offset of its address to a vma that is anonymous, as one of /dev/zero is: it
 * passes for one that is not. Nobody faults in it meanwhile.
 *
 * The duplicate comes behind its source in the file's tree, as fork's child
 * does, because its offset is not smaller and equal ones keep their order.
 * Truncation therefore empties the source first, and finds in the duplicate
 * whatever was shared before.
 */
static int insert_vma(struct mm_struct *mm, struct vm_area_struct *vma)
{
	static const struct vm_operations_struct not_anonymous = {};
	bool is_dev_zero = vma->vm_file && vma_is_anonymous(vma);
	int err;

	if (is_dev_zero)
		vma->vm_ops = &not_anonymous;
	err = cowsnap_insert_vma(mm, vma);
	if (is_dev_zero)
		vma->vm_ops = NULL;
	return err;
}

/*
 * Link an inserted vma to where the source's pages have their rmap. The page
 * offset of the source makes linear_page_index() equal on both sides: with
 * another one reclaim and migration would not find the duplicate's entries.
 */
static int link_rmap(struct vm_area_struct *vma, struct vm_area_struct *src_vma,
		     unsigned long start)
{
	cowsnap_copy_pgoff(vma, src_vma, start);
	vma->anon_vma = src_vma->anon_vma;
	if (cowsnap_fault()) {
		vma->anon_vma = NULL;	/* as anon_vma_clone() leaves it */
		return -ENOMEM;
	}
	return cowsnap_anon_vma_clone(vma, src_vma);
}

/*
 * khugepaged frees empty page tables of file mappings, under the lock of the
 * file's tree, unless they have an anon_vma. Source and duplicate have one now;
 * whoever looked before that has finished when we get the lock.
 */
static void keep_page_tables(struct vm_area_struct *vma)
{
	struct address_space *mapping;

	if (vma_is_anonymous(vma))
		return;
	mapping = vma->vm_file->f_mapping;
	i_mmap_lock_write(mapping);
	i_mmap_unlock_write(mapping);
}

/**
 * cowsnap_reserve_vma - an empty vma for the duplicate of part of a mapping
 * @op: the request; it has taken the commit charge
 * @src_vma: the mapping
 * @start: of the part
 * @end: of the part
 *
 * Untouched memory gets its anon_vma now, so that both sides have the same one
 * and can share later. What a failure leaves in the tree is undone by unmapping
 * the duplicate.
 *
 * Return: 0 or -ENOMEM.
 */
int cowsnap_reserve_vma(struct cowsnap_op *op, struct vm_area_struct *src_vma,
			unsigned long start, unsigned long end)
{
	struct vm_area_struct *vma;
	unsigned long nr;
	int err;

	cowsnap_vma_start_write(src_vma);
	if (!src_vma->anon_vma &&
	    ksym_or(-ENOMEM, __anon_vma_prepare, src_vma))
		return -ENOMEM;
	vma = new_vma(op, src_vma, start, end);
	if (!vma)
		return -ENOMEM;
	if (insert_vma(op->mm, vma)) {
		free_vma(vma);
		return -ENOMEM;
	}
	nr = vma_pages(vma);
	if (src_vma->vm_flags & VM_ACCOUNT) {
		cowsnap_set_vm_flags(vma, vma->vm_flags | VM_ACCOUNT);
		op->charged -= nr;
	}
	ksym(vm_stat_account)(op->mm, vma->vm_flags, nr);
	err = link_rmap(vma, src_vma, start);
	if (!err)
		keep_page_tables(vma);
	return err;
}

/*
 * munmap of what is at the destination. Short of memory it would leave the first
 * cut of two. It wants little before it gives more back, so it may have what is
 * reserved for that; a second call cuts only what is not cut yet.
 */
int cowsnap_unmap_dst(struct cowsnap_op *op, struct list_head *uf)
{
	int err = ksym(do_munmap)(op->mm, op->dst, op->len, uf);
	unsigned int saved;

	if (err != -ENOMEM)
		return err;
	saved = memalloc_noreclaim_save();
	err = ksym(do_munmap)(op->mm, op->dst, op->len, uf);
	memalloc_noreclaim_restore(saved);
	return err;
}
