// SPDX-License-Identifier: GPL-2.0
/*
 * REMAP. What it answers is known before: forecast() reads the model as abi.md
 * and the header tell it to be read.
 */
#include <sys/ioctl.h>
#include <sys/resource.h>

#include "model.h"

#define FLAGS_FIXED	(COWSNAP_REMAP_FIXED | COWSNAP_REMAP_FIXED_NOREPLACE)
#define FLAGS_ALL	(FLAGS_FIXED | COWSNAP_REMAP_READONLY | \
			 COWSNAP_REMAP_HOLES)
#define ADDRESS_END	(1UL << 56)

struct answer {
	int err;		/* 0 or a positive errno */
	unsigned int reason;
	uint64_t addr;
};

static bool can_be_source(const struct page *p)
{
	return p->kind == ANON && !(p->flags & WIPEONFORK);
}

static unsigned int page_refusal(const struct world *w, const struct page *p)
{
	if (p->kind == FILE_SHARED)
		return COWSNAP_REASON_SHARED;
	if (p->flags & WIPEONFORK)
		return COWSNAP_REASON_WIPEONFORK;
	if (p->kind == FILE_PRIVATE && !(w->kinds & COWSNAP_KIND_FILE))
		return COWSNAP_REASON_FILE;
	return COWSNAP_REASON_NONE;
}

static bool overlap(const struct cowsnap_remap *r)
{
	return r->dst < r->src + r->len && r->src < r->dst + r->len;
}

static bool forecast_args(const struct cowsnap_remap *r, struct answer *a)
{
	if (r->flags & ~FLAGS_ALL)
		*a = (struct answer){ EOPNOTSUPP, COWSNAP_REASON_FLAG_UNKNOWN, 0 };
	else if ((r->flags & FLAGS_FIXED) == FLAGS_FIXED)
		*a = (struct answer){ EINVAL, COWSNAP_REASON_FLAG_CONFLICT, 0 };
	else if (r->reserved)
		*a = (struct answer){ EINVAL, COWSNAP_REASON_RESERVED, 0 };
	else if ((r->src | r->len) % MEM_PAGE)
		*a = (struct answer){ EINVAL, COWSNAP_REASON_ALIGN, r->src };
	else if (r->dst % MEM_PAGE)
		*a = (struct answer){ EINVAL, COWSNAP_REASON_ALIGN, r->dst };
	else if (!r->len)
		*a = (struct answer){ EINVAL, COWSNAP_REASON_EMPTY, r->src };
	else if (r->src >= ADDRESS_END || r->len >= ADDRESS_END - r->src)
		*a = (struct answer){ EINVAL, COWSNAP_REASON_OVERFLOW, r->src };
	else if (r->flags & FLAGS_FIXED && r->dst >= ADDRESS_END)
		*a = (struct answer){ EINVAL, COWSNAP_REASON_OVERFLOW, r->dst };
	else if (r->flags & FLAGS_FIXED && overlap(r))
		*a = (struct answer){ EINVAL, COWSNAP_REASON_OVERLAP,
				      r->src > r->dst ? r->src : r->dst };
	else
		return false;
	return true;
}

/* @to is the destination with one of the FIXED flags, or unused. */
static struct answer forecast(struct world *w, const struct cowsnap_remap *r,
			      const struct run *from, const struct run *to)
{
	struct answer a = { 0 };
	unsigned int i, reason;

	if (forecast_args(r, &a))
		return a;
	for (i = 0; i < from->nr; i++) {
		const struct page *p = run_page(from, i);
		uint64_t addr = (uintptr_t)page_addr(from->z, from->first + i);

		if (p->kind == HOLE && !(r->flags & COWSNAP_REMAP_HOLES))
			return (struct answer){ ENOMEM, COWSNAP_REASON_HOLE,
						addr };
		reason = page_refusal(w, p);
		if (reason)
			return (struct answer){ EOPNOTSUPP, reason, addr };
	}
	for (i = 0; r->flags & COWSNAP_REMAP_FIXED_NOREPLACE && i < to->nr; i++)
		if (page_is_mapped(run_page(to, i)))
			return (struct answer){
				EEXIST, COWSNAP_REASON_EXISTS,
				(uintptr_t)page_addr(to->z, to->first + i),
			};
	return a;
}

/* What there is to share before and after a call, as pagemap tells it */

struct look {
	unsigned int content;	/* pages that must have some */
	unsigned int touched;	/* pages that have */
	unsigned int pinned;
	uint64_t entry[ISLAND_PAGES];
};

static bool look_at(struct world *w, const struct run *r, struct look *l)
{
	uint64_t zero = w->zero_frame;
	unsigned int i;

	l->content = l->touched = l->pinned = 0;
	if (!model_pagemap(w, run_addr(r), l->entry, r->nr))
		return model_fail(w, "pagemap: %m");
	for (i = 0; i < r->nr; i++) {
		const struct page *p = run_page(r, i);

		if (p->kind == HOLE) {
			l->entry[i] = 0;
			continue;
		}
		l->touched += entry_has_content(l->entry[i], zero);
		l->content += p->flags & OWN ||
			      (p->kind == ANON && p->val &&
			       !(p->flags & MAYBE_ZERO));
		l->pinned += !!(p->flags & PINNED);
	}
	return true;
}

static unsigned int first_copied(const struct run *from, const struct look *src,
				 const struct look *dst)
{
	unsigned int i;

	for (i = 0; i < from->nr; i++)
		if (src->entry[i] & MEM_PM_PRESENT &&
		    entry_frame(src->entry[i]) != entry_frame(dst->entry[i]))
			break;
	return i;
}

/* "shared" and "copied" against what was there to be shared. */
static bool check_counts(struct world *w, const struct run *from,
			 const struct cowsnap_remap *r, const struct look *was,
			 const struct look *is, const struct look *dst)
{
	unsigned int most = was->touched > is->touched ? was->touched :
			    is->touched;
	uint64_t sum = r->shared + r->copied;

	w->totals->shared += r->shared;
	w->totals->copied += r->copied;
	if (sum < was->content || sum > most)
		return model_fail(w, "shared %llu and copied %llu of %u pages with content, %u touched",
				  (unsigned long long)r->shared,
				  (unsigned long long)r->copied, was->content,
				  most);
	if (r->copied < was->pinned)
		return model_fail(w, "copied %llu of %u pinned pages",
				  (unsigned long long)r->copied, was->pinned);
	/*
	 * Merged pages are copied: those of mergeable memory, of whatever shares
	 * a page with such, and of what was that and has been swapped out since.
	 * Where large folios are not shared whole they may have to be copied.
	 */
	if (r->copied && !w->merging && !w->pinned && w->huge_whole)
		return model_fail(w, "copied %llu pages, the first %u, for which there is no reason",
				  (unsigned long long)r->copied,
				  from->first + first_copied(from, is, dst));
	return true;
}

/* A pinned page stays where it is, and alone. */
static bool check_pins(struct world *w, const struct run *from,
		       const struct look *was, const struct look *src,
		       const struct look *dst)
{
	unsigned int i;

	for (i = 0; i < from->nr; i++) {
		if (!(run_page(from, i)->flags & PINNED))
			continue;
		if (entry_frame(was->entry[i]) != entry_frame(src->entry[i]))
			return model_fail(w, "pinned page %u was replaced",
					  from->first + i);
		if (entry_frame(src->entry[i]) == entry_frame(dst->entry[i]))
			return model_fail(w, "pinned page %u is shared",
					  from->first + i);
	}
	return true;
}

/* Nobody else is busy here: what was not copied is the same page, or entry. */
static bool check_sharing(struct world *w, const struct run *from,
			  const struct cowsnap_remap *r,
			  const struct look *src, const struct look *dst)
{
	const uint64_t what = ((1ULL << 55) - 1) | MEM_PM_SWAPPED |
			      MEM_PM_PRESENT;
	unsigned int i, differ = 0;

	if (!w->alone || w->merging)
		return true;
	for (i = 0; i < from->nr; i++)
		differ += entry_has_content(src->entry[i], w->zero_frame) &&
			  (src->entry[i] ^ dst->entry[i]) & what;
	if (differ <= r->copied)
		return true;
	return model_fail(w, "%u of the pages are not shared, %llu were copied",
			  differ, (unsigned long long)r->copied);
}

/*
 * What MADV_FREE had marked is either still there or gone, on both sides, and
 * stays so. Of a page that was copied this is true of the copy only.
 */
static bool settle(struct world *w, const struct run *from,
		   const struct run *to, bool copied)
{
	unsigned int i;
	uint64_t v[3];

	for (i = 0; i < from->nr; i++) {
		if (!(run_page(from, i)->flags & MAYBE_ZERO))
			continue;
		if (!model_load(w, to->z, to->first + i, v))
			return false;
		if (!v[0])
			run_page(from, i)->val = run_page(to, i)->val = 0;
		if (!v[0] || !copied)
			run_page(from, i)->flags &= ~MAYBE_ZERO;
		run_page(to, i)->flags &= ~MAYBE_ZERO;
	}
	return model_run_is_right(w, from) && model_run_is_right(w, to);
}

static void duplicate_pages(struct world *w, const struct run *from,
			    const struct run *to, unsigned int flags)
{
	unsigned int lost = LOCKED | UFFD | PINNED, i;

	if (!w->huge_whole)
		lost |= MERGEABLE;

	for (i = 0; i < from->nr; i++) {
		struct page *p = run_page(to, i);

		*p = *run_page(from, i);
		p->flags &= ~lost;
		if (flags & COWSNAP_REMAP_READONLY)
			p->prot &= ~PROT_WRITE;
	}
}

/* A new island at @addr, where nothing of ours may have been. */
static bool make_island(struct world *w, const struct run *from, uint64_t addr,
			struct run *to)
{
	unsigned int i;

	if ((addr ^ (uintptr_t)run_addr(from)) & (MEM_HUGE - 1))
		return model_fail(w, "chosen address %#lx is not congruent",
				  addr);
	for (i = 0; model_zone(w, i); i++) {
		const struct zone *z = model_zone(w, i);
		uint64_t start = (uintptr_t)z->at;

		/* In a hole of an island is nothing of ours. */
		if (z->island && run_has(&(struct run){ model_zone(w, i), 0,
							z->nr }, page_is_hole))
			continue;
		if (addr < start + z->nr * MEM_PAGE &&
		    start < addr + run_len(from))
			return model_fail(w, "chosen address %#lx is taken",
					  addr);
	}
	for (i = 0; i < ISLANDS && w->island[i].at; i++)
		;
	*to = (struct run){ &w->island[i], 0, from->nr };
	to->z->at = (char *)addr;
	to->z->nr = from->nr;
	return true;
}

static bool check_answer(struct world *w, const struct cowsnap_remap *r,
			 const struct answer *want, int err)
{
	if (err == want->err && r->reason == want->reason &&
	    r->fault_addr == want->addr)
		return true;
	return model_fail(w, "REMAP src %#llx len %#llx dst %#llx flags %#x: %s, reason %u at %#llx; not %s, reason %u at %#lx",
			  (unsigned long long)r->src, (unsigned long long)r->len,
			  (unsigned long long)r->dst, r->flags, strerror(err),
			  r->reason, (unsigned long long)r->fault_addr,
			  strerror(want->err), want->reason, want->addr);
}

/* Where the duplicate is, or false when that is a wrong place. */
static bool place(struct world *w, const struct cowsnap_remap *r,
		  uint64_t asked, const struct run *from, struct run *to)
{
	bool hint = asked && !(r->flags & FLAGS_FIXED);
	bool taken;

	if (!asked)
		return make_island(w, from, r->dst, to);
	taken = hint && (run_has(to, page_is_mapped) ||
			 (asked < r->src + r->len && r->src < asked + r->len));
	if (taken)
		return make_island(w, from, r->dst, to);
	if (r->dst != asked)
		return model_fail(w, "asked for %#lx, which is free, got %#llx",
				  asked, (unsigned long long)r->dst);
	return true;
}

static bool check_result(struct world *w, const struct cowsnap_remap *r,
			 const struct run *from, const struct run *to,
			 const struct look *was)
{
	static __thread struct look src, dst;

	if (!look_at(w, from, &src) || !look_at(w, to, &dst))
		return false;
	if (!check_counts(w, from, r, was, &src, &dst) ||
	    !check_pins(w, from, was, &src, &dst) ||
	    !check_sharing(w, from, r, &src, &dst))
		return false;
	if (!settle(w, from, to, r->copied))
		return false;
	/* A store to one side at once, while all is still write-protected. */
	if (chance(w, 50))
		model_store_some(w, chance(w, 50) ? from : to, 50);
	return model_run_is_right(w, from) && model_run_is_right(w, to);
}

/* @to.nr is 0: where the kernel likes. */
static enum outcome issue(struct world *w, const struct run *from,
			  struct run *to, unsigned int flags)
{
	static __thread struct look was;
	struct cowsnap_remap r = {
		.size = sizeof(r), .flags = flags,
		.src = (uintptr_t)run_addr(from), .len = run_len(from),
		.dst = to->nr ? (uintptr_t)run_addr(to) : 0,
	};
	struct answer want = forecast(w, &r, from, to);
	uint64_t asked = r.dst;
	int err;

	model_log(w, "%s %u+%u to %d, flags %#x",
		  from->z->island ? "island" : "arena", from->first, from->nr,
		  to->nr ? (int)to->first : -1, flags);
	if (!look_at(w, from, &was))
		return FAILED;
	err = ioctl(w->fd, COWSNAP_REMAP, &r) ? errno : 0;
	if (!check_answer(w, &r, &want, err))
		return FAILED;
	if (err)
		return REFUSED;
	if (!place(w, &r, asked, from, to))
		return FAILED;
	duplicate_pages(w, from, to, flags);
	return check_result(w, &r, from, to, &was) ? DONE : FAILED;
}

/* Picks */

static struct run pick_source(struct world *w)
{
	unsigned int n = pick(w, 100);

	if (n < 10)
		return model_pick_any(w, 100);
	if (n < 20)
		return model_pick(w, page_is_mapped, 200);
	if (n < 35)
		return model_pick_huge(w);
	if (n < 50)
		return model_pick(w, can_be_source, ISLAND_PAGES);
	if (n < 60 && w->kinds & COWSNAP_KIND_FILE)
		return model_pick(w, page_is_private, 100);
	return model_pick(w, can_be_source, 100);
}

static unsigned int pick_flags(struct world *w)
{
	return (chance(w, 20) ? COWSNAP_REMAP_READONLY : 0) |
	       (chance(w, 40) ? COWSNAP_REMAP_HOLES : 0);
}

/* @nr pages of the arena, free ones in most cases, where there are so many. */
static struct run pick_place(struct world *w, const struct run *from,
			     bool empty)
{
	struct run to = { .z = &w->arena, .nr = from->nr };
	unsigned int tries;

	for (tries = 0; tries < 30; tries++) {
		to.first = pick(w, ARENA_PAGES - to.nr + 1);
		/* A huge page is shared whole at a congruent address only. */
		if (to.nr >= HUGE_PAGES || chance(w, 25))
			to.first = (to.first & ~(HUGE_PAGES - 1)) +
				   from->first % HUGE_PAGES;
		if (to.first + to.nr > ARENA_PAGES)
			to.first = ARENA_PAGES - to.nr;
		if (!empty || !run_has(&to, page_is_mapped))
			break;
	}
	return to;
}

static void make_room_for_island(struct world *w)
{
	unsigned int i;

	for (i = 0; i < ISLANDS && w->island[i].at; i++)
		;
	if (i == ISLANDS)
		model_drop_island(w, &w->island[pick(w, ISLANDS)]);
}

/* Anywhere; with a hint; exactly there if it is free. */
enum outcome op_dup(struct world *w)
{
	struct run from, to = { .z = &w->arena };
	unsigned int flags = pick_flags(w), how = pick(w, 3);

	make_room_for_island(w);
	from = pick_source(w);
	if (!from.nr)
		return NOTHING;
	if (how)
		to = pick_place(w, &from, chance(w, 85));
	if (how == 2)
		flags |= COWSNAP_REMAP_FIXED_NOREPLACE;
	return issue(w, &from, &to, flags);
}

enum outcome op_dup_fixed(struct world *w)
{
	unsigned int flags = pick_flags(w) | COWSNAP_REMAP_FIXED;
	struct run from = pick_source(w), to;

	if (!from.nr)
		return NOTHING;
	to = pick_place(w, &from, chance(w, 30));
	return issue(w, &from, &to, flags);
}

/* Of memory that is a duplicate itself, elsewhere. */
enum outcome op_dup_island(struct world *w)
{
	struct zone *z = model_zone(w, 1 + pick(w, ISLANDS));
	struct run from, to;

	if (!z)
		return NOTHING;
	from = model_pick_zone(w, z, page_is_mapped, ISLAND_PAGES);
	if (!from.nr)
		return NOTHING;
	to = pick_place(w, &from, true);
	return issue(w, &from, &to, pick_flags(w) | COWSNAP_REMAP_FIXED);
}

/* Requests that are refused */

static void spoil(struct world *w, struct cowsnap_remap *r)
{
	switch (pick(w, 9)) {
	case 0:
		r->flags |= FLAGS_FIXED;
		break;
	case 1:
		r->flags |= 16U << pick(w, 28);
		break;
	case 2:
		r->reserved = 1 + pick(w, 100);
		break;
	case 3:
		r->src += 1 + pick(w, MEM_PAGE - 1);
		break;
	case 4:
		r->len += 1 + pick(w, MEM_PAGE - 1);
		break;
	case 5:
		r->dst += 1 + pick(w, MEM_PAGE - 1);
		break;
	case 6:
		r->len = 0;
		break;
	case 7:
		r->len = -(uint64_t)(1 + pick(w, 1000)) * MEM_PAGE;
		break;
	case 8:
		r->flags |= COWSNAP_REMAP_FIXED;
		r->dst = r->src + pick(w, 100) * MEM_PAGE;
		r->dst -= r->dst % MEM_PAGE;
		if (r->len && r->dst >= r->src + r->len)
			r->dst = r->src;
		break;
	}
}

/* One or two mistakes; the first in the order of checks is reported. */
enum outcome op_dup_wrong(struct world *w)
{
	struct run from = model_pick_any(w, 100);
	struct run to = pick_place(w, &from, true);
	struct cowsnap_remap r = {
		.size = sizeof(r), .flags = pick_flags(w),
		.src = (uintptr_t)run_addr(&from), .len = run_len(&from),
		.dst = (uintptr_t)run_addr(&to),
	};
	struct answer want;
	int err;

	spoil(w, &r);
	if (chance(w, 30))
		spoil(w, &r);
	/* Two mistakes can make one right request. */
	if (!forecast_args(&r, &want))
		return NOTHING;
	model_log(w, "src %#llx len %#llx dst %#llx flags %#x",
		  (unsigned long long)r.src, (unsigned long long)r.len,
		  (unsigned long long)r.dst, r.flags);
	err = ioctl(w->fd, COWSNAP_REMAP, &r) ? errno : 0;
	return check_answer(w, &r, &want, err) ? DONE : FAILED;
}

/* RLIMIT_AS is all used up. */
enum outcome op_dup_limit(struct world *w)
{
	struct run from = model_pick(w, can_be_source, 100);
	struct cowsnap_remap r = {
		.size = sizeof(r), .src = (uintptr_t)run_addr(&from),
		.len = run_len(&from),
	};
	struct answer want = { ENOMEM, COWSNAP_REASON_RLIMIT, r.src };
	struct rlimit was, limit;
	int err;

	if (!from.nr)
		return NOTHING;
	model_log(w, "%u+%u", from.first, from.nr);
	if (getrlimit(RLIMIT_AS, &was))
		return FAILED;
	limit = was;
	limit.rlim_cur = status_value("VmSize") << 10;
	if (setrlimit(RLIMIT_AS, &limit))
		return FAILED;
	err = ioctl(w->fd, COWSNAP_REMAP, &r) ? errno : 0;
	if (setrlimit(RLIMIT_AS, &was))
		return FAILED;
	return check_answer(w, &r, &want, err) ? DONE : FAILED;
}
