// SPDX-License-Identifier: GPL-2.0
/*
 * COWSNAP_RELEASE: munmap(2) of a duplicate and UNSHARE with REUSE of its source.
 *
 * Most of a duplicate are pages that the source still maps. They are taken out
 * here: a page that the other side holds is not about to be freed, which makes
 * this several times cheaper than unmapping it. munmap has the rest. The source
 * gets its pages back only after the flush: as long as somebody can read the
 * duplicate through his TLB, nobody must be able to write.
 */
#include <linux/slab.h>

#include "cowsnap.h"
#include "hot.h"
#include "pgwalk.h"

/*
 * Dropped pages have their reference until the TLBs have been flushed: as soon as
 * its lock goes the source may lose a page, and who reads the duplicate through
 * his TLB would read what is in the page then. Memory for so many pages; each
 * flush interrupts the other threads.
 */
#define RELEASE_BATCH	8000UL

struct release {
	struct hot_dropped dropped;
	unsigned long start;	/* of the duplicate, not flushed since */
	unsigned int room;
	struct page *pages[];
};

static void put_dropped(struct cowsnap_walk *walk, unsigned long end)
{
	struct release *release = walk->private;

	if (release->dropped.nr)
		cowsnap_flush_replaced(walk->op->mm, release->start, end);
	hot_put(&release->dropped);
	release->start = end;
}

/* The same by the kernel's own helper, for what hot.h does not know. */
static void drop_one(struct cowsnap_walk *walk, unsigned long addr, pte_t *src,
		     pte_t *dst)
{
	struct release *release = walk->private;
	pte_t pte = ptep_get(dst), other = ptep_get(src);
	struct folio *folio;
	struct page *page;

	if (!pte_present(pte) || !pte_present(other) ||
	    pte_pfn(pte) != pte_pfn(other) || pte_special(pte))
		return;
	page = pte_page(pte);
	folio = page_folio(page);
	if (!folio_test_anon(folio))
		return;
	ptep_get_and_clear(walk->op->mm, addr, dst);
	cowsnap_remove_rmap(folio, page, walk->dst_vma);
	release->dropped.pages[release->dropped.nr++] = &folio->page;
}

static unsigned int drop_shared(struct cowsnap_walk *walk,
				const struct cowsnap_span *span)
{
	struct hot_entries dst = { walk->op->mm, span->dst, span->dst_pte };
	bool plain = entries_are_plain() && !(walk->dst_vma->vm_flags & VM_LOCKED);
	unsigned int i, nr = span->len / PAGE_SIZE;
	struct release *release = walk->private;
	unsigned int before = release->dropped.nr;

	if (before + nr > release->room)
		return 0;
	hot_prefetch_first(span->dst_pte, nr);
	for (i = 0; i < nr; i++) {
		if (plain)
			i += hot_drop(span->src_pte + i, hot_from(dst, i), nr - i,
				      &release->dropped);
		if (i < nr)
			drop_one(walk, span->dst + i * PAGE_SIZE,
				 span->src_pte + i, span->dst_pte + i);
	}
	walk->rss_anon -= release->dropped.nr - before;
	return nr;
}

/* The batch is full. */
static int drop_blocked(struct cowsnap_walk *walk, const struct cowsnap_span *span)
{
	put_dropped(walk, span->dst);
	return 0;
}

static bool is_table(struct cowsnap_walk *walk, pmd_t *pmdp)
{
	pmd_t pmd = pmdp ? cowsnap_read_pmd(walk->op->mm, pmdp) : __pmd(0);

	return !pmd_none(pmd) && !cowsnap_pmd_is_huge(pmd);
}

static int drop_span(struct cowsnap_walk *walk, struct cowsnap_span *span)
{
	/* Without an anon_vma nothing is shared, and khugepaged frees tables. */
	if (!walk->src_vma->anon_vma || !walk->dst_vma->anon_vma ||
	    !is_table(walk, span->src_pmd) || !is_table(walk, span->dst_pmd))
		return 0;
	return cowsnap_walk_ptes(walk, span);
}

static void begin_release(struct cowsnap_walk *walk)
{
	struct release *release = walk->private;

	release->dropped.pages = release->pages;
}

/* Pieces come in order: this was the last one of this worker. */
static void end_release(struct cowsnap_walk *walk)
{
	put_dropped(walk, walk->op->dst + walk->op->len);
}

static const struct cowsnap_walk_ops drop_ops = {
	.span = drop_span,
	.ptes = drop_shared,
	.blocked = drop_blocked,
	.unkillable = true,
	.parallel = true,
	.begin = begin_release,
	.end = end_release,
};

static void start_write(struct cowsnap_op *op, unsigned long start)
{
	VMA_ITERATOR(vmi, op->mm, start);
	struct vm_area_struct *vma;

	for_each_vma_range(vmi, vma, start + op->len)
		cowsnap_vma_start_write(vma);
}

static void drop_duplicate(struct cowsnap_op *op, struct release *release)
{
	struct cowsnap_walk walk = {
		.ops = &drop_ops, .op = op, .private = release,
		.private_size = struct_size(release, pages, release->room),
	};
	struct mmu_notifier_range range;

	start_write(op, op->src);
	start_write(op, op->dst);
	cowsnap_notify_start(&range, op->mm, MMU_NOTIFY_CLEAR, op->dst,
			     op->dst + op->len);
	/* The peak of the RSS is noted by who lowers it: munmap is too late for that. */
	update_hiwater_rss(op->mm);
	cowsnap_walk(&walk);
	put_dropped(&walk, op->dst + op->len);
	cowsnap_notify_end(&range);
}

/*
 * What has been dropped cannot be put back. Where the duplicate is whole
 * mappings, which need not be cut, munmap fails only for want of a few bytes,
 * which the kernel denies to a task that is being killed.
 */
static bool is_whole(struct cowsnap_op *op)
{
	struct vm_area_struct *first = find_vma(op->mm, op->dst);
	struct vm_area_struct *last = find_vma(op->mm, op->dst + op->len - 1);

	return first->vm_start == op->dst && last->vm_end == op->dst + op->len;
}

/* As munmap() counts: what is cut out of the middle of a mapping leaves two. */
static bool within_map_count(struct cowsnap_op *op)
{
	struct vm_area_struct *vma = find_vma(op->mm, op->dst);

	return vma->vm_start == op->dst || vma->vm_end <= op->dst + op->len ||
	       op->mm->map_count < *ksym_data(sysctl_max_map_count);
}

static int unmap(struct cowsnap_op *op, struct release *release,
		 struct list_head *uf)
{
	bool whole = is_whole(op);
	int err;

	if (cowsnap_killed())
		return cowsnap_refuse(op, op->dst, COWSNAP_REASON_SIGNAL, -EINTR);
	if (!within_map_count(op))
		return cowsnap_refuse(op, op->dst, COWSNAP_REASON_MAP_COUNT,
				      -ENOMEM);
	if (cowsnap_fault())
		return cowsnap_refuse(op, op->dst, COWSNAP_REASON_NO_MEMORY,
				      -ENOMEM);
	if (whole)
		drop_duplicate(op, release);
	do {
		err = cowsnap_unmap_dst(op, uf);
	} while (whole && err == -ENOMEM && !fatal_signal_pending(current));
	if (!err)
		return 0;
	WARN_ON_ONCE(whole && !fatal_signal_pending(current));
	return cowsnap_refuse(op, op->dst, COWSNAP_REASON_NO_MEMORY, err);
}

static int check(struct cowsnap_op *op)
{
	int err = cowsnap_check_vmas(op, op->src, op->len);

	if (!err)
		err = cowsnap_check_vmas(op, op->dst, op->len);
	return err ?: cowsnap_check_seals(op);
}

static void take_back_src(struct cowsnap_op *op, struct unshare *u)
{
	op->flags = COWSNAP_UNSHARE_REUSE;
	/* What it could not take back comes back by a write fault. */
	cowsnap_take_back(u);
	op->reason = COWSNAP_REASON_NONE;
	op->fault_addr = 0;
}

static int release_locked(struct cowsnap_op *op, struct release *release,
			  struct unshare *u)
{
	LIST_HEAD(uf);
	int err;

	if (cowsnap_fault_once() || mmap_write_lock_killable(op->mm))
		return cowsnap_refuse(op, op->src, COWSNAP_REASON_SIGNAL, -EINTR);
	err = check(op);
	if (!err)
		err = unmap(op, release, &uf);
	mmap_write_downgrade(op->mm);
	if (!err)
		take_back_src(op, u);
	mmap_read_unlock(op->mm);
	cowsnap_unmap_complete(op, &uf);
	return err;
}

static struct release *alloc_release(struct cowsnap_op *op)
{
	/* What one page table maps, at least: drop_shared() takes all or nothing. */
	unsigned int room = min(op->len / PAGE_SIZE,
				max(RELEASE_BATCH, (unsigned long)PTRS_PER_PTE));
	struct release *release = NULL;

	if (!cowsnap_fault())
		release = kvmalloc(struct_size(release, pages, room), GFP_KERNEL);
	if (!release)
		return NULL;
	release->dropped = (struct hot_dropped){ .pages = release->pages };
	release->start = op->dst;
	release->room = room;
	return release;
}

/**
 * cowsnap_release - drop the duplicate [dst, dst + len) of [src, src + len)
 * @op: the request; results, reason and address are left in it
 *
 * Context: process context of a task that uses op->mm; takes its mmap lock.
 * Return: 0 or what include/uapi says of COWSNAP_RELEASE.
 */
int cowsnap_release(struct cowsnap_op *op)
{
	int err = cowsnap_check_pair(op);
	struct release *release;
	struct unshare *u;

	if (err)
		return err;
	release = alloc_release(op);
	u = cowsnap_alloc_unshare(op);
	if (release && u)
		err = release_locked(op, release, u);
	else
		err = cowsnap_refuse(op, op->src, COWSNAP_REASON_NO_MEMORY,
				     -ENOMEM);
	kfree(u);
	kvfree(release);
	return err;
}
