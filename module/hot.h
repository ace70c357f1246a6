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

/* Before a loop over @nr entries that fetches ahead. */
static __always_inline void hot_prefetch_first(const struct frames *f,
					       pte_t *ptep, unsigned int nr)
{
	unsigned int i;

	for (i = 0; i < nr && i < HOT_AHEAD; i++)
		hot_prefetch(f, ptep_get(ptep + i));
}

/*
 * An anonymous base page, not merged by KSM, with so few references that neither
 * can it be pinned, see folio_maybe_dma_pinned(), nor the count overflow. It is
 * mapped by an entry whose lock is held: it stays what it is.
 *
 * A pin that comes later is undone, see cowsnap_sharing_begin().
 */
static __always_inline bool hot_is_plain(struct page *page)
{
	struct folio *folio = (struct folio *)page;

	return !PageCompound(page) && folio_test_anon(folio) &&
	       !folio_test_ksm(folio) &&
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

/*
 * Share one page: protect it in the source, map it in the destination, where
 * nothing is. Returns false, and has done nothing, when it is not plain or its
 * entry is one whose change must not miss what a CPU does to it meanwhile.
 */
static __always_inline bool hot_share_one(struct mm_struct *mm,
					  const struct frames *f,
					  unsigned long dst_addr, pte_t *src,
					  pte_t *dst)
{
	pte_t pte = ptep_get(src);
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
		entry_set(src, pte);
	}
	if (cowsnap_is_exclusive(page))
		cowsnap_clear_exclusive(page);
	hot_add_mapping(page);
	entry_set_new(mm, dst_addr, dst, pte_mkold(pte_clear_uffd(pte)));
	return true;
}

/**
 * hot_share - share pages as long as they are plain
 * @mm: whose page tables these are
 * @dst_addr: the address that the first entry of @dst maps
 * @src: entries of the source
 * @dst: as many empty entries of the duplicate, which has the same rights
 * @nr: how many
 *
 * Return: how many are shared; the next one is not plain.
 */
static __always_inline unsigned int hot_share(struct mm_struct *mm,
					      unsigned long dst_addr, pte_t *src,
					      pte_t *dst, unsigned int nr)
{
	const struct frames f = frames_of_memory();
	unsigned int i;

	hot_prefetch_first(&f, src, nr);
	for (i = 0; i < nr; i++, dst_addr += PAGE_SIZE) {
		if (i + HOT_AHEAD < nr)
			hot_prefetch(&f, ptep_get(src + i + HOT_AHEAD));
		if (!hot_share_one(mm, &f, dst_addr, src + i, dst + i))
			break;
	}
	return i;
}

#define HOT_AT_ONCE	8

/*
 * Do so many entries of @a and @b map the same pages, or nothing? False when it
 * takes more than a look at all of them at once to say so.
 */
static __always_inline bool hot_same_at_once(const struct frames *f, pte_t *a,
					     pte_t *b)
{
	unsigned long differ = 0, both = ~0UL, any = 0;
	unsigned int i;

	for (i = 0; i < HOT_AT_ONCE; i++) {
		differ |= entry_value(a + i) ^ entry_value(b + i);
		both &= entry_value(a + i) & entry_value(b + i);
		any |= entry_value(a + i) | entry_value(b + i);
	}
	return entries_are_usual(both) ? !entries_differ(f, differ) : !any;
}

/**
 * hot_same - how many entries map the same on both sides
 * @a: entries of one side
 * @b: entries of the other
 * @nr: how many
 *
 * Touches no struct page.
 *
 * Return: the number of entries from the first on that are the same, not all of
 * them: the next ones, fewer than HOT_AT_ONCE, may be so, too.
 */
static __always_inline unsigned int hot_same(pte_t *a, pte_t *b, unsigned int nr)
{
	const struct frames f = frames_of_memory();
	unsigned int i;

	for (i = 0; i + HOT_AT_ONCE <= nr; i += HOT_AT_ONCE)
		if (!hot_same_at_once(&f, a + i, b + i))
			break;
	return i;
}

#endif /* COWSNAP_HOT_H */
