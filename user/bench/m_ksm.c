// SPDX-License-Identifier: GPL-2.0
/*
 * Method ksm: a full copy, and then the kernel's same-page merging is to find out
 * that all of it is there twice (madvise(2) MADV_MERGEABLE; the kernel's
 * admin-guide/mm/ksm.rst). A snapshot counts as made when ksmd has merged it.
 *
 * KSM has to be on: whoever switches it on has all of the system's memory merged
 * that anybody has marked, which is not ours to decide. While a snapshot waits for
 * it ksmd is told to hurry, where that is permitted; afterwards its settings are
 * as they were.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "bench.h"

#define KSM		"/sys/kernel/mm/ksm/"

/*
 * A page is merged in the second scan that finds it unchanged; one that was on
 * its way to the lists of the page allocator meanwhile, in a later one.
 */
#define MOST_SCANS	8
/* How long a snapshot may take: nobody will want it then. */
#define PATIENCE_NS	60000000000ull

/* What the last one took. */
static double ns_a_page;

static struct setting {
	const char *path;
	const char *value;
	char old[32];		/* empty: unchanged */
} settings[] = {
	{ .path = KSM "pages_to_scan", .value = "20000" },
	{ .path = KSM "sleep_millisecs", .value = "0" },
	/* Else it loses interest in pages that were written between snapshots. */
	{ .path = KSM "smart_scan", .value = "0" },
};

static bool read_file(const char *path, char *buf, size_t len)
{
	FILE *f = fopen(path, "re");
	bool done = f && fgets(buf, len, f);

	if (f)
		fclose(f);
	buf[done ? strcspn(buf, "\n") : 0] = 0;
	return done;
}

static bool write_file(const char *path, const char *value)
{
	FILE *f = fopen(path, "we");

	return f && fputs(value, f) >= 0 && !fclose(f);
}

static void restore_settings(void)
{
	size_t i = ARRAY_SIZE(settings);

	while (i--) {
		if (settings[i].old[0])
			write_file(settings[i].path, settings[i].old);
		settings[i].old[0] = 0;
	}
}

/* Not all exist, or may be written, everywhere; it comes to the same in the end. */
static void hurry(void)
{
	static bool registered;
	size_t i;

	if (!registered)
		registered = !atexit(restore_settings);
	for (i = 0; i < ARRAY_SIZE(settings); i++) {
		struct setting *set = &settings[i];
		char old[32];

		if (read_file(set->path, old, sizeof(old)) && strcmp(old, set->value) &&
		    write_file(set->path, set->value))
			strcpy(set->old, old);
	}
}

static const char *ksm_missing(size_t len, enum page_kind page)
{
	char run[32];

	(void)page;
	if (!read_file(KSM "run", run, sizeof(run)))
		return "this kernel has no KSM";
	if (strcmp(run, "1"))
		return "KSM is off; it would be on after: echo 1 >" KSM "run";
	if (len / page_size * ns_a_page > PATIENCE_NS)
		return sentence("ksmd would need %.0f s for a snapshot of that size here",
				len / page_size * ns_a_page / 1e9);
	return memory_lacks(len, 1);
}

static unsigned long scans(void)
{
	char buf[32];

	return read_file(KSM "full_scans", buf, sizeof(buf)) ? strtoul(buf, NULL, 10) : 0;
}

/* Whatever it has not merged after so many scans, it will not. */
static const char *wait_for_merge(struct snap *s)
{
	const struct timespec moment = { .tv_nsec = 1000000 };
	uint64_t start = now_ns(), waited = 0;
	unsigned long first = scans(), seen = first, now;

	while (seen - first < MOST_SCANS) {
		if (interrupted())
			return "interrupted";
		if (waited > PATIENCE_NS)
			return sentence("ksmd had not merged the copy after %.0f s",
					waited / 1e9);
		nanosleep(&moment, NULL);
		now = scans();
		waited = now_ns() - start;
		ns_a_page = (double)waited / region_pages(s->src);
		if (now != seen && place_shared(s->src, 0, s->addr) == 1)
			break;
		seen = now;
	}
	return NULL;
}

static const char *mark_mergeable(struct snap *s)
{
	if (madvise(s->src->addr, s->src->len, MADV_MERGEABLE) ||
	    madvise(s->addr, s->src->len, MADV_MERGEABLE))
		return "the kernel refuses MADV_MERGEABLE";
	return NULL;
}

static const char *ksm_take(struct snap *s)
{
	uint64_t start = now_ns();
	const char *why = region_reserve(&s->copy, s->src->len, s->src->page);

	if (why)
		return why;
	s->addr = s->copy.addr;
	copy_memory(s->addr, s->src->addr, s->src->len);
	why = mark_mergeable(s);
	if (!why) {
		hurry();
		why = wait_for_merge(s);
		restore_settings();
	}
	s->take_ns = now_ns() - start;
	if (why)
		region_free(&s->copy);
	return why;
}

/*
 * Private anonymous memory as for others, but theirs must not be mergeable: fork
 * would have the kernel look after the child's for KSM.
 */
static const char *reserve_mergeable(struct region *r)
{
	struct region plain;
	const char *why = region_reserve(&plain, r->len, r->page);

	if (why)
		return why;
	r->addr = plain.addr;
	r->map = plain.map;
	r->map_len = plain.map_len;
	return NULL;
}

static void free_mergeable(struct region *r)
{
	munmap(r->map, r->map_len);
}

static const struct backing mergeable = {
	.reserve = reserve_mergeable,
	.free = free_mergeable,
};

const struct method method_ksm = {
	.name = "ksm",
	.help = "a full copy that ksmd merges again with its source",
	.shares = true,
	.slow = true,
	.pages = 1 << PAGE_4K | 1 << PAGE_THP,
	.why_pages = "KSM leaves it alone",
	.backing = &mergeable,
	.missing = ksm_missing,
	.take = ksm_take,
	.start = thread_start,
	.wait = thread_wait,
	.drop = copy_drop,
};
