// SPDX-License-Identifier: GPL-2.0
/*
 * Large folios and one mm. Kernels with CONFIG_MM_ID write a large folio in
 * place when all its mappings belong to the mm that writes: were one mapped by
 * source and duplicate, each would see the stores of the other. There are
 * several ways to get there later, through swap mostly. The promise, that both
 * sides keep their contents, is that of all kernels, so they run on all.
 */
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/swap.h>
#include <sys/uio.h>

#include "mm_id.h"
#include "harness.h"

/* A reference to one page in a pipe: its folio cannot be split. */
struct hold {
	int pipe[2];
};

static bool hold_page(struct hold *hold, void *page)
{
	struct iovec iov = { .iov_base = page, .iov_len = 8 };

	return !pipe(hold->pipe) && vmsplice(hold->pipe[1], &iov, 1, 0) == 8;
}

static void let_go(struct hold *hold)
{
	close(hold->pipe[0]);
	close(hold->pipe[1]);
}

FIXTURE(mm_id)
{
	int fd;
	char mthp[16];		/* what was set before */
	struct cgroup cg;
};

FIXTURE_SETUP(mm_id)
{
	read_choice(MTHP, self->mthp, sizeof(self->mthp));
	self->cg.dir[0] = 0;
	self->fd = mem_open();
	ASSERT_LE(0, self->fd);
}

FIXTURE_TEARDOWN(mm_id)
{
	cgroup_leave(&self->cg);
	if (self->mthp[0])
		mem_write(MTHP, self->mthp);
	close(self->fd);
}

#define NEED_SWAP() do {						\
	if (!mem_have_swap())						\
		SKIP(return, "no swap");				\
} while (0)

/* Memory in 64 KiB folios, where the kernel has them; base pages elsewhere. */
static char *map_64k(struct __test_metadata *_metadata, size_t len)
{
	char *p = mem_map_offset(len, MEM_HUGE, 0);

	ASSERT_NE(NULL, p);
	mem_write(MTHP, "always");
	madvise(p, len, MADV_HUGEPAGE);
	mem_fill(p, len, SEED);
	return p;
}

/*
 * Swap on a loop device: what is written to it stays in the swap cache at first.
 * That on a RAM disk does not, its pages are written at once.
 */
struct loop_swap {
	int fd;
	char path[32];
};

#define LOOP_SWAP	(16UL << 20)

static bool loop_swap_on(struct loop_swap *swap)
{
	int file = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	int control, nr = -1;
	char command[96];

	if (system("modprobe loop 2>/dev/null") < 0)
		return false;
	control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	if (control >= 0)
		nr = ioctl(control, LOOP_CTL_GET_FREE);
	close(control);
	snprintf(swap->path, sizeof(swap->path), "/dev/loop%d", nr);
	swap->fd = nr < 0 ? -1 : open(swap->path, O_RDWR | O_CLOEXEC);
	if (swap->fd < 0 || file < 0 || ftruncate(file, LOOP_SWAP) ||
	    ioctl(swap->fd, LOOP_SET_FD, file))
		return false;
	close(file);
	snprintf(command, sizeof(command), "mkswap %s >/dev/null", swap->path);
	return !system(command) &&
	       !swapon(swap->path, SWAP_FLAG_PREFER | 1000);
}

static bool loop_swap_off(struct loop_swap *swap)
{
	bool off = !swapoff(swap->path) && !ioctl(swap->fd, LOOP_CLR_FD, 0);

	close(swap->fd);
	return off;
}

/* A: the folio is large in the swap cache when the entries are shared. */
TEST_F(mm_id, large_page_in_the_swap_cache)
{
	char *src = mem_map_huge(2 * MEM_HUGE), *dst;
	struct loop_swap swap;

	if (!src)
		SKIP(return, "no huge pages");
	if (!loop_swap_on(&swap))
		SKIP(return, "no swap on a loop device");
	mem_fill(src, 2 * MEM_HUGE, SEED);
	EXPECT_EQ(2 * MEM_HUGE / MEM_PAGE, mem_pageout(src, 2 * MEM_HUGE));
	dst = mem_dup(self->fd, src, 2 * MEM_HUGE);
	EXPECT_NE(NULL, dst);
	if (dst) {
		EXPECT_TRUE(read_all(src, 2 * MEM_HUGE));
		EXPECT_TRUE(read_all(dst, 2 * MEM_HUGE));
		EXPECT_TRUE(stay_apart(src, dst, 2 * MEM_HUGE));
		munmap(dst, 2 * MEM_HUGE);
	}
	munmap(src, 2 * MEM_HUGE);
	EXPECT_TRUE(loop_swap_off(&swap));
}

/* B: swapped out as large folios, and read in by one side as such. */
static void read_in_large(struct __test_metadata *_metadata, int fd,
			  bool source_first)
{
	size_t len = 16 * MTHP_LEN;
	char *src = map_64k(_metadata, len), *dst;

	ASSERT_EQ(len / MEM_PAGE, mem_pageout(src, len));
	dst = mem_dup(fd, src, len);
	ASSERT_NE(NULL, dst);
	EXPECT_TRUE(read_all(source_first ? src : dst, len));
	EXPECT_TRUE(read_all(source_first ? dst : src, len));
	EXPECT_TRUE(stay_apart(src, dst, len));
	munmap(dst, len);
	munmap(src, len);
}

TEST_F(mm_id, source_reads_swapped_pages_first)
{
	NEED_SWAP();
	read_in_large(_metadata, self->fd, true);
}

TEST_F(mm_id, duplicate_reads_swapped_pages_first)
{
	NEED_SWAP();
	read_in_large(_metadata, self->fd, false);
}

/* C: a child forked before has the pages, and reads them in as large folios. */
TEST_F(mm_id, child_reads_swapped_pages_first)
{
	size_t len = 16 * MTHP_LEN;
	struct child child;
	char *src, *dst;

	NEED_SWAP();
	if (cgroup_enter(&self->cg))
		SKIP(return, "no memory cgroup with memory.reclaim");
	src = map_64k(_metadata, len);
	ASSERT_TRUE(start_child(&child, src, len));
	ASSERT_EQ(len / MEM_PAGE, cgroup_swap_out(&self->cg, src, len));
	dst = mem_dup(self->fd, src, len);
	ASSERT_NE(NULL, dst);
	EXPECT_TRUE(child_reads(&child));
	EXPECT_TRUE(read_all(src, len));
	EXPECT_TRUE(read_all(dst, len));
	ASSERT_TRUE(end_child(&child));
	EXPECT_TRUE(stay_apart(src, dst, len));
	munmap(dst, len);
	munmap(src, len);
}

/* The same with base pages, which are swapped out after they were shared. */
TEST_F(mm_id, child_reads_swapped_base_pages_first)
{
	size_t len = 16 * MTHP_LEN;
	struct child child;
	char *src, *dst;

	NEED_SWAP();
	if (cgroup_enter(&self->cg))
		SKIP(return, "no memory cgroup with memory.reclaim");
	mem_write(MTHP, "never");
	src = mem_map_offset(len, MEM_HUGE, 0);
	ASSERT_NE(NULL, src);
	madvise(src, len, MADV_HUGEPAGE);
	mem_fill(src, len, SEED);
	ASSERT_TRUE(start_child(&child, src, len));
	dst = mem_dup(self->fd, src, len);
	ASSERT_NE(NULL, dst);
	cgroup_swap_out(&self->cg, src, len);
	mem_write(MTHP, "always");
	EXPECT_TRUE(child_reads(&child));
	EXPECT_TRUE(read_all(src, len));
	EXPECT_TRUE(read_all(dst, len));
	ASSERT_TRUE(end_child(&child));
	EXPECT_TRUE(stay_apart(src, dst, len));
	munmap(dst, len);
	munmap(src, len);
}

static void drop_at_once(char *p, size_t len, int go, int done)
{
	char c;

	madvise(p, len, MADV_DONTNEED);
	c = write(done, "", 1);
	_exit(read(go, &c, 1));
}

/* A child that has dropped what it has mapped, and lives on. */
static bool start_dropper(struct child *child, char *p, size_t len)
{
	char c;

	return start(child, drop_at_once, p, len) && read(child->done, &c, 1) == 1;
}

/*
 * Base pages, of each block the first one exclusive and the others not. They are
 * swapped out. How many blocks could be read in as a whole?
 */
static size_t swap_out_mixed(struct child *child, char *src, size_t len,
			     struct rows *rows)
{
	size_t i;

	pad_slots(rows);
	madvise(src, len, MADV_HUGEPAGE);
	mem_fill(src, len, SEED);
	if (!start_dropper(child, src, len))
		return 0;
	for (i = 0; i < len; i += MTHP_LEN)
		*(volatile char *)(src + i) ^= 0;
	mem_pageout(src, len);
	return count_rows(rows, src, len);
}

/*
 * Of neighbours one may be shared as it is, while the next one has to be read
 * in: not as part of a large folio that the duplicate would get a page of, too.
 */
TEST_F(mm_id, neighbour_of_a_shared_page_is_read_in_alone)
{
	size_t len = 16 * MTHP_LEN, tries, count = 0;
	struct rows rows = { 0 };
	struct child child;
	char *src, *dst;

	NEED_SWAP();
	for (tries = 0; tries < 20; tries++) {
		mem_write(MTHP, "never");
		src = mem_map_offset(len, MEM_HUGE, 0);
		ASSERT_NE(NULL, src);
		count = swap_out_mixed(&child, src, len, &rows);
		if (count)
			break;
		ASSERT_TRUE(end_child(&child));
		munmap(src, len);
		renew_swap();
	}
	if (!count)
		SKIP(return, "swap slots do not come in a row");
	mem_write(MTHP, "always");
	dst = mem_dup(self->fd, src, len);
	ASSERT_NE(NULL, dst);
	EXPECT_TRUE(read_all(dst, len));
	EXPECT_TRUE(read_all(src, len));
	EXPECT_TRUE(stay_apart(src, dst, len));
	ASSERT_TRUE(end_child(&child));
	munmap(dst, len);
	munmap(src, len);
}

/*
 * What a relative costs: its pages are copied while it may have huge pages, and
 * no longer than that.
 */
TEST_F(mm_id, pages_are_shared_again_when_the_child_is_gone)
{
	size_t len = MTHP_LEN, nr = len / MEM_PAGE;
	bool whole = mem_huge_whole(self->fd);
	struct cowsnap_remap r;
	struct child child;
	char *src = map_64k(_metadata, len);

	ASSERT_TRUE(start_child(&child, src, len));
	ASSERT_EQ(0, mem_remap(self->fd, src, len, NULL, 0, &r));
	EXPECT_EQ(whole ? nr : 0, r.shared);
	EXPECT_EQ(whole ? 0 : nr, r.copied);
	EXPECT_TRUE(stay_apart(src, (char *)(uintptr_t)r.dst, len));
	ASSERT_EQ(0, munmap((void *)(uintptr_t)r.dst, len));
	ASSERT_TRUE(end_child(&child));
	ASSERT_EQ(0, mem_remap(self->fd, src, len, NULL, 0, &r));
	EXPECT_EQ(nr, r.shared);
	EXPECT_EQ(0, r.copied);
	EXPECT_TRUE(stay_apart(src, (char *)(uintptr_t)r.dst, len));
	munmap((void *)(uintptr_t)r.dst, len);
	munmap(src, len);
}

/* A child forked from memory that has no huge pages cannot have them, too. */
TEST_F(mm_id, pages_are_shared_beside_a_child_forked_later)
{
	size_t len = MTHP_LEN, nr = len / MEM_PAGE;
	struct cowsnap_remap r;
	struct child child;
	char *src = map_64k(_metadata, len), *one, *two;

	one = mem_dup(self->fd, src, len);
	ASSERT_NE(NULL, one);
	ASSERT_TRUE(start_child(&child, src, len));
	ASSERT_EQ(0, mem_remap(self->fd, src, len, NULL, 0, &r));
	two = (char *)(uintptr_t)r.dst;
	EXPECT_EQ(nr, r.shared);
	EXPECT_EQ(0, r.copied);
	EXPECT_TRUE(stay_apart(src, two, len));
	EXPECT_TRUE(stay_apart(one, two, len));
	EXPECT_TRUE(child_reads(&child));
	ASSERT_TRUE(end_child(&child));
	munmap(one, len);
	munmap(two, len);
	munmap(src, len);
}

/* Large folios that are there. */
TEST_F(mm_id, small_huge_pages_are_shared)
{
	size_t len = 16 * MTHP_LEN;
	char *src = map_64k(_metadata, len);
	struct cowsnap_remap r;

	ASSERT_EQ(0, mem_remap(self->fd, src, len, NULL, 0, &r));
	EXPECT_EQ(len / MEM_PAGE, r.shared);
	EXPECT_EQ(0, r.copied);
	EXPECT_TRUE(stay_apart(src, (char *)(uintptr_t)r.dst, len));
	munmap((void *)(uintptr_t)r.dst, len);
	munmap(src, len);
}

TEST_F(mm_id, page_that_cannot_be_split_keeps_its_contents)
{
	char *src = mem_map_huge(MEM_HUGE);
	struct cowsnap_remap r;
	struct hold hold;

	if (!src)
		SKIP(return, "no huge pages");
	mem_fill(src, MEM_HUGE, SEED);
	ASSERT_TRUE(hold_page(&hold, src + PAGES(5)));
	ASSERT_EQ(0, mem_remap(self->fd, src, MEM_HUGE, NULL, 0, &r));
	EXPECT_EQ(MEM_HUGE / MEM_PAGE, r.shared + r.copied);
	if (!mem_huge_whole(self->fd))
		EXPECT_EQ(MEM_HUGE / MEM_PAGE, r.copied);
	let_go(&hold);
	EXPECT_TRUE(stay_apart(src, (char *)(uintptr_t)r.dst, MEM_HUGE));
	munmap((void *)(uintptr_t)r.dst, MEM_HUGE);
	munmap(src, MEM_HUGE);
}

/* Only what was shared loses huge pages, and only where it must. */
TEST_F(mm_id, no_more_than_the_source_loses_huge_pages)
{
	bool whole = mem_huge_whole(self->fd);
	size_t len = 3 * MEM_HUGE;
	char *src, *part, *dst;

	src = mem_map_huge(len);
	if (!src)
		SKIP(return, "no huge pages");
	part = src + MEM_HUGE;
	mem_fill(part, MEM_HUGE, SEED);
	dst = mem_dup(self->fd, part, MEM_HUGE);
	ASSERT_NE(NULL, dst);
	EXPECT_TRUE(mem_smaps_flag(src, "hg"));
	EXPECT_TRUE(mem_smaps_flag(part + MEM_HUGE, "hg"));
	EXPECT_EQ(whole, mem_smaps_flag(part, "hg"));
	EXPECT_EQ(whole, mem_smaps_flag(dst, "hg"));
	EXPECT_EQ(whole, !mem_smaps_flag(part, "nh"));
	EXPECT_EQ(whole, !mem_smaps_flag(dst, "nh"));
	munmap(dst, MEM_HUGE);
	munmap(src, len);
}

/* Piece by piece: the pieces become one mapping again. */
TEST_F(mm_id, pieces_of_the_source_are_merged)
{
	struct mem_counters before, after;
	size_t len = 3 * MEM_HUGE, i;
	char *src, *dst;

	src = mem_map_huge(len);
	if (!src)
		SKIP(return, "no huge pages");
	mem_counters(&before);
	for (i = 0; i < len; i += MEM_HUGE) {
		dst = mem_dup(self->fd, src + i, MEM_HUGE);
		ASSERT_NE(NULL, dst);
		ASSERT_EQ(0, munmap(dst, MEM_HUGE));
	}
	mem_counters(&after);
	EXPECT_EQ(before.maps, after.maps);
	munmap(src, len);
}

TEST_HARNESS_MAIN
