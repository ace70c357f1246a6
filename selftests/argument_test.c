// SPDX-License-Identifier: GPL-2.0
/*
 * Where the argument lies and who passes it: memory that cannot be read or
 * written, or that the call itself replaces; a descriptor from another process.
 */
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "hugepool.h"
#include "request.h"

REQUEST_FIXTURE(argument)

TEST_F(argument, unreadable_argument_is_efault)
{
	uint64_t maps;
	char *page;
	size_t n;

	page = mem_map_alone(PAGES(2));
	ASSERT_NE(NULL, page);
	munmap(page + MEM_PAGE, MEM_PAGE);
	maps = mem_maps_hash();
	EXPECT_EQ(-EFAULT, call(self->fd, COWSNAP_REMAP, NULL));
	EXPECT_EQ(-EFAULT, call(self->fd, COWSNAP_REMAP, (void *)KERNEL_ADDR));
	EXPECT_EQ(-EFAULT, call(self->fd, COWSNAP_REMAP, (void *)(1UL << 63)));
	EXPECT_EQ(-EFAULT, call(self->fd, COWSNAP_REMAP, page + MEM_PAGE));
	EXPECT_EQ(-EFAULT, call(self->fd, COWSNAP_REMAP,
				page + PAGES(2)));	/* PROT_NONE */

	/* It begins on a page that is there and ends on one that is not. */
	for (n = 1; n < sizeof(self->r); n++) {
		char *at = page + MEM_PAGE - n;

		memcpy(at, &self->r, n);
		EXPECT_EQ(-EFAULT, call(self->fd, COWSNAP_REMAP, at))
			TH_LOG("%zu bytes of it", n);
	}
	/* The same with the tail of a newer struct. */
	self->r.size = sizeof(self->r) + 8;
	memcpy(page + MEM_PAGE - sizeof(self->r), &self->r, sizeof(self->r));
	EXPECT_EQ(-EFAULT, call(self->fd, COWSNAP_REMAP,
				page + MEM_PAGE - sizeof(self->r)));
	EXPECT_EQ(maps, mem_maps_hash());
}

/* The last byte of the argument may be the last byte before a hole. */
TEST_F(argument, argument_may_end_where_memory_ends)
{
	struct cowsnap_remap *r;
	char *page;

	page = mem_map_alone(MEM_PAGE);
	ASSERT_NE(NULL, page);
	r = (void *)(page + MEM_PAGE - sizeof(*r));
	*r = self->r;
	ASSERT_EQ(0, call(self->fd, COWSNAP_REMAP, r));
	EXPECT_EQ(4, r->shared);
}

/* A duplicate whose address cannot be told would be a leak for ever. */
TEST_F(argument, read_only_argument_is_efault_and_undone)
{
	struct cowsnap_remap *r = mem_map_alone(MEM_PAGE);
	struct mem_counters before, after;
	uint64_t maps;

	ASSERT_NE(NULL, r);
	*r = self->r;
	ASSERT_EQ(0, mprotect(r, MEM_PAGE, PROT_READ));
	/* Once before counting: page tables may stay, once. */
	EXPECT_EQ(-EFAULT, call(self->fd, COWSNAP_REMAP, r));
	mem_counters(&before);
	maps = mem_maps_hash();
	EXPECT_EQ(-EFAULT, call(self->fd, COWSNAP_REMAP, r));
	EXPECT_EQ(maps, mem_maps_hash());
	mem_counters(&after);
	EXPECT_TRUE(mem_counters_equal(&before, &after));
	EXPECT_EQ(0, memcmp(r, &self->r, sizeof(*r)));
}

/*
 * The same when the call itself takes the right to write away: the argument
 * lies where the read-only duplicate goes. Nothing of it may stay.
 */
TEST_F(argument, argument_replaced_by_read_only_memory_is_efault_and_undone)
{
	struct cowsnap_remap *r;
	char *dst;

	dst = mem_map_alone(self->len);
	ASSERT_NE(NULL, dst);
	mem_fill(dst, self->len, 2);
	r = (void *)(dst + MEM_PAGE + 8);
	*r = self->r;
	r->dst = U64(dst);
	r->flags = COWSNAP_REMAP_FIXED | COWSNAP_REMAP_READONLY;
	EXPECT_EQ(-EFAULT, call(self->fd, COWSNAP_REMAP, r));
	if (!mem_is_free(dst, self->len)) {
		unsigned long start, end;
		char perms[5];

		/* Refused before anything was replaced: as good. */
		ASSERT_TRUE(mem_vma(dst, &start, &end, perms));
		EXPECT_STREQ("rw-p", perms);
		EXPECT_TRUE(mem_check(dst, MEM_PAGE, 2));
	}
}

/* The same where nothing is afterwards, found out when half is stored. */
TEST_F(argument, argument_that_ends_in_a_replaced_hole_is_efault_and_undone)
{
	char *src = mem_map_alone(PAGES(4)), *dst = mem_map_alone(PAGES(4));
	struct cowsnap_remap *r;

	ASSERT_NE(NULL, src);
	ASSERT_NE(NULL, dst);
	mem_fill(src, PAGES(4), 1);
	ASSERT_EQ(0, munmap(src + PAGES(2), MEM_PAGE));
	/* The hole begins between dst and shared. */
	r = (void *)(dst + PAGES(2) - offsetof(struct cowsnap_remap, shared));
	*r = self->r;
	r->src = U64(src);
	r->dst = U64(dst);
	r->flags = COWSNAP_REMAP_FIXED | COWSNAP_REMAP_HOLES;
	EXPECT_EQ(-EFAULT, call(self->fd, COWSNAP_REMAP, r));
	EXPECT_TRUE(mem_is_free(dst, PAGES(4)));
	EXPECT_TRUE(mem_check(src, PAGES(2), 1));
}

/* The source, too, is as before, also where a success would change its advice. */
TEST_F(argument, efault_after_sharing_leaves_huge_pages_to_the_source)
{
	char *src = mem_map_huge(3 * MEM_HUGE), *dst = mem_map_alone(MEM_HUGE);
	struct cowsnap_remap *r = (void *)dst;
	struct mem_counters before, after;
	uint64_t maps;

	if (!src)
		SKIP(return, "no huge pages");
	ASSERT_NE(NULL, dst);
	mem_fill(src, 3 * MEM_HUGE, 2);
	*r = self->r;
	r->src = U64(src + MEM_HUGE);
	r->dst = U64(dst);
	r->len = MEM_HUGE;
	r->flags = COWSNAP_REMAP_FIXED | COWSNAP_REMAP_READONLY;
	mem_counters(&before);
	maps = mem_maps_hash();
	ASSERT_EQ(-EFAULT, call(self->fd, COWSNAP_REMAP, r));
	ASSERT_TRUE(mem_is_free(dst, MEM_HUGE));
	ASSERT_EQ(dst, mmap(dst, MEM_HUGE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	EXPECT_EQ(maps, mem_maps_hash());
	mem_counters(&after);
	EXPECT_EQ(before.maps, after.maps);
	EXPECT_EQ(before.locked, after.locked);
	EXPECT_TRUE(mem_smaps_flag(src + MEM_HUGE, "hg"));
	EXPECT_TRUE(mem_check(src, 3 * MEM_HUGE, 2));
	munmap(src, 3 * MEM_HUGE);
}

/* Not forbidden: the result is stored in the duplicate then, not the source. */
TEST_F(argument, argument_replaced_by_writable_memory_gets_the_result)
{
	struct cowsnap_remap *r;
	char *dst;

	dst = mem_map_alone(self->len);
	ASSERT_NE(NULL, dst);
	r = (void *)(dst + MEM_PAGE + 8);
	*r = self->r;
	r->dst = U64(dst);
	r->flags = COWSNAP_REMAP_FIXED;
	ASSERT_EQ(0, call(self->fd, COWSNAP_REMAP, r));
	EXPECT_EQ(U64(dst), r->dst);
	EXPECT_EQ(4, r->shared);
	EXPECT_TRUE(mem_check(dst, MEM_PAGE, 1));
	EXPECT_TRUE(mem_check(self->src, self->len, 1));
}

/* Memory of each kind, not written to, in whole huge pages where it has them. */
static char *map_file(size_t len)
{
	int fd = memfd_create("argument_test", MFD_CLOEXEC);
	char *p = MAP_FAILED;

	if (fd >= 0 && !ftruncate(fd, len))
		p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	close(fd);
	return p == MAP_FAILED ? NULL : p;
}

static char *map_hugetlb(size_t len)
{
	char *p = map_pages(MEM_HUGE, len / MEM_HUGE, MAP_NORESERVE);

	/* One page for the memory, one for when the argument is written. */
	return pool_set(MEM_HUGE, 2) ? p : NULL;
}

FIXTURE(argument_in) {
	int fd;
	char *src;
};

FIXTURE_VARIANT(argument_in) {
	void *(*map)(size_t len);
	char *(*map_char)(size_t len);
	size_t len;
	bool needs;
};

FIXTURE_VARIANT_ADD(argument_in, base_pages) {
	.map = mem_map_alone, .len = PAGES(4),
};
FIXTURE_VARIANT_ADD(argument_in, a_huge_page) {
	.map = mem_map_huge, .len = MEM_HUGE, .needs = true,
};
FIXTURE_VARIANT_ADD(argument_in, a_file) {
	.map_char = map_file, .len = PAGES(4),
};
FIXTURE_VARIANT_ADD(argument_in, hugetlb) {
	.map_char = map_hugetlb, .len = MEM_HUGE, .needs = true,
};

FIXTURE_SETUP(argument_in)
{
	self->fd = mem_open();
	ASSERT_LE(0, self->fd);
	self->src = variant->map ? variant->map(variant->len) :
				   variant->map_char(variant->len);
	if (!self->src && variant->needs)
		SKIP(return, "no memory of that kind here");
	ASSERT_NE(NULL, self->src);
}

FIXTURE_TEARDOWN(argument_in)
{
	if (variant->map_char == map_hugetlb)
		pool_set(MEM_HUGE, 0);
	close(self->fd);
}

/*
 * The call has just taken from the source the right to write that its answer
 * needs. The instant of the duplicate lies before the answer is known.
 */
TEST_F(argument_in, the_source_is_answered_and_duplicated_as_it_was)
{
	struct cowsnap_remap was, *copy, *r;

	/* On two pages. */
	r = (void *)(self->src + PAGES(2) -
		     offsetof(struct cowsnap_remap, shared));
	*r = (struct cowsnap_remap) {
		.size = sizeof(*r), .src = U64(self->src), .len = variant->len,
		.shared = 0x1234, .copied = 0x5678,
	};
	was = *r;
	ASSERT_EQ(0, call(self->fd, COWSNAP_REMAP, r));
	EXPECT_LT(0, r->shared);
	EXPECT_EQ(0, r->copied);
	EXPECT_EQ(0, r->reason);
	copy = (void *)((char *)r + (r->dst - r->src));
	EXPECT_EQ(0, memcmp(copy, &was, sizeof(was)));
	ASSERT_EQ(0, munmap((void *)(uintptr_t)r->dst, variant->len));
	munmap(self->src, variant->len);
}

TEST_F(argument, duplicate_outlives_the_descriptor)
{
	char *dst = mem_dup(self->fd, self->src, self->len);
	uint64_t maps;

	ASSERT_NE(NULL, dst);
	maps = mem_maps_hash();
	close(self->fd);
	EXPECT_EQ(maps, mem_maps_hash());
	EXPECT_EQ(4, mem_shared_pages(self->src, dst, self->len));
	EXPECT_TRUE(mem_check(dst, self->len, 1));
	mem_fill(dst, self->len, 2);
	EXPECT_TRUE(mem_check(self->src, self->len, 1));
	EXPECT_TRUE(mem_check(dst, self->len, 2));
}

/* A descriptor that remembered its opener would reach into the other. */
TEST_F(argument, inherited_descriptor_works_on_the_callers_own_memory)
{
	uint64_t maps = mem_maps_hash();
	int status;
	pid_t pid;

	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		char *own = mem_map_alone(self->len), *dst;

		/* Ours at this address is no longer what the parent has. */
		mem_fill(self->src, self->len, 3);
		dst = mem_dup(self->fd, self->src, self->len);
		if (!dst || !mem_check(dst, self->len, 3))
			_exit(1);
		if (mem_shared_pages(self->src, dst, self->len) != 4)
			_exit(2);
		if (!own)
			_exit(3);
		mem_fill(own, self->len, 4);
		dst = mem_dup(self->fd, own, self->len);
		_exit(dst && mem_check(dst, self->len, 4) ? 0 : 4);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_EQ(maps, mem_maps_hash());
	EXPECT_TRUE(mem_check(self->src, self->len, 1));
}

/* Opened by a process that is gone by the time it is used. */
TEST_F(argument, passed_descriptor_works_on_the_callers_own_memory)
{
	int ends[2], fd, pidfd;
	char *dst;
	pid_t pid;

	/* Taken from it: there are kernels without sockets to pass it through. */
	ASSERT_EQ(0, pipe(ends));
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		fd = mem_open();
		if (write(ends[1], &fd, sizeof(fd)) == sizeof(fd))
			pause();
		_exit(1);
	}
	ASSERT_EQ(sizeof(fd), read(ends[0], &fd, sizeof(fd)));
	pidfd = syscall(SYS_pidfd_open, pid, 0);
	ASSERT_GE(pidfd, 0);
	fd = syscall(SYS_pidfd_getfd, pidfd, fd, 0);
	ASSERT_EQ(0, kill(pid, SIGKILL));
	ASSERT_EQ(pid, waitpid(pid, NULL, 0));
	ASSERT_GE(fd, 0);
	dst = mem_dup(fd, self->src, self->len);
	ASSERT_NE(NULL, dst);
	close(fd);
	EXPECT_TRUE(mem_check(dst, self->len, 1));
	EXPECT_EQ(4, mem_shared_pages(self->src, dst, self->len));
}

TEST_HARNESS_MAIN
