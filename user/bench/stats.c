// SPDX-License-Identifier: GPL-2.0
/* Samples and what is said of them. */
#include <math.h>
#include <stdlib.h>

#include "bench.h"

void series_add(struct series *s, double v)
{
	if (s->nr == s->cap) {
		s->cap = s->cap ? 2 * s->cap : 16;
		s->v = realloc(s->v, s->cap * sizeof(*s->v));
		if (!s->v)
			die("out of memory for samples");
	}
	s->v[s->nr++] = v;
	s->sorted = false;
}

void series_free(struct series *s)
{
	free(s->v);
	*s = (struct series){ 0 };
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* What is written of each series: enough to draw its distribution. */
const double quantiles[NR_QUANTILES] = {
	0, 0.01, 0.05, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 0.95,
	0.98, 0.99, 0.995, 0.999, 1,
};

/* Nearest rank: always a value that was measured. */
static double quantile(const struct series *s, double q)
{
	size_t rank = (size_t)ceil(q * s->nr);

	return s->v[rank ? rank - 1 : 0];
}

struct summary series_summary(struct series *s)
{
	struct summary sum = { .count = s->nr };
	double total = 0;
	size_t i;

	if (!s->nr)
		return sum;
	if (!s->sorted)
		qsort(s->v, s->nr, sizeof(*s->v), compare);
	s->sorted = true;

	for (i = 0; i < s->nr; i++)
		total += s->v[i];
	sum.min = s->v[0];
	sum.max = s->v[s->nr - 1];
	sum.mean = total / s->nr;
	sum.median = s->nr % 2 ? s->v[s->nr / 2] :
		     (s->v[s->nr / 2 - 1] + s->v[s->nr / 2]) / 2;
	sum.p99 = quantile(s, 0.99);
	for (i = 0; i < NR_QUANTILES; i++)
		sum.at[i] = quantile(s, quantiles[i]);
	return sum;
}
