// SPDX-License-Identifier: GPL-2.0
/*
 * Other threads during UNSHARE, SYNC and RELEASE: what they have in their TLBs,
 * what they store, what they unmap; and a kill.
 */
#include <setjmp.h>
#include <signal.h>
#include <sys/wait.h>

#include "counters.h"
#undef PAGES
#include "ops.h"

/* A thread that reads one word all the time, from a CPU of its own. */
struct reader {
	pthread_t thread;
	volatile uint64_t *at;
	_Atomic uint64_t seen, loads;
	_Atomic bool faulted;
};

static sigjmp_buf segv_env;
static pthread_t segv_thread;

static void on_segv(int sig)
{
	if (pthread_equal(pthread_self(), segv_thread))
		siglongjmp(segv_env, sig);
	_exit(99);
}

static void *read_on(void *arg)
{
	struct reader *r = arg;

	on_cpu(1);
	segv_thread = pthread_self();
	if (sigsetjmp(segv_env, 1)) {
		r->faulted = true;
		return NULL;
	}
	while (!stop) {
		r->seen = *r->at;
		r->loads++;
	}
	return NULL;
}

/*
 * Counted, not timed: within so few loads nothing else takes the translation out
 * of the TLB, and a CPU that the host lets wait does not do them.
 */
static void let_read(struct reader *r)
{
	double end = seconds() + 20;
	uint64_t then = r->loads + 100;

	while (!r->faulted && r->loads < then && seconds() < end)
		sched_yield();
}

/* Returns when it has the word in its TLB. */
static bool start_reader(struct reader *r, void *at)
{
	r->at = at;
	r->loads = 0;
	r->faulted = false;
	stop = false;
	on_cpu(0);
	if (pthread_create(&r->thread, NULL, read_on, r))
		return false;
	let_read(r);
	return true;
}

static bool sees(struct reader *r, uint64_t value)
{
	let_read(r);
	return r->seen == value;
}

#define ROUNDS	20
#define NR	8UL
#define LEN	PAGES(NR)

FIXTURE(tlb)
{
	int fd;
	char *src;
	char *dup;
	struct reader reader;
};

FIXTURE_VARIANT(tlb)
{
	bool huge;
};

FIXTURE_VARIANT_ADD(tlb, small) { .huge = false };
FIXTURE_VARIANT_ADD(tlb, huge) { .huge = true };

FIXTURE_SETUP(tlb)
{
	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		SKIP(return, "one CPU");
	self->fd = mem_open();
	ASSERT_LE(0, self->fd);
	self->src = variant->huge ? mem_map_huge(MEM_HUGE) : mem_map_alone(MEM_HUGE);
	if (!self->src && variant->huge)
		SKIP(return, "no huge pages");
	ASSERT_NE(NULL, self->src);
	mem_fill(self->src, MEM_HUGE, 1);
}

FIXTURE_TEARDOWN(tlb)
{
	stop = true;
	close(self->fd);
}

/* Nobody goes on reading the page that was shared. */
TEST_F(tlb, after_unshare_others_read_the_copy)
{
	uint64_t *word = (uint64_t *)(self->src + 64);
	struct cowsnap_unshare u;
	uint64_t i;

	*word = 1;
	ASSERT_TRUE(start_reader(&self->reader, word));
	for (i = 2; i < ROUNDS; i++) {
		self->dup = mem_dup(self->fd, self->src, MEM_HUGE);
		ASSERT_NE(NULL, self->dup);
		/* It has the shared page, and reads on through its TLB. */
		let_read(&self->reader);
		ASSERT_EQ(0, op_unshare(self->fd, self->src, MEM_HUGE, 0, &u));
		EXPECT_LE(1, u.copied);
		*(volatile uint64_t *)word = i;
		ASSERT_TRUE(sees(&self->reader, i))
			TH_LOG("round %lu: it sees %lu", i, self->reader.seen);
		munmap(self->dup, MEM_HUGE);
	}
	stop = true;
	pthread_join(self->reader.thread, NULL);
}

/* So few pages that the flush of the other side does not empty the whole TLB. */
static size_t sync_span(bool huge)
{
	return huge ? MEM_HUGE : PAGES(8);
}

/* Nor the page that was replaced, which somebody else may have by now. */
TEST_F(tlb, after_sync_others_read_what_was_taken_over)
{
	uint64_t *word = (uint64_t *)(self->src + 64);
	size_t span = sync_span(variant->huge);
	struct cowsnap_sync s;
	uint64_t i;

	*word = 1;
	self->dup = mem_dup(self->fd, self->src, span);
	ASSERT_NE(NULL, self->dup);
	ASSERT_TRUE(start_reader(&self->reader, self->dup + 64));
	for (i = 2; i < ROUNDS; i++) {
		let_read(&self->reader);
		*(volatile uint64_t *)word = i;
		ASSERT_EQ(0, op_sync(self->fd, self->src, self->dup, span, &s));
		EXPECT_LE(1, s.changed);
		ASSERT_TRUE(sees(&self->reader, i))
			TH_LOG("round %lu: it sees %lu", i, self->reader.seen);
	}
	stop = true;
	pthread_join(self->reader.thread, NULL);
}

/* Also where the zero page was read. */
TEST_F(tlb, after_sync_nobody_reads_the_zero_page)
{
	uint64_t *word = (uint64_t *)(self->src + 64), i;
	size_t span = sync_span(variant->huge);
	struct cowsnap_sync s;

	self->dup = mem_dup(self->fd, self->src, span);
	ASSERT_NE(NULL, self->dup);
	for (i = 2; i < ROUNDS; i++) {
		ASSERT_EQ(0, madvise(self->dup, span, MADV_DONTNEED));
		*(volatile uint64_t *)word = i;
		ASSERT_TRUE(start_reader(&self->reader, self->dup + 64));
		EXPECT_EQ(0, self->reader.seen);
		ASSERT_EQ(0, op_sync(self->fd, self->src, self->dup, span, &s));
		ASSERT_TRUE(sees(&self->reader, i))
			TH_LOG("round %lu: it sees %lu", i, self->reader.seen);
		stop = true;
		pthread_join(self->reader.thread, NULL);
	}
}

/* The duplicate's neighbours stay, and so do page tables: only a flush helps. */
TEST_F(tlb, after_release_nobody_reads_the_duplicate)
{
	char *place = mem_map_offset(MEM_HUGE, MEM_HUGE, 0);
	struct sigaction act = { .sa_handler = on_segv };
	struct cowsnap_release r;
	struct cowsnap_remap q;
	int i;

	if (variant->huge)
		return;
	ASSERT_NE(NULL, place);
	sigaction(SIGSEGV, &act, NULL);
	mem_fill(place, MEM_HUGE, 2);
	for (i = 0; i < ROUNDS / 4; i++) {
		munmap(place + PAGES(100), LEN);
		ASSERT_EQ(0, mem_remap(self->fd, self->src, LEN, place + PAGES(100),
				       COWSNAP_REMAP_FIXED_NOREPLACE, &q));
		ASSERT_TRUE(start_reader(&self->reader, place + PAGES(100) + 64));
		ASSERT_EQ(0, op_release(self->fd, self->src, place + PAGES(100),
					LEN, &r));
		mem_fill(self->src, LEN, 3 + i);
		let_read(&self->reader);
		ASSERT_TRUE(self->reader.faulted);
		pthread_join(self->reader.thread, NULL);
	}
	signal(SIGSEGV, SIG_DFL);
}

/* Stores of other threads */

#define WRITERS	2

FIXTURE(stores)
{
	int fd;
	struct counters c;
	struct writer writers[WRITERS];
};

FIXTURE_VARIANT(stores)
{
	enum style style;
};

FIXTURE_VARIANT_ADD(stores, by_cpus) { .style = STORE };
FIXTURE_VARIANT_ADD(stores, by_the_kernel) { .style = READ_PIPE };
FIXTURE_VARIANT_ADD(stores, through_pins) { .style = WRITEV_SELF };

FIXTURE_SETUP(stores)
{
	self->fd = mem_open();
	ASSERT_LE(0, self->fd);
	self->c.len = RANGE;
	self->c.base = mem_map_offset(RANGE, MEM_HUGE, 0);
	ASSERT_NE(NULL, self->c.base);
	place_counters(&self->c, 64, SHUFFLED);
	mem_fill(self->c.base, RANGE, FILL_SEED);
}

FIXTURE_TEARDOWN(stores)
{
	close(self->fd);
}

static void *trouble(void *arg)
{
	char *p = arg;
	size_t i = 0;

	/* Neighbours of the range come and go: it is cut and merged. */
	while (!stop) {
		munmap(mmap(NULL, MEM_PAGE, PROT_NONE, MAP_PRIVATE |
			    MAP_ANONYMOUS, -1, 0), MEM_PAGE);
		madvise(p + PAGES(i % 900), PAGES(8),
			i & 1 ? MADV_DODUMP : MADV_DONTDUMP);
		i += 37;
	}
	return NULL;
}

/* Writers check that each store of theirs is still there. */
TEST_F_TIMEOUT(stores, none_is_lost_or_seen_elsewhere, 200)
{
	uint64_t saved[WRITERS][MAX_SLOTS], min[WRITERS];
	pthread_t troubler;
	struct cowsnap_unshare u;
	struct cowsnap_release r;
	double end = seconds() + 3;
	int w, err = 0, rounds = 0;
	bool good = true;
	char *dup;

	ASSERT_TRUE(start_writers(self->writers, WRITERS, &self->c,
				  variant->style));
	ASSERT_EQ(0, pthread_create(&troubler, NULL, trouble, self->c.base));
	while ((seconds() < end || rounds < 4) && !stop && good && !err) {
		for (w = 0; w < WRITERS; w++)
			min[w] = *counter(&self->c, self->c.base, self->c.nr - 1, w);
		dup = mem_dup(self->fd, self->c.base, RANGE);
		if (!dup)
			break;
		for (w = 0; w < WRITERS && good; w++)
			good = one_instant(&self->c, dup, w, min[w],
					   *counter(&self->c, self->c.base, 0, w),
					   saved[w]);
		err = op_unshare(self->fd, self->c.base, RANGE,
				 rounds & 1 ? COWSNAP_UNSHARE_REUSE : 0, &u);
		for (w = 0; w < WRITERS && good; w++)
			good = same_as_before(&self->c, dup, w, saved[w]);
		if (!err)
			err = op_release(self->fd, self->c.base, dup, RANGE, &r);
		rounds++;
	}
	EXPECT_FALSE(stop);
	stop_writers(self->writers, WRITERS);
	pthread_join(troubler, NULL);
	EXPECT_EQ(0, err);
	EXPECT_TRUE(good)
		TH_LOG("%s", problem);
	EXPECT_LE(4, rounds);
	TH_LOG("%d rounds%s%s", rounds, problem[0] ? ": " : "", problem);
}

#define SPAN	(16UL << 20)

/* Stores n in one page after the other in the n-th round. */
struct chaser {
	pthread_t thread;
	char *base;
	_Atomic uint64_t round;
	_Atomic size_t at;	/* pages of this round */
};

static void *chase(void *arg)
{
	struct chaser *ch = arg;
	uint64_t n;

	on_cpu(1);
	for (n = 1; !stop; n++) {
		while (ch->round < n && !stop)
			;
		for (; ch->at < SPAN / MEM_PAGE && !stop; ch->at++)
			*(volatile uint64_t *)(ch->base + PAGES(ch->at)) = n;
	}
	return NULL;
}

static bool each_page_has(const char *p, uint64_t n)
{
	size_t i;

	for (i = 0; i < SPAN; i += MEM_PAGE)
		if (*(volatile uint64_t *)(p + i) != n)
			return fail("page %zu has %lu, not %lu", i / MEM_PAGE,
				    *(volatile uint64_t *)(p + i), n);
	return true;
}

/*
 * He is fast where UNSHARE has been, since his stores take no fault there, and so
 * soon where it is copying: what it has copied and he has written since is his.
 */
TEST(store_to_a_page_being_copied_is_kept)
{
	struct chaser ch = { .base = mem_map_offset(SPAN, MEM_HUGE, 0) };
	double end = seconds() + 20;
	unsigned int overlaps = 0;
	struct cowsnap_unshare u;
	int fd = mem_open();
	size_t before;
	char *dup;

	ASSERT_LE(0, fd);
	ASSERT_NE(NULL, ch.base);
	memset(ch.base, 0, SPAN);
	stop = false;
	on_cpu(0);
	ASSERT_EQ(0, pthread_create(&ch.thread, NULL, chase, &ch));
	while (!stop && overlaps < 8 && seconds() < end) {
		dup = mem_dup(fd, ch.base, SPAN);
		ASSERT_NE(NULL, dup);
		ch.at = 0;
		ch.round++;
		before = ch.at;
		ASSERT_EQ(0, op_unshare(fd, ch.base, SPAN, 0, &u));
		overlaps += u.copied && ch.at != before;
		while (ch.at < SPAN / MEM_PAGE)
			sched_yield();
		each_page_has(ch.base, ch.round);
		each_page_has(dup, ch.round - 1);
		munmap(dup, SPAN);
	}
	stop = true;
	pthread_join(ch.thread, NULL);
	EXPECT_STREQ("", problem);
	EXPECT_LT(0, overlaps);
	TH_LOG("%lu rounds, %u of them during the call", ch.round, overlaps);
	close(fd);
}

/* The kernel checks the counters when it exits. */
TEST(kill_in_the_middle)
{
	int fd = mem_open(), i, status;
	struct cowsnap_unshare u;
	struct cowsnap_release r;
	struct cowsnap_sync s;
	char *src, *dup;
	pid_t pid;

	ASSERT_LE(0, fd);
	src = mem_map_offset(4 * MEM_HUGE, MEM_HUGE, 0);
	ASSERT_NE(NULL, src);
	mem_fill(src, 4 * MEM_HUGE, 1);
	for (i = 0; i < 12; i++) {
		pid = fork();
		if (!pid) {
			dup = mem_dup(fd, src, 4 * MEM_HUGE);
			while (dup) {
				op_unshare(fd, src, 4 * MEM_HUGE, 0, &u);
				op_sync(fd, src, dup, 4 * MEM_HUGE, &s);
				mem_fill(dup, PAGES(700), 2);
				op_release(fd, src, dup, 4 * MEM_HUGE, &r);
				dup = mem_dup(fd, src, 4 * MEM_HUGE);
			}
			_exit(1);
		}
		usleep(30000 + i * 17000);
		kill(pid, SIGKILL);
		ASSERT_EQ(pid, waitpid(pid, &status, 0));
		EXPECT_TRUE(WIFSIGNALED(status));
	}
	EXPECT_TRUE(mem_check(src, 4 * MEM_HUGE, 1));
	close(fd);
}

TEST_HARNESS_MAIN
