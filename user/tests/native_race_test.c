// SPDX-License-Identifier: GPL-2.0
/*
 * The inner loops of module/hot.h beside somebody else who changes the same page
 * on another CPU, as reclaim does: neither loses what the other one does. With one
 * CPU that cannot fail. Prints TAP.
 */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "native_world.h"
#include "hot.h"

static struct hot_entries entries(pte_t *table, unsigned int first)
{
	static struct mm_struct mm;

	return (struct hot_entries){
		&mm, (unsigned long)first << PAGE_SHIFT, table + first,
	};
}

/* Somebody else, as reclaim, on another CPU: what he does to page 0 must last. */
struct other {
	void (*does)(struct other *other, struct folio *folio);
	pthread_t thread;
	bool stop;
	unsigned long lost;	/* flags that were not as he had left them */
	cpu_set_t cpus;		/* where he runs; we have another one, if there is one */
};

static void change_page(struct other *other, struct folio *folio)
{
	set_bit(PG_active, &folio->flags);
	other->lost += !test_bit(PG_active, &folio->flags);
	set_bit(PG_anon_exclusive, &folio->flags);
	for (unsigned int i = 0; i < 20; i++)
		folio_get(folio);
	other->lost += !test_bit(PG_active, &folio->flags);
	clear_bit(PG_active, &folio->flags);
	for (unsigned int i = 0; i < 20; i++)
		folio_put_testzero(folio);
	other->lost += test_bit(PG_active, &folio->flags);
}

/* Nobody takes a page for his own whose lock somebody else has. */
static void lock_page(struct other *other, struct folio *folio)
{
	set_bit(PG_active, &folio->flags);
	other->lost += !test_bit(PG_active, &folio->flags);
	clear_bit(PG_active, &folio->flags);
	other->lost += test_bit(PG_active, &folio->flags);
	if (!folio_trylock(folio))
		return;
	clear_bit(PG_anon_exclusive, &folio->flags);
	for (unsigned int i = 0; i < 20; i++)
		other->lost += test_bit(PG_anon_exclusive, &folio->flags);
	folio_unlock(folio);
}

static void *run_other(void *arg)
{
	struct folio *folio = (struct folio *)vmemmap;
	struct other *other = arg;

	sched_setaffinity(0, sizeof(other->cpus), &other->cpus);
	while (!__atomic_load_n(&other->stop, __ATOMIC_RELAXED))
		other->does(other, folio);
	return NULL;
}

/* Left alone, two threads may take turns on one CPU as long as others run. */
static void part_cpus(struct other *other)
{
	cpu_set_t all;
	int cpu = 0;

	sched_getaffinity(0, sizeof(all), &all);
	while (cpu < CPU_SETSIZE - 1 && !CPU_ISSET(cpu, &all))
		cpu++;
	CPU_ZERO(&other->cpus);
	CPU_SET(cpu, &other->cpus);
	CPU_CLR(cpu, &all);
	if (CPU_COUNT(&all))
		sched_setaffinity(0, sizeof(all), &all);
}

static void start_other(struct other *other, void (*does)(struct other *,
							  struct folio *))
{
	*other = (struct other){ .does = does };
	part_cpus(other);
	vmemmap[0] = (struct page){
		.mapping = (void *)(ANON_VMA + PAGE_MAPPING_ANON),
		._refcount = { 1 },
	};
	if (pthread_create(&other->thread, NULL, run_other, other)) {
		puts("Bail out! no thread");
		exit(1);
	}
}

/* Was nothing lost, on his side or on ours? */
static bool stop_other(struct other *other)
{
	__atomic_store_n(&other->stop, true, __ATOMIC_RELAXED);
	pthread_join(other->thread, NULL);
	return !other->lost && vmemmap[0]._mapcount.counter == 0 &&
	       vmemmap[0]._refcount.counter == 1;
}

/* All entries map the one page; afterwards all but one mapping is taken back. */
static bool share_one_page(void)
{
	for (unsigned int i = 0; i < NR_ENTRIES; i++) {
		src[i] = __pte(_PAGE_PRESENT | _PAGE_RW | _PAGE_DIRTY);
		dst[i] = __pte(0);
	}
	if (hot_share(src, entries(dst, 0), NR_ENTRIES) != NR_ENTRIES)
		return false;
	atomic64_sub(NR_ENTRIES * ((1L << 32) + 1), (atomic64_t *)&vmemmap[0]._mapcount);
	return true;
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static void share_loses_nothing_that_others_do_to_a_page(void)
{
	double end = now() + 0.5;
	struct other other;
	bool good = true;

	start_other(&other, change_page);
	while (now() < end)
		good = share_one_page() && good;
	good = stop_other(&other) && good;
	ok(good, "share: flags and counts that others change meanwhile are right");
}

/* Each time the entry is read-only and the page is not exclusive. */
static bool take_one_page(unsigned long *taken)
{
	struct hot_taker taker = { .anon_vma = ANON_VMA + PAGE_MAPPING_ANON };
	unsigned int i, writable = 0;

	for (i = 0; i < NR_ENTRIES; i++) {
		clear_bit(PG_anon_exclusive, &vmemmap[0].flags);
		src[i] = __pte(_PAGE_PRESENT | _PAGE_SAVED_DIRTY);
		hot_take_back(entries(src, i), 1, &taker);
		writable += pte_write(src[i]);
	}
	*taken += taker.taken;
	return writable == taker.taken;
}

static void take_back_leaves_locked_pages_alone(void)
{
	double end = now() + 0.5;
	unsigned long taken = 0;
	struct other other;
	bool good = true;

	start_other(&other, lock_page);
	while (now() < end)
		good = take_one_page(&taken) && good;
	good = stop_other(&other) && good && taken;
	ok(good, "take back: not while somebody else has the page's lock");
}

int main(int argc, char **argv)
{
	world_init(argc, argv);
	share_loses_nothing_that_others_do_to_a_page();
	take_back_leaves_locked_pages_alone();
	return world_done();
}
