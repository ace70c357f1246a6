// SPDX-License-Identifier: GPL-2.0
/* Random pages and tables, once for the loops and once for the model. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "native_world.h"

#define GUARDED		(NR_ENTRIES * sizeof(pte_t))

struct page *vmemmap;
unsigned long shim_physical_mask = (1UL << 46) - 1;
struct world expected;
pte_t *src, *dst;

static uint64_t seed = 20261122;
static int nr_tests, failures;

void ok(bool good, const char *what)
{
	printf("%sok %d - %s\n", good ? "" : "not ", ++nr_tests, what);
	failures += !good;
}

unsigned int below(unsigned int n)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (seed >> 11) % n;
}

bool one_in(unsigned int n)
{
	return !below(n);
}

/* A table with a page behind it that nobody may touch. */
static pte_t *guarded_table(void)
{
	char *p = mmap(NULL, 2 * GUARDED, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED || mprotect(p + GUARDED, GUARDED, PROT_NONE)) {
		puts("Bail out! no memory");
		exit(1);
	}
	return (pte_t *)p;
}

/* Mostly plain pages; @odd: how seldom another kind is. */
static struct page random_page(unsigned int odd)
{
	static const unsigned long kinds[] = {
		PAGE_MAPPING_KSM, 0, PAGE_MAPPING_MOVABLE,
	};
	struct page page = {
		.flags = (unsigned long)below(1U << 30) << 12 | below(1 << 12),
		.mapping = (void *)(ANON_VMA + PAGE_MAPPING_ANON),
		.index = below(1 << 30), .private = below(1 << 30),
		._mapcount = { below(3) }, ._refcount = { 1 + below(5) },
		.memcg_data = below(1 << 30),
	};

	page.flags &= ~(1UL << PG_head);
	page.compound_head = 0xffff888000200000;
	if (one_in(odd))
		page.mapping = (void *)(ANON_VMA + kinds[below(3)]);
	if (one_in(odd))
		page.flags |= 1UL << PG_head;
	if (one_in(odd))
		page.compound_head |= 1;
	if (one_in(odd))
		page._refcount.counter = GUP_PIN_COUNTING_BIAS - 2 + below(4);
	if (one_in(odd))
		page._refcount.counter = 0x7ffffffd + below(2);
	return page;
}

pte_t random_entry(unsigned int odd)
{
	unsigned long pte = (unsigned long)below(NR_PAGES) << PAGE_SHIFT |
			    _PAGE_PRESENT | _PAGE_USER;

	pte |= one_in(2) ? _PAGE_RW | _PAGE_DIRTY : _PAGE_SAVED_DIRTY;
	pte |= (one_in(2) ? _PAGE_ACCESSED : 0) | (one_in(4) ? _PAGE_NX : 0);
	pte |= (one_in(3) ? _PAGE_SOFT_DIRTY : 0) | (one_in(5) ? _PAGE_UFFD : 0);
	if (one_in(odd))	/* clean, or dirty in the wrong place */
		pte &= ~(one_in(2) ? _PAGE_DIRTY_BITS : _PAGE_DIRTY);
	if (one_in(odd))
		pte |= _PAGE_RW;
	if (one_in(odd))
		pte |= _PAGE_SPECIAL;
	if (one_in(odd))	/* PROT_NONE: the frame is inverted */
		pte = (~pte & PTE_PFN_MASK) | _PAGE_PROTNONE;
	if (one_in(odd))	/* swapped out, or the like */
		pte = (unsigned long)below(1 << 30) << 14;
	return __pte(one_in(odd) ? 0 : pte);
}

/* The same content for the loops and for the model. */
void make_world(unsigned int odd)
{
	for (unsigned int i = 0; i < NR_PAGES; i++)
		expected.pages[i] = random_page(odd);
	for (unsigned int i = 0; i < NR_ENTRIES; i++) {
		expected.src[i] = random_entry(odd);
		expected.dst[i] = __pte(0);
	}
}

void copy_world(void)
{
	memcpy(vmemmap, expected.pages, sizeof(expected.pages));
	memcpy(src, expected.src, sizeof(expected.src));
	memcpy(dst, expected.dst, sizeof(expected.dst));
}

bool is_as_expected(void)
{
	return !memcmp(vmemmap, expected.pages, sizeof(expected.pages)) &&
	       !memcmp(src, expected.src, sizeof(expected.src)) &&
	       !memcmp(dst, expected.dst, sizeof(expected.dst));
}

/* The model's page of an entry, of a present one. */
struct page *model_page(unsigned long pte)
{
	return &expected.pages[pte >> PAGE_SHIFT & (NR_PAGES - 1)];
}

void world_init(int argc, char **argv)
{
	if (argc > 1)
		seed = strtoull(argv[1], NULL, 0) ?: 1;
	vmemmap = aligned_alloc(sizeof(*vmemmap), NR_PAGES * sizeof(*vmemmap));
	src = guarded_table();
	dst = guarded_table();
	printf("# seed %llu\n", (unsigned long long)seed);
}

/* The exit status. */
int world_done(void)
{
	printf("1..%d\n", nr_tests);
	return failures > 0;
}
