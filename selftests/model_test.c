// SPDX-License-Identifier: GPL-2.0
/*
 * Random sequences of operations on memory that is duplicated again and again,
 * against a model that knows what each page must hold (see model.h).
 *
 * COWSNAP_SEED is the seed of the first sequence, COWSNAP_MINUTES how long all
 * tests together may take (0.25), COWSNAP_STEPS the length of a sequence. A
 * failure names its seed: a sequence of one thread does the same again with it.
 * With COWSNAP_TRACE each operation is printed.
 */
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "model.h"
#include "harness.h"

#define MINUTES		0.25
#define STEPS		400
#define VERIFY_EVERY	50
#define WORLDS		4	/* processes at a time, or threads */
#define HANG		90	/* seconds without a step */
#define SLACK		5	/* seconds for a sequence to end in */
#define FOREVER		1000000	/* for the harness; we watch ourselves */

static struct world worlds[WORLDS];

struct shared {
	struct totals totals;
	struct report report[WORLDS];
	_Atomic unsigned int sequences;
};

static unsigned int env_number(const char *name, unsigned int otherwise)
{
	const char *text = getenv(name);

	return text ? strtoul(text, NULL, 0) : otherwise;
}

static double env_seconds(void)
{
	const char *text = getenv("COWSNAP_MINUTES");

	return 60 * (text ? atof(text) : MINUTES);
}

FIXTURE(model) {
	int fd;
	struct cgroup cg;
	struct shared *s;
	struct world template;
	uint64_t seed;
	double end;
};

FIXTURE_SETUP(model)
{
	self->fd = mem_open();
	ASSERT_LE(0, self->fd);
	self->s = mmap(NULL, sizeof(*self->s), PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	ASSERT_NE(MAP_FAILED, self->s);
	if (cgroup_enter(&self->cg))
		self->cg.dir[0] = 0;
	self->seed = env_number("COWSNAP_SEED", 20240601);
	self->template = (struct world){
		.fd = self->fd,
		.cg = &self->cg,
		.totals = &self->s->totals,
		.nodes = mem_nodes(),
		.swap = mem_have_swap(),
		.zero_frame = mem_zero_pfn(),
	};
	self->end = seconds() + env_seconds() / 3;
	TH_LOG("COWSNAP_SEED=%lu", self->seed);
}

FIXTURE_TEARDOWN(model)
{
	ksm_stop();
	cgroup_leave(&self->cg);
	munmap(self->s, sizeof(*self->s));
	close(self->fd);
}

static bool has_failed(const struct shared *s)
{
	unsigned int i;

	for (i = 0; i < WORLDS; i++)
		if (s->report[i].taken)
			return true;
	return false;
}

/* From an empty world to an empty one, or to the exit with all still there. */
static bool live(struct world *w, unsigned int steps, double end)
{
	unsigned int i;
	bool good = model_start(w);

	for (i = 1; good && i <= steps && seconds() < end; i++) {
		good = model_step(w);
		if (good && i % VERIFY_EVERY == 0)
			good = model_verify(w);
	}
	good = good && model_verify(w);
	if (good && w->seed % 2)
		good = model_end(w);
	return good && !w->report->taken;
}

static void prepare(struct world *w, const struct world *template,
		    unsigned int id, uint64_t seed, struct shared *s)
{
	*w = *template;
	w->id = id;
	w->seed = seed;
	w->report = &s->report[id];
	s->report[id].lines = 0;
}

/*
 * What is ours is present from the start, and the stack as large as it becomes,
 * so that only the world changes what is counted.
 */
static void __attribute__((noinline)) touch_all(void)
{
	char room[256 << 10];
	struct map_reader m;
	struct map_entry e;

	memset(room, 1, sizeof(room));
	__asm__ volatile("" : : "r"(room) : "memory");
	if (!maps_open(&m, false))
		return;
	while (maps_next(&m, &e))
		madvise((void *)e.start, e.end - e.start,
			e.perms[1] == 'w' ? MADV_POPULATE_WRITE :
					    MADV_POPULATE_READ);
	maps_close(&m);
}

/* A process of its own: the kernel checks its counters when it exits. */
static pid_t start_sequence(const struct world *template, unsigned int id,
			    uint64_t seed, struct shared *s, double end)
{
	unsigned int steps = env_number("COWSNAP_STEPS", STEPS);
	pid_t pid = fork();

	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	touch_all();
	prepare(&worlds[0], template, id, seed, s);
	_exit(!live(&worlds[0], steps, end));
}

/* How it came to that: the last operations of a world. */
static void print_log(const struct report *r)
{
	unsigned int from = r->lines > LOG_LINES ? r->lines - LOG_LINES : 0;

	for (; from < r->lines; from++)
		printf("#   %s\n", r->log[from % LOG_LINES]);
}

static void print_failures(struct shared *s)
{
	unsigned int i;

	for (i = 0; i < WORLDS; i++) {
		if (!s->report[i].taken)
			continue;
		print_log(&s->report[i]);
		printf("# %s\n", s->report[i].text);
	}
	fflush(stdout);
}

/* An operation that never takes effect is a test that does not test it. */
static void judge_operations(struct __test_metadata *_metadata,
			     const struct shared *s)
{
	const struct totals *t = &s->totals;
	char line[2048] = "";
	unsigned int i, n = 0;

	for (i = 0; i < model_nr_ops(); i++) {
		const struct tally *op = &t->op[i];

		n += snprintf(line + n, sizeof(line) - n, " %s %lu/%lu",
			      model_op_name(i), op->done, op->tried);
		if (op->tried < 40)
			continue;
		EXPECT_LT(0UL, op->done) {
			TH_LOG("%s had no effect in %lu tries",
			       model_op_name(i), op->tried);
		}
	}
	TH_LOG("%u sequences, %lu steps, %lu pages verified, %lu frames counted",
	       s->sequences, t->steps, t->verified, t->counted);
	TH_LOG("%lu pages shared, %lu copied, %lu shared ones reclaimed, %lu migrated",
	       t->shared, t->copied, t->reclaimed, t->migrated);
	TH_LOG("effective/tried:%s", line);
}

/* Reports a sequence that ended otherwise than with 0. */
static bool reap(struct shared *s, unsigned int id, int status)
{
	struct report *r = &s->report[id];

	s->sequences++;
	if (!status || atomic_exchange(&r->taken, true))
		return !status;
	snprintf(r->text, sizeof(r->text), "world %u died with status %#x after the last of these",
		 id, status);
	return false;
}

/* Is nothing done for too long? The kernel may hang, or the model. */
static bool hangs(struct shared *s)
{
	static unsigned long steps;
	static double since;

	if (s->totals.steps + s->totals.verified != steps || !since) {
		steps = s->totals.steps + s->totals.verified;
		since = seconds();
	}
	return seconds() - since > HANG;
}

static void report_hang(struct shared *s)
{
	struct report *r = &s->report[0];

	if (!atomic_exchange(&r->taken, true))
		snprintf(r->text, sizeof(r->text), "hangs after the last of these");
}

static int wait_for(pid_t pid, struct shared *s)
{
	int status;

	while (!waitpid(pid, &status, WNOHANG)) {
		usleep(2000);
		if (!hangs(s))
			continue;
		report_hang(s);
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
		break;
	}
	return status;
}

/*
 * One process after the other, with nothing else going on: what is expected is
 * exact. Every fourth has KSM at work.
 */
TEST_F_TIMEOUT(model, one_process, FOREVER)
{
	struct world *t = &self->template;
	uint64_t seed;
	pid_t pid;

	t->alone = true;
	for (seed = self->seed; !has_failed(self->s); seed++) {
		t->merging = seed % 4 == 0 && ksm_start();
		if (!t->merging)
			ksm_stop();
		pid = start_sequence(t, 0, seed, self->s, self->end + SLACK);
		ASSERT_LT(0, pid);
		reap(self->s, 0, wait_for(pid, self->s));
		if (seconds() > self->end && seed > self->seed)
			break;
	}
	print_failures(self->s);
	EXPECT_FALSE(has_failed(self->s));
	judge_operations(_metadata, self->s);
}

/* What a busy system does to the memory of others */

static void advise_other(pid_t pid, unsigned int id, uint64_t *random)
{
	int fd = syscall(__NR_pidfd_open, pid, 0);
	struct iovec iov = {
		(char *)ARENA_START + id * ARENA_STRIDE +
			next_random(random) % ARENA_PAGES * MEM_PAGE,
		64 * MEM_PAGE,
	};

	if (fd < 0)
		return;
	syscall(__NR_process_madvise, fd, &iov, 1UL,
		next_random(random) % 2 ? MADV_PAGEOUT : MADV_COLD, 0);
	close(fd);
}

static void migrate_other(pid_t pid, int nodes, uint64_t *random)
{
	unsigned long from = next_random(random) % nodes, to;

	to = 1UL << (from + 1) % nodes;
	from = 1UL << from;
	syscall(__NR_migrate_pages, pid, 64UL, &from, &to);
}

static void disturb(const struct world *t, const pid_t *pids, uint64_t *random)
{
	unsigned int id = next_random(random) % WORLDS;
	char path[128];

	switch (next_random(random) % 8) {
	case 0:
		mem_write("/proc/sys/vm/compact_memory", "1");
		break;
	case 1:
	case 2:
		snprintf(path, sizeof(path), "%s/memory.reclaim", t->cg->dir);
		mem_write(path, "4M");
		break;
	case 3:
		mem_write("/proc/sys/vm/drop_caches", "1");
		break;
	case 4:
	case 5:
		if (t->nodes > 1)
			migrate_other(pids[id], t->nodes, random);
		break;
	default:
		advise_other(pids[id], id, random);
		break;
	}
}

#define KHUGEPAGED	"/sys/kernel/mm/transparent_hugepage/khugepaged/"

/* Eager, or again as it was. */
static void khugepaged(bool eager)
{
	static const char *const files[] = {
		KHUGEPAGED "scan_sleep_millisecs",
		KHUGEPAGED "alloc_sleep_millisecs",
	};
	static long before[2];
	char text[24];
	int i;

	for (i = 0; i < 2; i++) {
		if (eager)
			before[i] = mem_read_long(files[i]);
		snprintf(text, sizeof(text), "%ld", eager ? 10 : before[i]);
		mem_write(files[i], text);
	}
}

/*
 * Several at once, each with its own sequences, while pages are merged,
 * collapsed, reclaimed, compacted and migrated from outside.
 */
TEST_F_TIMEOUT(model, several_processes, FOREVER)
{
	struct world *t = &self->template;
	uint64_t random = self->seed | 1, seed = self->seed + 1000000;
	pid_t pids[WORLDS] = { 0 };
	unsigned int i, living = 0;
	bool go_on = true;
	int status;

	t->merging = ksm_start();
	khugepaged(true);
	while (go_on || living) {
		go_on = seconds() < self->end && !has_failed(self->s);
		for (i = 0; i < WORLDS; i++) {
			if (pids[i] &&
			    waitpid(pids[i], &status, WNOHANG) == pids[i]) {
				reap(self->s, i, status);
				pids[i] = 0;
				living--;
			}
			if (pids[i] || !go_on)
				continue;
			pids[i] = start_sequence(t, i, seed++, self->s,
						 self->end + SLACK);
			ASSERT_LT(0, pids[i]);
			living++;
		}
		disturb(t, pids, &random);
		usleep(5000);
		if (hangs(self->s)) {
			report_hang(self->s);
			for (i = 0; i < WORLDS; i++)
				if (pids[i])
					kill(pids[i], SIGKILL);
		}
	}
	khugepaged(false);
	print_failures(self->s);
	EXPECT_FALSE(has_failed(self->s));
	judge_operations(_metadata, self->s);
}

/* Threads, each with its own arena: they share the mm, its lock, the TLBs. */

static void *live_as_thread(void *arg)
{
	struct world *w = arg;

	live(w, env_number("COWSNAP_STEPS", 100 * STEPS), seconds() + 3);
	return NULL;
}

static void live_as_threads(const struct world *template, uint64_t seed,
			    struct shared *s)
{
	pthread_t thread[WORLDS];
	unsigned int i;

	for (i = 0; i < WORLDS; i++)
		prepare(&worlds[i], template, i, seed + i, s);
	for (i = 0; i < WORLDS; i++)
		if (pthread_create(&thread[i], NULL, live_as_thread, &worlds[i]))
			_exit(1);
	for (i = 0; i < WORLDS; i++)
		pthread_join(thread[i], NULL);
	_exit(has_failed(s));
}

TEST_F_TIMEOUT(model, several_threads, FOREVER)
{
	struct world *t = &self->template;
	uint64_t seed = self->seed + 2000000;
	pid_t pid;

	t->threads = true;
	t->merging = ksm_start();
	for (; !has_failed(self->s); seed += WORLDS) {
		pid = fork();
		if (!pid) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			live_as_threads(t, seed, self->s);
		}
		ASSERT_LT(0, pid);
		reap(self->s, 0, wait_for(pid, self->s));
		if (seconds() > self->end)
			break;
	}
	print_failures(self->s);
	EXPECT_FALSE(has_failed(self->s));
	judge_operations(_metadata, self->s);
}

TEST_HARNESS_MAIN
