// SPDX-License-Identifier: GPL-2.0
/* Operations on mappings. */
#include "model.h"

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP	4
#endif

static const uint8_t prots[] = {
	PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE,
	PROT_READ, PROT_NONE,
};

static void log_run(struct world *w, const struct run *r, unsigned int arg)
{
	model_log(w, "%s %u+%u, %#x", r->z->island ? "island" : "arena",
		  r->first, r->nr, arg);
}

bool page_is_writable(const struct page *p)
{
	return page_is_private(p) && p->prot & PROT_WRITE;
}

void model_store_some(struct world *w, const struct run *r,
		      unsigned int percent)
{
	unsigned int i;

	for (i = 0; i < r->nr; i++)
		if (page_is_writable(run_page(r, i)) && chance(w, percent))
			model_store(w, r->z, r->first + i);
}

/* Over whatever is there. */
enum outcome model_map_run(struct world *w, const struct run *r, int flags,
			   bool huge)
{
	unsigned int prot = prots[pick(w, sizeof(prots))], i;

	/* Written first, so that what is inaccessible holds something, too. */
	log_run(w, r, prot);
	if (mmap(run_addr(r), run_len(r), PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | flags, -1, 0) ==
	    MAP_FAILED)
		return FAILED;
	run_forget(r);
	for (i = 0; i < r->nr; i++) {
		run_page(r, i)->kind = ANON;
		run_page(r, i)->prot = PROT_READ | PROT_WRITE;
	}
	/* EINVAL: a kernel without huge pages. */
	if (huge && madvise(run_addr(r), run_len(r), MADV_HUGEPAGE) &&
	    errno != EINVAL)
		return FAILED;
	model_store_some(w, r, chance(w, 20) ? 0 : 70);
	if (prot == (PROT_READ | PROT_WRITE))
		return DONE;
	if (mprotect(run_addr(r), run_len(r), prot))
		return FAILED;
	for (i = 0; i < r->nr; i++)
		run_page(r, i)->prot = prot;
	return DONE;
}

enum outcome op_map(struct world *w)
{
	struct run r = model_pick_any(w, 200);

	return model_map_run(w, &r, chance(w, 10) ? MAP_NORESERVE : 0, false);
}

/* What one huge page maps. */
struct run model_pick_huge(struct world *w)
{
	return (struct run){
		.z = &w->arena, .nr = HUGE_PAGES,
		.first = pick(w, ARENA_PAGES / HUGE_PAGES) * HUGE_PAGES,
	};
}

enum outcome op_map_huge(struct world *w)
{
	struct run r = model_pick_huge(w);

	return model_map_run(w, &r, 0, true);
}

enum outcome op_map_file(struct world *w)
{
	struct run r = model_pick_any(w, 64);
	unsigned int off = pick(w, FILE_PAGES - r.nr), i;
	bool shared = chance(w, 30);

	log_run(w, &r, off);
	if (mmap(run_addr(&r), run_len(&r), PROT_READ | PROT_WRITE,
		 (shared ? MAP_SHARED : MAP_PRIVATE) | MAP_FIXED, w->file,
		 off * MEM_PAGE) == MAP_FAILED)
		return FAILED;
	run_forget(&r);
	for (i = 0; i < r.nr; i++)
		*run_page(&r, i) = (struct page){
			.kind = shared ? FILE_SHARED : FILE_PRIVATE,
			.prot = PROT_READ | PROT_WRITE,
			.off = off + i,
			.val = model_file_value(off + i),
		};
	model_store_some(w, &r, 40);
	return DONE;
}

enum outcome op_unmap(struct world *w)
{
	struct run r = model_pick_any(w, 400);

	log_run(w, &r, 0);
	if (munmap(run_addr(&r), run_len(&r)))
		return FAILED;
	run_forget(&r);
	return DONE;
}

/* Up to the first hole, if there is one. */
enum outcome op_protect(struct world *w)
{
	struct run r = chance(w, 20) ? model_pick_any(w, 100) :
		       model_pick(w, page_is_mapped, 100);
	unsigned int prot = prots[pick(w, sizeof(prots))], i, nr;

	if (!r.nr)
		return NOTHING;
	log_run(w, &r, prot);
	nr = run_first_hole(&r);
	if (mprotect(run_addr(&r), run_len(&r), prot)) {
		if (nr == r.nr || errno != ENOMEM)
			return FAILED;
	} else if (nr < r.nr) {
		model_fail(w, "a hole at %u went unnoticed", nr);
		return FAILED;
	}
	for (i = 0; i < nr; i++)
		run_page(&r, i)->prot = prot;
	return nr ? DONE : REFUSED;
}

/* mremap(2): of pages of one mapping, as the kernel divides them. */
static struct run pick_mapping(struct world *w, unsigned int max)
{
	struct run r = model_pick_zone(w, &w->arena, page_is_mapped, max);
	struct map_entry e;
	unsigned int last;

	if (!r.nr)
		return r;
	if (!maps_find(run_addr(&r), &e)) {
		model_fail(w, "nothing is mapped at %u", r.first);
		r.nr = 0;
		return r;
	}
	last = (e.end - (uintptr_t)run_addr(&r)) / MEM_PAGE;
	if (r.nr > last)
		r.nr = last;
	return r;
}

/* Room of @nr pages in the arena that is not part of @r. */
static bool pick_target(struct world *w, const struct run *r, unsigned int nr,
			struct run *to)
{
	int tries;

	*to = (struct run){ .z = &w->arena, .nr = nr };
	for (tries = 0; tries < 8; tries++) {
		to->first = pick(w, ARENA_PAGES - nr + 1);
		if (to->first + nr <= r->first || to->first >= r->first + r->nr)
			return true;
	}
	return false;
}

/* As mremap does: no userfaultfd registration without EVENT_REMAP. */
static void move_pages_of(const struct run *from, const struct run *to)
{
	unsigned int i, nr = from->nr < to->nr ? from->nr : to->nr;

	memcpy(run_page(to, 0), run_page(from, 0), nr * sizeof(struct page));
	for (i = nr; i < to->nr; i++) {
		*run_page(to, i) = *run_page(from, nr - 1);
		run_page(to, i)->val = 0;
		run_page(to, i)->flags &= ~(PINNED | MAYBE_ZERO);
	}
	for (i = 0; i < to->nr; i++)
		run_page(to, i)->flags &= ~UFFD;
}

static bool remap(struct world *w, const struct run *from, const struct run *to,
		  int flags)
{
	void *at;

	model_log(w, "%u+%u to %u+%u", from->first, from->nr, to->first,
		  to->nr);
	at = mremap(run_addr(from), run_len(from), run_len(to),
		    MREMAP_MAYMOVE | MREMAP_FIXED | flags, run_addr(to));
	return at == run_addr(to);
}

enum outcome op_move(struct world *w)
{
	struct run r = pick_mapping(w, 100), to;

	if (!r.nr || !pick_target(w, &r, r.nr, &to))
		return NOTHING;
	if (!remap(w, &r, &to, 0))
		return FAILED;
	move_pages_of(&r, &to);
	run_forget(&r);
	return DONE;
}

/* Shorter where it is, or longer elsewhere. */
enum outcome op_resize(struct world *w)
{
	struct run r = pick_mapping(w, 100), to, rest;

	if (!r.nr)
		return NOTHING;
	if (chance(w, 50)) {
		rest = r;
		rest.nr = pick(w, r.nr);
		rest.first = r.first + r.nr - rest.nr;
		log_run(w, &r, rest.nr);
		if (mremap(run_addr(&r), run_len(&r), run_len(&r) - run_len(&rest),
			   0) != run_addr(&r))
			return FAILED;
		run_forget(&rest);
		return DONE;
	}
	if (run_page(&r, 0)->kind != ANON ||
	    !pick_target(w, &r, r.nr + 1 + pick(w, 30), &to))
		return NOTHING;
	if (!remap(w, &r, &to, 0))
		return FAILED;
	move_pages_of(&r, &to);
	run_forget(&r);
	return DONE;
}

bool page_is_locked(const struct page *p)
{
	return p->flags & LOCKED;
}

/* The pages go, the mapping stays behind, empty. Locked ones: see do_mremap. */
enum outcome op_move_away(struct world *w)
{
	struct run r = pick_mapping(w, 100), to;
	unsigned int i;

	if (!r.nr || run_has(&r, page_is_locked) ||
	    !pick_target(w, &r, r.nr, &to))
		return NOTHING;
	if (!remap(w, &r, &to, MREMAP_DONTUNMAP))
		return FAILED;
	move_pages_of(&r, &to);
	for (i = 0; i < r.nr; i++) {
		struct page *p = run_page(&r, i);

		p->val = p->kind == ANON ? 0 : model_file_value(p->off);
		p->flags &= ~(PINNED | MAYBE_ZERO | OWN);
	}
	return DONE;
}

/* Locked up to the first hole; what is inaccessible cannot be brought in. */
enum outcome op_lock(struct world *w)
{
	struct run r = model_pick(w, page_is_mapped, 32);
	bool inaccessible = false;
	unsigned int i;

	if (!r.nr)
		return NOTHING;
	log_run(w, &r, 0);
	for (i = 0; i < r.nr; i++)
		inaccessible |= !run_page(&r, i)->prot;
	if (mlock(run_addr(&r), run_len(&r)) &&
	    !(inaccessible && errno == ENOMEM))
		return FAILED;
	for (i = 0; i < r.nr; i++)
		run_page(&r, i)->flags |= LOCKED;
	return DONE;
}

enum outcome op_unlock(struct world *w)
{
	struct run r = model_pick(w, page_is_locked, 200);
	unsigned int i;

	if (!r.nr)
		return NOTHING;
	log_run(w, &r, 0);
	if (munlock(run_addr(&r), run_len(&r)))
		return FAILED;
	for (i = 0; i < r.nr; i++)
		run_page(&r, i)->flags &= ~LOCKED;
	return DONE;
}

enum outcome op_store(struct world *w)
{
	struct run r = model_pick(w, page_is_writable, 100);

	if (!r.nr)
		return NOTHING;
	log_run(w, &r, 0);
	model_store_some(w, &r, chance(w, 50) ? 100 : 40);
	return model_run_is_right(w, &r) ? DONE : FAILED;
}

enum outcome op_load(struct world *w)
{
	struct run r = model_pick(w, page_is_mapped, 300);

	if (!r.nr)
		return NOTHING;
	log_run(w, &r, 0);
	return model_run_is_right(w, &r) ? DONE : FAILED;
}

enum outcome op_drop_island(struct world *w)
{
	struct zone *z = model_zone(w, 1 + pick(w, ISLANDS));

	if (!z)
		return NOTHING;
	model_log(w, "%ld", (long)(z - w->island));
	model_drop_island(w, z);
	return DONE;
}
