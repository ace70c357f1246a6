// SPDX-License-Identifier: GPL-2.0
/*
 * Private mappings of files: pages that were written are shared copy-on-write,
 * the others stay the file's. What the duplicate holds of the file, what it
 * shows in /proc, and that the kernel finds its pages: by the file's tree for
 * truncation, by the reverse map for reclaim and migration.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include "mapped.h"
#include "touch.h"
#include "uring.h"
#include "harness.h"

/* Files */

static bool mounted;	/* a file system of our own */
static char mount_dir[64];

static bool run(const char *command)
{
	int status = system(command);

	return status >= 0 && WIFEXITED(status) && !WEXITSTATUS(status);
}

/*
 * ext4, or its forerunner where the kernel does not have that, on a file of 8
 * MiB, gone when it is unmounted, as with mount -o loop. That of busybox however
 * keeps the device open for writing meanwhile: without
 * CONFIG_BLK_DEV_WRITE_MOUNTED it is busy then.
 */
static bool mount_ext4(void)
{
	char command[640];

	snprintf(mount_dir, sizeof(mount_dir), "/tmp/file_test-%d", getpid());
	snprintf(command, sizeof(command),
		 "exec 3>&2 >/dev/null 2>&1; d=%s; mkdir $d && cd $d || exit; "
		 "modprobe loop; modprobe ext4 || modprobe ext2; type=ext4; "
		 "grep -qw ext4 /proc/filesystems || type=ext2; "
		 "dd if=/dev/zero of=image bs=1M count=8 && mke2fs -F image && mkdir fs && "
		 "loop=$(losetup -f) && losetup $loop image || exit; "
		 "mount -t $type $loop fs || type=; losetup -d $loop; [ $type ] || exit; "
		 "[ $type = ext4 ] || echo \"# on $type, not ext4\" >&3",
		 mount_dir);
	if (!run(command))
		return false;
	mounted = true;
	return true;
}

static void remove_mount(void)
{
	char command[128];

	if (!mount_dir[0])
		return;
	if (mounted) {
		snprintf(command, sizeof(command), "umount -l %s/fs", mount_dir);
		run(command);
	}
	snprintf(command, sizeof(command), "rm -rf %s", mount_dir);
	run(command);
	mount_dir[0] = 0;
	mounted = false;
}

static int open_memfd(void)
{
	return memfd_create("cowsnap", MFD_CLOEXEC);
}

static int open_ext4(void)
{
	char path[80];

	if (!mount_ext4())
		return -1;
	snprintf(path, sizeof(path), "%s/fs/file", mount_dir);
	return open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
}

/* Does reading this byte give SIGBUS? */
static sigjmp_buf bus;

static void on_bus(int sig)
{
	siglongjmp(bus, sig);
}

static bool is_bus(const char *p)
{
	struct sigaction act = { .sa_handler = on_bus }, old;
	bool hit = true;

	sigaction(SIGBUS, &act, &old);
	if (!sigsetjmp(bus, 1)) {
		(void)*(const volatile char *)p;
		hit = false;
	}
	sigaction(SIGBUS, &old, NULL);
	return hit;
}

FIXTURE(file)
{
	int fd;
	int file;
	char *src;
	char *dst;
	struct cowsnap_remap r;
	struct cgroup cg;
};

FIXTURE_VARIANT(file)
{
	int (*open)(void);
};

FIXTURE_VARIANT_ADD(file, tmpfs) { .open = open_memfd };
FIXTURE_VARIANT_ADD(file, ext4) { .open = open_ext4 };

static bool fill_file(int file)
{
	char *p;

	if (ftruncate(file, OFFSET + LEN))
		return false;
	p = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED, file, OFFSET);
	if (p == MAP_FAILED)
		return false;
	mem_fill(p, LEN, FILE_SEED);
	return !munmap(p, LEN);
}

static unsigned int page_seed(size_t i, unsigned int seed)
{
	return seed * 1000 + i;
}

/* The written pages differ from the file's. */
static void write_pages(char *p, unsigned int seed)
{
	size_t i;

	for (i = 0; i < NR; i++)
		if (is_written(i))
			mem_fill(PAGE(p, i), MEM_PAGE, page_seed(i, seed));
}

/* Do these pages hold what the file does from page @first on? */
static bool is_files(char *p, size_t first, size_t nr)
{
	static char expected[LEN] __attribute__((aligned(4096)));

	mem_fill(expected, LEN, FILE_SEED);
	return !memcmp(p, PAGE(expected, first), nr * MEM_PAGE);
}

static bool check_page(char *p, size_t i, unsigned int seed)
{
	if (is_written(i))
		return mem_check(PAGE(p, i), MEM_PAGE, page_seed(i, seed));
	return is_files(PAGE(p, i), i, 1);
}

static bool check_pages(char *p, unsigned int seed)
{
	size_t i;

	for (i = 0; i < NR; i++)
		if (!check_page(p, i, seed))
			return false;
	return true;
}

FIXTURE_SETUP(file)
{
	self->cg.dir[0] = 0;
	self->fd = mem_open();
	ASSERT_GE(self->fd, 0);
	self->file = variant->open();
	if (self->file < 0)
		SKIP(return, "no such file system here");
	ASSERT_TRUE(fill_file(self->file));
	self->src = map_file(self->file, LEN, PROT_READ | PROT_WRITE, OFFSET);
	ASSERT_NE(NULL, self->src);
	/* All pages are mapped, so that clean ones have to be left out. */
	ASSERT_EQ(0, madvise(self->src, LEN, MADV_POPULATE_READ));
	write_pages(self->src, 1);
	ASSERT_EQ(0, mem_remap(self->fd, self->src, LEN, NULL, 0, &self->r));
	self->dst = (char *)(uintptr_t)self->r.dst;
}

FIXTURE_TEARDOWN(file)
{
	cgroup_leave(&self->cg);
	remove_mount();
	close(self->fd);
}

TEST_F(file, written_pages_are_shared_and_clean_ones_left_to_the_file)
{
	size_t i;

	EXPECT_EQ(WRITTEN, self->r.shared);
	EXPECT_EQ(0, self->r.copied);
	for (i = 0; i < NR; i++) {
		if (is_written(i)) {
			EXPECT_EQ(mem_pfn(PAGE(self->src, i)),
				  mem_pfn(PAGE(self->dst, i)));
		} else {
			EXPECT_TRUE(mem_untouched(PAGE(self->dst, i)));
		}
	}
	EXPECT_TRUE(check_pages(self->dst, 1));
	/* The file's own pages, in both. */
	EXPECT_EQ(NR, mem_shared_pages(self->src, self->dst, LEN));
}

TEST_F(file, write_to_either_side_leaves_the_other_and_the_file)
{
	char *shared = mmap(NULL, LEN, PROT_READ, MAP_SHARED, self->file,
			    OFFSET);

	ASSERT_NE(MAP_FAILED, shared);
	mem_fill(self->src, LEN, 2);
	EXPECT_TRUE(check_pages(self->dst, 1));
	EXPECT_TRUE(mem_check(shared, LEN, FILE_SEED));
	mem_fill(self->dst, LEN, 3);
	EXPECT_TRUE(mem_check(self->src, LEN, 2));
	EXPECT_EQ(0, msync(self->dst, LEN, MS_SYNC));
	EXPECT_EQ(0, msync(self->src, LEN, MS_SYNC));
	EXPECT_TRUE(mem_check(shared, LEN, FILE_SEED));
}

TEST_F(file, either_side_outlives_the_other)
{
	char *third = mem_dup(self->fd, self->dst, LEN);

	ASSERT_NE(NULL, third);
	close(self->file);
	ASSERT_EQ(0, munmap(self->src, LEN));
	EXPECT_TRUE(check_pages(self->dst, 1));
	write_pages(third, 2);
	ASSERT_EQ(0, munmap(self->dst, LEN));
	EXPECT_TRUE(check_pages(third, 2));
}

/* Page for page what maps says of the source it says of the duplicate. */
TEST_F(file, maps_shows_the_file_and_the_offset)
{
	char src[256], dst[256], part[256];
	unsigned long offset;
	char *p;

	ASSERT_TRUE(maps_line(self->src, src, sizeof(src)));
	ASSERT_TRUE(maps_line(self->dst, dst, sizeof(dst)));
	EXPECT_STREQ(src, dst);
	EXPECT_EQ(OFFSET, strtoul(dst, NULL, 16));

	p = mem_dup(self->fd, PAGE(self->src, 5), LEN - 9 * MEM_PAGE);
	ASSERT_NE(NULL, p);
	ASSERT_TRUE(maps_line(p, part, sizeof(part)));
	offset = strtoul(part, NULL, 16);
	EXPECT_EQ(OFFSET + 5 * MEM_PAGE, offset);
	/* And behind the offset: device, inode, name. */
	EXPECT_STREQ(strchr(src, ' '), strchr(part, ' '));
}

/* As mmap(2) has it: what was written is private, the rest is the file's. */
TEST_F(file, a_write_to_the_file_shows_in_clean_pages)
{
	char *shared = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED,
			    self->file, OFFSET);
	size_t i;

	ASSERT_NE(MAP_FAILED, shared);
	/* Half of the clean pages are mapped in the duplicate before. */
	for (i = 0; i < NR; i += 8)
		EXPECT_TRUE(check_page(self->dst, i, 1));
	mem_fill(shared, LEN, 9);
	for (i = 0; i < NR; i++) {
		if (is_written(i)) {
			EXPECT_TRUE(check_page(self->dst, i, 1));
		} else {
			EXPECT_EQ(0, memcmp(PAGE(self->dst, i), PAGE(shared, i),
					    MEM_PAGE));
		}
	}
}

/* The file finds its vmas by their offset: with a wrong one pages would stay. */
TEST_F(file, truncation_takes_the_pages_of_both)
{
	size_t keep = NR / 2, i;

	ASSERT_EQ(0, ftruncate(self->file, OFFSET + keep * MEM_PAGE));
	for (i = 0; i < NR; i++) {
		EXPECT_EQ(i >= keep, is_bus(PAGE(self->src, i)));
		EXPECT_EQ(i >= keep, is_bus(PAGE(self->dst, i)));
	}
	for (i = 0; i < keep; i++)
		EXPECT_TRUE(check_page(self->dst, i, 1));
	ASSERT_EQ(0, ftruncate(self->file, OFFSET + LEN));
	for (i = keep; i < NR; i++)
		EXPECT_TRUE(mem_is_zero(PAGE(self->dst, i), MEM_PAGE));
}

TEST_F(file, a_child_has_both)
{
	int status;
	pid_t pid = fork();

	ASSERT_LE(0, pid);
	if (!pid) {
		bool good = check_pages(self->src, 1) && check_pages(self->dst, 1);

		mem_fill(self->src, LEN, 2);
		good &= check_pages(self->dst, 1);
		mem_fill(self->dst, LEN, 3);
		_exit(!good || !mem_check(self->src, LEN, 2));
	}
	write_pages(self->src, 4);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_TRUE(check_pages(self->dst, 1));
	EXPECT_TRUE(check_pages(self->src, 4));
}

/* A wrong page offset on either side and the page would have to stay. */
TEST_F(file, reclaim_finds_written_pages_on_both_sides)
{
	char *to = mem_free_range(LEN, MEM_HUGE, 5 * MEM_PAGE);
	size_t i, swapped = 0;
	int tries, err;

	if (!mem_have_swap())
		SKIP(return, "no swap");
	err = cgroup_enter(&self->cg);
	if (err)
		SKIP(return, "no memory cgroup: %s", strerror(-err));
	/* Charged to the new group, and shared again; moved once, too. */
	munmap(self->dst, LEN);
	write_pages(self->src, 0);
	ASSERT_EQ(0, madvise(self->src, LEN, MADV_DONTNEED));
	write_pages(self->src, 1);
	self->dst = mem_dup(self->fd, self->src, LEN);
	ASSERT_NE(NULL, self->dst);
	ASSERT_EQ(to, mremap(self->dst, LEN, LEN, MREMAP_MAYMOVE | MREMAP_FIXED,
			     to));
	self->dst = to;
	for (tries = 0; tries < 12 && swapped < 2 * WRITTEN; tries++) {
		mem_drain();
		cgroup_reclaim(&self->cg);
		for (i = 0, swapped = 0; i < NR; i++)
			swapped += mem_swapped(PAGE(self->src, i)) +
				   mem_swapped(PAGE(self->dst, i));
	}
	EXPECT_EQ(2 * WRITTEN, swapped);

	/* Swapped out they are shared as well. */
	ASSERT_EQ(0, mem_remap(self->fd, self->dst, LEN, NULL, 0, &self->r));
	EXPECT_EQ(WRITTEN, self->r.shared);
	EXPECT_TRUE(check_pages((char *)(uintptr_t)self->r.dst, 1));
	EXPECT_TRUE(check_pages(self->src, 1));
	write_pages(self->src, 2);
	EXPECT_TRUE(check_pages(self->dst, 1));
}

TEST_F(file, migration_finds_written_pages_on_both_sides)
{
	size_t i, moved = 0;
	int node;

	if (mem_nodes() < 2)
		SKIP(return, "one node");
	for (node = 1; node >= 0; node--)
		for (i = 0; i < NR; i++)
			if (is_written(i))
				moved += move_to_node(PAGE(self->src, i),
						      MEM_PAGE, node);
	/* Of two nodes one at least is another one than before. */
	EXPECT_EQ(2 * WRITTEN, moved);
	for (i = 0; i < NR; i++)
		if (is_written(i))
			EXPECT_EQ(mem_pfn(PAGE(self->src, i)),
				  mem_pfn(PAGE(self->dst, i)));
	EXPECT_TRUE(check_pages(self->dst, 1));
}

TEST_F(file, a_pinned_page_is_copied)
{
	struct uring ring;
	int err = uring_open(&ring);

	if (err)
		SKIP(return, "no io_uring: %s", strerror(-err));
	err = uring_pin(&ring, PAGE(self->src, 2), MEM_PAGE);
	if (err == -EOPNOTSUPP)		/* of memory without a file only: 6.1 */
		SKIP(return, "io_uring pins no pages of such a mapping here");
	ASSERT_EQ(0, err);
	/* The pin has taken it out of sharing with the first duplicate. */
	ASSERT_EQ(0, mem_remap(self->fd, self->src, LEN, NULL, 0, &self->r));
	EXPECT_EQ(1, self->r.copied);
	EXPECT_EQ(WRITTEN - 1, self->r.shared);
	EXPECT_TRUE(check_pages((char *)(uintptr_t)self->r.dst, 1));
	EXPECT_TRUE(check_pages(self->src, 1));
	uring_unpin(&ring);
	uring_close(&ring);
}

/* Others may be at work. */
#define EXPECT_NEAR_KB(expected, seen) do {				\
	EXPECT_GE((expected) + MEM_COMMIT_SLACK, (seen));		\
	EXPECT_LE((expected) - MEM_COMMIT_SLACK, (seen));		\
} while (0)

/* The charge of a writable mapping, none for one that is not and never was. */
TEST_F(file, commit_charge_is_that_of_mmap)
{
	struct mem_counters before, mapped, duplicated, after;
	char *p, *dup;

	mem_counters(&before);
	p = mmap(NULL, 64 * LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE,
		 self->file, 0);
	ASSERT_NE(MAP_FAILED, p);
	mem_counters(&mapped);
	dup = mem_dup(self->fd, p, 64 * LEN);
	ASSERT_NE(NULL, dup);
	mem_counters(&duplicated);
	EXPECT_NEAR_KB(before.committed + 64 * LEN / 1024, mapped.committed);
	EXPECT_NEAR_KB(mapped.committed + 64 * LEN / 1024, duplicated.committed);
	EXPECT_EQ(mapped.vm_size + (long)(64 * LEN / 1024), duplicated.vm_size);
	ASSERT_EQ(0, munmap(dup, 64 * LEN));
	ASSERT_EQ(0, munmap(p, 64 * LEN));
	mem_counters(&after);
	EXPECT_TRUE(mem_counters_equal(&before, &after));

	p = mmap(NULL, 64 * LEN, PROT_READ, MAP_PRIVATE, self->file, 0);
	ASSERT_NE(MAP_FAILED, p);
	dup = mem_dup(self->fd, p, 64 * LEN);
	ASSERT_NE(NULL, dup);
	mem_counters(&duplicated);
	EXPECT_NEAR_KB(before.committed, duplicated.committed);
}

/* No page table is made for what the file has all of. */
TEST_F(file, clean_memory_takes_no_page_tables)
{
	struct mem_counters before, after;
	char *p, *dup;

	p = map_file(self->file, LEN, PROT_READ | PROT_WRITE, OFFSET);
	ASSERT_NE(NULL, p);
	ASSERT_EQ(0, madvise(p, LEN, MADV_POPULATE_READ));
	dup = mem_free_range(LEN, MEM_GIB, 0);
	ASSERT_NE(NULL, dup);
	mem_counters(&before);
	ASSERT_EQ(0, mem_remap(self->fd, p, LEN, dup,
			       COWSNAP_REMAP_FIXED_NOREPLACE, &self->r));
	mem_counters(&after);
	EXPECT_EQ(0, self->r.shared);
	/* Levels above the last are made where a source has tables. */
	EXPECT_EQ(before.pte, after.pte);
	mem_fill(dup, LEN, 5);
	EXPECT_TRUE(mem_check(p, LEN, FILE_SEED));
}

TEST_F(file, advice_and_rights_carry_over)
{
	char *dup, perms[5];

	ASSERT_EQ(0, madvise(self->src, LEN, MADV_DONTFORK));
	ASSERT_EQ(0, mem_remap(self->fd, self->src, LEN, NULL,
			       COWSNAP_REMAP_READONLY, &self->r));
	dup = (char *)(uintptr_t)self->r.dst;
	EXPECT_TRUE(mem_smaps_flag(dup, "dc"));
	ASSERT_TRUE(mem_vma(dup, NULL, NULL, perms));
	EXPECT_STREQ("r--p", perms);
	EXPECT_TRUE(check_pages(dup, 1));
	ASSERT_EQ(0, mprotect(dup, LEN, PROT_READ | PROT_WRITE));
	write_pages(dup, 2);
	EXPECT_TRUE(check_pages(self->src, 1));
	EXPECT_TRUE(check_pages(dup, 2));
}

/* Over part of another mapping of a file, which goes as munmap has it. */
TEST_F(file, fixed_replaces_part_of_a_file_mapping)
{
	char *at = map_file(self->file, 2 * LEN, PROT_READ | PROT_WRITE, 0);

	ASSERT_NE(NULL, at);
	ASSERT_EQ(0, mem_remap(self->fd, self->src, LEN, at + MEM_PAGE,
			       COWSNAP_REMAP_FIXED, &self->r));
	EXPECT_EQ(WRITTEN, self->r.shared);
	EXPECT_TRUE(check_pages(at + MEM_PAGE, 1));
	EXPECT_TRUE(mem_is_zero(at, MEM_PAGE));
}

/*
 * Markers in page tables that else have nothing of what is the file's. Kernels
 * before 6.15 have none in mappings of files.
 */
TEST_F(file, guard_regions_are_kept)
{
	char *src = self->src, *dup, *untouched;
	size_t i;

	if (madvise(PAGE(src, 4), 4 * MEM_PAGE, MADV_GUARD_INSTALL))
		SKIP(return, "no guard regions in mappings of files");
	ASSERT_EQ(0, mem_remap(self->fd, src, LEN, NULL, 0, &self->r));
	dup = (char *)(uintptr_t)self->r.dst;
	EXPECT_EQ(WRITTEN - 2, self->r.shared);
	for (i = 0; i < NR; i++) {
		bool guard = i >= 4 && i < 8;

		EXPECT_EQ(guard ? SIGSEGV : 0, load_at(PAGE(src, i)));
		EXPECT_EQ(guard ? SIGSEGV : 0, load_at(PAGE(dup, i)));
		if (!guard)
			EXPECT_TRUE(check_page(dup, i, 1));
	}
	/* Each can be taken away by itself: what was written is gone. */
	ASSERT_EQ(0, madvise(dup, LEN, MADV_GUARD_REMOVE));
	EXPECT_TRUE(is_files(PAGE(dup, 4), 4, 4));
	EXPECT_EQ(SIGSEGV, store_at(PAGE(src, 4)));
	EXPECT_EQ(SIGSEGV, load_at(PAGE(src, 7)));
	mem_fill(PAGE(dup, 4), 4 * MEM_PAGE, 9);
	ASSERT_EQ(0, madvise(src, LEN, MADV_GUARD_REMOVE));
	EXPECT_TRUE(is_files(PAGE(src, 4), 4, 4));

	/* And where there is nothing else, the duplicate's own guard. */
	untouched = map_file(self->file, LEN, PROT_READ, OFFSET);
	ASSERT_NE(NULL, untouched);
	ASSERT_EQ(0, madvise(PAGE(untouched, 1), MEM_PAGE, MADV_GUARD_INSTALL));
	dup = mem_dup(self->fd, untouched, LEN);
	ASSERT_NE(NULL, dup);
	ASSERT_EQ(0, madvise(untouched, LEN, MADV_GUARD_REMOVE));
	EXPECT_EQ(SIGSEGV, load_at(PAGE(dup, 1)));
	EXPECT_TRUE(is_files(dup, 0, 1));
	EXPECT_TRUE(is_files(PAGE(dup, 2), 2, NR - 2));
	EXPECT_TRUE(is_files(untouched, 0, NR));
}

/* A file on a tmpfs of its own, mounted at @dir, or -1 with errno. */
static int open_on_tmpfs(char *dir, size_t size, unsigned long flags)
{
	char path[80];

	snprintf(dir, size, "/tmp/file_test-tmpfs-%d", getpid());
	if (mkdir(dir, 0700))
		return -1;
	if (mount("none", dir, "tmpfs", flags, NULL)) {
		rmdir(dir);
		return -1;
	}
	snprintf(path, sizeof(path), "%s/file", dir);
	return open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
}

static bool may_execute(char *p)
{
	return !mprotect(p, LEN, PROT_READ | PROT_EXEC) || errno != EACCES;
}

/* A mapping knows which rights it may ever get, and the duplicate knows it, too. */
TEST(mprotect_gives_the_duplicate_no_right_that_the_source_cannot_get)
{
	char dir[64], *src, *dst, *again;
	int fd = mem_open(), file;
	struct cowsnap_remap r;

	file = open_on_tmpfs(dir, sizeof(dir), MS_NOEXEC);
	if (file < 0)
		SKIP(return, "no tmpfs: %s", strerror(errno));
	EXPECT_TRUE(fill_file(file));
	src = map_file(file, LEN, PROT_READ | PROT_WRITE, OFFSET);
	close(file);
	EXPECT_EQ(0, umount2(dir, MNT_DETACH));
	rmdir(dir);
	ASSERT_NE(NULL, src);
	write_pages(src, 1);
	ASSERT_FALSE(may_execute(src));
	dst = mem_dup(fd, src, LEN);
	ASSERT_NE(NULL, dst);
	EXPECT_FALSE(may_execute(dst));
	EXPECT_EQ(-1, mprotect(dst, LEN, PROT_READ | PROT_WRITE | PROT_EXEC));
	ASSERT_EQ(0, mem_remap(fd, dst, LEN, NULL, COWSNAP_REMAP_READONLY, &r));
	again = (char *)(uintptr_t)r.dst;
	EXPECT_FALSE(may_execute(again));
	/* But all that it can. */
	EXPECT_EQ(0, mprotect(again, LEN, PROT_READ | PROT_WRITE));
	EXPECT_TRUE(check_pages(again, 1));
	close(fd);
}

/* The file system can go when the last mapping has, and not before. */
TEST(the_file_is_held_as_long_as_it_is_mapped)
{
	char dir[64], *src, *dst, *again;
	int fd = mem_open(), file;

	file = open_on_tmpfs(dir, sizeof(dir), 0);
	if (file < 0)
		SKIP(return, "no tmpfs: %s", strerror(errno));
	ASSERT_TRUE(fill_file(file));
	src = map_file(file, LEN, PROT_READ | PROT_WRITE, OFFSET);
	ASSERT_NE(NULL, src);
	close(file);
	write_pages(src, 1);
	dst = mem_dup(fd, src, LEN);
	ASSERT_NE(NULL, dst);
	again = mem_dup(fd, dst, LEN);
	ASSERT_NE(NULL, again);
	EXPECT_NE(0, umount(dir));
	munmap(src, LEN);
	EXPECT_NE(0, umount(dir));
	munmap(again, LEN);
	EXPECT_NE(0, umount(dir));
	EXPECT_TRUE(check_pages(dst, 1));
	munmap(dst, LEN);
	EXPECT_EQ(0, umount(dir));
	rmdir(dir);
	close(fd);
}

TEST_HARNESS_MAIN
