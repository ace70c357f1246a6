// SPDX-License-Identifier: GPL-2.0
/* Results as they come, as a table for people. At most 110 columns. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"

#define MOST_COLUMNS	110

struct figure *group_figure(struct group *g, const char *metric,
			    const struct method *m, enum unit unit)
{
	struct figure *f;
	size_t i;

	for (i = 0; i < g->nr; i++) {
		f = &g->figures[i];
		if (f->method == m && !strcmp(f->metric, metric))
			return f;
	}
	if (g->nr == g->cap) {
		g->cap = g->cap ? 2 * g->cap : 16;
		g->figures = realloc(g->figures, g->cap * sizeof(*g->figures));
		if (!g->figures)
			die("out of memory for results");
	}
	f = &g->figures[g->nr++];
	*f = (struct figure){ .metric = strdup(metric), .method = m, .unit = unit };
	return f;
}

void group_add(struct group *g, const char *metric, const struct method *m,
	       enum unit unit, double v)
{
	series_add(&group_figure(g, metric, m, unit)->series, v);
}

/* Names metrics of times in the order of the table, whatever is measured first. */
void group_order(struct group *g, const char *const *metrics, size_t nr)
{
	while (nr--)
		group_figure(g, *metrics++, NULL, UNIT_TIME);
}

void group_pages(struct group *g, const char *metric, size_t pages)
{
	size_t i;

	for (i = 0; i < g->nr; i++)
		if (!metric || !strcmp(g->figures[i].metric, metric))
			g->figures[i].pages = pages;
}

bool group_misses(const struct group *g, const struct method *m)
{
	unsigned int i;

	for (i = 0; i < g->nr_missing; i++)
		if (g->missing[i].method == m)
			return true;
	return false;
}

void group_miss(struct group *g, const struct method *m, const char *why)
{
	if (group_misses(g, m) || g->nr_missing == ARRAY_SIZE(g->missing))
		return;
	g->missing[g->nr_missing++] = (struct missing){ m, strdup(why) };
}

void group_note(struct group *g, const char *fmt, ...)
{
	va_list ap;

	char note[240];
	unsigned int i;

	va_start(ap, fmt);
	vsnprintf(note, sizeof(note), fmt, ap);
	va_end(ap);
	for (i = 0; i < g->nr_notes; i++)
		if (!strcmp(g->notes[i], note))
			return;
	if (g->nr_notes < ARRAY_SIZE(g->notes))
		g->notes[g->nr_notes++] = strdup(note);
}

struct group *report_begin(struct report *rep, const char *workload,
			   const struct params *p, const char *fmt, ...)
{
	struct group *g = calloc(1, sizeof(*g));
	va_list ap;

	if (rep->nr == rep->cap) {
		rep->cap = rep->cap ? 2 * rep->cap : 16;
		rep->groups = realloc(rep->groups, rep->cap * sizeof(*rep->groups));
	}
	if (!g || !rep->groups)
		die("out of memory for results");
	rep->groups[rep->nr++] = g;

	g->workload = workload;
	g->params = *p;
	va_start(ap, fmt);
	vsnprintf(g->title, sizeof(g->title), fmt, ap);
	va_end(ap);
	return g;
}

double figure_per_page(const struct figure *f)
{
	return f->pages ? f->sum.median / f->pages : 0;
}

const char *unit_name(enum unit unit)
{
	if (unit == UNIT_COUNT)
		return "count";
	if (unit == UNIT_PERCENT)
		return "%";
	if (unit == UNIT_MIB)
		return "MiB";
	return env.icount ? "instr" : "ns";
}

/* One scale for all methods of a metric, so that they compare at a glance. */
struct scale {
	double by;
	const char *name;
};

static struct scale scale_for(double ns)
{
	static const char *const time[] = { "ns", "us", "ms", "s" };
	static const char *const instr[] = { "instr", "kinstr", "Minstr", "Ginstr" };
	struct scale s = { .by = 1 };
	int i = 0;

	/* A median of 10 ms is shown in ms, one of 2 ms in us: four digits. */
	for (; i < 3 && ns >= 9999; i++, ns /= 1000)
		s.by *= 1000;
	s.name = env.icount ? instr[i] : time[i];
	return s;
}

static double fork_median(const struct group *g, const char *metric)
{
	size_t i;

	for (i = 0; i < g->nr; i++)
		if (g->figures[i].method == &method_fork &&
		    !strcmp(g->figures[i].metric, metric))
			return g->figures[i].sum.median;
	return 0;
}

static struct scale scale_of(const struct group *g, const char *metric)
{
	double base = fork_median(g, metric);
	size_t i;

	for (i = 0; i < g->nr && base <= 0; i++)
		if (!strcmp(g->figures[i].metric, metric))
			base = g->figures[i].sum.median;
	return scale_for(base);
}

const char *emulation_mark(void)
{
	return env.icount ? " (icount)" : env.emulated ? " (emulated)" : "";
}

static const char *number(double v, char buf[24])
{
	int digits = v >= 1000 || v == (long long)v ? 0 : v >= 100 ? 1 : 2;

	snprintf(buf, 24, "%.*f", digits, v);
	return buf;
}

static void print_row(FILE *out, const struct group *g, const struct figure *f,
		      bool first)
{
	struct scale scale = { 1, "" };
	char a[24], b[24], c[24], unit[32], page[40] = "-", ratio[32] = "-";

	if (f->unit == UNIT_TIME) {
		scale = scale_of(g, f->metric);
		snprintf(unit, sizeof(unit), "%s%s", scale.name, emulation_mark());
		if (f->pages)
			snprintf(page, sizeof(page), "%s %s",
				 number(figure_per_page(f), a), unit_name(UNIT_TIME));
	} else {
		snprintf(unit, sizeof(unit), "%s", unit_name(f->unit));
		if (f->pages)
			snprintf(page, sizeof(page), "%s",
				 number(figure_per_page(f), a));
	}
	if (f->ratio && f->ratio < 0.01)
		strcpy(ratio, "<0.01");
	else if (f->ratio)
		snprintf(ratio, sizeof(ratio), f->ratio < 10 ? "%.2f" : "%.0f", f->ratio);

	fprintf(out, "  %-21s %-15s %9s %9s %9s %5zu %-15s %11s %6s\n",
		first ? f->metric : "", f->method->name,
		number(f->sum.median / scale.by, a), number(f->sum.p99 / scale.by, b),
		number(f->sum.max / scale.by, c), f->sum.count, unit, page, ratio);
}

static void one_value(const struct figure *f, char *item, size_t n)
{
	if (f->sum.median < 0)
		snprintf(item, n, " %s cannot tell (needs root) ", f->method->name);
	else
		snprintf(item, n, " %s %.4g%s ", f->method->name, f->sum.median,
			 f->unit == UNIT_PERCENT ? " %" : f->unit == UNIT_MIB ? " MiB" : "");
}

/* All methods in one line, or in few: where there is one value and no ratio to speak of. */
static void print_line(FILE *out, const struct group *g, size_t from)
{
	size_t i;

	int at = fprintf(out, "  %-21s", g->figures[from].metric);
	char item[80];

	for (i = from; i < g->nr; i++) {
		const struct figure *f = &g->figures[i];

		if (!f->sum.count || strcmp(f->metric, g->figures[from].metric))
			continue;
		one_value(f, item, sizeof(item));
		if (at + strlen(item) > MOST_COLUMNS)
			at = fprintf(out, "\n  %-21s", "") - 1;
		at += fprintf(out, "%s", item);
	}
	fputc('\n', out);
}

/* Percentages, sizes, and counts when there was nothing to count. */
static bool fits_a_line(const struct group *g, size_t from)
{
	size_t i;

	if (g->figures[from].unit == UNIT_TIME)
		return false;
	for (i = from; i < g->nr && g->figures[from].unit == UNIT_COUNT; i++)
		if (!strcmp(g->figures[i].metric, g->figures[from].metric) &&
		    g->figures[i].sum.max)
			return false;
	return true;
}

static void print_metric(FILE *out, const struct group *g, size_t from)
{
	bool first = true;
	size_t i;

	for (i = from; i < g->nr; i++) {
		const struct figure *f = &g->figures[i];

		if (!f->sum.count || strcmp(f->metric, g->figures[from].metric))
			continue;
		print_row(out, g, f, first);
		first = false;
	}
}

static bool metric_seen(const struct group *g, size_t upto)
{
	size_t i;

	for (i = 0; i < upto; i++)
		if (!strcmp(g->figures[i].metric, g->figures[upto].metric))
			return true;
	return false;
}

static bool has_samples(const struct group *g, size_t from)
{
	size_t i;

	for (i = from; i < g->nr; i++)
		if (g->figures[i].sum.count &&
		    !strcmp(g->figures[i].metric, g->figures[from].metric))
			return true;
	return false;
}

static void print_group(FILE *out, const struct group *g)
{
	size_t i;

	fprintf(out, "\n%s: %s\n", g->workload, g->title);
	fprintf(out, "  %-21s %-15s %9s %9s %9s %5s %-15s %11s %6s\n", "what", "method",
		"median", "p99", "max", "n", "unit", "per page", "x fork");
	for (i = 0; i < g->nr; i++) {
		if (metric_seen(g, i) || !has_samples(g, i))
			continue;
		if (fits_a_line(g, i))
			print_line(out, g, i);
		else
			print_metric(out, g, i);
	}
	for (i = 0; i < g->nr_missing; i++)
		fprintf(out, "  %s: not available here: %s\n",
			g->missing[i].method->name, g->missing[i].why);
	for (i = 0; i < g->nr_notes; i++)
		fprintf(out, "  %s\n", g->notes[i]);
	fflush(out);
}

void report_end(struct report *rep, struct group *g)
{
	bool any = false;
	size_t i;

	for (i = 0; i < g->nr; i++)
		g->figures[i].sum = series_summary(&g->figures[i].series);
	for (i = 0; i < g->nr; i++) {
		struct figure *f = &g->figures[i];
		double base = fork_median(g, f->metric);

		if (base > 0 && (f->unit == UNIT_TIME || f->unit == UNIT_COUNT))
			f->ratio = f->sum.median / base;
		any |= f->sum.count > 0;
		/* A run may take many samples: only the summary stays. */
		series_free(&f->series);
	}
	progress_clear();
	if ((any || g->nr_missing) && !g->silent)
		print_group(rep->out, g);
	if (rep->save)
		rep->save();
}

void report_environment(struct report *rep)
{
	FILE *out = rep->out;

	fprintf(out, "cowsnap-bench " BENCH_VERSION "  %s\n", env.time);
	fprintf(out, "  kernel       %s\n", env.kernel);
	fprintf(out, "  cowsnap      %s\n", env.module);
	fprintf(out, "  CPU          %s\n", env.cpu);
	fprintf(out, "  accelerator  %s\n", env.accel);
	fprintf(out, "  topology     %s; %zu MiB memory\n", env.topology,
		env.memory / MIB);
	fprintf(out, "  pages        %zu bytes; THP %s; NUMA balancing %s\n", page_size,
		env.thp, env.balancing);
	fprintf(out, "  clock        %s, %.0f %s a reading\n", env.clock, env.clock_ns,
		unit_name(UNIT_TIME));
	fprintf(out, "  command      %s\n", env.command);
	fflush(out);
}

static bool progress_shown;

void progress_clear(void)
{
	if (progress_shown)
		fputs("\r\033[K", stderr);
	progress_shown = false;
}

void progress(const char *fmt, ...)
{
	va_list ap;

	if (!isatty(STDERR_FILENO))
		return;
	progress_clear();
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fflush(stderr);
	progress_shown = true;
}

void die(const char *fmt, ...)
{
	va_list ap;

	progress_clear();
	fputs("cowsnap-bench: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(2);
}

/* Valid until eight more were made: long enough to be passed up and reported. */
char *sentence(const char *fmt, ...)
{
	static char buf[8][320];
	static unsigned int next;
	char *s = buf[next++ % ARRAY_SIZE(buf)];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(s, sizeof(buf[0]), fmt, ap);
	va_end(ap);
	return s;
}
