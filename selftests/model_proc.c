// SPDX-License-Identifier: GPL-2.0
/* What /proc says, read by any number of threads, without allocating. */
#include <stdlib.h>

#include "model.h"

static bool fill(struct map_reader *m)
{
	ssize_t got = read(m->fd, m->data, sizeof(m->data));

	m->pos = 0;
	m->end = got > 0 ? got : 0;
	return got > 0;
}

static bool next_line(struct map_reader *m)
{
	size_t n = 0;
	char c;

	for (;;) {
		if (m->pos == m->end && !fill(m))
			return false;
		c = m->data[m->pos++];
		if (c == '\n')
			break;
		if (n < sizeof(m->line) - 1)
			m->line[n++] = c;
	}
	m->line[n] = 0;
	return true;
}

static bool open_proc(struct map_reader *m, const char *path)
{
	m->pos = m->end = 0;
	m->pending = false;
	m->fd = open(path, O_RDONLY | O_CLOEXEC);
	return m->fd >= 0;
}

bool maps_open(struct map_reader *m, bool smaps)
{
	return open_proc(m, smaps ? "/proc/thread-self/smaps" :
				    "/proc/thread-self/maps");
}

void maps_close(struct map_reader *m)
{
	close(m->fd);
}

static bool parse_mapping(const char *line, struct map_entry *e)
{
	e->flags[0] = 0;
	return sscanf(line, "%lx-%lx %4s %lx", &e->start, &e->end, e->perms,
		      &e->off) == 4;
}

/* In smaps the next mapping is seen when all of this one is read. */
bool maps_next(struct map_reader *m, struct map_entry *e)
{
	struct map_entry next;

	if (!m->pending && !next_line(m))
		return false;
	m->pending = false;
	if (!parse_mapping(m->line, e))
		return false;
	while (next_line(m)) {
		if (parse_mapping(m->line, &next)) {
			m->pending = true;
			break;
		}
		if (!strncmp(m->line, "VmFlags:", 8))
			snprintf(e->flags, sizeof(e->flags), "%.*s",
				 (int)sizeof(e->flags) - 1, m->line + 8);
	}
	return true;
}

bool map_flag(const struct map_entry *e, const char *two_letters)
{
	const char *at = e->flags;

	while ((at = strchr(at, ' '))) {
		at++;
		if (!strncmp(at, two_letters, 2))
			return true;
	}
	return false;
}

bool maps_find(const void *addr, struct map_entry *e)
{
	unsigned long at = (unsigned long)addr;
	struct map_reader m;
	bool found = false;

	if (!maps_open(&m, false))
		return false;
	while (!found && maps_next(&m, e))
		found = e->start <= at && at < e->end;
	maps_close(&m);
	return found;
}

long maps_account(void)
{
	struct map_reader m;
	struct map_entry e;
	long kb = 0;

	if (!maps_open(&m, true))
		return -1;
	while (maps_next(&m, &e))
		if (map_flag(&e, "ac"))
			kb += (e.end - e.start) >> 10;
	maps_close(&m);
	return kb;
}

long status_value(const char *name)
{
	size_t n = strlen(name);
	struct map_reader m;
	long value = -1;

	if (!open_proc(&m, "/proc/thread-self/status"))
		return -1;
	while (value < 0 && next_line(&m))
		if (!strncmp(m.line, name, n) && m.line[n] == ':')
			value = strtol(m.line + n + 1, NULL, 10);
	maps_close(&m);
	return value;
}

bool model_pagemap(struct world *w, const void *addr, uint64_t *e, size_t nr)
{
	off_t at = (uintptr_t)addr / MEM_PAGE * sizeof(*e);
	size_t done = 0, bytes = nr * sizeof(*e);
	ssize_t got;

	while (done < bytes) {
		got = pread(w->pagemap, (char *)e + done, bytes - done,
			    at + done);
		if (got <= 0)
			return false;
		done += got;
	}
	return true;
}

/* Page frames */

/* Shell's sort: qsort() may allocate. */
static void sort_frames(struct frame_use *u, unsigned int nr)
{
	unsigned int gap, i, j;
	struct frame_use t;

	for (gap = 1; gap < nr / 3; gap = 3 * gap + 1)
		;
	for (; gap; gap /= 3)
		for (i = gap; i < nr; i++) {
			t = u[i];
			for (j = i; j >= gap && u[j - gap].frame > t.frame;
			     j -= gap)
				u[j] = u[j - gap];
			u[j] = t;
		}
}

static unsigned int zone_frames(struct world *w, const struct zone *z,
				struct frame_use *u)
{
	static __thread uint64_t e[ARENA_PAGES];
	unsigned int i, nr = 0;

	if (!model_pagemap(w, z->at, e, z->nr))
		return 0;
	for (i = 0; i < z->nr; i++) {
		const struct page *p = &z->page[i];

		if (!page_is_private(p) || !entry_frame(e[i]) ||
		    !entry_has_content(e[i], w->zero_frame))
			continue;
		u[nr++] = (struct frame_use){ entry_frame(e[i]), 1, p->flags };
	}
	return nr;
}

unsigned int model_frames(struct world *w, struct frame_use *u)
{
	unsigned int n, i, nr = 0, out = 0;
	struct zone *z;

	for (n = 0; (z = model_zone(w, n)); n++)
		nr += zone_frames(w, z, u + nr);
	sort_frames(u, nr);
	for (i = 0; i < nr; i++) {
		if (out && u[out - 1].frame == u[i].frame) {
			u[out - 1].maps++;
			u[out - 1].flags |= u[i].flags;
		} else {
			u[out++] = u[i];
		}
	}
	return out;
}
