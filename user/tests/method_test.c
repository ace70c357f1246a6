// SPDX-License-Identifier: GPL-2.0
/*
 * Each method of cowsnap-bench, with each kind of page it does: what is promised
 * of its snapshots. Arguments say what has to be available here, METHOD or
 * METHOD:PAGE; the rest is skipped with its reason when it is not.
 */
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../bench/bench.h"

#define NR_WRITERS	2

static unsigned int nr, failed;

/* One promise: kept when why is NULL. */
static void result(const char *why, const struct method *m, enum page_kind page,
		   const char *promise)
{
	printf("%sok %u - %s, %s: %s%s%s\n", why ? "not " : "", ++nr, m->name,
	       page_names[page], promise, why ? ": " : "", why ? why : "");
	failed += !!why;
}

static void skip(const struct method *m, enum page_kind page, const char *promise,
		 const char *why)
{
	printf("ok %u - %s, %s: %s # SKIP %s\n", ++nr, m->name, page_names[page], promise,
	       why);
}

/* What is written and looked at of a region: no more of a huge page than of others. */
static size_t span(const struct region *r)
{
	return r->len < 64 * page_size ? r->len : 64 * page_size;
}

/* Writers of the source, each with its part. */
struct filling {
	char *addr;
	size_t len;
	uint64_t seed;
};

static int any_cpu(unsigned int i, void *arg)
{
	(void)arg;
	return place_cpu(i);
}

static void fill_part(struct worker *w, void *arg)
{
	struct filling *f = arg;
	size_t words = page_size / sizeof(uint64_t), i, k;

	/* As region_fill() does, but the pages go round. */
	for (i = w->nr; i < f->len / page_size; i += w->team->nr) {
		volatile uint64_t *p = (uint64_t *)(f->addr + i * page_size);

		for (k = 0; k < words; k++)
			p[k] = (i * words + k + f->seed) * 0x9e3779b97f4a7c15ull;
	}
}

struct reading {
	uint64_t seed;
	bool held;
};

static void read_side(struct snap *s, void *arg)
{
	struct reading *r = arg;

	r->held = region_holds(s->addr, span(s->src), r->seed) &&
		  region_holds(s->addr, span(s->src), r->seed);
}

static void fill_side(struct snap *s, void *arg)
{
	struct reading *r = arg;

	region_fill(s->addr, span(s->src), r->seed);
	r->held = region_holds(s->addr, span(s->src), r->seed);
}

/* The source gets seed by several threads, while its other side runs fn. */
static bool while_filling(struct snap *s, uint64_t seed, side_fn fn, struct reading *r)
{
	struct filling f = { .addr = s->src->addr, .len = span(s->src), .seed = seed };
	struct team team;

	team_make(&team, NR_WRITERS, fill_part, &f, any_cpu);
	team_go(&team);
	snap_run(s, fn, r);
	team_join(&team);
	return r->held && region_holds(f.addr, f.len, seed);
}

/* A snapshot of memory that holds seed 1. */
static const char *take_filled(struct snap *s, const struct method *m, struct region *r)
{
	const char *why = region_for(r, m);

	if (why)
		return why;
	region_fill(r->addr, span(r), 1);
	return snap_take(s, m, r);
}

static const char *keeps_apart(const struct method *m, struct region *r)
{
	struct reading *shared = shared_alloc(sizeof(*shared));
	struct snap s;
	const char *why = take_filled(&s, m, r);

	if (!why) {
		shared->seed = 1;
		if (!while_filling(&s, 2, read_side, shared))
			why = "the snapshot changed while the source was written";
		snap_run(&s, read_side, shared);
		if (!why && !shared->held)
			why = "the snapshot had changed when the source was written";
		shared->seed = 3;
		if (!why && !while_filling(&s, 4, fill_side, shared))
			why = "both sides were written, and did not keep apart";
		m->drop(&s);
		if (!why && !region_holds(r->addr, span(r), 4))
			why = "the source changed when the snapshot was dropped";
	}
	shared_free(shared, sizeof(*shared));
	return why;
}

/* A word in the middle of each page; the other side, or the rest of it, is not to change. */
static void store_words(char *addr, size_t len)
{
	size_t i;

	for (i = page_size / 2; i < len; i += page_size)
		*(volatile uint64_t *)(addr + i) += 1;
}

static void take_words_back(char *addr, size_t len)
{
	size_t i;

	for (i = page_size / 2; i < len; i += page_size)
		*(volatile uint64_t *)(addr + i) -= 1;
}

static void store_side(struct snap *s, void *arg)
{
	struct reading *r = arg;

	store_words(s->addr, span(s->src));
	r->held = !region_holds(s->addr, span(s->src), r->seed);
	take_words_back(s->addr, span(s->src));
	r->held = r->held && region_holds(s->addr, span(s->src), r->seed);
}

static const char *stores_what_is_stored(const struct method *m, struct region *r)
{
	struct reading *shared = shared_alloc(sizeof(*shared));
	struct snap s;
	const char *why = take_filled(&s, m, r);

	if (!why) {
		shared->seed = 1;
		store_words(r->addr, span(r));
		snap_run(&s, store_side, shared);
		take_words_back(r->addr, span(r));
		if (!shared->held)
			why = "a store to the snapshot changed more, or nothing";
		else if (!region_holds(r->addr, span(r), 1))
			why = "a store to the source changed more, or nothing";
		m->drop(&s);
	}
	shared_free(shared, sizeof(*shared));
	return why;
}

/* Two words are written one after the other, over and over. */
static void write_in_order(struct worker *w, void *arg)
{
	struct filling *f = arg;
	volatile uint64_t *first = (uint64_t *)f->addr;
	volatile uint64_t *second = (uint64_t *)(f->addr + f->len - page_size);
	uint64_t i;

	(void)w;
	for (i = 1; !__atomic_load_n(&f->seed, __ATOMIC_RELAXED); i++) {
		__atomic_store_n(first, i, __ATOMIC_RELEASE);
		__atomic_store_n(second, i, __ATOMIC_RELEASE);
	}
}

static void see_order(struct snap *s, void *arg)
{
	const uint64_t *first = (uint64_t *)s->addr;
	const uint64_t *second = (uint64_t *)(s->addr + s->src->len - page_size);

	((struct reading *)arg)->held = *first == *second || *first == *second + 1;
}

static const char *is_one_instant(const struct method *m, struct region *r)
{
	struct reading *shared = shared_alloc(sizeof(*shared));
	const char *why = region_for(r, m);
	struct filling f = { .addr = r->addr, .len = r->len };
	struct team team;
	struct snap s;
	int i;

	if (!why) {
		region_fill(r->addr, span(r), 0);
		*(uint64_t *)(f.addr + f.len - page_size) = *(uint64_t *)f.addr;
		team_make(&team, 1, write_in_order, &f, any_cpu);
		team_go(&team);
		for (i = 0; i < 8 && !why; i++) {
			why = snap_take(&s, m, r);
			if (why)
				break;
			snap_run(&s, see_order, shared);
			m->drop(&s);
			if (!shared->held)
				why = "a later store is in it, an earlier one is not";
		}
		__atomic_store_n(&f.seed, 1, __ATOMIC_RELAXED);
		team_join(&team);
	}
	shared_free(shared, sizeof(*shared));
	return why;
}

static const char *shares_as_claimed(const struct method *m, struct region *r)
{
	const char *why = region_for(r, m);
	double share, claimed = m->shares;
	struct snap s;

	if (!why)
		why = snap_take(&s, m, r);
	if (why)
		return why;
	share = snap_shared(&s);
	m->drop(&s);
	/* A page that somebody else in the kernel looks at is not merged just then. */
	if (share == claimed || (m == &method_ksm && share > 0.9))
		return NULL;
	return sentence("%.1f %% of the pages are shared, %.0f %% are claimed to be",
			100 * share, 100 * claimed);
}

static bool side_holds(struct snap *s, uint64_t seed, struct reading *shared)
{
	shared->seed = seed;
	snap_run(s, read_side, shared);
	return shared->held;
}

static const char *two_at_a_time(const struct method *m, struct region *r)
{
	struct reading *shared = shared_alloc(sizeof(*shared));
	const char *why = region_for(r, m);
	struct snap a, b;

	if (why)
		goto out;
	region_fill(r->addr, span(r), 1);
	why = snap_take(&a, m, r);
	if (why)
		goto out;
	/* Half of it, so that some pages are of both and some of one. */
	region_fill(r->addr, span(r) / 2, 2);
	why = snap_take(&b, m, r);
	if (why)
		goto out_a;
	region_fill(r->addr, span(r), 3);
	if (!side_holds(&a, 1, shared))
		why = "the first does not hold what was there when it was made";
	m->drop(&a);
	region_fill(r->addr, span(r) / 2, 2);
	shared->seed = 2;
	if (!why && m->undo)
		why = m->undo(&b);
	region_fill(r->addr, span(r), 4);
	m->drop(&b);
	if (!why && !region_holds(r->addr, span(r), 4))
		why = "the source does not hold what was written last";
	goto out;
out_a:
	m->drop(&a);
out:
	shared_free(shared, sizeof(*shared));
	return why;
}

static const char *renews_and_undoes(const struct method *m, struct region *r)
{
	struct reading *shared = shared_alloc(sizeof(*shared));
	struct snap s;
	const char *why = take_filled(&s, m, r);

	if (!why) {
		region_fill(r->addr, span(r), 2);
		why = snap_renew(&s);
	}
	if (!why) {
		region_fill(r->addr, span(r), 3);
		if (!side_holds(&s, 2, shared))
			why = "renewed, it does not hold what was there then";
		if (!why && m->undo)
			why = m->undo(&s);
		if (!why && m->undo && !region_holds(r->addr, span(r), 2))
			why = "undone, the source does not hold what the snapshot does";
		m->drop(&s);
	}
	shared_free(shared, sizeof(*shared));
	return why;
}

static void drop_parts(struct snap *s, void *arg)
{
	size_t part = s->src->page == PAGE_4K ? 4 * page_size : HUGE_SIZE, i;
	struct reading *r = arg;

	for (i = 0; i < s->src->len; i += part)
		snap_drop_part(s, i, part);
	r->held = true;
}

static const char *is_dropped_in_parts(const struct method *m, struct region *r)
{
	struct reading *shared = shared_alloc(sizeof(*shared));
	const char *why = region_for(r, m);
	struct snap s;

	if (!why)
		why = snap_take(&s, m, r);
	if (!why) {
		if (!while_filling(&s, 5, drop_parts, shared))
			why = "the source does not hold what was written meanwhile";
		s.unmapped = true;
		m->drop(&s);
	}
	shared_free(shared, sizeof(*shared));
	return why;
}

/* What a method might leave behind, in one line. */
struct traces {
	unsigned int fds, threads, mappings;
	char settings[256];
};

static unsigned int count_entries(const char *path)
{
	DIR *dir = opendir(path);
	unsigned int n = 0;

	while (dir && readdir(dir))
		n++;
	if (dir)
		closedir(dir);
	return n;
}

static unsigned int count_mappings(void)
{
	FILE *f = fopen("/proc/self/maps", "re");
	unsigned int n = 0;
	char line[512];

	/* Files without a name: memfds, and those of reflink. */
	while (f && fgets(line, sizeof(line), f))
		n += strstr(line, " (deleted)") && !strstr(line, "/dev/zero");
	if (f)
		fclose(f);
	return n;
}

static struct traces look(void)
{
	static const char *const settings[] = {
		"run", "pages_to_scan", "sleep_millisecs", "smart_scan",
	};
	struct traces t = {
		.fds = count_entries("/proc/self/fd"),
		.threads = count_entries("/proc/self/task"),
		.mappings = count_mappings(),
	};
	size_t i, at = 0;

	for (i = 0; i < ARRAY_SIZE(settings); i++) {
		char path[64], value[32] = "";
		FILE *f;

		snprintf(path, sizeof(path), "/sys/kernel/mm/ksm/%s", settings[i]);
		f = fopen(path, "re");
		if (f && fgets(value, sizeof(value), f))
			value[strcspn(value, "\n")] = 0;
		if (f)
			fclose(f);
		at += snprintf(t.settings + at, sizeof(t.settings) - at, "%s=%s ",
			       settings[i], value);
	}
	return t;
}

/* Those of the beginning: a method that leaves others has done so long ago. */
static struct traces initial;

static const char *compare(const struct traces *a, const struct traces *b)
{
	struct sigaction sa;

	if (a->fds != b->fds)
		return sentence("%d descriptors", (int)b->fds - (int)a->fds);
	if (a->mappings != b->mappings)
		return sentence("%d mappings", (int)b->mappings - (int)a->mappings);
	if (strcmp(initial.settings, b->settings))
		return sentence("other settings of KSM: %s", b->settings);
	if (waitpid(-1, NULL, WNOHANG) != -1 || errno != ECHILD)
		return "a child";
	if (sigaction(SIGSEGV, NULL, &sa) || sa.sa_handler != SIG_DFL)
		return "a signal handler";
	/* Besides this one: "." and "..". */
	return b->threads == 3 ? NULL : "a thread";
}

static const char *leaves_nothing(const struct method *m, struct region *r)
{
	const char *why, *left = NULL;
	struct traces before, after;
	unsigned char resident[1];
	struct snap s;
	int i;

	region_free(r);
	before = look();
	why = region_for(r, m);
	if (!why)
		why = snap_take(&s, m, r);
	if (why)
		return why;
	m->drop(&s);
	if (!s.pid && !mincore(s.addr, page_size, resident))
		left = "the snapshot";
	region_free(r);
	/* A thread that was joined may be listed for a moment more. */
	for (i = 0; i < 1000; i++) {
		after = look();
		why = compare(&before, &after);
		if (!why || strcmp(why, "a thread"))
			break;
		usleep(10000);
	}
	if (!left)
		left = why;
	return left ? sentence("%s was left behind", left) : NULL;
}

struct promise {
	const char *name;
	const char *(*kept)(const struct method *m, struct region *r);
};

static const struct promise promises[] = {
	{ "both sides keep apart", keeps_apart },
	{ "a store changes what is stored", stores_what_is_stored },
	{ "shares what it claims to", shares_as_claimed },
	{ "is renewed and undone", renews_and_undoes },
	{ "is dropped in parts while the source is written", is_dropped_in_parts },
	{ "leaves nothing behind", leaves_nothing },
};

/* Copies are of no instant, and nothing is said of a clone that others write to. */
static bool claims_instant(const struct method *m)
{
	return m != &method_memcpy && m != &method_ksm && m != &method_reflink;
}

static void test_method(const struct method *m, enum page_kind page)
{
	struct region r = {
		.len = page == PAGE_4K ? 64 * page_size : HUGE_SIZE, .page = page,
		.node = -1,
	};
	const char *failure;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(promises); i++)
		result(promises[i].kept(m, &r), m, page, promises[i].name);
	if (claims_instant(m))
		result(is_one_instant(m, &r), m, page, "is of one instant");
	if (m->single)
		skip(m, page, "two at a time", m->single);
	else
		result(two_at_a_time(m, &r), m, page, "two at a time");
	region_free(&r);
	failure = method_failure();
	if (failure)
		result(failure, m, page, "goes on as itself");
}

static bool has_to_be_there(const struct method *m, enum page_kind page, char **names)
{
	const char *with_page = sentence("%s:%s", m->name, page_names[page]);

	for (; *names; names++)
		if (!strcmp(*names, m->name) || !strcmp(*names, with_page))
			return true;
	return false;
}

static void test_if_available(const struct method *m, enum page_kind page, char **names)
{
	struct region probe = { .len = HUGE_SIZE, .page = page, .node = -1 };
	bool needed = has_to_be_there(m, page, names);
	const char *why = method_missing(m, HUGE_SIZE, page);

	if (!why)
		why = region_for(&probe, m);
	region_free(&probe);
	/* Where it is on for others, it has their memory to look after as well. */
	if (!why && m->slow && !needed)
		why = "it may take minutes, and was not asked for";
	if (!why)
		test_method(m, page);
	else if (needed)
		result(why, m, page, "is available");
	else
		skip(m, page, "is available", why);
}

int main(int argc, char **argv)
{
	unsigned int i;

	setvbuf(stdout, NULL, _IOLBF, 0);
	page_size = sysconf(_SC_PAGESIZE);
	place_init();
	env_init(argc, argv);
	interrupt_init();
	/* Nobody here would see that it was interrupted. */
	signal(SIGINT, SIG_DFL);
	signal(SIGTERM, SIG_DFL);
	initial = look();
	for (i = 0; i < nr_methods; i++) {
		const struct method *m = methods[i];
		enum page_kind page;

		for (page = 0; page < NR_PAGE_KINDS; page++)
			if ((!m->pages || m->pages & 1u << page) &&
			    (!m->variant || page == PAGE_4K))
				test_if_available(m, page, argv + 1);
	}
	printf("1..%u\n", nr);
	return failed ? 1 : 0;
}
