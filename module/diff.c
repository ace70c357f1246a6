// SPDX-License-Identifier: GPL-2.0
/*
 * COWSNAP_DIFF: which pages of two ranges are not one and the same.
 *
 * Under the mmap lock for reading, beside the faults of other threads. The two
 * entries of a page are looked at under the locks of both page tables: read one
 * after the other they could be equal although they never were, when a page
 * goes from here to there meanwhile. Ranges are collected in a buffer and
 * stored when the lock is dropped, since storing may fault.
 */
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "cowsnap.h"
#include "hot.h"
#include "hugetlb.h"
#include "pgwalk.h"
#include "workers.h"

/* How many ranges are collected under one hold of the lock. */
#define BUFFER	128

/* What several workers find is kept apart, and put in order afterwards. */
#define PIECES	16

/* What an entry says of a page's content. */
struct content {
	enum {
		ZEROES,		/* never touched, or the zero page */
		OF_FILE,	/* what the file has there */
		PAGE,		/* anonymous page number id, also if it is on its way */
		SWAPPED,	/* swap entry id */
		MARKER,		/* pte marker id: SIGSEGV or SIGBUS */
		UNKNOWN,	/* like nothing else */
	} is;
	unsigned long id;
};

/*
 * One side of a span: its pmd entry, and the lock of the page table that it points
 * to, or of the entry itself where it is huge or empty: a huge page on its way from
 * side to side is on neither for a moment.
 */
struct side {
	struct vm_area_struct *vma;
	unsigned long addr;
	pmd_t *pmdp;		/* NULL: a level above is empty */
	pmd_t pmd;
	spinlock_t *ptl;	/* NULL without pmdp */
};

struct diff {
	struct cowsnap_op *op;
	struct side a;
	struct side b;
	bool same_file;		/* what neither side has touched is the same */
	bool full;		/* op->vec is, or the buffer */
	bool dense;		/* more to list than several workers have room for */
	unsigned long start;	/* of a piece: from where, and how far it got */
	unsigned long end;
	unsigned int nr;
	struct cowsnap_range ranges[BUFFER];
};

static struct content content_untouched(struct vm_area_struct *vma)
{
	return (struct content){ vma_is_anonymous(vma) ? ZEROES : OF_FILE };
}

static struct content content_absent(struct vm_area_struct *vma, pte_t pte)
{
	softleaf_t entry = softleaf_from_pte(pte);
	pte_marker marker;

	if (softleaf_is_swap(entry))
		return (struct content){ SWAPPED, entry.val };
	if (softleaf_is_migration(entry))
		return (struct content){ PAGE, softleaf_to_pfn(entry) };
	if (!softleaf_is_marker(entry))
		return (struct content){ UNKNOWN };
	marker = cowsnap_marker_to_keep(entry);
	return marker ? (struct content){ MARKER, marker } : content_untouched(vma);
}

static struct content content_of_pte(struct vm_area_struct *vma, pte_t pte)
{
	if (pte_none(pte))
		return content_untouched(vma);
	if (!pte_present(pte))
		return content_absent(vma, pte);
	if (pte_special(pte))
		return (struct content){ is_zero_pfn(pte_pfn(pte)) ? ZEROES : UNKNOWN };
	if (!folio_test_anon(page_folio(pte_page(pte))))
		return (struct content){ OF_FILE };
	return (struct content){ PAGE, pte_pfn(pte) };
}

/* Of the page at @addr within a huge entry. */
static struct content content_of_pmd(struct vm_area_struct *vma, pmd_t pmd,
				     unsigned long addr)
{
	unsigned long nr = (addr & ~PMD_MASK) >> PAGE_SHIFT;

	if (!pmd_present(pmd))
		return cowsnap_pmd_is_device(pmd) ? (struct content){ UNKNOWN } :
			(struct content){ PAGE, softleaf_to_pfn(softleaf_from_pmd(pmd)) + nr };
	/* In anonymous memory the only other one is the huge zero page. */
	if (!folio_test_anon(page_folio(pmd_page(pmd))))
		return content_untouched(vma);
	return (struct content){ PAGE, pmd_pfn(pmd) + nr };
}

static bool is_huge(const struct side *side)
{
	return cowsnap_pmd_is_huge(side->pmd);
}

static bool has_table(const struct side *side)
{
	return !pmd_none(side->pmd) && !is_huge(side);
}

static pte_t *entry_at(const struct side *side, unsigned long offset)
{
	return pte_offset_kernel((pmd_t *)&side->pmd, side->addr + offset);
}

static struct content content_at(const struct side *side, unsigned long offset)
{
	unsigned long addr = side->addr + offset;

	if (pmd_none(side->pmd))
		return content_untouched(side->vma);
	if (is_huge(side))
		return content_of_pmd(side->vma, side->pmd, addr);
	return content_of_pte(side->vma, ptep_get(entry_at(side, offset)));
}

/* How many bytes from @at on are the same pages, found by comparing entries only. */
static unsigned long same_entries(const struct diff *d, unsigned long at,
				  unsigned long len)
{
	if (!has_table(&d->a) || !has_table(&d->b))
		return 0;
	/* To it two empty entries are the same, whatever they stand for. */
	if (!d->same_file)
		return 0;
	return hot_same(entry_at(&d->a, at), entry_at(&d->b, at),
			(len - at) / PAGE_SIZE, /* dirty= */false) * PAGE_SIZE;
}

static bool same_content(const struct diff *d, struct content a, struct content b)
{
	if (a.is != b.is || a.is == UNKNOWN)
		return false;
	return a.is == OF_FILE ? d->same_file : a.id == b.id;
}

/* Returns false when there is no room. Then the call goes on at @start. */
static bool list(struct diff *d, unsigned long start, unsigned long end)
{
	struct cowsnap_range *last = d->ranges + d->nr - 1;

	if (d->nr && last->end == start) {
		last->end = end;
		return true;
	}
	if (d->nr == BUFFER || d->op->nr + d->nr == d->op->vec_len) {
		d->full = true;
		return false;
	}
	d->ranges[d->nr++] = (struct cowsnap_range){ start, end };
	return true;
}

static void find_lock(struct mm_struct *mm, struct side *side)
{
	side->ptl = NULL;
	side->pmd = __pmd(0);
	if (!side->pmdp)
		return;
	side->pmd = READ_ONCE(*side->pmdp);
	if (has_table(side))
		side->ptl = pte_lockptr(mm, &side->pmd);
	else
		side->ptl = pmd_lockptr(mm, side->pmdp);
}

/* The lock of a pmd entry comes before that of a page table. */
static void lock_sides(struct diff *d)
{
	spinlock_t *first = d->a.ptl, *second = d->b.ptl;

	if (has_table(&d->a) > has_table(&d->b) ||
	    (has_table(&d->a) == has_table(&d->b) && first > second))
		swap(first, second);
	if (first)
		spin_lock(first);
	if (second && second != first)
		spin_lock_nested(second, SINGLE_DEPTH_NESTING);
}

static void unlock_sides(struct diff *d)
{
	if (d->a.ptl)
		spin_unlock(d->a.ptl);
	if (d->b.ptl && d->b.ptl != d->a.ptl)
		spin_unlock(d->b.ptl);
}

/* Without a pmd entry there is no lock; is there one since the other was locked? */
static bool is_as_found(const struct side *side)
{
	unsigned long next;

	if (side->pmdp)
		return pmd_same(side->pmd, READ_ONCE(*side->pmdp));
	return !cowsnap_find_pmd(side->vma->vm_mm, side->addr,
				 side->addr + PAGE_SIZE, &next);
}

/*
 * See cowsnap_pte_lock(). False when page tables have appeared above an entry
 * that was not there: look for it again.
 */
static bool find_and_lock(struct diff *d)
{
	bool same;

	rcu_read_lock();
	find_lock(d->op->mm, &d->a);
	find_lock(d->op->mm, &d->b);
	lock_sides(d);
	same = is_as_found(&d->a) && is_as_found(&d->b);
	if (!same)
		unlock_sides(d);
	rcu_read_unlock();
	return same;
}

/* The span at @offset from the start of both ranges, up to @end: how far it got. */
static unsigned long diff_span(struct diff *d, unsigned long offset,
			       unsigned long end)
{
	unsigned long at = 0, len = end - offset, step = PAGE_SIZE;

	if (!find_and_lock(d))
		return offset;
	/* Nothing on both sides, or two huge pages: it is the same for all. */
	if (is_huge(&d->a) == is_huge(&d->b) && !has_table(&d->a) &&
	    !has_table(&d->b))
		step = len;
	for (; at < len; at += step) {
		at += same_entries(d, at, len);
		if (at == len)
			break;
		if (!same_content(d, content_at(&d->a, at), content_at(&d->b, at)) &&
		    !list(d, offset + at, offset + at + step))
			break;
	}
	unlock_sides(d);
	return offset + at;
}

static unsigned long diff_mapped(struct diff *d, unsigned long offset,
				 unsigned long end)
{
	struct cowsnap_op *op = d->op;
	unsigned long next_a, next_b, next;

	for (; offset < end && !d->full; offset = next) {
		if (cowsnap_killed())
			break;
		d->a.addr = op->src + offset;
		d->b.addr = op->dst + offset;
		d->a.pmdp = cowsnap_find_pmd(op->mm, d->a.addr, op->src + end,
					     &next_a);
		d->b.pmdp = cowsnap_find_pmd(op->mm, d->b.addr, op->dst + end,
					     &next_b);
		next = min(next_a - op->src, next_b - op->dst);
		next = diff_span(d, offset, next);
		cond_resched();
	}
	return offset;
}

/* Hugetlb on one side at least. */
static unsigned long diff_hugetlb(struct diff *d, unsigned long offset,
				  unsigned long end)
{
	struct cowsnap_op *op = d->op;
	unsigned long size = vma_kernel_pagesize(d->a.vma);

	if (vma_kernel_pagesize(d->b.vma) != size ||
	    !IS_ALIGNED((op->src + offset) | (op->dst + offset) | (end - offset),
			size))
		return list(d, offset, end) ? end : offset;
	for (; offset < end && !cowsnap_killed(); offset += size) {
		if (!cowsnap_hugetlb_same(d->a.vma, op->src + offset, d->b.vma,
					  op->dst + offset, d->same_file) &&
		    !list(d, offset, offset + size))
			break;
		cond_resched();
	}
	return offset;
}

/*
 * Is what the two mappings have of a file the same, with @offset from the start
 * of the ranges?
 */
static bool is_same_file(struct diff *d, unsigned long offset)
{
	struct vm_area_struct *a = d->a.vma, *b = d->b.vma;

	if (vma_is_anonymous(a) || vma_is_anonymous(b))
		return vma_is_anonymous(a) && vma_is_anonymous(b);
	return a->vm_file->f_mapping == b->vm_file->f_mapping &&
	       cowsnap_file_pgoff(a, d->op->src + offset) ==
	       cowsnap_file_pgoff(b, d->op->dst + offset);
}

struct pieces {
	struct diff *of;
	struct diff each[PIECES];
};

static int diff_piece(void *own, struct cowsnap_op *op, unsigned int nr)
{
	struct pieces *pieces = own;
	struct diff *of = pieces->of, *d = &pieces->each[nr];

	d->op = of->op;
	d->a.vma = of->a.vma;
	d->b.vma = of->b.vma;
	d->same_file = of->same_file;
	d->start = op->src - of->op->src;
	d->end = diff_mapped(d, d->start, d->start + op->len);
	return 0;
}

/* Returns how far all is known and listed: up to a piece that was not finished. */
static unsigned long put_in_order(struct diff *d, const struct pieces *pieces,
				  unsigned long offset, unsigned long end)
{
	const struct diff *piece = pieces->each;
	unsigned int i;

	for (; piece < pieces->each + PIECES && offset < end &&
	     piece->start == offset; piece++) {
		for (i = 0; i < piece->nr; i++)
			if (!list(d, piece->ranges[i].start, piece->ranges[i].end))
				return piece->ranges[i].start;
		offset = piece->end;
	}
	return offset;
}

/*
 * Each worker goes on until a buffer of its own is full. What is beyond the
 * first one that is was in vain: not again, where so much differs.
 */
static bool diff_parallel(struct diff *d, unsigned long end)
{
	struct cowsnap_op *op = d->op;
	struct cowsnap_job job = {
		.op = op, .start = op->src + op->offset, .end = op->src + end,
		.max_pieces = PIECES, .piece = diff_piece,
	};
	struct pieces *pieces;
	bool done;
	int err;

	if (d->dense || cowsnap_count_workers(&job) < 2 || cowsnap_fault())
		return false;
	pieces = kvzalloc(sizeof(*pieces), GFP_KERNEL);
	if (!pieces)
		return false;
	pieces->of = d;
	job.own = pieces;
	done = cowsnap_parallel(&job, &err);
	if (done) {
		op->offset = put_in_order(d, pieces, op->offset, end);
		d->dense = op->offset < end;
	}
	kvfree(pieces);
	return done;
}

/* Mmap lock held. Goes on until the end of the ranges, or a buffer is full. */
static int diff_ranges(struct diff *d)
{
	struct cowsnap_op *op = d->op;
	unsigned long end;

	while (op->offset < op->len && !d->full) {
		d->a.vma = find_vma(op->mm, op->src + op->offset);
		d->b.vma = find_vma(op->mm, op->dst + op->offset);
		end = min3(op->len, d->a.vma->vm_end - op->src,
			   d->b.vma->vm_end - op->dst);
		d->same_file = is_same_file(d, op->offset);
		if (is_vm_hugetlb_page(d->a.vma) || is_vm_hugetlb_page(d->b.vma))
			op->offset = diff_hugetlb(d, op->offset, end);
		else if (!diff_parallel(d, end))
			op->offset = diff_mapped(d, op->offset, end);
		if (cowsnap_killed())
			return cowsnap_refuse(op, op->src + op->offset,
					      COWSNAP_REASON_SIGNAL, -EINTR);
	}
	return 0;
}

/* As much as one hold of the mmap lock is good for. */
static int diff_locked(struct diff *d)
{
	struct cowsnap_op *op = d->op;
	int err;

	d->full = false;
	if (cowsnap_fault_once() || mmap_read_lock_killable(op->mm))
		return cowsnap_refuse(op, op->src + op->offset,
				      COWSNAP_REASON_SIGNAL, -EINTR);
	err = cowsnap_check_vmas(op, op->src, op->len);
	if (!err)
		err = cowsnap_check_vmas(op, op->dst, op->len);
	if (!err)
		err = diff_ranges(d);
	mmap_read_unlock(op->mm);
	return err;
}

/* Store all ranges but @keep, which may grow. */
static int store(struct diff *d, unsigned int keep)
{
	struct cowsnap_op *op = d->op;
	unsigned int nr = d->nr - keep;

	if (!nr)
		return 0;
	if (cowsnap_fault_once() ||
	    copy_to_user(op->vec + op->nr, d->ranges, nr * sizeof(*op->vec)))
		return cowsnap_refuse(op, 0, COWSNAP_REASON_RESULT, -EFAULT);
	op->nr += nr;
	d->nr = keep;
	if (keep)
		d->ranges[0] = d->ranges[nr];
	return 0;
}

static int diff(struct diff *d)
{
	struct cowsnap_op *op = d->op;
	bool vec_full;
	int err;

	do {
		err = diff_locked(d);
		vec_full = d->full && op->nr + d->nr == op->vec_len;
		if (!err)
			err = store(d, d->full && !vec_full ? 1 : 0);
	} while (!err && d->full && !vec_full);
	/* What is in the buffer has not been told. */
	if (err && d->nr)
		op->offset = d->ranges[0].start;
	return err;
}

static int check_args(struct cowsnap_op *op)
{
	int err = cowsnap_check_pair(op);

	if (err)
		return err;
	if (op->offset > op->len)
		return cowsnap_refuse(op, 0, COWSNAP_REASON_OFFSET, -EINVAL);
	if (!PAGE_ALIGNED(op->offset))
		return cowsnap_refuse(op, op->src, COWSNAP_REASON_ALIGN, -EINVAL);
	return 0;
}

/**
 * cowsnap_diff - list the pages that [src, src + len) and [dst, dst + len) of
 *	op->mm do not have in common
 * @op: the request; results, reason and address are left in it
 *
 * Context: process context of a task that uses op->mm; takes its mmap lock.
 * Return: 0 or what include/uapi says of COWSNAP_DIFF.
 */
int cowsnap_diff(struct cowsnap_op *op)
{
	int err = check_args(op);
	struct diff *d;

	if (err)
		return err;
	d = cowsnap_fault() ? NULL : kzalloc(sizeof(*d), GFP_KERNEL);
	if (!d)
		return cowsnap_refuse(op, op->src, COWSNAP_REASON_NO_MEMORY,
				      -ENOMEM);
	d->op = op;
	err = diff(d);
	kfree(d);
	return err;
}
