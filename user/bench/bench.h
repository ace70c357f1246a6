/* SPDX-License-Identifier: GPL-2.0 */
/*
 * cowsnap-bench: one table of methods, one table of workloads, any with any.
 *
 * A method makes a snapshot of a region, runs code on the side that sees the
 * snapshot, and drops it. For some methods that side is a thread of this
 * process, for fork it is a child; workloads do not know. What runs there gets
 * its arguments and leaves its results in memory from shared_alloc().
 *
 * The interface between the two:
 * - method_missing(m, len, page) tells why m cannot be used for such memory.
 * - region_for(r, m) makes the source as m needs it: of a memfd or a file for
 *   some, else private anonymous. It is at another address then; bench_turns()
 *   calls it before each turn, so a workload reads r->addr in its turn.
 * - snap_take(), snap_run(), m->drop(): make, read or write, drop. Any number of
 *   snapshots may live at a time, unless m->single says why only one.
 * - snap_shared() tells by pagemap how much both sides share; m->shares is what
 *   the method claims.
 * - A method that fails where it can tell nobody, in a signal handler, calls
 *   method_failed(); bench_turns() then discards its figures. Workloads without
 *   bench_turns() ask method_failure().
 */
#ifndef BENCH_H
#define BENCH_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))
#define KIB		((size_t)1 << 10)
#define MIB		((size_t)1 << 20)
#define GIB		((size_t)1 << 30)
#define HUGE_SIZE	(2 * MIB)

extern size_t page_size;

/* Memory: region.c. */

enum page_kind { PAGE_4K, PAGE_THP, PAGE_HUGETLB, NR_PAGE_KINDS };
extern const char *const page_names[NR_PAGE_KINDS];

struct method;
struct region;

/* What regions are made of when private anonymous memory will not do. */
struct backing {
	/* Fills in addr, map and map_len, but writes no page. NULL, or why not. */
	const char *(*reserve)(struct region *r);
	void (*free)(struct region *r);
	/* It is not as it was when new, and writing to it will not help. NULL: never. */
	bool (*worn)(const struct region *r);
};

/* Memory on one NUMA node (-1: any), all of it written. */
struct region {
	char *addr;
	size_t len;
	enum page_kind page;
	int node;
	void *map;
	size_t map_len;
	const struct backing *backing;	/* NULL: private anonymous */
	void *data;			/* for the backing alone */
};

/* Private anonymous memory. NULL or the sentence why not. */
const char *region_make(struct region *r, size_t len, enum page_kind page, int node);
/* What len, page and node of r describe, as m needs it, and as region_restore() says. */
const char *region_for(struct region *r, const struct method *m);
void region_free(struct region *r);
/* The same when [addr, addr + len) has been unmapped already. */
void region_free_slack(struct region *r);
/* As region_make(), but nothing is in it yet; for methods that copy. */
const char *region_reserve(struct region *r, size_t len, enum page_kind page);
/*
 * The source as it was before any snapshot: every page there, exclusive and
 * writable, huge pages whole. Call it while no snapshot exists.
 */
const char *region_restore(struct region *r);
size_t region_pages(const struct region *r);
/* memcpy() of whole words, not distorted by emulation. */
void copy_memory(char *to, const char *from, size_t len);
void region_fill(char *addr, size_t len, uint64_t seed);
bool region_holds(const char *addr, size_t len, uint64_t seed);
/* A word to each of so many pages in a thousand, spread evenly; returns how many. */
size_t region_write_share(char *addr, size_t len, unsigned int permille, uint64_t value);
/* In how many of these pages it is. */
size_t region_count_share(const char *addr, size_t len, unsigned int permille,
			  uint64_t value);
/* Shares that workloads try, in a thousand. */
extern const unsigned int shares[];
extern const unsigned int nr_shares;
size_t memory_available(void);
/* NULL, or why there is no room for copies * len. */
const char *memory_lacks(size_t len, unsigned int copies);

/* Clock, CPUs, nodes, page tables: place.c. */

uint64_t now_ns(void);
void place_init(void);
unsigned int place_cpus(void);
int place_cpu(unsigned int i);			/* i-th of ours, modulo */
unsigned int place_nodes(void);			/* with memory or CPUs */
int place_node(unsigned int i);
bool place_node_has_memory(int node);
int place_cpu_on(int node, unsigned int i);	/* -1: no CPU of ours there */
void place_bind(int cpu);			/* -1 changes nothing */
/* New pages of this thread come from node; -1 is back to the default. */
void place_memory(int node);
/* While on, what this thread forks or wakes cannot take the CPU from it. */
void place_undisturbed(bool on);
/* Pages on each node into count[0..max); -1 when the kernel cannot tell. */
int place_query(pid_t pid, const char *addr, size_t len, size_t *count, int max);
/* NULL, or the sentence why the memory is not where it should be. */
const char *place_verify(const struct region *r);
/* Pages of this process that are in memory, or 0 when the kernel cannot tell. */
size_t place_present(const char *addr, size_t len);
/* Frame number of each page, 0 of absent ones; false when the kernel does not tell. */
bool place_frames(pid_t pid, const char *addr, size_t len, uint64_t *frame);
/* Share of present pages that are one physical page on both sides, or -1. */
double place_shared(const struct region *r, pid_t pid, const char *addr);

/* Statistics: stats.c. */

struct series {
	double *v;
	size_t nr, cap;
	bool sorted;
};

#define NR_QUANTILES	20
extern const double quantiles[NR_QUANTILES];

struct summary {
	double median, p99, min, max, mean;
	double at[NR_QUANTILES];	/* the quantiles above */
	size_t count;
};

void series_add(struct series *s, double v);
void series_free(struct series *s);
struct summary series_summary(struct series *s);

/* Methods: method.c, m_*.c. */

struct snap;
typedef void (*side_fn)(struct snap *s, void *arg);

/* How a method differs from the one it is a variant of. */
enum variant { VARIANT_NONE, VARIANT_DROP = 1, VARIANT_RENEW = 2 };

struct method {
	const char *name;
	const char *help;
	/* Both sides map the same pages until one writes. */
	bool shares;
	/* Of another method, which is enough where this does not matter. */
	enum variant variant;
	/* Why a region has one snapshot at a time; NULL: any number. */
	const char *single;
	/* Takes seconds where others take milliseconds: one turn will do. */
	bool slow;
	/* Bit n: page kind n. 0: all. */
	unsigned int pages;
	const char *why_pages;	/* why not the others */
	/* What its regions are made of; NULL: private anonymous memory. */
	const struct backing *backing;
	/* NULL, or why it cannot be used for such memory; len may be 0. Call method_missing(). */
	const char *(*missing)(size_t len, enum page_kind page);
	/* Fill in addr, pid and take_ns. NULL, or why it failed. */
	const char *(*take)(struct snap *s);
	/* fn(s, arg) begins on the snapshot side; wait() until it is done. */
	void (*start)(struct snap *s, side_fn fn, void *arg);
	void (*wait)(struct snap *s);
	/* The snapshot is gone; drop_ns is filled in. */
	void (*drop)(struct snap *s);
	/* Called on its side: that part is gone. NULL: munmap. */
	void (*drop_part)(struct snap *s, size_t offset, size_t len);
	/* It holds what the source holds now. NULL: drop and take. */
	const char *(*renew)(struct snap *s);
	/* The source holds what it holds. NULL: it cannot be undone. */
	const char *(*undo)(struct snap *s);
};

struct snap {
	const struct method *method;
	const struct region *src;
	char *addr;		/* where its side sees the snapshot */
	pid_t pid;		/* whose address that is; 0: this process */
	uint64_t take_ns;
	uint64_t drop_ns;
	bool unmapped;		/* its side has unmapped all of it */

	/* For the method alone. */
	void *data;
	struct region copy;
	struct child *child;
	pthread_t thread;
	side_fn fn;
	void *arg;
};

extern const struct method method_cowsnap, method_cowsnap_release, method_cowsnap_sync;
extern const struct method method_fork, method_memcpy, method_uffd_wp, method_ksm;
extern const struct method method_mprotect, method_remap_pages, method_reflink;
extern const struct method method_none;	/* no snapshot: the base line */
extern const struct method *const methods[];
extern const unsigned int nr_methods;

const struct method *method_find(const char *name);
/* NULL, or why it cannot be used for such memory. */
const char *method_missing(const struct method *m, size_t len, enum page_kind page);
/* The method at work could not go on: snapshots are right, but made in another way. */
void method_failed(const char *why);
/* Why, since it was last asked; NULL: no method has. */
const char *method_failure(void);
/* How many threads method memcpy copies by. */
extern unsigned int copy_threads;
/* A descriptor of /dev/cowsnap, or -1. */
int cowsnap_device(void);
const char *snap_take(struct snap *s, const struct method *m, const struct region *src);
void snap_run(struct snap *s, side_fn fn, void *arg);
void snap_drop_part(struct snap *s, size_t offset, size_t len);
/* The time of it is the caller's to take. After a failure there is no snapshot. */
const char *snap_renew(struct snap *s);
/*
 * Share of pages that are one physical page on both sides, or -1 when the kernel
 * does not tell. Each page of the snapshot is read before: many methods map it
 * or make it only then.
 */
double snap_shared(struct snap *s);
/* For methods whose snapshot side is this process. */
void thread_start(struct snap *s, side_fn fn, void *arg);
void thread_wait(struct snap *s);

/* Of methods whose snapshot is memory of its own: what is left of s->copy goes. */
void copy_drop(struct snap *s);

/* Work: team.c. */

/* Memory that both sides see, for arguments and results. Zeroed. */
void *shared_alloc(size_t len);
void shared_free(void *p, size_t len);

/* Ctrl-C, seen on both sides: finish or leave out, then report. */
bool interrupted(void);
void interrupt_init(void);

struct worker {
	unsigned int nr;	/* 0..team->nr */
	int cpu;
	struct team *team;
	pthread_t thread;
	uint64_t end;
};

/* Threads that wait, each on its CPU, until team_go(). */
struct team {
	unsigned int nr;
	void (*fn)(struct worker *w, void *arg);
	void *arg;
	struct worker *workers;
	pthread_barrier_t ready, gate;
};

void team_make(struct team *t, unsigned int nr, void (*fn)(struct worker *w, void *arg),
	       void *arg, int (*cpu_of)(unsigned int nr, void *arg));
void team_go(struct team *t);
uint64_t team_join(struct team *t);	/* when the last one had finished */

/* Environment: env.c. */

struct env {
	char time[32];
	char kernel[96];
	char cpu[96];
	char accel[48];
	bool emulated, icount;
	bool guest;		/* that was started for this */
	unsigned int abi;	/* 0: no module */
	char module[256];	/* or why there is none */
	char topology[160];
	char thp[64];
	char balancing[32];
	char clock[32];
	double clock_ns;	/* cost of reading it */
	size_t memory;
	char *command;
};

extern struct env env;
void env_init(int argc, char **argv);

/* Results: report.c prints the table, output.c writes JSON and CSV. */

enum unit { UNIT_TIME, UNIT_COUNT, UNIT_PERCENT, UNIT_MIB };

/* What was held fixed; -1, 0 or NULL is "does not apply". */
struct params {
	size_t size;
	const char *page;
	const char *pattern;
	unsigned int writers, checkpointers;
	int src_node, reader_node, writer_node;
	const char *policy;
	const char *balancing;
};

struct figure {
	const char *metric;
	const struct method *method;
	enum unit unit;
	size_t pages;		/* what one sample covers; 0: no per-page value */
	struct series series;
	struct summary sum;
	double ratio;		/* to fork; 0: none */
};

struct missing {
	const struct method *method;
	char *why;
};

/* Figures that are compared with each other; those without a sample are not shown. */
struct group {
	const char *workload;
	char title[96];
	struct params params;
	struct figure *figures;
	size_t nr, cap;
	struct missing missing[16];
	unsigned int nr_missing;
	char *notes[16];
	unsigned int nr_notes;
	bool silent;		/* not printed: another table tells */
};

struct report {
	struct group **groups;
	size_t nr, cap;
	FILE *out;		/* where the table goes */
	bool interrupted;
	void (*save)(void);	/* called when there is more to write than before */
	int status;		/* of the program, if nothing else goes wrong */
};

struct figure *group_figure(struct group *g, const char *metric,
			    const struct method *m, enum unit unit);
void group_add(struct group *g, const char *metric, const struct method *m,
	       enum unit unit, double v);
void group_order(struct group *g, const char *const *metrics, size_t nr);
/* What the figures of a metric, or with NULL all so far, are of. */
void group_pages(struct group *g, const char *metric, size_t pages);
void group_miss(struct group *g, const struct method *m, const char *why);
/* A line below its table; not twice the same. */
void group_note(struct group *g, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
bool group_misses(const struct group *g, const struct method *m);
struct group *report_begin(struct report *rep, const char *workload,
			   const struct params *p, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
void report_end(struct report *rep, struct group *g);	/* prints it */
void report_environment(struct report *rep);
double figure_per_page(const struct figure *f);
const char *unit_name(enum unit unit);
const char *emulation_mark(void);	/* with a space before it, or empty */

/* Settings that come back at the end: setting.c. */

/* NULL, or why not. */
const char *setting_set(const char *path, const char *value);
void setting_restore(const char *path);
bool setting_read(const char *path, char *buf, size_t n);
/* For what is no setting: writing it does something. */
bool setting_poke(const char *path, const char *value);

/* Memory blocks: memblock.c. */

const char *memblock_missing(bool system);
/* Of which block memblock_drain() speaks from now on. NULL, or why there is none. */
const char *memblock_choose(int node);
void memblock_drain(void);
/* Offline and back. NULL, or why the block with this page frame has not been so. */
const char *memblock_cycle(uint64_t frame);

/* What memory costs: memuse.c. */

struct memuse {
	size_t uss, pss, rss;
};

bool memuse_of(pid_t pid, const char *addr, size_t len, struct memuse *u);
size_t thread_faults(void);

void output_json(const struct report *rep, FILE *f);
void output_csv(const struct report *rep, FILE *f);

void progress(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void progress_clear(void);
/* One sentence on stderr, exit status 2. */
void die(const char *fmt, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* Runs and workloads: main.c, wl_*.c. */

struct nodes {
	int src, reader, writer;
};

struct bench {
	const struct method *methods[16];
	unsigned int nr_methods;
	bool methods_named;
	size_t sizes[32];
	unsigned int nr_sizes;	/* 0: the workload's choice */
	bool any_size;
	enum page_kind pages[NR_PAGE_KINDS];
	unsigned int nr_pages;	/* 0: the workload's choice */
	int repeat, warmup;	/* -1: the workload's choice */
	unsigned int writers, checkpointers;	/* 0: as above */
	const char *pattern;
	struct nodes nodes[64];
	unsigned int nr_nodes;	/* 0: all combinations */
	bool named;		/* the workload was asked for by name */
	bool system;		/* settings and memory of this machine are ours to change */
	struct report report;
};

struct workload {
	const char *name;
	const char *help;
	void (*run)(struct bench *b);
};

extern const struct workload wl_create, wl_ops, wl_touch, wl_checkpoint, wl_frequent,
			      wl_rollback, wl_many, wl_threads, wl_numa, wl_refcount,
			      wl_migrate, wl_pcp;

extern const struct workload *const workloads[];
extern const unsigned int nr_workloads;

/* cowsnap-bench report DIR: plot*.c, page.c. Its status. */
int report_pages(int argc, char **argv);

/*
 * One sample of one method; warm: do not record. Returns NULL, or why the
 * method cannot go on in this group.
 */
typedef const char *(*turn_fn)(struct group *g, const struct method *m, bool warm,
			       void *arg);

/* How a workload takes turns: repeat times each method, A B C A B C. */
struct turns {
	struct group *group;
	struct region *src;
	int repeat;
	bool with_none;
	bool no_warmup;		/* a turn is long, or leaves out its own beginning */
	bool sharing;		/* full copies would not fit: left out */
	unsigned int variants;	/* VARIANT_* that make a difference here */
	turn_fn fn;
	void *arg;
};

void bench_turns(struct bench *b, const struct turns *t);
bool bench_chosen(const struct bench *b, const struct method *m);
/* In workloads of the module's operations: why each other method is not there. */
void bench_others(struct bench *b, struct group *g);
/* Options, or the given defaults. */
unsigned int bench_sizes(struct bench *b, const size_t *dflt, unsigned int nr,
			 size_t *sizes);
unsigned int bench_pages(struct bench *b, const enum page_kind *dflt,
			 unsigned int nr, enum page_kind *pages);
/* one() for each size and kind of page that was asked for, or for these. */
void bench_each(struct bench *b, size_t size, enum page_kind page,
		void (*one)(struct bench *b, size_t size, enum page_kind page));
/*
 * Makes the source that len, page and node of r describe; false after saying
 * why there is none. copies: how many of it there will be at a time; 1 when
 * nobody writes to it, methods that copy ask for themselves.
 */
bool bench_source(struct bench *b, struct region *r, unsigned int copies);
const char *size_name(size_t size, char buf[24]);
char *sentence(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
