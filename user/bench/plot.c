// SPDX-License-Identifier: GPL-2.0
/* Drawing through gnuplot: one process, fed by a pipe, one SVG a picture. */
#include <ctype.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "plot.h"

#define HEIGHT		440
/* What the legend takes of the width, at the right. */
#define LEGEND		185.0
#define LEFT		78.0
#define GAP		78.0

/* The same method has the same colour in each picture. */
static const unsigned int colours[] = {
	0x888888, 0x1f5fbf, 0x4fa3e0, 0x18b2b2, 0xd62728, 0x222222, 0x9467bd, 0xe377c2,
	0x2ca02c, 0x8c564b, 0xff7f0e, 0xbcbd22, 0x7f4f00,
};

unsigned int slot_colour(unsigned int slot)
{
	return colours[slot % ARRAY_SIZE(colours)];
}

static bool is_icount(const struct run *run)
{
	return !strncmp(text_of(run->env, "accelerator"), "icount", 6);
}

double plot_scale(const struct plot *p)
{
	return is_icount(p->run) ? 1 : 1e-9;
}

const char *plot_time_format(const struct plot *p)
{
	return is_icount(p->run) ? "%.0s %c" : "%.0s %cs";
}

void plot_text(struct plot *p, const char *s)
{
	fputc('\'', p->gnuplot);
	for (; *s; s++) {
		if (*s == '\'')
			fputc('\'', p->gnuplot);
		fputc(*s == '\n' ? ' ' : *s, p->gnuplot);
	}
	fputc('\'', p->gnuplot);
}

static struct picture *new_picture(struct plot *p, const char *what, const char *caption)
{
	struct pages *pages = p->pages;
	struct picture *pic;
	char *s;

	pages->pictures = realloc(pages->pictures,
				  (pages->nr_pictures + 1) * sizeof(*pages->pictures));
	if (!pages->pictures)
		die("out of memory for pictures");
	pic = &pages->pictures[pages->nr_pictures++];
	*pic = (struct picture){ .caption = strdup(caption), .run = p->run };
	if (asprintf(&pic->file, "%s-%s.svg", p->run->name, what) < 0)
		die("out of memory for pictures");
	for (s = pic->file; *s; s++)
		if (!isalnum((unsigned char)*s) && !strchr("._-", *s))
			*s = '_';
	return pic;
}

static void plot_line(struct plot *p, unsigned int nr, const char *text, const char *place)
{
	fprintf(p->gnuplot, "set label %u ", nr);
	plot_text(p, text);
	fprintf(p->gnuplot, " at screen 0.5, screen %s front\n", place);
}

/* Where it was measured: in the picture, so that it goes wherever that goes. */
static void plot_origin(struct plot *p)
{
	const char *label = run_label(p->run);
	char line[400];

	snprintf(line, sizeof(line), "%s, %s", text_of(p->run->env, "kernel"),
		 text_of(p->run->env, "topology"));
	plot_line(p, 100, label, "0.065 center font ',12' tc rgb '#b00000'");
	plot_line(p, 102, line, "0.025 center font ',11' tc rgb '#444444'");
}

void plot_begin(struct plot *p, const char *what, unsigned int panels, int width,
		const char *fmt, ...)
{
	char caption[256];
	struct picture *pic;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(caption, sizeof(caption), fmt, ap);
	va_end(ap);
	pic = new_picture(p, what, caption);
	p->panel = 0;
	p->panels = panels;
	memset(p->shown, 0, sizeof(p->shown));
	fprintf(p->gnuplot, "reset session\n"
		"set terminal svg size %d,%d font 'sans-serif,12' background 'white' noenhanced\n"
		"set output '%s'\n"
		"set multiplot\n", width, HEIGHT, pic->file);
	plot_line(p, 101, caption, "0.955 center font ',15'");
	plot_origin(p);
	fprintf(p->gnuplot, "width = %d.0\n", width);
}

void plot_panel(struct plot *p, const char *title)
{
	fprintf(p->gnuplot,
		"each = (width - %g - %u * %g) / %u\n"
		"set lmargin at screen (%g + %u * (each + %g)) / width\n"
		"set rmargin at screen (%g + %u * (each + %g) + each) / width\n"
		"set tmargin at screen 0.84\nset bmargin at screen 0.24\n"
		"set key off\nset title ", LEFT + LEGEND, p->panels - 1, GAP, p->panels,
		LEFT, p->panel, GAP, LEFT, p->panel, GAP);
	plot_text(p, title);
	fputs("\n", p->gnuplot);
	p->panel++;
}

/* Drawn over the whole picture by a plot of nothing. */
static void plot_legend(struct plot *p)
{
	unsigned int i;

	fputs("unset label\nunset title\nunset border\nunset tics\nunset xlabel\nunset ylabel\n"
	      "unset logscale\nunset colorbox\nunset grid\nset xrange [0:1]\nset yrange [0:1]\n"
	      "set key at screen 0.995, screen 0.85 right top Left reverse samplen 1.5 font ',11'\n"
	      "plot ", p->gnuplot);
	for (i = 0; i < method_slots() && i < ARRAY_SIZE(p->shown); i++)
		if (p->shown[i])
			fprintf(p->gnuplot, "NaN with linespoints lw 2 pt %u lc rgb '#%06x' title '%s', ",
				i + 1, slot_colour(i), slot_name(i));
	fputs("NaN notitle\n", p->gnuplot);
}

void plot_end(struct plot *p)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(p->shown); i++)
		if (p->shown[i]) {
			plot_legend(p);
			break;
		}
	fputs("unset multiplot\nunset output\n", p->gnuplot);
}

void plot_curves(struct plot *p, curve_fn curve, const void *arg)
{
	size_t points[17] = { 0 }, all = 0;
	unsigned int i;

	for (i = 0; i < method_slots() && i < ARRAY_SIZE(points); i++) {
		fprintf(p->gnuplot, "$d%u << END\n", i);
		points[i] = curve(p, slot_name(i), arg);
		fputs("END\n", p->gnuplot);
		all += points[i];
	}
	/* gnuplot ends when there is nothing to plot. */
	if (!all)
		return;
	fputs("plot ", p->gnuplot);
	for (i = 0; i < ARRAY_SIZE(points); i++) {
		if (!points[i])
			continue;
		p->shown[i] = true;
		fprintf(p->gnuplot, "$d%u using 1:2 with linespoints lw 2 ps 0.6 pt %u lc rgb '#%06x', ",
			i, i + 1, slot_colour(i));
	}
	fputs("NaN notitle\nunset label\n", p->gnuplot);
}

void pictures_make(struct pages *pages)
{
	struct plot p = { .pages = pages };
	int status = system("command -v gnuplot >/dev/null 2>&1");
	size_t i;

	if (status)
		die("gnuplot is not installed (Debian: apt-get install gnuplot-nox); the report draws with it");
	p.gnuplot = popen("gnuplot 2>gnuplot.log", "w");
	if (!p.gnuplot)
		die("gnuplot cannot be started");
	for (i = 0; i < pages->nr_runs; i++) {
		p.run = &pages->runs[i];
		draw_all(&p);
	}
	status = pclose(p.gnuplot);
	if (status)
		die("%s: gnuplot could not draw the pictures (status %d); see gnuplot.log there",
		    pages->dir, WIFEXITED(status) ? WEXITSTATUS(status) : -1);
	unlink("gnuplot.log");
}
