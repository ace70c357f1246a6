// SPDX-License-Identifier: GPL-2.0
/*
 * The module's inner loops: module/hot.h as it is, over a whole page table as
 * share.c, sync.c, diff.c, release.c and unshare.c go over one.
 */
#include "native.h"

#include "hot.h"

static struct hot_entries src_entries(struct work *work, const struct tables *t)
{
	return (struct hot_entries){ &work->mm, t->addr, t->src };
}

static struct hot_entries dst_entries(struct work *work, const struct tables *t)
{
	return (struct hot_entries){ &work->mm, t->addr + work->offset, t->dst };
}

static unsigned int share_table(struct work *work, const struct tables *t)
{
	hot_prefetch_first(t->src, PTRS_PER_PTE);
	return hot_share(t->src, dst_entries(work, t), PTRS_PER_PTE);
}

static unsigned int compare_table(struct work *work, const struct tables *t)
{
	(void)work;
	return hot_same(t->src, t->dst, PTRS_PER_PTE, /* dirty= */true);
}

static void put_pages(struct work *work)
{
	struct hot_dropped dropped = { work->gather->nr, work->gather->pages };

	hot_put(&dropped);
	work->gather->nr = dropped.nr;
}

/* release.c puts as many pages in a batch. */
#define RELEASE_BATCH	8192

static unsigned int drop_table(struct work *work, const struct tables *t)
{
	struct hot_dropped dropped = { work->gather->nr, work->gather->pages };
	unsigned int before = dropped.nr;

	hot_prefetch_first(t->dst, PTRS_PER_PTE);
	hot_drop(t->src, dst_entries(work, t), PTRS_PER_PTE, &dropped);
	work->gather->nr = dropped.nr;
	if (dropped.nr + PTRS_PER_PTE > RELEASE_BATCH)
		put_pages(work);
	return dropped.nr - before;
}

static unsigned int take_back_table(struct work *work, const struct tables *t)
{
	struct hot_taker taker = {
		.anon_vma = (unsigned long)work->src_vma.anon_vma +
			    PAGE_MAPPING_ANON,
	};

	hot_prefetch_first(t->src, PTRS_PER_PTE);
	hot_take_back(src_entries(work, t), PTRS_PER_PTE, &taker);
	return taker.taken;
}

const struct way hot_way_share = { .loop = share_table };
const struct way hot_way_compare = { .loop = compare_table };
const struct way hot_way_drop = { .loop = drop_table, .finish = put_pages };
const struct way hot_way_take_back = { .loop = take_back_table };
const struct way hot_way_release = {
	.loop = drop_table, .finish = put_pages, .again = take_back_table,
};
