// SPDX-License-Identifier: GPL-2.0
/* madvise(2), with what each advice does to contents and to the mapping. */
#include "model.h"

/*
 * madvise() takes one mapping after the other: it goes on behind a hole and
 * says so at the end, and stops at the first mapping that cannot take the
 * advice. @apply does it to one page, or returns EINVAL.
 */
static enum outcome advise(struct world *w, const struct run *r, int advice,
			   int (*apply)(struct page *p, int advice))
{
	unsigned int i, done = 0;
	int want = 0, got;

	model_log(w, "%s %u+%u, advice %d", r->z->island ? "island" : "arena",
		  r->first, r->nr, advice);
	got = madvise(run_addr(r), run_len(r), advice) ? errno : 0;
	for (i = 0; i < r->nr; i++) {
		struct page *p = run_page(r, i);

		if (p->kind == HOLE) {
			want = ENOMEM;
		} else if (apply(p, advice)) {
			want = EINVAL;
			break;
		} else {
			done++;
		}
	}
	if (got != want) {
		model_fail(w, "advice %d on %u+%u: %s, not %s", advice, r->first,
			   r->nr, strerror(got), strerror(want));
		return FAILED;
	}
	return done ? DONE : REFUSED;
}

static struct run pick_advised(struct world *w, unsigned int max)
{
	return chance(w, 25) ? model_pick_any(w, max) :
	       model_pick(w, page_is_mapped, max);
}

static int apply_dontneed(struct page *p, int advice)
{
	(void)advice;
	if (p->flags & LOCKED)
		return EINVAL;
	p->val = p->kind == ANON ? 0 : model_file_value(p->off);
	p->flags &= ~(PINNED | MAYBE_ZERO | OWN);
	return 0;
}

enum outcome op_dontneed(struct world *w)
{
	struct run r = pick_advised(w, 60);

	return r.nr ? advise(w, &r, MADV_DONTNEED, apply_dontneed) : NOTHING;
}

static int apply_free(struct page *p, int advice)
{
	(void)advice;
	if (p->flags & LOCKED || p->kind != ANON)
		return EINVAL;
	if (p->val)
		p->flags |= MAYBE_ZERO;
	return 0;
}

enum outcome op_free(struct world *w)
{
	struct run r = chance(w, 20) ? pick_advised(w, 60) :
		       model_pick(w, page_is_anon, 60);

	return r.nr ? advise(w, &r, MADV_FREE, apply_free) : NOTHING;
}

static int apply_fork_advice(struct page *p, int advice)
{
	switch (advice) {
	case MADV_DONTFORK:
		p->flags |= DONTFORK;
		return 0;
	case MADV_DOFORK:
		p->flags &= ~DONTFORK;
		return 0;
	case MADV_KEEPONFORK:
		p->flags &= ~WIPEONFORK;
		return 0;
	}
	if (p->kind != ANON)
		return EINVAL;
	p->flags |= WIPEONFORK;
	return 0;
}

enum outcome op_fork_advice(struct world *w)
{
	static const int advice[] = {
		MADV_DONTFORK, MADV_DOFORK, MADV_WIPEONFORK,
		MADV_KEEPONFORK, MADV_KEEPONFORK, MADV_KEEPONFORK,
	};
	int which = advice[pick(w, sizeof(advice) / sizeof(*advice))];
	struct run r = pick_advised(w, which == MADV_KEEPONFORK ? 600 : 20);

	return r.nr ? advise(w, &r, which, apply_fork_advice) : NOTHING;
}

static int apply_mergeable(struct page *p, int advice)
{
	if (p->kind == FILE_SHARED)
		return 0;
	if (advice == MADV_MERGEABLE)
		p->flags |= MERGEABLE;
	else
		p->flags &= ~MERGEABLE;
	return 0;
}

enum outcome op_mergeable(struct world *w)
{
	struct run r = pick_advised(w, 200);

	if (!r.nr)
		return NOTHING;
	return advise(w, &r, chance(w, 60) ? MADV_MERGEABLE : MADV_UNMERGEABLE,
		      apply_mergeable);
}

static int apply_nothing(struct page *p, int advice)
{
	(void)p;
	(void)advice;
	return 0;
}

/* Changes how the kernel treats the mapping, and nothing that is seen. */
enum outcome op_advise(struct world *w)
{
	static const int advice[] = {
		MADV_RANDOM, MADV_NORMAL, MADV_SEQUENTIAL, MADV_WILLNEED,
		MADV_DONTDUMP, MADV_DODUMP, MADV_HUGEPAGE, MADV_NOHUGEPAGE,
	};
	struct run r = pick_advised(w, 100);

	if (!r.nr)
		return NOTHING;
	return advise(w, &r, advice[pick(w, sizeof(advice) / sizeof(*advice))],
		      apply_nothing);
}

static int apply_unless_locked(struct page *p, int advice)
{
	(void)advice;
	return p->flags & LOCKED ? EINVAL : 0;
}

static bool page_is_swapped(struct world *w, const struct run *r)
{
	uint64_t e[HUGE_PAGES];
	unsigned int i;

	if (r->nr > HUGE_PAGES || !model_pagemap(w, run_addr(r), e, r->nr))
		return false;
	for (i = 0; i < r->nr; i++)
		if (e[i] & MEM_PM_SWAPPED)
			return true;
	return false;
}

/* COLD as well, which the same code serves. Their effect is the kernel's. */
enum outcome op_pageout(struct world *w)
{
	int advice = chance(w, 80) ? MADV_PAGEOUT : MADV_COLD;
	struct run r = pick_advised(w, 100);
	enum outcome outcome;

	if (!r.nr)
		return NOTHING;
	outcome = advise(w, &r, advice, apply_unless_locked);
	if (outcome != DONE || advice == MADV_COLD)
		return outcome;
	return page_is_swapped(w, &r) ? DONE : REFUSED;
}

/* Works wherever all can be accessed; else it may do a part and say so. */
enum outcome op_populate(struct world *w)
{
	int advice = chance(w, 50) ? MADV_POPULATE_READ : MADV_POPULATE_WRITE;
	int prot = advice == MADV_POPULATE_READ ? PROT_READ : PROT_WRITE;
	struct run r = pick_advised(w, 100);
	bool possible = true;
	unsigned int i;
	int got;

	if (!r.nr)
		return NOTHING;
	model_log(w, "%u+%u, advice %d", r.first, r.nr, advice);
	for (i = 0; i < r.nr; i++)
		possible &= page_is_mapped(run_page(&r, i)) &&
			    run_page(&r, i)->prot & prot;
	got = madvise(run_addr(&r), run_len(&r), advice) ? errno : 0;
	if (!!got == !possible)
		return got ? REFUSED : DONE;
	model_fail(w, "populate %u+%u: %s", r.first, r.nr, strerror(got));
	return FAILED;
}

/* Of small pages that were just mapped there, or of whatever there is. */
enum outcome op_collapse(struct world *w)
{
	struct run r = model_pick_huge(w);

	if (chance(w, 50) && model_map_run(w, &r, 0, false) != DONE)
		return FAILED;
	model_log(w, "%u", r.first);
	if (madvise(run_addr(&r), run_len(&r), MADV_COLLAPSE))
		return REFUSED;
	return model_run_is_right(w, &r) ? DONE : FAILED;
}
