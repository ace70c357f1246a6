// SPDX-License-Identifier: GPL-2.0
/*
 * Sharing: copy_page_range() of fork with address translation, within one mm.
 *
 * One instant. Writers run on while entries are write-protected one by one:
 * through stale TLB entries, or because their page was not reached yet. A page
 * that both sides map shows such a store on both sides. A writer that meets a
 * protected entry faults and waits for the mmap lock. When the TLB flush has
 * ended nobody can store any more: what the source holds then is what the
 * duplicate holds. A page that must be copied is therefore only protected in
 * the first pass and copied after the flush, in a second one; a copy made
 * during the first would be older than the stores that its neighbours show.
 *
 * Order: notifiers of secondary MMUs first, then write_protect_seq (so that
 * GUP-fast pins no page that is about to be shared), entries, flush, copies.
 */
#include "hot.h"
#include "hugetlb.h"
#include "large.h"
#include "reuse.h"
#include "share.h"

/* Map something in the destination, in place of what a SYNC finds there. */
static void set_dst(struct cowsnap_walk *walk, unsigned long addr, pte_t *dst,
		    pte_t pte)
{
	if (unlikely(walk->replaced)) {
		cowsnap_clear_dst(walk, addr, dst);
		pte = cowsnap_mksoft_dirty(pte);
	}
	set_pte_at(walk->op->mm, addr, dst, pte);
}

static pte_t with_rights_of_dst(struct cowsnap_walk *walk, struct page *page,
				pte_t pte)
{
	pte_t other = mk_pte(page, walk->dst_vma->vm_page_prot);

	return pte_wrprotect(pte_dirty(pte) ? pte_mkdirty(other) : other);
}

static void block_refused(struct cowsnap_walk *walk, unsigned long addr,
			  enum cowsnap_reason reason)
{
	struct share *share = walk->private;

	cowsnap_refuse(walk->op, addr, reason, -EOPNOTSUPP);
	share->block = BLOCK_REFUSED;
}

/*
 * An entry of a swapped-out page. The source's mm is on the list that swapoff
 * walks, since it has this entry.
 */
static bool share_swap(struct cowsnap_walk *walk, unsigned long addr,
		       pte_t *src, pte_t *dst, pte_t pte)
{
	struct share *share = walk->private;
	swp_entry_t entry = softleaf_from_pte(pte);

	/* Only a SYNC meets a destination that is locked. */
	if (walk->dst_vma->vm_flags & VM_LOCKED ||
	    cowsnap_swap_needs_fault(walk, pte)) {
		share->block = BLOCK_SWAPPED;
		return false;
	}
	if (cowsnap_fault() || cowsnap_swap_duplicate(entry) < 0) {
		share->entry = entry;
		share->block = BLOCK_SWAP_COUNT;
		return false;
	}
	if (pte_swp_exclusive(pte)) {
		pte = pte_swp_clear_exclusive(pte);
		set_pte_at(walk->op->mm, addr, src, pte);
	}
	set_dst(walk, addr + walk->offset, dst, pte_swp_clear_uffd(pte));
	walk->rss_swap++;
	walk->op->shared++;
	return true;
}

/*
 * Whatever is neither empty nor present. Returns false when the walk must drop
 * its locks first.
 *
 * fork copies a migration entry; we wait instead. Within one mm the rmap walk
 * that puts the page back may have passed the duplicate already, and would
 * leave a copied entry behind for ever.
 */
static bool share_nonpresent(struct cowsnap_walk *walk, unsigned long addr,
			     pte_t *src, pte_t *dst, pte_t pte)
{
	struct share *share = walk->private;
	softleaf_t entry = softleaf_from_pte(pte);
	pte_marker marker;

	if (softleaf_is_swap(entry))
		return share_swap(walk, addr, src, dst, pte);
	if (softleaf_is_migration(entry)) {
		share->block = BLOCK_MIGRATION;
		return false;
	}
	if (softleaf_is_device_private(entry) ||
	    softleaf_is_device_exclusive(entry)) {
		block_refused(walk, addr, COWSNAP_REASON_DEVICE);
		return false;
	}
	if (softleaf_is_marker(entry)) {
		marker = cowsnap_marker_to_keep(entry);
		if (marker)
			set_dst(walk, addr + walk->offset, dst,
				make_pte_marker(marker));
		return true;
	}
	/* A page lost to a memory error: SIGBUS on either side, as after fork. */
	set_dst(walk, addr + walk->offset, dst, pte_swp_clear_uffd(pte));
	return true;
}

/* Take write permission from the source; returns the entry as it is then. */
static pte_t protect_src(struct mm_struct *mm, unsigned long addr, pte_t *src,
			 pte_t pte)
{
	if (!pte_write(pte))
		return pte;
	ptep_set_wrprotect(mm, addr, src);
	/* Read it again: a CPU may have set the dirty bit meanwhile. */
	return pte_wrprotect(ptep_get(src));
}

/*
 * The zero page, counted nowhere. A dirty entry of it is how 6.12 marks one that
 * KSM has put there and counts; the duplicate's is not one of those.
 */
static bool share_special(struct cowsnap_walk *walk, unsigned long addr,
			  pte_t *dst, pte_t pte)
{
	if (!is_zero_pfn(pte_pfn(pte))) {
		block_refused(walk, addr, COWSNAP_REASON_PFNMAP);
		return false;
	}
	pte = pfn_pte(pte_pfn(pte), walk->dst_vma->vm_page_prot);
	set_dst(walk, addr + walk->offset, dst, pte_mkspecial(pte));
	return true;
}

/*
 * Share a page, or leave it to the second pass. These are left:
 *
 * - KSM pages. rmap_walk_ksm() looks for a page at one address in each mm: the
 *   duplicate's entry would be lost to reclaim and migration.
 * - Pages that may be pinned. They are protected, so that stores to them end
 *   with the others, see above.
 * - What large.c says.
 *
 * Returns false when the walk must drop its locks first.
 */
static bool share_present(struct cowsnap_walk *walk, unsigned long addr,
			  pte_t *src, pte_t *dst, pte_t pte)
{
	struct mm_struct *mm = walk->op->mm;
	struct share *share = walk->private;
	enum large_rule rule;
	struct page *page;
	struct folio *folio;

	if (unlikely(pte_special(pte)))
		return share_special(walk, addr, dst, pte);
	page = pte_page(pte);
	folio = page_folio(page);
	if (unlikely(!folio_test_anon(folio))) {
		/* The file has it, for the duplicate as for anybody. */
		if (!vma_is_anonymous(walk->src_vma))
			return true;
		block_refused(walk, addr, COWSNAP_REASON_SPECIAL);
		return false;
	}
	rule = cowsnap_large_rule(walk, folio, page);
	if (unlikely(rule == LARGE_SPLIT)) {
		folio_get(folio);
		share->large = folio;
		share->block = BLOCK_LARGE;
		return false;
	}
	pte = protect_src(mm, addr, src, pte);
	/* First: nobody is to find more mappings than references. */
	folio_get(folio);
	if (unlikely(folio_test_ksm(folio) || rule == LARGE_COPY ||
		     cowsnap_refs_exhausted(folio) ||
		     cowsnap_dup_rmap_pte(folio, page, walk->dst_vma,
					  walk->src_vma))) {
		folio_put(folio);	/* not the last one: src has it */
		walk->op->left++;
		return true;
	}
	if (unlikely(!pte_dirty(pte)))
		cowsnap_keep_content(folio);
	pte = cowsnap_pte_untrap(pte, walk->src_vma, walk->dst_vma);
	if (unlikely(cowsnap_has_other_rights(walk)))
		pte = with_rights_of_dst(walk, page, pte);
	set_dst(walk, addr + walk->offset, dst, pte_mkold(pte));
	walk->rss_anon++;
	return true;
}

/* One entry that is not empty. Returns false when the locks must be dropped. */
bool cowsnap_share_entry(struct cowsnap_walk *walk, unsigned long addr,
			 pte_t *src, pte_t *dst)
{
	pte_t pte = ptep_get(src);

	if (pte_present(pte))
		return share_present(walk, addr, src, dst, pte);
	return share_nonpresent(walk, addr, src, dst, pte);
}

/* Is nothing to be heeded in this mapping that hot.h knows nothing of? */
static bool is_plain(struct cowsnap_walk *walk)
{
	return entries_are_plain() && !walk->has_relatives && !walk->has_strangers &&
	       !cowsnap_has_other_rights(walk) &&
	       !(walk->src_vma->vm_flags & __VM_UFFD_FLAGS);
}

static bool share_one(struct cowsnap_walk *walk, unsigned long addr, pte_t *src,
		      pte_t *dst)
{
	return pte_none(ptep_get(src)) ||
	       cowsnap_share_entry(walk, addr, src, dst);
}

/*
 * How many of @nr entries from @src on map pages of one large folio in a row, and
 * are of the usual kind?
 */
static unsigned int count_in_folio(pte_t *src, unsigned int nr, struct page *page)
{
	struct folio *folio = page_folio(page);
	const struct frames f = frames_of_memory();
	unsigned int i;
	pte_t pte;

	nr = min_t(unsigned long, nr,
		   folio_nr_pages(folio) - folio_page_idx(folio, page));
	for (i = 0; i < nr; i++) {
		pte = ptep_get(src + i);
		if (!entry_is_usual(pte) || !entry_is_dirty(pte) ||
		    entry_page(&f, pte) != page + i)
			break;
	}
	return i;
}

/*
 * Part of a large folio, its references counted at once. Returns how many pages
 * are shared; 0 leaves the first one to share_one().
 */
static unsigned int share_large(struct cowsnap_walk *walk, unsigned long addr,
				pte_t *src, struct hot_entries dst, unsigned int nr)
{
	struct folio *folio;
	struct page *page;
	unsigned int i;

	if (!COWSNAP_HUGE_WHOLE || !entry_is_usual(ptep_get(src)))
		return 0;
	page = pte_page(ptep_get(src));
	folio = page_folio(page);
	if (!folio_test_large(folio) || !folio_test_anon(folio) ||
	    cowsnap_refs_exhausted(folio) || folio_maybe_dma_pinned(folio))
		return 0;
	nr = count_in_folio(src, nr, page);
	if (!nr)
		return 0;
	/* First: nobody is to find more mappings than references. */
	folio_ref_add(folio, nr);
	i = nr;
	nr = cowsnap_dup_rmap_ptes(folio, page, nr, walk->dst_vma, walk->src_vma);
	if (nr < i)
		folio_ref_sub(folio, i - nr);
	for (i = 0; i < nr; i++, addr += PAGE_SIZE) {
		pte_t pte = protect_src(dst.mm, addr, src + i, ptep_get(src + i));

		entry_map(dst.mm, dst.addr + i * PAGE_SIZE, dst.ptep + i,
			  pte_mkold(pte_clear_uffd(pte)));
	}
	return nr;
}

/* Inlined, its loop would lack registers. */
static noinline unsigned int share_plain(pte_t *src, struct hot_entries dst,
					 unsigned int nr)
{
	return hot_share(src, dst, nr);
}

/* First pass: share what can be shared, protect the rest. */
static unsigned int share_ptes(struct cowsnap_walk *walk,
			       const struct cowsnap_span *span)
{
	struct hot_entries to = { walk->op->mm, span->dst, span->dst_pte };
	unsigned int i, n, nr = span->len / PAGE_SIZE;
	pte_t *src = span->src_pte;
	bool plain = is_plain(walk);

	hot_prefetch_first(src, nr);
	for (i = 0; i < nr; i += n) {
		unsigned long addr = span->src + i * PAGE_SIZE;

		n = plain ? share_plain(src + i, hot_from(to, i), nr - i) : 0;
		if (plain && !n)
			n = share_large(walk, addr, src + i, hot_from(to, i), nr - i);
		walk->rss_anon += n;
		if (n)
			continue;
		if (!share_one(walk, addr, src + i, to.ptep + i))
			break;
		n = 1;
	}
	walk->op->shared += walk->rss_anon;
	return i;
}

/*
 * A page that could not be shared keeps its write permission, if a write fault
 * would give it back without a copy anyway: can_change_pte_writable(). No
 * flush, nobody holds a stale entry with fewer rights for long.
 */
static void unprotect_src(struct cowsnap_walk *walk, unsigned long addr,
			  pte_t *src, struct page *page)
{
	struct vm_area_struct *vma = walk->src_vma;
	pte_t pte = ptep_get(src);

	if (pte_write(pte) || pte_protnone(pte) || !pte_dirty(pte) ||
	    !PageAnonExclusive(page) || !cowsnap_may_write(vma, pte))
		return;
	set_pte_at(vma->vm_mm, addr, src, cowsnap_pte_mkwrite(pte));
}

/* Copy one page under the locks. Returns false when they must be dropped. */
static bool copy_present(struct cowsnap_walk *walk, unsigned long addr,
			 pte_t *src, pte_t *dst)
{
	struct vm_area_struct *dst_vma = walk->dst_vma;
	unsigned long dst_addr = addr + walk->offset;
	struct share *share = walk->private;
	struct page *page = pte_page(ptep_get(src));
	pte_t pte;

	/* The first pass has protected it, and so is what read_in() brings. */
	WARN_ON_ONCE(pte_write(ptep_get(src)));
	if (!share->folio || share->folio_addr != addr) {
		share->block = BLOCK_COPY;
		return false;
	}
	if (cowsnap_fault_once() ||
	    copy_mc_user_highpage(&share->folio->page, page, dst_addr, dst_vma)) {
		share->block = BLOCK_POISON;
		return false;
	}
	cowsnap_add_new_folio(share->folio, dst_vma, dst_addr);
	pte = pte_mkdirty(mk_pte(&share->folio->page, dst_vma->vm_page_prot));
	if (dst_vma->vm_flags & VM_WRITE)
		pte = cowsnap_pte_mkwrite(pte);
	set_dst(walk, dst_addr, dst, pte);
	share->folio = NULL;
	walk->rss_anon++;
	walk->op->copied++;
	unprotect_src(walk, addr, src, page);
	return true;
}

/* Second pass, one entry that is not empty. */
bool cowsnap_copy_entry(struct cowsnap_walk *walk, unsigned long addr,
			pte_t *src, pte_t *dst)
{
	pte_t pte = ptep_get(src);

	if (!pte_present(pte))	/* a KSM page went to swap, or moves */
		return share_nonpresent(walk, addr, src, dst, pte);
	if (pte_special(pte))	/* a split left the zero page */
		return share_special(walk, addr, dst, pte);
	if (!folio_test_anon(page_folio(pte_page(pte))))
		return true;	/* left to the file */
	return copy_present(walk, addr, src, dst);
}

/*
 * Second pass: what the first one left is what has no entry in the duplicate.
 * Nobody else can have filled one in, the vma is write-locked.
 */
static unsigned int copy_ptes(struct cowsnap_walk *walk,
			      const struct cowsnap_span *span)
{
	pte_t *src = span->src_pte, *dst = span->dst_pte;
	unsigned int i, nr = span->len / PAGE_SIZE;
	unsigned long addr = span->src;

	for (i = 0; i < nr; i++, src++, dst++, addr += PAGE_SIZE) {
		if (pte_none(ptep_get(src)) || !pte_none(ptep_get(dst)))
			continue;
		if (!cowsnap_copy_entry(walk, addr, src, dst))
			break;
	}
	return i;
}

static void drop_folio(struct share *share)
{
	if (share->folio)
		folio_put(share->folio);
	share->folio = NULL;
}

/* A page for the copy of @src, by the policy of the duplicate. */
static int alloc_folio(struct cowsnap_walk *walk, unsigned long src,
		       unsigned long dst)
{
	struct share *share = walk->private;

	drop_folio(share);
	if (cowsnap_fault())
		return -ENOMEM;
	share->folio = cowsnap_alloc_folio(walk->dst_vma, dst, 0);
	if (!share->folio)
		return -ENOMEM;
	share->folio_addr = src;
	return cowsnap_charge(share->folio, walk->op->mm, GFP_KERNEL);
}

/*
 * A swapped page comes as one, and not as part of a large folio that would also
 * be mapped where neighbours have been shared: see large.c. And it comes without
 * write permission: in the second pass nobody may store to it any more.
 */
static int read_in(struct cowsnap_walk *walk, unsigned long addr)
{
	struct vm_area_struct *vma = walk->src_vma;
	unsigned long flags = vma->vm_flags;
	int err;

	cowsnap_set_vm_flags(vma, cowsnap_nohuge_now(flags) & ~VM_WRITE);
	err = cowsnap_touch(walk->op, vma, addr, 0);
	cowsnap_set_vm_flags(vma, flags);
	return err;
}

int cowsnap_share_blocked(struct cowsnap_walk *walk,
			  const struct cowsnap_span *span)
{
	struct share *share = walk->private;
	enum block block = share->block;

	share->block = BLOCK_NONE;
	cond_resched();
	if (cowsnap_killed()) {
		cowsnap_share_done(share);
		return -EINTR;
	}
	switch (block) {
	case BLOCK_MIGRATION:
		ksym(migration_entry_wait)(walk->op->mm, span->src_pmd,
					   span->src);
		return 0;
	case BLOCK_SWAP_COUNT:
		return cowsnap_swap_make_room(share->entry);
	case BLOCK_COPY:
		return alloc_folio(walk, span->src, span->dst);
	case BLOCK_LARGE:
		cowsnap_split(walk, share->large);
		share->large = NULL;
		return 0;
	case BLOCK_SWAPPED:
		if (cowsnap_in_worker())
			return -EAGAIN;
		return read_in(walk, span->src);
	case BLOCK_POISON:
		return cowsnap_refuse(walk->op, span->src,
				      COWSNAP_REASON_POISON, -EOPNOTSUPP);
	case BLOCK_REFUSED:
		return -EOPNOTSUPP;
	case BLOCK_NONE:
		break;
	}
	WARN_ON_ONCE(1);
	return -EIO;
}

/* The first pass shared every huge entry, or made a page table of it. */
static int copy_huge(struct cowsnap_walk *walk, struct cowsnap_span *span)
{
	return 0;
}

static void end_share(struct cowsnap_walk *walk)
{
	cowsnap_share_done(walk->private);
}

static const struct cowsnap_walk_ops share_ops = {
	.huge = cowsnap_share_huge,
	.ptes = share_ptes,
	.blocked = cowsnap_share_blocked,
	.hugetlb = cowsnap_share_hugetlb,
	.parallel = true,
	.allocates = true,
	.end = end_share,
};

static const struct cowsnap_walk_ops copy_ops = {
	.huge = copy_huge,
	.ptes = copy_ptes,
	.blocked = cowsnap_share_blocked,
	.hugetlb = cowsnap_copy_hugetlb,
};

static int share_pass(struct cowsnap_op *op, struct share *share,
		      const struct cowsnap_walk_ops *ops)
{
	struct cowsnap_walk walk = {
		.ops = ops, .op = op,
		.private = share, .private_size = sizeof(*share),
	};

	return cowsnap_walk(&walk);
}

/* What a pass that failed has left. */
void cowsnap_share_done(struct share *share)
{
	drop_folio(share);
	if (share->large)	/* killed before it was split */
		folio_put(share->large);
	share->large = NULL;
}

/**
 * cowsnap_share - let the duplicate's empty vmas map what the source maps
 * @op: the request; its vmas at @op->dst are in place and write-locked, as are
 *	those of the source
 *
 * As copy_page_range() for all of them together: one instant for the whole
 * range. A failure leaves entries behind that unmapping the duplicate removes.
 *
 * Return: 0, -EINTR, -ENOMEM or -EOPNOTSUPP, with reason and address in @op.
 */
int cowsnap_share(struct cowsnap_op *op)
{
	struct mmu_notifier_range range;
	struct mm_struct *mm = op->mm;
	struct share share = {};
	int err;

	mmap_assert_write_locked(mm);
	cowsnap_notify_start(&range, mm, MMU_NOTIFY_PROTECTION_PAGE, op->src,
			     op->src + op->len);
	cowsnap_sharing_begin(mm);
	err = share_pass(op, &share, &share_ops);
	/*
	 * Also when nothing was writable: reclaim may have taken out entries
	 * and put off their flush, and stores go through those to the page that
	 * the swap entry now shared stands for. Also after a failure.
	 */
	cowsnap_flush_tlb(mm, op->src, op->src + op->len);
	if (!err && op->left)
		err = share_pass(op, &share, &copy_ops);
	cowsnap_sharing_end(mm);
	cowsnap_notify_end(&range);
	cowsnap_share_done(&share);
	return err;
}
