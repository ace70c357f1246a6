// SPDX-License-Identifier: GPL-2.0
/* Node by node: where pages end up, and what writing and reading costs there. */
#include <stdlib.h>
#include <string.h>

#include "matrix.h"

#define MAX_METHODS	16

struct row {
	const struct method *method;
	char *missing;
	struct cell cells[NR_MATRIX_SIDES][MATRIX_NODES][MATRIX_NODES];
};

struct matrix {
	struct row rows[MAX_METHODS];
	unsigned int nr;
};

struct matrix *matrix_make(void)
{
	struct matrix *m = calloc(1, sizeof(*m));

	if (!m)
		die("out of memory for results");
	return m;
}

void matrix_free(struct matrix *m)
{
	while (m->nr)
		free(m->rows[--m->nr].missing);
	free(m);
}

static struct row *row_of(struct matrix *m, const struct method *method)
{
	unsigned int i;

	for (i = 0; i < m->nr; i++)
		if (m->rows[i].method == method)
			return &m->rows[i];
	if (m->nr == MAX_METHODS)
		return NULL;
	m->rows[m->nr].method = method;
	return &m->rows[m->nr++];
}

static int index_of(int node)
{
	unsigned int i;

	for (i = 0; i < place_nodes() && i < MATRIX_NODES; i++)
		if (place_node(i) == node)
			return i;
	return -1;
}

struct cell *matrix_cell(struct matrix *m, const struct method *method,
			 enum matrix_side side, int src, int other)
{
	int row = index_of(src), column = index_of(other);
	struct row *r = row_of(m, method);

	return r && row >= 0 && column >= 0 ? &r->cells[side][row][column] : NULL;
}

void matrix_misses(struct matrix *m, const struct group *g)
{
	unsigned int i;

	for (i = 0; i < g->nr_missing; i++) {
		struct row *r = row_of(m, g->missing[i].method);

		if (r && !r->missing)
			r->missing = strdup(g->missing[i].why);
	}
}

/* "1:100" is all of them on node 1; "-" is no figure. */
static void print_place(FILE *out, const struct cell *c)
{
	unsigned int i, most = 0;
	char text[32] = "-";

	for (i = 1; i < MATRIX_NODES; i++)
		if (c->on[i] > c->on[most])
			most = i;
	if (c->nr)
		snprintf(text, sizeof(text), "%d:%.0f", place_node(most),
			 c->on[most] / c->nr);
	fprintf(out, " %8s", text);
}

static void print_cost(FILE *out, const struct cell *c)
{
	if (c->nr)
		fprintf(out, " %8.0f", c->ns / c->nr);
	else
		fprintf(out, " %8s", "-");
}

static unsigned int columns(void)
{
	return place_nodes() < MATRIX_NODES ? place_nodes() : MATRIX_NODES;
}

static void print_rows(const struct matrix *m, FILE *out,
		       void (*print)(FILE *out, const struct cell *c))
{
	unsigned int i, row, side, column;

	for (i = 0; i < m->nr; i++) {
		const struct row *r = &m->rows[i];

		for (row = 0; row < columns() && !r->missing; row++) {
			fprintf(out, "  %-15s %6d", row ? "" : r->method->name,
				place_node(row));
			for (side = 0; side < NR_MATRIX_SIDES; side++) {
				fputs("  ", out);
				for (column = 0; column < columns(); column++)
					print(out, &r->cells[side][row][column]);
			}
			fputc('\n', out);
		}
	}
}

static void print_head(FILE *out, const char *live, const char *snap)
{
	unsigned int side, column, width = 9 * columns();

	fprintf(out, "  %-15s %6s    %-*s   %s\n", "method", "source", width - 1, live, snap);
	fprintf(out, "  %-15s %6s", "", "on");
	for (side = 0; side < NR_MATRIX_SIDES; side++) {
		fputs("  ", out);
		for (column = 0; column < columns(); column++)
			fprintf(out, " %8d", place_node(column));
	}
	fputc('\n', out);
}

void matrix_print(const struct matrix *m, FILE *out, const char *title)
{
	unsigned int i;

	progress_clear();
	fprintf(out, "\nnuma: %s: where pages end up (node:%% of them there)\n", title);
	print_head(out, "live, writers on", "snapshot, readers on");
	print_rows(m, out, print_place);
	fprintf(out, "  and %s a page%s of writing and of reading all of it:\n",
		unit_name(UNIT_TIME), emulation_mark());
	print_head(out, "write, from", "read, from");
	print_rows(m, out, print_cost);
	for (i = 0; i < m->nr; i++)
		if (m->rows[i].missing)
			fprintf(out, "  %s: not available here: %s\n",
				m->rows[i].method->name, m->rows[i].missing);
	fflush(out);
}
