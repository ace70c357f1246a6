/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The inner loops: what is done for each of millions of base pages, as long as
 * a page is of the usual kind. The others are for the callers, whose own code is
 * the whole rule; nothing here decides differently from it.
 *
 * On hardware the cost of a page is that of its struct page, which is seldom in
 * a cache, and of locked operations. So struct pages are fetched ahead, and of
 * locked operations only those are left that nothing stands in for.
 *
 * All of it runs under the locks of the page tables that it is given.
 */
#ifndef COWSNAP_HOT_H
#define COWSNAP_HOT_H

#ifdef __KERNEL__
#include "compat.h"
#else	/* measured in user space, see user/native */
#include "shim.h"
#endif
#include "entry.h"

/*
 * How many entries ahead. Enough to hide a miss behind the work for those in
 * between, few enough for the fill buffers and the first-level cache.
 */
#define HOT_AHEAD	24

static __always_inline void hot_prefetch(const struct frames *f, pte_t pte)
{
	if (entry_is_usual(pte))
		prefetchw(entry_page(f, pte));
}

/*
 * For the first ones of the @nr entries of a table, which the loops below fetch
 * ahead in. They are entered anew after each page that is not theirs.
 */
static __always_inline void hot_prefetch_first(pte_t *ptep, unsigned int nr)
{
	const struct frames f = frames_of_memory();
	unsigned int i;

	for (i = 0; i < nr && i < HOT_AHEAD; i++)
		hot_prefetch(&f, ptep_get(ptep + i));
}

/* An anonymous base page, mapped by an entry whose lock is held: it stays one. */
static __always_inline bool hot_is_base(struct page *page)
{
	return !PageCompound(page) && folio_test_anon((struct folio *)page);
}

/*
 * Such a page that is not merged by KSM and has so few references that neither
 * can it be pinned, see folio_maybe_dma_pinned(), nor the count overflow. A pin
 * that comes later is undone, see cowsnap_sharing_begin().
 */
static __always_inline bool hot_is_plain(struct page *page)
{
	struct folio *folio = (struct folio *)page;

	return hot_is_base(page) && !folio_test_ksm(folio) &&
	       (unsigned int)folio_ref_count(folio) < GUP_PIN_COUNTING_BIAS;
}

/*
 * Count one more mapping and its reference in one go: folio_get() and the
 * atomic_inc() of _mapcount that fork does. The two counts are neighbours; the
 * lower half does not overflow into the upper one, for neither is negative: the
 * page is mapped, by an entry whose lock is held.
 */
static __always_inline void hot_add_mapping(struct page *page)
{
	BUILD_BUG_ON(offsetof(struct page, _mapcount) % sizeof(atomic64_t));
	BUILD_BUG_ON(offsetof(struct page, _refcount) !=
		     offsetof(struct page, _mapcount) + sizeof(atomic_t));
	atomic64_add((1LL << 32) + 1, (atomic64_t *)&page->_mapcount);
}

/* Entries in a row, of which the first maps @addr. */
struct hot_entries {
	struct mm_struct *mm;
	unsigned long addr;
	pte_t *ptep;
};

static __always_inline struct hot_entries hot_from(struct hot_entries e,
						   unsigned int i)
{
	return (struct hot_entries){ e.mm, e.addr + i * PAGE_SIZE, e.ptep + i };
}

/*
 * Share one page: protect it in the source, map it in the destination, where
 * nothing is. Returns false, and has done nothing, when it is not plain or its
 * entry is one whose change must not miss what a CPU does to it meanwhile.
 */
static __always_inline bool hot_share_one(const struct frames *f, pte_t *src,
					  const struct hot_entries *dst,
					  unsigned int i)
{
	pte_t pte = ptep_get(src + i);
	struct page *page;

	if (!entry_is_usual(pte) || !entry_is_dirty(pte))
		return false;
	page = entry_page(f, pte);
	if (!hot_is_plain(page))
		return false;
	if (entry_is_writable(pte)) {
		if (!entry_is_settled(pte))
			return false;
		pte = pte_wrprotect(pte);
		entry_set(src + i, pte);
	}
	if (cowsnap_is_exclusive(page))
		cowsnap_clear_exclusive(page);
	hot_add_mapping(page);
	entry_map(dst->mm, dst->addr + i * PAGE_SIZE, dst->ptep + i,
		  pte_mkold(pte_clear_uffd(pte)));
	return true;
}

/**
 * hot_share - share pages as long as they are plain
 * @src: entries of the source
 * @dst: as many empty entries of the duplicate, which has the same rights
 * @nr: how many
 *
 * Return: how many are shared; the next one is not plain.
 */
static __always_inline unsigned int hot_share(pte_t *src, struct hot_entries dst,
					      unsigned int nr)
{
	const struct frames f = frames_of_memory();
	unsigned int i;

	for (i = 0; i < nr; i++) {
		if (i + HOT_AHEAD < nr)
			hot_prefetch(&f, ptep_get(src + i + HOT_AHEAD));
		if (!hot_share_one(&f, src, &dst, i))
			break;
	}
	return i;
}

#define HOT_AT_ONCE	8

static __always_inline bool hot_none_at_once(pte_t *ptep)
{
	unsigned long any = 0;
	unsigned int i;

	for (i = 0; i < HOT_AT_ONCE; i++)
		any |= entry_value(ptep + i);
	return !any;
}

/*
 * Do so many entries of @a and @b map the same pages, or nothing? False when it
 * takes more than a look at all of them at once to say so.
 */
static __always_inline bool hot_same_at_once(const struct frames *f, pte_t *a,
					     pte_t *b, bool dirty)
{
	unsigned long differ = 0, common = ~0UL;
	unsigned int i;

#pragma GCC unroll 8
	for (i = 0; i < HOT_AT_ONCE; i++) {
		unsigned long value = entry_value(b + i);

		common &= value;
		differ |= value ^ entry_value(a + i);
	}
	if (likely(entries_are_present(common)))
		return !entries_differ(f, differ) &&
		       (!dirty || entries_are_dirty(common));
	return !differ && hot_none_at_once(a);
}

static __always_inline bool hot_same_one(const struct frames *f, pte_t a, pte_t b,
					 bool dirty)
{
	if (entry_is_usual(a))
		return entries_share_page(f, a, b) &&
		       (!dirty || entry_is_dirty(b));
	return entry_is_none(a) && entry_is_none(b);
}

/**
 * hot_same - how many entries map the same on both sides
 * @a: entries of one side
 * @b: entries of the other
 * @nr: how many
 * @dirty: entries of @b for a page are to be dirty, too
 *
 * Touches no struct page.
 *
 * Return: how many from the first on are the same present page, or nothing; the
 * next one takes more than a look at the entries.
 */
static __always_inline unsigned int hot_same(pte_t *a, pte_t *b, unsigned int nr,
					     bool dirty)
{
	const struct frames f = frames_of_memory();
	unsigned int i = 0, end;

	do {
		while (i + HOT_AT_ONCE <= nr && hot_same_at_once(&f, a + i, b + i, dirty))
			i += HOT_AT_ONCE;
		end = min(i + HOT_AT_ONCE, nr);
		while (i < end &&
		       hot_same_one(&f, ptep_get(a + i), ptep_get(b + i), dirty))
			i++;
	} while (i == end && i < nr);
	return i;
}

/* Pages whose entries are gone, with the references that these had. */
struct hot_dropped {
	unsigned int nr;
	struct page **pages;
};

/*
 * Take one entry of @dst out if that of @src maps the same base page, and return
 * the page. @src keeps it from being the last mapping: nothing but the count
 * changes.
 */
static __always_inline struct page *hot_drop_one(const struct frames *f,
						 pte_t *src,
						 const struct hot_entries *dst,
						 unsigned int i)
{
	pte_t pte = ptep_get(dst->ptep + i);
	struct page *page;

	if (!entry_is_shared(pte) ||
	    !entries_share_page(f, pte, ptep_get(src + i)))
		return NULL;
	page = entry_page(f, pte);
	if (!hot_is_base(page))
		return NULL;
	entry_clear(dst->mm, dst->addr + i * PAGE_SIZE, dst->ptep + i);
	atomic_dec(&page->_mapcount);
	return page;
}

/**
 * hot_drop - take out entries whose pages the other side maps as well
 * @src: entries of the other side
 * @dst: as many entries, some of which go; of memory that is not locked
 * @nr: how many
 * @out: has room for as many; for hot_put() when the TLBs have been flushed
 *
 * Return: how many entries have been dealt with; the next one is not plain.
 */
static __always_inline unsigned int hot_drop(pte_t *src, struct hot_entries dst,
					     unsigned int nr,
					     struct hot_dropped *out)
{
	const struct frames f = frames_of_memory();
	struct page **pages = out->pages + out->nr, *page;
	unsigned int i;

	for (i = 0; i < nr; i++) {
		if (i + HOT_AHEAD < nr)
			hot_prefetch(&f, ptep_get(dst.ptep + i + HOT_AHEAD));
		page = hot_drop_one(&f, src, &dst, i);
		if (page)
			*pages++ = page;
		else if (!entry_is_none(ptep_get(dst.ptep + i)))
			break;
	}
	out->nr = pages - out->pages;
	return i;
}

static __always_inline void hot_put(struct hot_dropped *dropped)
{
	struct page **page = dropped->pages, **end = page + dropped->nr;

	for (; page < end; page++) {
		if (page + HOT_AHEAD < end)
			prefetchw(page[HOT_AHEAD]);
		folio_put((struct folio *)*page);
	}
	dropped->nr = 0;
}

/* Of a private mapping that may be written to. */
struct hot_taker {
	unsigned long anon_vma;		/* as its pages have it in ->mapping */
	bool tracked;			/* by soft-dirty: who is not, must stay */
	unsigned int taken;		/* pages made writable */
};

/*
 * Make a base page exclusive if nobody else has it: cowsnap_take_folio() for one
 * that the rmap finds in this mapping only, with the section under the folio lock
 * shrunk to one instant. That lock is a flag in the word that says exclusive.
 *
 * A count of 1 is the reference of our own entry, whose lock we hold: nobody else
 * has one at that instant, and so nobody holds the folio lock. What KSM or others
 * did to the page before is seen in ->mapping, which is therefore read afterwards.
 * Who takes a reference later finds the page by its number or through our entry,
 * and needs our lock for all but putting the page into the swap cache, which
 * matters to no entry; if he takes the folio lock, the word has changed, or has
 * changed and is as it was.
 */
static __always_inline bool hot_take_page(struct page *page,
					  const struct hot_taker *t)
{
	unsigned long *flags = cowsnap_page_flags(page);
	unsigned long old = smp_load_acquire(flags);

	/* The swap cache has a reference as well. */
	if (old & BIT(PG_locked) || folio_ref_count((struct folio *)page) != 1)
		return false;
	smp_rmb();
	if ((unsigned long)READ_ONCE(page->mapping) != t->anon_vma)
		return false;
	return try_cmpxchg(flags, &old, old | BIT(PG_anon_exclusive));
}

static __always_inline bool hot_take_one(const struct frames *f,
					 const struct hot_entries *at,
					 unsigned int i, struct hot_taker *t)
{
	pte_t pte = ptep_get(at->ptep + i);
	struct page *page;

	if (!entry_is_unwatched(pte) ||
	    (unlikely(t->tracked) && !pte_soft_dirty(pte)))
		return entry_is_none(pte);
	if (entry_is_writable(pte))
		return true;
	page = entry_page(f, pte);
	if (!hot_is_base(page) ||
	    (!cowsnap_is_exclusive(page) && !hot_take_page(page, t)))
		return false;
	entry_map(at->mm, at->addr + i * PAGE_SIZE, at->ptep + i,
		  entry_make_writable(pte));
	t->taken++;
	return true;
}

/**
 * hot_take_back - make pages writable that have no other user
 * @at: entries
 * @nr: how many
 * @t: whose they are
 *
 * Return: how many entries have been dealt with; the next one is not plain, or
 * its page is not ours alone.
 */
static __always_inline unsigned int hot_take_back(struct hot_entries at,
						  unsigned int nr,
						  struct hot_taker *t)
{
	const struct frames f = frames_of_memory();
	unsigned int i;

	for (i = 0; i < nr; i++) {
		if (i + HOT_AHEAD < nr)
			hot_prefetch(&f, ptep_get(at.ptep + i + HOT_AHEAD));
		if (!hot_take_one(&f, &at, i, t))
			break;
	}
	return i;
}

#endif /* COWSNAP_HOT_H */
