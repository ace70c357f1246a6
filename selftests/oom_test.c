// SPDX-License-Identifier: GPL-2.0
/*
 * The limit of the memory cgroup is reached in the middle of a call, which then
 * fails or is killed, and in either case is undone.
 */
#include <signal.h>
#include <sys/wait.h>

#include "account.h"
#include "uring.h"
#include "harness.h"

#define PAGES(n)	((n) * MEM_PAGE)

#define PINS		8
#define PIN_PAGES	32U		/* of each */
#define PINNED		(PINS * PIN_PAGES)
#define TABLES		200UL		/* page tables of a wide range */

FIXTURE(oom)
{
	int fd;
	char printk[32];
	int *result;
};

/* What a duplicate wants memory for: copies of pinned pages, page tables. */
FIXTURE_VARIANT(oom)
{
	bool wide;
};

FIXTURE_VARIANT_ADD(oom, copies) { .wide = false };
FIXTURE_VARIANT_ADD(oom, page_tables) { .wide = true };

#define PRINTK	"/proc/sys/kernel/printk"

FIXTURE_SETUP(oom)
{
	FILE *f = fopen(PRINTK, "re");

	self->printk[0] = 0;
	if (f && !fgets(self->printk, sizeof(self->printk), f))
		self->printk[0] = 0;
	if (f)
		fclose(f);
	self->fd = mem_open();
	ASSERT_LE(0, self->fd);
	self->result = mmap(NULL, MEM_PAGE, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->result);
	if (geteuid())
		SKIP(return, "needs root for a memory cgroup");
	/*
	 * The OOM killer shows its stack, which whoever reads the console takes
	 * for a crash. What is one still taints the kernel.
	 */
	mem_write(PRINTK, "1");
}

FIXTURE_TEARDOWN(oom)
{
	if (self->printk[0])
		mem_write(PRINTK, self->printk);
	close(self->fd);
}

struct victim {
	struct uring ring;
	char *src;
	size_t len;
};

static bool pin_much(struct victim *v)
{
	struct iovec iov[PINS];
	int i;

	v->len = PAGES(PINNED);
	v->src = mem_map_alone(v->len);
	if (!v->src || uring_open(&v->ring))
		return false;
	mem_fill(v->src, v->len, 6);
	for (i = 0; i < PINS; i++) {
		iov[i].iov_base = v->src + i * PAGES(PIN_PAGES);
		iov[i].iov_len = PAGES(PIN_PAGES);
	}
	return !uring_pinv(&v->ring, iov, PINS);
}

/* A page in each 2 MiB. */
static bool spread_out(struct victim *v)
{
	size_t i;

	v->len = TABLES * MEM_HUGE;
	v->src = mem_map_offset(v->len, MEM_HUGE, 0);
	for (i = 0; v->src && i < v->len; i += MEM_HUGE)
		mem_fill(v->src + i, MEM_PAGE, 6);
	return v->src;
}

static bool victim_is_whole(const struct victim *v, bool wide)
{
	size_t i;

	if (!wide)
		return mem_check(v->src, v->len, 6);
	for (i = 0; i < v->len; i += MEM_HUGE)
		if (!mem_check(v->src + i, MEM_PAGE, 6))
			return false;
	return mem_touched_pages(v->src, v->len) == TABLES;
}

static void set_max(const struct cgroup *cg, long pages)
{
	char text[24];

	snprintf(text, sizeof(text), "%ld", pages * (long)MEM_PAGE);
	cgroup_write(cg, "memory.max", text);
}

/*
 * In the cgroup @cg: room for @room pages more, then duplicate. Returns what is
 * wrong, 0 if nothing; *@result is what the call came to.
 */
static int duplicate_in_need(int fd, bool wide, struct cgroup *cg, int *result)
{
	struct victim v = { .ring.fd = -1 };
	struct mem_counters before, after;
	struct cowsnap_remap r;
	uint64_t maps;
	long charge;

	if (!(wide ? spread_out(&v) : pin_much(&v)) || account_hold(cg))
		return 10;
	/* Once before: what we touch for the first time is charged, too. */
	*(volatile int *)result = *result;
	mem_counters(&before);
	if (mem_remap(fd, v.src, v.len, NULL, 0, &r) ||
	    munmap((void *)(uintptr_t)r.dst, v.len) ||
	    !victim_is_whole(&v, wide))
		return 9;
	settled_charge(cg);
	maps = mem_maps_hash();
	mem_counters(&before);
	charge = settled_charge(cg);
	set_max(cg, charge + 24);
	*result = mem_remap(fd, v.src, v.len, NULL, 0, &r);
	/* Page tables may be freed a while later: until then nothing can be opened. */
	while (cgroup_write(cg, "memory.max", "max"))
		usleep(10000);
	if (*result != -ENOMEM || r.reason != COWSNAP_REASON_NO_MEMORY)
		return 11;
	if (!victim_is_whole(&v, wide))
		return 12;
	mem_counters(&after);
	if (!mem_counters_equal(&before, &after) || maps != mem_maps_hash())
		return 13;
	if (!charge_returned(cg, charge))
		return 14;
	/* With enough of it, it works. */
	if (mem_remap(fd, v.src, v.len, NULL, 0, &r))
		return 15;
	if (r.copied != (wide ? 0 : PINNED))
		return 16;
	return 0;
}

/* No killing: the process is exempt, and the call fails. */
TEST_F(oom, call_fails_at_the_limit_of_the_cgroup)
{
	struct cgroup cg;
	int status;
	pid_t pid;

	pid = fork();
	if (!pid) {
		if (mem_write("/proc/self/oom_score_adj", "-1000") ||
		    account_enter(&cg))
			_exit(2);
		status = duplicate_in_need(self->fd, variant->wide, &cg,
					   self->result);
		cgroup_leave(&cg);
		_exit(status);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	if (WIFEXITED(status) && WEXITSTATUS(status) == 2)
		SKIP(return, "no memory cgroup");
	EXPECT_EQ(0, status)
		TH_LOG("the call returned %d", *self->result);
}

/* Reads the @field of memory.events. */
static long event(const struct cgroup *cg, const char *field)
{
	char path[128], line[64];
	long value = -1, n;
	FILE *f;

	snprintf(path, sizeof(path), "%s/memory.events", cg->dir);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, field, strlen(field)) &&
		    sscanf(line + strlen(field), " %ld", &n) == 1)
			value = n;
	if (f)
		fclose(f);
	return value;
}

/*
 * Killed in the midst of the call, which then is undone, or the kernel finds
 * what is left over: "Bad rss-counter", and charge that never goes.
 */
TEST_F(oom, caller_is_killed_at_the_limit_of_the_cgroup)
{
	struct cgroup cg;
	double end;
	int status;
	pid_t pid;

	*self->result = 1;
	if (cgroup_enter(&cg))
		SKIP(return, "no memory cgroup");
	/* We only make it: the child alone is to be in there. */
	ASSERT_EQ(0, mem_write(cg.from, "0"));
	pid = fork();
	if (!pid) {
		if (stay_on_cpu() || cgroup_write(&cg, "cgroup.procs", "0"))
			_exit(2);
		duplicate_in_need(self->fd, variant->wide, &cg, self->result);
		_exit(3);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
		TH_LOG("status %#x, the call returned %d", status,
		       *self->result);
	EXPECT_EQ(1, *self->result)
		TH_LOG("it was not killed in the call");
	EXPECT_LE(1, event(&cg, "oom_kill"));
	/* All of it is given back, but for what the cgroup itself takes. */
	end = seconds() + 10;
	while (exact_charge(&cg, 0) > 64 && seconds() < end)
		usleep(10000);
	EXPECT_GE(64, exact_charge(&cg, 0));
	EXPECT_EQ(0, rmdir(cg.dir));
}

TEST_HARNESS_MAIN
