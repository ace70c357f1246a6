/* SPDX-License-Identifier: GPL-2.0 */
/* The tables of wl_numa.c, node by node. */
#ifndef MATRIX_H
#define MATRIX_H

#include "bench.h"

/* More columns do not fit a line. */
#define MATRIX_NODES	4

/* Rows are the source's nodes; columns the writers' or the readers'. */
enum matrix_side { MATRIX_LIVE, MATRIX_SNAP, NR_MATRIX_SIDES };

/* Sums; over the node that is neither row nor column, and over turns. */
struct cell {
	double on[MATRIX_NODES];	/* % of the pages on the i-th node */
	double ns;			/* a page, of writing or reading */
	unsigned int nr;
};

struct matrix;

struct matrix *matrix_make(void);
void matrix_free(struct matrix *m);
/* NULL when one of the nodes is not shown. */
struct cell *matrix_cell(struct matrix *m, const struct method *method,
			 enum matrix_side side, int src, int other);
/* The methods that group does not have are named once below the table. */
void matrix_misses(struct matrix *m, const struct group *g);
void matrix_print(const struct matrix *m, FILE *out, const char *title);

#endif
