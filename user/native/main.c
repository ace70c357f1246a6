// SPDX-License-Identifier: GPL-2.0
/*
 * bench-native: what a page costs in the module's inner loops, and in the same
 * loops as the kernel writes them, on the CPU itself. Emulation shows neither
 * cache misses nor what a locked operation costs.
 */
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "native.h"
#include "report.h"

static const struct loop loops[] = {
	{ "share", "REMAP of pages that are not shared (fork)",
	  STATE_EXCLUSIVE, &kernel_share, &hot_way_share, true },
	{ "repeat", "REMAP of pages that are shared already (fork)",
	  STATE_SHARED, &kernel_share, &hot_way_share, true },
	{ "compare", "SYNC and DIFF of pages that are the same (one entry after the other)",
	  STATE_PAIRS, &kernel_compare, &hot_way_compare, false },
	{ "drop", "RELEASE, first pass: the duplicate goes (munmap)",
	  STATE_PAIRS, &kernel_unmap, &hot_way_drop, false },
	{ "take-back", "UNSHARE with REUSE, RELEASE's second pass (do_wp_page, without the fault)",
	  STATE_ALONE, &kernel_reuse, &hot_way_take_back, false },
	{ "release", "RELEASE, both passes (munmap alone)",
	  STATE_PAIRS, &kernel_unmap, &hot_way_release, false },
};

#define NR_LOOPS	(sizeof(loops) / sizeof(loops[0]))

static const char *const order_names[NR_ORDERS] = {
	"in page order", "runs of 16", "shuffled",
};

static struct options {
	size_t pages;
	int rounds;
	uint64_t seed;
	const char *json;
	bool wanted[NR_LOOPS];
} options = {
	.pages = 1UL << 19, .rounds = 9, .seed = 20261122,
	.wanted = { [0 ... NR_LOOPS - 1] = true },
};

static const char help[] =
"usage: bench-native [options]\n"
"The inner loops of module/hot.h beside the kernel's, ns a page.\n"
"  --size N       MiB of memory whose pages are dealt with (default 2048)\n"
"  --rounds N     of which best and median are told (default 9)\n"
"  --loops A,B    only these: share, repeat, compare, drop, take-back, release\n"
"  --seed N       of the physical order (default 20261122)\n"
"  --json FILE    the same for programs; - is stdout\n";

static long number(const char *name, const char *text, long min, long max)
{
	char *end;
	long n = strtol(text, &end, 10);

	if (*end || end == text || n < min || n > max)
		die("%s takes a number from %ld to %ld", name, min, max);
	return n;
}

/* --loops: take the names out of the list one by one. */
static void choose(char *list)
{
	char *name, *next;
	size_t i;

	memset(options.wanted, 0, sizeof(options.wanted));
	for (name = strtok_r(list, ",", &next); name;
	     name = strtok_r(NULL, ",", &next)) {
		for (i = 0; i < NR_LOOPS && strcmp(loops[i].name, name); i++)
			;
		if (i == NR_LOOPS)
			die("there is no loop \"%s\"", name);
		options.wanted[i] = true;
	}
}

static void parse(int argc, char **argv)
{
	static const struct option opts[] = {
		{ "size", required_argument, NULL, 's' },
		{ "rounds", required_argument, NULL, 'r' },
		{ "loops", required_argument, NULL, 'l' },
		{ "seed", required_argument, NULL, 'x' },
		{ "json", required_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "", opts, NULL)) != -1) {
		if (c == 's')
			options.pages = number("--size", optarg, 4, 1 << 20) << 8;
		else if (c == 'r')
			options.rounds = number("--rounds", optarg, 1, MAX_ROUNDS);
		else if (c == 'l')
			choose(optarg);
		else if (c == 'x')
			options.seed = number("--seed", optarg, 1, 1L << 40);
		else if (c == 'j')
			options.json = optarg;
		else if (c == 'h')
			exit(fputs(help, stdout) < 0);
		else
			exit(1);
	}
	if (optind < argc)
		die("there is no argument \"%s\"", argv[optind]);
}

/* A round that others got in between is not one. */
static double measure(const struct memory *m, const struct loop *loop,
		      const struct way *way, int threads, struct report *report)
{
	struct timing timing;
	int tries = 0;

	do {
		memory_reset(m, loop->state);
		memory_flush(m);
		timing = time_way(m, way, loop->fresh_dst, threads);
		report->repeated += timing.disturbed;
	} while (timing.disturbed && ++tries < 10);
	return timing.ns / m->nr_pages;
}

/* In turn, so that whatever slows the machine down slows down all of them. */
static struct row measure_row(const struct memory *m, const struct loop *loop,
			      struct report *report)
{
	struct row row = { .loop = loop };

	for (int i = 0; i < options.rounds; i++) {
		row.kernel[i] = measure(m, loop, loop->kernel, 1, report);
		row.one[i] = measure(m, loop, loop->ours, 1, report);
		if (report->threads > 1)
			row.two[i] = measure(m, loop, loop->ours, 2, report);
	}
	return row;
}

static void measure_all(struct memory *m, struct report *report, FILE *out)
{
	report_head(report, out);
	for (size_t i = 0; i < NR_LOOPS; i++) {
		if (!options.wanted[i])
			continue;
		fprintf(out, "%s: %s\n", loops[i].name, loops[i].title);
		for (int order = 0; order < NR_ORDERS; order++) {
			struct row *row = &report->rows[report->nr++];

			memory_order(m, order, options.seed);
			*row = measure_row(m, &loops[i], report);
			row->order = order_names[order];
			report_row(report, row, out);
		}
	}
	report_foot(report, out);
}

/* Before the minutes that it takes. On stdout the table would be in its way. */
static FILE *open_json(FILE **table)
{
	FILE *f;

	if (!options.json)
		return NULL;
	if (!strcmp(options.json, "-")) {
		*table = stderr;
		return stdout;
	}
	f = fopen(options.json, "w");
	if (!f)
		die("cannot write %s", options.json);
	return f;
}

int main(int argc, char **argv)
{
	struct report report = { 0 };
	FILE *out = stdout, *json;
	struct memory m;

	parse(argc, argv);
	json = open_json(&out);
	memory_init(&m, options.pages, options.seed);
	report.rows = calloc(NR_LOOPS * NR_ORDERS, sizeof(*report.rows));
	if (!report.rows)
		die("out of memory");
	report.m = &m;
	report.rounds = options.rounds;
	report.seed = options.seed;
	report.threads = time_cpus() > 1 ? 2 : 1;
	measure_all(&m, &report, out);
	if (json)
		report_json(&report, json);
	free(report.rows);
	memory_free(&m);
	return 0;
}
