/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The one way to functions and data that the kernel does not export.
 *
 *	err = ksym(anon_vma_clone)(dst, src);
 *	max = *ksym_data(sysctl_max_map_count);
 *
 * Functions are called through static_call: after cowsnap_ksyms_init() each is
 * a direct call. A function pointer would not do, since kernels with
 * CONFIG_X86_KERNEL_IBT seal the ENDBR of functions whose address nobody takes,
 * and an indirect call to one of them raises #CP. No text or data of the kernel
 * is changed.
 *
 * Prototypes are the kernel's own (typeof), so a changed signature fails the
 * build. Those that only private headers declare stand in compat.h.
 */
#ifndef COWSNAP_KSYMS_H
#define COWSNAP_KSYMS_H

#include <linux/static_call.h>

#include "faults.h"

/* F(name) for each function that every supported kernel has. */
#define COWSNAP_KSYM_FUNCS(F)			\
	F(vm_area_dup)				\
	F(vm_area_free)				\
	F(vma_dup_policy)			\
	F(__mpol_put)				\
	F(__anon_vma_prepare)			\
	F(anon_vma_clone)			\
	F(insert_vm_struct)			\
	F(may_expand_vm)			\
	F(vm_stat_account)			\
	F(do_munmap)				\
	F(security_vm_enough_memory_mm)		\
	F(__p4d_alloc)				\
	F(__pud_alloc)				\
	F(__pmd_alloc)				\
	F(__pte_alloc)				\
	F(pte_alloc_one)			\
	F(migration_entry_wait)			\
	F(__mmu_notifier_invalidate_range_start)\
	F(__mmu_notifier_invalidate_range_end)	\
	F(__mem_cgroup_charge)			\
	F(mm_trace_rss_stat)			\
	F(folio_free_swap)			\
	F(free_swap_cache)			\
	F(lru_add_drain_all)			\
	COWSNAP_KSYM_FUNCS_THP(F)		\
	COWSNAP_KSYM_FUNCS_UFFD(F)		\
	COWSNAP_KSYM_FUNCS_UPROBES(F)		\
	COWSNAP_KSYM_FUNCS_COMPAT(F)

#ifdef CONFIG_TRANSPARENT_HUGEPAGE
#define COWSNAP_KSYM_FUNCS_THP(F)		\
	F(pgtable_trans_huge_deposit)		\
	F(pgtable_trans_huge_withdraw)		\
	F(__split_huge_pmd)			\
	F(pmdp_invalidate)			\
	F(pmd_migration_entry_wait)
#else
#define COWSNAP_KSYM_FUNCS_THP(F)
#endif

#ifdef CONFIG_USERFAULTFD
#define COWSNAP_KSYM_FUNCS_UFFD(F)		\
	F(userfaultfd_unmap_complete)
#else
#define COWSNAP_KSYM_FUNCS_UFFD(F)
#endif

#ifdef CONFIG_UPROBES
#define COWSNAP_KSYM_FUNCS_UPROBES(F)		\
	F(uprobe_start_dup_mmap)		\
	F(uprobe_end_dup_mmap)
#else
#define COWSNAP_KSYM_FUNCS_UPROBES(F)
#endif

/* F(name) for each variable. */
#define COWSNAP_KSYM_DATA(F)			\
	F(sysctl_max_map_count)			\
	F(vm_committed_as)			\
	COWSNAP_KSYM_DATA_COMPAT(F)

#define COWSNAP_KSYM_DECLARE_FUNC(name)	DECLARE_STATIC_CALL(cowsnap_##name, name);
#define COWSNAP_KSYM_DECLARE_DATA(name)	extern typeof(name) *cowsnap_data_##name;
COWSNAP_KSYM_FUNCS(COWSNAP_KSYM_DECLARE_FUNC)
COWSNAP_KSYM_DATA(COWSNAP_KSYM_DECLARE_DATA)

#define ksym(name)	static_call(cowsnap_##name)
#define ksym_data(name)	(cowsnap_data_##name)

/*
 * A call that can fail, with what it returns then: the fault-injection build
 * lets each of them fail in turn (module parameter fail_nth). ksym() itself is
 * for what returns nothing, and for what must not fail.
 */
#define ksym_or(failed, name, ...) \
	(cowsnap_fault_in(#name, false) ? (failed) : ksym(name)(__VA_ARGS__))

int cowsnap_ksyms_init(void);

#endif /* COWSNAP_KSYMS_H */
