// SPDX-License-Identifier: GPL-2.0
/*
 * One duplicate: made, checked, dropped.
 *
 * The program goes on meanwhile, and may have unmapped, written or replaced what
 * was there a moment ago. Two things hold all the same:
 *
 * - The duplicate does not change (compare_again).
 * - Before the program writes to it, a page of the source and the page of the
 *   duplicate are one (trace_pages), by their frame numbers or swap entries.
 *   Looking does not touch the source: what is not there must not come to be by
 *   our reading. Where the frames differ the page was copied, and then the bytes
 *   of such a duplicate are read.
 *
 * Nothing is read by a load instruction, whatever has become of the mapping.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "preload.h"

#define PM_FRAME	((1UL << 55) - 1)	/* or, swapped, type and offset */
#define PM_FILE		(1UL << 61)
#define PM_SWAPPED	(1UL << 62)
#define PM_PRESENT	(1UL << 63)
/* Of a swap entry; the last types are no swap, but markers and the like. */
#define PM_SWAP_TYPE	31UL
#define SWAP_TYPES	16

/* Where the kernel does not put mappings by itself, nor programs theirs. */
#define FAR		(16UL << 40)
#define FAR_LEN		(1UL << 40)

/* What the program could be made to copy while the duplicate exists. */
#define MAX_LEN		(4UL << 20)
/* Where only the whole of a mapping can be duplicated. */
#define MAX_WHOLE	(32UL << 20)

struct dup {
	struct cowsnap_remap r;
	bool file;
	/* The part looked at. */
	unsigned long window;	/* in bytes, from the start */
	unsigned int nr;	/* pages */
	/* The pages read, places in the window. */
	unsigned int nr_samples;
	unsigned int sample[SAMPLES];
};

/* Is this refusal one that the program's mappings or limits bring about? */
static bool refusal_expected(const struct preload *p, const struct cowsnap_remap *r, long err)
{
	switch (r->reason) {
	case COWSNAP_REASON_SHARED:
	case COWSNAP_REASON_PFNMAP:
	case COWSNAP_REASON_WIPEONFORK:
	case COWSNAP_REASON_SHADOW_STACK:
	case COWSNAP_REASON_SPECIAL:
	case COWSNAP_REASON_DEVICE:
	case COWSNAP_REASON_POISON:
		return err == -EOPNOTSUPP;
	case COWSNAP_REASON_FILE:
		return err == -EOPNOTSUPP && !(p->kinds & COWSNAP_KIND_FILE);
	/* A file that somebody maps with a reservation. */
	case COWSNAP_REASON_HUGETLB:
		return err == -EOPNOTSUPP && !(p->kinds & COWSNAP_KIND_HUGETLB_RESERVED);
	/* A part of a hugetlb page. */
	case COWSNAP_REASON_ALIGN:
		return err == -EINVAL && (r->src | r->dst | r->len) % HUGE;
	/* Unmapped since we looked; or full. */
	case COWSNAP_REASON_HOLE:
	case COWSNAP_REASON_NO_ROOM:
	case COWSNAP_REASON_MAP_COUNT:
	case COWSNAP_REASON_RLIMIT:
	case COWSNAP_REASON_COMMIT:
	case COWSNAP_REASON_NO_MEMORY:
	case COWSNAP_REASON_HUGETLB_POOL:
		return err == -ENOMEM;
	case COWSNAP_REASON_SIGNAL:
		return err == -EINTR;
	}
	return false;
}

static bool read_pagemap(struct preload *p, unsigned long addr, unsigned int nr, uint64_t *to)
{
	long len = nr * sizeof(*to);

	return sys(pread64, p->pagemap, to, len, addr / PAGE * sizeof(*to)) == len;
}

static bool read_page(struct preload *p, unsigned long addr, void *to)
{
	return sys(pread64, p->mem, to, PAGE, addr) == (long)PAGE;
}

static bool has_frame(uint64_t entry)
{
	return (entry & PM_PRESENT) && (entry & PM_FRAME);
}

static bool is_swapped(uint64_t entry)
{
	return (entry & PM_SWAPPED) && (entry & PM_SWAP_TYPE) < SWAP_TYPES;
}

/* Both in swap, and in one place. */
static bool same_slot(uint64_t a, uint64_t b)
{
	return is_swapped(a) && is_swapped(b) && (a & PM_FRAME) == (b & PM_FRAME);
}

/* Both present and the same frame. */
static bool same_frame(uint64_t a, uint64_t b)
{
	return has_frame(a) && has_frame(b) && (a & PM_FRAME) == (b & PM_FRAME);
}

static void drop(struct preload *p, const struct cowsnap_remap *r)
{
	long err = sys(munmap, r->dst, r->len);

	if (err)
		fail(p, "the duplicate cannot be unmapped", r->dst, err);
}

/* Returns whether there is a duplicate now. */
static bool duplicate(struct preload *p, struct cowsnap_remap *r)
{
	long err;

	r->size = sizeof(*r);
	/* Mostly congruent, so that huge pages are shared whole. */
	r->dst = FAR + random_below(p, FAR_LEN / HUGE) * HUGE + r->src % HUGE;
	if (p->split && !random_below(p, 8))
		r->dst += PAGE;
	count(&p->counts->tried, 1);
	err = sys(ioctl, p->device, COWSNAP_REMAP, r);
	if (!err) {
		/* A child born meanwhile is to have nothing of it. */
		sys(madvise, r->dst, r->len, MADV_DONTFORK);
		count(&p->counts->made, 1);
		count(&p->counts->shared, r->shared);
		count(&p->counts->copied, r->copied);
		count(&p->counts->holes, !!(r->flags & COWSNAP_REMAP_HOLES));
		count(&p->counts->readonly, !!(r->flags & COWSNAP_REMAP_READONLY));
		return true;
	}
	if (!refusal_expected(p, r, err))
		fail(p, "refused for a reason that should not arise, errno and reason",
		     r->fault_addr, -err << 16 | r->reason);
	count(&p->counts->refused, 1);
	count(&p->counts->reason[r->reason % COUNT_REASONS], 1);
	return false;
}

/* What the program has not got must not come to be by our reading it. */
static bool read_present(struct preload *p, unsigned long addr, void *to)
{
	uint64_t entry;

	return read_pagemap(p, addr, 1, &entry) && (entry & PM_PRESENT) &&
	       read_page(p, addr, to);
}

/*
 * Are the bytes at @offset of the source those of a duplicate of it, made as @d
 * was? Some program may write back and forth just when it suits: only a page that
 * differs each time while the source is the same before and after counts.
 */
static void verify_page(struct preload *p, const struct dup *d, unsigned long offset)
{
	void *before = p->page[0], *dup = p->page[1], *after = p->page[2];
	unsigned long addr = d->r.src + offset;
	struct cowsnap_remap r;
	int i, differs = 0;
	bool good;

	for (i = 0; i < 40; i++) {
		r = (struct cowsnap_remap){
			.src = d->r.src, .len = d->r.len, .flags = d->r.flags,
		};
		if (!read_present(p, addr, before) || !duplicate(p, &r))
			return;
		good = read_page(p, r.dst + offset, dup);
		drop(p, &r);
		if (!good || !read_present(p, addr, after))
			return;
		if (memcmp(before, after, PAGE))
			continue;
		if (!memcmp(before, dup, PAGE)) {
			count(&p->counts->verified, 1);
			return;
		}
		differs++;
	}
	if (differs > 30)
		fail(p, "the duplicate is not what the source holds", addr, differs);
}

/*
 * The page of the duplicate is the source's as it was before the call, or as it
 * is after it. Otherwise it was copied; look at some of those closely. What stays
 * in swap may have been read in for the duplicate, but cannot be missing there.
 */
static void trace_pages(struct preload *p, const struct dup *d)
{
	unsigned int i, left = 2;

	for (i = 0; i < d->nr; i++) {
		uint64_t before = p->before[i], after = p->after[i], dup = p->dup[i];
		unsigned long offset = d->window + i * PAGE;

		if (same_frame(before, dup) || same_frame(after, dup) ||
		    same_slot(before, dup) || same_slot(after, dup)) {
			count(&p->counts->traced, 1);
		} else if (same_slot(before, after)) {
			if (!(dup & PM_PRESENT) && !is_swapped(dup))
				fail(p, "a swapped page is missing in the duplicate",
				     d->r.dst + offset, 0);
		} else if (same_frame(before, after) && left && !((before | after) & PM_FILE)) {
			left--;
			verify_page(p, d, offset);
		}
	}
}

/* Is there a page to read? Of a file only those that are the mapping's own. */
static bool has_content(uint64_t entry)
{
	if (entry & PM_FILE)
		return false;
	return is_swapped(entry) || (entry & PM_PRESENT);
}

/* As many of those as we have time for, from any place on. */
static void choose_samples(struct preload *p, struct dup *d)
{
	unsigned int i, from = random_below(p, d->nr);

	d->nr_samples = 0;
	for (i = 0; i < d->nr && d->nr_samples < SAMPLES; i++)
		if (has_content(p->dup[(from + i) % d->nr]))
			d->sample[d->nr_samples++] = (from + i) % d->nr;
}

/*
 * Cutting a file short takes the pages of its private mappings, too; and what a
 * hugetlb page's owner lacks is taken from the duplicate.
 */
static bool taken_away(struct preload *p, const struct dup *d, unsigned int i)
{
	uint64_t entry;

	return d->file &&
	       (!read_pagemap(p, d->r.dst + d->window + i * PAGE, 1, &entry) ||
		!same_frame(entry, p->dup[i]));
}

static unsigned long sample_addr(const struct dup *d, unsigned int i)
{
	return d->r.dst + d->window + d->sample[i] * PAGE;
}

/* Some kernels do not let /proc/self/mem read what is mapped PROT_NONE. */
static bool read_protected(struct preload *p, unsigned long addr, void *to)
{
	return !sys(mprotect, addr, PAGE, PROT_READ) && read_page(p, addr, to);
}

/* Any change of one word changes it. */
static uint64_t sum_of(const uint64_t *page)
{
	uint64_t sum = 0;
	unsigned int i;

	for (i = 0; i < PAGE / sizeof(*page); i++)
		sum = (sum ^ page[i]) * 0x9e3779b97f4a7c15;
	return sum;
}

static void read_samples(struct preload *p, const struct dup *d, uint64_t *sum)
{
	unsigned int i;

	for (i = 0; i < d->nr_samples; i++) {
		unsigned long addr = sample_addr(d, i);

		if (!read_page(p, addr, p->page) && !read_protected(p, addr, p->page) &&
		    !taken_away(p, d, d->sample[i]))
			fail(p, "a page of the duplicate cannot be read", addr, 0);
		sum[i] = sum_of(p->page[0]);
	}
}

static void compare_again(struct preload *p, const struct dup *d)
{
	unsigned int i;

	read_samples(p, d, p->again);
	for (i = 0; i < d->nr_samples; i++) {
		if (taken_away(p, d, d->sample[i]))
			continue;
		if (p->once[i] != p->again[i])
			fail(p, "the duplicate has changed", sample_addr(d, i), 0);
		count(&p->counts->compared, 1);
	}
}

/* Did the program write while the duplicate existed? Then the check was one. */
static void count_written(struct preload *p, const struct dup *d)
{
	unsigned int i;

	if (!read_pagemap(p, d->r.src + d->window, d->nr, p->after))
		return;
	for (i = 0; i < d->nr; i++)
		if (has_frame(p->after[i]) && has_frame(p->dup[i]))
			count(&p->counts->written, !same_frame(p->after[i], p->dup[i]));
}

static void check(struct preload *p, struct dup *d)
{
	unsigned long src = d->r.src + d->window, dst = d->r.dst + d->window;

	if (!read_pagemap(p, dst, d->nr, p->dup) || !read_pagemap(p, src, d->nr, p->after))
		return;
	choose_samples(p, d);
	read_samples(p, d, p->once);
	trace_pages(p, d);
	/* Let the program write; on a busy machine it takes a while to come to that. */
	if (random_below(p, 4))
		nap(random_below(p, 20000));
	compare_again(p, d);
	count_written(p, d);
}

/* Would the duplicate come near a limit of the program's own? */
static bool limit_near(struct preload *p, unsigned long len)
{
	static const int limits[] = { RLIMIT_AS, RLIMIT_DATA };
	unsigned long size = 0;
	struct rlimit limit;
	char text[128];
	unsigned int i;
	long n;

	for (i = 0; i < 2; i++) {
		if (sys(prlimit64, 0, limits[i], NULL, &limit) || limit.rlim_cur == RLIM_INFINITY)
			continue;
		if (!size) {
			n = sys(pread64, p->statm, text, sizeof(text), 0);
			for (n = n > 0 ? 0 : -1; n >= 0 && text[n] != ' '; n++)
				size = size * 10 + text[n] - '0';
			size *= PAGE;
		}
		if (size + 2 * len > limit.rlim_cur / 2)
			return true;
	}
	return false;
}

/* No huge page is cut: neither at the start nor at the end. */
static void spare_huge_pages(const struct target *t, struct cowsnap_remap *r)
{
	unsigned long start = r->src & ~(HUGE - 1);
	unsigned long end = (r->src + r->len + HUGE - 1) & ~(HUGE - 1);

	if (start < t->start)
		start = t->start;
	if (end > t->end && !(r->flags & COWSNAP_REMAP_HOLES))
		end = t->end;
	r->src = start;
	r->len = end - start;
}

/*
 * The whole mapping, or a part of it, or with HOLES whatever follows. On a
 * kernel where duplicating takes huge pages away from the range, a part would
 * split the program's mapping in three, and mremap(2) takes only one.
 */
static bool choose_range(struct preload *p, const struct target *t, struct dup *d)
{
	unsigned long pages = (t->end - t->start) / PAGE, first = 0, nr = pages;
	unsigned long most = (p->huge_whole ? MAX_LEN : MAX_WHOLE) / PAGE;

	if (!p->huge_whole) {
		if (pages > most)
			return false;
	} else if (!random_below(p, 8)) {
		nr = 1 + random_below(p, MAX_LEN / PAGE);
		d->r.flags |= COWSNAP_REMAP_HOLES;
	} else if (pages > MAX_LEN / PAGE || !random_below(p, 2)) {
		first = random_below(p, pages);
		nr = 1 + random_below(p, pages - first);
	}
	if (nr > most)
		nr = most;
	if (!random_below(p, 4))
		d->r.flags |= COWSNAP_REMAP_READONLY;
	d->r.src = t->start + first * PAGE;
	d->r.len = nr * PAGE;
	if (!p->split)
		spare_huge_pages(t, &d->r);
	return true;
}

/* With HOLES the range may come to our own arena, and what we do there. */
static bool hits_arena(const struct preload *p, const struct cowsnap_remap *r)
{
	return r->src < p->arena_end && p->arena < r->src + r->len;
}

/* The pages that are looked at, before; then the duplicate. */
static bool look_and_duplicate(struct preload *p, const struct target *t, struct dup *d)
{
	unsigned long nr = d->r.len / PAGE;

	d->file = t->file || (d->r.flags & COWSNAP_REMAP_HOLES);
	d->nr = nr < WINDOW ? nr : WINDOW;
	d->window = random_below(p, nr - d->nr + 1) * PAGE;
	return read_pagemap(p, d->r.src + d->window, d->nr, p->before) &&
	       duplicate(p, &d->r);
}

/*
 * Of hugetlb pages only whole ones can be duplicated. The list of mappings does
 * not say which are such; the refusal does.
 */
static bool try_whole_pages(struct preload *p, const struct target *t, struct dup *d)
{
	if (d->r.reason != COWSNAP_REASON_ALIGN || (t->start | t->end) % HUGE)
		return false;
	d->r.flags &= ~COWSNAP_REMAP_HOLES;
	spare_huge_pages(t, &d->r);
	return look_and_duplicate(p, t, d);
}

void try_target(struct preload *p, const struct target *t)
{
	struct dup d = {};

	if (!choose_range(p, t, &d) || hits_arena(p, &d.r))
		return;
	if (limit_near(p, d.r.len)) {
		count(&p->counts->skipped, 1);
		return;
	}
	if (!look_and_duplicate(p, t, &d) && !try_whole_pages(p, t, &d))
		return;
	check(p, &d);
	drop(p, &d.r);
}
