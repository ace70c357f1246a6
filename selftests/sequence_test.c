// SPDX-License-Identifier: GPL-2.0
/*
 * Random sequences of everything that can be done to memory, on both sides of
 * duplications of duplications: every page holds what was stored in it.
 */
#include <stdlib.h>
#include <sys/wait.h>

#include "kernel.h"
#include "harness.h"

#define REGIONS		10
#define MAX_PAGES	24U
#define STEPS		24

/* What a page must hold: a stamp; with MAYBE_ZERO after MADV_FREE, or zero. */
#define MAYBE_ZERO	(1ULL << 63)

struct region {
	char *at;		/* NULL: not mapped */
	unsigned int nr;
	bool readonly;
	uint64_t page[MAX_PAGES];
};

struct world {
	int fd;
	uint64_t random;
	uint64_t stamp;		/* of the next store */
	struct region region[REGIONS];
	const char *op;		/* the last one, for messages */
};

static unsigned int pick(struct world *w, unsigned int n)
{
	return next_random(&w->random) % n;
}

static volatile uint64_t *words(const struct region *r, unsigned int i)
{
	return (volatile uint64_t *)(r->at + i * MEM_PAGE);
}

static bool page_is_right(const struct region *r, unsigned int i)
{
	volatile uint64_t *w = words(r, i);
	uint64_t want = r->page[i] & ~MAYBE_ZERO;
	uint64_t a = w[0], b = w[MEM_PAGE / 16], c = w[MEM_PAGE / 8 - 1];

	if (a == want && b == want && c == want)
		return true;
	return r->page[i] & MAYBE_ZERO && !(a | b | c);
}

static bool region_is_right(struct world *w, const struct region *r)
{
	unsigned int i;

	for (i = 0; r->at && i < r->nr; i++)
		if (!page_is_right(r, i)) {
			printf("# after %s: region %ld page %u is %#llx, not %#llx\n",
			       w->op, (long)(r - w->region), i,
			       (unsigned long long)words(r, i)[0],
			       (unsigned long long)r->page[i]);
			return false;
		}
	return true;
}

static bool world_is_right(struct world *w)
{
	int i;

	for (i = 0; i < REGIONS; i++)
		if (!region_is_right(w, &w->region[i]))
			return false;
	return true;
}

static void store(struct world *w, struct region *r, unsigned int i)
{
	volatile uint64_t *p = words(r, i);

	r->page[i] = w->stamp++;
	p[0] = p[MEM_PAGE / 16] = p[MEM_PAGE / 8 - 1] = r->page[i];
}

static struct region *pick_region(struct world *w, bool mapped)
{
	unsigned int i, start = pick(w, REGIONS);

	for (i = 0; i < REGIONS; i++) {
		struct region *r = &w->region[(start + i) % REGIONS];

		if (!!r->at == mapped)
			return r;
	}
	return NULL;
}

/* The operations. Each returns false when the kernel's answer is wrong. */

static bool op_map(struct world *w)
{
	struct region *r = pick_region(w, false);
	unsigned int i;

	if (!r)
		return true;
	r->nr = 1 + pick(w, MAX_PAGES);
	r->readonly = false;
	r->at = mem_map_alone(r->nr * MEM_PAGE);
	memset(r->page, 0, sizeof(r->page));
	for (i = 0; r->at && i < r->nr; i++)
		if (pick(w, 4))
			store(w, r, i);
	return r->at;
}

static bool op_dup(struct world *w)
{
	struct region *r = pick_region(w, true), *d = pick_region(w, false);
	unsigned int first, nr;

	if (!r || !d)
		return true;
	first = pick(w, 3) ? 0 : pick(w, r->nr);
	nr = pick(w, 3) ? r->nr - first : 1 + pick(w, r->nr - first);
	d->at = mem_dup(w->fd, r->at + first * MEM_PAGE, nr * MEM_PAGE);
	if (!d->at)
		return false;
	d->nr = nr;
	d->readonly = r->readonly;
	memcpy(d->page, r->page + first, nr * sizeof(*d->page));
	return true;
}

/* Over (a part of) another region, or of the same one. */
static bool op_dup_over(struct world *w)
{
	struct region *r = pick_region(w, true), *d = pick_region(w, true);
	unsigned int first, to, nr;
	struct cowsnap_remap req;

	if (!r)
		return true;
	nr = 1 + pick(w, r->nr < d->nr ? r->nr : d->nr);
	first = pick(w, r->nr - nr + 1);
	to = pick(w, d->nr - nr + 1);
	if (r == d && first < to + nr && to < first + nr)
		return true;
	if (r->readonly != d->readonly)
		return true;
	if (mem_remap(w->fd, r->at + first * MEM_PAGE, nr * MEM_PAGE,
		      d->at + to * MEM_PAGE, COWSNAP_REMAP_FIXED, &req))
		return false;
	memmove(d->page + to, r->page + first, nr * sizeof(*d->page));
	return true;
}

static bool op_store(struct world *w)
{
	struct region *r = pick_region(w, true);
	unsigned int n;

	if (!r || r->readonly)
		return true;
	for (n = 1 + pick(w, r->nr); n; n--)
		store(w, r, pick(w, r->nr));
	return true;
}

static bool op_unmap(struct world *w)
{
	struct region *r = pick_region(w, true);
	unsigned int keep;

	if (!r)
		return true;
	/* All of it, or its end. */
	keep = pick(w, 3) ? 0 : pick(w, r->nr);
	if (munmap(r->at + keep * MEM_PAGE, (r->nr - keep) * MEM_PAGE))
		return false;
	r->nr = keep;
	if (!keep)
		r->at = NULL;
	return true;
}

static bool op_move(struct world *w)
{
	struct region *r = pick_region(w, true);
	unsigned int nr, i;
	char *to;

	if (!r)
		return true;
	nr = 1 + pick(w, MAX_PAGES);
	to = mem_free_range(nr * MEM_PAGE, MEM_HUGE, pick(w, 512) * MEM_PAGE);
	to = mremap(r->at, r->nr * MEM_PAGE, nr * MEM_PAGE,
		    MREMAP_MAYMOVE | MREMAP_FIXED, to);
	/* It does not move several mappings, but cuts them off before. */
	if (to == MAP_FAILED) {
		if (nr < r->nr)
			r->nr = nr;
		return errno == EFAULT;
	}
	for (i = r->nr; i < nr; i++)
		r->page[i] = 0;
	r->nr = nr;
	r->at = to;
	return true;
}

static bool op_protect(struct world *w)
{
	struct region *r = pick_region(w, true);

	if (!r)
		return true;
	r->readonly = !r->readonly;
	return !mprotect(r->at, r->nr * MEM_PAGE,
			 r->readonly ? PROT_READ : PROT_READ | PROT_WRITE);
}

static bool op_dontneed(struct world *w)
{
	struct region *r = pick_region(w, true);
	unsigned int first, nr;

	if (!r)
		return true;
	first = pick(w, r->nr);
	nr = 1 + pick(w, r->nr - first);
	memset(r->page + first, 0, nr * sizeof(*r->page));
	/* Locked memory cannot be dropped. */
	munlock(r->at, r->nr * MEM_PAGE);
	return !madvise(r->at + first * MEM_PAGE, nr * MEM_PAGE, MADV_DONTNEED);
}

static bool op_free(struct world *w)
{
	struct region *r = pick_region(w, true);
	unsigned int i;

	if (!r)
		return true;
	for (i = 0; i < r->nr; i++)
		r->page[i] |= MAYBE_ZERO;
	munlock(r->at, r->nr * MEM_PAGE);
	return !madvise(r->at, r->nr * MEM_PAGE, MADV_FREE);
}

/* Advice that changes no content. */
static bool op_advise(struct world *w)
{
	static const int advice[] = {
		MADV_COLD, MADV_PAGEOUT, MADV_PAGEOUT, MADV_WILLNEED,
		MADV_MERGEABLE, MADV_UNMERGEABLE, MADV_DONTFORK, MADV_DOFORK,
		MADV_DONTDUMP, MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_RANDOM,
	};
	struct region *r = pick_region(w, true);
	unsigned int first, nr;

	if (!r)
		return true;
	first = pick(w, r->nr);
	nr = 1 + pick(w, r->nr - first);
	/* DONTFORK would keep the child from checking: undone at once. */
	madvise(r->at + first * MEM_PAGE, nr * MEM_PAGE,
		advice[pick(w, sizeof(advice) / sizeof(*advice))]);
	madvise(r->at, r->nr * MEM_PAGE, MADV_DOFORK);
	return true;
}

static bool op_lock(struct world *w)
{
	struct region *r = pick_region(w, true);

	if (!r)
		return true;
	mlock(r->at, r->nr * MEM_PAGE);
	if (pick(w, 2))
		munlock(r->at, r->nr * MEM_PAGE);
	return true;
}

static bool op_check(struct world *w)
{
	return world_is_right(w);
}

static bool step(struct world *w, int depth);

/* A child checks and goes on by itself; we go on meanwhile. */
static bool op_fork(struct world *w)
{
	int status, i;
	pid_t pid = fork();

	if (!pid) {
		bool good = world_is_right(w);

		for (i = 0; i < 6 && good; i++)
			good = step(w, 1);
		good = good && world_is_right(w);
		_exit(!good);
	}
	for (i = 0; i < 3; i++)
		if (!op_store(w))
			return false;
	return waitpid(pid, &status, 0) == pid && !status;
}

static const struct op {
	const char *name;
	bool (*run)(struct world *w);
	unsigned int weight;
} ops[] = {
	{ "map", op_map, 4 },
	{ "dup", op_dup, 10 },
	{ "dup over", op_dup_over, 6 },
	{ "store", op_store, 10 },
	{ "unmap", op_unmap, 4 },
	{ "move", op_move, 4 },
	{ "protect", op_protect, 3 },
	{ "dontneed", op_dontneed, 2 },
	{ "free", op_free, 2 },
	{ "advise", op_advise, 8 },
	{ "lock", op_lock, 2 },
	{ "check", op_check, 2 },
	{ "fork", op_fork, 1 },	/* last: not in the child of one */
};
#define NR_OPS	(sizeof(ops) / sizeof(*ops))

static bool step(struct world *w, int depth)
{
	unsigned int i, sum = 0, n;

	for (i = 0; i < NR_OPS - depth; i++)
		sum += ops[i].weight;
	n = pick(w, sum);
	for (i = 0; n >= ops[i].weight; i++)
		n -= ops[i].weight;
	w->op = ops[i].name;
	if (ops[i].run(w))
		return true;
	printf("# %s: %s\n", w->op, strerror(errno));
	return false;
}

/*
 * A sequence from an empty world to an empty world, in a process of its own,
 * so that nothing is left over and the kernel checks the counters at exit.
 */
static bool run_sequence(int fd, uint64_t seed)
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		static struct world w;
		bool good = true;
		int i;

		w = (struct world){ .fd = fd, .random = seed, .stamp = 1 };
		for (i = 0; i < STEPS && good; i++)
			good = step(&w, 0);
		good = good && world_is_right(&w);
		/* Half of them exit with everything still mapped. */
		for (i = 0; seed % 2 && i < REGIONS; i++)
			if (w.region[i].at)
				munmap(w.region[i].at,
				       w.region[i].nr * MEM_PAGE);
		fflush(stdout);
		_exit(!good);
	}
	return waitpid(pid, &status, 0) == pid && !status;
}

FIXTURE(sequence) {
	int fd;
};

FIXTURE_SETUP(sequence)
{
	self->fd = mem_open();
	ASSERT_LE(0, self->fd);
}

FIXTURE_TEARDOWN(sequence)
{
	close(self->fd);
}

/*
 * Any order. The seed of a sequence that fails is printed; COWSNAP_SEED is that
 * of the first one.
 */
TEST_F_TIMEOUT(sequence, random_sequences, 120)
{
	const char *env = getenv("COWSNAP_SEED");
	const char *time = getenv("COWSNAP_LIFE_SECONDS");
	uint64_t seed = env ? strtoull(env, NULL, 0) : 20240601;
	double end = seconds() + (time ? atof(time) : 4);
	unsigned int i;

	mem_write(KSM_DIR "run", "1");
	TH_LOG("first seed %lu", seed);
	for (i = 0; (seconds() < end || i < 20) && i < 100000; i++)
		if (!run_sequence(self->fd, seed + i)) {
			TH_LOG("seed %lu fails", seed + i);
			break;
		}
	mem_write(KSM_DIR "run", "0");
	TH_LOG("%u sequences of %d steps", i, STEPS);
	EXPECT_LE(seconds(), end + 60);
	EXPECT_TRUE(i >= 20 && seconds() >= end);
}
TEST_HARNESS_MAIN
