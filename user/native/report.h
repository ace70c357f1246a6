/* SPDX-License-Identifier: GPL-2.0 */
/* bench-native: results, as a table and as JSON. */
#ifndef NATIVE_REPORT_H
#define NATIVE_REPORT_H

#include "native.h"

#define MAX_ROUNDS	99

struct loop {
	const char *name;
	const char *title;
	enum state state;
	const struct way *kernel;
	const struct way *ours;
	bool fresh_dst;
};

/* ns a page of each round; sorted by nobody, rounds belong together. */
struct row {
	const struct loop *loop;
	const char *order;
	double kernel[MAX_ROUNDS];
	double one[MAX_ROUNDS];
	double two[MAX_ROUNDS];
};

struct report {
	const struct memory *m;
	struct row *rows;
	size_t nr;
	int rounds;
	int threads;
	uint64_t seed;
	unsigned int repeated;
};

void report_head(const struct report *report, FILE *f);
void report_row(const struct report *report, const struct row *row, FILE *f);
void report_foot(const struct report *report, FILE *f);
void report_json(const struct report *report, FILE *f);

#endif /* NATIVE_REPORT_H */
