// SPDX-License-Identifier: GPL-2.0
/*
 * Where a duplicate goes: hints, the kernel's own choice, and the two flags
 * that insist; and what happens to what stood there.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "harness.h"
#include "mem.h"

#define PAGES(n)	((n) * MEM_PAGE)
#define U64(p)		((__u64)(uintptr_t)(p))
#define NR		16

FIXTURE(dest)
{
	int fd;
	char *src;
	size_t len;
	struct cowsnap_remap r;
};

FIXTURE_SETUP(dest)
{
	self->fd = mem_open();
	ASSERT_GE(self->fd, 0)
		TH_LOG("%s: %s. Is the module loaded?", MEM_DEVICE,
		       strerror(errno));
	self->len = PAGES(NR);
	self->src = mem_map_alone(self->len);
	ASSERT_NE(NULL, self->src);
	mem_fill(self->src, self->len, 1);
}

FIXTURE_TEARDOWN(dest)
{
	EXPECT_TRUE(mem_check(self->src, self->len, 1));
	close(self->fd);
}

/* The duplicate is at @dst, is one, and is apart from the source. */
static void check_at(struct __test_metadata *_metadata,
		     FIXTURE_DATA(dest) *self, char *dst)
{
	EXPECT_EQ(U64(dst), self->r.dst);
	EXPECT_EQ(NR, self->r.shared);
	EXPECT_EQ(NR, mem_shared_pages(self->src, dst, self->len));
	EXPECT_TRUE(mem_check(dst, self->len, 1));
	mem_fill(dst, self->len, 9);
	EXPECT_TRUE(mem_check(self->src, self->len, 1));
}

#define REMAP(dst, flags)						\
	mem_remap(self->fd, self->src, self->len, dst, flags, &self->r)

/* Callers that lay out their address space rely on it, aligned or not. */
TEST_F(dest, free_hint_is_taken_as_it_is)
{
	static const size_t offset[] = { 0, 1, 2, 100, 256, 510, 511 };
	size_t i;

	for (i = 0; i < ARRAY_SIZE(offset); i++) {
		char *hint = mem_free_range(self->len, MEM_HUGE,
					    PAGES(offset[i]));

		ASSERT_NE(NULL, hint);
		ASSERT_EQ(0, REMAP(hint, 0));
		check_at(_metadata, self, hint);
	}
}

TEST_F(dest, free_hint_between_two_mappings_is_taken)
{
	char *dst = mem_map_alone(self->len);

	ASSERT_NE(NULL, dst);
	munmap(dst, self->len);
	ASSERT_EQ(0, REMAP(dst, 0));
	check_at(_metadata, self, dst);
}

/* One page in the way is enough, wherever it is. */
TEST_F(dest, busy_hint_gives_another_place)
{
	static const size_t busy[] = { 0, 1, NR / 2, NR - 1 };
	size_t i;

	for (i = 0; i < ARRAY_SIZE(busy); i++) {
		char *dst = mem_map_alone(self->len);

		ASSERT_NE(NULL, dst);
		munmap(dst, PAGES(busy[i]));
		munmap(dst + PAGES(busy[i] + 1), PAGES(NR - 1 - busy[i]));
		mem_fill(dst + PAGES(busy[i]), MEM_PAGE, 2);
		ASSERT_EQ(0, REMAP(dst, 0));
		EXPECT_NE(U64(dst), self->r.dst);
		EXPECT_EQ(U64(self->src) % MEM_HUGE, self->r.dst % MEM_HUGE);
		check_at(_metadata, self, (char *)self->r.dst);
		EXPECT_TRUE(mem_check(dst + PAGES(busy[i]), MEM_PAGE, 2));
	}
}

/* Only congruent duplicates can share huge pages whole. */
TEST_F(dest, chosen_place_is_congruent_to_the_source)
{
	static const size_t lens[] = { 1, 3, 511, 512, 700, 5000 };
	size_t offset, i;
	char *src;

	for (offset = 0; offset < 512; offset += 37) {
		src = mem_map_offset(PAGES(5000), MEM_HUGE, PAGES(offset));
		ASSERT_NE(NULL, src);
		for (i = 0; i < ARRAY_SIZE(lens); i++) {
			ASSERT_EQ(0, mem_remap(self->fd, src, PAGES(lens[i]),
					       NULL, 0, &self->r));
			ASSERT_EQ(U64(src) % MEM_HUGE, self->r.dst % MEM_HUGE)
				TH_LOG("%zu pages at offset %zu", lens[i],
				       offset);
			ASSERT_EQ(0, munmap((void *)self->r.dst,
					    PAGES(lens[i])));
		}
		munmap(src, PAGES(5000));
	}
}

/* Again and again without a gap to spare: none may land on another. */
TEST_F(dest, chosen_places_do_not_overlap)
{
	char *dst[40];
	size_t i;

	for (i = 0; i < ARRAY_SIZE(dst); i++) {
		dst[i] = mem_dup(self->fd, self->src, self->len);
		ASSERT_NE(NULL, dst[i]);
		mem_fill(dst[i], self->len, 100 + i);
	}
	for (i = 0; i < ARRAY_SIZE(dst); i++)
		EXPECT_TRUE(mem_check(dst[i], self->len, 100 + i));
}

TEST_F(dest, fixed_takes_a_free_place)
{
	char *dst = mem_free_range(self->len, MEM_HUGE, PAGES(3));

	ASSERT_NE(NULL, dst);
	ASSERT_EQ(0, REMAP(dst, COWSNAP_REMAP_FIXED));
	check_at(_metadata, self, dst);
}

TEST_F(dest, fixed_noreplace_takes_a_free_place)
{
	char *dst = mem_map_alone(self->len);

	ASSERT_NE(NULL, dst);
	munmap(dst, self->len);
	ASSERT_EQ(0, REMAP(dst, COWSNAP_REMAP_FIXED_NOREPLACE));
	check_at(_metadata, self, dst);
}

TEST_F(dest, fixed_replaces_what_is_there)
{
	char *dst = mem_map_alone(self->len);

	ASSERT_NE(NULL, dst);
	mem_fill(dst, self->len, 2);
	ASSERT_EQ(0, REMAP(dst, COWSNAP_REMAP_FIXED));
	check_at(_metadata, self, dst);
}

/* Pages of what was replaced: freed, once, and not still counted. */
TEST_F(dest, fixed_again_and_again_leaks_nothing)
{
	char *dst = mem_map_alone(self->len);
	struct mem_counters before, after;
	int i;

	ASSERT_NE(NULL, dst);
	ASSERT_EQ(0, REMAP(dst, COWSNAP_REMAP_FIXED));
	mem_fill(dst, self->len, 2);
	mem_counters(&before);
	for (i = 0; i < 20; i++) {
		ASSERT_EQ(0, REMAP(dst, COWSNAP_REMAP_FIXED));
		mem_fill(dst, self->len, 2);
	}
	mem_counters(&after);
	EXPECT_TRUE(mem_counters_equal(&before, &after));
}

/* Half of it in the one mapping, half in the next, and a hole between. */
TEST_F(dest, fixed_cuts_mappings_that_reach_further)
{
	char *dst = mem_map_alone(PAGES(3 * NR)), *at;

	ASSERT_NE(NULL, dst);
	mem_fill(dst, PAGES(NR + 4), 2);
	mem_fill(dst + PAGES(2 * NR - 4), PAGES(NR + 4), 3);
	munmap(dst + PAGES(NR + 4), PAGES(NR - 8));
	at = dst + PAGES(NR);
	ASSERT_EQ(0, REMAP(at, COWSNAP_REMAP_FIXED));
	check_at(_metadata, self, at);
	EXPECT_TRUE(mem_check(dst, PAGES(NR), 2));
	mem_fill(dst, PAGES(NR), 5);
	mem_fill(dst + PAGES(2 * NR), PAGES(NR), 6);
	EXPECT_TRUE(mem_check(at, self->len, 9));
}

TEST_F(dest, fixed_in_the_middle_of_a_mapping_leaves_both_ends)
{
	char *dst = mem_map_alone(PAGES(3 * NR));
	int i;

	ASSERT_NE(NULL, dst);
	for (i = 0; i < 3; i++)
		mem_fill(dst + PAGES(i * NR), PAGES(NR), 20 + i);
	ASSERT_EQ(0, REMAP(dst + PAGES(NR), COWSNAP_REMAP_FIXED));
	check_at(_metadata, self, dst + PAGES(NR));
	EXPECT_TRUE(mem_check(dst, PAGES(NR), 20));
	EXPECT_TRUE(mem_check(dst + PAGES(2 * NR), PAGES(NR), 22));
}

/* The mapping that is cut is the one that is duplicated. */
TEST_F(dest, fixed_may_cut_the_mapping_of_the_source)
{
	static const size_t at[][2] = {		/* source, destination */
		{ 0, 24 }, { 24, 0 }, { 0, 16 }, { 16, 0 }, { 48, 16 },
		{ 16, 48 }, { 20, 4 }, { 4, 20 },
	};
	size_t i, page;

	for (i = 0; i < ARRAY_SIZE(at); i++) {
		char *base = mem_map_alone(PAGES(64));
		char *src = base + PAGES(at[i][0]), *dst;

		dst = base + PAGES(at[i][1]);
		ASSERT_NE(NULL, base);
		for (page = 0; page < 64; page++)
			mem_fill(base + PAGES(page), MEM_PAGE, page);
		ASSERT_EQ(0, mem_remap(self->fd, src, PAGES(NR), dst,
				       COWSNAP_REMAP_FIXED, &self->r))
			TH_LOG("reason %u at %#llx", self->r.reason,
			       self->r.fault_addr);
		EXPECT_EQ(NR, self->r.shared);
		EXPECT_EQ(NR, mem_shared_pages(src, dst, PAGES(NR)));
		for (page = 0; page < 64; page++) {
			size_t from = page;

			if (page >= at[i][1] && page < at[i][1] + NR)
				from = page - at[i][1] + at[i][0];
			ASSERT_TRUE(mem_check(base + PAGES(page), MEM_PAGE,
					      from));
		}
		mem_fill(dst, PAGES(NR), 100);
		for (page = 0; page < NR; page++)
			ASSERT_TRUE(mem_check(src + PAGES(page), MEM_PAGE,
					      at[i][0] + page));
		mem_unmap_alone(base, PAGES(64));
	}
}

/* Not anonymous, not private: replacing needs nothing of what stood there. */
TEST_F(dest, fixed_replaces_shared_and_file_memory)
{
	char *dst = mem_map_alone(self->len);
	int file = memfd_create("dest", MFD_CLOEXEC);
	char *view;

	ASSERT_GE(file, 0);
	ASSERT_EQ(0, ftruncate(file, self->len));
	ASSERT_EQ(dst, mmap(dst, self->len, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_FIXED, file, 0));
	mem_fill(dst, self->len, 2);
	ASSERT_EQ(0, REMAP(dst, COWSNAP_REMAP_FIXED));
	check_at(_metadata, self, dst);
	view = mmap(NULL, self->len, PROT_READ, MAP_SHARED, file, 0);
	ASSERT_NE(MAP_FAILED, view);
	EXPECT_TRUE(mem_check(view, self->len, 2));
}

TEST_F(dest, fixed_cuts_a_huge_page)
{
	char *dst = mem_map_huge(2 * MEM_HUGE);
	size_t half = MEM_HUGE - PAGES(NR / 2);

	if (!dst)
		SKIP(return, "no huge pages");
	mem_fill(dst, half, 2);
	mem_fill(dst + half + self->len, half, 3);
	ASSERT_EQ(0, REMAP(dst + half, COWSNAP_REMAP_FIXED));
	check_at(_metadata, self, dst + half);
	EXPECT_TRUE(mem_check(dst, half, 2));
	EXPECT_TRUE(mem_check(dst + half + self->len, half, 3));
}

/* Locked memory that is replaced is locked no more, nor is what replaces it. */
TEST_F(dest, fixed_over_locked_memory_gives_the_lock_back)
{
	char *dst = mem_map_alone(2 * self->len);
	struct mem_counters none, locked, after;

	ASSERT_NE(NULL, dst);
	mem_counters(&none);
	if (mlock(dst, 2 * self->len))
		SKIP(return, "mlock: %s", strerror(errno));
	mem_counters(&locked);
	ASSERT_EQ(none.locked + (long)(self->len >> 9), locked.locked);
	ASSERT_EQ(0, REMAP(dst + PAGES(4), COWSNAP_REMAP_FIXED));
	check_at(_metadata, self, dst + PAGES(4));
	mem_counters(&after);
	EXPECT_EQ(none.locked + (long)(self->len >> 10), after.locked);
	EXPECT_FALSE(mem_smaps_flag(dst + PAGES(4), "lo"));
	EXPECT_TRUE(mem_smaps_flag(dst, "lo"));
	EXPECT_TRUE(mem_smaps_flag(dst + PAGES(4) + self->len, "lo"));
}

struct monitor {
	int uffd;
	struct uffd_msg msg;
	bool got;
};

/* Whoever unmaps waits until the monitor has read of it: a thread for that. */
static void *read_event(void *arg)
{
	struct monitor *m = arg;
	struct pollfd p = { .fd = m->uffd, .events = POLLIN };

	if (poll(&p, 1, 10000) == 1)
		m->got = read(m->uffd, &m->msg, sizeof(m->msg)) ==
			 sizeof(m->msg);
	return NULL;
}

/* A monitor not told keeps answering for memory that is somebody else's. */
TEST_F(dest, fixed_over_userfaultfd_memory_tells_the_monitor)
{
	char *dst = mem_map_alone(self->len);
	struct uffdio_register reg = {
		.range = { U64(dst), self->len },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	struct uffdio_api api = {
		.api = UFFD_API, .features = UFFD_FEATURE_EVENT_UNMAP,
	};
	struct monitor m = { 0 };
	pthread_t thread;

	ASSERT_NE(NULL, dst);
	m.uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (m.uffd < 0)
		SKIP(return, "userfaultfd: %s", strerror(errno));
	ASSERT_EQ(0, ioctl(m.uffd, UFFDIO_API, &api));
	ASSERT_EQ(0, ioctl(m.uffd, UFFDIO_REGISTER, &reg));
	ASSERT_EQ(0, pthread_create(&thread, NULL, read_event, &m));
	ASSERT_EQ(0, REMAP(dst, COWSNAP_REMAP_FIXED));
	pthread_join(thread, NULL);
	ASSERT_TRUE(m.got)
		TH_LOG("no event");
	EXPECT_EQ(UFFD_EVENT_UNMAP, m.msg.event);
	EXPECT_EQ(U64(dst), m.msg.arg.remove.start);
	EXPECT_EQ(U64(dst) + self->len, m.msg.arg.remove.end);
	EXPECT_FALSE(mem_smaps_flag(dst, "um"));
	check_at(_metadata, self, dst);
}

/* The same through a mapping of which only a part goes. */
TEST_F(dest, fixed_over_a_part_of_userfaultfd_memory_tells_which)
{
	char *dst = mem_map_alone(2 * self->len);
	struct uffdio_register reg = {
		.range = { U64(dst), 2 * self->len },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	struct uffdio_api api = {
		.api = UFFD_API, .features = UFFD_FEATURE_EVENT_UNMAP,
	};
	struct monitor m = { 0 };
	pthread_t thread;

	ASSERT_NE(NULL, dst);
	m.uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (m.uffd < 0)
		SKIP(return, "userfaultfd: %s", strerror(errno));
	ASSERT_EQ(0, ioctl(m.uffd, UFFDIO_API, &api));
	ASSERT_EQ(0, ioctl(m.uffd, UFFDIO_REGISTER, &reg));
	ASSERT_EQ(0, pthread_create(&thread, NULL, read_event, &m));
	ASSERT_EQ(0, REMAP(dst + PAGES(5), COWSNAP_REMAP_FIXED));
	pthread_join(thread, NULL);
	ASSERT_TRUE(m.got)
		TH_LOG("no event");
	EXPECT_EQ(UFFD_EVENT_UNMAP, m.msg.event);
	EXPECT_EQ(U64(dst) + PAGES(5), m.msg.arg.remove.start);
	EXPECT_EQ(U64(dst) + PAGES(5) + self->len, m.msg.arg.remove.end);
	EXPECT_TRUE(mem_smaps_flag(dst, "um"));
	EXPECT_FALSE(mem_smaps_flag(dst + PAGES(5), "um"));
	EXPECT_TRUE(mem_smaps_flag(dst + PAGES(5) + self->len, "um"));
	check_at(_metadata, self, dst + PAGES(5));
}

/* With holes: all of the destination is replaced, holes included. */
TEST_F(dest, fixed_with_holes_empties_where_the_source_has_holes)
{
	char *dst = mem_map_alone(self->len), *src;
	struct mem_counters before, after;
	size_t i;

	src = mem_map_alone(self->len);
	ASSERT_NE(NULL, src);
	ASSERT_NE(NULL, dst);
	mem_fill(dst, self->len, 2);
	for (i = 0; i < NR; i++) {
		mem_fill(src + PAGES(i), MEM_PAGE, 50 + i);
		if (i % 4 >= 2)
			munmap(src + PAGES(i), MEM_PAGE);
	}
	mem_counters(&before);
	ASSERT_EQ(0, mem_remap(self->fd, src, self->len, dst,
			       COWSNAP_REMAP_FIXED | COWSNAP_REMAP_HOLES,
			       &self->r));
	mem_counters(&after);
	EXPECT_EQ(NR / 2, self->r.shared);
	EXPECT_EQ(before.vm_size - (long)(self->len >> 11), after.vm_size);
	EXPECT_EQ(before.rss_anon - (long)(self->len >> 11), after.rss_anon);
	for (i = 0; i < NR; i++) {
		if (i % 4 >= 2) {
			EXPECT_TRUE(mem_is_free(dst + PAGES(i), MEM_PAGE));
		} else {
			EXPECT_TRUE(mem_check(dst + PAGES(i), MEM_PAGE,
					      50 + i));
		}
	}
}

TEST_F(dest, fixed_with_nothing_but_a_hole_empties_all)
{
	char *dst = mem_map_alone(self->len), *src;

	ASSERT_NE(NULL, dst);
	mem_fill(dst, self->len, 2);
	src = mem_free_range(self->len, MEM_HUGE, 0);
	ASSERT_EQ(0, mem_remap(self->fd, src, self->len, dst,
			       COWSNAP_REMAP_FIXED | COWSNAP_REMAP_HOLES,
			       &self->r));
	EXPECT_EQ(U64(dst), self->r.dst);
	EXPECT_EQ(0, self->r.shared);
	EXPECT_TRUE(mem_is_free(dst, self->len));
}

/* All of the place is asked for, also what a hole would leave empty. */
TEST_F(dest, noreplace_minds_what_lies_in_a_hole)
{
	char *dst = mem_map_alone(self->len), *src;
	struct cowsnap_remap r;

	src = mem_map_alone(self->len);
	ASSERT_NE(NULL, src);
	ASSERT_NE(NULL, dst);
	munmap(src + PAGES(4), PAGES(4));
	munmap(dst, PAGES(5));
	munmap(dst + PAGES(6), PAGES(NR - 6));
	mem_fill(dst + PAGES(5), MEM_PAGE, 2);
	r = (struct cowsnap_remap) {
		.size = sizeof(r),
		.flags = COWSNAP_REMAP_FIXED_NOREPLACE | COWSNAP_REMAP_HOLES,
		.src = U64(src), .len = self->len, .dst = U64(dst),
	};
	EXPECT_EQ(-EEXIST, mem_refused(self->fd, &r));
	EXPECT_EQ(COWSNAP_REASON_EXISTS, r.reason);
	EXPECT_EQ(U64(dst) + PAGES(5), r.fault_addr);
	EXPECT_TRUE(mem_check(dst + PAGES(5), MEM_PAGE, 2));
}

TEST_HARNESS_MAIN
