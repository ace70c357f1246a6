/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The pool of hugetlb pages: setting its size, its counters, memory of it, and
 * touching memory that may not be there. Needs root.
 */
#ifndef COWSNAP_SELFTESTS_HUGEPOOL_H
#define COWSNAP_SELFTESTS_HUGEPOOL_H

#include <setjmp.h>
#include <signal.h>
#include <sys/ioctl.h>

#include "kernel.h"

#ifndef MAP_HUGE_SHIFT
#define MAP_HUGE_SHIFT	26
#endif
#ifndef MFD_HUGETLB
#define MFD_HUGETLB	4U
#endif

#define POOL		12	/* pages */

struct pool {
	long total;
	long free;
	long reserved;
	long surplus;
};

static inline void pool_path(char *path, size_t n, size_t size, const char *name)
{
	snprintf(path, n, "/sys/kernel/mm/hugepages/hugepages-%zukB/%s",
		 size >> 10, name);
}

static inline long pool_value(size_t size, const char *name)
{
	char path[128];

	pool_path(path, sizeof(path), size, name);
	return mem_read_long(path);
}

static inline bool pool_write(size_t size, const char *name, long nr)
{
	char path[128], text[24];

	pool_path(path, sizeof(path), size, name);
	snprintf(text, sizeof(text), "%ld", nr);
	mem_write(path, text);
	return mem_read_long(path) == nr;
}

/* Pages that are in use stay, as surplus ones. */
static inline bool pool_set(size_t size, long nr)
{
	return pool_write(size, "nr_hugepages", nr);
}

/* So many pages are made when none is free, and go when they are not used. */
static inline bool pool_overcommit(size_t size, long nr)
{
	return pool_write(size, "nr_overcommit_hugepages", nr);
}

static inline struct pool pool_read(size_t size)
{
	return (struct pool) {
		.total = pool_value(size, "nr_hugepages"),
		.free = pool_value(size, "free_hugepages"),
		.reserved = pool_value(size, "resv_hugepages"),
		.surplus = pool_value(size, "surplus_hugepages"),
	};
}

static inline bool pool_has(size_t size, long free, long reserved, long surplus)
{
	struct pool p = pool_read(size);

	if (p.free == free && p.reserved == reserved && p.surplus == surplus)
		return true;
	fprintf(stderr, "# %ld free, %ld reserved, %ld surplus; not %ld, %ld, %ld\n",
		p.free, p.reserved, p.surplus, free, reserved, surplus);
	return false;
}

static inline bool pool_is(size_t size, long free, long reserved)
{
	return pool_has(size, free, reserved, 0);
}

/* Leave no page that is free. */
static inline bool pool_exhaust(size_t size)
{
	struct pool p = pool_read(size);

	return pool_set(size, p.total - p.free + p.reserved);
}

static inline long hugetlb_rss(void)
{
	FILE *f = fopen("/proc/self/status", "re");
	char line[128];
	long kb = -1;

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "HugetlbPages: %ld", &kb) == 1)
			break;
	if (f)
		fclose(f);
	return kb;
}

/* Touching memory that may not be there */

static sigjmp_buf bus;

static inline void on_bus(int sig)
{
	siglongjmp(bus, sig);
}

static inline bool is_bus(char *p, bool write)
{
	struct sigaction act = { .sa_handler = on_bus }, old;
	volatile char *at = p;
	bool hit = true;

	sigaction(SIGBUS, &act, &old);
	if (!sigsetjmp(bus, 1)) {
		if (write)
			*at = *at;
		else
			(void)*at;
		hit = false;
	}
	sigaction(SIGBUS, &old, NULL);
	return hit;
}

static inline unsigned int kinds(int fd)
{
	struct cowsnap_query q = { .size = sizeof(q) };

	return ioctl(fd, COWSNAP_QUERY, &q) ? 0 : q.kinds;
}

/* Contents: of each page some 32 KiB at both ends. */
#define PATCH	(8 * MEM_PAGE)

static inline void fill_page(char *p, size_t size, unsigned int seed)
{
	mem_fill(p, PATCH, seed);
	mem_fill(p + size - PATCH, PATCH, seed + 1);
}

static inline bool check_page(char *p, size_t size, unsigned int seed)
{
	return mem_check(p, PATCH, seed) &&
	       mem_check(p + size - PATCH, PATCH, seed + 1);
}

static inline char *map_pages(size_t size, int nr, int flags)
{
	char *p = mmap(NULL, nr * size, PROT_READ | PROT_WRITE, MAP_PRIVATE |
		       MAP_ANONYMOUS | MAP_HUGETLB | flags |
		       __builtin_ctzl(size) << MAP_HUGE_SHIFT, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

#endif /* COWSNAP_SELFTESTS_HUGEPOOL_H */
