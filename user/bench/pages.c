// SPDX-License-Identifier: GPL-2.0
/* cowsnap-bench report DIR: reads the results, says what they cover. */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pages.h"

const char *text_of(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "";
}

double number_of(const json_t *o, const char *key)
{
	return json_number_value(json_object_get(o, key));
}

const char *param_text(const json_t *figure, const char *key)
{
	return text_of(json_object_get(figure, "params"), key);
}

double param_number(const json_t *figure, const char *key)
{
	return number_of(json_object_get(figure, "params"), key);
}

bool figure_of(const json_t *figure, const char *workload, const char *metric)
{
	return !strcmp(text_of(figure, "workload"), workload) &&
	       (!metric || !strcmp(text_of(figure, "metric"), metric));
}

bool run_has(const struct run *run, const char *workload)
{
	json_t *f;
	size_t i;

	json_array_foreach(run->results, i, f)
		if (figure_of(f, workload, NULL))
			return true;
	return false;
}

const char *run_label(const struct run *run)
{
	if (!json_is_true(json_object_get(run->env, "emulated")))
		return "";
	if (!strncmp(text_of(run->env, "accelerator"), "icount", 6))
		return "emulated (icount): numbers of instructions, no times";
	return "emulated (TCG): compare methods, do not read times";
}

unsigned int method_slots(void)
{
	return nr_methods + 1;
}

const char *slot_name(unsigned int slot)
{
	return slot ? methods[slot - 1]->name : method_none.name;
}

size_t cell_figures(const struct pages *p, const char *workload, const char *method)
{
	size_t i, k, nr = 0;
	json_t *f;

	for (i = 0; i < p->nr_runs; i++)
		json_array_foreach(p->runs[i].results, k, f)
			nr += figure_of(f, workload, NULL) &&
			      !strcmp(text_of(f, "method"), method);
	return nr;
}

/* NULL: nobody said why there is no figure. */
const char *cell_reason(const struct pages *p, const char *workload,
			const struct method *m)
{
	json_t *f;
	size_t i, k;

	for (i = 0; i < p->nr_runs; i++)
		json_array_foreach(p->runs[i].missing, k, f)
			if (figure_of(f, workload, NULL) &&
			    !strcmp(text_of(f, "method"), m->name))
				return text_of(f, "why");
	for (i = 0; i < p->nr_runs && !m->variant; i++)
		if (run_has(&p->runs[i], workload) &&
		    json_is_true(json_object_get(p->runs[i].root, "interrupted")))
			return "the run was interrupted before its turn";
	return m->variant ? "a variant; here it would do what the method without the suffix does" :
	       NULL;
}

void pages_coverage(const struct pages *p, FILE *out)
{
	unsigned int i, k;

	fputs("figures of each method and workload, or why there are none:\n", out);
	for (i = 0; i < nr_workloads; i++)
		for (k = 0; k < nr_methods; k++) {
			const char *name = workloads[i]->name, *why;
			size_t nr = cell_figures(p, name, methods[k]->name);

			fprintf(out, "  %-11s %-15s ", name, methods[k]->name);
			why = cell_reason(p, name, methods[k]);
			if (nr)
				fprintf(out, "%zu\n", nr);
			else
				fprintf(out, "%s\n", why ? why : "EMPTY: was not run");
		}
}

static void read_run(struct pages *p, const char *file)
{
	json_error_t error;
	json_t *root = json_load_file(file, 0, &error);
	struct run *run;

	if (!root)
		die("%s/%s: no results: %s (line %d)", p->dir, file, error.text, error.line);
	/* Other JSON may lie there. */
	if (!json_is_array(json_object_get(root, "results"))) {
		json_decref(root);
		return;
	}
	p->runs = realloc(p->runs, (p->nr_runs + 1) * sizeof(*p->runs));
	if (!p->runs)
		die("out of memory for results");
	run = &p->runs[p->nr_runs++];
	*run = (struct run){
		.name = strndup(file, strlen(file) - strlen(".json")), .root = root,
		.env = json_object_get(root, "environment"),
		.results = json_object_get(root, "results"),
		.missing = json_object_get(root, "not_available"),
		.notes = json_object_get(root, "notes"),
	};
}

static int is_json(const struct dirent *e)
{
	size_t len = strlen(e->d_name);

	return len > 5 && e->d_name[0] != '.' && !strcmp(e->d_name + len - 5, ".json");
}

/* In the order of the table of workloads, then of names. */
static unsigned int order_of(const struct run *run)
{
	unsigned int i;

	for (i = 0; i < nr_workloads; i++)
		if (run_has(run, workloads[i]->name))
			break;
	return i;
}

static int compare_runs(const void *a, const void *b)
{
	const struct run *x = a, *y = b;
	int order = (int)order_of(x) - (int)order_of(y);

	return order ? order : strcmp(x->name, y->name);
}

static void read_runs(struct pages *p)
{
	struct dirent **list;
	int nr, i;

	if (chdir(p->dir))
		die("%s: %s", p->dir, strerror(errno));
	nr = scandir(".", &list, is_json, alphasort);
	if (nr < 0)
		die("%s: %s", p->dir, strerror(errno));
	for (i = 0; i < nr; i++) {
		read_run(p, list[i]->d_name);
		free(list[i]);
	}
	free(list);
	if (!p->nr_runs)
		die("%s: there are no results; --json writes them", p->dir);
	qsort(p->runs, p->nr_runs, sizeof(*p->runs), compare_runs);
}

int report_pages(int argc, char **argv)
{
	struct pages p = { 0 };
	FILE *f;

	if (argc != 1 || argv[0][0] == '-')
		die("report needs a directory; see --help");
	p.dir = argv[0];
	read_runs(&p);
	pictures_make(&p);
	f = fopen("report.html", "we");
	if (!f)
		die("%s/report.html: cannot write: %s", p.dir, strerror(errno));
	html_write(&p, f);
	if (fclose(f))
		die("%s/report.html: cannot write: %s", p.dir, strerror(errno));
	pages_coverage(&p, stdout);
	printf("%s/report.html: %zu pictures of %zu files\n", p.dir, p.nr_pictures, p.nr_runs);
	return 0;
}
