// SPDX-License-Identifier: GPL-2.0
/*
 * Duplicating memory whose pages come and go meanwhile: each page of the duplicate
 * is one that the source had, and the source loses nothing.
 */
#include "counters.h"
#include "harness.h"

#define CHURN_PAGES	512
#define CHURNERS	4

enum churn { TOUCH, DROP, PAGEOUT, PROTECT };

struct churner {
	pthread_t thread;
	char *base;		/* its own part of the range */
	unsigned int nr;
	unsigned int first;	/* number of its first page */
	unsigned int ops;	/* bits of enum churn */
	uint64_t random;
	uint32_t gen[CHURN_PAGES];
	unsigned long done;
};

static uint64_t stamp(unsigned int page, uint32_t gen)
{
	return gen ? (uint64_t)gen << 32 | page : 0;
}

static void churn_page(struct churner *ch, unsigned int i, enum churn op)
{
	char *page = ch->base + i * MEM_PAGE;
	volatile uint64_t *head = (uint64_t *)page;
	volatile uint64_t *tail = (uint64_t *)(page + MEM_PAGE) - 1;

	switch (op) {
	case TOUCH:
		ch->gen[i]++;
		*head = stamp(ch->first + i, ch->gen[i]);
		*tail = stamp(ch->first + i, ch->gen[i]);
		break;
	case DROP:
		madvise(page, MEM_PAGE, MADV_DONTNEED);
		ch->gen[i] = 0;
		break;
	case PAGEOUT:
		madvise(page, MEM_PAGE, MADV_PAGEOUT);
		break;
	case PROTECT:
		mprotect(page, MEM_PAGE, PROT_READ);
		mprotect(page, MEM_PAGE, PROT_READ | PROT_WRITE);
		break;
	}
	if (*head != stamp(ch->first + i, ch->gen[i]) || *tail != *head)
		fail("the source lost page %u: %#lx %#lx, generation %u",
		     ch->first + i, *head, *tail, ch->gen[i]);
}

static void *churn(void *arg)
{
	struct churner *ch = arg;
	enum churn op;

	while (!stop) {
		do
			op = next_random(&ch->random) % 4;
		while (!(ch->ops & 1 << op));
		churn_page(ch, next_random(&ch->random) % ch->nr, op);
		ch->done++;
	}
	return NULL;
}

/* Some moment of each page's own life; then for ever. */
static bool check_churned(const char *dup, uint64_t *saved, bool again)
{
	unsigned int i;

	for (i = 0; i < CHURN_PAGES; i++) {
		const volatile uint64_t *head = (uint64_t *)(dup + i * MEM_PAGE);
		uint64_t h = *head, t = head[MEM_PAGE / 8 - 1];

		if (again && (h ^ t << 1) != saved[i])
			return fail("page %u of the duplicate changed", i);
		saved[i] = h ^ t << 1;
		if ((h && (uint32_t)h != i) || (t && (uint32_t)t != i) ||
		    t >> 32 > h >> 32 || (h >> 32) - (t >> 32) > (t ? 1U : ~0U))
			return fail("page %u of the duplicate has %#lx %#lx",
				    i, h, t);
	}
	return true;
}

FIXTURE(churn) {
	int fd;
	char *base;
	struct churner ch[CHURNERS];
};

FIXTURE_VARIANT(churn) {
	unsigned int ops;
	bool huge;
};

FIXTURE_VARIANT_ADD(churn, dontneed) {
	.ops = 1 << TOUCH | 1 << DROP,
};
FIXTURE_VARIANT_ADD(churn, pageout) {
	.ops = 1 << TOUCH | 1 << PAGEOUT,
};
FIXTURE_VARIANT_ADD(churn, mprotect) {
	.ops = 1 << TOUCH | 1 << PROTECT,
};
FIXTURE_VARIANT_ADD(churn, everything) {
	.ops = 1 << TOUCH | 1 << DROP | 1 << PAGEOUT | 1 << PROTECT,
};
FIXTURE_VARIANT_ADD(churn, everything_huge) {
	.ops = 1 << TOUCH | 1 << DROP | 1 << PAGEOUT | 1 << PROTECT,
	.huge = true,
};

FIXTURE_SETUP(churn)
{
	size_t len = CHURN_PAGES * MEM_PAGE;

	self->fd = mem_open();
	ASSERT_LE(0, self->fd);
	if (variant->ops & 1 << PAGEOUT && !mem_have_swap())
		SKIP(return, "no swap");
	self->base = variant->huge ? mem_map_huge(len) : mem_map(len);
	if (!self->base && variant->huge)
		SKIP(return, "no huge pages");
	ASSERT_NE(NULL, self->base);
	memset(self->base, 0, variant->huge ? len : 0);
}

FIXTURE_TEARDOWN(churn)
{
	close(self->fd);
}

/*
 * Whatever the other threads do to the very pages: each page of the duplicate
 * is one that the source had, and the source loses nothing.
 */
TEST_F(churn, each_page_is_zero_or_its_value)
{
	static uint64_t saved[CHURN_PAGES];
	double end = seconds() + SECONDS;
	unsigned int i, calls;
	char *dup;

	stop = false;
	for (i = 0; i < CHURNERS; i++) {
		struct churner *ch = &self->ch[i];

		ch->nr = CHURN_PAGES / CHURNERS;
		ch->first = i * ch->nr;
		ch->base = self->base + ch->first * MEM_PAGE;
		ch->ops = variant->ops;
		ch->random = i + 1;
		ASSERT_EQ(0, pthread_create(&ch->thread, NULL, churn, ch));
	}
	for (calls = 0; !stop && (seconds() < end || calls < 4); calls++) {
		dup = mem_dup(self->fd, self->base, CHURN_PAGES * MEM_PAGE);
		if (!dup) {
			fail("REMAP failed");
			break;
		}
		check_churned(dup, saved, false);
		if (calls % 4 == 0)
			usleep(500);
		check_churned(dup, saved, true);
		munmap(dup, CHURN_PAGES * MEM_PAGE);
	}
	stop = true;
	for (i = 0; i < CHURNERS; i++)
		pthread_join(self->ch[i].thread, NULL);
	ASSERT_STREQ("", problem);
	TH_LOG("%u calls, %lu changes by the first", calls, self->ch[0].done);
}

TEST_HARNESS_MAIN
