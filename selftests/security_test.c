// SPDX-License-Identifier: GPL-2.0
/*
 * What somebody without any privilege gets from the device: who may open it,
 * requests of random bytes, and whether an answer holds anything but the answer
 * - what was on the kernel's stack, where it lies in memory, what another
 * process had in a page.
 */
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "kernel.h"
#include "request.h"
#include "uring.h"

#define NOBODY		65534
#define SYSFS		"/sys/class/misc/cowsnap"

/*
 * Anything from here on is an address of the kernel's, or an errno: so far down
 * its half reaches with 5-level page tables.
 */
#define KERNEL_FROM	0xff00000000000000ULL

/* No user, no group, no capability; /proc/self stays ours. */
static bool become_nobody(void)
{
	return !syscall(SYS_setgroups, 0, NULL) &&
	       !setresgid(NOBODY, NOBODY, NOBODY) &&
	       !setresuid(NOBODY, NOBODY, NOBODY) &&
	       !prctl(PR_SET_DUMPABLE, 1) && geteuid() == NOBODY;
}

/* Runs @what as nobody in a child: its exit status, or -1. */
static int as_nobody(int (*what)(int), int fd)
{
	int status;
	pid_t pid = fork();

	if (!pid)
		_exit(become_nobody() ? what(fd) : 99);
	if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return -1;
	return WEXITSTATUS(status);
}

/* Who may open it */

FIXTURE(device)
{
	int fd;
	struct stat st;
};

FIXTURE_SETUP(device)
{
	self->fd = mem_open();
	ASSERT_LE(0, self->fd);
	ASSERT_EQ(0, stat(MEM_DEVICE, &self->st));
}

FIXTURE_TEARDOWN(device)
{
	close(self->fd);
}

/* The id of a group, or -1. */
static long group_id(const char *name)
{
	FILE *f = fopen("/etc/group", "re");
	char line[512];
	size_t len = strlen(name);
	long id = -1;

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, name, len) && line[len] == ':')
			sscanf(line + len, ":%*[^:]:%ld", &id);
	if (f)
		fclose(f);
	return id;
}

/* Root's, or as the udev rule that we ship makes it. */
TEST_F(device, is_roots_unless_the_rule_gives_it_to_the_group)
{
	EXPECT_TRUE(S_ISCHR(self->st.st_mode));
	EXPECT_EQ(0, self->st.st_uid);
	if ((self->st.st_mode & 07777) == 0660) {
		EXPECT_EQ(group_id("cowsnap"), (long)self->st.st_gid);
	} else {
		EXPECT_EQ(0600, self->st.st_mode & 07777);
		EXPECT_EQ(0, self->st.st_gid);
	}
}

static bool file_has_line(const char *path, const char *wanted)
{
	FILE *f = fopen(path, "re");
	char line[256];
	bool found = false;

	while (f && fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = 0;
		found |= !strcmp(line, wanted);
	}
	if (f)
		fclose(f);
	return found;
}

/* What the rule looks for: KERNEL=="cowsnap", SUBSYSTEM=="misc". */
TEST_F(device, is_announced_as_the_udev_rule_expects)
{
	char target[256] = "";

	ASSERT_LT(0, readlink(SYSFS "/subsystem", target, sizeof(target) - 1));
	EXPECT_STREQ("misc", strrchr(target, '/') + 1);
	EXPECT_TRUE(file_has_line(SYSFS "/uevent", "DEVNAME=cowsnap"));
	EXPECT_TRUE(file_has_line(SYSFS "/uevent", "DEVMODE=0600"));
}

static int try_open(int unused)
{
	int fd = open(MEM_DEVICE, O_RDWR);

	(void)unused;
	return fd < 0 ? errno : 0;
}

TEST_F(device, is_closed_to_others_until_it_is_opened_to_them)
{
	int shut, open;

	if (geteuid())
		SKIP(return, "needs root to become nobody");
	shut = as_nobody(try_open, -1);
	ASSERT_EQ(0, chmod(MEM_DEVICE, 0666));
	open = as_nobody(try_open, -1);
	ASSERT_EQ(0, chmod(MEM_DEVICE, self->st.st_mode & 07777));
	EXPECT_EQ(EACCES, shut);
	EXPECT_EQ(0, open);
}

static int duplicate_own(int fd)
{
	char *src = mem_map_alone(PAGES(8)), *dup;

	if (!src)
		return 2;
	mem_fill(src, PAGES(8), 3);
	dup = mem_dup(fd, src, PAGES(8));
	return !dup || !mem_check(dup, PAGES(8), 3);
}

TEST_F(device, works_for_nobody_through_a_passed_descriptor)
{
	if (geteuid())
		SKIP(return, "needs root to become nobody");
	EXPECT_EQ(0, as_nobody(duplicate_own, self->fd));
}

/* What comes back */

FIXTURE(answer)
{
	int fd;
	char *src;		/* eight pages */
	char *page;		/* nothing behind it */
	uint64_t random;
};

FIXTURE_SETUP(answer)
{
	self->random = 0x5eed;
	self->fd = mem_open();
	ASSERT_LE(0, self->fd);
	self->src = mem_map_alone(PAGES(8));
	self->page = mem_map_alone(MEM_PAGE);
	ASSERT_NE(NULL, self->src);
	ASSERT_NE(NULL, self->page);
	mem_fill(self->src, PAGES(8), 1);
}

FIXTURE_TEARDOWN(answer)
{
	close(self->fd);
}

/* One of each kind of answer that REMAP has. */
static size_t make_requests(char *src, struct cowsnap_remap *r, size_t max)
{
	const __u64 at = U64(src), len = PAGES(8);
	const struct cowsnap_remap requests[] = {
		{ .src = at, .len = len },
		{ .src = at, .len = len, .flags = COWSNAP_REMAP_READONLY },
		{ .src = at + 1, .len = len },
		{ .src = at, .len = 0 },
		{ .src = at, .len = ~4095ULL },
		{ .src = at, .len = len, .dst = at, .flags = 1 },
		{ .src = at, .len = len, .flags = 3 },
		{ .src = at, .len = len, .flags = 1u << 31 },
		{ .src = at, .len = len, .reserved = 1 },
		{ .src = at, .len = len + PAGES(1) },
		{ .src = KERNEL_FROM, .len = len },
		{ .src = at, .len = len, .dst = KERNEL_FROM, .flags = 1 },
		{ .src = PAGES(16), .len = len },
	};
	size_t i, nr = sizeof(requests) / sizeof(*requests);

	for (i = 0; i < nr && i < max; i++) {
		r[i] = requests[i];
		r[i].size = sizeof(*r);
	}
	return i;
}

/* Issues it with every byte that is output, and those behind, set to @poison. */
static int poisoned(int fd, char *page, const struct cowsnap_remap *in,
		    unsigned char poison, struct cowsnap_remap *out)
{
	struct cowsnap_remap *r = (struct cowsnap_remap *)page;
	size_t i;
	int err;

	memset(page, poison, MEM_PAGE);
	r->size = in->size;
	r->flags = in->flags;
	r->src = in->src;
	r->len = in->len;
	r->dst = in->dst;
	r->reserved = in->reserved;
	err = ioctl(fd, COWSNAP_REMAP, r) ? -errno : 0;
	*out = *r;
	if (!err)
		munmap((void *)(uintptr_t)r->dst, r->len);
	for (i = sizeof(*r); i < MEM_PAGE; i++)
		if ((unsigned char)page[i] != poison)
			return -9999;
	return err;
}

/*
 * Each output is written, whatever stood there before, and depends on nothing
 * but the request. If this fails, the kernel's stack leaks, or a program takes
 * its own old bytes for an answer.
 */
TEST_F(answer, is_complete_and_the_same_each_time)
{
	struct cowsnap_remap r[32], a, b;
	size_t i, nr = make_requests(self->src, r, 32);
	int err;

	for (i = 0; i < nr; i++) {
		err = poisoned(self->fd, self->page, &r[i], 0xff, &a);
		EXPECT_EQ(err, poisoned(self->fd, self->page, &r[i], 0x5a, &b));
		EXPECT_NE(-9999, err)
			TH_LOG("request %zu: bytes behind the struct", i);
		/* Where the kernel chooses, it may choose another place. */
		if (!err)
			a.dst = b.dst;
		EXPECT_EQ(0, memcmp(&a, &b, sizeof(a)))
			TH_LOG("request %zu has two answers", i);
		EXPECT_EQ(r[i].size, a.size);
		EXPECT_EQ(r[i].flags, a.flags);
		EXPECT_EQ(r[i].src, a.src);
		EXPECT_EQ(r[i].len, a.len);
		EXPECT_EQ(r[i].reserved, a.reserved);
		EXPECT_EQ(!err, !a.reason);
		if (err) {
			EXPECT_EQ(0, a.shared + a.copied);
			EXPECT_EQ(r[i].dst, a.dst);
		}
	}
}

TEST_F(answer, query_is_complete_and_the_same_each_time)
{
	struct cowsnap_query *q = (struct cowsnap_query *)self->page, a;
	unsigned int flags;
	size_t i;

	for (flags = 0; flags < 2; flags++) {
		memset(self->page, 0xff, MEM_PAGE);
		q->size = sizeof(*q);
		q->flags = flags;
		EXPECT_EQ(flags ? -1 : 0, ioctl(self->fd, COWSNAP_QUERY, q));
		a = *q;
		memset(self->page, 0x5a, MEM_PAGE);
		q->size = sizeof(*q);
		q->flags = flags;
		EXPECT_EQ(flags ? -1 : 0, ioctl(self->fd, COWSNAP_QUERY, q));
		EXPECT_EQ(0, memcmp(&a, q, sizeof(a)));
		for (i = sizeof(*q); i < MEM_PAGE; i++)
			ASSERT_EQ(0x5a, self->page[i]);
	}
}

/* The other commands, with eight pages of source and a duplicate of them. */
struct op {
	unsigned long cmd;
	size_t size, out, reason, reserved;	/* the last one may be an input */
	bool two;
};

#define OP(cmd_, name, first_out, two_) {				\
	COWSNAP_ ## cmd_, sizeof(struct cowsnap_ ## name),		\
	offsetof(struct cowsnap_ ## name, first_out),			\
	offsetof(struct cowsnap_ ## name, reason),			\
	offsetof(struct cowsnap_ ## name, reserved), two_,		\
}

static const struct op ops[] = {
	OP(UNSHARE, unshare, copied, false), OP(SYNC, sync, changed, true),
	OP(DIFF, diff, nr, true), OP(RELEASE, release, reused, true),
};

#define VEC	4

static void set_ranges(const struct op *op, union any *r, __u64 first,
		       __u64 second, __u64 len)
{
	r->first = first;
	if (op->two) {
		r->second = second;
		r->len = len;
	} else {
		r->len_of_one = len;
	}
}

/* One of each kind of answer; 0 past the last one. */
static bool op_request(const struct op *op, unsigned int i, char *src, char *dup,
		       union any *r)
{
	const __u64 a = U64(src), b = U64(dup), len = PAGES(8);
	const struct {
		__u64 first, second, len;
		__u32 flags, reserved;
	} kinds[] = {
		{ a, b, len, 0, 0 }, { a, b, len, 1, 0 }, { a, b, len, 0, 1 },
		{ a, b, len, 1u << 31, 0 }, { a, b, 0, 0, 0 },
		{ a, b, ~4095ULL, 0, 0 }, { a + 1, b, len, 0, 0 },
		{ a, a, len, 0, 0 }, { KERNEL_FROM, b, len, 0, 0 },
		{ a, KERNEL_FROM, len, 0, 0 }, { PAGES(16), b, len, 0, 0 },
	};

	if (i >= sizeof(kinds) / sizeof(*kinds))
		return false;
	memset(r, 0, sizeof(*r));
	set_ranges(op, r, kinds[i].first, kinds[i].second, kinds[i].len);
	r->size = op->size;
	r->flags = kinds[i].flags;
	memcpy(r->bytes + op->reserved, &kinds[i].reserved, 4);
	return true;
}

/* The duplicate anew, one page of which is another; the source shares the rest. */
static bool renew(int fd, char *src, char *dup)
{
	struct cowsnap_remap r;

	if (mem_remap(fd, src, PAGES(8), dup, COWSNAP_REMAP_FIXED, &r))
		return false;
	mem_fill(dup + PAGES(3), MEM_PAGE, 2);
	return true;
}

/* As poisoned(), with room for ranges behind the struct; all of it goes to @page. */
static int op_poisoned(int fd, char *page, const struct op *op, const union any *in,
		       unsigned char poison)
{
	struct cowsnap_diff *d = (struct cowsnap_diff *)page;
	size_t i, end = op->size, vec = 256;
	int err;

	memset(page, poison, MEM_PAGE);
	memcpy(page, in, op->out);
	memcpy(page + op->reserved, in->bytes + op->reserved, 4);
	if (op->cmd == COWSNAP_DIFF) {
		d->vec = U64(page + vec);
		d->vec_len = VEC;
	}
	err = call(fd, op->cmd, page);
	for (i = end; i < MEM_PAGE; i++) {
		if (op->cmd == COWSNAP_DIFF && i == vec)
			i += d->nr * sizeof(struct cowsnap_range);
		if ((unsigned char)page[i] != poison)
			return -9999;
	}
	/* What is no answer differs, as it has to. */
	memset(page + end, 0, vec - end);
	if (op->cmd == COWSNAP_DIFF)
		vec += d->nr * sizeof(struct cowsnap_range);
	memset(page + vec, 0, MEM_PAGE - vec);
	return err;
}

/* As of REMAP above. What each did is done again for the second call. */
TEST_F(answer, of_other_commands_is_complete_and_the_same_each_time)
{
	char first[MEM_PAGE], *dup = mem_dup(self->fd, self->src, PAGES(8));
	const struct op *op;
	union any in;
	unsigned int i;
	__u32 reason;
	int err;

	ASSERT_NE(NULL, dup);
	for (op = ops; op < ops + 4; op++) {
		for (i = 0; op_request(op, i, self->src, dup, &in); i++) {
			ASSERT_TRUE(renew(self->fd, self->src, dup));
			err = op_poisoned(self->fd, self->page, op, &in, 0xff);
			memcpy(first, self->page, MEM_PAGE);
			mem_fill(self->src, PAGES(8), 1);
			ASSERT_TRUE(renew(self->fd, self->src, dup));
			EXPECT_EQ(err, op_poisoned(self->fd, self->page, op, &in,
						   0x5a));
			EXPECT_NE(-9999, err)
				TH_LOG("%lu, request %u: bytes behind the struct",
				       op->cmd & 255, i);
			EXPECT_EQ(0, memcmp(first, self->page, MEM_PAGE))
				TH_LOG("%lu, request %u has two answers",
				       op->cmd & 255, i);
			memcpy(&reason, first + op->reason, 4);
			EXPECT_EQ(!err, !reason);
			mem_fill(self->src, PAGES(8), 1);
		}
	}
}

/* Numbers in the answer that the request did not hold and no process can. */
static bool tells_kernel_address(const char *before, const char *after,
				 size_t size)
{
	uint64_t was, is;
	size_t i;

	for (i = 0; i + 8 <= size; i += 4) {
		memcpy(&was, before + i, 8);
		memcpy(&is, after + i, 8);
		/*
		 * Written as a whole, and no address from the request, nor the
		 * beginning of one next to the end of another member.
		 */
		if (is >= KERNEL_FROM && is >> 32 != was >> 32 &&
		    !memmem(before, size, (char *)&is + 4, 4))
			return true;
	}
	return false;
}

/* size and flags are inputs of all commands, src and len of REMAP. */
static bool inputs_are_kept(const char *before, const char *after, size_t size)
{
	const size_t inputs = offsetof(struct cowsnap_remap, dst);

	return !memcmp(before, after, size < inputs ? size : inputs);
}

/*
 * Bytes of no meaning, for every command number, at the very end of a page.
 * FIXED is left out: it does what it says to whatever memory is there.
 */
static bool random_request(int fd, char *page, uint64_t *random,
			   unsigned long *told)
{
	char before[256], *at;
	unsigned int nr = next_random(random) % 4 ? next_random(random) % 6 :
						   next_random(random) % 256;
	size_t size = 4 + next_random(random) % 160, i;
	uint32_t said, flags;

	for (i = 0; i < size; i++)
		before[i] = next_random(random) % 3 ? 0 : next_random(random);
	said = next_random(random) % 4 ? size : next_random(random) % 300;
	memcpy(before, &said, 4);
	if (size >= 8) {
		flags = next_random(random) & (next_random(random) % 2 ? 12 : ~1u);
		memcpy(before + 4, &flags, 4);
	}
	at = page + MEM_PAGE - size;
	memset(page, 0x77, MEM_PAGE - size);
	memcpy(at, before, size);
	ioctl(fd, _IO(COWSNAP_IOC_MAGIC, nr), at);
	*told += memcmp(at, before, size) != 0;
	for (i = 0; i < MEM_PAGE - size; i++)
		if (page[i] != 0x77)
			return false;
	return inputs_are_kept(before, at, nr == 1 || size < 8 ? size : 8) &&
	       !tells_kernel_address(before, at, size);
}

static int random_requests(int fd)
{
	char *page = mem_map_alone(MEM_PAGE);
	uint64_t random = 0xdecade;
	unsigned long i, told = 0, nr = mem_fewer(30000);

	if (!page)
		return 2;
	for (i = 0; i < nr; i++) {
		if (!random_request(fd, page, &random, &told)) {
			printf("# request %lu\n", i);
			fflush(stdout);
			return 1;
		}
	}
	/* It did answer. */
	printf("# %lu requests, %lu answers\n", i, told);
	fflush(stdout);
	return told < nr / 30 ? 3 : 0;
}

/* If this fails, kernel memory or its whereabouts are for anybody to read. */
TEST_F_TIMEOUT(answer, to_random_bytes_from_nobody_holds_nothing_else, 120)
{
	if (geteuid())
		SKIP(return, "needs root to become nobody");
	EXPECT_EQ(0, as_nobody(random_requests, self->fd));
}

/* What a page holds */

#define STALE		0xa5
#define STALE_LEN	(64UL << 20)

/* Another process fills memory and goes: its pages are the next to be taken. */
static bool leave_stale_pages(void)
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		char *p = mem_map(STALE_LEN);

		if (p)
			memset(p, STALE, STALE_LEN);
		_exit(!p);
	}
	return waitpid(pid, &status, 0) == pid && !status;
}

/*
 * Every other page is touched, some of those pinned and so copied; in between
 * is nothing, on either side, and nothing but zeroes when one looks.
 */
TEST_F(answer, duplicate_holds_no_stale_page)
{
	const size_t nr = 512;
	char *src = mem_map_alone(PAGES(nr)), *dup;
	struct uring ring = { .fd = -1 };
	struct iovec iov[8];
	size_t i;

	ASSERT_NE(NULL, src);
	for (i = 0; i < nr; i += 2)
		mem_fill(src + PAGES(i), MEM_PAGE, i);
	for (i = 0; i < 8; i++)
		iov[i] = (struct iovec) { src + PAGES(i * 50), MEM_PAGE };
	if (!uring_open(&ring))
		ASSERT_EQ(0, uring_pinv(&ring, iov, 8));
	ASSERT_TRUE(leave_stale_pages());
	dup = mem_dup(self->fd, src, PAGES(nr));
	ASSERT_NE(NULL, dup);
	EXPECT_EQ(nr / 2, mem_touched_pages(dup, PAGES(nr)));
	for (i = 0; i < nr; i += 2) {
		EXPECT_TRUE(mem_check(dup + PAGES(i), MEM_PAGE, i));
		EXPECT_TRUE(mem_is_zero(dup + PAGES(i + 1), MEM_PAGE));
	}
	/* Written for the first time, a page is zeroes but for what was written. */
	for (i = 1; i < nr; i += 2)
		dup[PAGES(i) + 8] = 1;
	for (i = 1; i < nr; i += 2) {
		EXPECT_EQ(1, dup[PAGES(i) + 8]);
		dup[PAGES(i) + 8] = 0;
		EXPECT_TRUE(mem_is_zero(dup + PAGES(i), MEM_PAGE));
	}
	uring_close(&ring);
}

TEST_HARNESS_MAIN
