// SPDX-License-Identifier: GPL-2.0
/*
 * Method remap-pages: rewired memory (Sharma, Schuhknecht, Dittrich: Accelerating
 * Analytical Processing in MVCC using Fine-Granular High-Frequency Virtual
 * Snapshotting, 2018, compare it with other ways to snapshot). The region is
 * mapped from a memfd page by page, in any order: a snapshot maps the same pages
 * of the file, and who writes to one gets a fresh page of the file in its place,
 * by mmap(2) over it. remap_file_pages(2), which was made for that, has been no
 * more than such an mmap() since Linux 4.0.
 *
 * The more pages have moved, the more mappings there are, each of which the next
 * snapshot has to repeat.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench.h"
#include "guard.h"

/* Pages of the file, most of which never exist. */
#define FILE_PAGES	(1u << 24)
#define GONE		UINT32_MAX	/* in at[]: not mapped from the file */
#define BALLAST_PAGES	16

/* A range that is mapped from the file: the source, or a snapshot. */
struct side {
	struct guard guard;
	struct pool *pool;
	uint32_t *at;		/* which page of the file each page is */
	struct side *next;	/* other snapshots */
};

/* What a region is made of. */
struct pool {
	struct side src;
	struct side *snaps;
	int fd;
	uint16_t *users;	/* of each page of the file */
	uint32_t top;		/* so many have been in use */
	uint32_t nr_free;	/* of these */
	uint32_t cursor;
	bool moved;
	char *ballast;		/* a mapping a page, thrown overboard to go on without */
};

/* Not to be touched before it is needed, nor moved. */
static void *reserve_array(size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		die("out of memory: mmap of %zu KiB: %s", len / KIB, strerror(errno));
	return p;
}

/*
 * In ascending order, so that pages written one after the other are one mapping
 * again; those that are free by then are looked for when they are many.
 */
static uint32_t claim_page(struct pool *p)
{
	if (p->nr_free <= p->top / 4 && p->top < FILE_PAGES) {
		p->users[p->top] = 1;
		return p->top++;
	}
	if (!p->nr_free)
		return GONE;
	while (p->users[p->cursor])
		p->cursor = (p->cursor + 1) % p->top;
	p->users[p->cursor] = 1;
	p->nr_free--;
	return p->cursor;
}

static void let_go(struct pool *p, uint32_t page)
{
	if (page != GONE && !--p->users[page])
		p->nr_free++;
}

static off_t offset_of(uint32_t page)
{
	return (off_t)page * page_size;
}

/* A page of the file of its own, with the same content, at the same address. */
static bool move_page(struct side *s, size_t i)
{
	struct pool *p = s->pool;
	char *addr = s->guard.addr + i * page_size;
	uint32_t page = claim_page(p);

	if (page == GONE)
		return false;
	if (pwrite(p->fd, addr, page_size, offset_of(page)) != (ssize_t)page_size ||
	    mmap(addr, page_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, p->fd,
		 offset_of(page)) == MAP_FAILED) {
		let_go(p, page);
		return false;
	}
	let_go(p, s->at[i]);
	s->at[i] = page;
	p->moved = true;
	return true;
}

/* The first page from i on that is mapped from the file, or the end. */
static size_t next_mapped(const struct side *s, size_t i)
{
	while (i < s->guard.len / page_size && s->at[i] == GONE)
		i++;
	return i;
}

/* Where the run of pages from i on ends: one behind the other in the file, too. */
static size_t run_end(const struct side *s, size_t i, bool in_order)
{
	size_t nr = s->guard.len / page_size, k = i + 1;

	while (k < nr && s->at[k] != GONE && (!in_order || s->at[k] == s->at[k - 1] + 1))
		k++;
	return k;
}

/* A snapshot becomes private memory, in place; its writers wait for the lock. */
static bool copy_snapshot(struct side *s)
{
	size_t i, end;

	for (i = next_mapped(s, 0); i < s->guard.len / page_size; i = next_mapped(s, end)) {
		char *addr = s->guard.addr + i * page_size, *copy;
		size_t len;

		end = run_end(s, i, /* in_order= */false);
		len = (end - i) * page_size;
		copy = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			    -1, 0);
		if (copy == MAP_FAILED || mprotect(addr, len, PROT_READ))
			return false;
		memcpy(copy, addr, len);
		if (mremap(copy, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, addr) != addr)
			return false;
		for (; i < end; i++) {
			let_go(s->pool, s->at[i]);
			s->at[i] = GONE;
		}
	}
	return true;
}

static void take_ballast(struct pool *p)
{
	size_t i;

	p->ballast = reserve_array(BALLAST_PAGES * page_size);
	for (i = 0; i < BALLAST_PAGES; i += 2)
		mprotect(p->ballast + i * page_size, page_size, PROT_NONE);
}

static void drop_ballast(struct pool *p)
{
	if (p->ballast)
		munmap(p->ballast, BALLAST_PAGES * page_size);
	p->ballast = NULL;
}

/*
 * A mapping a page is too many: full copies, and the source is its own alone.
 * Without the ballast the kernel would refuse the mappings that takes, too.
 */
static void give_up(struct pool *p)
{
	struct side *s;
	bool done = true;

	drop_ballast(p);
	for (s = p->snaps; s; s = s->next)
		done &= copy_snapshot(s);
	if (!done || mprotect(p->src.guard.addr, p->src.guard.len, PROT_READ | PROT_WRITE))
		die("remap-pages: pages can neither be moved nor copied: %s", strerror(errno));
	method_failed("the limit of mappings (vm.max_map_count) or of memory was reached");
}

static void write_page(struct guard *g, char *page)
{
	struct side *s = (struct side *)g;
	size_t i = (page - g->addr) / page_size;
	bool done;

	if (s->at[i] == GONE)
		return;
	if (s->pool->users[s->at[i]] == 1)
		done = !mprotect(page, page_size, PROT_READ | PROT_WRITE);
	else
		done = move_page(s, i);
	if (!done)
		give_up(s->pool);
}

static void free_pool(struct pool *p)
{
	drop_ballast(p);
	munmap(p->users, FILE_PAGES * sizeof(*p->users));
	munmap(p->src.at, p->src.guard.len / page_size * sizeof(*p->src.at));
	if (p->fd >= 0)
		close(p->fd);
	free(p);
}

static const char *reserve_pool(struct region *r)
{
	struct pool *p = calloc(1, sizeof(*p));
	char *addr = MAP_FAILED;
	const char *why;
	size_t i;

	if (!p)
		die("out of memory for a region");
	p->fd = memfd_create("cowsnap-bench", MFD_CLOEXEC);
	if (p->fd >= 0 && !ftruncate(p->fd, offset_of(FILE_PAGES)))
		addr = mmap(NULL, r->len, PROT_READ | PROT_WRITE, MAP_SHARED, p->fd, 0);
	why = addr == MAP_FAILED ? sentence("a memfd: %s", strerror(errno)) : NULL;
	p->src.pool = p;
	p->src.guard = (struct guard){ .addr = addr, .len = r->len, .write = write_page };
	p->src.at = reserve_array(region_pages(r) * sizeof(*p->src.at));
	p->users = reserve_array(FILE_PAGES * sizeof(*p->users));
	if (why) {
		free_pool(p);
		return why;
	}
	for (i = 0; i < region_pages(r); i++) {
		p->src.at[i] = i;
		p->users[i] = 1;
	}
	p->top = region_pages(r);
	take_ballast(p);
	guard_lock();
	guard_add(&p->src.guard);
	guard_unlock();
	r->addr = addr;
	r->map = addr;
	r->map_len = r->len;
	r->data = p;
	return NULL;
}

static void free_memory(struct region *r)
{
	struct pool *p = r->data;

	guard_lock();
	guard_remove(&p->src.guard);
	guard_unlock();
	munmap(r->map, r->map_len);
	free_pool(p);
}

static bool has_moved(const struct region *r)
{
	return ((struct pool *)r->data)->moved;
}

static const struct backing pool_backing = {
	.reserve = reserve_pool,
	.free = free_memory,
	.worn = has_moved,
};

static const char *remap_missing(size_t len, enum page_kind page)
{
	(void)page;
	if (len / page_size > FILE_PAGES / 2)
		return sentence("the file it moves pages about in holds %zu MiB",
				FILE_PAGES / 2 * page_size / MIB);
	return memory_lacks(len, 1);
}

/* As many mappings as the source has. */
static const char *map_snapshot(struct side *s)
{
	const struct side *src = &s->pool->src;
	size_t i, end, nr = s->guard.len / page_size;

	s->guard.addr = mmap(NULL, s->guard.len, PROT_READ, MAP_SHARED, s->pool->fd,
			     offset_of(src->at[0]));
	if (s->guard.addr == MAP_FAILED)
		return sentence("mmap of the memfd: %s", strerror(errno));
	for (i = run_end(src, 0, /* in_order= */true); i < nr; i = end) {
		end = run_end(src, i, /* in_order= */true);
		if (mmap(s->guard.addr + i * page_size, (end - i) * page_size, PROT_READ,
			 MAP_SHARED | MAP_FIXED, s->pool->fd,
			 offset_of(src->at[i])) == MAP_FAILED) {
			int err = errno;

			munmap(s->guard.addr, s->guard.len);
			return sentence("a mapping for each piece of the memfd: %s",
					strerror(err));
		}
	}
	return NULL;
}

static void share_pages(struct side *s)
{
	size_t i, nr = s->guard.len / page_size;

	memcpy(s->at, s->pool->src.at, nr * sizeof(*s->at));
	for (i = 0; i < nr; i++)
		s->pool->users[s->at[i]]++;
	s->next = s->pool->snaps;
	s->pool->snaps = s;
	guard_add(&s->guard);
}

static const char *remap_take(struct snap *s)
{
	struct pool *p = s->src->data;
	struct side *side = calloc(1, sizeof(*side));
	uint64_t start = now_ns();
	const char *why = NULL;

	if (!side)
		die("out of memory for a snapshot");
	side->pool = p;
	side->guard = (struct guard){ .len = s->src->len, .write = write_page };
	side->at = reserve_array(region_pages(s->src) * sizeof(*side->at));

	/* Who comes to the handler meanwhile waits until all is protected. */
	guard_lock();
	if (mprotect(s->src->addr, s->src->len, PROT_READ))
		why = sentence("mprotect: %s", strerror(errno));
	if (!why)
		why = map_snapshot(side);
	if (!why)
		share_pages(side);
	else if (!p->snaps)
		mprotect(s->src->addr, s->src->len, PROT_READ | PROT_WRITE);
	guard_unlock();
	s->take_ns = now_ns() - start;
	s->addr = side->guard.addr;
	s->data = side;
	if (why) {
		munmap(side->at, region_pages(s->src) * sizeof(*side->at));
		free(side);
	}
	return why;
}

/* In one go with what the handler looks at: others may be mapped there next. */
static void remap_drop_part(struct snap *s, size_t offset, size_t len)
{
	struct side *side = s->data;
	size_t i;

	guard_lock();
	for (i = offset / page_size; i < (offset + len) / page_size; i++) {
		let_go(side->pool, side->at[i]);
		side->at[i] = GONE;
	}
	munmap(side->guard.addr + offset, len);
	guard_unlock();
}

static void remap_drop(struct snap *s)
{
	struct side *side = s->data, **at;
	struct pool *p = side->pool;
	uint64_t start = now_ns();

	if (!s->unmapped)
		remap_drop_part(s, 0, s->src->len);
	guard_lock();
	guard_remove(&side->guard);
	for (at = &p->snaps; *at != side; at = &(*at)->next)
		;
	*at = side->next;
	if (!p->snaps && mprotect(p->src.guard.addr, p->src.guard.len, PROT_READ | PROT_WRITE))
		die("mprotect: %s", strerror(errno));
	guard_unlock();
	s->drop_ns = now_ns() - start;
	munmap(side->at, region_pages(s->src) * sizeof(*side->at));
	free(side);
}

const struct method method_remap_pages = {
	.name = "remap-pages",
	.help = "rewired memory: both sides map a memfd, pages move when written",
	.shares = true,
	.pages = 1 << PAGE_4K,
	.why_pages = "memory of a file, which it needs, has pages of 4 KiB here",
	.backing = &pool_backing,
	.missing = remap_missing,
	.take = remap_take,
	.start = thread_start,
	.wait = thread_wait,
	.drop = remap_drop,
	.drop_part = remap_drop_part,
};
