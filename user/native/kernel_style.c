// SPDX-License-Identifier: GPL-2.0
/*
 * What 6.12 does with a base page of anonymous memory, told in our own words: the
 * same reads and the same locked operations in the same order, without what only
 * debugging or other kinds of pages need. So it is rather faster than the kernel.
 */
#include "native.h"

static unsigned long highest_frame = ~0UL;

/* vm_normal_page(), a function of its own there as well. */
static __attribute__((noinline)) struct page *
normal_page(const struct vm_area_struct *vma, pte_t pte)
{
	unsigned long frame = pte_pfn(pte);

	if (unlikely(pte_special(pte)) || unlikely(!vma->vm_mm))
		return NULL;
	if (unlikely(frame > READ_ONCE(highest_frame)))
		return NULL;
	return vmemmap + frame;
}

/* Copying may be needed when somebody may have pinned the page. */
static bool is_pinned(const struct vm_area_struct *vma, const struct folio *folio)
{
	return unlikely(test_bit(MMF_HAS_PINNED, &vma->vm_mm->flags)) &&
	       folio_ref_count(folio) >= (int)GUP_PIN_COUNTING_BIAS;
}

/* copy_present_ptes() and what it calls, for one page. */
static __always_inline bool share_one(struct work *work, unsigned long addr,
				      pte_t *src, pte_t *dst, pte_t pte)
{
	struct page *page = normal_page(&work->src_vma, pte);
	struct folio *folio;

	if (unlikely(!page))
		return false;
	folio = page_folio(page);
	if (unlikely(folio_test_large(folio)))
		return false;
	folio_get(folio);
	if (unlikely(!folio_test_anon(folio)) ||
	    is_pinned(&work->src_vma, folio))
		return false;
	if (PageAnonExclusive(page))
		ClearPageAnonExclusive(page);
	atomic_inc(&folio->_mapcount);
	work->rss[1]++;
	if ((work->src_vma.vm_flags & (VM_SHARED | VM_MAYWRITE)) == VM_MAYWRITE &&
	    pte_write(pte)) {
		ptep_set_wrprotect(&work->mm, addr, src);
		pte = pte_wrprotect(pte);
	}
	pte = pte_mkold(pte);
	if (!(work->dst_vma.vm_flags & VM_UFFD_WP))
		pte = pte_clear_uffd(pte);
	set_pte_at(&work->mm, addr + work->offset, dst, pte);
	return true;
}

/* copy_pte_range() of fork. */
static unsigned int share_table(struct work *work, const struct tables *t)
{
	unsigned long addr = t->addr;
	unsigned int i, nr = 0;

	for (i = 0; i < PTRS_PER_PTE; i++, addr += PAGE_SIZE) {
		pte_t pte = ptep_get(t->src + i);

		if (pte_none(pte) || unlikely(!pte_present(pte)))
			continue;
		nr += share_one(work, addr, t->src + i, t->dst + i, pte);
	}
	return nr;
}

/* The kernel compares no page tables. This is what it would look like there. */
static unsigned int compare_table(struct work *work, const struct tables *t)
{
	unsigned int i, same = 0;

	(void)work;
	for (i = 0; i < PTRS_PER_PTE; i++) {
		pte_t a = ptep_get(t->src + i), b = ptep_get(t->dst + i);

		if (pte_present(a) && pte_present(b) && pte_pfn(a) == pte_pfn(b))
			same++;
	}
	return same;
}

/* free_pages_and_swap_cache(): drop the references, some thousand pages later. */
static void put_pages(struct work *work)
{
	struct gather *gather = work->gather;
	unsigned int i;

	for (i = 0; i < gather->nr; i++) {
		struct folio *folio = page_folio(gather->pages[i]);

		if (folio_test_swapcache(folio) && !folio_mapcount(folio) &&
		    folio_trylock(folio))
			folio_unlock(folio);
		folio_put(folio);
	}
	gather->nr = 0;
}

/* zap_present_ptes() of munmap. */
static unsigned int unmap_table(struct work *work, const struct tables *t)
{
	unsigned long addr = t->addr + work->offset;
	unsigned int i, nr = 0;

	for (i = 0; i < PTRS_PER_PTE; i++, addr += PAGE_SIZE) {
		pte_t pte = ptep_get(t->dst + i);
		struct folio *folio;
		struct page *page;

		if (pte_none(pte) || unlikely(!pte_present(pte)))
			continue;
		page = normal_page(&work->dst_vma, pte);
		if (unlikely(!page))
			continue;
		folio = page_folio(page);
		if (unlikely(folio_test_large(folio) || !folio_test_anon(folio)))
			continue;
		ptep_get_and_clear(&work->mm, addr, t->dst + i);
		work->rss[1]--;
		if (unlikely(atomic_add_negative(-1, &folio->_mapcount)))
			__builtin_trap();	/* the source maps it */
		if (unlikely(folio_mapcount(folio) < 0))
			__builtin_trap();
		work->gather->pages[work->gather->nr++] = page;
		if (work->gather->nr ==
		    sizeof(work->gather->pages) / sizeof(*work->gather->pages))
			put_pages(work);
		nr++;
	}
	return nr;
}

/* wp_can_reuse_anon_folio(). */
static __always_inline bool take_folio(struct work *work, struct folio *folio)
{
	bool alone;

	if (folio_test_large(folio) || folio_test_ksm(folio) ||
	    folio_ref_count(folio) > 3 || !folio_test_lru(folio) ||
	    folio_ref_count(folio) > 1 + folio_test_swapcache(folio))
		return false;
	if (!folio_trylock(folio))
		return false;
	alone = !folio_test_swapcache(folio) && !folio_test_ksm(folio) &&
		folio_ref_count(folio) == 1;
	if (alone)
		WRITE_ONCE(folio->mapping,
			   (void *)(work->src_vma.anon_vma + PAGE_MAPPING_ANON));
	folio_unlock(folio);
	return alone;
}

/* do_wp_page() without the fault around it, which costs several times as much. */
static unsigned int reuse_table(struct work *work, const struct tables *t)
{
	unsigned long addr = t->addr;
	unsigned int i, nr = 0;

	for (i = 0; i < PTRS_PER_PTE; i++, addr += PAGE_SIZE) {
		pte_t pte = ptep_get(t->src + i);
		struct folio *folio;
		struct page *page;

		if (!pte_present(pte) || pte_write(pte))
			continue;
		page = normal_page(&work->src_vma, pte);
		if (unlikely(!page))
			continue;
		folio = page_folio(page);
		if (unlikely(!folio_test_anon(folio)))
			continue;
		if (!PageAnonExclusive(page)) {
			if (!take_folio(work, folio))
				continue;
			SetPageAnonExclusive(page);
		}
		pte = pte_mkwrite_novma(pte_mkdirty(pte_mkyoung(pte)));
		set_pte_at(&work->mm, addr, t->src + i, pte);
		nr++;
	}
	return nr;
}

const struct way kernel_share = { .loop = share_table };
const struct way kernel_compare = { .loop = compare_table };
const struct way kernel_unmap = { .loop = unmap_table, .finish = put_pages };
const struct way kernel_reuse = { .loop = reuse_table };
