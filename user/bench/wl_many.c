// SPDX-License-Identifier: GPL-2.0
/*
 * many: what snapshots of one region that live on cost: the next snapshot, a
 * write to a page that all of them share, and reclaim, which has to find all the
 * places where a page is mapped.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench.h"

static const unsigned int levels[] = { 0, 1, 10, 100, 1000 };

#define MOST_LIVE	1000
#define NR_WRITES	64

struct many {
	struct region *r;
	struct snap *live;
	int reclaim;		/* memory.reclaim of our control group, or -1 */
	bool reclaimed;
};

/* Needs a group below the root, root's permission, and swap. */
static int open_reclaim(void)
{
	char line[256], path[320];
	FILE *f = fopen("/proc/self/cgroup", "re");
	int fd = -1;

	while (f && fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = 0;
		if (strncmp(line, "0::", 3))
			continue;
		snprintf(path, sizeof(path), "/sys/fs/cgroup%s/memory.reclaim", line + 3);
		fd = open(path, O_WRONLY | O_CLOEXEC);
	}
	if (f)
		fclose(f);
	return fd;
}

static const char *metric_name(const char *what, unsigned int nr)
{
	return sentence("%s, %u live", what, nr);
}

static const char *make_next(struct group *g, const struct method *m, bool warm,
			     struct many *a, unsigned int nr)
{
	unsigned int i;

	for (i = 0; i < 3; i++) {
		struct snap s;
		const char *why;

		place_undisturbed(true);
		why = snap_take(&s, m, a->r);
		place_undisturbed(false);
		if (why)
			return why;
		if (!warm)
			group_add(g, metric_name("make", nr), m, UNIT_TIME, s.take_ns);
		m->drop(&s);
	}
	return NULL;
}

/* The first write to some pages, spread over the first half. */
static void write_pages(struct group *g, const struct method *m, bool warm,
			struct many *a, unsigned int nr)
{
	size_t step = region_pages(a->r) / 2 / NR_WRITES, i;

	for (i = 0; i < NR_WRITES && step; i++) {
		volatile uint64_t *word = (uint64_t *)(a->r->addr + i * step * page_size);
		uint64_t start = now_ns(), ns;

		*word = start;
		ns = now_ns() - start;
		if (!warm)
			group_add(g, metric_name("write", nr), m, UNIT_TIME, ns);
	}
}

/* The second half of the source: to no avail, unless nobody else has it. */
static void page_out(struct group *g, const struct method *m, bool warm,
		     struct many *a, unsigned int nr)
{
	size_t half = a->r->len / 2 / page_size * page_size;
	char *addr = a->r->addr + a->r->len - half;
	uint64_t start = now_ns(), ns;

	if (madvise(addr, half, MADV_PAGEOUT))
		return;
	ns = now_ns() - start;
	if (warm)
		return;
	group_add(g, metric_name("PAGEOUT", nr), m, UNIT_TIME, (double)ns / (half / page_size));
	group_add(g, metric_name("gone by it", nr), m, UNIT_PERCENT,
		  100 - 100.0 * place_present(addr, half) / (half / page_size));
}

/* Whatever the kernel chooses of our memory; time a page of the source. */
static void reclaim(struct group *g, const struct method *m, bool warm, struct many *a,
		    unsigned int nr)
{
	size_t before = place_present(a->r->addr, a->r->len), gone;
	char request[32];
	uint64_t start, ns;
	int len;

	if (a->reclaim < 0)
		return;
	len = snprintf(request, sizeof(request), "%zu", a->r->len / 2);
	start = now_ns();
	/* EAGAIN: less than that. */
	if (write(a->reclaim, request, len) != len && errno != EAGAIN)
		return;
	ns = now_ns() - start;
	gone = before - place_present(a->r->addr, a->r->len);
	if (!gone)
		return;
	a->reclaimed = true;
	if (!warm)
		group_add(g, metric_name("reclaim", nr), m, UNIT_TIME, (double)ns / gone);
}

static const char *at_level(struct group *g, const struct method *m, bool warm,
			    struct many *a, unsigned int nr)
{
	const char *why = NULL;
	unsigned int n;

	for (n = 0; n < nr && !interrupted(); n++) {
		why = snap_take(&a->live[n], m, a->r);
		if (why)
			break;
	}
	if (!why && n == nr) {
		why = make_next(g, m, warm, a, nr);
		if (nr)
			write_pages(g, m, warm, a, nr);
		page_out(g, m, warm, a, nr);
		reclaim(g, m, warm, a, nr);
	}
	while (n--)
		m->drop(&a->live[n]);
	return why;
}

static const char *many_turn(struct group *g, const struct method *m, bool warm,
			     void *arg)
{
	struct many *a = arg;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(levels) && !interrupted(); i++) {
		/* Nothing that was swapped out or copied before. */
		const char *why = i ? region_restore(a->r) : NULL;

		if (!why)
			why = at_level(g, m, warm, a, levels[i]);
		if (why)
			return why;
	}
	return NULL;
}

static void many_one(struct bench *b, size_t size)
{
	static const char *const what[] = {
		"make", "write", "PAGEOUT", "gone by it", "reclaim",
	};
	struct params p = {
		.size = size, .page = page_names[PAGE_4K],
		.src_node = place_node(0), .reader_node = -1, .writer_node = -1,
	};
	struct region r = { .len = size, .page = PAGE_4K, .node = place_node(0) };
	struct many a = { .r = &r, .reclaim = open_reclaim() };
	struct turns t = {
		.src = &r, .repeat = env.emulated ? 1 : 3, .sharing = true,
		.no_warmup = true, .fn = many_turn, .arg = &a,
	};
	char name[24];
	size_t i, k;

	if (!bench_source(b, &r, 2))
		return;
	a.live = calloc(MOST_LIVE, sizeof(*a.live));
	if (!a.live)
		die("out of memory for %u snapshots", MOST_LIVE);
	t.group = report_begin(&b->report, "many", &p, "%s of 4k pages, with many live snapshots of it",
			       size_name(size, name));
	for (i = 0; i < ARRAY_SIZE(what); i++)
		for (k = 0; k < ARRAY_SIZE(levels); k++)
			group_figure(t.group, metric_name(what[i], levels[k]), NULL,
				     i == 3 ? UNIT_PERCENT : UNIT_TIME);
	bench_turns(b, &t);
	group_note(t.group, a.reclaimed ? "write: the first to a page; PAGEOUT, reclaim: time a page" :
		   "reclaim was not measured: it needs swap, a cgroup (v2) other than the root's, and root");
	report_end(&b->report, t.group);
	if (a.reclaim >= 0)
		close(a.reclaim);
	free(a.live);
	region_free(&r);
}

static void many_run(struct bench *b)
{
	const size_t dflt = env.emulated ? 4 * MIB : 64 * MIB;
	size_t sizes[32];
	unsigned int nr = bench_sizes(b, &dflt, 1, sizes), i;

	place_bind(place_cpu_on(place_node(0), 0));
	for (i = 0; i < nr && !interrupted(); i++)
		many_one(b, sizes[i]);
}

const struct workload wl_many = {
	.name = "many",
	.help = "the next snapshot, writes and reclaim with up to 1000 live snapshots",
	.run = many_run,
};
