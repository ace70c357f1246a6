// SPDX-License-Identifier: GPL-2.0
#include "model.h"

enum needs {
	NOT_IN_CHILD = 1,
	NEEDS_SWAP = 2,
	NEEDS_NODES = 4,
	NEEDS_CGROUP = 8,
	NEEDS_RING = 16,
	OWN_PROCESS = 32,	/* it changes what all threads have */
};

static const struct op {
	const char *name;
	enum outcome (*run)(struct world *w);
	unsigned int weight;
	unsigned int needs;
} ops[] = {
	{ "map", op_map, 40, 0 },
	{ "map-huge", op_map_huge, 4, 0 },
	{ "map-file", op_map_file, 12, 0 },
	{ "unmap", op_unmap, 20, 0 },
	{ "protect", op_protect, 24, 0 },
	{ "move", op_move, 20, 0 },
	{ "resize", op_resize, 10, 0 },
	{ "move-away", op_move_away, 8, 0 },
	{ "lock", op_lock, 8, 0 },
	{ "unlock", op_unlock, 10, 0 },
	{ "store", op_store, 90, 0 },
	{ "load", op_load, 10, 0 },

	{ "dup", op_dup, 90, 0 },
	{ "dup-fixed", op_dup_fixed, 70, 0 },
	{ "dup-island", op_dup_island, 12, 0 },
	{ "drop-island", op_drop_island, 6, 0 },
	{ "dup-wrong", op_dup_wrong, 16, 0 },
	{ "dup-limit", op_dup_limit, 4, OWN_PROCESS },

	{ "dontneed", op_dontneed, 14, 0 },
	/*
	 * Not in a child: a page that was read back from a synchronous swap
	 * device is clean, and MADV_FREE on one side of a fork then loses it on
	 * the other. That is the kernel's own; REMAP closes it for duplicates.
	 */
	{ "free", op_free, 14, NOT_IN_CHILD },
	{ "fork-advice", op_fork_advice, 10, 0 },
	{ "mergeable", op_mergeable, 10, 0 },
	{ "advise", op_advise, 16, 0 },
	{ "populate", op_populate, 10, 0 },
	{ "collapse", op_collapse, 5, 0 },
	{ "pageout", op_pageout, 20, NEEDS_SWAP },

	{ "reclaim", op_reclaim, 3, NEEDS_SWAP | NEEDS_CGROUP },
	{ "migrate", op_migrate, 8, NEEDS_NODES },
	{ "policy", op_policy, 6, 0 },
	{ "pin", op_pin, 8, NEEDS_RING | NOT_IN_CHILD },
	{ "unpin", op_unpin, 8, NEEDS_RING | NOT_IN_CHILD },

	{ "uffd-register", op_uffd_register, 8, NOT_IN_CHILD },
	{ "uffd-protect", op_uffd_protect, 10, NOT_IN_CHILD },
	{ "uffd-unregister", op_uffd_unregister, 6, NOT_IN_CHILD },

	{ "fork", op_fork, 7, 0 },
};
#define NR_OPS	(sizeof(ops) / sizeof(*ops))
_Static_assert(NR_OPS <= MAX_OPS, "room in struct totals");

/* Does its being possible not depend on what the world happens to hold? */
static bool op_is_possible(const struct world *w, unsigned int i)
{
	unsigned int needs = ops[i].needs;

	if (needs & NOT_IN_CHILD && w->child)
		return false;
	if (needs & NEEDS_SWAP && !w->swap)
		return false;
	if (needs & NEEDS_NODES && w->nodes < 2)
		return false;
	if (needs & NEEDS_CGROUP && !(w->cg && w->cg->dir[0]))
		return false;
	if (needs & NEEDS_RING && w->ring.fd < 0)
		return false;
	if (needs & OWN_PROCESS && w->threads)
		return false;
	return ops[i].run != op_fork || w->child < 2;
}

unsigned int model_nr_ops(void)
{
	return NR_OPS;
}

const char *model_op_name(unsigned int i)
{
	return ops[i].name;
}

/* The weights do not depend on the machine: a seed means the same anywhere. */
bool model_step(struct world *w)
{
	unsigned int i, sum = 0, n;
	enum outcome outcome;

	for (i = 0; i < NR_OPS; i++)
		sum += ops[i].weight;
	n = pick(w, sum);
	for (i = 0; n >= ops[i].weight; i++)
		n -= ops[i].weight;
	w->step++;
	w->totals->steps++;
	if (!op_is_possible(w, i))
		return true;
	w->op = ops[i].name;
	outcome = ops[i].run(w);
	w->totals->op[i].tried += outcome == DONE || outcome == REFUSED;
	w->totals->op[i].done += outcome == DONE;
	if (outcome == FAILED)
		return model_fail(w, "%m");
	return true;
}
