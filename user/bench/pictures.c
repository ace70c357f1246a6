// SPDX-License-Identifier: GPL-2.0
/* The pictures: what of the results is drawn, and how. */
#include <string.h>

#include "plot.h"

static bool by_method(const json_t *f, const char *method)
{
	return !strcmp(text_of(f, "method"), method);
}

/* create: size against time, a panel for each kind of page. */

static size_t create_curve(struct plot *p, const char *method, const void *page)
{
	size_t i, nr = 0;
	json_t *f;

	json_array_foreach(p->run->results, i, f)
		if (figure_of(f, "create", "make") && by_method(f, method) &&
		    !strcmp(param_text(f, "page"), page)) {
			fprintf(p->gnuplot, "%.0f %.9g\n", param_number(f, "size"),
				number_of(f, "median") * plot_scale(p));
			nr++;
		}
	return nr;
}

static bool has_page(const struct run *run, const char *page)
{
	size_t i;
	json_t *f;

	json_array_foreach(run->results, i, f)
		if (figure_of(f, "create", "make") && !strcmp(param_text(f, "page"), page))
			return true;
	return false;
}

/* Half as small and twice as large as what there is: one size is no range. */
static void create_range(struct plot *p)
{
	double size, least = 0, most = 0;
	size_t i;
	json_t *f;

	json_array_foreach(p->run->results, i, f) {
		if (!figure_of(f, "create", "make"))
			continue;
		size = param_number(f, "size");
		if (!least || size < least)
			least = size;
		if (size > most)
			most = size;
	}
	fprintf(p->gnuplot, "set xrange [%.0f:%.0f]\n", least / 2, most * 2);
}

static void draw_create(struct plot *p)
{
	unsigned int i, panels = 0;

	for (i = 0; i < NR_PAGE_KINDS; i++)
		panels += has_page(p->run, page_names[i]);
	if (!panels)
		return;
	plot_begin(p, "create", panels, 420 + 280 * panels,
		   "Time to make a snapshot, against its size");
	fprintf(p->gnuplot, "set logscale x 2\nset logscale y\nset format x '%%.0b %%BB'\n"
		"set format y '%s'\nset xlabel 'size'\nset grid\nset xtics 4\n",
		plot_time_format(p));
	create_range(p);
	for (i = 0; i < NR_PAGE_KINDS; i++) {
		if (!has_page(p->run, page_names[i]))
			continue;
		plot_panel(p, sentence("%s pages", page_names[i]));
		plot_curves(p, create_curve, page_names[i]);
	}
	plot_end(p);
}

/* Latencies: how many of the writes took no longer than that. */

struct latency {
	const char *workload, *metric, *title;
};

static size_t latency_curve(struct plot *p, const char *method, const void *arg)
{
	const struct latency *l = arg;
	size_t i, k, nr = 0;
	json_t *f, *point;

	json_array_foreach(p->run->results, i, f) {
		/* Of several sizes, one. */
		if (!figure_of(f, l->workload, l->metric) || !by_method(f, method) || nr)
			continue;
		json_array_foreach(json_object_get(f, "quantiles"), k, point) {
			double v = json_number_value(json_array_get(point, 1));

			fprintf(p->gnuplot, "%.9g %.9g\n", (v > 1 ? v : 1) * plot_scale(p),
				100 * json_number_value(json_array_get(point, 0)));
			nr++;
		}
	}
	return nr;
}

static void draw_latencies(struct plot *p, const struct latency *l,
			   unsigned int nr)
{
	unsigned int i;

	fprintf(p->gnuplot, "set logscale x\nset format x '%s'\nset xlabel 'latency'\n"
		"set ylabel '%% of them'\nset yrange [0:100]\nset grid\nset xtics %u\n",
		plot_time_format(p), nr > 2 ? 100 : 10);
	for (i = 0; i < nr; i++) {
		plot_panel(p, l[i].title);
		plot_curves(p, latency_curve, &l[i]);
	}
	plot_end(p);
}

static void draw_touch(struct plot *p)
{
	static const struct latency panels[] = {
		{ "touch", "source, 1 writer", "by the source" },
		{ "touch", "snapshot, 1 writer", "by the snapshot" },
	};

	if (!run_has(p->run, "touch"))
		return;
	plot_begin(p, "touch", 2, 1000, "Latency of the first write to a page after a snapshot");
	draw_latencies(p, panels, ARRAY_SIZE(panels));
}

static void draw_pcp(struct plot *p)
{
	static const struct latency panels[] = {
		{ "pcp", "write, lists full", "per-CPU lists full" },
		{ "pcp", "write, lists empty", "empty" },
		{ "pcp", "write, lists draining", "emptied by another CPU" },
	};

	if (!run_has(p->run, "pcp"))
		return;
	plot_begin(p, "pcp", 3, 1200, "First writes, and the page allocator's per-CPU lists");
	draw_latencies(p, panels, ARRAY_SIZE(panels));
}

static void draw_migrate(struct plot *p)
{
	static const struct latency panels[] = {
		{ "migrate", "16 reads, nothing", "nothing" },
		{ "migrate", "16 reads, ksm", "KSM" },
		{ "migrate", "16 reads, compaction", "compaction" },
		{ "migrate", "16 reads, move_pages", "move_pages" },
	};

	if (!run_has(p->run, "migrate"))
		return;
	plot_begin(p, "migrate", 4, 1400,
		   "16 reads of the source by a pinned thread, while pages are moved by");
	draw_latencies(p, panels, ARRAY_SIZE(panels));
}

/* frequent: the share of pages that changed, against the time of a round. */

static size_t share_curve(struct plot *p, const char *method, const void *format)
{
	size_t i, nr = 0;
	double share;
	json_t *f;

	json_array_foreach(p->run->results, i, f)
		if (figure_of(f, "frequent", NULL) && by_method(f, method) &&
		    sscanf(text_of(f, "metric"), format, &share) == 1) {
			fprintf(p->gnuplot, "%g %.9g\n", share,
				number_of(f, "median") * plot_scale(p));
			nr++;
		}
	return nr;
}

static void draw_frequent(struct plot *p)
{
	if (!run_has(p->run, "frequent"))
		return;
	plot_begin(p, "frequent", 2, 1000,
		   "A snapshot after each round of writes, against the share of pages written");
	fprintf(p->gnuplot, "set logscale xy\nset format x '%%g %%%%'\nset format y '%s'\n"
		"set xlabel 'pages written'\nset grid\n", plot_time_format(p));
	plot_panel(p, "a round: writes and the next snapshot");
	plot_curves(p, share_curve, "round, %lf %%");
	plot_panel(p, "the next snapshot alone");
	plot_curves(p, share_curve, "of it renewing, %lf %%");
	plot_end(p);
}

/* numa: a square for each method, a field for each pair of nodes. */

#define MAX_NODES	8

struct numa_way {
	const char *policy, *balancing;
};

struct square {
	double sum[MAX_NODES][MAX_NODES];
	unsigned int nr[MAX_NODES][MAX_NODES];
	int nodes;
};

/* Of all pages of a side, what share is on the node of those that use it. */
static void fill_square(const struct run *run, const struct numa_way *way,
			const char *method, bool live, struct square *s)
{
	size_t i;
	json_t *f;

	*s = (struct square){ 0 };
	json_array_foreach(run->results, i, f) {
		int src = param_number(f, "src_node"), node;
		int user = param_number(f, live ? "writer_node" : "reader_node");

		if (!figure_of(f, "numa", NULL) || !by_method(f, method) ||
		    strcmp(param_text(f, "policy"), way->policy) ||
		    strcmp(param_text(f, "balancing"), way->balancing) ||
		    sscanf(text_of(f, "metric"), live ? "live on node %d" :
			   "snapshot on node %d", &node) != 1 || node != user ||
		    src < 0 || src >= MAX_NODES || user < 0 || user >= MAX_NODES)
			continue;
		s->sum[src][user] += number_of(f, "median");
		s->nr[src][user]++;
		if (src >= s->nodes || user >= s->nodes)
			s->nodes = (src > user ? src : user) + 1;
	}
}

static void draw_square(struct plot *p, const struct square *s, const char *users)
{
	int i, k;

	fputs("$s << END\n", p->gnuplot);
	for (i = 0; i < s->nodes; i++)
		for (k = 0; k < s->nodes; k++)
			if (s->nr[i][k])
				fprintf(p->gnuplot, "%d %d %.4g\n", k, i,
					s->sum[i][k] / s->nr[i][k]);
	fprintf(p->gnuplot, "END\nset xrange [-0.5:%d.5]\nset yrange [%d.5:-0.5]\nset xlabel '%s'\n"
		"plot $s using 1:2:(0.5):(0.5):3 with boxxyerror fs solid 1 border lc rgb 'white' lc palette, "
		"$s using 1:2:(sprintf('%%.0f', $3)) with labels font ',11'\nunset label\n",
		s->nodes - 1, s->nodes - 1, users);
}

static void draw_numa_side(struct plot *p, const struct numa_way *way, bool live)
{
	struct square s;
	unsigned int i, nr = 0;
	char what[64];

	for (i = 0; i < method_slots(); i++) {
		fill_square(p->run, way, slot_name(i), live, &s);
		nr += s.nodes > 1;
	}
	if (!nr)
		return;
	snprintf(what, sizeof(what), "numa-%s-%s-%s", live ? "live" : "snapshot", way->policy,
		 way->balancing);
	plot_begin(p, what, nr, 230 * nr + 300,
		   "%% of the %s pages that end up with their %s; policy %s, balancing %s",
		   live ? "live" : "snapshot's", live ? "writers" : "readers", way->policy,
		   way->balancing);
	fputs("set palette defined (0 '#f4f4f4', 100 '#55b06a')\nset cbrange [0:100]\n"
	      "unset colorbox\nset xtics 1\nset ytics 1\nset ylabel 'source on node'\n",
	      p->gnuplot);
	for (i = 0; i < method_slots(); i++) {
		fill_square(p->run, way, slot_name(i), live, &s);
		if (s.nodes <= 1)
			continue;
		plot_panel(p, slot_name(i));
		draw_square(p, &s, live ? "writers on node" : "readers on node");
		fputs("unset ylabel\n", p->gnuplot);
	}
	plot_end(p);
}

static void draw_numa(struct plot *p)
{
	static const struct numa_way ways[] = {
		{ "default", "off" }, { "default", "on" }, { "bind", "off" },
		{ "unshare", "off" },
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(ways) && run_has(p->run, "numa"); i++) {
		draw_numa_side(p, &ways[i], /* live= */true);
		draw_numa_side(p, &ways[i], /* live= */false);
	}
}

/* Bars: for each method some metrics of one workload. */

struct bars {
	const char *workload, *pattern, *title;
	const char *metrics[4];	/* as many as there are */
	bool times;
};

static bool bar_of(const struct run *run, const struct bars *b, const char *metric,
		   const char *method, double *v)
{
	size_t i;
	json_t *f;

	json_array_foreach(run->results, i, f) {
		if (!figure_of(f, b->workload, metric) || !by_method(f, method) ||
		    (b->pattern && strcmp(param_text(f, "pattern"), b->pattern)))
			continue;
		*v = number_of(f, "median");
		return true;
	}
	return false;
}

/* A line for each method that has one of them; how many lines, and the highest bar. */
static unsigned int bar_data(struct plot *p, const struct bars *b, double *highest)
{
	double scale = b->times ? plot_scale(p) : 1, v;
	unsigned int i, k, nr = 0;

	fputs("$b << END\n", p->gnuplot);
	for (i = 0; i < method_slots(); i++) {
		bool any = false;

		for (k = 0; k < ARRAY_SIZE(b->metrics) && b->metrics[k]; k++)
			any |= bar_of(p->run, b, b->metrics[k], slot_name(i), &v);
		if (!any)
			continue;
		fprintf(p->gnuplot, "%s", slot_name(i));
		for (k = 0; k < ARRAY_SIZE(b->metrics) && b->metrics[k]; k++)
			if (bar_of(p->run, b, b->metrics[k], slot_name(i), &v)) {
				fprintf(p->gnuplot, " %.9g", v * scale);
				if (v * scale > *highest)
					*highest = v * scale;
			} else {
				fputs(" NaN", p->gnuplot);
			}
		fputc('\n', p->gnuplot);
		nr++;
	}
	fputs("END\n", p->gnuplot);
	return nr;
}

static void draw_bars(struct plot *p, const struct bars *b)
{
	static const unsigned int colour[] = { 0x1f5fbf, 0xff7f0e, 0x2ca02c, 0x9467bd };
	double highest = 0;
	unsigned int k;

	plot_panel(p, b->title);
	if (!bar_data(p, b, &highest))
		return;
	fprintf(p->gnuplot, "set style data histogram\nset style histogram clustered gap 1\n"
		"set style fill solid 0.9\nset boxwidth 0.9\nset xtics rotate by -35 left font ',10'\n"
		"set yrange [0:%.9g]\nset grid y\nset format y '%s'\n"
		"set key inside top right Left reverse samplen 1 font ',10' opaque\nplot ",
		/* Above the bars there is room for the legend. */
		highest > 0 ? 1.4 * highest : 1, b->times ? plot_time_format(p) : "%g");
	for (k = 0; k < ARRAY_SIZE(b->metrics) && b->metrics[k]; k++)
		fprintf(p->gnuplot, "$b using %u:xtic(1) lc rgb '#%06x' title '%s', ", k + 2,
			colour[k], b->metrics[k]);
	fputs("NaN notitle\nunset label\n", p->gnuplot);
}

static void draw_checkpoint(struct plot *p)
{
	static const char *const patterns[] = { "strided", "contiguous" };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(patterns) && run_has(p->run, "checkpoint"); i++) {
		const struct bars times = {
			"checkpoint", patterns[i], "times",
			{ "snapshot made", "checkpoint complete", "workers done" }, true,
		}, faults = {
			"checkpoint", patterns[i], "faults of all threads and processes",
			{ "minor faults", "major faults", "faults after the drop" }, false,
		};
		double v;

		if (!bar_of(p->run, &times, times.metrics[2], method_none.name, &v) &&
		    !bar_of(p->run, &times, times.metrics[2], method_fork.name, &v))
			continue;
		plot_begin(p, patterns[i], 2, 1150,
			   "Checkpoint of an array that workers go on writing (%s)", patterns[i]);
		draw_bars(p, &times);
		draw_bars(p, &faults);
		plot_end(p);
	}
}

static void draw_refcount(struct plot *p)
{
	static const struct bars walk = {
		"refcount", NULL, "the walk", { "walk" }, true,
	}, memory = {
		"refcount", NULL, "memory of one side alone (USS, MiB)",
		{ "source USS before", "snapshot USS before", "source USS after",
		  "snapshot USS after" }, false,
	};

	if (!run_has(p->run, "refcount"))
		return;
	plot_begin(p, "refcount", 2, 1150,
		   "A walk over objects with reference counts, on the snapshot side");
	draw_bars(p, &walk);
	draw_bars(p, &memory);
	plot_end(p);
}

void draw_all(struct plot *p)
{
	draw_create(p);
	draw_touch(p);
	draw_checkpoint(p);
	draw_frequent(p);
	draw_numa(p);
	draw_refcount(p);
	draw_migrate(p);
	draw_pcp(p);
}
