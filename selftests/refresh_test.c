// SPDX-License-Identifier: GPL-2.0
/*
 * A snapshot that is refreshed again and again while other threads write to the
 * source: each refresh is of one instant, and in the end nothing has piled up.
 */
#include "counters.h"
#undef PAGES
#include "ops.h"

#define WRITERS		2
#define REFRESHES	250	/* COWSNAP_REFRESHES for more */

FIXTURE(refresh)
{
	int fd;
	struct counters c;
	struct writer writers[WRITERS];
	uint64_t saved[WRITERS][MAX_SLOTS];
};

FIXTURE_VARIANT(refresh)
{
	size_t len;
	unsigned int counters;
};

FIXTURE_VARIANT_ADD(refresh, large) { .len = RANGE, .counters = 16 };
/* What is flushed of the snapshot does not empty the whole TLB. */
FIXTURE_VARIANT_ADD(refresh, small) { .len = 16 * MEM_PAGE, .counters = 8 };

FIXTURE_SETUP(refresh)
{
	self->fd = mem_open();
	ASSERT_LE(0, self->fd);
	self->c.len = variant->len;
	self->c.base = mem_map_offset(variant->len, MEM_HUGE, 0);
	ASSERT_NE(NULL, self->c.base);
	place_counters(&self->c, variant->counters, SHUFFLED);
	mem_fill(self->c.base, variant->len, FILL_SEED);
	mem_drain();
}

FIXTURE_TEARDOWN(refresh)
{
	munmap(self->c.base, self->c.len);
	close(self->fd);
}

static bool refresh_once(FIXTURE_DATA(refresh) *self, char *dup, bool wait)
{
	uint64_t min[WRITERS];
	struct cowsnap_sync s;
	int w, err;

	for (w = 0; w < WRITERS; w++)
		min[w] = *counter(&self->c, self->c.base, self->c.nr - 1, w);
	err = op_sync(self->fd, self->c.base, dup, self->c.len, &s);
	if (err)
		return fail("SYNC: %s, reason %u", strerror(-err), s.reason);
	for (w = 0; w < WRITERS; w++)
		if (!one_instant(&self->c, dup, w, min[w],
				 *counter(&self->c, self->c.base, 0, w),
				 self->saved[w]))
			return false;
	if (wait)
		let_write(self->writers, WRITERS);
	for (w = 0; w < WRITERS; w++)
		if (!same_as_before(&self->c, dup, w, self->saved[w]))
			return false;
	return true;
}

static int refreshes(void)
{
	const char *nr = getenv("COWSNAP_REFRESHES");

	return nr ? atoi(nr) : REFRESHES;
}

TEST_F_TIMEOUT(refresh, is_of_one_instant_every_time, 600)
{
	struct mem_counters before, after;
	struct cowsnap_release r;
	int i, nr = refreshes();
	char *dup;

	mem_counters(&before);
	dup = mem_dup(self->fd, self->c.base, self->c.len);
	ASSERT_NE(NULL, dup);
	ASSERT_TRUE(start_writers(self->writers, WRITERS, &self->c, STORE));
	for (i = 0; i < nr && !stop; i++)
		/* The second of two finds all pages in TLBs, for writing. */
		if (!refresh_once(self, dup, /* wait= */i % 10 >= 8))
			break;
	stop_writers(self->writers, WRITERS);
	EXPECT_EQ(nr, i)
		TH_LOG("%s", problem);
	ASSERT_EQ(0, op_release(self->fd, self->c.base, dup, self->c.len, &r));
	EXPECT_EQ(0, op_faults_of_writes(self->c.base, self->c.len));
	mem_drain();
	mem_counters(&after);
	/* The stacks of the writers are cached for the next threads. */
	after.vm_size = before.vm_size;
	after.vm_data = before.vm_data;
	after.rss_anon = after.rss_anon - before.rss_anon < 128 ?
			 before.rss_anon : after.rss_anon;
	after.maps = before.maps;
	after.pte = before.pte;
	after.committed = before.committed;
	EXPECT_TRUE(mem_counters_equal(&before, &after));
}

TEST_HARNESS_MAIN
