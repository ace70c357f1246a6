// SPDX-License-Identifier: GPL-2.0
/* The table of methods, and what methods of one process have in common. */
#include <string.h>
#include <sys/mman.h>

#include "bench.h"

/* Those with the same kind of region one after the other: it need not be made anew. */
const struct method *const methods[] = {
	&method_cowsnap,
	&method_cowsnap_release,
	&method_cowsnap_sync,
	&method_fork,
	&method_memcpy,
	&method_uffd_wp,
	&method_ksm,
	&method_mprotect,
	&method_remap_pages,
	&method_reflink,
};
const unsigned int nr_methods = ARRAY_SIZE(methods);

const struct method *method_find(const char *name)
{
	unsigned int i;

	for (i = 0; i < nr_methods; i++)
		if (!strcmp(methods[i]->name, name))
			return methods[i];
	return NULL;
}

const char *method_missing(const struct method *m, size_t len, enum page_kind page)
{
	if (m->pages && !(m->pages & 1u << page))
		return sentence("not for %s memory: %s", page_names[page], m->why_pages);
	return m->missing ? m->missing(len, page) : NULL;
}

static const char *failure;

/* From a signal handler, too: what comes first stays. */
void method_failed(const char *why)
{
	const char *none = NULL;

	__atomic_compare_exchange_n(&failure, &none, why, false, __ATOMIC_RELAXED,
				    __ATOMIC_RELAXED);
}

const char *method_failure(void)
{
	return __atomic_exchange_n(&failure, NULL, __ATOMIC_RELAXED);
}

const char *snap_take(struct snap *s, const struct method *m, const struct region *src)
{
	*s = (struct snap){ .method = m, .src = src, .addr = src->addr };
	return m->take(s);
}

void snap_run(struct snap *s, side_fn fn, void *arg)
{
	s->method->start(s, fn, arg);
	s->method->wait(s);
}

void snap_drop_part(struct snap *s, size_t offset, size_t len)
{
	if (s->method->drop_part)
		s->method->drop_part(s, offset, len);
	else
		munmap(s->addr + offset, len);
}

const char *snap_renew(struct snap *s)
{
	if (s->method->renew)
		return s->method->renew(s);
	s->method->drop(s);
	return snap_take(s, s->method, s->src);
}

static void read_each_page(struct snap *s, void *arg)
{
	size_t i;

	(void)arg;
	for (i = 0; i < s->src->len; i += page_size)
		(void)*(volatile char *)(s->addr + i);
}

double snap_shared(struct snap *s)
{
	snap_run(s, read_each_page, NULL);
	return place_shared(s->src, s->pid, s->addr);
}

static void *run_side(void *p)
{
	struct snap *s = p;

	s->fn(s, s->arg);
	return NULL;
}

void thread_start(struct snap *s, side_fn fn, void *arg)
{
	int err;

	s->fn = fn;
	s->arg = arg;
	err = pthread_create(&s->thread, NULL, run_side, s);
	if (err)
		die("cannot create a thread: %s", strerror(err));
}

void thread_wait(struct snap *s)
{
	pthread_join(s->thread, NULL);
}

void copy_drop(struct snap *s)
{
	uint64_t start = now_ns();

	if (s->unmapped)
		region_free_slack(&s->copy);
	else
		region_free(&s->copy);
	s->drop_ns = now_ns() - start;
}

/* No snapshot at all: its "snapshot side" sees the live memory. */

static const char *none_take(struct snap *s)
{
	(void)s;
	return NULL;
}

static void none_drop(struct snap *s)
{
	(void)s;
}

const struct method method_none = {
	.name = "none",
	.help = "no snapshot: the base line",
	.take = none_take,
	.start = thread_start,
	.wait = thread_wait,
	.drop = none_drop,
};
