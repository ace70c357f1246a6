/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Every difference between the supported kernels, and nothing else. The rest of
 * the module reads as if written for the newest of them.
 */
#ifndef COWSNAP_COMPAT_H
#define COWSNAP_COMPAT_H

#include <linux/highmem.h>
#include <linux/huge_mm.h>
#include <linux/hugetlb.h>
#include <linux/kallsyms.h>
#include <linux/memcontrol.h>
#include <linux/mempolicy.h>
#include <linux/mm.h>
#include <linux/mm_inline.h>
#include <linux/mman.h>
#include <linux/mmu_notifier.h>
#include <linux/pgtable.h>
#include <linux/rmap.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/security.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include <linux/userfaultfd_k.h>
#include <linux/version.h>
#include <asm/pgalloc.h>
#include <asm/tlbflush.h>

#define COWSNAP_KERNEL(a, b) \
	(LINUX_VERSION_CODE >= KERNEL_VERSION(a, b, 0) && \
	 LINUX_VERSION_CODE < KERNEL_VERSION(a, (b) + 1, 0))

#if !COWSNAP_KERNEL(6, 1) && !COWSNAP_KERNEL(6, 12)
#error "cowsnap supports Linux 6.1 and 6.12; these headers are of another version"
#endif
#if !defined(CONFIG_MMU) || !defined(CONFIG_64BIT) || defined(CONFIG_HIGHPTE)
#error "cowsnap supports 64-bit kernels with an MMU"
#endif
#if !defined(CONFIG_KPROBES) || !defined(CONFIG_KALLSYMS_ALL) || !defined(CONFIG_SWAP) || \
	!defined(CONFIG_MEMCG) || !defined(CONFIG_MIGRATION) || !defined(CONFIG_MMU_NOTIFIER) || \
	!defined(CONFIG_NUMA) || !defined(CONFIG_SECURITY)
#error "cowsnap needs KPROBES, KALLSYMS_ALL, SWAP, MEMCG, MIGRATION, MMU_NOTIFIER, NUMA and SECURITY in the kernel configuration"
#endif
#ifdef CONFIG_MM_ID
#error "cowsnap cannot share large folios on kernels with CONFIG_MM_ID"
#endif

#if COWSNAP_KERNEL(6, 12)
#define COWSNAP_KSYM_FUNCS_VERSION(F)		\
	F(folio_add_new_anon_rmap)		\
	F(folio_add_lru_vma)			\
	F(__get_unmapped_area)
#else
#define COWSNAP_KSYM_FUNCS_VERSION(F)		\
	F(page_add_new_anon_rmap)		\
	F(lru_cache_add_inactive_or_unevictable)
#endif

#ifdef CONFIG_X86
/* asm/tlbflush.h hides this one from modules. */
void flush_tlb_mm_range(struct mm_struct *mm, unsigned long start,
			unsigned long end, unsigned int stride_shift,
			bool freed_tables);
#define COWSNAP_KSYM_FUNCS_ARCH(F)		\
	F(flush_tlb_mm_range)
#else
#define COWSNAP_KSYM_FUNCS_ARCH(F)
#endif

#define COWSNAP_KSYM_FUNCS_COMPAT(F)		\
	COWSNAP_KSYM_FUNCS_VERSION(F)		\
	COWSNAP_KSYM_FUNCS_ARCH(F)

#include "ksyms.h"

#ifndef VM_SHADOW_STACK
#define VM_SHADOW_STACK	VM_NONE
#endif
#ifndef VM_SEALED
#define VM_SEALED	VM_NONE
#endif
#ifndef VM_LOCKED_MASK
#define VM_LOCKED_MASK	(VM_LOCKED | VM_LOCKONFAULT)
#endif

/* Flush the TLBs of every CPU that runs @mm, as fork does with its parent. */
static inline void cowsnap_flush_tlb(struct mm_struct *mm, unsigned long start,
				     unsigned long end)
{
#ifdef CONFIG_X86
	ksym(flush_tlb_mm_range)(mm, start, end, PAGE_SHIFT,
				 /* freed_tables= */false);
#else
	struct vm_area_struct vma = { .vm_mm = mm };

	flush_tlb_range(&vma, start, end);
#endif
}

/* add_mm_counter(), whose trace hook is not exported. */
static inline void cowsnap_add_rss(struct mm_struct *mm, int member, long nr)
{
#if COWSNAP_KERNEL(6, 12)
	percpu_counter_add(&mm->rss_stat[member], nr);
	ksym(mm_trace_rss_stat)(mm, member);
#else
	long count = atomic_long_add_return(nr, &mm->rss_stat.count[member]);

	ksym(mm_trace_rss_stat)(mm, member, count);
#endif
}

/* vm_unacct_memory(), whose counter is not exported. */
static inline void cowsnap_unacct_memory(unsigned long nr)
{
	percpu_counter_sub(ksym_data(vm_committed_as), nr);
}

/*
 * An address for @len bytes, checked as mmap(2) checks it: with MAP_FIXED @addr
 * itself, otherwise @addr when it is free or one that the kernel chooses.
 */
static inline unsigned long cowsnap_get_unmapped_area(unsigned long addr,
						      unsigned long len,
						      unsigned long flags)
{
	flags |= MAP_PRIVATE | MAP_ANONYMOUS;
#if COWSNAP_KERNEL(6, 12)
	return ksym(__get_unmapped_area)(NULL, addr, len, 0, flags, VM_NONE);
#else
	return get_unmapped_area(NULL, addr, len, 0, flags);
#endif
}

/* For a vma that is in no tree yet, or write-locked since it was inserted. */
static inline void cowsnap_set_vm_flags(struct vm_area_struct *vma,
					unsigned long flags)
{
#if COWSNAP_KERNEL(6, 12)
	vm_flags_init(vma, flags);
#else
	vma->vm_flags = flags;
#endif
}

/*
 * insert_vm_struct() of a vma without VM_ACCOUNT. When linking fails, 6.1 gives
 * back a commit charge that was never taken: take it again.
 */
static inline int cowsnap_insert_vma(struct mm_struct *mm,
				     struct vm_area_struct *vma)
{
	int err;

	if (cowsnap_fault())
		return -ENOMEM;
	err = ksym(insert_vm_struct)(mm, vma);
#if COWSNAP_KERNEL(6, 1)
	if (err)
		percpu_counter_add(ksym_data(vm_committed_as), vma_pages(vma));
#endif
	return err;
}

/* Keep page faults that take only the lock of the vma out of it. */
static inline void cowsnap_vma_start_write(struct vm_area_struct *vma)
{
#if COWSNAP_KERNEL(6, 12)
	vma_start_write(vma);
#endif
}

/*
 * mmu_notifier_invalidate_range_start() and _end() without their lockdep map.
 * Registering a notifier takes the mmap lock for writing, which the caller
 * holds: both ends see the same answer of mm_has_notifiers().
 */
static inline void cowsnap_notify_start(struct mmu_notifier_range *range,
					struct mm_struct *mm,
					unsigned long start, unsigned long end)
{
#if COWSNAP_KERNEL(6, 12)
	mmu_notifier_range_init(range, MMU_NOTIFY_PROTECTION_PAGE, 0, mm,
				start, end);
#else
	mmu_notifier_range_init(range, MMU_NOTIFY_PROTECTION_PAGE, 0, NULL, mm,
				start, end);
#endif
	might_sleep();
	if (mm_has_notifiers(mm)) {
		range->flags |= MMU_NOTIFIER_RANGE_BLOCKABLE;
		ksym(__mmu_notifier_invalidate_range_start)(range);
	}
}

static inline void cowsnap_notify_end(struct mmu_notifier_range *range)
{
	if (!mm_has_notifiers(range->mm))
		return;
#if COWSNAP_KERNEL(6, 12)
	ksym(__mmu_notifier_invalidate_range_end)(range);
#else
	ksym(__mmu_notifier_invalidate_range_end)(range, /* only_end= */false);
#endif
}

/*
 * Raise the map count of an anonymous page for the duplicate's entry and mark
 * it shared. -EBUSY when it may be pinned, which has changed nothing. Page-table
 * lock held, write_protect_seq raised.
 */
static inline int cowsnap_dup_rmap_pte(struct folio *folio, struct page *page,
				       struct vm_area_struct *src_vma)
{
#if COWSNAP_KERNEL(6, 12)
	return folio_try_dup_anon_rmap_pte(folio, page, src_vma);
#else
	return page_try_dup_anon_rmap(page, /* compound= */false, src_vma);
#endif
}

static inline int cowsnap_dup_rmap_pmd(struct folio *folio, struct page *page,
				       struct vm_area_struct *src_vma)
{
#if COWSNAP_KERNEL(6, 12)
	return folio_try_dup_anon_rmap_pmd(folio, page, src_vma);
#else
	return page_try_dup_anon_rmap(page, /* compound= */true, src_vma);
#endif
}

/* Make a new folio an exclusive anonymous page of @vma at @addr. */
static inline void cowsnap_add_new_folio(struct folio *folio,
					 struct vm_area_struct *vma,
					 unsigned long addr)
{
	__folio_mark_uptodate(folio);
#if COWSNAP_KERNEL(6, 12)
	ksym(folio_add_new_anon_rmap)(folio, vma, addr, RMAP_EXCLUSIVE);
	ksym(folio_add_lru_vma)(folio, vma);
#else
	ksym(page_add_new_anon_rmap)(&folio->page, vma, addr);
	ksym(lru_cache_add_inactive_or_unevictable)(&folio->page, vma);
#endif
}

/* pte_mkwrite() for private memory that is not a shadow stack. */
static inline pte_t cowsnap_pte_mkwrite(pte_t pte)
{
#if COWSNAP_KERNEL(6, 12)
	pte = pte_mkwrite_novma(pte);
#ifdef CONFIG_X86
	pte = pte_clear_saveddirty(pte);
#endif
	return pte;
#else
	return pte_mkwrite(pte);
#endif
}

/*
 * What of a pte marker belongs into a duplicate, which is registered with no
 * userfaultfd: poison does, uffd-wp does not. 6.1 has only uffd-wp markers.
 */
static inline bool cowsnap_marker_is_poison(swp_entry_t entry)
{
#if COWSNAP_KERNEL(6, 12)
	return pte_marker_get(entry) & PTE_MARKER_POISONED;
#else
	return false;
#endif
}

static inline pte_t cowsnap_poison_marker(void)
{
#if COWSNAP_KERNEL(6, 12)
	return make_pte_marker(PTE_MARKER_POISONED);
#else
	return __pte(0);
#endif
}

#endif /* COWSNAP_COMPAT_H */
