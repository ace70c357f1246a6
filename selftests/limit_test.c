// SPDX-License-Identifier: GPL-2.0
/*
 * Limits hold as they do for mmap and fork, to the page where those are exact:
 * vm.max_map_count, RLIMIT_AS, RLIMIT_DATA, RLIMIT_MEMLOCK, the three modes of
 * vm.overcommit_memory. That of the memory cgroup is next door, in oom_test.c.
 */
#include <sys/resource.h>
#include <sys/wait.h>

#include "kernel.h"
#include "ops.h"
#include "harness.h"

/* Limits: changed for a moment, and put back whatever happens. */

#define MAX_MAP_COUNT	"/proc/sys/vm/max_map_count"
#define OVERCOMMIT	"/proc/sys/vm/overcommit_memory"

FIXTURE(limit)
{
	int fd;
	long max_map_count;
	long overcommit;
};

FIXTURE_SETUP(limit)
{
	self->fd = mem_open();
	ASSERT_GE(self->fd, 0)
		TH_LOG("%s: %s. Is the module loaded?", MEM_DEVICE,
		       strerror(errno));
	self->max_map_count = mem_read_long(MAX_MAP_COUNT);
	self->overcommit = mem_read_long(OVERCOMMIT);
	ASSERT_GT(self->max_map_count, 0);
	ASSERT_GE(self->overcommit, 0);
}

static int write_long(const char *path, long value)
{
	char text[32];

	snprintf(text, sizeof(text), "%ld", value);
	return mem_write(path, text);
}

FIXTURE_TEARDOWN(limit)
{
	if (geteuid() == 0) {
		EXPECT_EQ(0, write_long(MAX_MAP_COUNT, self->max_map_count));
		EXPECT_EQ(0, write_long(OVERCOMMIT, self->overcommit));
	}
	close(self->fd);
}

/* A range of @nr mappings of one page: neighbours differ in protection. */
static char *many_maps(unsigned int nr)
{
	char *p = mem_map_alone(PAGES(nr));
	unsigned int i;

	if (!p)
		return NULL;
	mem_fill(p, PAGES(nr), 7);
	for (i = 0; i < nr; i += 2)
		if (mprotect(p + PAGES(i), MEM_PAGE, PROT_READ))
			return NULL;
	return p;
}

/* /proc/self/maps has one line, [vsyscall], that is no mapping of ours. */
static long map_count(void)
{
	struct mem_counters c;

	mem_counters(&c);
	return c.maps - 1;
}

/*
 * From no room to enough: it works when all of it fits (the kernel itself stops
 * at the limit or one above) and leaves nothing behind when it does not.
 */
TEST_F(limit, max_map_count_is_kept)
{
	const unsigned int nr = 20;
	unsigned int room, worked = 0;
	struct cowsnap_remap r;
	char *src;
	long base;

	if (geteuid())
		SKIP(return, "needs root to change vm.max_map_count");
	src = many_maps(nr);
	ASSERT_NE(NULL, src);
	base = map_count();
	for (room = 0; room < nr + 4; room++) {
		int err;

		ASSERT_EQ(0, write_long(MAX_MAP_COUNT, base + room));
		r = (struct cowsnap_remap) {
			.size = sizeof(r), .src = U64(src), .len = PAGES(nr),
		};
		err = mem_refused(self->fd, &r);
		ASSERT_EQ(0, write_long(MAX_MAP_COUNT, self->max_map_count));
		if (!err) {
			worked++;
			EXPECT_GE(room, nr - 1)
				TH_LOG("above the limit");
			EXPECT_EQ(base + nr, map_count());
			EXPECT_TRUE(mem_check((void *)r.dst, PAGES(nr), 7));
			munmap((void *)r.dst, PAGES(nr));
			continue;
		}
		ASSERT_EQ(-ENOMEM, err);
		EXPECT_LE(room, nr);
		EXPECT_EQ(COWSNAP_REASON_MAP_COUNT, r.reason);
		EXPECT_EQ(U64(src), r.fault_addr);
		EXPECT_EQ(base, map_count());
	}
	EXPECT_GE(worked, 3);
}

/*
 * Where huge pages are not shared whole, a source that is part of a mapping is cut
 * out of it before what FIXED replaces makes room.
 */
TEST_F(limit, max_map_count_is_checked_before_the_source_is_cut)
{
	unsigned int room, worked = 0;
	struct cowsnap_remap r;
	char *src, *dst;
	long base;

	if (geteuid())
		SKIP(return, "needs root to change vm.max_map_count");
	src = mem_map_alone(PAGES(9));
	dst = many_maps(6);
	ASSERT_NE(NULL, src);
	ASSERT_NE(NULL, dst);
	ASSERT_EQ(0, madvise(src, PAGES(9), MADV_HUGEPAGE));
	mem_fill(src, PAGES(9), 8);
	base = map_count();
	for (room = 0; room < 4 && !worked; room++) {
		int err;

		ASSERT_EQ(0, write_long(MAX_MAP_COUNT, base + room));
		r = (struct cowsnap_remap) {
			.size = sizeof(r), .src = U64(src + PAGES(3)),
			.len = PAGES(3), .dst = U64(dst + PAGES(1)),
			.flags = COWSNAP_REMAP_FIXED,
		};
		err = mem_refused(self->fd, &r);
		ASSERT_EQ(0, write_long(MAX_MAP_COUNT, self->max_map_count));
		if (!err) {
			worked++;
			continue;
		}
		ASSERT_EQ(-ENOMEM, err);
		EXPECT_EQ(COWSNAP_REASON_MAP_COUNT, r.reason);
		EXPECT_EQ(base, map_count());
		EXPECT_TRUE(mem_check(dst, PAGES(6), 7));
	}
	EXPECT_EQ(1U, worked);
}

/* Replacing splits what stood there: to be counted before it is gone. */
TEST_F(limit, max_map_count_is_checked_before_replacing)
{
	const unsigned int nr = 20;
	unsigned int room, worked = 0;
	struct cowsnap_remap r;
	char *src, *dst;
	long base;

	if (geteuid())
		SKIP(return, "needs root to change vm.max_map_count");
	src = many_maps(nr);
	dst = mem_map_alone(PAGES(nr + 2));
	ASSERT_NE(NULL, src);
	ASSERT_NE(NULL, dst);
	mem_fill(dst, PAGES(nr + 2), 8);
	base = map_count();
	for (room = 0; room < nr + 6 && !worked; room++) {
		int err;

		ASSERT_EQ(0, write_long(MAX_MAP_COUNT, base + room));
		r = (struct cowsnap_remap) {
			.size = sizeof(r), .flags = COWSNAP_REMAP_FIXED,
			.src = U64(src), .len = PAGES(nr),
			.dst = U64(dst + MEM_PAGE),
		};
		err = mem_refused(self->fd, &r);
		ASSERT_EQ(0, write_long(MAX_MAP_COUNT, self->max_map_count));
		if (!err) {
			worked++;
			EXPECT_TRUE(mem_check(dst + MEM_PAGE, PAGES(nr), 7));
			continue;
		}
		ASSERT_EQ(-ENOMEM, err)
			TH_LOG("with room for %u", room);
		EXPECT_EQ(COWSNAP_REASON_MAP_COUNT, r.reason);
		EXPECT_TRUE(mem_check(dst, PAGES(nr + 2), 8));
	}
	EXPECT_EQ(1, worked);
}

/* What is cut out of the middle leaves two mappings, as with munmap. */
TEST_F(limit, max_map_count_is_kept_by_release)
{
	struct cowsnap_release r;
	char *src, *dup;

	if (geteuid())
		SKIP(return, "needs root to change vm.max_map_count");
	src = mem_map_alone(PAGES(3));
	ASSERT_NE(NULL, src);
	mem_fill(src, PAGES(3), 7);
	dup = mem_dup(self->fd, src, PAGES(3));
	ASSERT_NE(NULL, dup);
	ASSERT_EQ(0, write_long(MAX_MAP_COUNT, map_count()));
	EXPECT_EQ(-ENOMEM, op_release(self->fd, src + MEM_PAGE, dup + MEM_PAGE,
				      MEM_PAGE, &r));
	EXPECT_EQ(COWSNAP_REASON_MAP_COUNT, r.reason);
	EXPECT_EQ(U64(dup + MEM_PAGE), r.fault_addr);
	EXPECT_TRUE(mem_check(dup, PAGES(3), 7));
	/* The ends, and all that is left. */
	EXPECT_EQ(0, op_release(self->fd, src, dup, MEM_PAGE, &r));
	EXPECT_EQ(0, op_release(self->fd, src + PAGES(2), dup + PAGES(2), MEM_PAGE, &r));
	EXPECT_EQ(0, op_release(self->fd, src + MEM_PAGE, dup + MEM_PAGE, MEM_PAGE, &r));
	EXPECT_TRUE(mem_check(src, PAGES(3), 7));
}

static int set_limit(int which, rlim_t bytes)
{
	struct rlimit lim;

	if (getrlimit(which, &lim))
		return -errno;
	lim.rlim_cur = bytes;
	return setrlimit(which, &lim) ? -errno : 0;
}

TEST_F(limit, rlimit_as_is_kept)
{
	size_t len = 4UL << 20;
	struct cowsnap_remap r;
	struct mem_counters c;
	struct rlimit old;
	char *src;

	src = mem_map_alone(len);
	ASSERT_NE(NULL, src);
	mem_fill(src, PAGES(4), 1);
	ASSERT_EQ(0, getrlimit(RLIMIT_AS, &old));
	mem_counters(&c);
	r = (struct cowsnap_remap) {
		.size = sizeof(r), .src = U64(src), .len = len,
	};
	ASSERT_EQ(0, set_limit(RLIMIT_AS, (c.vm_size << 10) + len - MEM_PAGE));
	EXPECT_EQ(-ENOMEM, mem_refused(self->fd, &r));
	EXPECT_EQ(COWSNAP_REASON_RLIMIT, r.reason);
	EXPECT_EQ(U64(src), r.fault_addr);

	/* One page more, and it fits. */
	ASSERT_EQ(0, set_limit(RLIMIT_AS, (c.vm_size << 10) + len));
	EXPECT_EQ(0, mem_refused(self->fd, &r));
	ASSERT_EQ(0, set_limit(RLIMIT_AS, old.rlim_cur));
}

TEST_F(limit, rlimit_data_is_kept)
{
	size_t len = 4UL << 20;
	struct cowsnap_remap r;
	struct mem_counters c;
	struct rlimit old;
	char *src;

	src = mem_map_alone(len);
	ASSERT_NE(NULL, src);
	mem_fill(src, PAGES(4), 1);
	ASSERT_EQ(0, getrlimit(RLIMIT_DATA, &old));
	mem_counters(&c);
	r = (struct cowsnap_remap) {
		.size = sizeof(r), .src = U64(src), .len = len,
	};
	ASSERT_EQ(0, set_limit(RLIMIT_DATA, (c.vm_data << 10) + len -
			       MEM_PAGE));
	EXPECT_EQ(-ENOMEM, mem_refused(self->fd, &r));
	EXPECT_EQ(COWSNAP_REASON_RLIMIT, r.reason);
	EXPECT_EQ(U64(src), r.fault_addr);
	ASSERT_EQ(0, set_limit(RLIMIT_DATA, (c.vm_data << 10) + len));
	EXPECT_EQ(0, mem_refused(self->fd, &r));
	ASSERT_EQ(0, set_limit(RLIMIT_DATA, old.rlim_cur));
}

/* Locked pages of ours that a limit of one mapping allows: not two. */
static int lock_to_the_limit(int fd)
{
	struct rlimit lim = { .rlim_cur = PAGES(64), .rlim_max = PAGES(64) };
	struct mem_counters c;
	char *src, *dup;

	src = mem_map_alone(PAGES(64));
	if (!src || setrlimit(RLIMIT_MEMLOCK, &lim) || setresuid(1, 1, 1))
		return 2;
	mem_fill(src, PAGES(64), 4);
	if (mlock(src, PAGES(64)))
		return 2;
	/* What comes later is to be locked as well: not a duplicate. */
	if (mlockall(MCL_FUTURE))
		return 2;
	dup = mem_dup(fd, src, PAGES(64));
	if (!dup || !mem_check(dup, PAGES(64), 4))
		return 3;
	mem_counters(&c);
	if (c.locked != (long)PAGES(64) >> 10 || mem_smaps_flag(dup, "lo"))
		return 4;
	/* And locking it is one page too many, whoever asks. */
	if (!mlock(dup, MEM_PAGE) || errno != ENOMEM)
		return 5;
	return 0;
}

/* A duplicate is not locked, so that this limit neither refuses nor is passed. */
TEST_F(limit, rlimit_memlock_is_kept)
{
	int status;
	pid_t pid;

	if (geteuid())
		SKIP(return, "needs root to become someone else");
	pid = fork();
	if (!pid)
		_exit(lock_to_the_limit(self->fd));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
}

static long meminfo(const char *format)
{
	FILE *f = fopen("/proc/meminfo", "re");
	char line[128];
	long value = 0;

	while (f && fgets(line, sizeof(line), f))
		sscanf(line, format, &value);
	if (f)
		fclose(f);
	return value;
}

/* An untouched mapping that is charged for, whatever the mode is later. */
static char *promise(size_t len)
{
	if (write_long(OVERCOMMIT, 1))
		return NULL;
	return mem_map_alone(len);
}

static bool can_duplicate(int fd, char *src, size_t len)
{
	struct cowsnap_remap r;
	int err = mem_remap(fd, src, len, NULL, 0, &r);

	if (!err)
		munmap((void *)(uintptr_t)r.dst, len);
	else if (err != -ENOMEM || r.reason != COWSNAP_REASON_COMMIT)
		fprintf(stderr, "# %s, reason %u\n", strerror(-err), r.reason);
	return !err;
}

static bool can_map(int fd, char *src, size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)fd, (void)src;
	return p != MAP_FAILED && !munmap(p, len);
}

/* The largest number of pages up to @max that works. */
static size_t most(bool (*can)(int, char *, size_t), int fd, char *src,
		   size_t max)
{
	size_t low = 0, high = max + 1, middle;

	while (high - low > 1) {
		middle = low + (high - low) / 2;
		if (can(fd, src, PAGES(middle)))
			low = middle;
		else
			high = middle;
	}
	return low;
}

/*
 * Mode 2: exactly as much as mmap gives, and the charge as exact. What the
 * kernel does not bother to sum up is 32 pages or two for each CPU, at most.
 */
TEST_F(limit, overcommit_mode_2_gives_what_mmap_gives)
{
	long room = meminfo("CommitLimit: %ld") - meminfo("Committed_AS: %ld");
	size_t nr, mapped, duplicated, slack;
	struct mem_counters before, after;
	char *src;

	if (geteuid())
		SKIP(return, "needs root to change vm.overcommit_memory");
	if (room < 64 << 10)
		SKIP(return, "only %ld kB of commit limit left", room);
	/* Two thirds of what is left fit once, not twice. */
	nr = ((size_t)room << 10) / 3 * 2 / MEM_PAGE;
	src = promise(PAGES(nr));
	ASSERT_NE(NULL, src);
	mem_fill(src, PAGES(4), 1);
	/* Not for the first time when it counts. */
	can_duplicate(self->fd, src, MEM_PAGE);
	can_map(self->fd, src, MEM_PAGE);
	mem_counters(&before);
	ASSERT_EQ(0, write_long(OVERCOMMIT, 2));
	mapped = most(can_map, self->fd, src, nr);
	duplicated = most(can_duplicate, self->fd, src, nr);
	ASSERT_EQ(0, write_long(OVERCOMMIT, self->overcommit));
	mem_counters(&after);
	EXPECT_TRUE(mem_counters_equal(&before, &after));
	slack = 64 * sysconf(_SC_NPROCESSORS_ONLN);
	TH_LOG("of %zu pages: mmap %zu, duplicate %zu", nr, mapped, duplicated);
	EXPECT_GT(nr, duplicated);
	EXPECT_GE(duplicated, nr / 4);
	EXPECT_LE(duplicated, mapped + slack);
	EXPECT_GE(duplicated + slack, mapped);
	EXPECT_TRUE(mem_check(src, PAGES(4), 1));
}

/* What stands in the way makes room for a part of it only, and stays. */
TEST_F(limit, overcommit_mode_2_is_checked_before_replacing)
{
	long limit = meminfo("CommitLimit: %ld");
	size_t len = (size_t)limit << 10 & ~(MEM_PAGE - 1);
	struct mem_counters before, after;
	struct cowsnap_remap r;
	char *src, *dst;
	int err;

	if (geteuid())
		SKIP(return, "needs root to change vm.overcommit_memory");
	src = promise(len);
	dst = mem_free_range(len, MEM_PAGE, 0);
	ASSERT_NE(NULL, src);
	ASSERT_EQ(dst, mmap(dst, PAGES(8), PROT_READ | PROT_WRITE, MAP_PRIVATE |
			    MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	mem_fill(src, PAGES(4), 1);
	mem_fill(dst, PAGES(8), 2);
	r = (struct cowsnap_remap) {
		.size = sizeof(r), .flags = COWSNAP_REMAP_FIXED,
		.src = U64(src), .len = len, .dst = U64(dst),
	};
	mem_counters(&before);
	ASSERT_EQ(0, write_long(OVERCOMMIT, 2));
	err = mem_refused(self->fd, &r);
	ASSERT_EQ(0, write_long(OVERCOMMIT, self->overcommit));
	mem_counters(&after);
	EXPECT_EQ(-ENOMEM, err);
	EXPECT_EQ(COWSNAP_REASON_COMMIT, r.reason);
	EXPECT_EQ(U64(src), r.fault_addr);
	EXPECT_TRUE(mem_counters_equal(&before, &after));
	EXPECT_TRUE(mem_check(dst, PAGES(8), 2));
}

/* Mode 0 refuses what can never be there, mode 1 nothing. */
TEST_F(limit, overcommit_modes_0_and_1)
{
	size_t all = (size_t)(meminfo("MemTotal: %ld") +
			      meminfo("SwapTotal: %ld")) << 10;
	char *src;

	if (geteuid())
		SKIP(return, "needs root to change vm.overcommit_memory");
	all &= ~(MEM_PAGE - 1);
	src = promise(all + PAGES(1024));
	ASSERT_NE(NULL, src);
	mem_fill(src, PAGES(4), 1);
	EXPECT_TRUE(can_duplicate(self->fd, src, all + PAGES(1024)));
	ASSERT_EQ(0, write_long(OVERCOMMIT, 0));
	EXPECT_FALSE(can_duplicate(self->fd, src, all + PAGES(1024)));
	EXPECT_TRUE(can_duplicate(self->fd, src, (all / 2) & ~(MEM_PAGE - 1)));
	/* Not charged for, not refused. */
	ASSERT_EQ(0, munmap(src, all + PAGES(1024)));
	src = mmap(NULL, all + PAGES(1024), PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ASSERT_NE(MAP_FAILED, src);
	EXPECT_TRUE(can_duplicate(self->fd, src, all + PAGES(1024)));
}

TEST_HARNESS_MAIN
