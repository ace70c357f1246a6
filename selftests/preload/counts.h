/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the preload library counts, of all processes that it is loaded into, in
 * one shared file: nothing is lost when a program ends by _exit or a signal.
 */
#ifndef COWSNAP_PRELOAD_COUNTS_H
#define COWSNAP_PRELOAD_COUNTS_H

#include <stdint.h>

#define COUNTS(X)							\
	X(processes, "processes that the library was loaded into or that forked") \
	X(idle, "processes without a thread or without the device")	\
	X(rounds, "readings of the list of mappings")			\
	X(tried, "duplicates asked for")				\
	X(made, "duplicates made")					\
	X(holes, "of these with HOLES, over more than one mapping")	\
	X(readonly, "of these READONLY")				\
	X(shared, "pages shared")					\
	X(copied, "pages copied at once")				\
	X(refused, "duplicates refused, for the reasons below")		\
	X(skipped, "mappings left alone because a limit is near")	\
	X(traced, "pages found to be the source's, by frame or swap entry") \
	X(written, "pages that the program wrote to meanwhile")	\
	X(compared, "pages read twice and found unchanged")		\
	X(verified, "copied pages compared with their source")		\
	X(failures, "promises broken")

#define COUNT_REASONS	128

struct counts {
#define X(name, text)	uint64_t name;
	COUNTS(X)
#undef X
	uint64_t reason[COUNT_REASONS];
	char failure[512];	/* the first one, a sentence */
};

#define COUNTS_ENV	"COWSNAP_PRELOAD_COUNTS"

#endif
