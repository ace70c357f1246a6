// SPDX-License-Identifier: GPL-2.0
/*
 * Random arguments. Whatever a program passes: the kernel stays whole, the
 * answer is one that the header allows, a success did what it says - a true
 * duplicate, the same again, nothing left -, and memory that is no destination
 * keeps its content.
 *
 * Once as root and once as nobody, who has the descriptor from root.
 * COWSNAP_FUZZ_SECONDS is the duration of each (4), COWSNAP_SEED the seed.
 */
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "fuzz.h"

#define CHILDREN	3

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
	    !same_content(in->src, out->dst, in->len, true))
		return complain(out, "no duplicate", 0);
	if (!in_the_arena &&
	    munmap((void *)(uintptr_t)out->dst, in->len))
		return complain(out, "cannot be unmapped", errno);
	return true;
}

/* Returns the errno. */
static int issue(struct fuzz *f, unsigned int cmd, void *at)
{
	int err = ioctl(f->fd, cmd, at) ? errno : 0;

	f->calls++;
	f->good += !err;
	f->by_errno[err & 255]++;
	return err;
}

static bool call_remap(struct fuzz *f)
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
	at = place_request(f, &in, sizeof(in));
	err = issue(f, cmd, at);
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

/* The commands for what has been duplicated */

struct op {
	const char *name;
	unsigned int cmd;
	size_t size, out, reason;
};

#define OP(cmd_, name_, out_) {						\
	.name = # cmd_, .cmd = COWSNAP_ ## cmd_,			\
	.size = sizeof(struct cowsnap_ ## name_),			\
	.out = offsetof(struct cowsnap_ ## name_, out_),		\
	.reason = offsetof(struct cowsnap_ ## name_, reason),		\
}

static const struct op ops[] = {
	OP(UNSHARE, unshare, copied), OP(SYNC, sync, changed),
	OP(DIFF, diff, nr), OP(RELEASE, release, reused),
};

/* A duplicate within the arena, if what is there allows. */
static void make_pair(struct fuzz *f, struct cowsnap_remap *r)
{
	char *src = (char *)(uintptr_t)in_arena(f);
	size_t len = (1 + pick(f, 32)) * MEM_PAGE;

	*r = (struct cowsnap_remap){ .size = sizeof(*r) };
	if (src + len > f->arena + ARENA ||
	    mmap(src, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS |
		 MAP_FIXED, -1, 0) != src)
		return;
	mem_fill(src, len / 2, SEED + pick(f, 9));
	r->flags = COWSNAP_REMAP_FIXED;
	r->src = U64(src);
	r->len = len;
	r->dst = in_arena(f);
	if (!spares_us(f, r->dst, len) || ioctl(f->fd, COWSNAP_REMAP, r))
		r->len = 0;
	else if (one_in(f, 2))
		mem_fill((char *)(uintptr_t)r->dst, MEM_PAGE, SEED + pick(f, 9));
}

static void choose_ranges(struct fuzz *f, const struct op *op, union any *r)
{
	struct cowsnap_remap *pair = &f->pairs[pick(f, PAIRS)];
	uint64_t skip, len, other;

	if (!pair->len || one_in(f, 6))
		make_pair(f, pair);
	skip = one_in(f, 2) ? pick(f, pair->len / MEM_PAGE) * MEM_PAGE : 0;
	r->first = pair->src + skip;
	other = pair->dst + skip;
	len = pair->len - skip;
	if (one_in(f, 3)) {
		r->first = other;
		other = pair->src + skip;
	}
	if (one_in(f, 12))
		r->first = odd_number(f);
	if (one_in(f, 12))
		other = one_in(f, 2) ? in_arena(f) : odd_number(f);
	if (one_in(f, 12))
		len = odd_number(f);
	/* These two write there. */
	if ((op->cmd == COWSNAP_SYNC || op->cmd == COWSNAP_RELEASE) &&
	    !spares_us(f, other, len))
		len = 0;
	if (op->cmd == COWSNAP_UNSHARE) {
		r->len_of_one = len;
		return;
	}
	r->second = other;
	r->len = len;
}

static void make_op(struct fuzz *f, const struct op *op, union any *r)
{
	memset(r, 0, sizeof(*r));
	choose_ranges(f, op, r);
	r->size = one_in(f, 20) ? pick(f, 200) : op->size;
	if (op->cmd == COWSNAP_UNSHARE) {
		r->flags = pick(f, 4);
		r->unshare.node = one_in(f, 20) ? pick(f, 300) : 0;
	}
	if (one_in(f, 20))
		r->flags |= 1U << pick(f, 32);
	if (op->cmd != COWSNAP_DIFF)
		return;
	r->diff.vec = U64(f->vec);
	r->diff.vec_len = pick(f, VEC + 1);
	if (one_in(f, 10))	/* reaches into nothing */
		r->diff.vec += MEM_PAGE - pick(f, 64);
	if (one_in(f, 10))
		r->diff.start_offset = pick(f, 40) * MEM_PAGE;
}

static bool complain_op(const struct op *op, const union any *r, const char *what,
			int err)
{
	printf("# %s: %s size %u flags %#x %#llx %#llx %#llx: %s\n", what,
	       op->name, r->size, r->flags, (unsigned long long)r->first,
	       (unsigned long long)r->second, (unsigned long long)r->len,
	       strerror(err));
	return false;
}

/* In order, and what is not listed is the same. */
static bool ranges_are_sound(struct fuzz *f, const struct cowsnap_diff *d)
{
	uint64_t at = d->start_offset, i;

	if (d->nr > d->vec_len || d->next_offset > d->len ||
	    d->next_offset < at || (d->nr < d->vec_len && d->next_offset != d->len))
		return false;
	for (i = 0; d->vec == U64(f->vec) && i < d->nr; i++) {
		struct cowsnap_range *r = &f->vec[i];

		if (r->start < at || r->end <= r->start ||
		    r->end > d->next_offset || (r->start | r->end) % MEM_PAGE ||
		    !same_content(d->a + at, d->b + at, r->start - at, false))
			return false;
		at = r->end;
	}
	return true;
}

static bool op_did_it(struct fuzz *f, const struct op *op, const union any *r)
{
	switch (op->cmd) {
	case COWSNAP_UNSHARE:
		return r->unshare.copied + r->unshare.reused <=
		       r->unshare.len / MEM_PAGE;
	case COWSNAP_SYNC:
		return r->sync.changed <= r->len / MEM_PAGE &&
		       same_content(r->first, r->second, r->len, false);
	case COWSNAP_DIFF:
		return ranges_are_sound(f, &r->diff);
	default:
		return !r->release.copied &&
		       r->release.reused <= r->len / MEM_PAGE &&
		       mem_is_free((void *)(uintptr_t)r->second, r->len);
	}
}

static bool call_op(struct fuzz *f)
{
	const struct op *op = &ops[pick(f, 4)];
	union any in, out;
	uint32_t reason;
	void *at;
	int err;

	make_op(f, op, &in);
	at = place_request(f, &in, op->size);
	err = issue(f, op->cmd, at);
	if (err && !errno_is_documented(err))
		return complain_op(op, &in, "undocumented error", err);
	if (at != f->arg)
		return true;
	memcpy(&out, f->arg, op->size);
	if (memcmp(&in, &out, op->out))
		return complain_op(op, &in, "an input was changed", err);
	if (in.size < op->size)
		return true;
	f->good_ops[op - ops] += !err;
	memcpy(&reason, out.bytes + op->reason, sizeof(reason));
	if (!err != !reason)
		return complain_op(op, &in, "reason and error disagree", err);
	return err || op_did_it(f, op, &out) ||
	       complain_op(op, &in, "not done", 0);
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
	f->vec = (void *)mem_map_alone(MEM_PAGE);
	if (!f->arena || !f->arg || !f->vec)
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
			good = one_in(&f, 2) ? call_remap(&f) : call_op(&f);
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
		for (i = 0; i < 4; i++)
			printf(", %s %lu", ops[i].name, f.good_ops[i]);
		for (i = 1; i < 256; i++)
			if (f.by_errno[i])
				printf(", %s %lu", strerrorname_np(i),
				       f.by_errno[i]);
		printf("\n");
	}
	/* Neither all refused nor only one kind of answer. */
	good = good && f.good > f.calls / 50 && f.by_errno[EINVAL] &&
	       f.by_errno[ENOMEM] && f.by_errno[EOPNOTSUPP];
	for (i = 0; i < 4; i++)
		good = good && f.good_ops[i];
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
