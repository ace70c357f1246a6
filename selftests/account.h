/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Accounting beyond that of the process: what the memory cgroup is charged, to
 * the page, and the pool of huge pages. Call from a process with one thread.
 */
#ifndef COWSNAP_SELFTESTS_ACCOUNT_H
#define COWSNAP_SELFTESTS_ACCOUNT_H

#include <linux/membarrier.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/syscall.h>

#include "kernel.h"

/*
 * Each CPU keeps a stock of charge for the group it last served: staying on one
 * leaves one stock, which exact_charge() can empty at once.
 */
static inline int stay_on_cpu(void)
{
	cpu_set_t cpus;
	int cpu = sched_getcpu();

	CPU_ZERO(&cpus);
	CPU_SET(cpu < 0 ? 0 : cpu, &cpus);
	return sched_setaffinity(0, sizeof(cpus), &cpus) ? -errno : 0;
}

/* A memory cgroup with us in it, on one CPU. */
static inline int account_enter(struct cgroup *cg)
{
	int err = stay_on_cpu();

	cg->dir[0] = 0;
	return err ? err : cgroup_enter(cg);
}

static inline int cgroup_write(const struct cgroup *cg, const char *file,
			       const char *text)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", cg->dir, file);
	return mem_write(path, text);
}

/* From now on reclaim finds nothing to take, also when it is asked to. */
static inline int account_hold(const struct cgroup *cg)
{
	return cgroup_write(cg, "memory.swap.max", "0");
}

/* Swapping is possible again. */
static inline int account_release(const struct cgroup *cg)
{
	return cgroup_write(cg, "memory.swap.max", "max");
}

/*
 * The charge in pages, when no CPU keeps a stock but for the one, always of the
 * same size, that opening the file to read it from makes. Setting memory.high below
 * what is charged empties the stocks; that it then tries to reclaim is in vain.
 */
static inline long exact_charge(const struct cgroup *cg, long pages)
{
	char text[24];
	long charge;

	mem_drain();
	snprintf(text, sizeof(text), "%ld", pages * (long)MEM_PAGE);
	cgroup_write(cg, "memory.high", text);
	charge = cgroup_read(cg, "memory.current") / (long)MEM_PAGE;
	cgroup_write(cg, "memory.high", "max");
	return charge;
}

/* What a group is charged when nothing is under way: the smallest of a few. */
static inline long settled_charge(const struct cgroup *cg)
{
	long charge, now;
	int i;

	/* Page tables are freed after a grace period. */
	syscall(__NR_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0);
	charge = cgroup_read(cg, "memory.current") / (long)MEM_PAGE;
	for (i = mem_fewer(5); i; i--) {
		now = exact_charge(cg, charge - 1);
		charge = now < charge ? now : charge;
		usleep(5000);
	}
	return charge;
}

/*
 * Is the group charged no more than @pages, but for the fractions of a page that
 * small objects come in? What is freed after a grace period is waited for.
 */
#define CHARGE_SLACK	2

static inline bool charge_returned(const struct cgroup *cg, long pages)
{
	double end = seconds() + 5;
	long now;

	do {
		/* No lower: reclaim would try in vain, and at length. */
		now = exact_charge(cg, pages + CHARGE_SLACK);
		if (now <= pages + CHARGE_SLACK)
			return true;
		usleep(10000);
	} while (seconds() < end);
	fprintf(stderr, "# the cgroup was charged %ld pages, is %ld\n", pages,
		now);
	return false;
}

/*
 * The same where memory comes and goes: what is freed is taken from the charge, not
 * put back to the stock, of which then any part is left. With the files open nothing
 * is charged from emptying it to reading, so that none is.
 */
struct charge_meter {
	int high, current;
};

static inline long meter_pages(const struct charge_meter *m)
{
	char text[24] = "";

	if (pread(m->current, text, sizeof(text) - 1, 0) <= 0)
		return -1;
	return atol(text) / (long)MEM_PAGE;
}

static inline long meter_read(const struct charge_meter *m)
{
	char text[24];
	int len = snprintf(text, sizeof(text), "%ld",
			   (meter_pages(m) - 1) * (long)MEM_PAGE);

	if (pwrite(m->high, text, len, 0) != len ||
	    pwrite(m->high, "max", 3, 0) != 3)
		return -1;
	return meter_pages(m);
}

static inline bool meter_open(struct charge_meter *m, const struct cgroup *cg)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/memory.high", cg->dir);
	m->high = open(path, O_WRONLY | O_CLOEXEC);
	snprintf(path, sizeof(path), "%s/memory.current", cg->dir);
	m->current = open(path, O_RDONLY | O_CLOEXEC);
	return m->high >= 0 && m->current >= 0 && meter_read(m) > 0;
}

/* The pool of huge pages of the default size, in pages. */
struct huge_pool {
	long total, free, rsvd, surp;
};

static inline void huge_pool(struct huge_pool *pool)
{
	FILE *f = fopen("/proc/meminfo", "re");
	char line[128];

	memset(pool, 0, sizeof(*pool));
	while (f && fgets(line, sizeof(line), f)) {
		sscanf(line, "HugePages_Total: %ld", &pool->total);
		sscanf(line, "HugePages_Free: %ld", &pool->free);
		sscanf(line, "HugePages_Rsvd: %ld", &pool->rsvd);
		sscanf(line, "HugePages_Surp: %ld", &pool->surp);
	}
	if (f)
		fclose(f);
}

static inline bool huge_pool_is(const struct huge_pool *was)
{
	struct huge_pool now;

	huge_pool(&now);
	if (!memcmp(was, &now, sizeof(now)))
		return true;
	fprintf(stderr,
		"# huge pages: were %ld, %ld free, %ld reserved, %ld surplus; are %ld, %ld, %ld, %ld\n",
		was->total, was->free, was->rsvd, was->surp, now.total,
		now.free, now.rsvd, now.surp);
	return false;
}

#endif /* COWSNAP_SELFTESTS_ACCOUNT_H */
