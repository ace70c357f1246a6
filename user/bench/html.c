// SPDX-License-Identifier: GPL-2.0
/* One page that needs nothing beside it: pictures inline, then every figure. */
#include <stdlib.h>
#include <string.h>

#include "pages.h"

static const char style[] =
"<style>\n"
"body { font: 15px/1.45 sans-serif; max-width: 1200px; margin: 2em auto; padding: 0 1em; color: #222 }\n"
"img { max-width: 100%; height: auto; border: 1px solid #ddd; margin: .5em 0 }\n"
"table { border-collapse: collapse; font-size: 13px; margin: .5em 0 }\n"
"td, th { border: 1px solid #ccc; padding: 2px 7px; text-align: left; vertical-align: top }\n"
"td.n { text-align: right; font-variant-numeric: tabular-nums }\n"
"td.why { color: #777; font-size: 11px; max-width: 9em }\n"
"td.empty { background: #fbb }\n"
".label { color: #b00000; font-weight: bold }\n"
"summary { cursor: pointer; margin: .6em 0 }\n"
"</style>\n";

static void put_text(FILE *f, const char *s)
{
	for (; *s; s++)
		switch (*s) {
		case '<': fputs("&lt;", f); break;
		case '>': fputs("&gt;", f); break;
		case '&': fputs("&amp;", f); break;
		case '"': fputs("&quot;", f); break;
		default: fputc(*s, f);
		}
}

static void put_base64(FILE *f, FILE *in)
{
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	unsigned char b[3];
	size_t n;

	while ((n = fread(b, 1, sizeof(b), in))) {
		unsigned int v = b[0] << 16 | (n > 1 ? b[1] << 8 : 0) | (n > 2 ? b[2] : 0);

		fputc(digits[v >> 18], f);
		fputc(digits[v >> 12 & 63], f);
		fputc(n > 1 ? digits[v >> 6 & 63] : '=', f);
		fputc(n > 2 ? digits[v & 63] : '=', f);
	}
}

/* An image and no part of the page: SVGs of one page share names otherwise. */
static void put_picture(FILE *f, const struct picture *pic)
{
	FILE *in = fopen(pic->file, "re");

	if (!in)
		die("%s: gnuplot has not made it", pic->file);
	fputs("<figure><img alt=\"", f);
	put_text(f, pic->caption);
	fputs("\" src=\"data:image/svg+xml;base64,", f);
	put_base64(f, in);
	fputs("\"></figure>\n", f);
	fclose(in);
}

static void put_value(FILE *f, double v, const char *unit)
{
	static const char *const time[] = { "ns", "µs", "ms", "s" };
	unsigned int i = 0;

	if (!strcmp(unit, "ns")) {
		for (; i < 3 && v >= 1000; i++)
			v /= 1000;
		unit = time[i];
	}
	fprintf(f, "<td class=n>%.*f %s</td>", v >= 100 || v == (long long)v ? 0 : 2, v,
		strcmp(unit, "count") ? unit : "");
}

static void put_figure(FILE *f, const struct run *run, const json_t *fig)
{
	const char *unit = text_of(fig, "unit");
	bool emulated = json_is_true(json_object_get(fig, "emulated"));

	fputs("<tr><td>", f);
	put_text(f, text_of(fig, "metric"));
	fprintf(f, "</td><td>%s</td>", text_of(fig, "method"));
	put_value(f, number_of(fig, "median"), unit);
	put_value(f, number_of(fig, "p99"), unit);
	put_value(f, number_of(fig, "max"), unit);
	fprintf(f, "<td class=n>%.0f</td>", number_of(fig, "count"));
	if (json_object_get(fig, "per_page"))
		put_value(f, number_of(fig, "per_page"), unit);
	else
		fputs("<td></td>", f);
	if (json_object_get(fig, "ratio_to_fork"))
		fprintf(f, "<td class=n>%.2f</td>", number_of(fig, "ratio_to_fork"));
	else
		fputs("<td></td>", f);
	fprintf(f, "<td class=label>%s</td></tr>\n", !emulated ? "" :
		*run_label(run) && !strcmp(unit, "instr") ? "icount" : "TCG");
}

static void put_params(FILE *f, const json_t *params)
{
	const char *key;
	json_t *v;

	json_object_foreach((json_t *)params, key, v) {
		fprintf(f, " %s ", key);
		if (json_is_string(v))
			put_text(f, json_string_value(v));
		else
			fprintf(f, "%.0f", json_number_value(v));
	}
}

/* Groups follow each other in the file: a new table when the params change. */
static void put_figures(FILE *f, const struct run *run)
{
	const json_t *before = NULL;
	const char *workload = "";
	json_t *fig, *params;
	size_t i;

	json_array_foreach(run->results, i, fig) {
		params = json_object_get(fig, "params");
		if (!before || !json_equal(params, before) ||
		    strcmp(workload, text_of(fig, "workload"))) {
			workload = text_of(fig, "workload");
			fprintf(f, "%s<details><summary>%s:", before ? "</table></details>\n" : "",
				workload);
			put_params(f, params);
			fputs("</summary>\n<table><tr><th>what<th>method<th>median<th>p99<th>max"
			      "<th>n<th>per page<th>× fork<th></tr>\n", f);
			before = params;
		}
		put_figure(f, run, fig);
	}
	if (before)
		fputs("</table></details>\n", f);
}

static void put_lines(FILE *f, const json_t *list, const char *who, const char *what)
{
	json_t *o, *previous = NULL;
	size_t i;

	fputs("<ul>\n", f);
	json_array_foreach(list, i, o) {
		/* Each of many combinations may say the same. */
		if (previous && !strcmp(text_of(o, what), text_of(previous, what)) &&
		    !strcmp(text_of(o, who), text_of(previous, who)))
			continue;
		previous = o;
		fprintf(f, "<li>%s %s: ", text_of(o, "workload"), *who ? text_of(o, who) : "");
		put_text(f, text_of(o, what));
		fputs("</li>\n", f);
	}
	fputs("</ul>\n", f);
}

static void put_environment(FILE *f, const struct run *run)
{
	static const char *const keys[] = {
		"time", "command", "kernel", "module", "cpu", "accelerator", "topology",
		"thp", "numa_balancing", "clock",
	};
	size_t i;

	fputs("<details><summary>Where and how it was measured</summary><table>\n", f);
	for (i = 0; i < ARRAY_SIZE(keys); i++) {
		fprintf(f, "<tr><th>%s<td>", keys[i]);
		put_text(f, text_of(run->env, keys[i]));
		fputs("</tr>\n", f);
	}
	fputs("</table></details>\n", f);
}

static void put_coverage(FILE *f, const struct pages *p)
{
	unsigned int i, k;

	fputs("<h2>Figures of each method and workload, or why there are none</h2>\n"
	      "<table><tr><th>", f);
	for (k = 0; k < nr_methods; k++)
		fprintf(f, "<th>%s", methods[k]->name);
	fputs("</tr>\n", f);
	for (i = 0; i < nr_workloads; i++) {
		fprintf(f, "<tr><th>%s", workloads[i]->name);
		for (k = 0; k < nr_methods; k++) {
			const char *name = workloads[i]->name;
			size_t nr = cell_figures(p, name, methods[k]->name);
			const char *why = cell_reason(p, name, methods[k]);

			if (nr) {
				fprintf(f, "<td class=n>%zu", nr);
			} else {
				fputs(why ? "<td class=why>" : "<td class=empty>", f);
				put_text(f, why ? why : "was not run");
			}
		}
		fputs("</tr>\n", f);
	}
	fputs("</table>\n", f);
}

static void put_run(FILE *f, const struct pages *p, const struct run *run)
{
	size_t i;

	fputs("<h2>", f);
	put_text(f, run->name);
	fputs("</h2>\n", f);
	if (*run_label(run))
		fprintf(f, "<p class=label>%s</p>\n", run_label(run));
	if (json_is_true(json_object_get(run->root, "interrupted")))
		fputs("<p class=label>interrupted: not all of it was measured</p>\n", f);
	put_environment(f, run);
	for (i = 0; i < p->nr_pictures; i++)
		if (p->pictures[i].run == run)
			put_picture(f, &p->pictures[i]);
	put_figures(f, run);
	fputs("<details><summary>What is not there, and notes</summary>\n", f);
	put_lines(f, run->missing, "method", "why");
	put_lines(f, run->notes, "", "note");
	fputs("</details>\n", f);
}

void html_write(const struct pages *p, FILE *f)
{
	size_t i;

	fprintf(f, "<!DOCTYPE html>\n<html lang=en><meta charset=utf-8>\n"
		"<meta name=viewport content=\"width=device-width\">\n"
		"<title>cowsnap-bench</title>\n%s<h1>Ways to make a snapshot of memory</h1>\n", style);
	fputs("<p>By cowsnap-bench " BENCH_VERSION ". Medians, and beside them the 99th percentile, the "
	      "longest and the number of samples.</p>\n", f);
	put_coverage(f, p);
	for (i = 0; i < p->nr_runs; i++)
		put_run(f, p, &p->runs[i]);
	fputs("</html>\n", f);
}
