// SPDX-License-Identifier: GPL-2.0
/*
 * Large folios on kernels with CONFIG_MM_ID (6.15 and later with huge pages).
 *
 * There a write fault takes a large folio for its own when as many references
 * to it exist as mappings, and all mappings belong to the mm that writes
 * (__wp_can_reuse_large_anon_folio). That rests on a page being mapped once in
 * each mm. A large folio that two ranges of one mm map would be written in
 * place, and the other side would see it; and it need not be so from the start:
 * the last other process that maps it goes away, migration maps it anew.
 *
 * So only base pages are ever mapped by both sides. That has to stay true for
 * as long as they share, and these are all the ways in which a page that was
 * shared as a base page, or as a swap entry, could come back as part of a large
 * folio:
 *
 * - Large folios that are there: they are split, and what cannot be split (it
 *   is pinned, say) is copied page by page.
 * - Swap entries whose folio is still in the swap cache, and large: both sides
 *   would fault it in from there. Unmapped it cannot be split. So the source
 *   faults it in first, and then it is as above. Base pages never become a large
 *   folio in the swap cache but by a fault in a mapping that holds entries in a
 *   row and may have huge pages, which the next two exclude.
 * - Swap entries read in as a large folio by a fault of ours (mTHP, and swap on
 *   zram): both mappings are VM_NOHUGEPAGE from then on.
 * - The same by another process, which had the page before the two sides had
 *   it: a parent or child, that is in the anon_vmas of the source. Where there
 *   is one whose mapping may have huge pages, only pages are shared that are
 *   exclusive to us; others are copied. Children forked later inherit
 *   VM_NOHUGEPAGE.
 * - The same by a stranger, with whose pages KSM merged ours: when such a page is
 *   swapped out, entries of it stand in any process that had it, and it comes
 *   back as a usual page. Nothing tells these entries from others. So once KSM
 *   has been at work, one that is not exclusive is faulted in, and what cannot
 *   leave the swap cache then, because others have the entry, is copied. Nor is
 *   the duplicate for KSM: it would have such entries together with the source.
 *
 * Khugepaged and MADV_COLLAPSE copy what they collapse: what comes of it is
 * mapped on one side only. That leaves the user who calls MADV_HUGEPAGE on one
 * side, or in a child: the header forbids it.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include "large.h"

/* No more than so many mappings are looked at; more than that are relatives. */
#define RELATIVES_MAX	1024

/*
 * May a fault in @vma read a page of ours into a large folio? With both flags it
 * may soon: cowsnap_nohuge_now().
 */
static bool is_relative(struct vm_area_struct *vma, struct mm_struct *mm)
{
	unsigned long flags = READ_ONCE(vma->vm_flags);

	return vma->vm_mm != mm &&
	       (flags & (VM_HUGEPAGE | VM_NOHUGEPAGE)) != VM_NOHUGEPAGE;
}

static bool anon_vma_has_relatives(struct anon_vma *anon_vma,
				   struct mm_struct *mm, unsigned int *budget)
{
	struct rb_node *node;

	for (node = rb_first_cached(&anon_vma->rb_root); node;
	     node = rb_next(node)) {
		struct anon_vma_chain *avc;

		avc = rb_entry(node, struct anon_vma_chain, rb);
		if (!(*budget)-- || is_relative(avc->vma, mm))
			return true;
	}
	return false;
}

/**
 * cowsnap_vma_has_relatives - may another process have pages of @vma and read
 *	them into large folios?
 * @vma: a mapping that has an anon_vma
 *
 * A process that has a page of @vma has a mapping in the anon_vma of that page,
 * and that one is in the chain of @vma. The mmap lock, held for writing, keeps
 * @vma from being forked: no relative appears that does not descend from one
 * that we see. One that goes away meanwhile does no harm.
 */
bool cowsnap_vma_has_relatives(struct vm_area_struct *vma)
{
	struct anon_vma *anon_vma = vma->anon_vma;
	unsigned int budget = RELATIVES_MAX;
	struct anon_vma_chain *avc;
	bool found = false;

	if (!anon_vma)
		return false;
	/* Nobody has forked it: the usual case, without a lock. */
	if (list_is_singular(&vma->anon_vma_chain) &&
	    anon_vma->root == anon_vma && READ_ONCE(anon_vma->num_children) <= 1)
		return false;
	/* All of a chain have the same root, whose lock is that of all trees. */
	down_read(&anon_vma->root->rwsem);
	list_for_each_entry(avc, &vma->anon_vma_chain, same_vma) {
		found = anon_vma_has_relatives(avc->anon_vma, vma->vm_mm,
					       &budget);
		if (found)
			break;
	}
	up_read(&anon_vma->root->rwsem);
	return found;
}

/**
 * cowsnap_swap_has_strangers - may swap entries be those of any process, too?
 *
 * KSM counts a page when it is done with it, and it takes two to be merged.
 */
bool cowsnap_swap_has_strangers(void)
{
#ifdef CONFIG_KSM
	return READ_ONCE(*ksym_data(ksm_pages_scanned));
#else
	return false;
#endif
}

/**
 * cowsnap_leaves_swap_cache - has nobody swap entries of a page any more?
 * @folio: mapped by an entry whose lock is held
 *
 * As in wp_can_reuse_anon_folio().
 */
bool cowsnap_leaves_swap_cache(struct folio *folio)
{
	bool left;

	if (!folio_trylock(folio))
		return false;
	left = !folio_test_swapcache(folio) || ksym(folio_free_swap)(folio);
	folio_unlock(folio);
	return left;
}

/**
 * cowsnap_swap_needs_fault - must a swap entry be faulted in to be shared?
 * @walk: where the walk is
 * @pte: the entry, page-table lock held: it keeps its swap device
 */
bool cowsnap_swap_needs_fault(struct cowsnap_walk *walk, pte_t pte)
{
	struct folio *folio;
	bool large;

	if ((walk->has_relatives || walk->has_strangers) &&
	    !pte_swp_exclusive(pte))
		return true;
	folio = cowsnap_swap_cache_get(softleaf_from_pte(pte));
	if (!folio)
		return false;
	large = folio_test_large(folio);
	folio_put(folio);
	return large;
}

static int split_locked(struct folio *folio)
{
	int err = 0;

	if (folio_lock_killable(folio))
		return -EINTR;
	/* Reclaim may have been first. */
	if (folio_test_large(folio))
		err = ksym_or(-EAGAIN, split_folio_to_list, folio, NULL);
	folio_unlock(folio);
	return err;
}

/**
 * cowsnap_split - make base pages of a large folio
 * @walk: where the walk is; no page-table lock is held
 * @folio: the folio, with a reference that is given up
 *
 * Fails when somebody holds a reference beside ours: a pin, or a batch of pages
 * on their way to the LRU, that of this CPU is emptied. @walk->unsplit says so
 * then. Only its address is compared: with another folio there in the meantime,
 * that one is copied, too.
 */
void cowsnap_split(struct cowsnap_walk *walk, struct folio *folio)
{
	int err = split_locked(folio);

	if (err == -EAGAIN) {
		ksym(lru_add_drain)();
		err = split_locked(folio);
	}
	if (err)
		walk->unsplit = folio;
	folio_put(folio);
}

/*
 * VM_NOHUGEPAGE for the source, in two steps. Nobody faults in it and nobody
 * collapses it while we hold its locks, so that the flag matters only when they
 * are dropped: it is set after everything has succeeded. What can fail, cutting
 * the mappings where the range begins and ends, comes before.
 */

static bool vma_needs_nohuge(struct vm_area_struct *vma)
{
	return vma && cowsnap_nohuge_flags(vma->vm_flags) != vma->vm_flags;
}

static bool cuts_vma(struct vm_area_struct *vma, unsigned long addr)
{
	return vma_needs_nohuge(vma) && vma->vm_start < addr &&
	       addr < vma->vm_end;
}

/* How many mappings prepare() adds. */
unsigned int cowsnap_nohuge_splits(struct cowsnap_op *op)
{
	unsigned long end = op->src + op->len;

	return cuts_vma(find_vma(op->mm, op->src), op->src) +
	       cuts_vma(find_vma(op->mm, end - 1), end);
}

/* What of [start, end) the mapping at @addr covers becomes a mapping of its own. */
static int cut_vma(struct cowsnap_op *op, unsigned long addr)
{
	struct vm_area_struct *vma = find_vma(op->mm, addr);
	/* No mapping has both: this one is not merged with a neighbour. */
	unsigned long flags = vma->vm_flags | VM_HUGEPAGE | VM_NOHUGEPAGE;

	if (cowsnap_fault()) {
		vma = ERR_PTR(-ENOMEM);
	} else {
		/* Of two cuts the second may fail. */
		op->src_cut = true;
		vma = cowsnap_vma_modify_flags(vma,
					       max(op->src, vma->vm_start),
					       min(op->src + op->len, vma->vm_end),
					       &flags);
	}
	if (IS_ERR(vma))
		return cowsnap_refuse(op, addr, COWSNAP_REASON_NO_MEMORY,
				      -ENOMEM);
	return 0;
}

/**
 * cowsnap_nohuge_prepare - let no mapping reach beyond the ends of the source
 * @op: the request
 *
 * Return: 0 or -ENOMEM, with the mappings as they were.
 */
int cowsnap_nohuge_prepare(struct cowsnap_op *op)
{
	unsigned long end = op->src + op->len;
	int err = 0;

	mmap_assert_write_locked(op->mm);
	if (cuts_vma(find_vma(op->mm, op->src), op->src))
		err = cut_vma(op, op->src);
	if (!err && cuts_vma(find_vma(op->mm, end - 1), end))
		err = cut_vma(op, end - 1);
	if (err)
		cowsnap_nohuge_undo(op);
	return err;
}

/* With its own flags, a mapping is merged with what it was cut from. */
static struct vm_area_struct *try_join(struct vm_area_struct *vma)
{
	unsigned long flags = vma->vm_flags;

	return cowsnap_vma_modify_flags(vma, vma->vm_start, vma->vm_end, &flags);
}

/*
 * That wants memory before it gives some back. Who fails has nowhere to fail to,
 * so it may have what is reserved for freeing more, whatever the limits.
 */
static void join_vma(struct vm_area_struct *vma)
{
	struct vm_area_struct *joined;
	unsigned int saved;

	if (!vma)
		return;
	joined = cowsnap_fault() ? ERR_PTR(-ENOMEM) : try_join(vma);
	if (joined == ERR_PTR(-ENOMEM)) {
		saved = memalloc_noreclaim_save();
		joined = try_join(vma);
		memalloc_noreclaim_restore(saved);
	}
	WARN_ON_ONCE(IS_ERR(joined) && PTR_ERR(joined) != -ENOMEM);
}

/* The source becomes what it was before prepare(). */
void cowsnap_nohuge_undo(struct cowsnap_op *op)
{
	if (!op->src_cut)
		return;
	join_vma(find_vma_intersection(op->mm, op->src, op->src + 1));
	join_vma(find_vma_intersection(op->mm, op->src + op->len - 1,
				       op->src + op->len));
	op->src_cut = false;
}

/**
 * cowsnap_nohuge_commit - as MADV_NOHUGEPAGE for the source, without failure
 * @op: the request; the source is shared now
 */
void cowsnap_nohuge_commit(struct cowsnap_op *op)
{
	unsigned long addr = op->src, end = op->src + op->len;
	struct vm_area_struct *vma, *merged;
	unsigned long flags;

	for (; addr < end; addr = vma->vm_end) {
		vma = find_vma(op->mm, addr);
		if (!vma || vma->vm_start >= end)
			return;
		if (!vma_needs_nohuge(vma))
			continue;
		flags = cowsnap_nohuge_flags(vma->vm_flags);
		/* Merged if that is possible, or a mapping of its own. */
		merged = cowsnap_fault() ? ERR_PTR(-ENOMEM) :
			 cowsnap_vma_modify_flags(vma, vma->vm_start,
						  vma->vm_end, &flags);
		if (!IS_ERR(merged))
			vma = merged;
		cowsnap_vma_start_write(vma);
		cowsnap_set_vm_flags(vma, flags);
	}
}

/*
 * MADV_HUGEPAGE on one side of what is shared is forbidden, but nobody can be
 * kept from it. It is of no consequence as long as swapped-out base pages are
 * not read into large folios, of other sizes than PMD_SIZE. Say it where that
 * may happen.
 */
void cowsnap_large_init(void)
{
	unsigned long orders = READ_ONCE(*ksym_data(huge_anon_orders_always)) |
			       READ_ONCE(*ksym_data(huge_anon_orders_madvise)) |
			       READ_ONCE(*ksym_data(huge_anon_orders_inherit));

	if (orders & ~BIT(PMD_ORDER))
		pr_warn("huge pages smaller than %lu KiB are enabled: do not call MADV_HUGEPAGE on what was duplicated, see cowsnap.h\n",
			PMD_SIZE / 1024);
}
