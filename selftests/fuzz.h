/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What fuzz_test.c makes its requests of: odd numbers, places, and the memory that
 * they may harm.
 */
#ifndef COWSNAP_SELFTESTS_FUZZ_H
#define COWSNAP_SELFTESTS_FUZZ_H

#include <stdlib.h>
#include <sys/uio.h>

#include "kernel.h"
#include "request.h"

#define ARENA_PAGES	1024UL
#define ARENA		(ARENA_PAGES * MEM_PAGE)
#define CANARIES	8
#define SEED		13
#define PAIRS		4
#define VEC		(MEM_PAGE / sizeof(struct cowsnap_range))

struct fuzz {
	int fd;
	uint64_t random;
	char *arena;		/* the only place that FIXED may replace */
	char *canary[CANARIES];
	char *arg;		/* a page for the argument, and one to run into */
	struct cowsnap_range *vec;	/* the same */
	struct cowsnap_remap pairs[PAIRS];	/* made in the arena */
	unsigned long calls;
	unsigned long good;
	unsigned long good_ops[4];
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

/* Where the request, of @len bytes, lies when it is passed. */
static void *place_request(struct fuzz *f, const void *r, size_t len)
{
	size_t size = len + 128;
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
		memcpy(at, r, size < len ? size : len);
	} else {
		/* There may be holes: let the kernel find out. */
		struct iovec from = { (void *)r, len };
		struct iovec to = { at, len };

		process_vm_writev(getpid(), &from, 1, &to, 1, 0);
	}
	return at;
}

/* Reads a page, if it can be read. */
static bool read_page(uint64_t from, char *to)
{
	struct iovec local = { to, MEM_PAGE };
	struct iovec remote = { (void *)(uintptr_t)from, MEM_PAGE };

	return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) ==
	       (ssize_t)MEM_PAGE;
}

/*
 * The ranges as they are, or some pages of them. Pages of @a that cannot be read
 * are skipped; those of @b only unless @alike, as a duplicate is.
 */
static bool same_content(uint64_t a, uint64_t b, uint64_t len, bool alike)
{
	static char page_a[MEM_PAGE], page_b[MEM_PAGE];
	uint64_t at, step = len / 16 / MEM_PAGE * MEM_PAGE;

	for (at = 0; at < len; at += step ? step : MEM_PAGE) {
		if (!read_page(a + at, page_a))
			continue;
		if (!read_page(b + at, page_b)) {
			if (alike)
				return false;
			continue;
		}
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

#endif /* COWSNAP_SELFTESTS_FUZZ_H */
