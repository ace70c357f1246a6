// SPDX-License-Identifier: GPL-2.0
/*
 * Usage: preload-counts FILE
 * Print what the preload library counted into FILE, a line each: number, name,
 * meaning. The status is 1 when it found a promise broken, or nothing at all.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "counts.h"

static void print(uint64_t value, const char *name, const char *text)
{
	printf("%12" PRIu64 " %-12s %s\n", value, name, text);
}

int main(int argc, char **argv)
{
	FILE *file = argc == 2 ? fopen(argv[1], "r") : NULL;
	struct counts c;
	unsigned int i;
	char name[32];

	if (!file || fread(&c, sizeof(c), 1, file) != 1) {
		fprintf(stderr, "preload-counts: no counts\n");
		return 2;
	}
#define X(name, text)	print(c.name, #name, text);
	COUNTS(X)
#undef X
	for (i = 0; i < COUNT_REASONS; i++) {
		snprintf(name, sizeof(name), "reason_%u", i);
		if (c.reason[i])
			print(c.reason[i], name, "enum cowsnap_reason");
	}
	if (c.failures)
		printf("%.*s\n", (int)sizeof(c.failure), c.failure);
	return c.failures || !c.compared;
}
