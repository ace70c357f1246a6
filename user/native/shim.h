/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What module/hot.h needs of the kernel, in user space: our own code. Facts are
 * the kernel's, of 6.12 on x86-64 without debugging: where in a struct page its
 * fields are, which bits of an entry and of page flags mean what, and which
 * operations are locked ones. Hooks for Xen are left out, they are patched away
 * on hardware.
 */
#ifndef NATIVE_SHIM_H
#define NATIVE_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef __x86_64__
#error "only for x86-64"
#endif

#define CONFIG_X86	1
#define CONFIG_X86_64	1
#define CONFIG_64BIT	1
#define CONFIG_SMP	1

/* 1 where the option is defined as 1, otherwise 0, for the compiler to see. */
#define shim_second(first, second, ...)	second
#define shim_before_1			0,
#define shim_choose(before)		shim_second(before 1, 0, 0)
#define shim_enabled(value)		shim_choose(shim_before_##value)
#define IS_ENABLED(option)		shim_enabled(option)

#undef __always_inline	/* glibc has one */
#define __always_inline	inline __attribute__((__always_inline__))
#define likely(x)	__builtin_expect(!!(x), 1)
#define unlikely(x)	__builtin_expect(!!(x), 0)

#define READ_ONCE(x)		(*(const volatile __typeof__(x) *)&(x))
#define WRITE_ONCE(x, value)	(*(volatile __typeof__(x) *)&(x) = (value))
#define smp_load_acquire(p)	__atomic_load_n(p, __ATOMIC_ACQUIRE)
#define smp_rmb()		asm volatile("" : : : "memory")	/* x86 keeps their order */
#define BUILD_BUG_ON(cond)	_Static_assert(!(cond), #cond)
#define BUILD_BUG()		__builtin_trap()
#define WARN_ON_ONCE(cond)	({ bool is_ = (cond); if (is_) __builtin_trap(); is_; })

#define min(a, b)		({ __auto_type a_ = (a); __auto_type b_ = (b); \
				   a_ < b_ ? a_ : b_; })

#define PAGE_SHIFT	12
#define PAGE_SIZE	(1UL << PAGE_SHIFT)
#define PAGE_MASK	(~(PAGE_SIZE - 1))
#define PTRS_PER_PTE	512
#define BITS_PER_LONG	64

static inline void prefetchw(const void *p)
{
	asm volatile("prefetchw %0" : : "m" (*(const char *)p));
}

static inline void prefetch(const void *p)
{
	asm volatile("prefetchnta %0" : : "m" (*(const char *)p));
}

#define BIT(nr)	(1UL << (nr))

/* Bits. Those of a constant number are changed through their byte. */

static __always_inline bool test_bit(unsigned int nr, const unsigned long *word)
{
	return READ_ONCE(*word) >> nr & 1;
}

static __always_inline void set_bit(unsigned int nr, unsigned long *word)
{
	asm volatile("lock; orb %b1, %0"
		     : "+m" (((char *)word)[nr / 8])
		     : "iq" (1 << (nr & 7)) : "memory");
}

static __always_inline void clear_bit(unsigned int nr, unsigned long *word)
{
	asm volatile("lock; andb %b1, %0"
		     : "+m" (((char *)word)[nr / 8])
		     : "iq" (~(1 << (nr & 7))) : "memory");
}

static __always_inline bool test_and_set_bit(unsigned int nr, unsigned long *word)
{
	bool was;

	asm volatile("lock; btsq %2, %0"
		     : "+m" (*word), "=@ccc" (was) : "Jr" ((long)nr) : "memory");
	return was;
}

/* Counts. */

typedef struct { int counter; } atomic_t;
typedef struct { long counter; } atomic64_t;

static __always_inline int atomic_read(const atomic_t *v)
{
	return READ_ONCE(v->counter);
}

static __always_inline void atomic_inc(atomic_t *v)
{
	asm volatile("lock; incl %0" : "+m" (v->counter) : : "memory");
}

static __always_inline void atomic_dec(atomic_t *v)
{
	asm volatile("lock; decl %0" : "+m" (v->counter) : : "memory");
}

static __always_inline bool atomic_dec_and_test(atomic_t *v)
{
	bool zero;

	asm volatile("lock; decl %0"
		     : "+m" (v->counter), "=@cce" (zero) : : "memory");
	return zero;
}

static __always_inline bool atomic_add_negative(int i, atomic_t *v)
{
	bool negative;

	asm volatile("lock; addl %2, %0"
		     : "+m" (v->counter), "=@ccs" (negative)
		     : "er" (i) : "memory");
	return negative;
}

static __always_inline long atomic64_read(const atomic64_t *v)
{
	return READ_ONCE(v->counter);
}

static __always_inline void atomic64_add(long i, atomic64_t *v)
{
	asm volatile("lock; addq %1, %0"
		     : "+m" (v->counter) : "er" (i) : "memory");
}

static __always_inline void atomic64_sub(long i, atomic64_t *v)
{
	asm volatile("lock; subq %1, %0"
		     : "+m" (v->counter) : "er" (i) : "memory");
}

static __always_inline long atomic64_add_return(long i, atomic64_t *v)
{
	long old = i;

	asm volatile("lock; xaddq %0, %1"
		     : "+r" (old), "+m" (v->counter) : : "memory");
	return old + i;
}

static __always_inline long atomic64_sub_return(long i, atomic64_t *v)
{
	return atomic64_add_return(-i, v);
}

/* The old value, which is @old if it has been replaced. */
static __always_inline long atomic64_cmpxchg(atomic64_t *v, long old, long new)
{
	asm volatile("lock; cmpxchgq %2, %1"
		     : "+a" (old), "+m" (v->counter) : "r" (new) : "memory");
	return old;
}

static __always_inline bool atomic64_try_cmpxchg(atomic64_t *v, long *old, long new)
{
	long seen = atomic64_cmpxchg(v, *old, new);
	bool done = seen == *old;

	*old = seen;
	return done;
}

#define try_cmpxchg(p, old, new) \
	atomic64_try_cmpxchg((atomic64_t *)(p), (long *)(old), new)

/* Pages. */

enum pageflags {
	PG_locked = 0, PG_writeback = 1, PG_referenced = 2, PG_uptodate = 3,
	PG_dirty = 4, PG_lru = 5, PG_head = 6, PG_waiters = 7, PG_active = 8,
	PG_swapcache = 10, PG_anon_exclusive = 11, PG_reserved = 13,
	PG_swapbacked = 17, PG_mlocked = 19,
};

#define PAGE_MAPPING_ANON	0x1UL
#define PAGE_MAPPING_MOVABLE	0x2UL
#define PAGE_MAPPING_KSM	(PAGE_MAPPING_ANON | PAGE_MAPPING_MOVABLE)
#define PAGE_MAPPING_FLAGS	(PAGE_MAPPING_ANON | PAGE_MAPPING_MOVABLE)
#define GUP_PIN_COUNTING_BIAS	(1U << 10)

struct shim_list {
	struct shim_list *next, *prev;
};

#define SHIM_PAGE_FIELDS						\
	unsigned long flags;						\
	union {								\
		struct shim_list lru;					\
		unsigned long compound_head;				\
	};								\
	void *mapping;							\
	unsigned long index;						\
	unsigned long private;						\
	atomic_t _mapcount;						\
	atomic_t _refcount;						\
	unsigned long memcg_data

struct page {
	SHIM_PAGE_FIELDS;
} __attribute__((__aligned__(64)));

struct folio {
	union {
		struct { SHIM_PAGE_FIELDS; };
		struct page page;
	};
};

_Static_assert(sizeof(struct page) == 64 && sizeof(struct folio) == 64,
	       "a struct page is a cache line");

/* Where the kernel has these two, too: in variables. */
extern struct page *vmemmap;
extern unsigned long shim_physical_mask;

static __always_inline struct folio *page_folio(struct page *page)
{
	unsigned long head = READ_ONCE(page->compound_head);

	return (struct folio *)(unlikely(head & 1) ? head - 1 :
				(unsigned long)page);
}

static __always_inline bool PageHead(struct page *page)
{
	return test_bit(PG_head, &page->flags);
}

static __always_inline bool PageCompound(struct page *page)
{
	return PageHead(page) || READ_ONCE(page->compound_head) & 1;
}

static __always_inline bool PageAnonExclusive(struct page *page)
{
	return test_bit(PG_anon_exclusive, &page->flags);
}

static __always_inline void SetPageAnonExclusive(struct page *page)
{
	set_bit(PG_anon_exclusive, &page->flags);
}

static __always_inline void ClearPageAnonExclusive(struct page *page)
{
	clear_bit(PG_anon_exclusive, &page->flags);
}

static __always_inline bool folio_test_large(const struct folio *folio)
{
	return test_bit(PG_head, &folio->flags);
}

static __always_inline bool folio_test_anon(const struct folio *folio)
{
	return (unsigned long)READ_ONCE(folio->mapping) & PAGE_MAPPING_ANON;
}

static __always_inline bool folio_test_ksm(const struct folio *folio)
{
	return ((unsigned long)READ_ONCE(folio->mapping) & PAGE_MAPPING_FLAGS) ==
	       PAGE_MAPPING_KSM;
}

static __always_inline bool folio_test_lru(const struct folio *folio)
{
	return test_bit(PG_lru, &folio->flags);
}

static __always_inline bool folio_test_dirty(const struct folio *folio)
{
	return test_bit(PG_dirty, &folio->flags);
}

static __always_inline bool folio_test_locked(const struct folio *folio)
{
	return test_bit(PG_locked, &folio->flags);
}

static __always_inline bool folio_test_swapcache(const struct folio *folio)
{
	unsigned long both = 1UL << PG_swapbacked | 1UL << PG_swapcache;

	return (READ_ONCE(folio->flags) & both) == both;
}

static __always_inline int folio_ref_count(const struct folio *folio)
{
	return atomic_read(&folio->_refcount);
}

static __always_inline int folio_mapcount(const struct folio *folio)
{
	return atomic_read(&folio->_mapcount) + 1;
}

static __always_inline void folio_get(struct folio *folio)
{
	atomic_inc(&folio->_refcount);
}

static __always_inline bool folio_put_testzero(struct folio *folio)
{
	return atomic_dec_and_test(&folio->_refcount);
}

/* Whoever drops the last one has made a mistake here: the source has one, too. */
static __always_inline void folio_put(struct folio *folio)
{
	if (unlikely(folio_put_testzero(folio)))
		__builtin_trap();
}

static __always_inline bool folio_trylock(struct folio *folio)
{
	return !test_and_set_bit(PG_locked, &folio->flags);
}

/* Nobody waits here; that somebody may is in the sign of the same byte. */
static __always_inline void folio_unlock(struct folio *folio)
{
	bool waiters;

	asm volatile("lock; xorb %b2, %0"
		     : "+m" (*(char *)&folio->flags), "=@ccs" (waiters)
		     : "iq" (1 << PG_locked) : "memory");
	if (unlikely(waiters))
		__builtin_trap();
}

/* Entries. */

typedef unsigned long pteval_t;
typedef struct { pteval_t pte; } pte_t;

#define _PAGE_PRESENT		(1UL << 0)
#define _PAGE_RW		(1UL << 1)
#define _PAGE_USER		(1UL << 2)
#define _PAGE_ACCESSED		(1UL << 5)
#define _PAGE_DIRTY		(1UL << 6)
#define _PAGE_PROTNONE		(1UL << 8)
#define _PAGE_SPECIAL		(1UL << 9)
#define _PAGE_UFFD		(1UL << 10)
#define _PAGE_SOFT_DIRTY	(1UL << 11)
#define _PAGE_SAVED_DIRTY	(1UL << 58)
#define _PAGE_NX		(1UL << 63)
#define _PAGE_DIRTY_BITS	(_PAGE_DIRTY | _PAGE_SAVED_DIRTY)
#define PTE_PFN_MASK		(PAGE_MASK & shim_physical_mask)

static __always_inline unsigned long native_pte_val(pte_t pte)
{
	return pte.pte;
}

static __always_inline unsigned long pte_val(pte_t pte)
{
	return pte.pte;
}

static __always_inline pte_t __pte(unsigned long value)
{
	return (pte_t){ value };
}

static __always_inline pte_t native_make_pte(unsigned long value)
{
	return (pte_t){ value };
}

static __always_inline pte_t ptep_get(pte_t *ptep)
{
	return READ_ONCE(*ptep);
}

static __always_inline void native_set_pte(pte_t *ptep, pte_t pte)
{
	WRITE_ONCE(*ptep, pte);
}

static __always_inline bool pte_none(pte_t pte)
{
	return !(pte.pte & ~(_PAGE_DIRTY | _PAGE_ACCESSED));
}

static __always_inline bool pte_present(pte_t pte)
{
	return pte.pte & (_PAGE_PRESENT | _PAGE_PROTNONE);
}

static __always_inline bool pte_protnone(pte_t pte)
{
	return (pte.pte & (_PAGE_PRESENT | _PAGE_PROTNONE)) == _PAGE_PROTNONE;
}

static __always_inline bool pte_special(pte_t pte)
{
	return pte.pte & _PAGE_SPECIAL;
}

static __always_inline bool pte_write(pte_t pte)
{
	return pte.pte & _PAGE_RW;
}

static __always_inline bool pte_dirty(pte_t pte)
{
	return pte.pte & _PAGE_DIRTY_BITS;
}

static __always_inline bool pte_young(pte_t pte)
{
	return pte.pte & _PAGE_ACCESSED;
}

static __always_inline bool pte_soft_dirty(pte_t pte)
{
	return pte.pte & _PAGE_SOFT_DIRTY;
}

static __always_inline bool pte_uffd(pte_t pte)
{
	return pte.pte & _PAGE_UFFD;
}

/* Entries that are not present have the frame's bits inverted. */
static __always_inline unsigned long pte_pfn(pte_t pte)
{
	unsigned long value = pte.pte;

	if (value && !(value & _PAGE_PRESENT))
		value = ~value;
	return (value & PTE_PFN_MASK) >> PAGE_SHIFT;
}

static __always_inline struct page *pte_page(pte_t pte)
{
	return vmemmap + pte_pfn(pte);
}

/* The hardware's dirty bit moves to one of software's, or back. */
static __always_inline pte_t pte_wrprotect(pte_t pte)
{
	unsigned long dirty = pte.pte & _PAGE_DIRTY;

	pte.pte &= ~(_PAGE_RW | _PAGE_DIRTY);
	pte.pte |= dirty << (58 - 6);
	return pte;
}

static __always_inline pte_t pte_mkwrite_novma(pte_t pte)
{
	unsigned long dirty = pte.pte & _PAGE_SAVED_DIRTY;

	pte.pte = (pte.pte & ~_PAGE_SAVED_DIRTY) | _PAGE_RW;
	pte.pte |= dirty >> (58 - 6);
	return pte;
}

static __always_inline pte_t pte_mkdirty(pte_t pte)
{
	pte.pte |= _PAGE_SOFT_DIRTY |
		   (pte.pte & _PAGE_RW ? _PAGE_DIRTY : _PAGE_SAVED_DIRTY);
	return pte;
}

static __always_inline pte_t pte_mkold(pte_t pte)
{
	return __pte(pte.pte & ~_PAGE_ACCESSED);
}

static __always_inline pte_t pte_mkyoung(pte_t pte)
{
	return __pte(pte.pte | _PAGE_ACCESSED);
}

static __always_inline pte_t pte_mksoft_dirty(pte_t pte)
{
	return __pte(pte.pte | _PAGE_SOFT_DIRTY);
}

static __always_inline pte_t pte_clear_uffd(pte_t pte)
{
	return __pte(pte.pte & ~_PAGE_UFFD);
}

/* Of a whole process. */

#define MMF_HAS_PINNED	27

#define VM_READ		0x1UL
#define VM_WRITE	0x2UL
#define VM_SHARED	0x8UL
#define VM_MAYWRITE	0x20UL
#define VM_UFFD_WP	0x1000UL
#define VM_LOCKED	0x2000UL

struct mm_struct {
	unsigned long flags;
};

struct vm_area_struct {
	struct mm_struct *vm_mm;
	unsigned long vm_flags;
	char *anon_vma;
};

static __always_inline void set_pte_at(struct mm_struct *mm, unsigned long addr,
				       pte_t *ptep, pte_t pte)
{
	(void)mm;
	(void)addr;
	WRITE_ONCE(*ptep, pte);
}

static __always_inline pte_t ptep_get_and_clear(struct mm_struct *mm,
						unsigned long addr, pte_t *ptep)
{
	unsigned long old = 0;

	(void)mm;
	(void)addr;
	asm volatile("xchgq %0, %1" : "+r" (old), "+m" (ptep->pte) : : "memory");
	return __pte(old);
}

static __always_inline void ptep_set_wrprotect(struct mm_struct *mm,
					       unsigned long addr, pte_t *ptep)
{
	long old = READ_ONCE(ptep->pte);

	(void)mm;
	(void)addr;
	while (!atomic64_try_cmpxchg((atomic64_t *)ptep, &old,
				     pte_wrprotect(__pte(old)).pte))
		;
}

static __always_inline bool cpu_feature_enabled(int feature)
{
	(void)feature;
	return false;
}

#define X86_FEATURE_XENPV	0

/* What compat.h has for the loops. */

#define cowsnap_page_flags(page)	(&(page)->flags)

static __always_inline bool cowsnap_is_exclusive(struct page *page)
{
	return PageAnonExclusive(page);
}

static __always_inline void cowsnap_clear_exclusive(struct page *page)
{
	ClearPageAnonExclusive(page);
}

static __always_inline pte_t cowsnap_pte_mkwrite(pte_t pte)
{
	return pte_mkwrite_novma(pte);
}

#endif /* NATIVE_SHIM_H */
