// SPDX-License-Identifier: GPL-2.0
/*
 * Random arguments. Whatever a program passes: the kernel stays whole, the
 * answer is one that the header allows, a success is a true duplicate, and
 * memory that is no destination keeps its content.
 *
 * Once as root and once as nobody, who has the descriptor from root.
 * COWSNAP_FUZZ_SECONDS is the duration of each (4), COWSNAP_SEED the seed.
 */
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "kernel.h"
#include "harness.h"

#define CHILDREN	3
#define ARENA_PAGES	1024UL
#define ARENA		(ARENA_PAGES * MEM_PAGE)
#define CANARIES	8
#define SEED		13

struct fuzz {
	int fd;
	uint64_t random;
	char *arena;		/* the only place that FIXED may replace */
	char *canary[CANARIES];
	char *arg;		/* a page for the argument, and one to run into */
	unsigned long calls;
	unsigned long good;
	unsigned long by_errno[256];
};

static uint64_t pick(struct fuzz *f, uint64_t n)
{
	return n ? next_random(&f->random) % n : 0;
}

static bool one_in(struct fuzz *f, unsigned int n)
{
	return !pick(f, n);
}

/* Anything that might be a special case. */
static uint64_t odd_number(struct fuzz *f)
{
	uint64_t near[] = {
		0, 1, MEM_PAGE, MEM_HUGE, MEM_GIB, 1ULL << 32, 1ULL << 39,
		1ULL << 47, 1ULL << 56, 1ULL << 63, UINT64_MAX,
		(uintptr_t)f->arena, (uintptr_t)f->arena + ARENA,
		(uintptr_t)f->canary[0], (uintptr_t)f->arg, (uintptr_t)&f,
		(uintptr_t)odd_number, next_random(&f->random) << 16,
	};
	uint64_t v = near[pick(f, sizeof(near) / sizeof(*near))];

	switch (pick(f, 4)) {
	case 0:		return v;
	case 1:		return v - MEM_PAGE;
	case 2:		return v + (pick(f, 64) - 32) * MEM_PAGE;
	default:	return v + pick(f, 8) - 4;
	}
}

static uint64_t in_arena(struct fuzz *f)
{
	return (uintptr_t)f->arena + pick(f, ARENA_PAGES) * MEM_PAGE;
}

/* A place where nothing of ours may be overwritten, for FIXED. */
static bool spares_us(struct fuzz *f, uint64_t dst, uint64_t len)
{
	uint64_t start = (uintptr_t)f->arena, end = start + ARENA;

	/* What is refused may be anything. */
	if ((dst | len) % MEM_PAGE || !len || len > 1ULL << 56 ||
	    dst > 1ULL << 57)
		return true;
	return dst >= start && dst + len <= end && dst + len > dst;
}

static void make_request(struct fuzz *f, struct cowsnap_remap *r)
{
	memset(r, 0, sizeof(*r));
	r->size = one_in(f, 20) ? pick(f, 200) : sizeof(*r);
	r->flags = pick(f, 16);
	r->src = one_in(f, 4) ? odd_number(f) : in_arena(f);
	r->len = one_in(f, 5) ? odd_number(f) :
				(1 + pick(f, 1ULL << pick(f, 10))) * MEM_PAGE;
	r->dst = one_in(f, 3) ? 0 : one_in(f, 4) ? odd_number(f) : in_arena(f);
	/* Mostly without what is refused in any case. */
	if (one_in(f, 10))
		r->flags |= 1U << pick(f, 32);
	if ((r->flags & 3) == 3 && !one_in(f, 5))
		r->flags &= ~(1U + pick(f, 2));
	if (one_in(f, 30))
		r->reserved = odd_number(f);
	if (one_in(f, 10)) {
		r->fault_addr = odd_number(f);
		r->shared = odd_number(f);
		r->reason = odd_number(f);
	}
	if (r->flags & COWSNAP_REMAP_FIXED && !spares_us(f, r->dst, r->len)) {
		r->len = (1 + pick(f, 64)) * MEM_PAGE;
		r->dst = (uintptr_t)f->arena +
			 pick(f, ARENA_PAGES - 64) * MEM_PAGE;
	}
}

/* Where the request lies when it is passed. */
static void *place_request(struct fuzz *f, const struct cowsnap_remap *r)
{
	size_t size = sizeof(*r) + 128;
	char *at;

	switch (pick(f, 30)) {
	case 0:		/* reaches into nothing */
		at = f->arg + MEM_PAGE - pick(f, 100);
		break;
	case 1:
		at = (char *)(uintptr_t)odd_number(f);
		if (at != f->arg)
			return at;
		break;
	case 2:		/* inside of what may be replaced by the call */
		at = (char *)(uintptr_t)in_arena(f);
		break;
	case 3:
		at = f->arg + pick(f, 64);
		break;
	default:
		at = f->arg;
	}
	if (at + size > f->arg + MEM_PAGE && at <= f->arg + MEM_PAGE)
		size = f->arg + MEM_PAGE - at;
	if (at < f->arena || at >= f->arena + ARENA) {
		memset(at, 0, size);
		memcpy(at, r, size < sizeof(*r) ? size : sizeof(*r));
	} else {
		/* There may be holes: let the kernel find out. */
		struct iovec from = { (void *)r, sizeof(*r) };
		struct iovec to = { at, sizeof(*r) };

		process_vm_writev(getpid(), &from, 1, &to, 1, 0);
	}
	return at;
}

/* The range as it is, for comparing: pages that cannot be read are skipped. */
static bool same_content(uint64_t a, uint64_t b, uint64_t len)
{
	static char page_a[MEM_PAGE], page_b[MEM_PAGE];
	uint64_t at, step = len / 16 / MEM_PAGE * MEM_PAGE;

	for (at = 0; at < len; at += step ? step : MEM_PAGE) {
		struct iovec local = { page_a, MEM_PAGE };
		struct iovec remote = { (void *)(uintptr_t)(a + at), MEM_PAGE };

		if (process_vm_readv(getpid(), &local, 1, &remote, 1, 0) !=
		    (ssize_t)MEM_PAGE)
			continue;
		local.iov_base = page_b;
		remote.iov_base = (void *)(uintptr_t)(b + at);
		if (process_vm_readv(getpid(), &local, 1, &remote, 1, 0) !=
		    (ssize_t)MEM_PAGE)
			return false;
		if (memcmp(page_a, page_b, MEM_PAGE))
			return false;
	}
	return true;
}

static bool errno_is_documented(int err)
{
	static const int known[] = { EINVAL, E2BIG, EOPNOTSUPP, EFAULT, ENOMEM,
				     EEXIST, EPERM, ENOTTY };
	size_t i;

	for (i = 0; i < sizeof(known) / sizeof(*known); i++)
		if (err == known[i])
			return true;
	return false;
}

static bool complain(const struct cowsnap_remap *r, const char *what, int err)
{
	printf("# %s: size %u flags %#x src %#llx len %#llx dst %#llx: %s, reason %u\n",
	       what, r->size, r->flags, (unsigned long long)r->src,
	       (unsigned long long)r->len, (unsigned long long)r->dst,
	       strerror(err), r->reason);
	return false;
}

/* What came back for a request that was passed in an ordinary place. */
static bool check_answer(struct fuzz *f, const struct cowsnap_remap *in,
			 const struct cowsnap_remap *out, int err)
{
	bool in_the_arena;

	if (err) {
		if (out->dst != in->dst)
			return complain(in, "dst was changed by a failure", err);
		if (in->size >= sizeof(*in) && !out->reason)
			return complain(in, "no reason", err);
		return true;
	}
	in_the_arena = out->dst >= (uintptr_t)f->arena &&
		       out->dst < (uintptr_t)f->arena + ARENA;
	/* Elsewhere are our own variables, which have changed since. */
	if (in->src >= (uintptr_t)f->arena &&
	    in->src + in->len <= (uintptr_t)f->arena + ARENA &&
	    !same_content(in->src, out->dst, in->len))
		return complain(out, "no duplicate", 0);
	if (!in_the_arena &&
	    munmap((void *)(uintptr_t)out->dst, in->len))
		return complain(out, "cannot be unmapped", errno);
	return true;
}

static bool call_once(struct fuzz *f)
{
	struct cowsnap_remap in, out = { 0 };
	unsigned int cmd = COWSNAP_REMAP;
	void *at;
	int err;

	make_request(f, &in);
	if (one_in(f, 50))
		cmd = one_in(f, 2) ? _IO(COWSNAP_IOC_MAGIC, pick(f, 256)) :
				     pick(f, 1ULL << 32);
	/* A size that ends within dst would make it 0: not an answer to check. */
	if (in.size < sizeof(in))
		in.flags &= ~COWSNAP_REMAP_FIXED;
	at = place_request(f, &in);
	err = ioctl(f->fd, cmd, at) ? errno : 0;
	f->calls++;
	f->good += !err;
	f->by_errno[err & 255]++;
	if (err && !errno_is_documented(err))
		return complain(&in, "undocumented error", err);
	/* The arena's pages, where the request may have been, were replaced. */
	if (at != f->arg || cmd != COWSNAP_REMAP)
		return true;
	memcpy(&out, f->arg, sizeof(out));
	if (in.size < sizeof(in)) {
		if (!err && in.size >= 32)
			munmap((void *)(uintptr_t)out.dst, in.len);
		return true;
	}
	return check_answer(f, &in, &out, err);
}

/* The arena is not to become one big hole, or all of one kind. */
static void stir(struct fuzz *f)
{
	char *at = (char *)(uintptr_t)in_arena(f);
	size_t len = (1 + pick(f, 32)) * MEM_PAGE;

	if (at + len > f->arena + ARENA)
		len = f->arena + ARENA - at;
	switch (pick(f, 8)) {
	case 0:
		munmap(at, len);
		break;
	case 1:
		mprotect(at, len, PROT_READ);
		break;
	case 2:
		madvise(at, len, MADV_PAGEOUT);
		break;
	case 3:
		mmap(at, len, PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		break;
	case 4:
		madvise(at, len, one_in(f, 2) ? MADV_WIPEONFORK : MADV_DONTDUMP);
		break;
	default:
		if (mmap(at, len, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at)
			mem_fill(at, len, SEED + pick(f, 9));
	}
}

static bool canaries_are_alive(struct fuzz *f)
{
	int i;

	for (i = 0; i < CANARIES; i++)
		if (!mem_check(f->canary[i], 4 * MEM_PAGE, SEED + i))
			return false;
	return true;
}

static bool set_up(struct fuzz *f, uint64_t seed)
{
	size_t i;

	f->random = seed;
	f->arena = mem_map_offset(ARENA, MEM_HUGE, 0);
	f->arg = mem_map_alone(MEM_PAGE);
	if (!f->arena || !f->arg)
		return false;
	for (i = 0; i < CANARIES; i++) {
		f->canary[i] = mem_map_alone(4 * MEM_PAGE);
		if (!f->canary[i])
			return false;
		mem_fill(f->canary[i], 4 * MEM_PAGE, SEED + i);
	}
	madvise(f->arena, MEM_HUGE, MADV_HUGEPAGE);
	mem_fill(f->arena, ARENA, SEED);
	return true;
}

/*
 * The harness keeps its record of the test in memory shared with its children.
 * An argument is written where the pointer says, and here that is anywhere.
 */
static void protect_shared_memory(void)
{
	FILE *f = fopen("/proc/self/maps", "re");
	unsigned long start, end;
	char line[512], perms[5];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "%lx-%lx %4s", &start, &end, perms) == 3 &&
		    perms[3] == 's')
			mprotect((void *)start, end - start, PROT_READ);
	if (f)
		fclose(f);
}

static int fuzz(int fd, uint64_t seed, double duration, bool talk)
{
	static struct fuzz f;
	double end = seconds() + duration;
	struct cowsnap_remap r;
	bool good;
	int i;

	f.fd = fd;
	good = set_up(&f, seed);
	while (good && seconds() < end) {
		for (i = 0; i < 64 && good; i++) {
			good = call_once(&f);
			if (one_in(&f, 4))
				stir(&f);
		}
		good = good && canaries_are_alive(&f);
	}
	if (!good)
		printf("# seed %#llx fails at call %lu\n",
		       (unsigned long long)seed, f.calls);
	/* And it still works. */
	if (good && mem_remap(fd, f.canary[0], 4 * MEM_PAGE, NULL, 0, &r))
		good = false;
	good = good && mem_check((void *)(uintptr_t)r.dst, 4 * MEM_PAGE, SEED);
	if (talk) {
		printf("# %lu calls, %lu succeeded", f.calls, f.good);
		for (i = 1; i < 256; i++)
			if (f.by_errno[i])
				printf(", %s %lu", strerrorname_np(i),
				       f.by_errno[i]);
		printf("\n");
	}
	/* Neither all refused nor only one kind of answer. */
	good = good && f.good > f.calls / 50 && f.by_errno[EINVAL] &&
	       f.by_errno[ENOMEM] && f.by_errno[EOPNOTSUPP];
	fflush(stdout);
	return !good;
}

/* What of /proc is ours stays readable. */
static bool become_nobody(void)
{
	return !syscall(SYS_setgroups, 0, NULL) &&
	       !setresgid(65534, 65534, 65534) &&
	       !setresuid(65534, 65534, 65534) && !prctl(PR_SET_DUMPABLE, 1);
}

FIXTURE(fuzz) {
	int fd;
};

FIXTURE_VARIANT(fuzz) {
	bool nobody;
};

FIXTURE_VARIANT_ADD(fuzz, root) { .nobody = false };
FIXTURE_VARIANT_ADD(fuzz, nobody) { .nobody = true };

FIXTURE_SETUP(fuzz)
{
	self->fd = mem_open();
	ASSERT_LE(0, self->fd);
	if (variant->nobody && geteuid())
		SKIP(return, "needs root to become nobody");
}

FIXTURE_TEARDOWN(fuzz)
{
	close(self->fd);
}

/* If this fails, a program with a bug takes the machine or itself down. */
TEST_F_TIMEOUT(fuzz, random_arguments_do_no_harm, 900)
{
	const char *env = getenv("COWSNAP_FUZZ_SECONDS");
	const char *seed_env = getenv("COWSNAP_SEED");
	uint64_t seed = seed_env ? strtoull(seed_env, NULL, 0) : 0xc0ffee;
	double duration = env ? atof(env) : 4;
	pid_t pids[CHILDREN];
	int i, status;

	TH_LOG("seed %#lx, %.0f seconds", seed, duration);
	fflush(stdout);
	for (i = 0; i < CHILDREN; i++) {
		pids[i] = fork();
		if (!pids[i]) {
			protect_shared_memory();
			if (variant->nobody && !become_nobody())
				_exit(99);
			_exit(fuzz(self->fd, seed + i, duration, true));
		}
		ASSERT_LT(0, pids[i]);
	}
	for (i = 0; i < CHILDREN; i++) {
		ASSERT_EQ(pids[i], waitpid(pids[i], &status, 0));
		EXPECT_EQ(0, status);
	}
}

TEST_HARNESS_MAIN
