// SPDX-License-Identifier: GPL-2.0
/*
 * The model against the truth: mappings and their attributes, every page, the
 * accounting, and how often each page frame is mapped.
 */
#include <stdlib.h>

#include "model.h"

/* Mappings */

static const struct {
	const char name[3];
	unsigned int flag;
} attributes[] = {
	{ "lo", LOCKED }, { "dc", DONTFORK }, { "wf", WIPEONFORK },
	{ "mg", MERGEABLE }, { "um", UFFD }, { "uw", UFFD },
};

static bool page_fits(struct world *w, const struct zone *z, unsigned int i,
		      const struct map_entry *e)
{
	const struct page *p = &z->page[i];
	unsigned long addr = (uintptr_t)page_addr(z, i);
	unsigned int n;

	if ((e->perms[0] == 'r') != !!(p->prot & PROT_READ) ||
	    (e->perms[1] == 'w') != !!(p->prot & PROT_WRITE) ||
	    (e->perms[3] == 's') != (p->kind == FILE_SHARED))
		return model_fail(w, "page %u is mapped %s: kind %u, prot %u",
				  i, e->perms, p->kind, p->prot);
	if (p->kind != ANON &&
	    e->off + (addr - e->start) != p->off * MEM_PAGE)
		return model_fail(w, "page %u maps offset %#lx of the file, not %#lx",
				  i, e->off + (addr - e->start),
				  p->off * MEM_PAGE);
	for (n = 0; n < sizeof(attributes) / sizeof(*attributes); n++)
		if (map_flag(e, attributes[n].name) !=
		    !!(p->flags & attributes[n].flag))
			return model_fail(w, "page %u (flags %#x) has VmFlags%s",
					  i, p->flags, e->flags);
	return true;
}

/* What of @e lies in @z. Holes of islands may be anybody's. */
static bool entry_fits(struct world *w, const struct zone *z,
		       const struct map_entry *e, unsigned int *count)
{
	unsigned long start = (uintptr_t)z->at, end = start + z->nr * MEM_PAGE;
	unsigned long addr = e->start > start ? e->start : start;

	for (; addr < e->end && addr < end; addr += MEM_PAGE) {
		unsigned int i = (addr - start) / MEM_PAGE;

		if (z->page[i].kind == HOLE) {
			if (z->island)
				continue;
			return model_fail(w, "page %u is mapped %s", i,
					  e->perms);
		}
		if (!page_fits(w, z, i, e))
			return false;
		(*count)++;
	}
	return true;
}

static bool verify_mappings(struct world *w, unsigned int mapped)
{
	unsigned int n, count = 0;
	struct map_reader m;
	struct map_entry e;
	struct zone *z;
	bool good = true;

	if (!maps_open(&m, true))
		return model_fail(w, "smaps: %m");
	while (good && maps_next(&m, &e))
		for (n = 0; good && (z = model_zone(w, n)); n++)
			good = entry_fits(w, z, &e, &count);
	maps_close(&m);
	if (good && count != mapped)
		return model_fail(w, "%u pages are mapped, not %u", count,
				  mapped);
	return good;
}

/* Accounting */

struct sums {
	unsigned int mapped;
	unsigned int data;
	unsigned int locked;
};

static struct sums add_up(struct world *w)
{
	struct sums s = { 0 };
	struct zone *z;
	unsigned int n, i;

	for (n = 0; (z = model_zone(w, n)); n++)
		for (i = 0; i < z->nr; i++) {
			const struct page *p = &z->page[i];

			s.mapped += p->kind != HOLE;
			s.data += page_is_private(p) && p->prot & PROT_WRITE;
			s.locked += !!(p->flags & LOCKED);
		}
	return s;
}

static bool same(struct world *w, const char *name, long start,
		 unsigned int pages)
{
	long want = start + pages * (long)(MEM_PAGE >> 10);
	long is = status_value(name);

	if (is == want)
		return true;
	return model_fail(w, "%s is %ld kB, not %ld", name, is, want);
}

/* What is charged is what the mappings that are charged for come to. */
static bool verify_commit(struct world *w)
{
	long want = w->start.committed + maps_account() - w->start_account;
	struct mem_counters c;
	int tries;

	for (tries = 0; tries < 20; tries++) {
		mem_counters(&c);
		if (labs(c.committed - want) <= MEM_COMMIT_SLACK)
			return true;
		usleep(50000);
	}
	return model_fail(w, "Committed_AS is %ld kB, not %ld", c.committed,
			  want);
}

static bool verify_accounting(struct world *w, const struct sums *s)
{
	if (w->threads)
		return true;
	if (!same(w, "VmSize", w->start.vm_size, s->mapped) ||
	    !same(w, "VmData", w->start.vm_data, s->data) ||
	    !same(w, "VmLck", w->start.locked, s->locked))
		return false;
	return !w->alone || w->relatives || verify_commit(w);
}

/* Page frames */

#define KPF_ZERO_PAGE	24

static uint64_t frame_value(int fd, uint64_t frame)
{
	uint64_t value = 0;

	if (pread(fd, &value, sizeof(value), frame * sizeof(value)) !=
	    sizeof(value))
		return ~0ULL;
	return value;
}

static unsigned int count_wrong(struct world *w, struct frame_use *u,
				struct frame_use *wrong)
{
	int counts = open("/proc/kpagecount", O_RDONLY | O_CLOEXEC);
	int flags = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
	unsigned int i, nr = model_frames(w, u), bad = 0;

	for (i = 0; i < nr && counts >= 0 && flags >= 0; i++) {
		/* The huge zero page is everybody's. */
		if (frame_value(counts, u[i].frame) == u[i].maps ||
		    frame_value(flags, u[i].frame) & 1ULL << KPF_ZERO_PAGE)
			continue;
		if (!bad++)
			*wrong = u[i];
	}
	if (counts < 0 || flags < 0)
		bad = 1;
	wrong->flags = counts < 0 ? 0 : frame_value(counts, wrong->frame);
	close(counts);
	close(flags);
	if (!bad)
		w->totals->counted += nr;
	return bad;
}

/*
 * A page frame is mapped as often as our page tables say; nobody else has it.
 * Pages may move between the two looks: look again.
 */
static bool verify_counts(struct world *w)
{
	static __thread struct frame_use u[MAX_FRAMES];
	struct frame_use wrong = { 0 };
	unsigned int bad;
	int tries;

	/* Children of other threads have our pages, and whoever's are merged. */
	if (w->relatives || w->threads || (w->merging && !w->alone))
		return true;
	for (tries = 0; tries < 20; tries++) {
		bad = count_wrong(w, u, &wrong);
		if (!bad)
			return true;
		usleep(tries * 1000);
	}
	return model_fail(w, "%u page frames have a wrong map count: %#lx has %u, we map it %u times",
			  bad, wrong.frame, wrong.flags, wrong.maps);
}

bool model_verify(struct world *w)
{
	struct sums sums = add_up(w);
	struct zone *z;
	unsigned int n;

	w->op = "verify";
	if (!verify_mappings(w, sums.mapped))
		return false;
	for (n = 0; (z = model_zone(w, n)); n++)
		if (!model_run_is_right(w, &(struct run){ z, 0, z->nr }))
			return false;
	return verify_accounting(w, &sums) && verify_counts(w);
}
