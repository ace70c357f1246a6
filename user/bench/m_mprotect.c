// SPDX-License-Identifier: GPL-2.0
/*
 * Method mprotect: copy-on-write by hand. The region is a shared mapping of a
 * memfd, the snapshot a second mapping of it. Both are protected: the source by
 * mprotect(2), and whoever writes there comes to a SIGSEGV handler, which has
 * the page copied into the snapshot before it lets go; the snapshot by being a
 * private mapping, in which the kernel copies what is written.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench.h"
#include "guard.h"

/* A snapshot, as the handler sees it. */
struct view {
	char *addr;
	bool *gone;		/* of each page: its side has unmapped it */
	struct view *next;
};

/* What a region is made of. */
struct source {
	struct guard guard;
	int fd;
	struct view *views;
};

/*
 * A store that changes nothing: the snapshot's page becomes one of its own. A
 * compare-and-exchange, since the snapshot's side may write there meanwhile.
 */
static void make_own(char *page)
{
	uint64_t *word = (uint64_t *)page, old = __atomic_load_n(word, __ATOMIC_RELAXED);

	__atomic_compare_exchange_n(word, &old, old, /* weak= */false, __ATOMIC_RELAXED,
				    __ATOMIC_RELAXED);
}

static void save_page(struct source *src, size_t i)
{
	struct view *v;

	for (v = src->views; v; v = v->next)
		if (!v->gone[i])
			make_own(v->addr + i * page_size);
}

static int protect(struct source *src, bool on)
{
	return mprotect(src->guard.addr, src->guard.len,
			on ? PROT_READ : PROT_READ | PROT_WRITE);
}

/* A mapping a page is too many: then it is a full copy, and whole again. */
static void save_all(struct source *src)
{
	size_t i;

	for (i = 0; i < src->guard.len / page_size; i++)
		save_page(src, i);
	if (protect(src, /* on= */false))
		die("mprotect: of all of the source: %s", strerror(errno));
	method_failed("the limit of mappings (vm.max_map_count) was reached");
}

static void write_page(struct guard *g, char *page)
{
	struct source *src = (struct source *)g;

	save_page(src, (page - g->addr) / page_size);
	if (mprotect(page, page_size, PROT_READ | PROT_WRITE))
		save_all(src);
}

static const char *reserve_memfd(struct region *r)
{
	struct source *src = calloc(1, sizeof(*src));
	char *addr = MAP_FAILED;
	int fd = memfd_create("cowsnap-bench", MFD_CLOEXEC);

	if (!src)
		die("out of memory for a region");
	if (fd >= 0 && !ftruncate(fd, r->len))
		addr = mmap(NULL, r->len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (addr == MAP_FAILED) {
		const char *why = sentence("a memfd of %zu MiB: %s", r->len / MIB,
					   strerror(errno));

		if (fd >= 0)
			close(fd);
		free(src);
		return why;
	}
	*src = (struct source){
		.guard = { .addr = addr, .len = r->len, .write = write_page }, .fd = fd,
	};
	guard_lock();
	guard_add(&src->guard);
	guard_unlock();
	r->addr = addr;
	r->map = addr;
	r->map_len = r->len;
	r->data = src;
	return NULL;
}

static void free_memfd(struct region *r)
{
	struct source *src = r->data;

	guard_lock();
	guard_remove(&src->guard);
	guard_unlock();
	munmap(r->map, r->map_len);
	close(src->fd);
	free(src);
}

static const struct backing memfd_backing = {
	.reserve = reserve_memfd,
	.free = free_memfd,
};

static const char *mprotect_missing(size_t len, enum page_kind page)
{
	(void)page;
	return memory_lacks(len, 1);
}

static struct view *make_view(size_t pages)
{
	struct view *v = calloc(1, sizeof(*v));

	if (v)
		v->gone = calloc(pages, sizeof(*v->gone));
	if (!v || !v->gone)
		die("out of memory for a snapshot");
	return v;
}

static void free_view(struct view *v)
{
	free(v->gone);
	free(v);
}

static const char *mprotect_take(struct snap *s)
{
	struct source *src = s->src->data;
	struct view *v = make_view(region_pages(s->src));
	uint64_t start = now_ns();
	const char *why = NULL;

	v->addr = mmap(NULL, s->src->len, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_NORESERVE, src->fd, 0);
	if (v->addr == MAP_FAILED) {
		why = sentence("mmap of the memfd: %s", strerror(errno));
		free_view(v);
		return why;
	}
	/* Who comes to the handler meanwhile waits until all is protected. */
	guard_lock();
	if (protect(src, /* on= */true))
		why = sentence("mprotect: %s", strerror(errno));
	v->next = src->views;
	src->views = v;
	guard_unlock();
	s->take_ns = now_ns() - start;
	s->addr = v->addr;
	s->data = v;
	if (why)
		s->method->drop(s);
	return why;
}

/* In one go with what the handler looks at: others may be mapped there next. */
static void mprotect_drop_part(struct snap *s, size_t offset, size_t len)
{
	struct view *v = s->data;

	guard_lock();
	memset(v->gone + offset / page_size, true, len / page_size);
	munmap(v->addr + offset, len);
	guard_unlock();
}

static void mprotect_drop(struct snap *s)
{
	struct source *src = s->src->data;
	struct view *v = s->data, **at = &src->views;
	uint64_t start = now_ns();

	guard_lock();
	while (*at != v)
		at = &(*at)->next;
	*at = v->next;
	if (!src->views && protect(src, /* on= */false))
		die("mprotect: %s", strerror(errno));
	guard_unlock();
	if (!s->unmapped)
		munmap(v->addr, s->src->len);
	s->drop_ns = now_ns() - start;
	free_view(v);
}

const struct method method_mprotect = {
	.name = "mprotect",
	.help = "two mappings of a memfd; a SIGSEGV handler has pages copied",
	.shares = true,
	.pages = 1 << PAGE_4K,
	.why_pages = "memory of a file, which it needs, has pages of 4 KiB here",
	.backing = &memfd_backing,
	.missing = mprotect_missing,
	.take = mprotect_take,
	.start = thread_start,
	.wait = thread_wait,
	.drop = mprotect_drop,
	.drop_part = mprotect_drop_part,
};
