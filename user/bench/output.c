// SPDX-License-Identifier: GPL-2.0
/* Results for programs: JSON, and CSV whose every row carries the environment. */
#include <jansson.h>
#include <string.h>

#include "bench.h"

static json_t *json_environment(void)
{
	return json_pack("{s:s, s:s, s:s, s:s, s:i, s:s, s:s, s:s, s:b, s:s, s:i, s:i,"
			 " s:I, s:I, s:s, s:s, s:s, s:f}",
			 "version", BENCH_VERSION, "time", env.time,
			 "command", env.command, "kernel", env.kernel,
			 "abi", env.abi, "module", env.module, "cpu", env.cpu,
			 "accelerator", env.accel, "emulated", env.emulated,
			 "topology", env.topology, "nodes", place_nodes(),
			 "cpus", place_cpus(), "memory", (json_int_t)env.memory,
			 "page_size", (json_int_t)page_size, "thp", env.thp,
			 "numa_balancing", env.balancing, "clock", env.clock,
			 "clock_ns", env.clock_ns);
}

static json_t *json_params(const struct params *p)
{
	json_t *o = json_object();

	json_object_set_new(o, "size", json_integer(p->size));
	json_object_set_new(o, "page", json_string(p->page));
	if (p->pattern)
		json_object_set_new(o, "pattern", json_string(p->pattern));
	if (p->writers)
		json_object_set_new(o, "writers", json_integer(p->writers));
	if (p->checkpointers)
		json_object_set_new(o, "checkpointers", json_integer(p->checkpointers));
	if (p->src_node >= 0)
		json_object_set_new(o, "src_node", json_integer(p->src_node));
	if (p->reader_node >= 0)
		json_object_set_new(o, "reader_node", json_integer(p->reader_node));
	if (p->writer_node >= 0)
		json_object_set_new(o, "writer_node", json_integer(p->writer_node));
	if (p->policy)
		json_object_set_new(o, "policy", json_string(p->policy));
	if (p->balancing)
		json_object_set_new(o, "balancing", json_string(p->balancing));
	return o;
}

/* As [share, value], where there are enough samples to speak of a distribution. */
static json_t *json_quantiles(const struct summary *sum)
{
	json_t *a = json_array();
	size_t i;

	for (i = 0; i < NR_QUANTILES; i++)
		json_array_append_new(a, json_pack("[f, f]", quantiles[i], sum->at[i]));
	return a;
}

static json_t *json_figure(const struct group *g, const struct figure *f)
{
	json_t *o = json_pack("{s:s, s:o, s:s, s:s, s:s, s:b, s:I, s:f, s:f, s:f, s:f, s:f}",
			      "workload", g->workload, "params", json_params(&g->params),
			      "metric", f->metric, "method", f->method->name,
			      "unit", unit_name(f->unit),
			      "emulated", env.emulated && f->unit == UNIT_TIME,
			      "count", (json_int_t)f->sum.count,
			      "median", f->sum.median, "p99", f->sum.p99,
			      "min", f->sum.min, "max", f->sum.max, "mean", f->sum.mean);

	if (f->pages) {
		json_object_set_new(o, "pages", json_integer(f->pages));
		json_object_set_new(o, "per_page", json_real(figure_per_page(f)));
	}
	if (f->ratio)
		json_object_set_new(o, "ratio_to_fork", json_real(f->ratio));
	if (f->sum.count >= NR_QUANTILES)
		json_object_set_new(o, "quantiles", json_quantiles(&f->sum));
	return o;
}

static json_t *json_missing(const struct group *g, const struct missing *m)
{
	return json_pack("{s:s, s:o, s:s, s:s}", "workload", g->workload,
			 "params", json_params(&g->params),
			 "method", m->method->name, "why", m->why);
}

static json_t *json_note(const struct group *g, const char *note)
{
	return json_pack("{s:s, s:o, s:s}", "workload", g->workload,
			 "params", json_params(&g->params), "note", note);
}

void output_json(const struct report *rep, FILE *f)
{
	json_t *results = json_array(), *missing = json_array(), *notes = json_array();
	json_t *root;
	size_t i, k;

	for (i = 0; i < rep->nr; i++) {
		const struct group *g = rep->groups[i];

		for (k = 0; k < g->nr; k++)
			if (g->figures[k].sum.count)
				json_array_append_new(results, json_figure(g, &g->figures[k]));
		for (k = 0; k < g->nr_missing; k++)
			json_array_append_new(missing, json_missing(g, &g->missing[k]));
		for (k = 0; k < g->nr_notes; k++)
			json_array_append_new(notes, json_note(g, g->notes[k]));
	}
	root = json_pack("{s:o, s:b, s:o, s:o, s:o}", "environment", json_environment(),
			 "interrupted", rep->interrupted, "results", results,
			 "not_available", missing, "notes", notes);
	if (!root || json_dumpf(root, f, JSON_INDENT(1) | JSON_REAL_PRECISION(10)))
		die("cannot write JSON");
	fputc('\n', f);
	json_decref(root);
}

static void csv_text(FILE *f, const char *s)
{
	fputc('"', f);
	for (; s && *s; s++) {
		if (*s == '"')
			fputc('"', f);
		fputc(*s, f);
	}
	fputs("\",", f);
}

static void csv_environment(FILE *f)
{
	csv_text(f, BENCH_VERSION);
	csv_text(f, env.time);
	csv_text(f, env.command);
	csv_text(f, env.kernel);
	fprintf(f, "%u,", env.abi);
	csv_text(f, env.module);
	csv_text(f, env.cpu);
	csv_text(f, env.accel);
	csv_text(f, env.topology);
	fprintf(f, "%u,%u,%zu,%zu,", place_nodes(), place_cpus(), env.memory, page_size);
	csv_text(f, env.thp);
	csv_text(f, env.balancing);
	csv_text(f, env.clock);
	fprintf(f, "%.4g", env.clock_ns);
}

static void csv_optional(FILE *f, int v, bool given)
{
	if (given)
		fprintf(f, "%d", v);
	fputc(',', f);
}

static void csv_head(FILE *f, const struct group *g, const char *metric,
		     const struct method *m)
{
	const struct params *p = &g->params;

	csv_text(f, g->workload);
	fprintf(f, "%zu,", p->size);
	csv_text(f, p->page);
	csv_text(f, p->pattern);
	csv_optional(f, p->writers, p->writers);
	csv_optional(f, p->checkpointers, p->checkpointers);
	csv_optional(f, p->src_node, p->src_node >= 0);
	csv_optional(f, p->reader_node, p->reader_node >= 0);
	csv_optional(f, p->writer_node, p->writer_node >= 0);
	csv_text(f, p->policy);
	csv_text(f, p->balancing);
	csv_text(f, metric);
	csv_text(f, m->name);
}

static void csv_figure(FILE *f, const struct group *g, const struct figure *fig)
{
	const struct summary *s = &fig->sum;

	csv_head(f, g, fig->metric, fig->method);
	csv_text(f, unit_name(fig->unit));
	fprintf(f, "%d,%zu,%.10g,%.10g,%.10g,%.10g,%.10g,",
		env.emulated && fig->unit == UNIT_TIME, s->count, s->median, s->p99,
		s->min, s->max, s->mean);
	if (fig->pages)
		fprintf(f, "%zu,%.10g,", fig->pages, figure_per_page(fig));
	else
		fputs(",,", f);
	if (fig->ratio)
		fprintf(f, "%.6g", fig->ratio);
	fputs(",,", f);
	csv_environment(f);
	fputc('\n', f);
}

static void csv_missing(FILE *f, const struct group *g, const struct missing *m)
{
	csv_head(f, g, "", m->method);
	fputs("\"\",,0,,,,,,,,,", f);
	csv_text(f, m->why);
	csv_environment(f);
	fputc('\n', f);
}

void output_csv(const struct report *rep, FILE *f)
{
	size_t i, k;

	fputs("workload,size,page,pattern,writers,checkpointers,src_node,reader_node,writer_node,"
	      "policy,balancing,metric,method,unit,emulated,count,median,p99,min,max,mean,pages,per_page,"
	      "ratio_to_fork,not_available,version,time,command,kernel,abi,module,cpu,"
	      "accelerator,topology,nodes,cpus,memory,page_size,thp,numa_balancing,clock,clock_ns\n",
	      f);
	for (i = 0; i < rep->nr; i++) {
		const struct group *g = rep->groups[i];

		for (k = 0; k < g->nr; k++)
			if (g->figures[k].sum.count)
				csv_figure(f, g, &g->figures[k]);
		for (k = 0; k < g->nr_missing; k++)
			csv_missing(f, g, &g->missing[k]);
	}
}
