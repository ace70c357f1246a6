/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Write access for who has a page alone, without a fault.
 */
#ifndef COWSNAP_REUSE_H
#define COWSNAP_REUSE_H

#include "compat.h"

bool cowsnap_may_write(struct vm_area_struct *vma, pte_t pte);
bool cowsnap_take_folio(struct folio *folio, struct vm_area_struct *vma);

/* Does the LRU batch of some CPU have a reference that may be the only other one? */
static inline bool cowsnap_in_lru_batch(struct folio *folio)
{
	return !folio_test_lru(folio) &&
	       folio_ref_count(folio) == 2 + folio_test_swapcache(folio);
}

#endif /* COWSNAP_REUSE_H */
