/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Part of compat.h: which unexported functions and variables each of the
 * supported kernels has, and the prototypes that only its private headers
 * declare. Those cannot be probed and go by version: what stands here has been
 * compared with the sources of 6.1, 6.12 and 7.3.
 */
#ifndef COWSNAP_COMPAT_KSYMS_H
#define COWSNAP_COMPAT_KSYMS_H

/* Prototypes that have moved to headers below mm/, and what they are there. */

#ifndef COWSNAP_HAVE_ANON_VMA_PUBLIC
enum vma_operation {
	VMA_OP_SPLIT,
	VMA_OP_MERGE_UNFAULTED,
	VMA_OP_REMAP,
	VMA_OP_FORK,
};
int anon_vma_clone(struct vm_area_struct *dst, struct vm_area_struct *src,
		   enum vma_operation operation);
int __anon_vma_prepare(struct vm_area_struct *vma);
#endif
#ifndef COWSNAP_HAVE_INSERT_VM_STRUCT_PUBLIC
int insert_vm_struct(struct mm_struct *mm, struct vm_area_struct *vma);
#endif
#ifndef COWSNAP_HAVE_MAY_EXPAND_VM_PUBLIC
#if COWSNAP_SINCE(7, 0)
#define COWSNAP_HAVE_MAY_EXPAND_VMA_FLAGS
bool may_expand_vm(struct mm_struct *mm, const vma_flags_t *vma_flags,
		   unsigned long npages);
#else
bool may_expand_vm(struct mm_struct *mm, vm_flags_t flags, unsigned long npages);
#endif
#endif
#ifndef COWSNAP_HAVE_MAP_COUNT_PUBLIC
extern int sysctl_max_map_count;
#endif
#ifndef COWSNAP_HAVE_ADD_LRU_VMA_PUBLIC
void folio_add_lru_vma(struct folio *folio, struct vm_area_struct *vma);
#endif
#ifndef COWSNAP_HAVE_SWAP_DUPLICATE
int swap_retry_table_alloc(swp_entry_t entry, gfp_t gfp);
#endif

#ifdef COWSNAP_HAVE_NEW_ANON_RMAP
#define COWSNAP_KSYM_FUNCS_RMAP(F)		\
	F(folio_add_new_anon_rmap)		\
	F(folio_add_lru_vma)
#else
#define COWSNAP_KSYM_FUNCS_RMAP(F)		\
	F(page_add_new_anon_rmap)		\
	F(lru_cache_add_inactive_or_unevictable)
#endif

#ifdef COWSNAP_HAVE_REMOVE_RMAP_PTES
#define COWSNAP_KSYM_FUNCS_UNMAP(F)		\
	F(folio_remove_rmap_ptes)		\
	F(folio_remove_rmap_pmd)		\
	F(folio_move_anon_rmap)
#else
#define COWSNAP_KSYM_FUNCS_UNMAP(F)		\
	F(page_remove_rmap)			\
	F(page_move_anon_rmap)
#endif

#if COWSNAP_SINCE(6, 6)
#define COWSNAP_KSYM_FUNCS_NOTIFY(F)
#else
#define COWSNAP_KSYM_FUNCS_NOTIFY(F)		\
	F(__mmu_notifier_invalidate_range)
#endif

#ifdef COWSNAP_HAVE_GET_UNMAPPED_AREA_FLAGS
#define COWSNAP_KSYM_FUNCS_AREA(F)		\
	F(__get_unmapped_area)
#else
#define COWSNAP_KSYM_FUNCS_AREA(F)
#endif

#ifdef COWSNAP_HAVE_SWAP_DUPLICATE
#define COWSNAP_KSYM_FUNCS_SWAP(F)		\
	F(swap_duplicate)			\
	F(add_swap_count_continuation)		\
	COWSNAP_KSYM_FUNCS_PUT_SWAP(F)
#else
#define COWSNAP_KSYM_FUNCS_SWAP(F)		\
	F(swap_dup_entry_direct)		\
	F(swap_put_entries_direct)		\
	F(swap_retry_table_alloc)
#endif
#if COWSNAP_SINCE(6, 10)
#define COWSNAP_KSYM_FUNCS_PUT_SWAP(F)		\
	F(free_swap_and_cache_nr)
#else
#define COWSNAP_KSYM_FUNCS_PUT_SWAP(F)		\
	F(free_swap_and_cache)
#endif

#if defined(COWSNAP_HAVE_DEFERRED_SPLIT_LRU) && defined(CONFIG_TRANSPARENT_HUGEPAGE)
#define COWSNAP_KSYM_FUNCS_DEFERRED(F)		\
	F(folio_memcg_alloc_deferred)
#else
#define COWSNAP_KSYM_FUNCS_DEFERRED(F)
#endif

/* An unused page table goes back by it, or by pte_free(), see there. */
#if !defined(CONFIG_TRANSPARENT_HUGEPAGE)
#define COWSNAP_KSYM_FUNCS_PTE_FREE(F)
#elif defined(COWSNAP_HAVE_PTE_FREE_DEFER)
#define COWSNAP_KSYM_FUNCS_PTE_FREE(F)		\
	F(pte_free_defer)
#elif ALLOC_SPLIT_PTLOCKS
#define COWSNAP_KSYM_FUNCS_PTE_FREE(F)		\
	F(ptlock_free)
#else
#define COWSNAP_KSYM_FUNCS_PTE_FREE(F)
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

/*
 * Before 7.3 unmap_ref_private() takes the address of a page in one mapping for
 * that in all others: see hugetlb.c.
 */
#if !COWSNAP_SINCE(7, 3)
#define COWSNAP_UNMAP_REF_BY_ADDRESS
#define COWSNAP_KSYM_FUNCS_HUGETLB_FILE(F)	\
	F(hugetlb_file_setup)			\
	F(vma_interval_tree_iter_first)		\
	F(vma_interval_tree_iter_next)
#else
#define COWSNAP_KSYM_FUNCS_HUGETLB_FILE(F)
#endif

#if !defined(CONFIG_HUGETLB_PAGE)
#define COWSNAP_KSYM_FUNCS_HUGETLB(F)
#elif COWSNAP_SINCE(6, 8)
#define COWSNAP_KSYM_FUNCS_HUGETLB(F)		\
	F(huge_pte_alloc)			\
	F(huge_pte_offset)			\
	F(alloc_hugetlb_folio)			\
	F(copy_user_large_folio)		\
	F(hugetlb_add_new_anon_rmap)		\
	COWSNAP_KSYM_FUNCS_HUGETLB_FILE(F)
#elif COWSNAP_SINCE(6, 6)
#define COWSNAP_KSYM_FUNCS_HUGETLB(F)		\
	F(huge_pte_alloc)			\
	F(huge_pte_offset)			\
	F(alloc_hugetlb_folio)			\
	F(copy_user_large_folio)		\
	F(hugepage_add_new_anon_rmap)		\
	COWSNAP_KSYM_FUNCS_HUGETLB_FILE(F)
#else
#define COWSNAP_KSYM_FUNCS_HUGETLB(F)		\
	F(huge_pte_alloc)			\
	F(huge_pte_offset)			\
	F(alloc_huge_page)			\
	F(copy_user_huge_page)			\
	F(hugepage_add_new_anon_rmap)		\
	COWSNAP_KSYM_FUNCS_HUGETLB_FILE(F)
#endif

#ifdef CONFIG_MM_ID
struct folio;
void lru_add_drain(void);
#if COWSNAP_SINCE(6, 18)
struct folio *swap_cache_get_folio(swp_entry_t entry);
#else
struct folio *swap_cache_get_folio(swp_entry_t entry, struct vm_area_struct *vma,
				   unsigned long addr);
#endif
/*
 * From 6.19 on the flags are behind a pointer, to vm_flags_t first and then to
 * vma_flags_t, which begins with one.
 */
struct vm_area_struct *vma_modify_flags(struct vma_iterator *vmi,
					struct vm_area_struct *prev,
					struct vm_area_struct *vma,
					unsigned long start, unsigned long end,
#if COWSNAP_SINCE(6, 19)
					vma_flags_t *flags
#else
					vm_flags_t flags
#endif
					);
#define COWSNAP_KSYM_FUNCS_LARGE(F)		\
	F(split_folio_to_list)			\
	F(lru_add_drain)			\
	F(swap_cache_get_folio)			\
	F(vma_modify_flags)
#ifdef CONFIG_KSM
extern unsigned long ksm_pages_scanned;		/* static there */
#define COWSNAP_KSYM_DATA_STRANGERS(F)		\
	F(ksm_pages_scanned)
#else
#define COWSNAP_KSYM_DATA_STRANGERS(F)
#endif
#define COWSNAP_KSYM_DATA_LARGE(F)		\
	F(huge_anon_orders_always)		\
	F(huge_anon_orders_madvise)		\
	F(huge_anon_orders_inherit)		\
	COWSNAP_KSYM_DATA_STRANGERS(F)
#else
#define COWSNAP_KSYM_FUNCS_LARGE(F)
#define COWSNAP_KSYM_DATA_LARGE(F)
#endif

#ifdef COWSNAP_HAVE_KSM_ZERO_PAGES
#define COWSNAP_KSYM_DATA_COMPAT(F)		\
	F(ksm_zero_pages)			\
	COWSNAP_KSYM_DATA_LARGE(F)
#else
#define COWSNAP_KSYM_DATA_COMPAT(F)		\
	COWSNAP_KSYM_DATA_LARGE(F)
#endif

#define COWSNAP_KSYM_FUNCS_COMPAT(F)		\
	COWSNAP_KSYM_FUNCS_LARGE(F)		\
	COWSNAP_KSYM_FUNCS_RMAP(F)		\
	COWSNAP_KSYM_FUNCS_UNMAP(F)		\
	COWSNAP_KSYM_FUNCS_NOTIFY(F)		\
	COWSNAP_KSYM_FUNCS_AREA(F)		\
	COWSNAP_KSYM_FUNCS_SWAP(F)		\
	COWSNAP_KSYM_FUNCS_PTE_FREE(F)		\
	COWSNAP_KSYM_FUNCS_DEFERRED(F)		\
	COWSNAP_KSYM_FUNCS_HUGETLB(F)		\
	COWSNAP_KSYM_FUNCS_ARCH(F)

#endif /* COWSNAP_COMPAT_KSYMS_H */
