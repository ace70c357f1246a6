// SPDX-License-Identifier: GPL-2.0
/* What all workloads do: choose sizes, make a source, let methods take turns. */
#include <string.h>

#include "bench.h"

const char *size_name(size_t size, char buf[24])
{
	if (size % GIB == 0)
		snprintf(buf, 24, "%zuG", size / GIB);
	else if (size % MIB == 0)
		snprintf(buf, 24, "%zuM", size / MIB);
	else
		snprintf(buf, 24, "%zuK", size / KIB);
	return buf;
}

unsigned int bench_sizes(struct bench *b, const size_t *dflt, unsigned int nr,
			 size_t *sizes)
{
	size_t size;

	if (b->any_size) {
		/* Source and a full copy have to fit. */
		for (nr = 0, size = MIB; nr < 31 && !memory_lacks(size, 2); size *= 4)
			sizes[nr++] = size;
		return nr;
	}
	if (b->nr_sizes) {
		dflt = b->sizes;
		nr = b->nr_sizes;
	}
	memcpy(sizes, dflt, nr * sizeof(*sizes));
	return nr;
}

unsigned int bench_pages(struct bench *b, const enum page_kind *dflt,
			 unsigned int nr, enum page_kind *pages)
{
	if (b->nr_pages) {
		dflt = b->pages;
		nr = b->nr_pages;
	}
	memcpy(pages, dflt, nr * sizeof(*pages));
	return nr;
}

void bench_each(struct bench *b, size_t size, enum page_kind page,
		void (*one)(struct bench *b, size_t size, enum page_kind page))
{
	enum page_kind pages[NR_PAGE_KINDS];
	size_t sizes[32];
	unsigned int nr = bench_sizes(b, &size, 1, sizes);
	unsigned int nr_pages = bench_pages(b, &page, 1, pages);
	unsigned int i, k;

	for (k = 0; k < nr_pages; k++)
		for (i = 0; i < nr && !interrupted(); i++)
			one(b, sizes[i], pages[k]);
}

bool bench_source(struct bench *b, struct region *r, unsigned int copies)
{
	const char *page = page_names[r->page], *why = NULL;
	char name[24];

	progress("%s of %s pages: making the source", size_name(r->len, name), page);
	if (r->page != PAGE_HUGETLB)	/* has a pool of its own */
		why = memory_lacks(r->len, copies);
	if (!why)
		why = region_make(r, r->len, r->page, r->node);
	if (!why)
		return true;

	progress_clear();
	fprintf(b->report.out, "\n%s of %s pages: left out: %s\n", name, page, why);
	if (!b->nr_sizes && !b->nr_pages && !b->named)
		return false;
	/* Asked for: say so where it is not overlooked, but keep the rest. */
	fprintf(stderr, "cowsnap-bench: %s of %s pages: %s\n", name, page, why);
	b->report.status = 2;
	return false;
}

bool bench_chosen(const struct bench *b, const struct method *m)
{
	unsigned int i;

	for (i = 0; i < b->nr_methods; i++)
		if (b->methods[i] == m)
			return true;
	return false;
}

void bench_others(struct bench *b, struct group *g)
{
	unsigned int i;

	for (i = 0; i < b->nr_methods; i++) {
		const struct method *m = b->methods[i];

		/* Variants of it, too, are what is measured here. */
		if (m != &method_fork && m != &method_cowsnap && !m->variant)
			group_miss(g, m, "it has none of the module's operations, which this is about");
	}
}

/* Why a method has no part in this comparison. */
static const char *stays_out(const struct turns *t, const struct method *m)
{
	const char *why = method_missing(m, t->src->len, t->src->page);

	if (!why && t->sharing)
		why = m->single;
	if (!why && t->sharing && m->slow)
		why = "each of its snapshots takes seconds: so many would take hours";
	if (!why && t->sharing && !m->shares)
		why = "each of its snapshots is a full copy: so many do not fit";
	return why;
}

static unsigned int line_up(struct bench *b, const struct turns *t,
			    const struct method **line)
{
	unsigned int i, nr = 0;

	if (t->with_none)
		line[nr++] = &method_none;
	for (i = 0; i < b->nr_methods; i++) {
		const struct method *m = b->methods[i];
		const char *why = stays_out(t, m);

		if (m->variant && !(m->variant & t->variants) && !b->methods_named)
			continue;
		if (why)
			group_miss(t->group, m, why);
		else
			line[nr++] = m;
	}
	return nr;
}

/* Not its own doing: nothing to compare with. */
static void discard_figures(struct group *g, const struct method *m)
{
	size_t i;

	for (i = 0; i < g->nr; i++)
		if (g->figures[i].method == m)
			series_free(&g->figures[i].series);
}

static void take_turn(struct bench *b, const struct turns *t, const struct method *m,
		      bool warm)
{
	const char *why = region_for(t->src, m), *failure;

	if (!why)
		why = t->fn(t->group, m, warm, t->arg);
	failure = method_failure();
	if (failure) {
		discard_figures(t->group, m);
		why = failure;
	}
	if (!why || interrupted())
		return;
	group_miss(t->group, m, why);
	if (!strncmp(why, "WRONG", 5))
		b->report.status = 1;
}

void bench_turns(struct bench *b, const struct turns *t)
{
	int warmup = b->warmup >= 0 ? b->warmup : !t->no_warmup;
	int repeat = b->repeat > 0 ? b->repeat : t->repeat;
	const struct method *line[ARRAY_SIZE(b->methods) + 1];
	unsigned int nr = line_up(b, t, line), i;
	int turn;

	for (turn = -warmup; turn < repeat; turn++) {
		for (i = 0; i < nr && !interrupted(); i++) {
			const struct method *m = line[i];

			if (group_misses(t->group, m))
				continue;
			/* Unless so many were asked for. */
			if (m->slow && b->repeat <= 0 && turn)
				continue;
			progress("%s: %s: %s %d/%d", t->group->workload, t->group->title,
				 m->name, turn + warmup + 1, warmup + repeat);
			take_turn(b, t, m, turn < 0);
		}
	}
}
