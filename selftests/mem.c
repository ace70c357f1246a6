// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "mem.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ	22
#endif

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT	21
#endif

/* Making memory */

/*
 * Fault in what the program itself is made of. Text is not copied by fork: a
 * function called for the first time between two looks at the counters would
 * otherwise show as page tables that the module has leaked.
 */
static void settle(void)
{
	FILE *f = fopen("/proc/self/maps", "re");
	unsigned long start, end;
	char line[512], perms[5];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "%lx-%lx %4s", &start, &end, perms) == 3 &&
		    perms[0] == 'r' && strpbrk(line, "/["))
			madvise((void *)start, end - start, MADV_POPULATE_READ);
	if (f)
		fclose(f);
}

int mem_open(void)
{
	settle();
	return open(MEM_DEVICE, O_RDWR | O_CLOEXEC);
}

static void *map_anon(void *hint, size_t len, int prot, int flags)
{
	void *p = mmap(hint, len, prot, MAP_PRIVATE | MAP_ANONYMOUS | flags,
		       -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

void *mem_map(size_t len)
{
	void *p = map_anon(NULL, len, PROT_READ | PROT_WRITE, 0);

	/* EINVAL: a kernel without huge pages, which is as good. */
	if (p)
		madvise(p, len, MADV_NOHUGEPAGE);
	return p;
}

void *mem_free_range(size_t len, size_t align, size_t offset)
{
	uintptr_t start;
	char *p;

	p = map_anon(NULL, len + 2 * align, PROT_NONE, MAP_NORESERVE);
	if (!p)
		return NULL;
	start = ((uintptr_t)p & ~(align - 1)) + offset;
	if (start < (uintptr_t)p)
		start += align;
	munmap(p, len + 2 * align);
	return (void *)start;
}

void *mem_map_offset(size_t len, size_t align, size_t offset)
{
	void *p = mem_free_range(len, align, offset);

	if (!p)
		return NULL;
	p = map_anon(p, len, PROT_READ | PROT_WRITE, MAP_FIXED_NOREPLACE);
	if (p)
		madvise(p, len, MADV_NOHUGEPAGE);
	return p;
}

static bool starts_table(const char *p)
{
	return !((uintptr_t)p % MEM_HUGE);
}

/*
 * The inaccessible pages have the page tables of what is between them: tables of
 * another mapping beside them would stay for their sake when that is unmapped.
 */
static char *find_alone(size_t len, size_t spare)
{
	size_t size = len + spare + 2 * MEM_PAGE;
	char *start = map_anon(NULL, size, PROT_NONE, MAP_NORESERVE);
	char *p = start + MEM_PAGE, *end;

	if (!start)
		return NULL;
	while (starts_table(p) || starts_table(p + len))
		p += MEM_PAGE;
	end = p + len + MEM_PAGE;
	if (end > start + size) {
		munmap(start, size);
		return NULL;
	}
	munmap(start, p - MEM_PAGE - start);
	munmap(end, start + size - end);
	return p;
}

void *mem_map_alone(size_t len)
{
	char *p = find_alone(len, 0);

	if (!p)
		p = find_alone(len, 2 * MEM_PAGE);
	if (!p)
		return NULL;
	if (!map_anon(p, len, PROT_READ | PROT_WRITE, MAP_FIXED))
		return NULL;
	madvise(p, len, MADV_NOHUGEPAGE);
	return p;
}

void mem_unmap_alone(void *p, size_t len)
{
	munmap((char *)p - MEM_PAGE, len + 2 * MEM_PAGE);
}

/*
 * That many kB huge in the one mapping that holds the range. 6.1 does not count
 * what NUMA balancing has just marked (follow_trans_huge_pmd() refuses it), so
 * that the marks go first.
 */
bool mem_all_huge(const void *p, size_t len)
{
	madvise((void *)p, len, MADV_POPULATE_READ);
	return mem_smaps(p, "AnonHugePages") >= (long)(len >> 10) &&
	       mem_smaps((const char *)p + len - 1, "AnonHugePages") >=
	       (long)(len >> 10);
}

/*
 * Between inaccessible neighbours, which keep what smaps says about it alone,
 * and go again at the end.
 */
void *mem_map_huge_at(void *at, size_t len)
{
	char *p = (char *)at - MEM_PAGE;
	size_t i;
	int tries;

	if (!map_anon(p, len + 2 * MEM_PAGE, PROT_NONE,
		      MAP_NORESERVE | MAP_FIXED_NOREPLACE))
		return NULL;
	p += MEM_PAGE;
	for (tries = 0; tries < 5; tries++) {
		if (!map_anon(p, len, PROT_READ | PROT_WRITE, MAP_FIXED))
			break;
		if (madvise(p, len, MADV_HUGEPAGE))
			break;
		for (i = 0; i < len; i += MEM_PAGE)
			*(volatile char *)(p + i) = 1;
		if (mem_all_huge(p, len)) {
			munmap(p - MEM_PAGE, MEM_PAGE);
			munmap(p + len, MEM_PAGE);
			return p;
		}
		mem_write("/proc/sys/vm/compact_memory", "1");
	}
	munmap(p - MEM_PAGE, len + 2 * MEM_PAGE);
	return NULL;
}

void *mem_map_huge(size_t len)
{
	char *p = mem_free_range(len + 2 * MEM_PAGE, MEM_HUGE,
				 MEM_HUGE - MEM_PAGE);

	return p ? mem_map_huge_at(p + MEM_PAGE, len) : NULL;
}

/* Duplicating it */

int mem_remap(int fd, void *src, size_t len, void *dst, unsigned int flags,
	      struct cowsnap_remap *r)
{
	*r = (struct cowsnap_remap) {
		.size = sizeof(*r),
		.flags = flags,
		.src = (uintptr_t)src,
		.len = len,
		.dst = (uintptr_t)dst,
	};
	return ioctl(fd, COWSNAP_REMAP, r) ? -errno : 0;
}

bool mem_huge_whole(int fd)
{
	struct cowsnap_query q = { .size = sizeof(q) };

	return !ioctl(fd, COWSNAP_QUERY, &q) && q.huge_whole;
}

void *mem_dup(int fd, void *src, size_t len)
{
	struct cowsnap_remap r;
	int err = mem_remap(fd, src, len, NULL, 0, &r);

	if (!err)
		return (void *)(uintptr_t)r.dst;
	fprintf(stderr, "# REMAP of %p, %zu bytes: %s, reason %u at %#llx\n",
		src, len, strerror(-err), r.reason,
		(unsigned long long)r.fault_addr);
	return NULL;
}

static bool differs(const char *what, uint64_t was, uint64_t is)
{
	if (was != is)
		fprintf(stderr, "# refused, but %s was %#llx and is %#llx\n",
			what, (unsigned long long)was, (unsigned long long)is);
	return was != is;
}

int mem_refused(int fd, struct cowsnap_remap *r)
{
	uint64_t maps = mem_maps_hash();
	struct cowsnap_remap was;
	bool broken = false;
	int err;

	/* Garbage where outputs go: each of them must be stored. */
	r->shared = r->copied = r->fault_addr = 0xa5a5a5a5a5a5a5a5ULL;
	r->reason = 0xa5a5a5a5;
	was = *r;
	if (!ioctl(fd, COWSNAP_REMAP, r))
		return 0;
	err = errno;
	broken |= differs("size", was.size, r->size);
	broken |= differs("flags", was.flags, r->flags);
	broken |= differs("src", was.src, r->src);
	broken |= differs("len", was.len, r->len);
	broken |= differs("dst", was.dst, r->dst);
	broken |= differs("reserved", was.reserved, r->reserved);
	broken |= differs("shared", 0, r->shared);
	broken |= differs("copied", 0, r->copied);
	broken |= differs("the set of mappings", maps, mem_maps_hash());
	return broken ? MEM_BROKEN : -err;
}

/* Looking at page tables */

static pthread_mutex_t pagemap_lock = PTHREAD_MUTEX_INITIALIZER;

/* It stays that of the process that opened it: open it again after fork. */
static int pagemap_fd(void)
{
	static int fd = -1;
	static pid_t owner;

	pthread_mutex_lock(&pagemap_lock);
	if (owner != getpid()) {
		if (fd >= 0)
			close(fd);
		fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
		owner = getpid();
	}
	pthread_mutex_unlock(&pagemap_lock);
	return fd;
}

bool mem_pagemap_read(const void *addr, uint64_t *entries, size_t nr)
{
	off_t at = (uintptr_t)addr / MEM_PAGE * sizeof(*entries);
	size_t done = 0, bytes = nr * sizeof(*entries);
	ssize_t got;

	while (done < bytes) {
		got = pread(pagemap_fd(), (char *)entries + done, bytes - done,
			    at + done);
		if (got <= 0)
			return false;
		done += got;
	}
	return true;
}

uint64_t mem_pagemap(const void *addr)
{
	uint64_t entry;

	return mem_pagemap_read(addr, &entry, 1) ? entry : 0;
}

static uint64_t entry_pfn(uint64_t entry)
{
	return entry & MEM_PM_PRESENT ? entry & ((1ULL << 55) - 1) : 0;
}

uint64_t mem_pfn(const void *addr)
{
	return entry_pfn(mem_pagemap(addr));
}

bool mem_swapped(const void *addr)
{
	return mem_pagemap(addr) & MEM_PM_SWAPPED;
}

bool mem_untouched(const void *addr)
{
	return !(mem_pagemap(addr) & (MEM_PM_PRESENT | MEM_PM_SWAPPED));
}

uint64_t mem_zero_pfn(void)
{
	static uint64_t pfn;
	char *p;

	if (pfn)
		return pfn;
	p = mem_map(MEM_PAGE);
	if (!p)
		return 0;
	(void)*(volatile char *)p;
	pfn = mem_pfn(p);
	munmap(p, MEM_PAGE);
	return pfn;
}

#define CHUNK	512

static size_t min_size(size_t a, size_t b)
{
	return a < b ? a : b;
}

size_t mem_touched_pages(const void *p, size_t len)
{
	size_t nr = len / MEM_PAGE, count = 0, i, j, n;
	uint64_t e[CHUNK];

	for (i = 0; i < nr; i += n) {
		n = min_size(nr - i, CHUNK);
		if (!mem_pagemap_read((const char *)p + i * MEM_PAGE, e, n))
			return 0;
		for (j = 0; j < n; j++)
			count += !!(e[j] & (MEM_PM_PRESENT | MEM_PM_SWAPPED));
	}
	return count;
}

size_t mem_shared_pages(const void *a, const void *b, size_t len)
{
	size_t nr = len / MEM_PAGE, count = 0, i, j, n;
	uint64_t ea[CHUNK], eb[CHUNK];

	for (i = 0; i < nr; i += n) {
		n = min_size(nr - i, CHUNK);
		if (!mem_pagemap_read((const char *)a + i * MEM_PAGE, ea, n) ||
		    !mem_pagemap_read((const char *)b + i * MEM_PAGE, eb, n))
			return 0;
		for (j = 0; j < n; j++)
			count += entry_pfn(ea[j]) &&
				 entry_pfn(ea[j]) == entry_pfn(eb[j]);
	}
	return count;
}

/* Contents */

/* Four words of each kilobyte: enough to tell pages, quick when emulated. */
static uint64_t word(size_t at, unsigned int seed)
{
	return (at + 1) * 0x9e3779b97f4a7c15ULL ^ (uint64_t)seed << 32 ^ seed;
}

#define STEP	256

void mem_fill(void *p, size_t len, unsigned int seed)
{
	size_t i;

	for (i = 0; i < len; i += STEP)
		*(volatile uint64_t *)((char *)p + i) = word(i, seed);
}

bool mem_check(const void *p, size_t len, unsigned int seed)
{
	size_t i;

	for (i = 0; i < len; i += STEP) {
		uint64_t is = *(const volatile uint64_t *)((const char *)p + i);

		if (is != word(i, seed)) {
			fprintf(stderr,
				"# at %#zx of %p: %#llx, not %#llx\n", i, p,
				(unsigned long long)is,
				(unsigned long long)word(i, seed));
			return false;
		}
	}
	return true;
}

bool mem_is_zero(const void *p, size_t len)
{
	const volatile uint64_t *word = p;
	size_t i;

	for (i = 0; i < len / sizeof(*word); i++)
		if (word[i])
			return false;
	return true;
}

/* Reading /proc without allocating */

static struct {
	int fd;
	size_t pos, end;
	char data[65536];
	char line[8192];
} text;

/* Present from the start, so that reading does not change the RSS. */
static void __attribute__((constructor)) touch_text(void)
{
	memset(text.data, 1, sizeof(text.data));
	memset(text.line, 1, sizeof(text.line));
}

static bool text_open(const char *path)
{
	text.pos = 0;
	text.end = 0;
	text.fd = open(path, O_RDONLY | O_CLOEXEC);
	return text.fd >= 0;
}

static bool text_fill(void)
{
	ssize_t got = read(text.fd, text.data, sizeof(text.data));

	text.pos = 0;
	text.end = got > 0 ? got : 0;
	return got > 0;
}

/* The next line without its newline, or NULL. What is too long is cut off. */
static char *text_line(void)
{
	size_t n = 0;
	char c;

	for (;;) {
		if (text.pos == text.end && !text_fill()) {
			if (!n)
				return NULL;
			break;
		}
		c = text.data[text.pos++];
		if (c == '\n')
			break;
		if (n < sizeof(text.line) - 1)
			text.line[n++] = c;
	}
	text.line[n] = 0;
	return text.line;
}

static void text_close(void)
{
	close(text.fd);
	text.fd = -1;
}

/* The number after "name" and a colon or blanks. */
static bool line_value(const char *line, const char *name, long *value)
{
	size_t n = strlen(name);

	if (strncmp(line, name, n) || (line[n] != ':' && line[n] != ' '))
		return false;
	*value = strtol(line + n + 1, NULL, 10);
	return true;
}

static long file_value(const char *path, const char *name)
{
	long value = -1;
	char *line;

	if (!text_open(path))
		return -1;
	while ((line = text_line()))
		if (line_value(line, name, &value))
			break;
	text_close();
	return value;
}

long mem_read_long(const char *path)
{
	long value = -1;
	char *line, *end;

	if (!text_open(path))
		return -1;
	line = text_line();
	if (line) {
		value = strtol(line, &end, 10);
		if (end == line)
			value = -1;
	}
	text_close();
	return value;
}

int mem_write(const char *path, const char *string)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), err = 0;
	size_t len = strlen(string);

	if (fd < 0)
		return -errno;
	if (write(fd, string, len) != (ssize_t)len)
		err = errno ? -errno : -EIO;
	close(fd);
	return err;
}

long mem_vmstat(const char *name)
{
	return file_value("/proc/vmstat", name);
}

/* Looking at mappings */

struct map_line {
	unsigned long start;
	unsigned long end;
	char perms[5];
	const char *name;
};

/* "start-end perms offset device inode name", or another line of smaps. */
static bool parse_map(char *line, struct map_line *map)
{
	char *at;
	int i;

	map->start = strtoul(line, &at, 16);
	if (at == line || *at != '-')
		return false;
	map->end = strtoul(at + 1, &at, 16);
	if (*at != ' ')
		return false;
	memcpy(map->perms, at + 1, 4);
	map->perms[4] = 0;
	at++;
	for (i = 0; i < 4 && at; i++) {
		at = strchr(at, ' ');
		while (at && *at == ' ')
			at++;
	}
	map->name = at ? at : "";
	return true;
}

/* Leaves the file open just behind the line of the mapping of @addr. */
static bool find_map(const char *path, const void *addr, struct map_line *map)
{
	unsigned long at = (unsigned long)addr;
	char *line;

	if (!text_open(path))
		return false;
	while ((line = text_line()))
		if (parse_map(line, map) && map->start <= at && at < map->end)
			return true;
	text_close();
	return false;
}

bool mem_vma(const void *addr, unsigned long *start, unsigned long *end,
	     char perms[5])
{
	struct map_line map;

	if (!find_map("/proc/self/maps", addr, &map))
		return false;
	text_close();
	if (start)
		*start = map.start;
	if (end)
		*end = map.end;
	if (perms)
		memcpy(perms, map.perms, 5);
	return true;
}

bool mem_vma_name(const void *addr, char *name, size_t size)
{
	struct map_line map;

	if (!find_map("/proc/self/maps", addr, &map))
		return false;
	snprintf(name, size, "%s", map.name);
	text_close();
	return true;
}

bool mem_is_free(const void *addr, size_t len)
{
	unsigned long start = (unsigned long)addr;
	struct map_line map;
	bool is_free = true;
	char *line;

	if (!text_open("/proc/self/maps"))
		return false;
	while ((line = text_line()))
		if (parse_map(line, &map) && map.start < start + len &&
		    start < map.end)
			is_free = false;
	text_close();
	return is_free;
}

uint64_t mem_maps_hash(void)
{
	uint64_t hash = 0xcbf29ce484222325ULL;
	const char *line;

	if (!text_open("/proc/self/maps"))
		return 0;
	while ((line = text_line()))
		for (; *line; line++)
			hash = (hash ^ (unsigned char)*line) * 0x100000001b3ULL;
	text_close();
	return hash;
}

long mem_smaps(const void *addr, const char *field)
{
	struct map_line map;
	long value = -1;
	char *line;

	if (!find_map("/proc/self/smaps", addr, &map))
		return -1;
	while ((line = text_line())) {
		if (parse_map(line, &map))
			break;
		if (line_value(line, field, &value))
			break;
	}
	text_close();
	return value;
}

bool mem_smaps_flags(const void *addr, char *flags, size_t size)
{
	struct map_line map;
	bool found = false;
	char *line;

	if (!find_map("/proc/self/smaps", addr, &map))
		return false;
	while (!found && (line = text_line()) && !parse_map(line, &map)) {
		found = !strncmp(line, "VmFlags: ", 9);
		if (found)
			snprintf(flags, size, "%s", line + 9);
	}
	text_close();
	return found;
}

bool mem_smaps_flag(const void *addr, const char *two_letters)
{
	char flags[256], *at;

	if (!mem_smaps_flags(addr, flags, sizeof(flags)))
		return false;
	for (at = flags; *at; at += 3)
		if (!strncmp(at, two_letters, 2))
			return true;
	return false;
}

/* Accounting */

static long count_maps(void)
{
	long nr = 0;

	if (!text_open("/proc/self/maps"))
		return -1;
	while (text_line())
		nr++;
	text_close();
	return nr;
}

static long committed(void)
{
	return file_value("/proc/meminfo", "Committed_AS");
}

/*
 * Where in a page the stack starts is chance, and how deep a test has been when it
 * counts for the first time: a page of it touched later would count as left behind.
 * So all that tests use is touched before them.
 */
__attribute__((constructor))
static void touch_stack(void)
{
	volatile char stack[128 * 1024];
	size_t i;

	for (i = 0; i < sizeof(stack); i += MEM_PAGE)
		stack[i] = 0;
}

void mem_counters(struct mem_counters *c)
{
	char *line;

	memset(c, 0, sizeof(*c));
	c->maps = count_maps();
	if (text_open("/proc/self/status")) {
		while ((line = text_line())) {
			line_value(line, "VmSize", &c->vm_size);
			line_value(line, "VmData", &c->vm_data);
			line_value(line, "RssFile", &c->rss_file);
			line_value(line, "RssShmem", &c->rss_shmem);
			line_value(line, "HugetlbPages", &c->hugetlb);
			line_value(line, "VmPTE", &c->pte);
			line_value(line, "VmLck", &c->locked);
		}
		text_close();
	}
	if (text_open("/proc/self/smaps_rollup")) {
		while ((line = text_line())) {
			line_value(line, "Anonymous", &c->rss_anon);
			line_value(line, "Swap", &c->swap);
		}
		text_close();
	}
	c->committed = committed();
}

static bool same(const char *name, long a, long b, long slack)
{
	if (labs(a - b) <= slack)
		return true;
	fprintf(stderr, "# %s was %ld, is %ld\n", name, a, b);
	return false;
}

bool mem_counters_equal(const struct mem_counters *a,
			const struct mem_counters *b)
{
	long now = b->committed;
	bool equal = true;
	int tries;

	equal &= same("VmSize", a->vm_size, b->vm_size, 0);
	equal &= same("VmData", a->vm_data, b->vm_data, 0);
	equal &= same("anonymous pages", a->rss_anon, b->rss_anon, 0);
	/* Our own text, faulted in by and by; a tmpfs counts it as shmem. */
	equal &= same("RssFile", a->rss_file, b->rss_file, 2048);
	equal &= same("RssShmem", a->rss_shmem, b->rss_shmem, 2048);
	equal &= same("HugetlbPages", a->hugetlb, b->hugetlb, 0);
	equal &= same("swap", a->swap, b->swap, 0);
	equal &= same("VmPTE", a->pte, b->pte, 0);
	equal &= same("VmLck", a->locked, b->locked, 0);
	equal &= same("mappings", a->maps, b->maps, 0);

	for (tries = 0; tries < 40 && now != a->committed; tries++) {
		usleep(50000);
		now = committed();
	}
	equal &= same("Committed_AS", a->committed, now, MEM_COMMIT_SLACK);
	return equal;
}

/* Reclaim, swap, nodes */

/*
 * Moving pages starts by emptying the batches of all CPUs. The page offered is
 * one of ours and goes where it is: nothing else happens.
 */
void mem_drain(void)
{
#ifdef SYS_move_pages
	void *page = text.data;
	int node = 0, status;

	syscall(SYS_move_pages, 0, 1, &page, NULL, &status, 0);
	if (status > 0)
		node = status;
	syscall(SYS_move_pages, 0, 1, &page, &node, &status, 1 << 1);
#endif
}

static size_t count_swapped(const char *p, size_t len)
{
	size_t nr = len / MEM_PAGE, count = 0, i, j, n;
	uint64_t e[CHUNK];

	for (i = 0; i < nr; i += n) {
		n = min_size(nr - i, CHUNK);
		if (!mem_pagemap_read(p + i * MEM_PAGE, e, n))
			return 0;
		for (j = 0; j < n; j++)
			count += !!(e[j] & MEM_PM_SWAPPED);
	}
	return count;
}

size_t mem_pageout(void *addr, size_t len)
{
	size_t swapped = 0;
	int tries;

	for (tries = 0; tries < 10; tries++) {
		if (madvise(addr, len, MADV_PAGEOUT))
			return 0;
		swapped = count_swapped(addr, len);
		if (swapped == mem_touched_pages(addr, len))
			break;
		mem_drain();
		usleep(10000);
	}
	return swapped;
}

unsigned int mem_slowness(void)
{
	const char *text = getenv("COWSNAP_SLOWNESS");
	int times = text ? atoi(text) : 1;

	return times > 1 ? times : 1;
}

unsigned int mem_fewer(unsigned int n)
{
	return n < mem_slowness() ? 1 : n / mem_slowness();
}

bool mem_have_swap(void)
{
	bool found;

	if (!text_open("/proc/swaps"))
		return false;
	found = text_line() && text_line();
	text_close();
	return found;
}

int mem_nodes(void)
{
	int nr = 0;
	char *at;

	/* A list of ranges: "0", "0-1", "0,2-3". */
	if (!text_open("/sys/devices/system/node/has_memory"))
		return 1;
	at = text_line();
	while (at && *at >= '0' && *at <= '9') {
		long first = strtol(at, &at, 10), last = first;

		if (*at == '-')
			last = strtol(at + 1, &at, 10);
		nr += last - first + 1;
		if (*at == ',')
			at++;
	}
	text_close();
	return nr ? nr : 1;
}
