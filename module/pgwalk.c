// SPDX-License-Identifier: GPL-2.0
/*
 * The walk over two ranges of page tables, see pgwalk.h.
 *
 * The caller holds the mmap lock for writing and has write-locked both vmas, so
 * nobody faults in them, no page table is freed and no range is collapsed into
 * a huge page. What still happens at any time, under the page-table locks, is
 * what reaches entries through the rmap: reclaim, migration and the split of a
 * huge page, and in the mapping of a file its truncation. Every entry is
 * therefore read again under its lock. (khugepaged frees page tables of file
 * mappings without the mmap lock, but not of those that have an anon_vma:
 * remap.c sees to that.)
 */
#include "large.h"
#include "pgwalk.h"
#include "workers.h"

/*
 * The two tables may be one: take that lock once. Otherwise the lower address
 * goes first, the order that everybody follows who takes two of one mm without
 * the mmap lock held for writing (UFFDIO_MOVE).
 */
void cowsnap_lock_both(spinlock_t *a, spinlock_t *b)
{
	if (a > b)
		swap(a, b);
	spin_lock(a);
	if (a != b)
		spin_lock_nested(b, SINGLE_DEPTH_NESTING);
}

void cowsnap_unlock_both(spinlock_t *a, spinlock_t *b)
{
	spin_unlock(a);
	if (a != b)
		spin_unlock(b);
}

/* Both pmd entries may lie in one page: always so within 1 GiB on x86. */
void cowsnap_lock_pmds(struct mm_struct *mm, const struct cowsnap_span *span)
{
	cowsnap_lock_both(pmd_lockptr(mm, span->src_pmd),
			  pmd_lockptr(mm, span->dst_pmd));
}

void cowsnap_unlock_pmds(struct mm_struct *mm, const struct cowsnap_span *span)
{
	cowsnap_unlock_both(pmd_lockptr(mm, span->src_pmd),
			    pmd_lockptr(mm, span->dst_pmd));
}

/**
 * cowsnap_find_pmd - the pmd entry of an address
 * @mm: its mmap lock is held; page tables above may appear meanwhile, not go
 * @addr: the address
 * @end: of the range
 * @next: where the entry that was found, or the empty one above, ends
 *
 * Return: the entry, or NULL where a higher level is empty.
 */
pmd_t *cowsnap_find_pmd(struct mm_struct *mm, unsigned long addr,
			unsigned long end, unsigned long *next)
{
	pgd_t *pgd = pgd_offset(mm, addr);
	p4d_t *p4d;
	pud_t *pud;

	*next = pgd_addr_end(addr, end);
	if (pgd_none(*pgd))
		return NULL;
	p4d = p4d_offset(pgd, addr);
	*next = p4d_addr_end(addr, end);
	if (p4d_none(*p4d))
		return NULL;
	pud = pud_offset(p4d, addr);
	*next = pud_addr_end(addr, end);
	if (pud_none(*pud))
		return NULL;
	*next = pmd_addr_end(addr, end);
	return pmd_offset(pud, addr);
}

/**
 * cowsnap_pte_lock - lock a page table, the mmap lock held for reading
 * @mm: whose table it is
 * @pmd: the entry that points to it
 * @addr: which of its entries to return
 * @ptl: the lock, to be unlocked
 *
 * As pte_offset_map_lock(), which modules cannot call on all kernels. Unlike
 * under the mmap lock for writing, a table may go: an empty one is freed, one
 * that stands for a huge page comes and goes. Its memory lasts as long as the
 * RCU read side, and whoever frees a table holds its lock when he takes it out.
 *
 * Return: the entry, or NULL when there is no page table (any more).
 */
pte_t *cowsnap_pte_lock(struct mm_struct *mm, pmd_t *pmd, unsigned long addr,
			spinlock_t **ptl)
{
	pmd_t entry;
	bool same;

	do {
		rcu_read_lock();
		entry = READ_ONCE(*pmd);
		if (pmd_none(entry) || cowsnap_pmd_is_huge(entry) ||
		    WARN_ON_ONCE(pmd_bad(entry))) {
			rcu_read_unlock();
			return NULL;
		}
		*ptl = pte_lockptr(mm, &entry);
		spin_lock(*ptl);
		same = pmd_same(entry, READ_ONCE(*pmd));
		if (!same)
			spin_unlock(*ptl);
		rcu_read_unlock();
	} while (!same);
	return pte_offset_kernel(&entry, addr);
}

/*
 * An entry, as it is while nobody changes it. Who moves, discards or hands a huge
 * page to a device empties its entry before he sets another one, or puts it back,
 * with nothing but the lock. Where faults are kept out what is empty stays so.
 */
pmd_t cowsnap_read_pmd(struct mm_struct *mm, pmd_t *pmdp)
{
	pmd_t pmd = READ_ONCE(*pmdp);
	spinlock_t *ptl;

	if (!pmd_none(pmd))
		return pmd;
	ptl = pmd_lock(mm, pmdp);
	pmd = *pmdp;
	spin_unlock(ptl);
	return pmd;
}

/* The pmd entry of @addr, allocating what is above it, or NULL. */
pmd_t *cowsnap_alloc_pmd(struct mm_struct *mm, unsigned long addr)
{
	pgd_t *pgd = pgd_offset(mm, addr);
	p4d_t *p4d;
	pud_t *pud;

	if (pgd_none(*pgd) && ksym_or(-ENOMEM, __p4d_alloc, mm, pgd, addr))
		return NULL;
	p4d = p4d_offset(pgd, addr);
	if (p4d_none(*p4d) && ksym_or(-ENOMEM, __pud_alloc, mm, p4d, addr))
		return NULL;
	pud = pud_offset(p4d, addr);
	if (pud_none(*pud) && ksym_or(-ENOMEM, __pmd_alloc, mm, pud, addr))
		return NULL;
	return pmd_offset(pud, addr);
}

/* Before the locks go: reclaim may take the new entries at once. */
void cowsnap_walk_add_rss(struct cowsnap_walk *walk)
{
	struct mm_struct *mm = walk->op->mm;

	if (walk->rss_anon)
		cowsnap_add_rss(mm, MM_ANONPAGES, walk->rss_anon);
	if (walk->rss_swap)
		cowsnap_add_rss(mm, MM_SWAPENTS, walk->rss_swap);
	if (walk->rss_file)
		cowsnap_add_rss(mm, MM_FILEPAGES, walk->rss_file);
	if (walk->rss_shmem)
		cowsnap_add_rss(mm, MM_SHMEMPAGES, walk->rss_shmem);
	walk->rss_anon = 0;
	walk->rss_swap = 0;
	walk->rss_file = 0;
	walk->rss_shmem = 0;
}

/* What stands for a page table that is not there. */
static pte_t *empty_table(void)
{
	return page_address(ZERO_PAGE(0));
}

/*
 * A SYNC may share with a mapping that comes earlier in its file's tree. The
 * truncation of the file, which empties one after the other, would leave behind
 * what it finds there too late: keep it out, as mremap(2) does.
 */
static struct address_space *file_to_lock(struct cowsnap_walk *walk)
{
	if (!walk->replaced || vma_is_anonymous(walk->dst_vma))
		return NULL;
	return walk->dst_vma->vm_file->f_mapping;
}

/*
 * The locked part of cowsnap_walk_ptes(). Once a page table is there it stays, see the
 * head of this file: pte_offset_kernel() needs no check.
 */
static unsigned long ptes_locked(struct cowsnap_walk *walk,
				 struct cowsnap_span *span)
{
	struct mm_struct *mm = walk->op->mm;
	spinlock_t *dst_ptl = pte_lockptr(mm, span->dst_pmd), *src_ptl = dst_ptl;
	struct address_space *mapping = file_to_lock(walk);
	unsigned long done;

	span->src_pte = empty_table();
	if (span->src_pmd && !pmd_none(*span->src_pmd)) {
		src_ptl = pte_lockptr(mm, span->src_pmd);
		span->src_pte = pte_offset_kernel(span->src_pmd, span->src);
	}
	span->dst_pte = pte_offset_kernel(span->dst_pmd, span->dst);
	if (mapping)
		i_mmap_lock_write(mapping);
	cowsnap_lock_both(src_ptl, dst_ptl);
	lazy_mmu_mode_enable();
	done = walk->ops->ptes(walk, span);
	lazy_mmu_mode_disable();
	cowsnap_walk_add_rss(walk);
	cowsnap_unlock_both(src_ptl, dst_ptl);
	if (mapping)
		i_mmap_unlock_write(mapping);
	return done * PAGE_SIZE;
}

/**
 * cowsnap_walk_ptes - call @walk->ops->ptes for a span of base pages
 * @walk: where the walk is
 * @span: the destination has a page table, or none yet; so has the source
 *
 * Return: 0 or an error.
 */
int cowsnap_walk_ptes(struct cowsnap_walk *walk, struct cowsnap_span *span)
{
	unsigned long done;
	int err;

	if (pmd_none(*span->dst_pmd) &&
	    ksym_or(-ENOMEM, __pte_alloc, walk->op->mm, span->dst_pmd))
		return -ENOMEM;
	for (;;) {
		done = ptes_locked(walk, span);
		span->src += done;
		span->dst += done;
		span->len -= done;
		if (!span->len)
			return 0;
		err = walk->ops->blocked(walk, span);
		if (err)
			return err;
	}
}

/* A page of the file itself: the duplicate faults it in when it needs it. */
static bool is_file_page(pte_t pte)
{
	return pte_present(pte) && !pte_special(pte) &&
	       !folio_test_anon(page_folio(pte_page(pte)));
}

/*
 * New entries appear by faults, which are kept out. But who moves a page or
 * swaps it out empties its entry before he sets another one, with nothing but
 * the lock: without it there would seem to be nothing, or another page.
 */
static bool span_is_empty_locked(struct mm_struct *mm,
				 const struct cowsnap_span *span)
{
	pte_t *pte = pte_offset_kernel(span->src_pmd, span->src);
	pte_t *end = pte + span->len / PAGE_SIZE;
	spinlock_t *ptl = pte_lockptr(mm, span->src_pmd);

	spin_lock(ptl);
	while (pte < end && (pte_none(ptep_get(pte)) ||
			     is_file_page(ptep_get(pte))))
		pte++;
	spin_unlock(ptl);
	return pte == end;
}

/*
 * Nothing to do, and nothing to allocate. Most of the time the first entry of
 * anonymous memory says no, and without a lock; the mapping of a file has many
 * of the file's own pages. A page table that was seen stays.
 */
bool cowsnap_span_is_empty(struct cowsnap_walk *walk,
			   const struct cowsnap_span *span)
{
	pte_t *pte = pte_offset_kernel(span->src_pmd, span->src);
	pte_t *end = pte + span->len / PAGE_SIZE;

	while (pte < end && pte_none(ptep_get(pte)))
		pte++;
	if (pte < end && vma_is_anonymous(walk->src_vma))
		return false;
	return span_is_empty_locked(walk->op->mm, span);
}

/* One span: huge entries first, since a huge one may become a page table. */
static int walk_span(struct cowsnap_walk *walk, struct cowsnap_span *span)
{
	pmd_t pmd = cowsnap_read_pmd(walk->op->mm, span->src_pmd);
	int err;

	if (!cowsnap_pmd_is_huge(pmd) && !pmd_bad(pmd) &&
	    cowsnap_span_is_empty(walk, span))
		return 0;
	span->dst_pmd = cowsnap_alloc_pmd(walk->op->mm, span->dst);
	if (!span->dst_pmd)
		return -ENOMEM;
	while (cowsnap_pmd_is_huge(cowsnap_read_pmd(walk->op->mm, span->src_pmd))) {
		err = walk->ops->huge(walk, span);
		if (err != -EAGAIN)
			return err;
		if (cowsnap_killed())
			return -EINTR;
	}
	if (pmd_none(*span->src_pmd))
		return 0;
	if (WARN_ON_ONCE(pmd_bad(*span->src_pmd)))
		return -EIO;
	/*
	 * An earlier pass shared a huge page whole, and reclaim has split the
	 * source's entry since: it comes to the duplicate's later, or never.
	 * There is no page table on that side, and nothing left to do.
	 */
	if (cowsnap_pmd_is_huge(READ_ONCE(*span->dst_pmd)))
		return 0;
	return cowsnap_walk_ptes(walk, span);
}

/* Say why the walk ended at @addr, unless an operation has said it. */
static int walk_failed(struct cowsnap_walk *walk, unsigned long addr, int err)
{
	struct cowsnap_op *op = walk->op;

	if (op->reason)
		return err;
	if (err == -EINTR)
		return cowsnap_refuse(op, addr, COWSNAP_REASON_SIGNAL, err);
	return cowsnap_refuse(op, addr, COWSNAP_REASON_NO_MEMORY, err);
}

/* The pages of a hugetlb vma, the size of which both ends are multiples of. */
static int walk_hugetlb(struct cowsnap_walk *walk, unsigned long start,
			unsigned long end)
{
	unsigned long size = huge_page_size(hstate_vma(walk->src_vma));
	unsigned long addr;
	int err;

	for (addr = start; addr < end; addr += size) {
		do {
			if (cowsnap_killed())
				return walk_failed(walk, addr, -EINTR);
			err = walk->ops->hugetlb(walk, addr);
			cond_resched();
		} while (err == -EAGAIN);
		if (err)
			return walk_failed(walk, addr, err);
	}
	return 0;
}

/*
 * The pmd entries of the next span and where it ends. Where the destination has
 * content of its own, it counts, too.
 */
static unsigned long find_span(struct cowsnap_walk *walk,
			       struct cowsnap_span *span, unsigned long end)
{
	struct mm_struct *mm = walk->op->mm;
	unsigned long offset = walk->offset, next, dst_next;

	span->src_pmd = cowsnap_find_pmd(mm, span->src, end, &next);
	if (walk->ops->span) {
		span->dst_pmd = cowsnap_find_pmd(mm, span->dst, end + offset,
						 &dst_next);
		/* Where there is no table yet one may be needed: for one pmd. */
		if (span->src_pmd)
			dst_next = min(dst_next, pmd_addr_end(span->dst, end + offset));
		next = min(next, dst_next - offset);
	} else if (span->src_pmd && !pmd_none(cowsnap_read_pmd(mm, span->src_pmd))) {
		next = pmd_addr_end(span->dst, next + offset) - offset;
	} else {
		span->src_pmd = NULL;
	}
	span->len = next - span->src;
	return next;
}

static int walk_vma(struct cowsnap_walk *walk, unsigned long start,
		    unsigned long end)
{
	unsigned long addr, next;
	int err = 0;

	if (is_vm_hugetlb_page(walk->src_vma) || is_vm_hugetlb_page(walk->dst_vma))
		return walk->ops->hugetlb ? walk_hugetlb(walk, start, end) : 0;
	for (addr = start; addr != end; addr = next) {
		struct cowsnap_span span = {
			.src = addr, .dst = addr + walk->offset,
		};

		if (!walk->ops->unkillable && cowsnap_killed())
			return walk_failed(walk, addr, -EINTR);
		next = find_span(walk, &span, end);
		if (walk->ops->allocates && cowsnap_must_not_allocate()) {
			err = -EAGAIN;
		} else if (walk->ops->span) {
			err = walk->ops->span(walk, &span);
			cowsnap_walk_add_rss(walk);
		} else if (span.src_pmd) {
			err = walk_span(walk, &span);
		} else {
			continue;
		}
		if (err == -EAGAIN) {	/* the rest is not for a worker */
			walk->op->len -= span.src - walk->op->src;
			walk->op->src = span.src;
			walk->op->dst = span.dst;
			return err;
		}
		if (err)
			return walk_failed(walk, addr, err);
		cond_resched();
	}
	return 0;
}

/* The caller holds the mmap lock for writing; we may work for him. */
static int walk_range(struct cowsnap_walk *walk)
{
	struct cowsnap_op *op = walk->op;
	unsigned long addr = op->src, end = op->src + op->len, next;
	int err = 0;

	walk->has_strangers = cowsnap_swap_has_strangers();
	for (; addr < end && !err; addr = next) {
		walk->src_vma = cowsnap_find_vma(op->mm, addr);
		if (!walk->src_vma || walk->src_vma->vm_start >= end)
			break;
		addr = max(addr, walk->src_vma->vm_start);
		walk->dst_vma = cowsnap_find_vma(op->mm, addr + walk->offset);
		next = min3(end, walk->src_vma->vm_end,
			    walk->dst_vma->vm_end - walk->offset);
		walk->has_relatives = cowsnap_vma_has_relatives(walk->src_vma);
		err = walk_vma(walk, addr, next);
	}
	return err;
}

static void begin_copy(void *own, const void *of_caller)
{
	const struct cowsnap_walk *original = of_caller;
	struct cowsnap_walk *walk = own;

	*walk = *original;
	walk->private = walk + 1;
	memcpy(walk->private, original->private, walk->private_size);
	if (walk->ops->begin)
		walk->ops->begin(walk);
}

static int walk_piece(void *own, struct cowsnap_op *op, unsigned int nr)
{
	struct cowsnap_walk *walk = own;

	walk->op = op;
	return walk_range(walk);
}

static void end_copy(void *own)
{
	struct cowsnap_walk *walk = own;

	if (walk->ops->end)
		walk->ops->end(walk);
}

/* Pages of hugetlb, with a pool and a cgroup of their own, are few anyway. */
static bool can_share_work(const struct cowsnap_walk *walk)
{
	return walk->ops->parallel && !walk->op->align;
}

/**
 * cowsnap_walk - call @walk->ops for each piece of page table of both ranges
 * @walk: operations and the request; the rest is set here
 *
 * Without ->span() page tables of the destination are allocated where the source
 * has some. What is not mapped in the source is left out.
 *
 * Return: 0; -EINTR when the caller is being killed, -ENOMEM, or what an
 * operation returned. @walk->op has reason and address then.
 */
int cowsnap_walk(struct cowsnap_walk *walk)
{
	struct cowsnap_op *op = walk->op;
	struct cowsnap_job job = {
		.op = op, .start = op->src, .end = op->src + op->len,
		.allocates = walk->ops->allocates,
		.own = walk, .size = sizeof(*walk) + walk->private_size,
		.begin = begin_copy, .piece = walk_piece, .finish = end_copy,
	};
	int err;

	mmap_assert_write_locked(op->mm);
	walk->offset = op->dst - op->src;
	if (!can_share_work(walk) || !cowsnap_parallel(&job, &err))
		return walk_range(walk);
	walk->op = op;
	return err;
}
