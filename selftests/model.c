// SPDX-License-Identifier: GPL-2.0
#include <stdarg.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include "model.h"

/* Telling */

void model_log(struct world *w, const char *fmt, ...)
{
	struct report *r = w->report;
	unsigned int line = r->lines++ % LOG_LINES;
	va_list args;
	int n;

	n = snprintf(r->log[line], LOG_WIDTH, "%s%u %s ",
		     w->child ? "child " : "", w->step, w->op);
	va_start(args, fmt);
	vsnprintf(r->log[line] + n, LOG_WIDTH - n, fmt, args);
	va_end(args);
	if (w->trace)
		dprintf(2, "# [%u] %s\n", w->id, r->log[line]);
}

/* The first one counts; whoever made the world prints it. */
bool model_fail(struct world *w, const char *fmt, ...)
{
	struct report *r = w->report;
	va_list args;
	int n;

	if (atomic_exchange(&r->taken, true))
		return false;
	n = snprintf(r->text, sizeof(r->text), "seed %lu world %u step %u%s, %s: ",
		     w->seed, w->id, w->step, w->child ? " in a child" : "",
		     w->op);
	va_start(args, fmt);
	vsnprintf(r->text + n, sizeof(r->text) - n, fmt, args);
	va_end(args);
	return false;
}

/* Pages */

bool page_is_mapped(const struct page *p)
{
	return p->kind != HOLE;
}

bool page_is_hole(const struct page *p)
{
	return p->kind == HOLE;
}

bool page_is_private(const struct page *p)
{
	return p->kind == ANON || p->kind == FILE_PRIVATE;
}

bool page_is_anon(const struct page *p)
{
	return p->kind == ANON;
}

bool run_has(const struct run *r, page_filter filter)
{
	unsigned int i;

	for (i = 0; i < r->nr; i++)
		if (filter(run_page(r, i)))
			return true;
	return false;
}

unsigned int run_first_hole(const struct run *r)
{
	unsigned int i;

	for (i = 0; i < r->nr && run_page(r, i)->kind != HOLE; i++)
		;
	return i;
}

void run_forget(const struct run *r)
{
	memset(run_page(r, 0), 0, r->nr * sizeof(struct page));
}

/* Zone number @i: the arena, then the islands that exist, then NULL. */
struct zone *model_zone(struct world *w, unsigned int i)
{
	unsigned int n;

	if (!i)
		return &w->arena;
	for (n = 0; n < ISLANDS; n++)
		if (w->island[n].at && !--i)
			return &w->island[n];
	return NULL;
}

/* Lengths: mostly short, now and then as long as it may be. */
static unsigned int pick_length(struct world *w, unsigned int max)
{
	unsigned int limit = chance(w, 70) && max > 24 ? 24 : max;

	return 1 + pick(w, limit);
}

struct run model_pick_any(struct world *w, unsigned int max)
{
	struct run r = { .z = &w->arena };

	r.nr = pick_length(w, max);
	r.first = pick(w, ARENA_PAGES - r.nr + 1);
	return r;
}

struct run model_pick_zone(struct world *w, struct zone *z, page_filter filter,
			   unsigned int max)
{
	unsigned int from = pick(w, z->nr), i, want = pick_length(w, max);
	struct run r = { .z = z };

	for (i = 0; i < z->nr; i++) {
		r.first = (from + i) % z->nr;
		if (filter(&z->page[r.first]))
			break;
	}
	if (i == z->nr)
		return r;
	/* The beginning of what fits is as good as its middle. */
	while (chance(w, 90) && r.first && filter(&z->page[r.first - 1]))
		r.first--;
	while (r.nr < want && r.first + r.nr < z->nr &&
	       filter(&z->page[r.first + r.nr]))
		r.nr++;
	return r;
}

struct run model_pick(struct world *w, page_filter filter, unsigned int max)
{
	struct zone *z = model_zone(w, chance(w, 75) ? 0 : 1 + pick(w, ISLANDS));
	struct run r;

	if (z && z->island) {
		r = model_pick_zone(w, z, filter, max);
		if (r.nr)
			return r;
	}
	return model_pick_zone(w, &w->arena, filter, max);
}

/* Contents */

static const size_t words[3] = { 0, MEM_PAGE / 2, MEM_PAGE - sizeof(uint64_t) };

uint64_t model_file_value(unsigned int off)
{
	return 1ULL << 62 | off;
}

/* Some values are those of many pages, so that KSM has something to merge. */
static uint64_t new_value(struct world *w)
{
	if (chance(w, 25))
		return 1ULL << 61 | (1 + pick(w, 4));
	return (uint64_t)(w->child + 1) << 56 | (uint64_t)w->id << 44 |
	       ++w->stamp;
}

void model_store(struct world *w, const struct zone *z, unsigned int i)
{
	struct page *p = &z->page[i];
	char *at = page_addr(z, i);
	int n;

	p->val = new_value(w);
	p->flags &= ~MAYBE_ZERO;
	if (p->kind == FILE_PRIVATE)
		p->flags |= OWN;
	for (n = 0; n < 3; n++)
		*(volatile uint64_t *)(at + words[n]) = p->val;
}

/*
 * What is not readable is read by way of /proc/self/mem; where the kernel leaves
 * that to debuggers (CONFIG_PROC_MEM_FORCE_PTRACE), it is made readable for it.
 */
bool model_load(struct world *w, const struct zone *z, unsigned int i,
		uint64_t v[3])
{
	char *at = page_addr(z, i);
	int n, prot = z->page[i].prot;
	bool opened = false;

	for (n = 0; n < 3; n++) {
		if (opened || prot & PROT_READ)
			v[n] = *(volatile uint64_t *)(at + words[n]);
		else if (pread(w->mem, &v[n], sizeof(v[n]),
			       (uintptr_t)at + words[n]) == sizeof(v[n]))
			continue;
		else if (mprotect(at, MEM_PAGE, PROT_READ))
			return model_fail(w, "cannot read page %u: %m", i);
		else
			v[n] = *(volatile uint64_t *)(at + words[n]);
		opened = !(prot & PROT_READ);
	}
	if (opened && mprotect(at, MEM_PAGE, prot))
		return model_fail(w, "cannot protect page %u: %m", i);
	return true;
}

/*
 * A missing page of an inaccessible userfaultfd range: reading it through
 * /proc would have to wait for the monitor, which 6.1 cannot.
 */
static bool cannot_look(const struct page *p)
{
	return p->flags & UFFD && !(p->prot & PROT_READ) &&
	       (!p->val || p->flags & MAYBE_ZERO);
}

bool model_page_is_right(struct world *w, const struct zone *z, unsigned int i)
{
	const struct page *p = &z->page[i];
	uint64_t v[3], entry = 0;

	if (cannot_look(p))
		return true;
	if (!model_load(w, z, i, v))
		return false;
	if (v[0] == v[1] && v[1] == v[2] &&
	    (v[0] == p->val || (p->flags & MAYBE_ZERO && !v[0])))
		return true;
	model_pagemap(w, page_addr(z, i), &entry, 1);
	return model_fail(w, "%s page %u (%p, kind %u, prot %u, flags %#x, pagemap %#lx) holds %#lx %#lx %#lx, not %#lx",
			  z->island ? "island" : "arena", i,
			  (void *)page_addr(z, i), p->kind, p->prot, p->flags,
			  entry, v[0], v[1], v[2], p->val);
}

bool model_run_is_right(struct world *w, const struct run *r)
{
	unsigned int i;

	for (i = 0; i < r->nr; i++)
		if (page_is_mapped(run_page(r, i)) &&
		    !model_page_is_right(w, r->z, r->first + i))
			return false;
	w->totals->verified += r->nr;
	return true;
}

/* Islands: holes of theirs may be somebody else's by now. */
void model_drop_island(struct world *w, struct zone *z)
{
	struct run r = { .z = z };

	while (r.first < z->nr) {
		for (r.nr = 0; r.first + r.nr < z->nr &&
		     page_is_mapped(run_page(&r, r.nr)); r.nr++)
			;
		if (r.nr && munmap(run_addr(&r), run_len(&r)))
			model_fail(w, "munmap of an island: %m");
		r.first += r.nr + 1;
	}
	z->at = NULL;
}

/* Beginning and end */

bool model_open_files(struct world *w)
{
	w->mem = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	w->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	return w->mem >= 0 && w->pagemap >= 0;
}

void model_close_files(struct world *w)
{
	close(w->mem);
	close(w->pagemap);
}

/* All of it present from the start, so that it charges nothing later. */
static int make_file(void)
{
	static const char zero[MEM_PAGE];
	char data[MEM_PAGE];
	int fd = memfd_create("model", MFD_CLOEXEC);
	unsigned int i, n;

	for (i = 0; fd >= 0 && i < FILE_PAGES; i++) {
		uint64_t v = model_file_value(i);

		memcpy(data, zero, sizeof(data));
		for (n = 0; n < 3; n++)
			memcpy(data + words[n], &v, sizeof(v));
		if (write(fd, data, sizeof(data)) != sizeof(data))
			return -1;
	}
	return fd;
}

static void ask(struct world *w)
{
	struct cowsnap_query q = { .size = sizeof(q) };

	if (ioctl(w->fd, COWSNAP_QUERY, &q))
		model_fail(w, "QUERY: %m");
	w->kinds = q.kinds;
	w->huge_whole = q.huge_whole;
}

bool model_start(struct world *w)
{
	unsigned int i;

	w->op = "start";
	w->random = w->seed * 0x9e3779b97f4a7c15ULL | 1;
	w->trace = getenv("COWSNAP_TRACE");
	w->arena = (struct zone){
		.at = (char *)(ARENA_START + w->id * ARENA_STRIDE),
		.nr = ARENA_PAGES, .page = w->arena_page,
	};
	for (i = 0; i < ISLANDS; i++)
		w->island[i] = (struct zone){ .island = true,
					      .page = w->island_page[i] };
	w->file = make_file();
	if (w->file < 0 || !model_open_files(w))
		return model_fail(w, "cannot open what it takes: %m");
	ask(w);
	if (uring_open(&w->ring))
		w->ring.fd = -1;
	if (!model_uffd_start(w))
		return model_fail(w, "userfaultfd: %m");
	if (w->threads)
		return !w->report->taken;
	mem_counters(&w->start);
	w->start_account = maps_account();
	return !w->report->taken;
}

/*
 * Our own text, data and stacks come and go with the rest, and a page table
 * that an island shared with a neighbour stays for that.
 */
static void forgive(struct mem_counters *start, const struct mem_counters *end)
{
	start->rss_file = end->rss_file;
	start->rss_shmem = end->rss_shmem;
	if (labs(start->rss_anon + start->swap - end->rss_anon - end->swap) <= 64)
		start->rss_anon = end->rss_anon;
	start->swap = end->swap;
	if (labs(start->pte - end->pte) <= 16)
		start->pte = end->pte;
}

bool model_end(struct world *w)
{
	struct mem_counters end;
	unsigned int i;

	w->op = "end";
	if (w->pinned)
		uring_unpin(&w->ring);
	if (munmap(w->arena.at, ARENA_PAGES * MEM_PAGE))
		return model_fail(w, "munmap: %m");
	for (i = 0; i < ISLANDS; i++)
		if (w->island[i].at)
			model_drop_island(w, &w->island[i]);
	if (w->threads)
		goto out;
	mem_counters(&end);
	forgive(&w->start, &end);
	if (!w->alone)
		w->start.committed = end.committed;
	if (!mem_counters_equal(&w->start, &end))
		return model_fail(w, "the counters did not return");
out:
	model_uffd_stop(w);
	model_close_files(w);
	uring_close(&w->ring);
	close(w->file);
	return !w->report->taken;
}
