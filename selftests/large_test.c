// SPDX-License-Identifier: GPL-2.0
/*
 * Large folios in every order: shared, split, moved, swapped, collapsed and
 * written on either side, in short random sequences for each size that the
 * kernel has. Nothing changes but what was written.
 *
 *	COWSNAP_LARGE_SEQUENCES		how many of each size (10000: the proof)
 *	COWSNAP_LARGE_FIRST		the seed of the first one
 *	COWSNAP_SIZE			only folios of so many kB
 *	COWSNAP_SEED			only this sequence, step by step
 */
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>

#include "harness.h"
#include "large.h"

/* Sequences where nobody says how many of each size: in all. */
#define SEQUENCES	mem_fewer(96)
#define WORKERS_MAX	4
/* Of one sequence; one takes a few hundredths on an emulated machine. */
#define SEQUENCE_SECONDS	120

/* An operation tried so often has to have had an effect. */
static unsigned long tries_enough(const struct large_op *op)
{
	return op->flags & OP_RARE ? 200 : op->flags & OP_MUST ? 20 : -1UL;
}

static unsigned long env_number(const char *name, unsigned long value)
{
	const char *text = getenv(name);

	return text && *text ? strtoul(text, NULL, 0) : value;
}

/* Which swap a sequence gets is part of it: the seed says so. */
static enum large_swap swap_of(unsigned long seed)
{
	static const enum large_swap kinds[4] = {
		SWAP_GIVEN, SWAP_GIVEN, SWAP_ZRAM, SWAP_LOOP,
	};

	return kinds[seed % 4];
}

/* a process that runs sequences */

static struct large_seq *running;

static void dies(int signal, siginfo_t *info, void *context)
{
	(void)context;
	large_fail(running, signal == SIGALRM ? "hangs, at the last step %p" :
		   "dies of a signal at %p", signal == SIGALRM ? NULL : info->si_addr);
	_exit(2);
}

static void catch_signals(void)
{
	struct sigaction action = {
		.sa_sigaction = dies, .sa_flags = SA_SIGINFO | SA_RESETHAND,
	};

	sigaction(SIGALRM, &action, NULL);
	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGBUS, &action, NULL);
}

static size_t folios_of(size_t size, unsigned long seed)
{
	size_t most = LARGE_PAGES * MEM_PAGE / size;

	return 2 + seed % ((most < 4 ? most : 4) - 1);
}

struct work {
	struct large_env env;
	unsigned long first, end;
	enum large_swap kind;
	bool verbose;
	int fd;
};

static bool worker_open(struct large_seq *s, const struct work *work)
{
	s->env = &work->env;
	s->fd = work->fd;
	s->verbose = work->verbose;
	s->memfd = memfd_create("cowsnap-large", MFD_CLOEXEC);
	if (pipe(s->pipe) || s->memfd < 0)
		return false;
	cgroup_enter(&s->cg);
	if (uring_open(&s->ring))
		s->ring.fd = -1;
	/* See the step "NUMA hints". */
	syscall(__NR_set_mempolicy, MPOL_LOCAL, NULL, 0UL);
	large_fill_lotteries(s);
	return true;
}

static int worker(const struct work *work, struct large_stats *stats)
{
	static struct large_seq seq;
	struct large_seq *s = &seq;

	s->stats = stats;
	running = s;
	if (!worker_open(s, work)) {
		perror("# worker");
		return 2;
	}
	catch_signals();
	while (!stats->failed) {
		s->seed = stats->next++;
		if (s->seed >= work->end)
			break;
		if (swap_of(s->seed) != work->kind)
			continue;
		alarm(SEQUENCE_SECONDS);
		if (!large_run(s, folios_of(work->env.size, s->seed)))
			stats->failed++;
		stats->finished++;
	}
	alarm(0);
	uring_close(&s->ring);
	cgroup_leave(&s->cg);
	return 0;
}

/* All sequences with one kind of swap, on all CPUs. */
static bool run_workers(const struct work *work, struct large_stats *stats)
{
	int nr = get_nprocs() < WORKERS_MAX ? get_nprocs() : WORKERS_MAX;
	int i, status;
	bool good = true;

	if (work->end - work->first < (unsigned long)nr)
		nr = work->end - work->first;
	stats->next = work->first;
	for (i = 0; i < nr; i++)
		if (!fork())
			_exit(worker(work, stats));
	while (nr-- && wait(&status) > 0)
		good &= !status;
	return good && !stats->failed;
}

/* what was seen */

static const char * const events[] = {
	"thp_split_pmd", "thp_split_page", "thp_migration_success",
	"pgmigrate_success", "pswpout", "pswpin", "thp_swpout",
	"thp_collapse_alloc", "numa_pte_updates", "numa_hint_faults",
};
#define NR_EVENTS	(sizeof(events) / sizeof(*events))

static void read_events(long *count)
{
	size_t i;

	for (i = 0; i < NR_EVENTS; i++)
		count[i] = mem_vmstat(events[i]);
}

static void print_figures(const struct large_stats *stats, const long *was,
			  double time)
{
	const struct large_op *op;
	long now[NR_EVENTS];
	unsigned int i;

	read_events(now);
	printf("# %lu sequences, %.1f s, %.1f a second; %lu of %lu folios as wanted\n",
	       stats->finished, time, stats->finished / time,
	       stats->folios_right, stats->folios);
	printf("# pages shared %lu, copied %lu; duplicated twice %lu, duplicates %lu; emptied %lu\n",
	       stats->shared, stats->copied, stats->twice, stats->of_duplicate,
	       stats->emptied);
	printf("#");
	for (i = 0; i < NR_EVENTS; i++)
		if (was[i] >= 0)
			printf(" %s %ld", events[i], now[i] - was[i]);
	printf("\n# effect of tries:");
	for (i = 0; (op = large_op(i)); i++)
		printf("%s %s %lu/%lu", i ? "," : "", op->name, stats->done[i],
		       stats->tried[i]);
	printf("\n");
}

FIXTURE(large) {
	struct large_stats *stats;
	struct work work;
};

FIXTURE_VARIANT(large) {
	size_t size;
};

#define VARIANT(name, kib)					\
FIXTURE_VARIANT_ADD(large, name) { .size = (kib) << 10 }

VARIANT(of_16_kib, 16UL);
VARIANT(of_32_kib, 32UL);
VARIANT(of_64_kib, 64UL);
VARIANT(of_128_kib, 128UL);
VARIANT(of_256_kib, 256UL);
VARIANT(of_512_kib, 512UL);
VARIANT(of_1_mib, 1024UL);
VARIANT(of_2_mib, 2048UL);

static bool query_whole(int fd)
{
	struct cowsnap_query q = { .size = sizeof(q) };

	return !ioctl(fd, COWSNAP_QUERY, &q) && q.huge_whole;
}

FIXTURE_SETUP(large)
{
	unsigned long only = env_number("COWSNAP_SIZE", 0);

	if (!large_offered(variant->size))
		SKIP(return, "this kernel has no folios of this size");
	if (only && only != variant->size >> 10)
		SKIP(return, "COWSNAP_SIZE is another");
	self->work.fd = mem_open();
	ASSERT_LE(0, self->work.fd);
	self->stats = mmap(NULL, sizeof(*self->stats), PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->stats);
	self->work.env.huge_whole = query_whole(self->work.fd);
	ASSERT_TRUE(large_env_set(&self->work.env, variant->size))
		TH_LOG("cannot set the size of folios");
}

FIXTURE_TEARDOWN(large)
{
	large_env_restore();
}

/* Which of the sequences? Those of one seed are one. */
static void choose_sequences(struct work *work)
{
	unsigned long nr = env_number("COWSNAP_LARGE_SEQUENCES",
				      SEQUENCES / large_nr_sizes());

	work->verbose = getenv("COWSNAP_SEED");
	work->first = env_number("COWSNAP_LARGE_FIRST", 1);
	if (work->verbose) {
		work->first = env_number("COWSNAP_SEED", 1);
		nr = 1;
	}
	work->end = work->first + nr;
}

/*
 * No page loses its content to another, in any order of what can happen to
 * large folios that two ranges share.
 */
TEST_F_TIMEOUT(large, nothing_changes_but_what_was_written, 7200)
{
	struct large_stats *stats = self->stats;
	struct work *work = &self->work;
	long was[NR_EVENTS];
	const struct large_op *op;
	double start = seconds();
	bool good = true;
	unsigned int i;
	int kind;

	setbuf(stdout, NULL);
	choose_sequences(work);
	read_events(was);
	for (kind = 0; kind < SWAP_KINDS && good; kind++) {
		if (!large_swap_on(&work->env, kind))
			TH_LOG("no %s to swap to", large_swap_name(kind));
		work->kind = kind;
		good = run_workers(work, stats);
		EXPECT_TRUE(large_swap_off() || !good);
	}
	print_figures(stats, was, seconds() - start);
	EXPECT_TRUE(good)
		TH_LOG("failed after %lu sequences", stats->finished);
	if (work->verbose || !good)
		return;

	/* No empty ceremony: all of it happened, to folios of that size. */
	EXPECT_LE(stats->folios * 9 / 10, stats->folios_right);
	EXPECT_LT(0UL, stats->shared);
	for (i = 0; (op = large_op(i)); i++) {
		if (stats->tried[i] < tries_enough(op))
			continue;
		EXPECT_LT(0UL, stats->done[i])
			TH_LOG("%s had no effect in %lu tries", op->name,
			       stats->tried[i]);
	}
	for (i = 0; i < NR_EVENTS; i++) {
		if (variant->size == MEM_HUGE &&
		    !strcmp(events[i], "thp_split_pmd"))
			EXPECT_LT(was[i], mem_vmstat(events[i]));
	}
}

TEST_HARNESS_MAIN
