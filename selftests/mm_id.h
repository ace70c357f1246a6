/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What tests of large folios in one mm share: another process that reads when it
 * is told to, and swap slots that can be read in as one large folio.
 */
#ifndef COWSNAP_SELFTESTS_MM_ID_H
#define COWSNAP_SELFTESTS_MM_ID_H

#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/swap.h>
#include <sys/wait.h>

#include "kernel.h"

#define SEED		31
#define THP_DIR		"/sys/kernel/mm/transparent_hugepage/"
#define MTHP		THP_DIR "hugepages-64kB/enabled"
#define MTHP_LEN	(64UL << 10)
#define PAGES(n)	((n) * MEM_PAGE)

/* Write every other page of one side and every third of the other. */
static inline bool stay_apart(char *a, char *b, size_t len)
{
	size_t i;

	for (i = 0; i < len; i += 2 * MEM_PAGE)
		a[i + 8]++;
	for (i = 0; i < len; i += 3 * MEM_PAGE)
		b[i + 16]++;
	for (i = 0; i < len; i += 2 * MEM_PAGE)
		a[i + 8]--;
	for (i = 0; i < len; i += 3 * MEM_PAGE)
		b[i + 16]--;
	/* A store that both saw is undone twice, or not at all in between. */
	for (i = 0; i < len; i += MEM_PAGE) {
		a[i + 24] = 1;
		if (b[i + 24] == 1)
			return false;
		b[i + 24] = 2;
		if (a[i + 24] != 1)
			return false;
		a[i + 24] = 0;
		b[i + 24] = 0;
	}
	return mem_check(a, len, SEED) && mem_check(b, len, SEED);
}

static inline bool read_all(const char *p, size_t len)
{
	return mem_check(p, len, SEED);
}

/* The harness kills what fails, its children too. */
struct child {
	pid_t pid;
	int go, done;
};

/* A child that runs @fn, with the other ends of @child's pipes. */
static inline bool start(struct child *child,
			 void (*fn)(char *p, size_t len, int go, int done),
			 char *p, size_t len)
{
	int go[2], done[2];

	if (pipe(go) || pipe(done))
		return false;
	child->pid = fork();
	if (!child->pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(go[1]);
		fn(p, len, go[0], done[1]);
		_exit(0);
	}
	close(go[0]);
	close(done[1]);
	child->go = go[1];
	child->done = done[0];
	return child->pid > 0;
}

static inline void read_when_told(char *p, size_t len, int go, int done)
{
	char c;

	while (read(go, &c, 1) == 1) {
		c = read_all(p, len);
		if (write(done, &c, 1) != 1)
			break;
	}
}

/* A child that reads the range when told to, and once more says so. */
static inline bool start_child(struct child *child, char *p, size_t len)
{
	return start(child, read_when_told, p, len);
}

static inline bool child_reads(struct child *child)
{
	char ok = 0;

	return write(child->go, "", 1) == 1 && read(child->done, &ok, 1) == 1 &&
	       ok;
}

static inline bool end_child(struct child *child)
{
	int status;

	close(child->go);
	close(child->done);
	return waitpid(child->pid, &status, 0) == child->pid && !status;
}

/* The word in brackets. */
static inline void read_choice(const char *path, char *word, size_t size)
{
	char text[128] = "", *at;
	FILE *f = fopen(path, "re");

	word[0] = 0;
	if (!f)
		return;
	at = fgets(text, sizeof(text), f) ? strchr(text, '[') : NULL;
	if (at)
		snprintf(word, size, "%.*s", (int)strcspn(at + 1, "]"), at + 1);
	fclose(f);
}

/* Where a swapped-out page is, in pages, see proc_pid_pagemap(5). */
static inline uint64_t swap_slot(const void *p)
{
	return mem_pagemap(p) >> 5 & ((1ULL << 50) - 1);
}

/* A block that could be read in as one large folio. */
static inline bool is_in_row(const char *p)
{
	size_t i;

	for (i = 0; i < MTHP_LEN / MEM_PAGE; i++)
		if (!mem_swapped(p + PAGES(i)) ||
		    swap_slot(p + PAGES(i)) != swap_slot(p) + i)
			return false;
	return !(swap_slot(p) % (MTHP_LEN / MEM_PAGE));
}

/*
 * Slots come in order; where a block begins is made right from try to try: as many
 * are taken in between as the last time.
 */
struct rows {
	uint64_t slot;
	unsigned int pad;
};

static inline void pad_slots(const struct rows *rows)
{
	char *p = rows->pad ? mem_map_alone(PAGES(rows->pad)) : NULL;

	if (!p)
		return;
	mem_fill(p, PAGES(rows->pad), SEED);
	mem_pageout(p, PAGES(rows->pad));
}

/*
 * Of a swap area in use for long no slots follow each other. Not of a disk: what is
 * there has to be read.
 */
static inline void renew_swap(void)
{
	char path[32] = "";
	FILE *f = fopen("/proc/swaps", "re");

	if (f && fscanf(f, "%*[^\n] %31s", path) == 1 &&
	    !strncmp(path, "/dev/ram", 8) && !swapoff(path))
		swapon(path, 0);
	if (f)
		fclose(f);
}

/* How many blocks from @p on could be read in as a whole? */
static inline size_t count_rows(struct rows *rows, const char *p, size_t len)
{
	uint64_t slot = swap_slot(p), between = slot - rows->slot - rows->pad;
	size_t i, count = 0;

	rows->slot = slot;
	rows->pad = -(slot + between) % (MTHP_LEN / MEM_PAGE);
	for (i = 0; i < len; i += MTHP_LEN)
		count += is_in_row(p + i);
	return count;
}

#endif /* COWSNAP_SELFTESTS_MM_ID_H */
