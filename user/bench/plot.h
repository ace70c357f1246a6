/* SPDX-License-Identifier: GPL-2.0 */
/* What pictures have in common: gnuplot, its panels, its legend. */
#ifndef PLOT_H
#define PLOT_H

#include "pages.h"

struct plot {
	FILE *gnuplot;
	struct pages *pages;
	const struct run *run;
	unsigned int panel, panels;
	bool shown[17];		/* slots that the legend has */
};

/* All pictures that one run has, one after the other. */
void draw_all(struct plot *p);

void plot_begin(struct plot *p, const char *what, unsigned int panels, int width,
		const char *fmt, ...) __attribute__((format(printf, 5, 6)));
/* The next panel, from left to right. */
void plot_panel(struct plot *p, const char *title);
void plot_end(struct plot *p);

void plot_text(struct plot *p, const char *s);		/* quoted */
unsigned int slot_colour(unsigned int slot);
/* Times in the picture are seconds, instructions are themselves. */
double plot_scale(const struct plot *p);
const char *plot_time_format(const struct plot *p);
/* One line for each method: curve() prints points, and how many. */
typedef size_t (*curve_fn)(struct plot *p, const char *method, const void *arg);
void plot_curves(struct plot *p, curve_fn curve, const void *arg);

#endif
