/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Page-table entries as the inner loops see them: those of present base pages.
 *
 * Everywhere these are the kernel's own helpers. On x86 these cost several times
 * what they do: each goes through a hook for Xen, asks whether the entry may be
 * one that is not present, and reads the width of an address from memory. There
 * the loops work on values. Loops that change entries or look at pages are not
 * entered under Xen (entries_are_plain()).
 */
#ifndef COWSNAP_ENTRY_H
#define COWSNAP_ENTRY_H

#define ENTRY_PLAIN_STORES \
	(IS_ENABLED(CONFIG_X86) && !IS_ENABLED(CONFIG_PAGE_TABLE_CHECK))

#ifdef CONFIG_X86

/* What leads from an entry to its page; for a loop to have in registers. */
struct frames {
	unsigned long bits;	/* of an entry that say which page */
	struct page *first;
};

static inline struct frames frames_of_memory(void)
{
	return (struct frames){ PTE_PFN_MASK, vmemmap };
}

/* Is an entry what the hardware reads? */
static inline bool entries_are_plain(void)
{
	return !cpu_feature_enabled(X86_FEATURE_XENPV);
}

/* Neither absent nor PROT_NONE nor the zero page. */
static inline bool entry_is_usual(pte_t pte)
{
	return (native_pte_val(pte) & (_PAGE_PRESENT | _PAGE_SPECIAL)) ==
	       _PAGE_PRESENT;
}

/* Usual, and not writable. */
static inline bool entry_is_shared(pte_t pte)
{
	return (native_pte_val(pte) & (_PAGE_PRESENT | _PAGE_SPECIAL | _PAGE_RW)) ==
	       _PAGE_PRESENT;
}

/* Usual, and no userfaultfd waits for somebody to write. */
static inline bool entry_is_unwatched(pte_t pte)
{
	return (native_pte_val(pte) & (_PAGE_PRESENT | _PAGE_SPECIAL | _PAGE_UFFD)) ==
	       _PAGE_PRESENT;
}

static inline struct page *entry_page(const struct frames *f, pte_t pte)
{
	return f->first + ((native_pte_val(pte) & f->bits) >> PAGE_SHIFT);
}

static inline bool entry_is_writable(pte_t pte)
{
	return native_pte_val(pte) & _PAGE_RW;
}

/*
 * Can a CPU change nothing in the entry any more that matters? It sets the
 * accessed and the dirty bit without asking for the lock, the latter in entries
 * that are writable, and that one is set already. What is lost then by a plain
 * store, for which ptep_set_wrprotect() takes a locked one, is the accessed bit.
 * All software that changes an entry holds its lock.
 */
static inline bool entry_is_settled(pte_t pte)
{
	return native_pte_val(pte) & _PAGE_DIRTY;
}

static inline void entry_set(pte_t *ptep, pte_t pte)
{
	native_set_pte(ptep, pte);
}

static inline bool entry_is_none(pte_t pte)
{
	return !native_pte_val(pte);
}

/* What the hardware or software has marked as dirty. */
static inline bool entry_is_dirty(pte_t pte)
{
#ifdef _PAGE_DIRTY_BITS
	return native_pte_val(pte) & _PAGE_DIRTY_BITS;
#else
	return native_pte_val(pte) & _PAGE_DIRTY;
#endif
}

/* cowsnap_writable(), of a present entry. */
static inline pte_t entry_make_writable(pte_t pte)
{
	pteval_t value = native_pte_val(pte);

#ifdef _PAGE_SAVED_DIRTY
	value &= ~_PAGE_SAVED_DIRTY;
#endif
	return native_make_pte(value | _PAGE_RW | _PAGE_DIRTY | _PAGE_ACCESSED |
			       _PAGE_SOFT_DIRTY);
}

static inline unsigned long entry_value(pte_t *ptep)
{
	return native_pte_val(READ_ONCE(*ptep));
}

/* Bits that all of several values have: are they all present? */
static inline bool entries_are_present(unsigned long common)
{
	return common & _PAGE_PRESENT;
}

/* Are they all dirty? */
static inline bool entries_are_dirty(unsigned long common)
{
	return entry_is_dirty(native_make_pte(common));
}

/*
 * Bits that differ in one of several pairs of entries, one of which is present:
 * is the other one not, or of another page?
 */
static inline bool entries_differ(const struct frames *f, unsigned long bits)
{
	return bits & (f->bits | _PAGE_PRESENT);
}

/* Does @b map the page of @a, which is present? */
static inline bool entries_share_page(const struct frames *f, pte_t a, pte_t b)
{
	return !entries_differ(f, native_pte_val(a) ^ native_pte_val(b));
}

#else /* !CONFIG_X86 */

struct frames { };

static inline struct frames frames_of_memory(void)
{
	return (struct frames){ };
}

static inline bool entries_are_plain(void)
{
	return true;
}

static inline bool entry_is_usual(pte_t pte)
{
	return pte_present(pte) && !pte_protnone(pte) && !pte_special(pte);
}

static inline bool entry_is_shared(pte_t pte)
{
	return entry_is_usual(pte) && !pte_write(pte);
}

static inline bool entry_is_unwatched(pte_t pte)
{
	return entry_is_usual(pte) && !pte_uffd(pte);
}

static inline struct page *entry_page(const struct frames *f, pte_t pte)
{
	return pte_page(pte);
}

static inline bool entry_is_writable(pte_t pte)
{
	return pte_write(pte);
}

static inline bool entry_is_settled(pte_t pte)
{
	return false;
}

static inline bool entry_is_none(pte_t pte)
{
	return pte_none(pte);
}

static inline bool entry_is_dirty(pte_t pte)
{
	return pte_dirty(pte);
}

static inline pte_t entry_make_writable(pte_t pte)
{
	return cowsnap_writable(pte);
}

static inline unsigned long entry_value(pte_t *ptep)
{
	return pte_val(ptep_get(ptep));
}

/* Which bits say so is not known here: look at them one by one. */
static inline bool entries_are_present(unsigned long common)
{
	return false;
}

static inline bool entries_are_dirty(unsigned long common)
{
	return false;
}

static inline bool entries_differ(const struct frames *f, unsigned long bits)
{
	return true;
}

static inline bool entries_share_page(const struct frames *f, pte_t a, pte_t b)
{
	return pte_present(b) && pte_pfn(a) == pte_pfn(b);
}

/* Never: what is not settled is for the kernel's helpers. */
static inline void entry_set(pte_t *ptep, pte_t pte)
{
	BUILD_BUG();
}

#endif

/*
 * Where nothing was, or the same page without write permission, or to be nothing.
 * With CONFIG_PAGE_TABLE_CHECK somebody counts. A plain store loses the accessed
 * bit at most, as long as the entry is not writable.
 */
static inline void entry_map(struct mm_struct *mm, unsigned long addr,
			     pte_t *ptep, pte_t pte)
{
	if (ENTRY_PLAIN_STORES)
		entry_set(ptep, pte);
	else
		set_pte_at(mm, addr, ptep, pte);
}

static inline void entry_clear(struct mm_struct *mm, unsigned long addr,
			       pte_t *ptep)
{
	if (ENTRY_PLAIN_STORES)
		entry_set(ptep, __pte(0));
	else
		ptep_get_and_clear(mm, addr, ptep);
}

#endif /* COWSNAP_ENTRY_H */
