// SPDX-License-Identifier: GPL-2.0
/* The memory that is snapshotted: of one page kind, on one node, all written. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "bench.h"

/* Left alone, so that the machine does not reclaim while it is measured. */
#define MEMORY_SPARE	(192 * MIB)

const char *const page_names[NR_PAGE_KINDS] = { "4k", "thp", "hugetlb" };

static size_t read_meminfo(const char *key)
{
	FILE *f = fopen("/proc/meminfo", "re");
	size_t value = 0, len = strlen(key);
	char line[128];

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, key, len) && line[len] == ':')
			value = strtoull(line + len + 1, NULL, 10);
	if (f)
		fclose(f);
	return value;
}

size_t memory_available(void)
{
	return read_meminfo("MemAvailable") * KIB;
}

const char *memory_lacks(size_t len, unsigned int copies)
{
	size_t have = memory_available();

	if (copies * len + MEMORY_SPARE <= have)
		return NULL;
	return sentence("too little memory: needs %zu MiB, %zu MiB are available",
			(copies * len + MEMORY_SPARE) / MIB, have / MIB);
}

static const char *lacks_hugetlb(size_t len)
{
	size_t have = read_meminfo("HugePages_Free");
	size_t need = (len + HUGE_SIZE - 1) / HUGE_SIZE;

	if (read_meminfo("Hugepagesize") * KIB != HUGE_SIZE)
		return "hugetlb: the default huge page size is not 2 MiB";
	if (have >= need)
		return NULL;
	return sentence("hugetlb: needs %zu free huge pages of 2 MiB, has %zu; see /proc/sys/vm/nr_hugepages",
			need, have);
}

static const char *reserve_anonymous(struct region *r)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS;
	enum page_kind page = r->page;
	size_t slack = page == PAGE_THP ? HUGE_SIZE : 0;
	const char *why;

	if (page != PAGE_4K && r->len % HUGE_SIZE)
		return sentence("%s: the size must be a multiple of 2 MiB",
				page_names[page]);
	if (page == PAGE_HUGETLB) {
		why = lacks_hugetlb(r->len);
		if (why)
			return why;
		/* A reservation would have it copied instead of shared, before 7.3. */
		flags |= MAP_HUGETLB | MAP_NORESERVE;
	}

	r->map_len = r->len + slack;
	r->map = mmap(NULL, r->map_len, PROT_READ | PROT_WRITE, flags, -1, 0);
	if (r->map == MAP_FAILED) {
		r->map = NULL;
		return sentence("mmap of %zu MiB: %s", r->map_len / MIB,
				strerror(errno));
	}
	r->addr = slack ? (char *)(((uintptr_t)r->map + slack - 1) & ~(slack - 1)) :
			  r->map;

	if (page == PAGE_4K)
		madvise(r->map, r->map_len, MADV_NOHUGEPAGE);
	else if (page == PAGE_THP && madvise(r->map, r->map_len, MADV_HUGEPAGE)) {
		region_free(r);
		return "thp: this kernel has no transparent huge pages";
	}
	return NULL;
}

const char *region_reserve(struct region *r, size_t len, enum page_kind page)
{
	*r = (struct region){ .len = len, .page = page, .node = -1 };
	return reserve_anonymous(r);
}

void region_free(struct region *r)
{
	if (r->map && r->backing)
		r->backing->free(r);
	else if (r->map)
		munmap(r->map, r->map_len);
	r->map = NULL;
}

/* Where the memory itself was unmapped, others may have mapped since. */
void region_free_slack(struct region *r)
{
	char *end = r->addr + r->len, *map_end = (char *)r->map + r->map_len;

	if (r->addr > (char *)r->map)
		munmap(r->map, r->addr - (char *)r->map);
	if (map_end > end)
		munmap(end, map_end - end);
	r->map = NULL;
}

static void write_each_page(struct region *r)
{
	size_t i;

	for (i = 0; i < r->len; i += page_size)
		*(volatile uint64_t *)(r->addr + i) = i | 1;
}

/* Bytes of the mapping around addr that are mapped by PMD, from smaps. */
static size_t huge_bytes(const char *addr)
{
	FILE *f = fopen("/proc/self/smaps", "re");
	size_t kib = 0, sum = 0;
	bool inside = false;
	uintptr_t start, end;
	char line[512];

	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", &start, &end) == 2)
			inside = start <= (uintptr_t)addr && (uintptr_t)addr < end;
		else if (inside && sscanf(line, "AnonHugePages: %zu kB", &kib) == 1)
			sum += kib * KIB;
	}
	if (f)
		fclose(f);
	return sum;
}

static const char *populate(struct region *r)
{
	place_memory(r->node);
	write_each_page(r);
	place_memory(-1);

	if (r->page == PAGE_THP && huge_bytes(r->addr) < r->len)
		return sentence("thp: only %zu of %zu MiB became huge pages; memory is fragmented or THP is off",
				huge_bytes(r->addr) / MIB, r->len / MIB);
	return place_verify(r);
}

/* By what is described in r already. */
static const char *make_described(struct region *r)
{
	const char *why = r->backing ? r->backing->reserve(r) : reserve_anonymous(r);

	if (why)
		return why;
	why = populate(r);
	if (why)
		region_free(r);
	return why;
}

const char *region_make(struct region *r, size_t len, enum page_kind page, int node)
{
	*r = (struct region){ .len = len, .page = page, .node = node };
	return make_described(r);
}

static bool is_worn(const struct region *r)
{
	/*
	 * Huge pages that were split stay so, also when MADV_DONTNEED has emptied
	 * their page tables, and copies stay on the node of whoever wrote: only a
	 * new mapping is as it was.
	 */
	return place_verify(r) ||
	       (r->page == PAGE_THP && huge_bytes(r->addr) < r->len) ||
	       (r->backing && r->backing->worn && r->backing->worn(r));
}

const char *region_restore(struct region *r)
{
	if (!r->map || is_worn(r)) {
		region_free(r);
		return make_described(r);
	}
	write_each_page(r);
	return NULL;
}

const char *region_for(struct region *r, const struct method *m)
{
	if (r->backing != m->backing)
		region_free(r);
	r->backing = m->backing;
	return region_restore(r);
}

size_t region_pages(const struct region *r)
{
	return r->len / page_size;
}

/*
 * The C library copies by "rep movsb", which emulation runs byte by byte: ten
 * times slower than the page faults around it, and nothing to compare with.
 */
static __attribute__((optimize("no-tree-loop-distribute-patterns")))
void copy_words(char *to, const char *from, size_t len)
{
	uint64_t *dst = (uint64_t *)to;
	const uint64_t *src = (const uint64_t *)from;
	size_t i;

	for (i = 0; i < len / sizeof(*dst); i++)
		dst[i] = src[i];
}

void copy_memory(char *to, const char *from, size_t len)
{
	if (env.emulated)
		copy_words(to, from, len);
	else
		memcpy(to, from, len);
}

/* Different in each page and in each of its words. */
static uint64_t word_at(size_t i, uint64_t seed)
{
	return (i + seed) * 0x9e3779b97f4a7c15ull;
}

void region_fill(char *addr, size_t len, uint64_t seed)
{
	uint64_t *p = (uint64_t *)addr;
	size_t i;

	for (i = 0; i < len / sizeof(*p); i++)
		p[i] = word_at(i, seed);
}

bool region_holds(const char *addr, size_t len, uint64_t seed)
{
	const uint64_t *p = (const uint64_t *)addr;
	size_t i;

	for (i = 0; i < len / sizeof(*p); i++)
		if (p[i] != word_at(i, seed))
			return false;
	return true;
}

const unsigned int shares[] = { 1, 10, 100 };
const unsigned int nr_shares = ARRAY_SIZE(shares);

static size_t share_step(unsigned int permille)
{
	return 1000 / permille * page_size;
}

size_t region_write_share(char *addr, size_t len, unsigned int permille, uint64_t value)
{
	size_t i, nr = 0;

	for (i = 0; i < len; i += share_step(permille), nr++)
		*(volatile uint64_t *)(addr + i) = value;
	return nr;
}

size_t region_count_share(const char *addr, size_t len, unsigned int permille,
			  uint64_t value)
{
	size_t i, nr = 0;

	for (i = 0; i < len; i += share_step(permille))
		nr += *(const volatile uint64_t *)(addr + i) == value;
	return nr;
}
