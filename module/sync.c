// SPDX-License-Identifier: GPL-2.0
/*
 * COWSNAP_SYNC: make one range what the other is, touching what differs.
 *
 * The passes of share.c over pairs of entries, leaving out those that are the
 * same already. What the destination maps instead goes away as munmap(2) has
 * it: rmap and counters under the page-table lock, the page itself after the
 * flush, since other threads reach it through their TLBs until then. That of
 * one entry goes after all that can fail has been done for the one that comes:
 * a call that ends early has lost nothing.
 *
 *	check	both sides can share, and the rmap finds both (is_related())
 *	share	first pass: source protected and shared, others left
 *	flush	the instant, see share.c; then the replaced pages are freed
 *	copy	second pass
 */
#include <linux/slab.h>

#include "cowsnap.h"
#include "hot.h"
#include "large.h"
#include "share.h"

/* Pages taken out of the destination and not flushed yet, with a reference. */
struct cowsnap_replaced {
	unsigned int nr;
	unsigned long start;
	unsigned long end;
	struct folio *folios[500];
};

struct sync {
	struct share share;
	bool copy;		/* second pass */
	bool full;		/* of replaced pages: flush them first */
	bool dst_moves;		/* wait for a page of the destination */
	struct cowsnap_replaced replaced;
};

static void replaced_range(struct cowsnap_replaced *replaced,
			   unsigned long start, unsigned long end)
{
	replaced->start = replaced->end ? min(replaced->start, start) : start;
	replaced->end = max(replaced->end, end);
}

static void flush_replaced(struct cowsnap_walk *walk)
{
	struct cowsnap_replaced *replaced = walk->replaced;
	unsigned int i;

	if (replaced->end)
		cowsnap_flush_replaced(walk->op->mm, replaced->start,
				       replaced->end);
	for (i = 0; i < replaced->nr; i++)
		if (folio_test_swapcache(replaced->folios[i]))
			cowsnap_free_swap_cache(replaced->folios[i]);
	/* Most were the last ones of their page: freed together. */
	cowsnap_put_folios(replaced->folios, replaced->nr);
	replaced->nr = 0;
	replaced->end = 0;
}

static void drop_present(struct cowsnap_walk *walk, pte_t pte)
{
	struct cowsnap_replaced *replaced = walk->replaced;
	struct page *page = pte_page(pte);
	struct folio *folio = page_folio(page);

	if (folio_test_anon(folio))
		walk->rss_anon--;
	else if (cowsnap_file_counter(folio) == MM_SHMEMPAGES)
		walk->rss_shmem--;
	else
		walk->rss_file--;
	cowsnap_remove_rmap(folio, page, walk->dst_vma);
	replaced->folios[replaced->nr++] = folio;
}

/**
 * cowsnap_clear_dst - take out what the destination maps
 * @walk: of a SYNC; there is room for one more replaced page
 * @addr: in the destination, page-table lock held
 * @dst: its entry, empty or not
 */
void cowsnap_clear_dst(struct cowsnap_walk *walk, unsigned long addr, pte_t *dst)
{
	struct mm_struct *mm = walk->op->mm;
	pte_t pte;

	/*
	 * The zero page as well: a stale entry of it would go on reading zeroes.
	 * And an empty entry, whose flush reclaim may have put off.
	 */
	replaced_range(walk->replaced, addr, addr + PAGE_SIZE);
	if (pte_none(ptep_get(dst)))
		return;
	pte = ptep_get_and_clear(mm, addr, dst);
	/* Elsewhere an entry must not change to another page without a flush. */
	if (!IS_ENABLED(CONFIG_X86))
		cowsnap_flush_tlb(mm, addr, addr + PAGE_SIZE);
	if (pte_present(pte)) {
		if (pte_special(pte))
			cowsnap_unmap_zero_page(mm, pte);
		else
			drop_present(walk, pte);
	} else if (softleaf_is_swap(softleaf_from_pte(pte))) {
		cowsnap_put_swap(softleaf_from_pte(pte));
		walk->rss_swap--;
	}
}

#ifdef CONFIG_TRANSPARENT_HUGEPAGE
/**
 * cowsnap_clear_dst_pmd - the same for a huge entry, or an empty one
 * @walk: of a SYNC; there is room for one more replaced page
 * @span: both pmd entries are locked
 */
void cowsnap_clear_dst_pmd(struct cowsnap_walk *walk,
			   const struct cowsnap_span *span)
{
	struct cowsnap_replaced *replaced = walk->replaced;
	struct mm_struct *mm = walk->op->mm;
	struct folio *folio;
	pmd_t pmd;

	if (pmd_none(*span->dst_pmd))
		return;
	pmd = pmdp_huge_get_and_clear(mm, span->dst, span->dst_pmd);
	/* As in cowsnap_clear_dst(). */
	if (!IS_ENABLED(CONFIG_X86))
		cowsnap_flush_tlb(mm, span->dst, span->dst + HPAGE_PMD_SIZE);
	replaced_range(replaced, span->dst, span->dst + HPAGE_PMD_SIZE);
	folio = page_folio(pmd_page(pmd));
	if (folio_test_anon(folio)) {	/* not the huge zero page */
		cowsnap_remove_rmap_pmd(folio, pmd_page(pmd), walk->dst_vma);
		walk->rss_anon -= HPAGE_PMD_NR;
		replaced->folios[replaced->nr++] = folio;
	}
	cowsnap_pte_free(mm, ksym(pgtable_trans_huge_withdraw)(mm, span->dst_pmd));
	mm_dec_nr_ptes(mm);
}

/* Both huge and the same page, whichever. */
static bool same_huge(const struct cowsnap_span *span, pmd_t src, pmd_t dst)
{
	return span->len == HPAGE_PMD_SIZE && pmd_present(src) &&
	       pmd_present(dst) && pmd_trans_huge(src) && pmd_trans_huge(dst) &&
	       pmd_pfn(src) == pmd_pfn(dst);
}
#endif

static bool same_entry(pte_t src, pte_t dst)
{
	softleaf_t a, b;

	if (pte_present(src) || pte_present(dst))
		return pte_present(src) && pte_present(dst) &&
		       pte_pfn(src) == pte_pfn(dst);
	if (pte_none(src) || pte_none(dst))
		return pte_none(src) && pte_none(dst);
	a = softleaf_from_pte(src);
	b = softleaf_from_pte(dst);
	return a.val == b.val &&
	       (softleaf_is_swap(a) || softleaf_is_marker(a));
}

/*
 * Is what has no page of its own: untouched, or the zero page in anonymous
 * memory, the file's in the mapping of a file?
 */
static bool is_empty(struct vm_area_struct *vma, pte_t pte)
{
	if (pte_none(pte))
		return true;
	if (!pte_present(pte))
		return softleaf_is_marker(softleaf_from_pte(pte)) &&
		       !cowsnap_marker_to_keep(softleaf_from_pte(pte));
	if (pte_special(pte))
		return vma_is_anonymous(vma) && is_zero_pfn(pte_pfn(pte));
	return !vma_is_anonymous(vma) &&
	       !folio_test_anon(page_folio(pte_page(pte)));
}

/* What is in the way of replacing an entry of the destination? */
static bool dst_is_ready(struct cowsnap_walk *walk, unsigned long addr, pte_t dst)
{
	struct sync *sync = walk->private;
	softleaf_t entry;

	sync->full = walk->replaced->nr == ARRAY_SIZE(walk->replaced->folios);
	if (sync->full)
		return false;
	if (pte_none(dst) || pte_present(dst))
		return true;
	entry = softleaf_from_pte(dst);
	sync->dst_moves = softleaf_is_migration(entry);
	if (softleaf_is_device_private(entry) ||
	    softleaf_is_device_exclusive(entry)) {
		sync->share.block = BLOCK_REFUSED;
		cowsnap_refuse(walk->op, addr + walk->offset,
			       COWSNAP_REASON_DEVICE, -EOPNOTSUPP);
		return false;
	}
	return !sync->dst_moves;
}

/* A pair of entries that differ. Returns false when the locks must be dropped. */
static bool sync_entry(struct cowsnap_walk *walk, unsigned long addr,
		       pte_t *src, pte_t *dst)
{
	unsigned long left = walk->op->left;
	struct sync *sync = walk->private;
	bool done = true;

	if (!dst_is_ready(walk, addr, ptep_get(dst)))
		return false;
	if (is_empty(walk->src_vma, ptep_get(src)))
		cowsnap_clear_dst(walk, addr + walk->offset, dst);
	else if (sync->copy)
		done = cowsnap_copy_entry(walk, addr, src, dst);
	else
		done = cowsnap_share_entry(walk, addr, src, dst);
	if (done && walk->op->left == left)
		walk->op->changed++;
	return done;
}

/* Is there nothing to do for a pair of entries? */
static bool is_synced(struct cowsnap_walk *walk, pte_t src, pte_t dst)
{
	return same_entry(src, dst) || (is_empty(walk->src_vma, src) &&
					is_empty(walk->dst_vma, dst));
}

/*
 * The destination has that page already, and is to hold it as if it were shared
 * now: MADV_FREE may have marked it there since.
 */
static void keep_synced(pte_t dst)
{
	struct folio *folio;

	if (!pte_present(dst) || pte_special(dst) || pte_dirty(dst))
		return;
	folio = page_folio(pte_page(dst));
	if (folio_test_anon(folio))
		cowsnap_keep_content(folio);
}

static unsigned int sync_ptes(struct cowsnap_walk *walk,
			      const struct cowsnap_span *span)
{
	unsigned int i, nr = span->len / PAGE_SIZE;
	pte_t *src = span->src_pte, *dst = span->dst_pte;

	for (i = 0; i < nr; i++) {
		i += hot_same(src + i, dst + i, nr - i, /* dirty= */true);
		if (i == nr)
			break;
		if (is_synced(walk, ptep_get(src + i), ptep_get(dst + i)))
			keep_synced(ptep_get(dst + i));
		else if (!sync_entry(walk, span->src + i * PAGE_SIZE, src + i, dst + i))
			break;
	}
	return i;
}

static int sync_blocked(struct cowsnap_walk *walk,
			const struct cowsnap_span *span)
{
	struct sync *sync = walk->private;

	if (!sync->full && !sync->dst_moves)
		return cowsnap_share_blocked(walk, span);
	if (cowsnap_killed())
		return -EINTR;
	if (sync->full)
		flush_replaced(walk);
	else
		ksym(migration_entry_wait)(walk->op->mm, span->dst_pmd, span->dst);
	sync->full = false;
	sync->dst_moves = false;
	return 0;
}

#ifdef CONFIG_TRANSPARENT_HUGEPAGE
static void split_dst(struct cowsnap_walk *walk, struct cowsnap_span *span)
{
	if (pmd_present(READ_ONCE(*span->dst_pmd)))
		cowsnap_split_huge_pmd(walk->dst_vma, span->dst_pmd, span->dst);
	else
		ksym(pmd_migration_entry_wait)(walk->op->mm, span->dst_pmd);
}

/*
 * A huge entry on one side at least. 1: the span is done. 0: look again; it may
 * be page tables now. Otherwise an error.
 */
static int sync_huge(struct cowsnap_walk *walk, struct cowsnap_span *span,
		     pmd_t src, pmd_t dst)
{
	bool whole = pmd_none(dst) || cowsnap_pmd_is_huge(dst);
	int err;

	if (same_huge(span, src, dst))
		return 1;
	if (cowsnap_pmd_is_device(src) || cowsnap_pmd_is_device(dst))
		return cowsnap_refuse(walk->op, span->src,
				      COWSNAP_REASON_DEVICE, -EOPNOTSUPP);
	if (!cowsnap_pmd_is_huge(src) || (whole && !pmd_none(dst) &&
					  !pmd_present(dst))) {
		split_dst(walk, span);
		return 0;
	}
	if (!vma_is_anonymous(walk->src_vma) || (!whole && pmd_present(src))) {
		cowsnap_split_huge_pmd(walk->src_vma, span->src_pmd, span->src);
		return 0;
	}
	if (walk->replaced->nr == ARRAY_SIZE(walk->replaced->folios))
		flush_replaced(walk);
	span->dst_pmd = cowsnap_alloc_pmd(walk->op->mm, span->dst);
	if (!span->dst_pmd)
		return -ENOMEM;
	err = cowsnap_share_huge(walk, span);
	if (err)
		return err == -EAGAIN ? 0 : err;
	walk->op->changed += HPAGE_PMD_NR;
	return 1;
}
#else
static int sync_huge(struct cowsnap_walk *walk, struct cowsnap_span *span,
		     pmd_t src, pmd_t dst)
{
	WARN_ON_ONCE(1);
	return -EIO;
}
#endif

static pmd_t read_pmd(struct cowsnap_walk *walk, pmd_t *pmdp)
{
	return pmdp ? cowsnap_read_pmd(walk->op->mm, pmdp) : __pmd(0);
}

static int sync_span(struct cowsnap_walk *walk, struct cowsnap_span *span)
{
	pmd_t src, dst;
	int ret;

	for (;;) {
		src = read_pmd(walk, span->src_pmd);
		dst = read_pmd(walk, span->dst_pmd);
		if (!cowsnap_pmd_is_huge(src) && !cowsnap_pmd_is_huge(dst))
			break;
		ret = sync_huge(walk, span, src, dst);
		if (ret)
			return min(ret, 0);
		if (cowsnap_killed())
			return -EINTR;
	}
	if (pmd_none(dst) && (pmd_none(src) || cowsnap_span_is_empty(walk, span)))
		return 0;
	if (!span->dst_pmd)
		span->dst_pmd = cowsnap_alloc_pmd(walk->op->mm, span->dst);
	if (!span->dst_pmd)
		return -ENOMEM;
	return cowsnap_walk_ptes(walk, span);
}

static void begin_sync(struct cowsnap_walk *walk)
{
	struct sync *sync = walk->private;

	walk->replaced = &sync->replaced;
}

static void end_sync(struct cowsnap_walk *walk)
{
	flush_replaced(walk);
	cowsnap_share_done(walk->private);
}

static const struct cowsnap_walk_ops sync_ops = {
	.span = sync_span,
	.ptes = sync_ptes,
	.blocked = sync_blocked,
	.parallel = true,
	.allocates = true,
	.begin = begin_sync,
	.end = end_sync,
};

/* What the first pass has left is not much, and copied by policy of the task. */
static const struct cowsnap_walk_ops sync_copy_ops = {
	.span = sync_span,
	.ptes = sync_ptes,
	.blocked = sync_blocked,
};

static int sync_pass(struct cowsnap_op *op, struct sync *sync, bool copy)
{
	struct cowsnap_walk walk = {
		.ops = copy ? &sync_copy_ops : &sync_ops,
		.op = op, .private = sync, .private_size = sizeof(*sync),
		.replaced = &sync->replaced,
	};
	int err;

	sync->copy = copy;
	err = cowsnap_walk(&walk);
	flush_replaced(&walk);
	return err;
}

/* Both passes, in the order that share.c explains. */
static int sync_ranges(struct cowsnap_op *op, struct sync *sync)
{
	struct mmu_notifier_range from, to;
	struct mm_struct *mm = op->mm;
	int err;

	cowsnap_notify_start(&from, mm, MMU_NOTIFY_PROTECTION_PAGE, op->src,
			     op->src + op->len);
	cowsnap_notify_start(&to, mm, MMU_NOTIFY_CLEAR, op->dst,
			     op->dst + op->len);
	update_hiwater_rss(mm);	/* the peak: it may go down from here */
	cowsnap_sharing_begin(mm);
	err = sync_pass(op, sync, /* copy= */false);
	/* What was the same on both sides was protected and flushed before. */
	if (err || op->changed || op->left)
		cowsnap_flush_tlb(mm, op->src, op->src + op->len);
	if (!err && op->left)
		err = sync_pass(op, sync, /* copy= */true);
	cowsnap_sharing_end(mm);
	cowsnap_notify_end(&to);
	cowsnap_notify_end(&from);
	cowsnap_share_done(&sync->share);
	return err;
}

static bool has_anon_vma(struct vm_area_struct *vma, struct anon_vma *anon_vma)
{
	struct anon_vma_chain *avc;

	list_for_each_entry(avc, &vma->anon_vma_chain, same_vma)
		if (avc->anon_vma == anon_vma)
			return true;
	return false;
}

/*
 * Will the rmap find pages of @from in @to? When their page offsets agree at
 * the same distance, and every anon_vma that a page of @from may hang on has
 * @to in its tree, and so lives as long as @to does. After a fork the child's
 * two mappings have an anon_vma each of their own.
 */
static bool is_related(struct cowsnap_op *op, struct vm_area_struct *from,
		       struct vm_area_struct *to, unsigned long addr)
{
	unsigned long to_addr = addr - op->src + op->dst;
	struct anon_vma_chain *avc;

	if (vma_is_anonymous(from) != vma_is_anonymous(to))
		return false;
	if (cowsnap_anon_pgoff(from, addr) != cowsnap_anon_pgoff(to, to_addr))
		return false;
	if (!vma_is_anonymous(from) &&
	    (from->vm_file->f_mapping != to->vm_file->f_mapping ||
	     cowsnap_file_pgoff(from, addr) != cowsnap_file_pgoff(to, to_addr)))
		return false;
	if (!from->anon_vma || !to->anon_vma)
		return false;
	list_for_each_entry(avc, &from->anon_vma_chain, same_vma)
		if (!has_anon_vma(to, avc->anon_vma))
			return false;
	return true;
}

static int check_pair(struct cowsnap_op *op, struct vm_area_struct *from,
		      struct vm_area_struct *to, unsigned long addr)
{
	unsigned long to_addr = addr - op->src + op->dst;
	unsigned long flags;

	if (is_vm_hugetlb_page(from) || is_vm_hugetlb_page(to))
		return cowsnap_refuse(op, addr, COWSNAP_REASON_HUGETLB, -EOPNOTSUPP);
	if (to->vm_flags & VM_SEALED && !(to->vm_flags & VM_WRITE))
		return cowsnap_refuse(op, to_addr, COWSNAP_REASON_SEALED, -EPERM);
	if (to->vm_flags & __VM_UFFD_FLAGS)
		return cowsnap_refuse(op, to_addr, COWSNAP_REASON_UFFD, -EOPNOTSUPP);
	if (!is_related(op, from, to, addr))
		return cowsnap_refuse(op, to_addr, COWSNAP_REASON_UNRELATED,
				      -EOPNOTSUPP);
	/* REMAP has made them so, see large.c. */
	flags = from->vm_flags;
	if (cowsnap_nohuge_flags(flags) != flags)
		return cowsnap_refuse(op, addr, COWSNAP_REASON_HUGEPAGE, -EOPNOTSUPP);
	flags = to->vm_flags;
	if (cowsnap_nohuge_flags(flags) != flags)
		return cowsnap_refuse(op, to_addr, COWSNAP_REASON_HUGEPAGE, -EOPNOTSUPP);
	return 0;
}

/* Every pair of mappings, which nobody faults in from now on. */
static int check_pairs(struct cowsnap_op *op)
{
	unsigned long addr = op->src, end = op->src + op->len;
	unsigned long offset = op->dst - op->src;
	struct vm_area_struct *from, *to;
	int err = 0;

	while (addr < end && !err) {
		from = find_vma(op->mm, addr);
		to = find_vma(op->mm, addr + offset);
		cowsnap_vma_start_write(from);
		cowsnap_vma_start_write(to);
		err = check_pair(op, from, to, addr);
		addr = min3(end, from->vm_end, to->vm_end - offset);
	}
	return err;
}

static int sync_locked(struct cowsnap_op *op, struct sync *sync)
{
	int err = cowsnap_check_vmas(op, op->src, op->len);

	if (!err)
		err = cowsnap_check_vmas(op, op->dst, op->len);
	if (!err)
		err = check_pairs(op);
	return err ?: sync_ranges(op, sync);
}

/**
 * cowsnap_sync - make [dst, dst + len) what [src, src + len) is
 * @op: the request; results, reason and address are left in it
 *
 * Context: process context of a task that uses op->mm; takes its mmap lock.
 * Return: 0 or what include/uapi says of COWSNAP_SYNC.
 */
int cowsnap_sync(struct cowsnap_op *op)
{
	int err = cowsnap_check_pair(op);
	struct sync *sync;

	if (err)
		return err;
	sync = cowsnap_fault() ? NULL : kzalloc(sizeof(*sync), GFP_KERNEL);
	if (!sync)
		return cowsnap_refuse(op, op->src, COWSNAP_REASON_NO_MEMORY,
				      -ENOMEM);
	if (cowsnap_fault_once() || mmap_write_lock_killable(op->mm)) {
		err = cowsnap_refuse(op, op->src, COWSNAP_REASON_SIGNAL, -EINTR);
	} else {
		err = sync_locked(op, sync);
		mmap_write_unlock(op->mm);
	}
	kfree(sync);
	return err;
}
