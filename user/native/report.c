// SPDX-License-Identifier: GPL-2.0
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "report.h"

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

struct summary {
	double best;
	double median;
};

static struct summary summary(const double *v, int nr)
{
	double sorted[MAX_ROUNDS];

	memcpy(sorted, v, nr * sizeof(*v));
	qsort(sorted, nr, sizeof(*sorted), compare);
	return (struct summary){
		sorted[0], (sorted[(nr - 1) / 2] + sorted[nr / 2]) / 2,
	};
}

/* How many times faster: of each round, for a machine's speed changes; median. */
static double ratio(const double *kernel, const double *ours, int nr)
{
	double ratios[MAX_ROUNDS];

	for (int i = 0; i < nr; i++)
		ratios[i] = kernel[i] / ours[i];
	return summary(ratios, nr).median;
}

static const char *cpu_name(void)
{
	static char line[256] = "";
	FILE *f = fopen("/proc/cpuinfo", "r");
	char *name = NULL;

	while (f && !name && fgets(line, sizeof(line), f))
		if (!strncmp(line, "model name", 10))
			name = strchr(line, ':');
	if (f)
		fclose(f);
	if (!name)
		return "unknown CPU";
	name[strcspn(name, "\n")] = 0;
	return name + 2;
}

static long last_cache(void)
{
	long size = sysconf(_SC_LEVEL3_CACHE_SIZE);

	return size > 0 ? size : sysconf(_SC_LEVEL2_CACHE_SIZE);
}

void report_head(const struct report *report, FILE *f)
{
	const struct memory *m = report->m;

	fprintf(f, "machine   %s, %d CPUs, last-level cache %ld MiB\n", cpu_name(),
		time_cpus(), last_cache() >> 20);
	fprintf(f, "memory    %zu MiB: %zu KiB of struct pages, %zu KiB of page tables\n",
		m->nr_pages >> 8, m->nr_pages * sizeof(struct page) >> 10,
		m->nr_tables * 2 * PAGE_SIZE >> 10);
	fprintf(f, "          %s\n", m->huge ? "on huge pages, as in the kernel" :
		"not on huge pages, so all figures have more TLB misses than the kernel");
	fprintf(f, "caches    flushed before each round\n");
	fprintf(f, "figures   ns a page, best (median) of %d rounds; how much faster: the median\n\n",
		report->rounds);
	fprintf(f, "%-18s%-20s%-25s", "", "kernel's loop", "cowsnap, one thread");
	fprintf(f, report->threads > 1 ? "two threads\n" : "\n");
}

static void print_ours(const struct report *report, const struct row *row,
		       const double *ours, FILE *f)
{
	struct summary s = summary(ours, report->rounds);

	fprintf(f, "   %6.2f (%6.2f) %5.2fx", s.best, s.median,
		ratio(row->kernel, ours, report->rounds));
}

void report_row(const struct report *report, const struct row *row, FILE *f)
{
	struct summary s = summary(row->kernel, report->rounds);

	fprintf(f, "  %-14s %6.2f (%6.2f)", row->order, s.best, s.median);
	print_ours(report, row, row->one, f);
	if (report->threads > 1)
		print_ours(report, row, row->two, f);
	fputc('\n', f);
	fflush(f);
}

void report_foot(const struct report *report, FILE *f)
{
	fprintf(f, "\n%s; %u disturbed rounds were repeated.\n",
		time_realtime ? "Other processes were kept off the CPUs (SCHED_FIFO)" :
		"Without root's rights others may get in between", report->repeated);
	if (report->threads == 1)
		fprintf(f, "Two threads need two CPUs.\n");
}

static json_t *json_values(const struct report *report, const double *v)
{
	struct summary s = summary(v, report->rounds);

	return json_pack("{s:f, s:f}", "best", s.best, "median", s.median);
}

static json_t *json_row(const struct report *report, const struct row *row)
{
	json_t *o = json_pack("{s:s, s:s, s:o, s:o, s:f}", "loop", row->loop->name,
			      "order", row->order,
			      "kernel", json_values(report, row->kernel),
			      "one_thread", json_values(report, row->one),
			      "ratio_one_thread",
			      ratio(row->kernel, row->one, report->rounds));

	if (report->threads > 1) {
		json_object_set_new(o, "two_threads", json_values(report, row->two));
		json_object_set_new(o, "ratio_two_threads",
				    json_real(ratio(row->kernel, row->two,
						    report->rounds)));
	}
	return o;
}

static json_t *json_environment(const struct report *report)
{
	const struct memory *m = report->m;
	struct utsname uts = { 0 };

	uname(&uts);
	return json_pack("{s:s, s:s, s:i, s:I, s:I, s:I, s:b, s:b, s:i, s:I, s:i}",
			 "cpu", cpu_name(), "kernel", uts.release, "cpus", time_cpus(),
			 "last_level_cache", (json_int_t)last_cache(),
			 "pages", (json_int_t)m->nr_pages,
			 "struct_pages",
			 (json_int_t)(m->nr_pages * sizeof(struct page)),
			 "huge_pages", m->huge, "realtime", time_realtime,
			 "rounds", report->rounds, "seed", (json_int_t)report->seed,
			 "repeated_rounds", (int)report->repeated);
}

void report_json(const struct report *report, FILE *f)
{
	json_t *rows = json_array(), *root;

	for (size_t i = 0; i < report->nr; i++)
		json_array_append_new(rows, json_row(report, &report->rows[i]));
	root = json_pack("{s:s, s:o, s:o}", "unit", "ns a page",
			 "environment", json_environment(report), "results", rows);
	if (!root || json_dumpf(root, f, JSON_INDENT(1) | JSON_REAL_PRECISION(12)))
		die("cannot write JSON");
	fputc('\n', f);
	json_decref(root);
	if (fflush(f))
		die("cannot write JSON");
}
