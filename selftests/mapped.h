/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Private mappings of files, and what /proc/self/maps says of them.
 */
#ifndef COWSNAP_SELFTESTS_MAPPED_H
#define COWSNAP_SELFTESTS_MAPPED_H

#include "kernel.h"

#define NR	32UL
#define LEN	(NR * MEM_PAGE)
#define OFFSET	(3 * MEM_PAGE)	/* in the file: an offset of 0 hides errors */
#define FILE_SEED	7
#define PAGE(p, i)	((p) + (i) * MEM_PAGE)

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ	22
#endif

/* The third and the fourth page of four are written. */
#define WRITTEN		(NR / 2)

static inline bool is_written(size_t i)
{
	return i & 2;
}

/* In the middle of inaccessible pages, and merged with nothing. */
static inline char *map_file(int file, size_t len, int prot, off_t offset)
{
	char *p = mem_map_alone(len);

	if (!p || mmap(p, len, prot, MAP_PRIVATE | MAP_FIXED, file,
		       offset) != p)
		return NULL;
	return p;
}

/* What maps has of the mapping of @addr behind its addresses and rights. */
static inline bool maps_line(const void *addr, char *rest, size_t size)
{
	unsigned long start, end;
	FILE *f = fopen("/proc/self/maps", "re");
	char line[512];
	bool found = false;
	int at;

	while (f && !found && fgets(line, sizeof(line), f))
		if (sscanf(line, "%lx-%lx %*s %n", &start, &end, &at) == 2 &&
		    start <= (uintptr_t)addr && (uintptr_t)addr < end) {
			snprintf(rest, size, "%s", line + at);
			found = true;
		}
	if (f)
		fclose(f);
	return found;
}

#endif /* COWSNAP_SELFTESTS_MAPPED_H */
