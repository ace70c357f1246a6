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
#include <linux/ksm.h>
#include <linux/memcontrol.h>
#include <linux/mempolicy.h>
#include <linux/mm.h>
#include <linux/mm_inline.h>
#include <linux/mman.h>
#include <linux/mmu_notifier.h>
#include <linux/pgtable.h>
#include <linux/prefetch.h>
#include <linux/rmap.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/security.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include <linux/uprobes.h>
#include <linux/userfaultfd_k.h>
#include <linux/version.h>
#include <asm/pgalloc.h>
#include <asm/tlbflush.h>
#if __has_include(<linux/leafops.h>)
#include <linux/leafops.h>
#endif

#if defined(COWSNAP_HAVE_KSM_ZERO_PAGES_DECL) && defined(CONFIG_KSM)
#define COWSNAP_HAVE_KSM_ZERO_PAGES
#endif

/*
 * COWSNAP_HAVE_*: what Kbuild has found declared in the kernel's headers. The
 * version decides where those do not tell: prototypes in private headers.
 */
#define COWSNAP_SINCE(a, b)	(LINUX_VERSION_CODE >= KERNEL_VERSION(a, b, 0))

#if !COWSNAP_SINCE(6, 1)
#error "cowsnap supports Linux 6.1 to 7.3; the headers of this kernel are older"
#endif
#if COWSNAP_SINCE(7, 4)
#error "cowsnap supports Linux 6.1 to 7.3; the headers of this kernel are newer, and nobody has checked what changed"
#endif
#if !defined(CONFIG_MMU) || !defined(CONFIG_64BIT) || defined(CONFIG_HIGHPTE)
#error "cowsnap supports 64-bit kernels with an MMU"
#endif
#if !defined(CONFIG_KPROBES) || !defined(CONFIG_KALLSYMS_ALL) || !defined(CONFIG_SWAP) || \
	!defined(CONFIG_MEMCG) || !defined(CONFIG_MIGRATION) || !defined(CONFIG_MMU_NOTIFIER) || \
	!defined(CONFIG_NUMA) || !defined(CONFIG_SECURITY)
#error "cowsnap needs KPROBES, KALLSYMS_ALL, SWAP, MEMCG, MIGRATION, MMU_NOTIFIER, NUMA and SECURITY in the kernel configuration"
#endif

#if defined(CONFIG_X86) && !defined(CONFIG_SPARSEMEM_VMEMMAP)
#error "cowsnap needs SPARSEMEM_VMEMMAP in the kernel configuration"
#endif

#include "compat_ksyms.h"
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

/* Names that changed and meanings that did not. */
#if !__has_include(<linux/leafops.h>)
typedef swp_entry_t softleaf_t;
#define softleaf_from_pte(pte)			pte_to_swp_entry(pte)
#define softleaf_is_swap(entry)			(!non_swap_entry(entry))
#define softleaf_is_migration(entry)		is_migration_entry(entry)
#define softleaf_is_device_private(entry)	is_device_private_entry(entry)
#define softleaf_is_device_exclusive(entry)	is_device_exclusive_entry(entry)
#define softleaf_is_marker(entry)		is_pte_marker_entry(entry)
#define softleaf_to_marker(entry)		pte_marker_get(entry)
#ifndef softleaf_to_pfn
#define softleaf_to_pfn(entry)			swp_offset_pfn(entry)
#endif
#ifndef softleaf_from_pmd
#define softleaf_from_pmd(pmd)			pmd_to_swp_entry(pmd)
#endif
#endif
#ifdef COWSNAP_HAVE_UFFD_WP_NAMES
#define _PAGE_UFFD			_PAGE_UFFD_WP
#define pte_uffd(pte)			pte_uffd_wp(pte)
#define pmd_uffd(pmd)			pmd_uffd_wp(pmd)
#define pte_mkuffd(pte)			pte_mkuffd_wp(pte)
#define pte_clear_uffd(pte)		pte_clear_uffd_wp(pte)
#define pmd_clear_uffd(pmd)		pmd_clear_uffd_wp(pmd)
#define pte_swp_clear_uffd(pte)		pte_swp_clear_uffd_wp(pte)
#define huge_pte_clear_uffd(pte)	huge_pte_clear_uffd_wp(pte)
#define huge_pte_uffd(pte)		huge_pte_uffd_wp(pte)
#endif
#ifndef COWSNAP_HAVE_LAZY_MMU_MODE_ENABLE
#define lazy_mmu_mode_enable()		arch_enter_lazy_mmu_mode()
#define lazy_mmu_mode_disable()		arch_leave_lazy_mmu_mode()
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
#ifdef COWSNAP_HAVE_RSS_PERCPU
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
	if (cowsnap_fault())
		return -ENOMEM;
	flags |= MAP_PRIVATE | MAP_ANONYMOUS;
#if defined(COWSNAP_HAVE_GET_UNMAPPED_AREA_VMA_FLAGS)
	return ksym(__get_unmapped_area)(NULL, addr, len, 0, flags,
					 EMPTY_VMA_FLAGS);
#elif defined(COWSNAP_HAVE_GET_UNMAPPED_AREA_FLAGS)
	return ksym(__get_unmapped_area)(NULL, addr, len, 0, flags, VM_NONE);
#else
	return get_unmapped_area(NULL, addr, len, 0, flags);
#endif
}

/* For a vma that is in no tree yet, or write-locked since it was inserted. */
static inline void cowsnap_set_vm_flags(struct vm_area_struct *vma,
					unsigned long flags)
{
#ifdef COWSNAP_HAVE_VM_FLAGS_INIT
	vm_flags_init(vma, flags);
#else
	vma->vm_flags = flags;
#endif
}

/* Do the limits of the process allow @nr more pages of a mapping like that? */
static inline bool cowsnap_may_expand_vm(struct mm_struct *mm,
					 unsigned long flags, unsigned long nr)
{
#ifdef COWSNAP_HAVE_MAY_EXPAND_VMA_FLAGS
	vma_flags_t vma_flags = legacy_to_vma_flags(flags);

	return ksym_or(false, may_expand_vm, mm, &vma_flags, nr);
#else
	return ksym_or(false, may_expand_vm, mm, flags, nr);
#endif
}

/*
 * Give @vma, the duplicate of @src_vma from @start on, the page offsets that the
 * source has there. Newer kernels keep the one of anonymous pages apart.
 */
static inline void cowsnap_copy_pgoff(struct vm_area_struct *vma,
				      struct vm_area_struct *src_vma,
				      unsigned long start)
{
#ifdef COWSNAP_HAVE_ANON_PGOFF
	pgoff_t pgoff = vma_start_anon_pgoff(src_vma) +
			((start - src_vma->vm_start) >> PAGE_SHIFT);

#ifdef CONFIG_64BIT
	vma->__vm_anon_pgoff_hi = pgoff >> 32;
#endif
	vma->__vm_anon_pgoff_lo = (u32)pgoff;
#endif
	/* The file of a vma has it in a tree sorted by the offset: not any more. */
	if (!vma->vm_file)
		vma->vm_pgoff = linear_page_index(src_vma, start);
}

/* The page offset of @addr by which the rmap finds anonymous pages. */
static inline pgoff_t cowsnap_anon_pgoff(struct vm_area_struct *vma,
					 unsigned long addr)
{
#ifdef COWSNAP_HAVE_ANON_PGOFF
	return vma_start_anon_pgoff(vma) + ((addr - vma->vm_start) >> PAGE_SHIFT);
#else
	return linear_page_index(vma, addr);
#endif
}

/*
 * anon_vma_clone() for a vma of the same mm that is linked already. Newer
 * kernels are told what for: all but fork do the same, and with DEBUG_VM they
 * warn of a linked vma except when it is for a merge, of a single anon_vma.
 */
static inline int cowsnap_anon_vma_clone(struct vm_area_struct *dst,
					 struct vm_area_struct *src)
{
#ifdef COWSNAP_HAVE_ANON_VMA_PUBLIC
	return ksym(anon_vma_clone)(dst, src);
#else
	return ksym(anon_vma_clone)(dst, src,
				    list_is_singular(&src->anon_vma_chain) ?
				    VMA_OP_MERGE_UNFAULTED : VMA_OP_REMAP);
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
#if !COWSNAP_SINCE(6, 2)
	if (err)
		percpu_counter_add(ksym_data(vm_committed_as), vma_pages(vma));
#endif
	return err;
}

/* Keep uprobes from being set or removed in any process, as fork does. */
static inline void cowsnap_uprobes_wait(bool wait)
{
#ifdef CONFIG_UPROBES
	if (wait)
		ksym(uprobe_start_dup_mmap)();
	else
		ksym(uprobe_end_dup_mmap)();
#endif
}

/* Keep page faults that take only the lock of the vma out of it. */
static inline void cowsnap_vma_start_write(struct vm_area_struct *vma)
{
#ifdef COWSNAP_HAVE_VMA_LOCK
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
					enum mmu_notifier_event event,
					unsigned long start, unsigned long end)
{
#if COWSNAP_SINCE(6, 3)
	mmu_notifier_range_init(range, event, 0, mm, start, end);
#else
	mmu_notifier_range_init(range, event, 0, NULL, mm, start, end);
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
#ifdef COWSNAP_HAVE_NOTIFY_END_ONLY
	ksym(__mmu_notifier_invalidate_range_end)(range, /* only_end= */false);
#else
	ksym(__mmu_notifier_invalidate_range_end)(range);
#endif
}

/*
 * Secondary MMUs that walk our page tables have a TLB of their own. From 6.6 on
 * the flush of the CPUs' includes it.
 */
static inline void cowsnap_flush_secondary(struct mm_struct *mm,
					   unsigned long start, unsigned long end)
{
#if !COWSNAP_SINCE(6, 6)
	if (mm_has_notifiers(mm))
		ksym(__mmu_notifier_invalidate_range)(mm, start, end);
#endif
}

/* What nobody may reach any more, before it goes: by a CPU or by such a device. */
static inline void cowsnap_flush_replaced(struct mm_struct *mm,
					  unsigned long start, unsigned long end)
{
	cowsnap_flush_tlb(mm, start, end);
	cowsnap_flush_secondary(mm, start, end);
}

/*
 * Raise the map count of an anonymous page for the duplicate's entry and mark
 * it shared. -EBUSY when it may be pinned, which has changed nothing. Page-table
 * lock held, write_protect_seq raised.
 */
static inline int cowsnap_dup_rmap_pte(struct folio *folio, struct page *page,
				       struct vm_area_struct *dst_vma,
				       struct vm_area_struct *src_vma)
{
#if defined(COWSNAP_HAVE_DUP_RMAP_DST)
	return folio_try_dup_anon_rmap_pte(folio, page, dst_vma, src_vma);
#elif defined(COWSNAP_HAVE_FOLIO_DUP_RMAP)
	return folio_try_dup_anon_rmap_pte(folio, page, src_vma);
#else
	return page_try_dup_anon_rmap(page, /* compound= */false, src_vma);
#endif
}

/* The same for pages in a row of a large folio; returns for how many. */
static inline unsigned int cowsnap_dup_rmap_ptes(struct folio *folio,
						 struct page *page,
						 unsigned int nr,
						 struct vm_area_struct *dst_vma,
						 struct vm_area_struct *src_vma)
{
#if defined(COWSNAP_HAVE_DUP_RMAP_DST)
	return folio_try_dup_anon_rmap_ptes(folio, page, nr, dst_vma, src_vma) ? 0 : nr;
#elif defined(COWSNAP_HAVE_FOLIO_DUP_RMAP)
	return folio_try_dup_anon_rmap_ptes(folio, page, nr, src_vma) ? 0 : nr;
#else
	unsigned int i;

	for (i = 0; i < nr; i++)
		if (page_try_dup_anon_rmap(page + i, /* compound= */false, src_vma))
			break;
	return i;
#endif
}

static inline int cowsnap_dup_rmap_pmd(struct folio *folio, struct page *page,
				       struct vm_area_struct *dst_vma,
				       struct vm_area_struct *src_vma)
{
#if defined(COWSNAP_HAVE_DUP_RMAP_DST)
	return folio_try_dup_anon_rmap_pmd(folio, page, dst_vma, src_vma);
#elif defined(COWSNAP_HAVE_FOLIO_DUP_RMAP)
	return folio_try_dup_anon_rmap_pmd(folio, page, src_vma);
#else
	return page_try_dup_anon_rmap(page, /* compound= */true, src_vma);
#endif
}

#ifdef COWSNAP_HAVE_MEMDESC_FLAGS
#define cowsnap_page_flags(page)	(&(page)->flags.f)
#else
#define cowsnap_page_flags(page)	(&(page)->flags)
#endif

/* PageAnonExclusive() of a page of any folio but hugetlb's, which it asks for. */
static inline bool cowsnap_is_exclusive(struct page *page)
{
	return test_bit(PG_anon_exclusive, cowsnap_page_flags(page));
}

/* Others change other bits at any time, with no lock that we hold. */
static inline void cowsnap_clear_exclusive(struct page *page)
{
	clear_bit(PG_anon_exclusive, cowsnap_page_flags(page));
}

/* folio->mapping of the pages that hang on the anon_vma of @vma. */
static inline unsigned long cowsnap_mapping_of(struct vm_area_struct *vma)
{
#ifdef FOLIO_MAPPING_ANON
	return (unsigned long)vma->anon_vma + FOLIO_MAPPING_ANON;
#else
	return (unsigned long)vma->anon_vma + PAGE_MAPPING_ANON;
#endif
}

/* Make a new folio an exclusive anonymous page of @vma at @addr. */
static inline void cowsnap_add_new_folio(struct folio *folio,
					 struct vm_area_struct *vma,
					 unsigned long addr)
{
	__folio_mark_uptodate(folio);
#if defined(COWSNAP_HAVE_NEW_ANON_RMAP_FLAGS)
	ksym(folio_add_new_anon_rmap)(folio, vma, addr, RMAP_EXCLUSIVE);
	ksym(folio_add_lru_vma)(folio, vma);
#elif defined(COWSNAP_HAVE_NEW_ANON_RMAP)
	ksym(folio_add_new_anon_rmap)(folio, vma, addr);
	ksym(folio_add_lru_vma)(folio, vma);
#else
	ksym(page_add_new_anon_rmap)(&folio->page, vma, addr);
	ksym(lru_cache_add_inactive_or_unevictable)(&folio->page, vma);
#endif
}

/* An entry of @page has been taken out; for a huge page, its pmd entry. */
static inline void cowsnap_remove_rmap(struct folio *folio, struct page *page,
				       struct vm_area_struct *vma)
{
#ifdef COWSNAP_HAVE_REMOVE_RMAP_PTES
	ksym(folio_remove_rmap_ptes)(folio, page, 1, vma);
#else
	ksym(page_remove_rmap)(page, vma, /* compound= */false);
#endif
}

static inline void cowsnap_remove_rmap_pmd(struct folio *folio,
					   struct page *page,
					   struct vm_area_struct *vma)
{
#ifdef COWSNAP_HAVE_REMOVE_RMAP_PTES
	ksym(folio_remove_rmap_pmd)(folio, page, vma);
#else
	ksym(page_remove_rmap)(page, vma, /* compound= */true);
#endif
}

/* The page belongs to @vma alone. Folio lock held, no reference but that of @vma. */
static inline void cowsnap_make_exclusive(struct folio *folio, struct page *page,
					  struct vm_area_struct *vma)
{
#ifdef COWSNAP_HAVE_REMOVE_RMAP_PTES
	ksym(folio_move_anon_rmap)(folio, vma);
	SetPageAnonExclusive(page);
#else
	ksym(page_move_anon_rmap)(page, vma);
#endif
}

/* Which counter of an mm a page of a file is in. */
static inline int cowsnap_file_counter(struct folio *folio)
{
	return folio_test_swapbacked(folio) ? MM_SHMEMPAGES : MM_FILEPAGES;
}

/* An entry of the zero page has been taken out: KSM may have counted it. */
static inline void cowsnap_unmap_zero_page(struct mm_struct *mm, pte_t pte)
{
#ifdef COWSNAP_HAVE_KSM_ZERO_PAGES
	if (is_zero_pfn(pte_pfn(pte)) && pte_dirty(pte)) {
		atomic_long_dec(ksym_data(ksm_zero_pages));
		atomic_long_dec(&mm->ksm_zero_pages);
	}
#endif
}

/* Give up the swap slot of a page that is no more mapped, if that is easy. */
static inline void cowsnap_free_swap_cache(struct folio *folio)
{
#if COWSNAP_SINCE(6, 10)
	ksym(free_swap_cache)(folio);
#else
	ksym(free_swap_cache)(&folio->page);
#endif
}

/* folio_put() of each, which takes the locks for freeing them less often. */
static inline void cowsnap_put_folios(struct folio **folios, unsigned int nr)
{
#if COWSNAP_SINCE(6, 2)
	release_pages(folios, nr);
#else
	release_pages((struct page **)folios, nr);
#endif
}

/* A swap entry has been taken out of a page table. */
static inline void cowsnap_put_swap(swp_entry_t entry)
{
#if !defined(COWSNAP_HAVE_SWAP_DUPLICATE)
	ksym(swap_put_entries_direct)(entry, 1);
#elif COWSNAP_SINCE(6, 10)
	ksym(free_swap_and_cache_nr)(entry, 1);
#else
	ksym(free_swap_and_cache)(entry);
#endif
}

/* pte_mkwrite() for private memory that is not a shadow stack. */
static inline pte_t cowsnap_pte_mkwrite(pte_t pte)
{
#ifdef COWSNAP_HAVE_PTE_MKWRITE_NOVMA
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
 * The entry that a write fault would leave. Dirty, so that the CPU need not
 * come back for that either, and that MADV_FREE is over for the page.
 */
static inline pte_t cowsnap_writable(pte_t pte)
{
	return cowsnap_pte_mkwrite(pte_mkyoung(pte_mkdirty(pte)));
}

#ifdef CONFIG_TRANSPARENT_HUGEPAGE
static inline pmd_t cowsnap_pmd_mkwrite(pmd_t pmd)
{
#ifdef COWSNAP_HAVE_PTE_MKWRITE_NOVMA
	pmd = pmd_mkwrite_novma(pmd);
#ifdef CONFIG_X86
	pmd = pmd_clear_saveddirty(pmd);
#endif
	return pmd;
#else
	return pmd_mkwrite(pmd);
#endif
}
#endif

/* Of whatever sort the entry is: a soft-dirty tracker finds it changed. */
static inline pte_t cowsnap_mksoft_dirty(pte_t pte)
{
	if (pte_present(pte))
		return pte_mksoft_dirty(pte);
	return softleaf_is_swap(softleaf_from_pte(pte)) ?
	       pte_swp_mksoft_dirty(pte) : pte;
}

/*
 * What of a pte marker belongs into a duplicate, which is registered with no
 * userfaultfd: poison and guard regions do, uffd-wp does not. 6.1 has no other.
 */
static inline pte_marker cowsnap_marker_to_keep(softleaf_t entry)
{
	pte_marker keep = 0;

#ifdef PTE_MARKER_POISONED
	keep |= PTE_MARKER_POISONED;
#elif defined(PTE_MARKER_SWAPIN_ERROR)	/* its name before 6.6 */
	keep |= PTE_MARKER_SWAPIN_ERROR;
#endif
#ifdef PTE_MARKER_GUARD
	keep |= PTE_MARKER_GUARD;
#endif
	return softleaf_to_marker(entry) & keep;
}

/*
 * A userfaultfd of 7.3 can trap all access to a page: the bit that else means
 * write protection, and no rights. The duplicate, which has no userfaultfd, gets
 * the rights of its mapping. Not by pte_modify(), which is not for modules.
 */
static inline pte_t cowsnap_pte_untrap(pte_t pte, struct vm_area_struct *src_vma,
				       struct vm_area_struct *dst_vma)
{
#ifdef COWSNAP_HAVE_UFFD_RWP
	if (userfaultfd_pte_rwp(src_vma, pte)) {
		pte_t open = mk_pte(pte_page(pte), dst_vma->vm_page_prot);

		return pte_dirty(pte) ? pte_mkdirty(open) : open;
	}
#endif
	return pte_clear_uffd(pte);
}

static inline bool cowsnap_pmd_is_trapped(pmd_t pmd, struct vm_area_struct *vma)
{
#ifdef COWSNAP_HAVE_UFFD_RWP
	return userfaultfd_huge_pmd_rwp(vma, pmd);
#else
	return false;
#endif
}

/* A huge page, of whatever sort, or one on its way. */
static inline bool cowsnap_pmd_is_huge(pmd_t pmd)
{
	return pmd_present(pmd) ? pmd_leaf(pmd) : !pmd_none(pmd);
}

/* A huge page that is lent to a device, from 6.19 on. */
static inline bool cowsnap_pmd_is_device(pmd_t pmd)
{
#if __has_include(<linux/leafops.h>)
	return pmd_is_device_private_entry(pmd);
#else
	return false;
#endif
}

#ifdef CONFIG_TRANSPARENT_HUGEPAGE
/*
 * pte_free() of a table that was never in use. Inline, it reaches for functions
 * that are not exported: all of newer kernels, with a lock outside of struct
 * page (debug kernels) also older ones.
 */
static inline void cowsnap_pte_free(struct mm_struct *mm, pgtable_t pgtable)
{
#if defined(COWSNAP_HAVE_PTE_FREE_DEFER)
	ksym(pte_free_defer)(mm, pgtable);
#elif ALLOC_SPLIT_PTLOCKS
	ksym(ptlock_free)(pgtable);
	__ClearPageTable(pgtable);
	dec_lruvec_page_state(pgtable, NR_PAGETABLE);
	__free_page(pgtable);
#else
	pte_free(mm, pgtable);
#endif
}

static inline void cowsnap_split_huge_pmd(struct vm_area_struct *vma, pmd_t *pmd,
					  unsigned long addr)
{
#ifdef COWSNAP_HAVE_SPLIT_PMD_FOLIO
	ksym(__split_huge_pmd)(vma, pmd, addr, /* freeze= */false, NULL);
#else
	ksym(__split_huge_pmd)(vma, pmd, addr, /* freeze= */false);
#endif
}
#endif

/*
 * A base page for @vma at @addr, by its policy; charged to nobody yet. @how: 0,
 * or how hard to try.
 */
static inline struct folio *cowsnap_alloc_folio(struct vm_area_struct *vma,
						unsigned long addr, gfp_t how)
{
#ifdef COWSNAP_HAVE_ALLOC_FOLIO_HUGEPAGE
	return vma_alloc_folio(GFP_HIGHUSER_MOVABLE | how, 0, vma, addr,
			       /* hugepage= */false);
#else
	return vma_alloc_folio(GFP_HIGHUSER_MOVABLE | how, 0, vma, addr);
#endif
}

/* A huge page for @vma at @addr, by its policy, without trying hard. */
static inline struct folio *cowsnap_alloc_huge(struct vm_area_struct *vma,
					       unsigned long addr)
{
#ifdef COWSNAP_HAVE_ALLOC_FOLIO_HUGEPAGE
	return vma_alloc_folio(GFP_TRANSHUGE_LIGHT, HPAGE_PMD_ORDER, vma, addr,
			       /* hugepage= */true);
#else
	return vma_alloc_folio(GFP_TRANSHUGE_LIGHT, HPAGE_PMD_ORDER, vma, addr);
#endif
}

/* The same, or a base page, of one node and no other. */
static inline struct folio *cowsnap_alloc_on_node(int node, unsigned int order)
{
	gfp_t gfp = order ? GFP_TRANSHUGE_LIGHT : GFP_HIGHUSER_MOVABLE;

	return __folio_alloc(gfp | __GFP_THISNODE | __GFP_NOWARN, order, node,
			     NULL);
}

/* Charge what has been allocated for @mm. */
static inline int cowsnap_charge(struct folio *folio, struct mm_struct *mm,
				 gfp_t gfp)
{
	if (mem_cgroup_disabled())
		return 0;
	return ksym_or(-ENOMEM, __mem_cgroup_charge, folio, mm, gfp);
}

/*
 * Where each cgroup has a list of large folios to be split, that of this one must
 * exist before its first such folio is mapped.
 */
static inline int cowsnap_charged_large(struct folio *folio)
{
#if defined(COWSNAP_HAVE_DEFERRED_SPLIT_LRU) && defined(CONFIG_TRANSPARENT_HUGEPAGE)
	return ksym_or(-ENOMEM, folio_memcg_alloc_deferred, folio);
#else
	return 0;
#endif
}

/* Base pages into empty places of @pages; returns how many there are then. */
static inline unsigned int cowsnap_alloc_bulk(gfp_t gfp, int node,
					      unsigned int nr, struct page **pages)
{
	if (cowsnap_fault())
		return 0;
#ifdef COWSNAP_HAVE_BULK_LIST
	return __alloc_pages_bulk(gfp, node, NULL, nr, NULL, pages);
#else
	return __alloc_pages_bulk(gfp, node, NULL, nr, pages);
#endif
}

#ifdef CONFIG_MM_ID
/* The folio in the swap cache for an entry, referenced, or NULL. */
static inline struct folio *cowsnap_swap_cache_get(swp_entry_t entry)
{
#if COWSNAP_SINCE(6, 18)
	return ksym(swap_cache_get_folio)(entry);
#else
	return ksym(swap_cache_get_folio)(entry, NULL, 0);
#endif
}

/*
 * Make [start, end) of @vma ready for other flags: cut off what is outside, or
 * merge it with neighbours that have them. Returns the mapping that is to get
 * what *@flags is then, or an error.
 */
static inline struct vm_area_struct *
cowsnap_vma_modify_flags(struct vm_area_struct *vma, unsigned long start,
			 unsigned long end, unsigned long *flags)
{
	VMA_ITERATOR(before, vma->vm_mm, start);
	VMA_ITERATOR(vmi, vma->vm_mm, start);
	struct vm_area_struct *prev = vma;

	if (start == vma->vm_start)
		prev = vma_prev(&before);
#if COWSNAP_SINCE(6, 19)
	{
		vma_flags_t vma_flags = legacy_to_vma_flags(*flags);

		vma = ksym(vma_modify_flags)(&vmi, prev, vma, start, end,
					     &vma_flags);
		*flags = vma_flags_to_legacy(vma_flags);
		return vma;
	}
#else
	return ksym(vma_modify_flags)(&vmi, prev, vma, start, end, *flags);
#endif
}
#endif

/* One more user of a swap entry that is in a page table whose lock is held. */
static inline int cowsnap_swap_duplicate(swp_entry_t entry)
{
#ifdef COWSNAP_HAVE_SWAP_DUPLICATE
	return ksym(swap_duplicate)(entry);
#else
	return ksym(swap_dup_entry_direct)(entry);
#endif
}

/* After cowsnap_swap_duplicate() has failed: make room for the count. */
static inline int cowsnap_swap_make_room(swp_entry_t entry)
{
#ifdef COWSNAP_HAVE_SWAP_DUPLICATE
	return ksym_or(-ENOMEM, add_swap_count_continuation, entry, GFP_KERNEL);
#else
	return ksym_or(-ENOMEM, swap_retry_table_alloc, entry, GFP_KERNEL);
#endif
}

#ifdef CONFIG_HUGETLB_PAGE
/* The flags that a private hugetlb vma has in vm_private_data, as in hugetlb.c. */
#define COWSNAP_HUGETLB_OWNER	1UL
#define COWSNAP_HUGETLB_LOST	2UL

/* Was it made by mmap() with a reservation in the pool? Then it still has it. */
static inline bool cowsnap_hugetlb_is_owner(struct vm_area_struct *vma)
{
	return !(vma->vm_flags & VM_MAYSHARE) &&
	       (unsigned long)vma->vm_private_data & COWSNAP_HUGETLB_OWNER;
}

/* Has an owner taken pages from it? */
static inline bool cowsnap_hugetlb_has_lost(struct vm_area_struct *vma)
{
	return (unsigned long)READ_ONCE(vma->vm_private_data) &
	       COWSNAP_HUGETLB_LOST;
}

/* Of a vma without a reservation. */
static inline void cowsnap_hugetlb_set_lost(struct vm_area_struct *vma)
{
	WRITE_ONCE(vma->vm_private_data, (void *)COWSNAP_HUGETLB_LOST);
}

static inline pte_t cowsnap_huge_ptep_get(struct mm_struct *mm,
					  unsigned long addr, pte_t *ptep)
{
#if COWSNAP_SINCE(6, 11)
	return huge_ptep_get(mm, addr, ptep);
#else
	return huge_ptep_get(ptep);
#endif
}

static inline void cowsnap_set_huge_pte(struct mm_struct *mm, unsigned long addr,
					pte_t *ptep, pte_t pte,
					unsigned long size)
{
#if COWSNAP_SINCE(6, 6)
	set_huge_pte_at(mm, addr, ptep, pte, size);
#else
	set_huge_pte_at(mm, addr, ptep, pte);
#endif
}

/* As cowsnap_pte_untrap(), for an entry that is write-protected. */
static inline pte_t cowsnap_huge_pte_untrap(pte_t pte,
					    struct vm_area_struct *src_vma,
					    struct vm_area_struct *dst_vma)
{
#ifdef COWSNAP_HAVE_UFFD_RWP
	if (userfaultfd_rwp(src_vma) && huge_pte_uffd(pte)) {
		pte_t open = mk_pte(pte_page(pte), dst_vma->vm_page_prot);

		open = huge_pte_wrprotect(pte_dirty(pte) ? pte_mkdirty(open) : open);
		return arch_make_huge_pte(open, huge_page_shift(hstate_vma(dst_vma)),
					  dst_vma->vm_flags);
	}
#endif
	return huge_pte_clear_uffd(pte);
}

static inline int cowsnap_dup_rmap_hugetlb(struct folio *folio,
					   struct vm_area_struct *src_vma)
{
#if COWSNAP_SINCE(6, 8)
	return hugetlb_try_dup_anon_rmap(folio, src_vma);
#else
	return page_try_dup_anon_rmap(&folio->page, /* compound= */true, src_vma);
#endif
}

#ifdef COWSNAP_UNMAP_REF_BY_ADDRESS
/* A file for hugetlb pages of a process, without a reservation. */
static inline struct file *cowsnap_hugetlb_file(size_t size, int page_shift)
{
#ifdef COWSNAP_HAVE_HUGETLB_FILE_VMA_FLAGS
	vma_flags_t flags = mk_vma_flags(VMA_NORESERVE_BIT);
#else
	vm_flags_t flags = VM_NORESERVE;
#endif

	return ksym(hugetlb_file_setup)(HUGETLB_ANON_FILE, size, flags,
					HUGETLB_ANONHUGE_INODE, page_shift);
}
#endif

/* A page of the pool for @vma, which has no reservation, or an error pointer. */
static inline struct folio *cowsnap_alloc_hugetlb(struct vm_area_struct *vma,
						  unsigned long addr)
{
#if COWSNAP_SINCE(6, 6)
	return ksym(alloc_hugetlb_folio)(vma, addr, /* cow_from_owner= */false);
#else
	struct page *page = ksym(alloc_huge_page)(vma, addr,
						  /* avoid_reserve= */0);

	return IS_ERR(page) ? ERR_CAST(page) : page_folio(page);
#endif
}

/* An error when the source cannot be read; 6.1 does not find out. */
static inline int cowsnap_copy_hugetlb_folio(struct folio *to, struct folio *from,
					     unsigned long addr,
					     struct vm_area_struct *vma)
{
#if COWSNAP_SINCE(6, 6)
	return ksym(copy_user_large_folio)(to, from, addr, vma);
#else
	ksym(copy_user_huge_page)(&to->page, &from->page, addr, vma,
				  pages_per_huge_page(hstate_vma(vma)));
	return 0;
#endif
}

/* Make a page of the pool an exclusive anonymous one of @vma at @addr. */
static inline void cowsnap_add_new_hugetlb(struct folio *folio,
					   struct vm_area_struct *vma,
					   unsigned long addr)
{
	__folio_mark_uptodate(folio);
#if COWSNAP_SINCE(6, 8)
	ksym(hugetlb_add_new_anon_rmap)(folio, vma, addr);
	folio_set_hugetlb_migratable(folio);
#elif COWSNAP_SINCE(6, 6)
	ksym(hugepage_add_new_anon_rmap)(folio, vma, addr);
	folio_set_hugetlb_migratable(folio);
#else
	ksym(hugepage_add_new_anon_rmap)(&folio->page, vma, addr);
	SetHPageMigratable(&folio->page);
#endif
}
#endif /* CONFIG_HUGETLB_PAGE */

#endif /* COWSNAP_COMPAT_H */
