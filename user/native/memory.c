// SPDX-License-Identifier: GPL-2.0
/*
 * The memory of a machine, as far as the loops look at it: a struct page for each
 * page, and page tables. Both lie on huge pages, as the kernel's do, so that a
 * miss of the TLB costs here what it costs there.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "native.h"

#define HUGE	(2UL << 20)
#define TABLE	(PTRS_PER_PTE * sizeof(pte_t))

struct page *vmemmap;
unsigned long shim_physical_mask = (1UL << 46) - 1;

static void *arena;		/* of all page tables */

/* xorshift64: small, and the same everywhere. */
uint64_t random_next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static void shuffle(uint32_t *v, size_t nr, uint64_t seed)
{
	uint64_t state = seed ?: 1;

	for (size_t i = nr; i > 1; i--) {
		size_t k = random_next(&state) % i;
		uint32_t tmp = v[i - 1];

		v[i - 1] = v[k];
		v[k] = tmp;
	}
}

static uint32_t *numbers(size_t nr)
{
	uint32_t *v = malloc(nr * sizeof(*v));

	if (!v)
		die("out of memory");
	for (size_t i = 0; i < nr; i++)
		v[i] = i;
	return v;
}

static void *alloc_huge(size_t size)
{
	void *p;

	size = (size + HUGE - 1) & ~(HUGE - 1);
	p = aligned_alloc(HUGE, size);
	if (!p)
		die("no memory for %zu MiB of pages and tables", size >> 20);
	madvise(p, size, MADV_HUGEPAGE);
	memset(p, 0, size);
	return p;
}

/* How much of this process is on huge pages. */
static size_t huge_bytes(void)
{
	FILE *f = fopen("/proc/self/smaps_rollup", "r");
	char line[128];
	size_t kib = 0;

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "AnonHugePages: %zu", &kib) == 1)
			break;
	if (f)
		fclose(f);
	return kib << 10;
}

/*
 * Tables come from anywhere, as they do when a process grows: the next one is
 * never the neighbour, except by chance.
 */
static void place_tables(struct memory *m, uint64_t seed)
{
	uint32_t *slots = numbers(2 * m->nr_tables);

	arena = alloc_huge(2 * m->nr_tables * TABLE);
	shuffle(slots, 2 * m->nr_tables, seed);
	for (size_t i = 0; i < m->nr_tables; i++) {
		m->tables[i].src = (pte_t *)((char *)arena + slots[2 * i] * TABLE);
		m->tables[i].dst = (pte_t *)((char *)arena + slots[2 * i + 1] * TABLE);
		m->tables[i].addr = (1UL << 44) + i * PTRS_PER_PTE * PAGE_SIZE;
	}
	free(slots);
}

void memory_init(struct memory *m, size_t nr_pages, uint64_t seed)
{
	size_t before = huge_bytes();

	m->nr_tables = nr_pages / PTRS_PER_PTE;
	m->nr_pages = m->nr_tables * PTRS_PER_PTE;
	m->tables = calloc(m->nr_tables, sizeof(*m->tables));
	if (!m->tables)
		die("out of memory");
	m->frames = numbers(m->nr_pages);
	vmemmap = alloc_huge(m->nr_pages * sizeof(struct page));
	place_tables(m, seed);
	m->huge = huge_bytes() - before >=
		  (m->nr_pages * sizeof(struct page) + 2 * m->nr_tables * TABLE) / 10 * 9;
}

void memory_free(struct memory *m)
{
	free(vmemmap);
	free(arena);
	free(m->frames);
	free(m->tables);
	*m = (struct memory){ 0 };
}

void memory_order(struct memory *m, enum order order, uint64_t seed)
{
	size_t run = order == ORDER_LINEAR ? m->nr_pages :
		     order == ORDER_RUNS ? RUN : 1;
	uint32_t *runs = numbers(m->nr_pages / run);

	shuffle(runs, m->nr_pages / run, seed);
	for (size_t i = 0; i < m->nr_pages; i++)
		m->frames[i] = runs[i / run] * run + i % run;
	free(runs);
}

static struct page page_of(enum state state)
{
	bool both = state == STATE_SHARED || state == STATE_PAIRS;
	struct page page = {
		.flags = 1UL << PG_uptodate | 1UL << PG_dirty | 1UL << PG_lru |
			 1UL << PG_active | 1UL << PG_swapbacked,
		.mapping = (void *)(0xffff888000100000 + PAGE_MAPPING_ANON),
		._mapcount = { both ? 1 : 0 },
		._refcount = { both ? 2 : 1 },
	};

	if (state == STATE_EXCLUSIVE)
		page.flags |= 1UL << PG_anon_exclusive;
	return page;
}

static pte_t entry_of(uint32_t frame, enum state state)
{
	pte_t pte = __pte((unsigned long)frame << PAGE_SHIFT | _PAGE_NX |
			  _PAGE_SOFT_DIRTY | _PAGE_DIRTY | _PAGE_ACCESSED |
			  _PAGE_USER | _PAGE_RW | _PAGE_PRESENT);

	return state == STATE_EXCLUSIVE ? pte : pte_wrprotect(pte);
}

void memory_reset(const struct memory *m, enum state state)
{
	const struct page page = page_of(state);
	const uint32_t *frame = m->frames;

	for (size_t i = 0; i < m->nr_pages; i++)
		vmemmap[i] = page;
	for (size_t i = 0; i < m->nr_tables; i++) {
		const struct tables *t = &m->tables[i];

		for (unsigned int k = 0; k < PTRS_PER_PTE; k++, frame++) {
			t->src[k] = entry_of(*frame, state);
			t->dst[k] = state == STATE_PAIRS ?
				    pte_mkold(t->src[k]) : __pte(0);
		}
	}
}

static void flush(const void *start, size_t size)
{
	for (size_t i = 0; i < size; i += 64)
		asm volatile("clflush %0" : : "m" (((const char *)start)[i]) : "memory");
}

/* Out of all caches, of all CPUs. */
void memory_flush(const struct memory *m)
{
	flush(vmemmap, m->nr_pages * sizeof(struct page));
	flush(arena, 2 * m->nr_tables * TABLE);
	asm volatile("mfence" : : : "memory");
}

void work_init(struct work *work)
{
	*work = (struct work){ .offset = 1UL << 40 };
	work->gather = calloc(1, sizeof(*work->gather));
	if (!work->gather)
		die("out of memory");
	work->src_vma = (struct vm_area_struct){
		.vm_mm = &work->mm,
		.vm_flags = VM_READ | VM_WRITE | VM_MAYWRITE,
		.anon_vma = (char *)0xffff888000100000,
	};
	work->dst_vma = work->src_vma;
}

void work_free(struct work *work)
{
	free(work->gather);
}
