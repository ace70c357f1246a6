/* SPDX-License-Identifier: GPL-2.0 */
#ifndef RESULTS_H
#define RESULTS_H

#include "bench.h"

/* Names may be NULL; "-" is stdout, and the table goes to stderr then. */
void results_open(struct report *rep, const char *json, const char *csv);
void results_close(void);

#endif
