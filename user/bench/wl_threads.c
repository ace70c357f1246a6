// SPDX-License-Identifier: GPL-2.0
/*
 * threads: operations shared out among several workers of the module, and those
 * that spare faults while other threads of the process run, all of which each
 * fault has to interrupt.
 */
#include <string.h>
#include <sys/mman.h>

#include <cowsnap.h>

#include "ops.h"

#define PARAMETER	"/sys/module/cowsnap/parameters/workers"
/* Where CPUs are emulated on fewer real ones, each fault may take milliseconds. */
#define COPY_SIZE	(env.emulated ? 2 * MIB : 64 * MIB)

static const struct method one_worker = { .name = "1 worker" };
static const struct method two_workers = { .name = "2 workers" };

static bool set_workers(const char *nr)
{
	FILE *f = fopen(PARAMETER, "we");

	if (!f)
		return false;
	fputs(nr, f);
	return !fclose(f);
}

static const char *all_operations(struct ops *o, struct region *r)
{
	const char *why = region_restore(r);
	char *snap;

	if (!why)
		why = op_remap(o, "REMAP", &snap);
	if (why)
		return why;
	why = op_sync(o, "SYNC, unchanged", snap);
	if (!why)
		why = op_diff(o, "DIFF, equal", snap, 0);
	if (why) {
		munmap(snap, r->len);
		return why;
	}
	why = op_release(o, "RELEASE", snap);
	if (!why)
		why = op_remap(o, NULL, &snap);
	if (why)
		return why;
	op_munmap(o, NULL, snap);
	return op_unshare(o, "UNSHARE, reuse", COWSNAP_UNSHARE_REUSE);
}

static void fork_once(struct ops *o, struct region *r)
{
	struct snap s;

	if (region_restore(r))
		return;
	place_undisturbed(true);
	if (!snap_take(&s, &method_fork, r)) {
		group_add(o->g, "REMAP", &method_fork, UNIT_TIME, s.take_ns);
		method_fork.drop(&s);
	}
	place_undisturbed(false);
}

/* In turns, so that a drifting machine favours neither. */
static void compare_workers(struct bench *b, struct ops *o, struct region *r)
{
	static const struct method *const as[] = { &one_worker, &two_workers };
	int turn, turns = b->repeat > 0 ? b->repeat : env.emulated ? 3 : 10;
	const char *why = NULL;
	char old[16] = "";
	FILE *f = fopen(PARAMETER, "re");
	unsigned int i;

	if (f && !fgets(old, sizeof(old), f))
		old[0] = 0;
	if (f)
		fclose(f);
	for (turn = 0; turn < turns && !why && !interrupted(); turn++) {
		for (i = 0; i < ARRAY_SIZE(as) && !why; i++) {
			progress("threads: %s, turn %d/%d", as[i]->name, turn + 1, turns);
			if (!set_workers(i ? "2" : "1"))
				why = "cannot write " PARAMETER;
			o->as = as[i];
			if (!why)
				why = all_operations(o, r);
		}
	}
	if (bench_chosen(b, &method_fork) && !interrupted())
		fork_once(o, r);
	if (old[0])
		set_workers(old);
	if (why)
		group_miss(o->g, &method_cowsnap, why);
}

static double median_of(const struct group *g, const char *metric, const struct method *m)
{
	size_t i;

	for (i = 0; i < g->nr; i++)
		if (g->figures[i].method == m && !strcmp(g->figures[i].metric, metric))
			return series_summary(&g->figures[i].series).median;
	return 0;
}

static void workers_one(struct bench *b, struct params *p, struct region *r)
{
	struct ops o = { .r = r };
	char name[24];
	double two;

	if (!bench_source(b, r, 1))
		return;
	o.g = report_begin(&b->report, "threads", p, "%s of %s pages, by one worker and by two",
			   size_name(r->len, name), page_names[r->page]);
	compare_workers(b, &o, r);
	bench_others(b, o.g);
	group_pages(o.g, NULL, region_pages(r));
	two = median_of(o.g, "REMAP", &two_workers);
	if (two > 0)
		group_note(o.g, "REMAP by two workers is %.2f times as fast as by one",
			   median_of(o.g, "REMAP", &one_worker) / two);
	report_end(&b->report, o.g);
	region_free(r);
}

static volatile bool stop_running;

static int other_cpu(unsigned int nr, void *arg)
{
	(void)arg;
	return place_cpu(nr + 1);
}

static void run_until_stopped(struct worker *w, void *arg)
{
	volatile uint64_t count = w->nr;

	(void)arg;
	while (!stop_running)
		count++;
}

/* An UNSHARE and the faults it spares, of a part that a snapshot shares. */
static const char *unshare_and_fault(struct ops *o, struct region *r)
{
	const char *why = region_restore(r);
	char *snap;

	if (!why)
		why = op_remap(o, NULL, &snap);
	if (why)
		return why;
	why = op_unshare(o, "UNSHARE, copy", 0);
	munmap(snap, r->len);
	if (!why)
		why = region_restore(r);
	if (!why)
		why = op_remap(o, NULL, &snap);
	if (why)
		return why;
	op_write_all(o, "UNSHARE, copy", NULL, &by_fault);
	op_munmap(o, NULL, snap);
	return NULL;
}

/* Taking back what nobody else has any more: no copy hides what a fault costs. */
static const char *reuse_and_fault(struct ops *o)
{
	char *snap;
	const char *why = op_remap(o, NULL, &snap);

	if (why)
		return why;
	op_munmap(o, NULL, snap);
	why = op_unshare(o, "UNSHARE, reuse", COWSNAP_UNSHARE_REUSE);
	if (!why)
		why = op_remap(o, NULL, &snap);
	if (why)
		return why;
	op_munmap(o, NULL, snap);
	op_write_all(o, "UNSHARE, reuse", NULL, &by_fault);
	return NULL;
}

static void beside_others(struct bench *b, struct params *p, struct region *r,
			  unsigned int others)
{
	int turn, turns = b->repeat > 0 ? b->repeat : env.emulated ? 3 : 10;
	struct ops o = { .r = r };
	const char *why = NULL;
	struct team team;
	char name[24];
	double ours;

	if (!bench_source(b, r, 2))
		return;
	o.g = report_begin(&b->report, "threads", p,
			   "%s of %s pages, while %u other threads of the process run",
			   size_name(r->len, name), page_names[r->page], others);
	stop_running = false;
	team_make(&team, others, run_until_stopped, NULL, other_cpu);
	team_go(&team);
	for (turn = 0; turn < turns && !why && !interrupted(); turn++) {
		progress("threads: %s, turn %d/%d", o.g->title, turn + 1, turns);
		why = unshare_and_fault(&o, r);
		if (!why)
			why = reuse_and_fault(&o);
	}
	stop_running = true;
	team_join(&team);
	bench_others(b, o.g);
	if (why && !interrupted())
		group_miss(o.g, &method_cowsnap, why);
	group_pages(o.g, NULL, region_pages(r));
	ours = median_of(o.g, "UNSHARE, copy", &method_cowsnap);
	if (ours > 0)
		group_note(o.g, "UNSHARE is %.2f times as fast as the same writes by fault",
			   median_of(o.g, "UNSHARE, copy", &by_fault) / ours);
	report_end(&b->report, o.g);
	region_free(r);
}

/* Without the module there is nothing to compare, but each method has its reason. */
static void leave_out(struct bench *b, const char *why)
{
	struct params p = {
		.page = page_names[PAGE_4K], .src_node = -1, .reader_node = -1,
		.writer_node = -1,
	};
	struct group *g = report_begin(&b->report, "threads", &p, "left out");

	if (bench_chosen(b, &method_cowsnap))
		group_miss(g, &method_cowsnap, why);
	if (bench_chosen(b, &method_fork))
		group_miss(g, &method_fork, "cowsnap, which it would be compared with, is not there");
	bench_others(b, g);
	report_end(&b->report, g);
}

static void threads_run(struct bench *b)
{
	/* Two workers pay for much memory only; among others it must not take minutes. */
	const size_t dflt = b->named ? 2 * GIB : env.emulated ? 32 * MIB : 256 * MIB;
	size_t sizes[32];
	unsigned int nr = bench_sizes(b, &dflt, 1, sizes), i;
	const char *why = method_missing(&method_cowsnap, 0, PAGE_4K);

	if (why || !bench_chosen(b, &method_cowsnap)) {
		leave_out(b, why);
		return;
	}
	place_bind(place_cpu(0));
	for (i = 0; i < nr && !interrupted(); i++) {
		struct params p = {
			.size = sizes[i], .page = page_names[PAGE_4K],
			.src_node = place_node(0), .reader_node = -1, .writer_node = -1,
		};
		struct region r = { .len = sizes[i], .page = PAGE_4K, .node = p.src_node };
		struct region part = {
			.len = sizes[i] < COPY_SIZE ? sizes[i] : COPY_SIZE,
			.page = PAGE_4K, .node = p.src_node,
		};

		workers_one(b, &p, &r);
		p.size = part.len;
		if (!interrupted())
			beside_others(b, &p, &part, 3);
	}
}

const struct workload wl_threads = {
	.name = "threads",
	.help = "operations by several workers, and beside other running threads",
	.run = threads_run,
};
