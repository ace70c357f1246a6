// SPDX-License-Identifier: GPL-2.0
/*
 * REMAP of a range that other threads tear apart meanwhile: they map, unmap,
 * protect, move, advise, fork and exit. A call either gives one of the answers
 * that the range at some instant calls for, or a duplicate: each word of it was
 * once stored, and it changes no more. Afterwards nothing is left.
 */
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "kernel.h"
#include "harness.h"

#define RANGE_AT	((char *)0x300000000000UL)
#define DEST_AT		((char *)0x310000000000UL)
#define PAGES		128UL
#define RANGE		(PAGES * MEM_PAGE)
#define ATTACKERS	3
#define LIFE		40	/* operations of a thread before it exits */
#define MAGIC		0x5eedUL
#define SECONDS		4.0

static const size_t words[3] = { 0, MEM_PAGE / 2, MEM_PAGE - 8 };

/* In shared memory. */
struct shared {
	_Atomic bool taken;
	char problem[200];
	_Atomic unsigned long calls, done, holes, refused, overlaps, attacks;
	_Atomic bool stop;
};

static struct shared *s;

static void __attribute__((format(printf, 1, 2))) fail(const char *fmt, ...)
{
	va_list args;

	s->stop = true;
	if (atomic_exchange(&s->taken, true))
		return;
	va_start(args, fmt);
	vsnprintf(s->problem, sizeof(s->problem), fmt, args);
	va_end(args);
}

/* The attackers */

struct piece {
	char *at;
	size_t len;
};

static struct piece pick_piece(uint64_t *random, unsigned int max)
{
	unsigned int nr = 1 + next_random(random) % max;

	return (struct piece){
		RANGE_AT + next_random(random) % (PAGES - nr + 1) * MEM_PAGE,
		nr * MEM_PAGE,
	};
}

/* Through the kernel, which minds that the page may be gone or protected. */
static void store(struct piece p, uint64_t *random)
{
	uint64_t v = MAGIC << 48 | next_random(random) >> 16;
	struct iovec from = { &v, sizeof(v) }, to;
	unsigned int n;

	for (; p.len; p.at += MEM_PAGE, p.len -= MEM_PAGE)
		for (n = 0; n < 3; n++) {
			to = (struct iovec){ p.at + words[n], sizeof(v) };
			process_vm_writev(getpid(), &from, 1, &to, 1, 0);
		}
}

static void map(struct piece p, int flags)
{
	if (mmap(p.at, p.len, PROT_READ | PROT_WRITE,
		 MAP_ANONYMOUS | MAP_FIXED | flags, -1, 0) == MAP_FAILED)
		fail("mmap: %m");
}

static void move(struct piece p, uint64_t *random)
{
	struct piece to = pick_piece(random, 1);

	/* Overlapping, or of several mappings, or of none: then not. */
	mremap(p.at, p.len, p.len, MREMAP_MAYMOVE | MREMAP_FIXED,
	       to.at + p.len <= RANGE_AT + RANGE ? to.at : RANGE_AT);
}

static void protect(struct piece p, uint64_t *random)
{
	static const int prots[] = { PROT_NONE, PROT_READ,
				     PROT_READ | PROT_WRITE };

	mprotect(p.at, p.len, prots[next_random(random) % 3]);
}

static void advise(struct piece p, uint64_t *random)
{
	static const int advice[] = {
		MADV_DONTNEED, MADV_FREE, MADV_PAGEOUT, MADV_COLD,
		MADV_WIPEONFORK, MADV_KEEPONFORK, MADV_DONTFORK, MADV_DOFORK,
		MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_COLLAPSE, MADV_MERGEABLE,
	};

	madvise(p.at, p.len, advice[next_random(random) %
				    (sizeof(advice) / sizeof(*advice))]);
	/* What would refuse every call must not last. */
	madvise(p.at, p.len, MADV_KEEPONFORK);
}

static void fork_once(void)
{
	pid_t pid = fork();
	int status;

	if (!pid)
		_exit(0);
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
		fail("fork: %m, status %#x", status);
}

/* Onto itself: destination and source of two calls are one range then. */
static void duplicate_within(int fd, struct piece p, uint64_t *random)
{
	struct piece to = pick_piece(random, 1);
	struct cowsnap_remap r;
	int err;

	if (to.at + p.len > RANGE_AT + RANGE)
		return;
	err = mem_remap(fd, p.at, p.len, to.at,
			COWSNAP_REMAP_FIXED | COWSNAP_REMAP_HOLES, &r);
	if (err == -EINVAL && r.reason == COWSNAP_REASON_OVERLAP)
		s->overlaps++;
	else if (err && err != -EOPNOTSUPP)
		fail("REMAP within the range: %s, reason %u", strerror(-err),
		     r.reason);
}

static void attack(int fd, uint64_t *random)
{
	struct piece p = pick_piece(random, 64);

	switch (next_random(random) % 64) {
	case 0:
		fork_once();
		break;
	case 1:
		map(p, MAP_SHARED);
		break;
	case 2 ... 5:
		munmap(p.at, p.len);
		break;
	case 6 ... 19:
		map(p, MAP_PRIVATE);
		break;
	case 20 ... 25:
		move(p, random);
		break;
	case 26 ... 31:
		protect(p, random);
		break;
	case 32 ... 39:
		advise(p, random);
		break;
	case 40 ... 43:
		duplicate_within(fd, p, random);
		break;
	case 44:
		mlock(p.at, p.len);
		munlock(RANGE_AT, RANGE);
		break;
	default:
		store(p, random);
		break;
	}
	s->attacks++;
}

struct attacker {
	int fd;
	uint64_t random;
};

static void *attack_and_exit(void *arg)
{
	struct attacker *a = arg;
	int i;

	for (i = 0; i < LIFE && !s->stop; i++)
		attack(a->fd, &a->random);
	return NULL;
}

/* One after the other: threads exit all the time. */
static void *send_attackers(void *arg)
{
	pthread_t thread;

	while (!s->stop) {
		if (pthread_create(&thread, NULL, attack_and_exit, arg)) {
			fail("pthread_create: %m");
			break;
		}
		pthread_join(thread, NULL);
	}
	return NULL;
}

/* The duplicates */

/* Nobody attacks the duplicate: it can be made readable. ~0: nothing is there. */
static void read_words(uint64_t at, uint64_t *v)
{
	unsigned int i, n;
	char *page;

	for (i = 0; i < PAGES; i++) {
		page = (char *)at + i * MEM_PAGE;
		for (n = 0; n < 3; n++, v++)
			if (!mprotect(page, MEM_PAGE, PROT_READ))
				*v = *(volatile uint64_t *)(page + words[n]);
			else
				*v = ~0UL;
	}
}

static void check_duplicate(const struct cowsnap_remap *r)
{
	static uint64_t first[3 * PAGES], again[3 * PAGES];
	bool holes = r->flags & COWSNAP_REMAP_HOLES;
	unsigned int i;

	read_words(r->dst, first);
	for (i = 0; i < 3 * PAGES; i++)
		if (first[i] && first[i] >> 48 != MAGIC &&
		    !(holes && first[i] == ~0UL))
			fail("page %u of the duplicate holds %#lx", i / 3,
			     first[i]);
	usleep(200);
	read_words(r->dst, again);
	for (i = 0; i < 3 * PAGES; i++)
		if (first[i] != again[i])
			fail("page %u of the duplicate was %#lx and is %#lx",
			     i / 3, first[i], again[i]);
}

static void check_refusal(const struct cowsnap_remap *r, int err)
{
	bool inside = r->fault_addr >= r->src && r->fault_addr < r->src + r->len;
	bool holes = r->flags & COWSNAP_REMAP_HOLES;

	if (err == -ENOMEM && r->reason == COWSNAP_REASON_HOLE && inside &&
	    !holes)
		s->holes++;
	else if (err == -EOPNOTSUPP && inside &&
		 (r->reason == COWSNAP_REASON_SHARED ||
		  r->reason == COWSNAP_REASON_WIPEONFORK))
		s->refused++;
	else
		fail("REMAP flags %#x: %s, reason %u at %#llx", r->flags,
		     strerror(-err), r->reason,
		     (unsigned long long)r->fault_addr);
}

static void duplicate(int fd, uint64_t *random)
{
	unsigned int flags = next_random(random) % 4 ? COWSNAP_REMAP_HOLES : 0;
	struct cowsnap_remap r;
	char *dst = NULL;
	int err;

	if (next_random(random) % 2) {
		dst = DEST_AT + next_random(random) % 3 * MEM_PAGE;
		flags |= COWSNAP_REMAP_FIXED;
	}
	err = mem_remap(fd, RANGE_AT, RANGE, dst, flags, &r);
	s->calls++;
	if (err) {
		check_refusal(&r, err);
		return;
	}
	s->done++;
	check_duplicate(&r);
	munmap((void *)(uintptr_t)r.dst, RANGE);
}

static void run(int fd, double time, uint64_t seed)
{
	struct attacker a[ATTACKERS];
	pthread_t thread[ATTACKERS];
	double end = seconds() + time;
	uint64_t random = seed;
	int i;

	map((struct piece){ RANGE_AT, RANGE }, MAP_PRIVATE);
	for (i = 0; i < ATTACKERS; i++) {
		a[i] = (struct attacker){ fd, seed * 31 + i };
		if (pthread_create(&thread[i], NULL, send_attackers, &a[i]))
			_exit(1);
	}
	while (!s->stop && (seconds() < end || s->done < 3 || !s->holes ||
			    !s->refused)) {
		/* Whatever cannot be duplicated goes, or nothing ever could. */
		if (next_random(&random) % 4 == 0)
			map((struct piece){ RANGE_AT, RANGE }, MAP_PRIVATE);
		duplicate(fd, &random);
		if (seconds() > end + 120)
			fail("%lu duplicates in %lu calls", s->done, s->calls);
	}
	s->stop = true;
	for (i = 0; i < ATTACKERS; i++)
		pthread_join(thread[i], NULL);
	_exit(s->taken);
}

/*
 * In a process of its own, so that the kernel checks its counters when it
 * exits, and ours show what it left in the system.
 */
FIXTURE(hostile) { };
FIXTURE_SETUP(hostile) { }
FIXTURE_TEARDOWN(hostile) { }

TEST_F_TIMEOUT(hostile, every_answer_is_a_permitted_one, 1000000)
{
	const char *env = getenv("COWSNAP_SEED");
	const char *minutes = getenv("COWSNAP_MINUTES");
	uint64_t seed = env ? strtoull(env, NULL, 0) : 20240601;
	double time = minutes ? 60 * atof(minutes) : SECONDS;
	struct mem_counters before, after;
	int fd = mem_open(), status;
	pid_t pid;

	ASSERT_LE(0, fd);
	s = mmap(NULL, MEM_PAGE, PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	ASSERT_NE(MAP_FAILED, s);
	mem_counters(&before);
	mem_counters(&before);
	pid = fork();
	if (!pid)
		run(fd, time, seed);
	ASSERT_LT(0, pid);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	mem_counters(&after);
	TH_LOG("COWSNAP_SEED=%lu: %lu attacks; %lu calls, %lu done, %lu holes, %lu refused, %lu overlaps",
	       seed, s->attacks, s->calls, s->done, s->holes, s->refused,
	       s->overlaps);
	ASSERT_STREQ("", s->problem);
	EXPECT_EQ(0, status);
	EXPECT_TRUE(mem_counters_equal(&before, &after));
	EXPECT_LT(0UL, s->holes);
	EXPECT_LT(0UL, s->refused);
	close(fd);
}

TEST_HARNESS_MAIN
