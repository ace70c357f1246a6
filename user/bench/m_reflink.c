// SPDX-License-Identifier: GPL-2.0
/*
 * Method reflink: the region is a mapped file, the snapshot a clone of the file
 * (ioctl_ficlonerange(2)), mapped beside it. What both have in common are blocks
 * of the disk, not pages of memory: each file has its own in the page cache.
 *
 * The files have no name, so that nothing is left of them however we end.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "bench.h"

static int unnamed_file(const char *dir)
{
	return open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
}

static bool can_clone(const char *dir)
{
	int from = unnamed_file(dir), to = unnamed_file(dir);
	bool can = from >= 0 && to >= 0 && !ftruncate(from, page_size) &&
		   !ioctl(to, FICLONE, from);

	if (from >= 0)
		close(from);
	if (to >= 0)
		close(to);
	return can;
}

/* A directory whose file system has reflinks, or NULL. */
static const char *find_dir(void)
{
	const char *given = getenv("COWSNAP_REFLINK_DIR");
	const char *const tried[] = { ".", "/var/tmp", "/tmp" };
	static const char *found;
	size_t i;

	if (given)
		return can_clone(given) ? given : NULL;
	for (i = 0; i < ARRAY_SIZE(tried) && !found; i++)
		if (can_clone(tried[i]))
			found = tried[i];
	return found;
}

static const char *reflink_missing(size_t len, enum page_kind page)
{
	const char *dir = find_dir(), *given = getenv("COWSNAP_REFLINK_DIR");
	struct statvfs fs;
	size_t have, need;

	(void)page;
	if (!dir && given)
		return sentence("the file system of %.200s (COWSNAP_REFLINK_DIR) has no reflinks",
				given);
	if (!dir)
		return "no file system with reflinks (btrfs, XFS) here, in /var/tmp or in /tmp; COWSNAP_REFLINK_DIR names one";
	if (statvfs(dir, &fs))
		return sentence("%.200s: %s", dir, strerror(errno));

	/* What is overwritten is not free before the file system has committed that. */
	have = (size_t)fs.f_bavail * fs.f_frsize;
	need = 4 * len;
	if (have < need)
		return sentence("needs %zu MiB in %.200s, %zu MiB are free", need / MIB, dir,
				have / MIB);
	return memory_lacks(len, 1);
}

static char *map_file(int fd, size_t len)
{
	char *addr = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	return addr == MAP_FAILED ? NULL : addr;
}

static const char *reserve_file(struct region *r)
{
	const char *dir = find_dir();
	int fd = dir ? unnamed_file(dir) : -1;

	if (fd < 0 || ftruncate(fd, r->len) || !(r->addr = map_file(fd, r->len))) {
		int err = errno;

		if (fd >= 0)
			close(fd);
		return sentence("a file of %zu MiB in %.200s: %s", r->len / MIB,
				dir ? dir : "(no directory)", strerror(err));
	}
	r->map = r->addr;
	r->map_len = r->len;
	r->data = (void *)(intptr_t)fd;
	return NULL;
}

static void free_file(struct region *r)
{
	munmap(r->map, r->map_len);
	close((int)(intptr_t)r->data);
}

static const struct backing file_backing = {
	.reserve = reserve_file,
	.free = free_file,
};

static const char *reflink_take(struct snap *s)
{
	uint64_t start = now_ns();
	int fd = unnamed_file(find_dir());
	const char *why = NULL;

	if (fd < 0)
		return sentence("a file for the snapshot: %s", strerror(errno));
	/* Waits until what was written to the source is on its way to the disk. */
	if (ioctl(fd, FICLONE, (int)(intptr_t)s->src->data))
		why = sentence("FICLONE: %s", strerror(errno));
	else if (!(s->addr = map_file(fd, s->src->len)))
		why = sentence("mmap of the clone: %s", strerror(errno));
	close(fd);
	s->take_ns = now_ns() - start;
	return why;
}

/* The clone has no name and no descriptor: it goes with its mapping. */
static void reflink_drop(struct snap *s)
{
	uint64_t start = now_ns();

	if (!s->unmapped)
		munmap(s->addr, s->src->len);
	s->drop_ns = now_ns() - start;
}

const struct method method_reflink = {
	.name = "reflink",
	.help = "the region is a file, the snapshot a clone of it (btrfs, XFS)",
	.pages = 1 << PAGE_4K,
	.why_pages = "a file that can be cloned has pages of the page cache",
	.backing = &file_backing,
	.missing = reflink_missing,
	.take = reflink_take,
	.start = thread_start,
	.wait = thread_wait,
	.drop = reflink_drop,
};
