// SPDX-License-Identifier: GPL-2.0
/*
 * The inner loops of module/hot.h, against what they must do told page by page:
 * on tables of random entries for random pages, of every kind there is. All of
 * memory is compared, so that what must not change is seen as well. Prints TAP.
 * The seed is the argument, or always the same.
 */
#include <string.h>

#include "native_world.h"
#include "hot.h"

#define NR_TABLES	2000

/* How seldom something unusual is in a table. */
static const unsigned int odds[] = { 1000000, 5000, 200, 30, 4 };

#define NR_ODDS	(sizeof(odds) / sizeof(odds[0]))

static struct hot_entries entries(pte_t *table, unsigned int first)
{
	static struct mm_struct mm;

	return (struct hot_entries){
		&mm, (unsigned long)first << PAGE_SHIFT, table + first,
	};
}

/* Anonymous, merged by KSM or not. */
static bool is_base_page(const struct page *page)
{
	return !(page->flags >> PG_head & 1) && !(page->compound_head & 1) &&
	       (unsigned long)page->mapping & PAGE_MAPPING_ANON;
}

/* Not merged, and not so often referenced as if it was pinned. */
static bool is_plain_page(const struct page *page)
{
	return is_base_page(page) &&
	       ((unsigned long)page->mapping & 3) == PAGE_MAPPING_ANON &&
	       page->_refcount.counter < (int)GUP_PIN_COUNTING_BIAS;
}

/* What REMAP's loop must do with one page; false: leave it alone. */
static bool model_share(pte_t *s, pte_t *d)
{
	unsigned long pte = s->pte;
	struct page *page;

	if (!(pte & _PAGE_PRESENT) || pte & _PAGE_SPECIAL ||
	    !(pte & (_PAGE_DIRTY | _PAGE_SAVED_DIRTY)))
		return false;
	/* The CPU may be about to set the dirty bit. */
	if (pte & _PAGE_RW && !(pte & _PAGE_DIRTY))
		return false;
	page = model_page(pte);
	if (!is_plain_page(page))
		return false;
	if (pte & _PAGE_RW)
		pte = (pte & ~(_PAGE_RW | _PAGE_DIRTY)) | _PAGE_SAVED_DIRTY;
	s->pte = pte;
	d->pte = pte & ~(_PAGE_ACCESSED | _PAGE_UFFD);
	page->_mapcount.counter++;
	page->_refcount.counter++;
	page->flags &= ~(1UL << PG_anon_exclusive);
	return true;
}

/* From @first on; the pages that a loop leaves alone are skipped. */
static bool share_both(unsigned int first)
{
	unsigned int i, k, nr;

	for (i = first; i < NR_ENTRIES; i++) {
		hot_prefetch_first(src + i, NR_ENTRIES - i);
		nr = hot_share(src + i, entries(dst, i), NR_ENTRIES - i);
		for (k = i; k < NR_ENTRIES; k++)
			if (!model_share(&expected.src[k], &expected.dst[k]))
				break;
		if (nr != k - i)
			return false;
		i = k;
	}
	return is_as_expected();
}

static void share_does_what_it_must_page_by_page(void)
{
	bool good = true;

	for (unsigned int i = 0; i < NR_TABLES; i++) {
		make_world(odds[i % NR_ODDS]);
		copy_world();
		good = share_both(one_in(2) ? 0 : below(NR_ENTRIES)) && good;
	}
	ok(good, "share: entries, counts and flags of 2,000 random tables");
}

/* Nothing on both sides, or the same page. */
static bool is_same(unsigned int i)
{
	unsigned long a = src[i].pte, b = dst[i].pte;

	return (!a && !b) || (a & b & _PAGE_PRESENT &&
			      ((a ^ b) & PTE_PFN_MASK) == 0);
}

static bool is_clean(unsigned int i)
{
	return dst[i].pte && !(dst[i].pte & _PAGE_DIRTY_BITS);
}

/* The zero page may be looked at more closely, or not. */
static bool ends_rightly(unsigned int first, unsigned int nr, bool dirty)
{
	unsigned int i;

	for (i = first; i < first + nr; i++)
		if (!is_same(i) || (dirty && is_clean(i)))
			return false;
	return i == NR_ENTRIES || !is_same(i) || (dirty && is_clean(i)) ||
	       src[i].pte & _PAGE_SPECIAL;
}

/* Tables that agree for a while: up to a random entry, or from holes on. */
static void make_pairs(void)
{
	unsigned int i, hole = below(64) * 8, odd = below(4) * 8;

	make_world(1000000);
	for (i = 0; i < NR_ENTRIES; i++) {
		if (i >= hole && i < hole + 16)
			expected.src[i] = __pte(0);
		expected.dst[i] = expected.src[i];
		if (expected.dst[i].pte && one_in(2))
			expected.dst[i].pte ^= _PAGE_ACCESSED | _PAGE_SOFT_DIRTY;
	}
	i = below(NR_ENTRIES);
	if (odd)
		expected.dst[i] = odd == 8 ? __pte(0) : random_entry(3);
	i = below(NR_ENTRIES);
	if (odd == 24)
		expected.src[i] = expected.dst[i] = random_entry(2);
	if (one_in(2))
		expected.dst[below(NR_ENTRIES)].pte &= ~_PAGE_DIRTY_BITS;
}

static void same_ends_where_two_entries_differ(void)
{
	bool good = true;

	for (unsigned int i = 0; i < 10 * NR_TABLES; i++) {
		unsigned int first = one_in(2) ? 0 : below(NR_ENTRIES), nr;
		bool dirty = one_in(2);

		make_pairs();
		copy_world();
		nr = hot_same(src + first, dst + first, NR_ENTRIES - first, dirty);
		good = ends_rightly(first, nr, dirty) && is_as_expected() && good;
	}
	ok(good, "same: ends at the first entries that differ, or one that is clean");
}

/*
 * Drop: duplicates of the source's entries, some of which are something else.
 * Pages have more references than a table has entries.
 */
static void make_duplicate(unsigned int odd)
{
	make_world(odd);
	for (unsigned int i = 0; i < NR_PAGES; i++)
		if (expected.pages[i]._refcount.counter < 600)
			expected.pages[i]._refcount.counter += 600;
	for (unsigned int i = 0; i < NR_ENTRIES; i++) {
		pte_t pte = expected.src[i];

		if (!one_in(odd))
			expected.src[i] = pte = pte_wrprotect(pte);
		if (one_in(2))
			pte = pte_mkold(pte);
		expected.dst[i] = one_in(odd) ? random_entry(4) : pte;
		if (one_in(odd))
			expected.dst[i] = __pte(0);
	}
}

/* The page, when its entry has to go; *@next: does the loop go on? */
static struct page *model_drop(unsigned int i, bool *next)
{
	unsigned long s = expected.src[i].pte, d = expected.dst[i].pte;
	struct page *page = model_page(d);

	*next = !d;
	if (!(d & _PAGE_PRESENT) || d & (_PAGE_SPECIAL | _PAGE_RW) ||
	    !(s & _PAGE_PRESENT) || ((s ^ d) & PTE_PFN_MASK) ||
	    !is_base_page(page))
		return NULL;
	*next = true;
	expected.dst[i].pte = 0;
	page->_mapcount.counter--;
	return &vmemmap[page - expected.pages];
}

static bool is_dropped(const struct hot_dropped *dropped, struct page **pages,
		       unsigned int nr)
{
	return dropped->nr == nr && dropped->pages != pages &&
	       !memcmp(dropped->pages, pages, nr * sizeof(*pages));
}

static bool drop_both(void)
{
	struct page *pages[NR_ENTRIES], *want[NR_ENTRIES], *page;
	struct hot_dropped dropped = { .pages = pages };
	unsigned int i, k, nr, nr_want = 0;
	bool next, good = true;

	for (i = 0; i < NR_ENTRIES; i++) {
		nr = hot_drop(src + i, entries(dst, i), NR_ENTRIES - i, &dropped);
		for (k = i; k < NR_ENTRIES; k++) {
			page = model_drop(k, &next);
			if (page)
				want[nr_want++] = page;
			else if (!next)
				break;
		}
		if (nr != k - i)
			return false;
		i = k;
	}
	good = is_dropped(&dropped, want, nr_want) && is_as_expected();
	for (i = 0; i < nr_want; i++)
		expected.pages[want[i] - vmemmap]._refcount.counter--;
	hot_put(&dropped);
	return good && is_as_expected() && !dropped.nr;
}

static void drop_does_what_it_must_page_by_page(void)
{
	bool good = true;

	for (unsigned int i = 0; i < NR_TABLES; i++) {
		make_duplicate(odds[i % NR_ODDS]);
		copy_world();
		good = drop_both() && good;
	}
	ok(good, "drop: entries and map counts, and references only when they are put");
}

/* Take back: pages that are mapped once, unless they are odd, and not locked. */
static void make_shared(unsigned int odd)
{
	make_world(odd);
	for (unsigned int i = 0; i < NR_PAGES; i++) {
		struct page *page = &expected.pages[i];

		page->flags &= ~(1UL << PG_waiters | 1UL << PG_swapcache |
				 1UL << PG_locked);
		if (!one_in(odd))
			page->_refcount.counter = 1;
		if (one_in(odd))
			page->flags |= 1UL << PG_locked;
		if (one_in(odd))
			page->mapping = (char *)page->mapping + 0x1000;
	}
	for (unsigned int i = 0; i < NR_ENTRIES; i++) {
		if (!one_in(odd) && !one_in(5))
			expected.src[i] = pte_wrprotect(expected.src[i]);
		if (!one_in(odd))
			expected.src[i].pte &= ~_PAGE_UFFD;
		if (!one_in(odd))
			expected.src[i] = pte_mksoft_dirty(expected.src[i]);
	}
}

/* False: left alone. */
static bool model_take(pte_t *s, bool tracked, unsigned int *taken)
{
	unsigned long pte = s->pte;
	struct page *page = model_page(pte);

	if (!pte)
		return true;
	if (!(pte & _PAGE_PRESENT) || pte & (_PAGE_SPECIAL | _PAGE_UFFD) ||
	    (tracked && !(pte & _PAGE_SOFT_DIRTY)))
		return false;
	if (pte & _PAGE_RW)
		return true;
	if (!is_base_page(page))
		return false;
	if (!(page->flags >> PG_anon_exclusive & 1) &&
	    (page->_refcount.counter != 1 || page->flags >> PG_locked & 1 ||
	     page->mapping != (void *)(ANON_VMA + PAGE_MAPPING_ANON)))
		return false;
	page->flags |= 1UL << PG_anon_exclusive;
	s->pte = (pte & ~_PAGE_SAVED_DIRTY) | _PAGE_RW | _PAGE_DIRTY |
		 _PAGE_ACCESSED | _PAGE_SOFT_DIRTY;
	++*taken;
	return true;
}

static bool take_both(unsigned int first)
{
	struct hot_taker taker = {
		.anon_vma = ANON_VMA + PAGE_MAPPING_ANON, .tracked = one_in(2),
	};
	unsigned int i, k, nr, taken = 0;

	for (i = first; i < NR_ENTRIES; i++) {
		nr = hot_take_back(entries(src, i), NR_ENTRIES - i, &taker);
		for (k = i; k < NR_ENTRIES; k++)
			if (!model_take(&expected.src[k], taker.tracked, &taken))
				break;
		if (nr != k - i || taker.taken != taken)
			return false;
		i = k;
	}
	return is_as_expected();
}

static void take_back_does_what_it_must_page_by_page(void)
{
	bool good = true;

	for (unsigned int i = 0; i < NR_TABLES; i++) {
		make_shared(odds[i % NR_ODDS]);
		copy_world();
		good = take_both(one_in(2) ? 0 : below(NR_ENTRIES)) && good;
	}
	ok(good, "take back: entries and flags of 2,000 random tables");
}

int main(int argc, char **argv)
{
	world_init(argc, argv);
	share_does_what_it_must_page_by_page();
	same_ends_where_two_entries_differ();
	drop_does_what_it_must_page_by_page();
	take_back_does_what_it_must_page_by_page();
	return world_done();
}
