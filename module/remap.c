// SPDX-License-Identifier: GPL-2.0
/*
 * COWSNAP_REMAP: check, reserve, share, unwind.
 *
 *	check_args	what the request says of itself
 *	check_src	every mapping of the source can be duplicated
 *	choose_dst	where the duplicate goes, nothing in the way
 *	check_limits	max_map_count, rlimits; take the commit charge
 *	nohuge_prepare	on some kernels, see large.c
 *	replace_dst	FIXED: from here on what stood there is gone
 *	reserve_dst	one empty vma for each vma of the source (vma.c)
 *	cowsnap_share	fill their page tables (share.c)
 *	cowsnap_remap_answer	tell the caller where it is (main.c)
 *	nohuge_commit	see large.c
 *
 * Everything under one hold of the mmap lock, for writing. All that fails after
 * replace_dst is undone by unmapping the duplicate.
 */
#include "compat.h"
#include "cowsnap.h"
#include "hugetlb.h"
#include "large.h"

static unsigned long op_src_end(const struct cowsnap_op *op)
{
	return op->src + op->len;
}

static unsigned long op_dst_end(const struct cowsnap_op *op)
{
	return op->dst + op->len;
}

static bool op_overlaps(const struct cowsnap_op *op, unsigned long dst)
{
	return dst < op_src_end(op) && op->src < dst + op->len;
}

/* Each hugetlb page of the source is at such an address in the duplicate, too. */
static bool op_is_congruent(const struct cowsnap_op *op, unsigned long dst)
{
	return !op->align || IS_ALIGNED(dst - op->src, op->align);
}

static bool op_has_fixed_dst(const struct cowsnap_op *op)
{
	return op->flags & (COWSNAP_REMAP_FIXED | COWSNAP_REMAP_FIXED_NOREPLACE);
}

static int check_flags(struct cowsnap_op *op)
{
	const u32 both = COWSNAP_REMAP_FIXED | COWSNAP_REMAP_FIXED_NOREPLACE;
	int err = cowsnap_check_flags(op, COWSNAP_REMAP_FLAGS);

	if (err)
		return err;
	if ((op->flags & both) == both)
		return cowsnap_refuse(op, 0, COWSNAP_REASON_FLAG_CONFLICT,
				      -EINVAL);
	return 0;
}

static int check_args(struct cowsnap_op *op)
{
	int err = check_flags(op);

	if (err)
		return err;
	if (op->reserved)
		return cowsnap_refuse(op, 0, COWSNAP_REASON_RESERVED, -EINVAL);
	if (PAGE_ALIGNED(op->src | op->len) && !PAGE_ALIGNED(op->dst))
		return cowsnap_refuse(op, op->dst, COWSNAP_REASON_ALIGN, -EINVAL);
	err = cowsnap_check_range(op, op->src, op->len);
	if (err)
		return err;
	/* A duplicate that nobody knows of: there is no room to say where it is. */
	if (op->no_answer)
		return cowsnap_refuse(op, 0, COWSNAP_REASON_RESULT, -EFAULT);
	if (!op_has_fixed_dst(op))
		return 0;
	if (!cowsnap_range_fits(op->dst, op->len))
		return cowsnap_refuse(op, op->dst, COWSNAP_REASON_OVERFLOW,
				      -EINVAL);
	if (op_overlaps(op, op->dst))
		return cowsnap_refuse(op, max(op->src, op->dst),
				      COWSNAP_REASON_OVERLAP, -EINVAL);
	return 0;
}

/* What RLIMIT_DATA counts: is_data_mapping() of the kernel. */
static bool is_data(unsigned long vm_flags)
{
	return (vm_flags & (VM_WRITE | VM_SHARED | VM_STACK)) == VM_WRITE;
}

static void count_vma(struct cowsnap_op *op, struct vm_area_struct *vma,
		      unsigned long nr)
{
	unsigned long flags = cowsnap_dst_vm_flags(op, vma);

	op->nr_vmas++;
	op->nr_pages += nr;
	if (is_data(flags))
		op->nr_data += nr;
	if (flags & VM_ACCOUNT)
		op->nr_account += nr;
}

/* Only who makes a duplicate cares about owners of hugetlb memory, see there. */
static int check_src_vma(struct cowsnap_op *op, struct vm_area_struct *vma,
			 unsigned long start, unsigned long end)
{
	enum cowsnap_reason reason = COWSNAP_REASON_NONE;
	int err = cowsnap_check_vma(op, vma, start, end);

	if (!err && is_vm_hugetlb_page(vma))
		reason = cowsnap_hugetlb_refusal(vma);
	if (reason)
		return cowsnap_refuse(op, start, reason, -EOPNOTSUPP);
	return err;
}

static int check_src(struct cowsnap_op *op)
{
	unsigned long addr = op->src, end = op_src_end(op);
	bool holes = op->flags & COWSNAP_REMAP_HOLES;
	struct vm_area_struct *vma;
	int err;

	while (addr < end) {
		vma = find_vma(op->mm, addr);
		if ((!vma || vma->vm_start > addr) && !holes)
			return cowsnap_refuse(op, addr, COWSNAP_REASON_HOLE,
					      -ENOMEM);
		if (!vma || vma->vm_start >= end)
			return 0;
		addr = max(addr, vma->vm_start);
		err = check_src_vma(op, vma, addr, min(end, vma->vm_end));
		if (err)
			return err;
		count_vma(op, vma, (min(end, vma->vm_end) - addr) >> PAGE_SHIFT);
		addr = vma->vm_end;
	}
	return 0;
}

/* FIXED: a sealed mapping stays; do_munmap() would only say -EPERM. */
int cowsnap_check_seals(struct cowsnap_op *op)
{
	VMA_ITERATOR(vmi, op->mm, op->dst);
	struct vm_area_struct *vma;

	for_each_vma_range(vmi, vma, op_dst_end(op))
		if (vma->vm_flags & VM_SEALED)
			return cowsnap_refuse(op, max(op->dst, vma->vm_start),
					      COWSNAP_REASON_SEALED, -EPERM);
	return 0;
}

/*
 * FIXED: some mappings cannot be cut anywhere, those of hugetlb within a page.
 * munmap finds that out of one end when it has cut what is at the other.
 */
static int check_cut(struct cowsnap_op *op, unsigned long addr)
{
	struct vm_area_struct *vma = vma_lookup(op->mm, addr);

	if (!vma || vma->vm_start == addr || !vma->vm_ops ||
	    !vma->vm_ops->may_split || !vma->vm_ops->may_split(vma, addr))
		return 0;
	return cowsnap_refuse(op, addr, COWSNAP_REASON_ALIGN, -EINVAL);
}

static int check_replaced(struct cowsnap_op *op)
{
	int err = cowsnap_check_seals(op);

	if (!err)
		err = check_cut(op, op->dst);
	return err ?: check_cut(op, op_dst_end(op));
}

static int check_fixed_dst(struct cowsnap_op *op)
{
	struct vm_area_struct *vma;
	unsigned long addr;

	if (!op_is_congruent(op, op->dst))
		return cowsnap_refuse(op, op->dst, COWSNAP_REASON_ALIGN, -EINVAL);
	addr = cowsnap_get_unmapped_area(op->dst, op->len, MAP_FIXED);
	if (addr == (unsigned long)-EPERM)
		return cowsnap_refuse(op, op->dst, COWSNAP_REASON_MIN_ADDR,
				      -EPERM);
	if (IS_ERR_VALUE(addr))
		return cowsnap_refuse(op, op->dst, COWSNAP_REASON_OVERFLOW,
				      -EINVAL);
	if (op->flags & COWSNAP_REMAP_FIXED)
		return check_replaced(op);
	vma = find_vma_intersection(op->mm, op->dst, op_dst_end(op));
	if (vma)
		return cowsnap_refuse(op, max(op->dst, vma->vm_start),
				      COWSNAP_REASON_EXISTS, -EEXIST);
	return 0;
}

/* The next address from @addr on that is @src modulo @align. */
static unsigned long congruent(unsigned long addr, unsigned long src,
			       unsigned long align)
{
	return addr + ((src - addr) & (align - 1));
}

/*
 * A free range of our own choice, congruent to the source modulo the size of a
 * huge page, the largest in it. With HOLES what is free may reach into the source: of a window of
 * three times the length at most one end can.
 */
static int find_room(struct cowsnap_op *op)
{
	unsigned long align = max(op->align, PMD_SIZE);
	unsigned long room = op->len + align, addr;

	addr = cowsnap_get_unmapped_area(0, room, 0);
	if (IS_ERR_VALUE(addr))
		return -ENOMEM;
	op->dst = congruent(addr, op->src, align);
	if (!op_overlaps(op, op->dst))
		return 0;
	if (op->len > (TASK_SIZE - align) / 3)
		return -ENOMEM;
	addr = cowsnap_get_unmapped_area(0, room + 2 * op->len, 0);
	if (IS_ERR_VALUE(addr))
		return -ENOMEM;
	op->dst = congruent(addr, op->src, align);
	if (op_overlaps(op, op->dst))
		op->dst = congruent(addr + 2 * op->len, op->src, align);
	return 0;
}

static int choose_dst(struct cowsnap_op *op)
{
	unsigned long hint = op->dst;

	if (op_has_fixed_dst(op))
		return check_fixed_dst(op);
	if (hint && cowsnap_range_fits(hint, op->len) && !op_overlaps(op, hint) &&
	    op_is_congruent(op, hint) &&
	    cowsnap_get_unmapped_area(hint, op->len, 0) == hint)
		return 0;
	if (find_room(op))
		return cowsnap_refuse(op, hint, COWSNAP_REASON_NO_ROOM, -ENOMEM);
	return 0;
}

/* What FIXED will unmap makes room under every limit, as it does for mmap. */
static void count_dst(struct cowsnap_op *op)
{
	VMA_ITERATOR(vmi, op->mm, op->dst);
	struct vm_area_struct *vma;
	unsigned long start, end, nr;

	for_each_vma_range(vmi, vma, op_dst_end(op)) {
		start = max(op->dst, vma->vm_start);
		end = min(op_dst_end(op), vma->vm_end);
		nr = (end - start) >> PAGE_SHIFT;
		op->freed_pages += nr;
		if (vma->vm_flags & VM_ACCOUNT)
			op->freed_account += nr;
		if (start == vma->vm_start && end == vma->vm_end)
			op->freed_vmas++;
	}
}

static bool within_map_count(struct cowsnap_op *op)
{
	unsigned int max = *ksym_data(sysctl_max_map_count);
	/* Unmapping the middle of a mapping adds one. */
	unsigned int split = op->flags & COWSNAP_REMAP_FIXED ? 1 : 0;
	unsigned int before = op->mm->map_count + cowsnap_nohuge_splits(op);

	/* The source is cut before anything is freed. */
	return before <= max &&
	       before + op->nr_vmas + split <= max + op->freed_vmas;
}

static bool within_rlimits(struct cowsnap_op *op)
{
	unsigned long nr = op->nr_pages - min(op->nr_pages, op->freed_pages);

	if (nr && !cowsnap_may_expand_vm(op->mm, VM_NONE, nr))
		return false;
	nr = op->nr_data - min(op->nr_data, op->freed_pages);
	return !nr || cowsnap_may_expand_vm(op->mm, VM_WRITE, nr);
}

/* Take commit charge for @nr pages; reserve_vma() hands it to the vmas. */
static int charge(struct cowsnap_op *op, unsigned long nr)
{
	if (nr && ksym_or(-ENOMEM, security_vm_enough_memory_mm, op->mm, nr))
		return cowsnap_refuse(op, op->src, COWSNAP_REASON_COMMIT,
				      -ENOMEM);
	op->charged += nr;
	return 0;
}

static int check_limits(struct cowsnap_op *op)
{
	if (op->flags & COWSNAP_REMAP_FIXED)
		count_dst(op);
	if (!within_map_count(op))
		return cowsnap_refuse(op, op->src, COWSNAP_REASON_MAP_COUNT,
				      -ENOMEM);
	if (!within_rlimits(op))
		return cowsnap_refuse(op, op->src, COWSNAP_REASON_RLIMIT,
				      -ENOMEM);
	return charge(op, op->nr_account - min(op->nr_account, op->freed_account));
}

static int replace_dst(struct cowsnap_op *op, struct list_head *uf)
{
	int err;

	if (!(op->flags & COWSNAP_REMAP_FIXED))
		return 0;
	err = cowsnap_fault() ? -ENOMEM : cowsnap_unmap_dst(op, uf);
	/* What was just given back is charged again, for the duplicate. */
	if (!err)
		return charge(op, op->nr_account - op->charged);
	return cowsnap_refuse(op, op->src, COWSNAP_REASON_NO_MEMORY, err);
}

static int reserve_dst(struct cowsnap_op *op)
{
	unsigned long addr = op->src, end = op_src_end(op), next;
	struct vm_area_struct *vma;

	for (; addr < end; addr = next) {
		vma = find_vma(op->mm, addr);
		if (!vma || vma->vm_start >= end)
			return 0;
		addr = max(addr, vma->vm_start);
		next = min(end, vma->vm_end);
		if (cowsnap_killed())
			return cowsnap_refuse(op, addr, COWSNAP_REASON_SIGNAL,
					      -EINTR);
		if (cowsnap_reserve_vma(op, vma, addr, next))
			return cowsnap_refuse(op, addr,
					      COWSNAP_REASON_NO_MEMORY, -ENOMEM);
	}
	return 0;
}

/*
 * The range was free before or replaced by us, and the lock was not dropped:
 * what is mapped there is ours. No vma is split, so it does not fail for the
 * mapping limit.
 */
static void unmap_dst(struct cowsnap_op *op)
{
	int err = ksym(do_munmap)(op->mm, op->dst, op->len, NULL);

	/* A task that is being killed may be denied memory; exit does the rest. */
	WARN_ON_ONCE(err && !fatal_signal_pending(current));
}

/**
 * cowsnap_make_writable - make memory of the caller writable, if that is possible
 * @op: the request, after cowsnap_share() has succeeded
 * @addr: the address
 *
 * For a store under the mmap lock, held for writing. No fault may drop it, so
 * what only another thread can bring in, as with userfaultfd, fails.
 *
 * Return: 0, or an error.
 */
int cowsnap_make_writable(struct cowsnap_op *op, unsigned long addr)
{
	struct vm_area_struct *vma;
	unsigned long flags;
	int err;

	mmap_assert_write_locked(op->mm);
	addr = untagged_addr(addr);
	vma = vma_lookup(op->mm, addr);
	if (!vma)
		return -EFAULT;
	flags = vma->vm_flags;
	/* Only nohuge_commit() keeps the source from being read in as large folios. */
	if (op->src <= addr && addr < op_src_end(op))
		cowsnap_set_vm_flags(vma, cowsnap_nohuge_now(flags));
	err = fixup_user_fault(op->mm, addr, FAULT_FLAG_WRITE, NULL);
	if (op->src <= addr && addr < op_src_end(op))
		cowsnap_set_vm_flags(vma, flags);
	return err;
}

void cowsnap_unmap_complete(struct cowsnap_op *op, struct list_head *uf)
{
#ifdef CONFIG_USERFAULTFD
	/* Tells the monitors of what FIXED has unmapped; may sleep for them. */
	ksym(userfaultfd_unmap_complete)(op->mm, uf);
#endif
}

static int duplicate(struct cowsnap_op *op, struct list_head *uf)
{
	int err = check_src(op);

	if (!err)
		err = choose_dst(op);
	if (!err)
		err = check_limits(op);
	if (err)
		return err;
	err = cowsnap_nohuge_prepare(op);
	if (err)
		goto out_uncharge;
	err = replace_dst(op, uf);
	if (err)
		goto out_join;
	err = reserve_dst(op);
	if (!err)
		err = cowsnap_share(op);
	if (!err)
		err = cowsnap_remap_answer(op);
	if (err) {
		unmap_dst(op);
		goto out_join;
	}
	cowsnap_nohuge_commit(op);
	goto out_uncharge;
out_join:
	cowsnap_nohuge_undo(op);
out_uncharge:
	cowsnap_unacct_memory(op->charged);
	return err;
}

/**
 * cowsnap_remap - duplicate [src, src + len) of op->mm, copy-on-write
 * @op: the request; results, reason and address are left in it
 *
 * Context: process context of a task that uses op->mm; takes its mmap lock.
 * Return: 0 or what include/uapi says of COWSNAP_REMAP.
 */
int cowsnap_remap(struct cowsnap_op *op)
{
	int err = check_args(op);
	LIST_HEAD(uf);

	if (err)
		return err;
	/* Who sets a probe in a file has listed all mappings of it, or none of ours. */
	cowsnap_uprobes_wait(true);
	if (cowsnap_fault_once() || mmap_write_lock_killable(op->mm)) {
		err = cowsnap_refuse(op, op->src, COWSNAP_REASON_SIGNAL, -EINTR);
	} else {
		err = duplicate(op, &uf);
		mmap_write_unlock(op->mm);
	}
	cowsnap_uprobes_wait(false);
	cowsnap_unmap_complete(op, &uf);
	return err;
}
