// SPDX-License-Identifier: GPL-2.0
/*
 * SIGKILL in the middle of a call that duplicates gigabytes: the process ends
 * soon, and what the call had done so far is given back, whether the memory goes
 * with the process or, shared with another one, lives on.
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#include "kernel.h"
#include "harness.h"

#define BLOCK		(16UL << 20)
/* A call takes long enough; on a slow machine less does as well. */
#define RANGE		(mem_slowness() > 1 ? 256UL << 20 : 2UL << 30)
#define KILLS		2
#define SEED		3

/* Of the whole system, in kB. What is not given back shows here. */
static const struct {
	const char *name;
	long slack;
} fields[] = {
	{ "Committed_AS", 1024 }, { "PageTables", 1024 },
	{ "AnonPages", 4096 }, { "SwapFree", 4096 },
};
#define NR_FIELDS	(sizeof(fields) / sizeof(*fields))

static void read_system(long values[NR_FIELDS])
{
	FILE *f = fopen("/proc/meminfo", "re");
	char line[128];
	unsigned int i;

	while (f && fgets(line, sizeof(line), f))
		for (i = 0; i < NR_FIELDS; i++)
			if (!strncmp(line, fields[i].name,
				     strlen(fields[i].name)) &&
			    line[strlen(fields[i].name)] == ':')
				values[i] = strtol(strchr(line, ':') + 1, NULL, 10);
	if (f)
		fclose(f);
}

/* Waits for it: the last of a process goes after its parent has been told. */
static bool system_is_back(const long was[NR_FIELDS])
{
	double end = seconds() + 20 * mem_slowness();
	long is[NR_FIELDS] = { 0 };
	bool good;
	unsigned int i;

	do {
		usleep(20000);
		read_system(is);
		for (i = 0, good = true; i < NR_FIELDS; i++)
			good &= labs(is[i] - was[i]) <= fields[i].slack;
	} while (!good && seconds() < end);
	for (i = 0; i < NR_FIELDS && !good; i++)
		fprintf(stderr, "# %s was %ld kB, is %ld\n", fields[i].name,
			was[i], is[i]);
	return good;
}

/*
 * Gigabytes with a page in each entry, from little memory: a block, and
 * duplicates of all so far behind it until the range is full.
 */
static char *make_range(int fd)
{
	struct cowsnap_remap r;
	size_t len;
	char *p;

	p = mem_free_range(RANGE, MEM_HUGE, 0);
	if (!p)
		return NULL;
	p = mmap(p, BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS |
		 MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
	if (p == MAP_FAILED)
		return NULL;
	madvise(p, BLOCK, MADV_NOHUGEPAGE);
	mem_fill(p, BLOCK, SEED);
	for (len = BLOCK; len < RANGE; len *= 2)
		if (mem_remap(fd, p, len, p + len,
			      COWSNAP_REMAP_FIXED_NOREPLACE, &r))
			return NULL;
	return p;
}

/* What the victim and who kills it have in common. */
struct shared {
	_Atomic int calls;
	_Atomic double took;
	_Atomic double since;	/* start of the call that is going on */
};

FIXTURE(kill) {
	int fd;
	struct shared *s;
};

FIXTURE_VARIANT(kill) {
	bool threads;
};

FIXTURE_VARIANT_ADD(kill, one_thread) { .threads = false };
FIXTURE_VARIANT_ADD(kill, several_threads) { .threads = true };

FIXTURE_SETUP(kill)
{
	self->fd = mem_open();
	ASSERT_LE(0, self->fd);
	self->s = mmap(NULL, MEM_PAGE, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->s);
}

FIXTURE_TEARDOWN(kill)
{
	close(self->fd);
}

/* Faults in the range, before the call and again after it. */
static void *store_for_ever(void *arg)
{
	volatile char *p = arg;
	size_t i;

	for (i = 0;; i = (i + MEM_PAGE * 97) % BLOCK)
		p[i + 8]++;
	return NULL;
}

static void *page_out_for_ever(void *arg)
{
	for (;;) {
		madvise(arg, BLOCK, MADV_PAGEOUT);
		usleep(1000);
	}
	return NULL;
}

static void be_killed(int fd, struct shared *s, bool threads)
{
	struct cowsnap_remap r;
	pthread_t thread;
	char *p = make_range(fd);

	if (!p)
		_exit(1);
	if (threads && (pthread_create(&thread, NULL, store_for_ever, p) ||
			pthread_create(&thread, NULL, page_out_for_ever, p)))
		_exit(2);
	for (;;) {
		s->since = seconds();
		if (mem_remap(fd, p, RANGE, NULL, 0, &r))
			_exit(3);
		s->took = seconds() - s->since;
		s->calls++;
		munmap((void *)(uintptr_t)r.dst, RANGE);
	}
}

TEST_F_TIMEOUT(kill, all_is_given_back, 300)
{
	double killed, at;
	long was[NR_FIELDS] = { 0 };
	int status, i, calls;
	pid_t pid;

	read_system(was);
	for (i = 0; i < KILLS; i++) {
		self->s->calls = 0;
		pid = fork();
		if (!pid)
			be_killed(self->fd, self->s, variant->threads);
		ASSERT_LT(0, pid);
		while (!self->s->calls && !waitpid(pid, &status, WNOHANG))
			usleep(1000);
		ASSERT_EQ(0, kill(pid, 0));
		/* Into the next call: sooner or later in it. */
		calls = self->s->calls;
		at = self->s->since;
		while (self->s->calls == calls && self->s->since == at &&
		       seconds() < at + 20 * mem_slowness())
			usleep(100);
		usleep(self->s->took * 1e6 * (i + 0.5) / (KILLS + 1));
		killed = seconds();
		ASSERT_EQ(0, kill(pid, SIGKILL));
		ASSERT_EQ(pid, waitpid(pid, &status, 0));
		EXPECT_TRUE(WIFSIGNALED(status));
		TH_LOG("a call took %.3f s, dying %.3f s", self->s->took,
		       seconds() - killed);
		EXPECT_GT(20.0 * mem_slowness(), seconds() - killed);
		EXPECT_TRUE(system_is_back(was));
	}
}

/* Memory that outlives the caller */

struct caller {
	int fd;
	char *src;
	struct cowsnap_remap r;
	char stack[64 << 10] __attribute__((aligned(16)));
};

/* A process of its own in our memory: only the call, no library. */
static int call_once(void *arg)
{
	struct caller *c = arg;

	ioctl(c->fd, COWSNAP_REMAP, &c->r);
	return 0;
}

FIXTURE(survivor) {
	int fd;
};

FIXTURE_SETUP(survivor)
{
	self->fd = mem_open();
	ASSERT_LE(0, self->fd);
}

FIXTURE_TEARDOWN(survivor)
{
	close(self->fd);
}

static void prepare(struct caller *c)
{
	c->r = (struct cowsnap_remap){
		.size = sizeof(c->r), .src = (uintptr_t)c->src, .len = RANGE,
	};
}

/*
 * A failed call leaves everything as it was. A process that is killed sees
 * nothing of that; one that shares its memory does.
 */
TEST_F_TIMEOUT(survivor, sees_nothing_of_the_call, 300)
{
	static struct caller c;
	struct mem_counters before, after;
	unsigned int tries, interrupted = 0;
	uint64_t maps;
	double took;
	int status;
	pid_t pid;

	c.fd = self->fd;
	/* A page written first by the child that is counted would count. */
	memset(c.stack, 1, sizeof(c.stack));
	c.src = make_range(self->fd);
	ASSERT_NE(NULL, c.src);
	prepare(&c);
	took = seconds();
	ASSERT_EQ(0, ioctl(c.fd, COWSNAP_REMAP, &c.r));
	took = seconds() - took;
	ASSERT_EQ(0, munmap((void *)(uintptr_t)c.r.dst, RANGE));
	mem_counters(&before);
	maps = mem_maps_hash();
	for (tries = 0; tries < 40 && interrupted < 4; tries++) {
		prepare(&c);
		pid = clone(call_once, c.stack + sizeof(c.stack),
			    CLONE_VM | SIGCHLD, &c);
		ASSERT_LT(0, pid);
		usleep(took * 1e6 * (tries % 8 + 0.5) / 10);
		kill(pid, SIGKILL);
		ASSERT_EQ(pid, waitpid(pid, &status, 0));
		/* The kill came before or after the call, or in it. */
		if (c.r.reason != COWSNAP_REASON_SIGNAL) {
			if (c.r.dst)
				munmap((void *)(uintptr_t)c.r.dst, RANGE);
			continue;
		}
		interrupted++;
		EXPECT_EQ(0, c.r.dst);
		ASSERT_EQ(maps, mem_maps_hash());
		mem_counters(&after);
		ASSERT_TRUE(mem_counters_equal(&before, &after));
	}
	TH_LOG("a call takes %.3f s; %u of %u were interrupted", took,
	       interrupted, tries);
	EXPECT_LT(0U, interrupted);
	/* All there, and fit for the next call. */
	EXPECT_TRUE(mem_check(c.src, BLOCK, SEED));
	EXPECT_TRUE(mem_check(c.src + RANGE - BLOCK, BLOCK, SEED));
	prepare(&c);
	EXPECT_EQ(0, ioctl(c.fd, COWSNAP_REMAP, &c.r));
	munmap((void *)(uintptr_t)c.r.dst, RANGE);
}

TEST_HARNESS_MAIN
