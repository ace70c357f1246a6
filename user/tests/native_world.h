/* SPDX-License-Identifier: GPL-2.0 */
#ifndef NATIVE_WORLD_H
#define NATIVE_WORLD_H

#include "shim.h"

#define NR_PAGES	1024
#define NR_ENTRIES	PTRS_PER_PTE
#define ANON_VMA	0xffff888000100000UL

/* All that a loop can change. */
struct world {
	struct page pages[NR_PAGES];
	pte_t src[NR_ENTRIES];
	pte_t dst[NR_ENTRIES];
};

extern struct world expected;	/* what the model says; the loops' is in vmemmap, src, dst */
extern pte_t *src, *dst;	/* each ends where memory ends */

void world_init(int argc, char **argv);
int world_done(void);
void ok(bool good, const char *what);
unsigned int below(unsigned int n);
bool one_in(unsigned int n);
pte_t random_entry(unsigned int odd);
void make_world(unsigned int odd);
void copy_world(void);
bool is_as_expected(void);
struct page *model_page(unsigned long pte);

#endif /* NATIVE_WORLD_H */
