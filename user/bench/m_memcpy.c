// SPDX-License-Identifier: GPL-2.0
/* Method memcpy: a full copy into fresh memory of the same page kind. */

#include "bench.h"

unsigned int copy_threads = 1;

struct copying {
	char *to;
	const char *from;
	size_t len;
};

static int copier_cpu(unsigned int nr, void *arg)
{
	(void)arg;
	return place_cpu(nr);
}

static void copy_part(struct worker *w, void *arg)
{
	struct copying *c = arg;
	size_t pages = c->len / page_size, nr = w->team->nr;
	size_t at = pages * w->nr / nr * page_size;
	size_t end = pages * (w->nr + 1) / nr * page_size;

	copy_memory(c->to + at, c->from + at, end - at);
}

/* Threads are made each time, which is in the time that is taken. */
static void copy_all(char *to, const char *from, size_t len)
{
	struct copying c = { .to = to, .from = from, .len = len };
	struct team team;

	if (copy_threads == 1) {
		copy_memory(to, from, len);
		return;
	}
	team_make(&team, copy_threads, copy_part, &c, copier_cpu);
	team_go(&team);
	team_join(&team);
}

static const char *memcpy_missing(size_t len, enum page_kind page)
{
	/* hugetlb has its own pool, which region_reserve() looks at. */
	return page == PAGE_HUGETLB ? NULL : memory_lacks(len, 1);
}

static const char *memcpy_take(struct snap *s)
{
	uint64_t start = now_ns();
	const char *why = region_reserve(&s->copy, s->src->len, s->src->page);

	if (why)
		return why;
	s->addr = s->copy.addr;
	copy_all(s->addr, s->src->addr, s->src->len);
	s->take_ns = now_ns() - start;
	return NULL;
}

static const char *memcpy_renew(struct snap *s)
{
	copy_all(s->addr, s->src->addr, s->src->len);
	return NULL;
}

static const char *memcpy_undo(struct snap *s)
{
	copy_all(s->src->addr, s->addr, s->src->len);
	return NULL;
}

const struct method method_memcpy = {
	.name = "memcpy",
	.help = "a full copy into fresh memory",
	.missing = memcpy_missing,
	.take = memcpy_take,
	.start = thread_start,
	.wait = thread_wait,
	.drop = copy_drop,
	.renew = memcpy_renew,
	.undo = memcpy_undo,
};
