/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The scenes of fault_test.c: memory of each kind, set up so that a duplicate
 * of it takes each path of the module. A function returns false when memory of
 * that kind is not to be had here.
 */
#ifndef COWSNAP_SELFTESTS_FAULT_SCENES_H
#define COWSNAP_SELFTESTS_FAULT_SCENES_H

#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>

#include "fault_sweep.h"
#include "workers.h"

#define LEN	(1UL << 18)

/* Does this CPU, and so the kernel, have 5-level page tables? */
static bool have_la57(void)
{
	FILE *f = fopen("/proc/cpuinfo", "re");
	char line[8192];
	bool found = false;

	while (f && !found && fgets(line, sizeof(line), f))
		found = !strncmp(line, "flags", 5) && strstr(line, " la57");
	if (f)
		fclose(f);
	return found;
}

static bool plain(struct scene *s)
{
	s->src = mem_map_alone(LEN);
	s->len = LEN;
	s->shared = LEN / MEM_PAGE;
	if (s->src)
		mem_fill(s->src, LEN, SEED);
	return s->src;
}

/* A piece for each of several workers, and for the caller. */
static bool by_several(struct scene *s)
{
	workers_force(3);
	s->len = 3 * MEM_HUGE;
	s->src = mem_map_offset(s->len, MEM_HUGE, 0);
	s->shared = s->len / MEM_PAGE;
	if (s->src)
		mem_fill(s->src, s->len, SEED);
	return s->src;
}

static bool untouched(struct scene *s)
{
	s->src = mem_map_alone(LEN);
	s->len = LEN;
	s->content = UNTOUCHED;
	return s->src;
}

/* A destination so far away that it needs page tables of every level. */
static bool far_away(struct scene *s)
{
	s->dst = (char *)(23UL << 40);
	s->flags = COWSNAP_REMAP_FIXED_NOREPLACE;
	return plain(s) && mem_is_free(s->dst, LEN);
}

/* The same where 5-level page tables have one level more. */
static bool beyond_47_bits(struct scene *s)
{
	s->dst = (char *)(1UL << 52);
	s->flags = COWSNAP_REMAP_FIXED_NOREPLACE;
	return have_la57() && plain(s);
}

static bool at_a_hint(struct scene *s)
{
	s->dst = mem_free_range(LEN, MEM_HUGE, 5 * MEM_PAGE);
	return plain(s);
}

/* Policies, a lock, a name: what each mapping has of its own. */
static bool with_policies(struct scene *s)
{
	unsigned long node0 = 1;

	if (!plain(s))
		return false;
	syscall(__NR_mbind, s->src, LEN / 2, MPOL_BIND, &node0, 8, 0);
	syscall(__NR_mbind, s->src + LEN / 2, LEN / 4, MPOL_PREFERRED, &node0,
		8, 0);
	return true;
}

static bool locked(struct scene *s)
{
	return plain(s) && !mlock(s->src, LEN);
}

static bool several_mappings(struct scene *s)
{
	size_t i;

	if (!plain(s))
		return false;
	for (i = 0; i < 8; i += 2)
		madvise(s->src + i * LEN / 8, LEN / 8, MADV_DONTDUMP);
	return true;
}

static bool with_a_hole(struct scene *s)
{
	if (!plain(s))
		return false;
	s->hole = s->src + 5 * MEM_PAGE;
	mem_fill(s->hole + MEM_PAGE, LEN - 6 * MEM_PAGE, SEED + 1);
	s->flags = COWSNAP_REMAP_HOLES;
	s->shared--;
	return !munmap(s->hole, MEM_PAGE);
}

static bool readonly(struct scene *s)
{
	s->flags = COWSNAP_REMAP_READONLY;
	return plain(s);
}

/* Over a mapping of its own, and within another one. */
static bool over_memory(struct scene *s)
{
	s->flags = COWSNAP_REMAP_FIXED;
	s->dst = mem_map_alone(LEN);
	return s->dst && plain(s);
}

static bool over_a_part_of_memory(struct scene *s)
{
	s->flags = COWSNAP_REMAP_FIXED;
	s->dst = mem_map_alone(3 * LEN);
	if (!s->dst)
		return false;
	mem_fill(s->dst, 3 * LEN, 1);
	s->dst += LEN;
	return plain(s);
}

static bool two_huge(struct scene *s)
{
	s->src = mem_map_huge(2 * MEM_HUGE);
	s->len = 2 * MEM_HUGE;
	s->shared = s->len / MEM_PAGE;
	if (s->src)
		mem_fill(s->src, s->len, SEED);
	return s->src;
}

static bool huge(struct scene *s)
{
	return two_huge(s);
}

static bool huge_elsewhere(struct scene *s)
{
	s->flags = COWSNAP_REMAP_FIXED_NOREPLACE;
	if (!two_huge(s))
		return false;
	s->dst = mem_free_range(s->len, MEM_HUGE, 3 * MEM_PAGE);
	return true;
}

static bool pinned(struct scene *s)
{
	struct iovec iov[3];
	int i;

	if (!plain(s) || uring_open(&s->ring))
		return false;
	for (i = 0; i < 3; i++) {
		iov[i].iov_base = s->src + i * 20 * MEM_PAGE;
		iov[i].iov_len = 2 * MEM_PAGE;
	}
	s->copied = 6;
	s->shared -= 6;
	return !uring_pinv(&s->ring, iov, 3);
}

static bool huge_pinned(struct scene *s)
{
	if (!two_huge(s) || uring_open(&s->ring))
		return false;
	s->many = true;
	s->copied = MEM_HUGE / MEM_PAGE;
	s->shared -= s->copied;
	return !uring_pin(&s->ring, s->src + MEM_HUGE, MEM_PAGE);
}

static bool swapped(struct scene *s)
{
	s->content = SWAPPED;
	return mem_have_swap() && plain(s) &&
	       mem_pageout(s->src, LEN) == LEN / MEM_PAGE;
}

/* Part of a huge page: its mapping is split, what is pinned of it copied. */
static bool part_of_huge_pinned(struct scene *s)
{
	if (!two_huge(s) || uring_open(&s->ring))
		return false;
	if (uring_pin(&s->ring, s->src, MEM_PAGE))
		return false;
	s->src += MEM_HUGE - 8 * MEM_PAGE;
	s->len = 16 * MEM_PAGE;
	mem_fill(s->src, s->len, SEED);
	s->copied = 8;
	s->shared = 8;
	return true;
}

/*
 * All in one range, in this order: a huge page, one page pinned among small
 * ones, a mapping with a policy, swapped-out pages. A failure at the end has all
 * that came before to undo.
 */
static bool of_all_kinds(struct scene *s)
{
	unsigned long node0 = 1;

	s->len = MEM_HUGE + 3 * LEN;
	s->src = mem_map_offset(s->len, MEM_HUGE, 0);
	if (!s->src || !mem_have_swap() || uring_open(&s->ring))
		return false;
	madvise(s->src, MEM_HUGE, MADV_HUGEPAGE);
	mem_fill(s->src, s->len, SEED);
	syscall(__NR_mbind, s->src + MEM_HUGE + LEN, LEN, MPOL_BIND, &node0, 8,
		0);
	s->swapped = s->src + MEM_HUGE + 2 * LEN;
	s->content = SWAPPED;
	s->copied = 2;
	s->shared = s->len / MEM_PAGE - 2;
	if (mem_pageout(s->swapped, LEN) != LEN / MEM_PAGE)
		return false;
	return mem_smaps(s->src, "AnonHugePages") == MEM_HUGE >> 10 &&
	       !uring_pin(&s->ring, s->src + MEM_HUGE + 9 * MEM_PAGE,
			  2 * MEM_PAGE);
}

/* One duplicate more and the swap count needs another page. */
static bool swapped_often(struct scene *s, int fd)
{
	int i;

	if (!swapped(s))
		return false;
	for (i = 0; i < 61; i++)
		if (!mem_dup(fd, s->src, s->len))
			return false;
	/* Others have all the entries, and might be strangers. */
	if (shared_swap_is_read_in(fd)) {
		s->copied = s->shared;
		s->shared = 0;
	}
	return true;
}

/*
 * A child has the swapped pages, too, and may have huge pages: kernels with
 * CONFIG_MM_ID read them in and copy them. It goes when we do.
 */
static bool swapped_in_a_child(struct scene *s, int fd)
{
	struct cowsnap_query q = { .size = sizeof(q) };

	s->src = mem_map_offset(LEN, MEM_HUGE, 0);
	s->len = LEN;
	s->content = SWAPPED;
	s->read_in = true;
	if (!s->src || !mem_have_swap() || ioctl(fd, COWSNAP_QUERY, &q))
		return false;
	*(q.huge_whole ? &s->shared : &s->copied) = LEN / MEM_PAGE;
	madvise(s->src, LEN, MADV_HUGEPAGE);
	mem_fill(s->src, LEN, SEED);
	if (mem_pageout(s->src, LEN) != LEN / MEM_PAGE)
		return false;
	if (!fork()) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		pause();
		_exit(0);
	}
	return true;
}

static bool merged(struct scene *s)
{
	s->src = mem_map_alone(LEN / 4);
	s->len = LEN / 4;
	s->content = MERGED;
	s->copied = s->len / MEM_PAGE;
	if (!s->src)
		return false;
	ksm_fill(s->src, s->len, SEED);
	return ksm_merge(s->src, s->len);
}

/* Private mappings that have a file. */
static bool map_file(struct scene *s, int fd)
{
	s->src = mem_map_alone(LEN);
	s->len = LEN;
	s->shared = LEN / MEM_PAGE;
	if (fd < 0 || !s->src ||
	    mmap(s->src, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED,
		 fd, 16 * MEM_PAGE) != s->src)
		return false;
	mem_fill(s->src, LEN, SEED);
	return !close(fd);
}

static bool file(struct scene *s)
{
	int fd = memfd_create("fault_test", MFD_CLOEXEC);

	return !ftruncate(fd, LEN + 16 * MEM_PAGE) && map_file(s, fd);
}

static bool dev_zero(struct scene *s)
{
	return map_file(s, open("/dev/zero", O_RDWR | O_CLOEXEC));
}

#define POOL_DIR	"/sys/kernel/mm/hugepages/hugepages-2048kB/"
#define POOL_SIZE	POOL_DIR "nr_hugepages"

/* Two pages of a pool of ten. What has a reservation may have to be copied. */
static bool hugetlb(struct scene *s, int flags, bool copied)
{
	mem_write(POOL_SIZE, "10");
	s->len = 2 * MEM_HUGE;
	s->src = mem_free_range(s->len, MEM_HUGE, 0);
	if (mmap(s->src, s->len, PROT_READ | PROT_WRITE, MAP_PRIVATE |
		 MAP_ANONYMOUS | MAP_HUGETLB | MAP_FIXED | flags |
		 21 << 26 /* MAP_HUGE_SHIFT */, -1, 0) != s->src)
		return false;
	*(copied ? &s->copied : &s->shared) = s->len / MEM_PAGE;
	mem_fill(s->src, s->len, SEED);
	return mem_read_long(POOL_DIR "free_hugepages") == 8;
}

static bool hugetlb_shared(struct scene *s)
{
	return hugetlb(s, MAP_NORESERVE, false);
}

/* Pinned: copied on every kernel. */
static bool hugetlb_pinned(struct scene *s)
{
	if (!hugetlb(s, MAP_NORESERVE, false) || uring_open(&s->ring))
		return false;
	s->copied = MEM_HUGE / MEM_PAGE;
	s->shared -= s->copied;
	return !uring_pin(&s->ring, s->src, MEM_PAGE);
}

static bool hugetlb_reserved(struct scene *s, int fd)
{
	struct cowsnap_query q = { .size = sizeof(q) };

	return !ioctl(fd, COWSNAP_QUERY, &q) &&
	       hugetlb(s, 0, !(q.kinds & COWSNAP_KIND_HUGETLB_RESERVED));
}

#endif /* COWSNAP_SELFTESTS_FAULT_SCENES_H */
