/* SPDX-License-Identifier: GPL-2.0 */
/*
 * cowsnap-bench report: files of results as --json writes them (pages.c), pictures
 * of them (plot.c, pictures.c), and the page (html.c).
 */
#ifndef PAGES_H
#define PAGES_H

#include <jansson.h>

#include "bench.h"

/* One file. */
struct run {
	char *name;		/* of the file, without .json: for names of pictures */
	json_t *root, *env, *results, *missing, *notes;
};

struct picture {
	char *file;
	char *caption;
	const struct run *run;
};

struct pages {
	const char *dir;
	struct run *runs;
	size_t nr_runs;
	struct picture *pictures;
	size_t nr_pictures;
};

/* Of a JSON object; "" and 0 when there is no such member. */
const char *text_of(const json_t *o, const char *key);
double number_of(const json_t *o, const char *key);
/* Of a figure's params. */
const char *param_text(const json_t *figure, const char *key);
double param_number(const json_t *figure, const char *key);
bool figure_of(const json_t *figure, const char *workload, const char *metric);
bool run_has(const struct run *run, const char *workload);

/* Empty on a real machine; else what has to stand beside each figure and picture. */
const char *run_label(const struct run *run);

/* Methods as they appear in pictures and tables: 0 is "none". */
unsigned int method_slots(void);
const char *slot_name(unsigned int slot);

/* Both sides of what is compared, as cell by cell: NULL is a figure or more. */
void pages_coverage(const struct pages *p, FILE *out);
size_t cell_figures(const struct pages *p, const char *workload, const char *method);
const char *cell_reason(const struct pages *p, const char *workload,
			const struct method *m);

/* Made in the current directory. */
void pictures_make(struct pages *p);
void html_write(const struct pages *p, FILE *f);

#endif
