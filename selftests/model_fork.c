// SPDX-License-Identifier: GPL-2.0
/*
 * fork(2): the child has what the parent had at that moment, goes its own way,
 * and neither sees what the other does.
 */
#include <stdlib.h>
#include <sys/wait.h>

#include "model.h"

static void inherit(struct page *p)
{
	if (p->flags & DONTFORK) {
		memset(p, 0, sizeof(*p));
		return;
	}
	if (p->flags & WIPEONFORK) {
		p->val = 0;
		p->flags &= ~MAYBE_ZERO;
	}
	p->flags &= ~(LOCKED | UFFD | PINNED);
}

static bool become_child(struct world *w, uint64_t random)
{
	struct zone *z;
	unsigned int n, i;

	w->child++;
	w->relatives++;
	w->random = random;
	w->pinned = 0;
	w->start.locked = 0;
	model_uffd_forked(w);
	model_close_files(w);
	for (n = 0; (z = model_zone(w, n)); n++)
		for (i = 0; i < z->nr; i++)
			inherit(&z->page[i]);
	return model_open_files(w);
}

static void live_as_child(struct world *w, uint64_t random)
{
	unsigned int i, steps;
	bool good = become_child(w, random) && model_verify(w);

	steps = pick(w, 25);
	for (i = 0; i < steps && good; i++)
		good = model_step(w);
	good = good && model_verify(w);
	_exit(!good || w->report->taken);
}

/* We go on meanwhile. */
static bool live_as_parent(struct world *w)
{
	unsigned int i;

	for (i = pick(w, 4); i; i--)
		if (op_store(w) == FAILED || op_dup(w) == FAILED ||
		    op_protect(w) == FAILED)
			return false;
	return model_verify(w);
}

enum outcome op_fork(struct world *w)
{
	uint64_t random = next_random(&w->random) | 1;
	bool good;
	pid_t pid;
	int status;

	model_log(w, " ");
	pid = fork();
	if (!pid)
		live_as_child(w, random);
	if (pid < 0)
		return FAILED;
	w->relatives++;
	good = live_as_parent(w);
	if (waitpid(pid, &status, 0) != pid)
		return FAILED;
	w->relatives--;
	if (status) {
		model_fail(w, "the child ended with status %#x", status);
		return FAILED;
	}
	return good ? DONE : FAILED;
}
