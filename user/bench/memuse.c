// SPDX-License-Identifier: GPL-2.0
/* What a range of memory costs, as the kernel accounts it, and faults. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "bench.h"

static FILE *open_smaps(pid_t pid)
{
	char path[64];

	if (!pid)
		return fopen("/proc/self/smaps", "re");
	snprintf(path, sizeof(path), "/proc/%d/smaps", (int)pid);
	return fopen(path, "re");
}

static void add_line(struct memuse *u, const char *line)
{
	size_t kib;

	if (sscanf(line, "Rss: %zu kB", &kib) == 1)
		u->rss += kib * KIB;
	else if (sscanf(line, "Pss: %zu kB", &kib) == 1)
		u->pss += kib * KIB;
	else if (sscanf(line, "Private_Clean: %zu kB", &kib) == 1 ||
		 sscanf(line, "Private_Dirty: %zu kB", &kib) == 1 ||
		 sscanf(line, "Private_Hugetlb: %zu kB", &kib) == 1)
		u->uss += kib * KIB;
	if (sscanf(line, "Shared_Hugetlb: %zu kB", &kib) == 1 ||
	    sscanf(line, "Private_Hugetlb: %zu kB", &kib) == 1)
		u->rss += kib * KIB;	/* not in Rss */
}

/*
 * Mappings of other things may have been merged with ours by the kernel. What
 * of them is ours smaps does not tell.
 */
bool memuse_of(pid_t pid, const char *addr, size_t len, struct memuse *u)
{
	uintptr_t from = (uintptr_t)addr, to = from + len, start, end;
	FILE *f = open_smaps(pid);
	bool inside = false, exact = true;
	char line[512];

	*u = (struct memuse){ 0 };
	if (!f)
		return false;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", &start, &end) == 2) {
			inside = start < to && end > from;
			if (inside && (start < from || end > to))
				exact = false;
		} else if (inside) {
			add_line(u, line);
		}
	}
	fclose(f);
	return exact;
}

/* Of the thread that calls. */
size_t thread_faults(void)
{
	struct rusage u;

	getrusage(RUSAGE_THREAD, &u);
	return u.ru_minflt;
}
