// SPDX-License-Identifier: GPL-2.0
/* Steps: REMAP, stores by all who store, changes of mappings, fork. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "large.h"

#define PMD_PAGES	(MEM_HUGE / MEM_PAGE)

/* REMAP */

static bool has_hole(const struct large_view *v, size_t start, size_t nr)
{
	size_t i;

	for (i = start; i < start + nr; i++)
		if (v->page[i].flags & PAGE_HOLE)
			return true;
	return false;
}

/* @to[i] is a duplicate of @from[i] now. */
static void copy_pages(struct large_page *to, const struct large_page *from,
		       size_t nr, unsigned int flags)
{
	size_t i;

	for (i = 0; i < nr; i++) {
		to[i] = from[i];
		to[i].pin = 0;
		to[i].flags &= ~PAGE_LOCKED;
		if (flags & COWSNAP_REMAP_READONLY)
			to[i].flags |= PAGE_READONLY;
	}
}

static void count_remap(struct large_seq *s, struct large_view *v,
			const struct cowsnap_remap *r)
{
	s->stats->shared += r->shared;
	s->stats->copied += r->copied;
	s->stats->twice += ++v->dups > 1;
	s->stats->of_duplicate += v->depth > 0;
}

enum { WHOLE, PART, FIXED, SHIFTED, INCONGRUENT, BEHIND, READONLY };

/* Of the step's run in @v to @dst, into a view of its own. */
static bool remap(struct large_seq *s, struct large_step *st,
		  struct large_view *v, char *dst, unsigned int flags)
{
	struct large_view *d = large_new_view(s, v);
	struct cowsnap_remap r;
	int err;

	if (has_hole(v, st->start, st->nr))
		flags |= COWSNAP_REMAP_HOLES;
	err = mem_remap(s->fd, large_at(v, st->start), st->nr * MEM_PAGE, dst,
			flags, &r);
	if (err == -EEXIST && st->arg == BEHIND)
		return false;
	if (err) {
		large_fail(s, "REMAP: %s, reason %u at %#llx", strerror(-err),
			   r.reason, (unsigned long long)r.fault_addr);
		return false;
	}
	d->base = (char *)(uintptr_t)r.dst;
	d->nr = st->nr;
	d->depth = v->depth + 1;
	d->dups = 0;
	copy_pages(d->page, v->page + st->start, st->nr, flags);
	count_remap(s, v, &r);
	large_verify(s);
	return r.shared;
}

/* Where the duplicate goes, or NULL for wherever the kernel likes. */
static char *choose_dst(struct large_seq *s, const struct large_step *st,
			const struct large_view *v)
{
	size_t at = (uintptr_t)large_at(v, st->start) / MEM_PAGE % PMD_PAGES;
	size_t folio = s->env->size / MEM_PAGE;

	switch (st->arg) {
	case FIXED:
		return large_place(s, at);
	case SHIFTED:	/* congruent to the folio's size, not to a PMD's */
		return large_place(s, (at + folio * (1 + large_pick(s, 7))) %
				      PMD_PAGES);
	case INCONGRUENT:
		return large_place(s, (at + 1 + large_pick(s, PMD_PAGES - 1)) %
				      PMD_PAGES);
	case BEHIND:	/* perhaps in the same page table */
		return large_at(v, v->nr + large_pick(s, 3));
	}
	return NULL;
}

static bool op_remap(struct large_seq *s, struct large_step *st)
{
	bool part = st->arg == PART || st->arg >= SHIFTED;
	struct large_view *v;
	char *dst;

	if (part && large_pick(s, 2))
		v = large_pick_run(s, st, LARGE_PAGES, PAGE_HOLE);
	else
		v = large_pick_view(s, st);
	if (!v)
		return false;
	dst = choose_dst(s, st, v);
	return remap(s, st, v, dst,
		     (dst ? COWSNAP_REMAP_FIXED_NOREPLACE : 0) |
		     (st->arg == READONLY ? COWSNAP_REMAP_READONLY : 0));
}

/* Over another view, as a rollback by hand. */
static bool op_remap_over(struct large_seq *s, struct large_step *st)
{
	struct large_view *v = large_pick_run(s, st, LARGE_PAGES, PAGE_HOLE);
	struct large_view *d = &s->view[large_pick(s, LARGE_VIEWS)];
	struct cowsnap_remap r;
	size_t at, i;
	int err;

	if (!v || d == v || d->nr < st->nr)
		return false;
	at = large_pick(s, 2) ? st->start : large_pick(s, d->nr);
	if (at > d->nr - st->nr)
		at = 0;
	st->arg = (unsigned long)(d - s->view) << 16 | at;
	err = mem_remap(s->fd, large_at(v, st->start), st->nr * MEM_PAGE,
			large_at(d, at), COWSNAP_REMAP_FIXED, &r);
	if (err) {
		large_fail(s, "REMAP over %p: %s, reason %u",
			   (void *)large_at(d, at), strerror(-err), r.reason);
		return false;
	}
	for (i = 0; i < st->nr; i++)
		copy_pages(&d->page[at + i], &v->page[st->start + i], 1, 0);
	count_remap(s, v, &r);
	large_verify(s);
	return r.shared;
}

/* stores */

enum { STORE, WRITEV, READ, FORCE };

/* By the kernel: through GUP, by copy_to_user, or as a debugger does. */
static bool write_page(struct large_seq *s, struct large_view *v, size_t i,
		       unsigned long how)
{
	uint64_t words[LARGE_WORDS];
	struct iovec local[LARGE_WORDS], remote[LARGE_WORDS];
	ssize_t got = -1;
	unsigned int w;
	int fd;

	for (w = 0; w < LARGE_WORDS; w++) {
		words[w] = large_word(v->page[i].stamp, w);
		local[w] = (struct iovec){ &words[w], sizeof(*words) };
		remote[w] = (struct iovec){ large_at(v, i) + large_offset[w],
					    sizeof(*words) };
	}
	switch (how) {
	case WRITEV:
		got = process_vm_writev(getpid(), local, LARGE_WORDS, remote,
					LARGE_WORDS, 0);
		break;
	case READ:
		if (pwrite(s->memfd, words, sizeof(words), 0) == sizeof(words))
			got = preadv(s->memfd, remote, LARGE_WORDS, 0);
		break;
	case FORCE:
		fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
		for (w = 0, got = 0; w < LARGE_WORDS; w++)
			got += pwrite(fd, &words[w], sizeof(*words),
				      (uintptr_t)remote[w].iov_base);
		close(fd);
		break;
	}
	if (got != sizeof(words))
		large_fail(s, "writing to %p gave %zd: %s",
			   (void *)large_at(v, i), got, strerror(errno));
	return got == sizeof(words);
}

static bool op_write(struct large_seq *s, struct large_step *st)
{
	bool force = st->arg == FORCE && s->env->force;
	unsigned int without = PAGE_HOLE | (force ? 0 : PAGE_READONLY);
	struct large_view *v;
	size_t i;

	v = large_pick_run(s, st, st->arg == STORE ? LARGE_PAGES : 8, without);
	if (!v)
		return false;
	for (i = st->start; i < st->start + st->nr; i++) {
		large_stamp(s, v, i);
		if (st->arg == STORE)
			large_store(v, i);
		else if (!write_page(s, v, i, st->arg))
			return false;
	}
	return large_verify(s);
}

/* One word of one page: what a lost write protection takes the least for. */
static bool op_write_few(struct large_seq *s, struct large_step *st)
{
	struct large_view *v = large_pick_view(s, st);
	size_t i, n, count = 0;

	if (!v)
		return false;
	for (n = 0; n < 4; n++) {
		i = large_pick(s, v->nr);
		if (v->page[i].flags & (PAGE_HOLE | PAGE_READONLY))
			continue;
		large_stamp(s, v, i);
		large_store(v, i);
		count++;
	}
	return large_verify(s) && count;
}

/* mappings */

static bool change_protection(struct large_view *v, struct large_step *st,
			      int prot)
{
	return !mprotect(large_at(v, st->start), st->nr * MEM_PAGE, prot);
}

static void set_flags(struct large_view *v, const struct large_step *st,
		      unsigned int clear, unsigned int set)
{
	size_t i;

	for (i = st->start; i < st->start + st->nr; i++)
		v->page[i].flags = (v->page[i].flags & ~clear) | set;
}

/* Of a part, which splits what is huge; taken back at once or left so. */
static bool op_protect(struct large_seq *s, struct large_step *st)
{
	struct large_view *v = large_pick_run(s, st, LARGE_PAGES, PAGE_HOLE);
	bool leave = st->arg == PROT_READ && large_pick(s, 2);

	if (!v)
		return false;
	if (!change_protection(v, st, st->arg) ||
	    (!leave && !change_protection(v, st, PROT_READ | PROT_WRITE))) {
		large_fail(s, "mprotect: %s", strerror(errno));
		return false;
	}
	set_flags(v, st, PAGE_READONLY, leave ? PAGE_READONLY : 0);
	return true;
}

/* Advice that does nothing but to set parts of a mapping apart. */
static bool op_advise(struct large_seq *s, struct large_step *st)
{
	struct large_view *v = large_pick_run(s, st, LARGE_PAGES, PAGE_HOLE);

	return v && !madvise(large_at(v, st->start), st->nr * MEM_PAGE, st->arg);
}

static bool op_unmap(struct large_seq *s, struct large_step *st)
{
	struct large_view *v = large_pick_run(s, st, LARGE_PAGES, PAGE_HOLE);
	size_t i;

	if (!v)
		return false;
	if (munmap(large_at(v, st->start), st->nr * MEM_PAGE)) {
		large_fail(s, "munmap: %s", strerror(errno));
		return false;
	}
	for (i = st->start; i < st->start + st->nr; i++)
		v->page[i] = (struct large_page){ .flags = PAGE_HOLE };
	for (i = 0; i < v->nr && (v->page[i].flags & PAGE_HOLE); i++)
		;
	if (i == v->nr)
		v->nr = 0;
	return true;
}

static bool op_unmap_all(struct large_seq *s, struct large_step *st)
{
	struct large_view *v = large_pick_view(s, st);
	int i, live = 0;

	for (i = 0; i < LARGE_VIEWS; i++)
		live += !!s->view[i].nr;
	if (live < 2)
		return false;
	large_drop_view(s, v);
	return true;
}

/* What mremap leaves behind. */
static void move_pages_away(struct large_view *v, const struct large_step *st,
			    unsigned int flags)
{
	struct large_page left = { .flags = PAGE_HOLE };
	size_t i;

	for (i = st->start; i < st->start + st->nr; i++) {
		if (flags & MREMAP_DONTUNMAP) {
			left.flags = v->page[i].flags & PAGE_READONLY;
			left.flags |= PAGE_UNTOUCHED;
		}
		v->page[i] = left;
	}
	for (i = 0; i < v->nr && (v->page[i].flags & PAGE_HOLE); i++)
		;
	if (i == v->nr)
		v->nr = 0;
}

/* A range of several mappings is refused: no effect. */
static bool op_move(struct large_seq *s, struct large_step *st)
{
	unsigned int flags = MREMAP_MAYMOVE | MREMAP_FIXED | st->arg;
	struct large_view *v = large_pick_run(s, st, LARGE_PAGES, PAGE_HOLE);
	struct large_view *d;
	char *dst;
	size_t at;

	if (!v)
		return false;
	at = (uintptr_t)large_at(v, st->start) / MEM_PAGE;
	at += large_pick(s, 2) ? 0 : large_pick(s, PMD_PAGES);
	dst = large_place(s, at % PMD_PAGES);
	d = large_new_view(s, v);
	if (mremap(large_at(v, st->start), st->nr * MEM_PAGE, st->nr * MEM_PAGE,
		   flags, dst) == MAP_FAILED)
		return false;
	d->base = dst;
	d->nr = st->nr;
	d->depth = v->depth;
	d->dups = v->dups;
	memcpy(d->page, v->page + st->start, st->nr * sizeof(*d->page));
	move_pages_away(v, st, st->arg);
	return large_verify(s);
}

/* Empty from now on; touched again at once or not. */
static bool op_empty(struct large_seq *s, struct large_step *st)
{
	struct large_view *v = large_pick_run(s, st, LARGE_PAGES,
					      PAGE_HOLE | PAGE_LOCKED);
	bool touch = large_pick(s, 2);
	size_t i;

	if (!v || madvise(large_at(v, st->start), st->nr * MEM_PAGE,
			  MADV_DONTNEED))
		return false;
	for (i = st->start; i < st->start + st->nr; i++) {
		v->page[i].stamp = 0;
		v->page[i].pin = 0;
		v->page[i].flags &= ~PAGE_MAYBE_ZERO;
		if (!touch)
			v->page[i].flags |= PAGE_UNTOUCHED;
	}
	return large_verify(s);
}

static bool op_free(struct large_seq *s, struct large_step *st)
{
	struct large_view *v = large_pick_run(s, st, LARGE_PAGES,
					      PAGE_HOLE | PAGE_LOCKED);

	if (!v || madvise(large_at(v, st->start), st->nr * MEM_PAGE, MADV_FREE))
		return false;
	set_flags(v, st, 0, PAGE_MAYBE_ZERO);
	return true;
}

static bool op_lock(struct large_seq *s, struct large_step *st)
{
	struct large_view *v = large_pick_run(s, st, LARGE_PAGES, PAGE_HOLE);

	if (!v)
		return false;
	/* The lock stands, also when faulting all of it in has failed. */
	set_flags(v, st, PAGE_UNTOUCHED, PAGE_LOCKED);
	s->locked = true;
	return !mlock(large_at(v, st->start), st->nr * MEM_PAGE) &&
	       large_verify(s);
}

static bool op_unlock(struct large_seq *s, struct large_step *st)
{
	struct large_view *v = large_pick_view(s, st);
	size_t i;

	for (i = 0; v && i < v->nr && !(v->page[i].flags & PAGE_LOCKED); i++)
		;
	if (!v || i == v->nr)
		return false;
	for (st->start = i; i < v->nr && (v->page[i].flags & PAGE_LOCKED); i++)
		v->page[i].flags &= ~PAGE_LOCKED;
	st->nr = i - st->start;
	return !munlock(large_at(v, st->start), st->nr * MEM_PAGE);
}

/* fork */

/* Its own memory is what it was at fork; what it does here stays its own. */
static void child_uses_memory(struct large_seq *s)
{
	unsigned int n = large_pick(s, 4);

	large_verify(s);
	while (n--)
		large_random_step(s);
	large_verify(s);
}

static void become_child(struct large_seq *s)
{
	struct large_view *v;
	size_t i;

	s->in_child = true;
	s->child = 0;
	s->pinned = NULL;
	for (v = s->view; v < s->view + LARGE_VIEWS; v++)
		for (i = 0; i < v->nr; i++) {
			v->page[i].flags &= ~PAGE_LOCKED;
			v->page[i].pin = 0;
		}
}

static void child_failed(struct large_seq *s, int status)
{
	if (status)
		large_fail(s, "a child found memory wrong or died: status %#x",
			   status);
}

enum { FORK_EXIT, FORK_USE, FORK_KEEP };

/* A child that exits at once, or uses its memory first, while we wait. */
static bool op_fork(struct large_seq *s, struct large_step *st)
{
	pid_t pid = fork();
	int status;

	if (!pid) {
		become_child(s);
		if (st->arg == FORK_USE)
			child_uses_memory(s);
		_exit(s->failed);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid) {
		large_fail(s, "fork: %s", strerror(errno));
		return false;
	}
	child_failed(s, status);
	return large_verify(s);
}

/* A child that stays, until a later step has it use its memory and exit. */
static bool op_fork_keep(struct large_seq *s, struct large_step *st)
{
	int ends[2];
	char c;

	(void)st;
	if (s->child)
		return false;
	if (pipe(ends)) {
		large_fail(s, "pipe: %s", strerror(errno));
		return false;
	}
	s->child = fork();
	if (!s->child) {
		close(ends[1]);
		become_child(s);
		/* Closed without a word: do not even look. */
		if (read(ends[0], &c, 1) == 1)
			child_uses_memory(s);
		_exit(s->failed);
	}
	close(ends[0]);
	s->child_pipe = ends[1];
	if (s->child < 0) {
		s->child = 0;
		close(ends[1]);
		large_fail(s, "fork: %s", strerror(errno));
		return false;
	}
	return true;
}

static bool end_child(struct large_seq *s, bool use)
{
	int status;

	if (!s->child)
		return false;
	if (use && write(s->child_pipe, "", 1) != 1)
		large_fail(s, "the child is gone");
	close(s->child_pipe);
	if (waitpid(s->child, &status, 0) == s->child)
		child_failed(s, status);
	s->child = 0;
	return true;
}

void large_end_child(struct large_seq *s)
{
	end_child(s, !s->failed && large_pick(s, 2));
}

static bool op_end_child(struct large_seq *s, struct large_step *st)
{
	return end_child(s, st->arg) && large_verify(s);
}

#define CHILD	(OP_MUST | OP_CHILD)

const struct large_op large_map_ops[] = {
	{ "remap whole",	op_remap,	WHOLE,		12, CHILD },
	{ "remap part",		op_remap,	PART,		6, CHILD },
	{ "remap fixed",	op_remap,	FIXED,		5, CHILD },
	{ "remap shifted",	op_remap,	SHIFTED,	5, CHILD },
	{ "remap incongruent",	op_remap,	INCONGRUENT,	6, CHILD },
	{ "remap behind",	op_remap,	BEHIND,		3, CHILD },
	{ "remap readonly",	op_remap,	READONLY,	2, CHILD },
	{ "remap over",		op_remap_over,	0,		5, CHILD | OP_RARE },
	{ "store few",		op_write_few,	0,		8, CHILD },
	{ "store",		op_write,	STORE,		6, CHILD },
	{ "process_vm_writev",	op_write,	WRITEV,		4, CHILD },
	{ "read",		op_write,	READ,		4, CHILD },
	{ "write to mem",	op_write,	FORCE,		4, CHILD },
	{ "mprotect",		op_protect,	PROT_READ,	4, CHILD },
	{ "mprotect none",	op_protect,	PROT_NONE,	2, CHILD },
	{ "advise dontdump",	op_advise,	MADV_DONTDUMP,	2, CHILD },
	{ "advise cold",	op_advise,	MADV_COLD,	2, CHILD },
	{ "advise nohuge",	op_advise,	MADV_NOHUGEPAGE, 1, CHILD },
	{ "advise huge",	op_advise,	MADV_HUGEPAGE,	2, CHILD | OP_WHOLE },
	{ "munmap",		op_unmap,	0,		4, CHILD },
	{ "munmap all",		op_unmap_all,	0,		5, CHILD },
	{ "mremap",		op_move,	0,		5, CHILD },
	{ "mremap dontunmap",	op_move,	MREMAP_DONTUNMAP, 2, CHILD },
	{ "dontneed",		op_empty,	0,		3, CHILD },
	{ "free",		op_free,	0,		3, CHILD },
	{ "mlock",		op_lock,	0,		2, CHILD },
	{ "munlock",		op_unlock,	0,		10, OP_MUST | OP_IF_LOCKED | OP_RARE },
	{ "fork exit",		op_fork,	FORK_EXIT,	1, OP_MUST },
	{ "fork use",		op_fork,	FORK_USE,	2, OP_MUST },
	{ "fork keep",		op_fork_keep,	FORK_KEEP,	3, OP_MUST | OP_IF_CHILD | OP_IF_NOT },
	{ "child exits",	op_end_child,	false,		6, OP_MUST | OP_IF_CHILD },
	{ "child uses, exits",	op_end_child,	true,		14, OP_MUST | OP_IF_CHILD },
	{ }
};
