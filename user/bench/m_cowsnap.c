// SPDX-License-Identifier: GPL-2.0
/* Method cowsnap: COWSNAP_REMAP, the snapshot is at another address. */
#include <stdint.h>
#include <sys/mman.h>

#include <cowsnap.h>

#include "bench.h"

static int device = -1;

int cowsnap_device(void)
{
	if (device < 0)
		device = cowsnap_open();
	return device;
}

static const char *cowsnap_missing(size_t len, enum page_kind page)
{
	static const unsigned int kind_of[NR_PAGE_KINDS] = {
		[PAGE_4K] = COWSNAP_KIND_ANON,
		[PAGE_THP] = COWSNAP_KIND_THP,
		[PAGE_HUGETLB] = COWSNAP_KIND_HUGETLB,
	};
	struct cowsnap_query q;

	(void)len;
	if (cowsnap_device() < 0 || cowsnap_query(device, &q))
		return cowsnap_error();
	if (!(q.kinds & kind_of[page]))
		return sentence("this module does not duplicate %s memory (QUERY.kinds 0x%x)",
				page_names[page], q.kinds);
	return NULL;
}

static const char *cowsnap_take(struct snap *s)
{
	struct cowsnap_remap r = {
		.src = (uintptr_t)s->src->addr,
		.len = s->src->len,
	};
	uint64_t start = now_ns();
	int err = cowsnap_remap(device, &r);

	s->take_ns = now_ns() - start;
	if (err)
		return cowsnap_error();
	s->addr = (char *)(uintptr_t)r.dst;
	return NULL;
}

static void cowsnap_drop(struct snap *s)
{
	uint64_t start = now_ns();

	if (!s->unmapped)
		munmap(s->addr, s->src->len);
	s->drop_ns = now_ns() - start;
}

const struct method method_cowsnap = {
	.name = "cowsnap",
	.help = "COWSNAP_REMAP of /dev/cowsnap; dropped by munmap",
	.shares = true,
	.missing = cowsnap_missing,
	.take = cowsnap_take,
	.start = thread_start,
	.wait = thread_wait,
	.drop = cowsnap_drop,
};
