// SPDX-License-Identifier: GPL-2.0
/* Settings of the kernel for folios of one size, and devices to swap to. */
#include <linux/loop.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/swap.h>
#include <unistd.h>

#include "large.h"

#define THP		"/sys/kernel/mm/transparent_hugepage/"
#define NUMA		"/sys/kernel/debug/sched/numa_balancing/"

static const size_t sizes[] = {
	16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20,
	2 << 20,
};

/* settings, each with what it was */

static struct setting {
	char path[96], was[64];
} settings[24];
static size_t nr_settings;

/* What is set: "[this]" of several words, or all there is. */
static bool read_setting(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : read(fd, text, size - 1);
	char *open_bracket, *close_bracket;

	if (fd >= 0)
		close(fd);
	if (got <= 0)
		return false;
	text[got] = 0;
	text[strcspn(text, "\n")] = 0;
	open_bracket = strchr(text, '[');
	close_bracket = strchr(text, ']');
	if (open_bracket && close_bracket) {
		*close_bracket = 0;
		memmove(text, open_bracket + 1, close_bracket - open_bracket);
	}
	return true;
}

static bool set(const char *path, const char *value)
{
	struct setting *s = &settings[nr_settings];

	if (!read_setting(path, s->was, sizeof(s->was)) ||
	    mem_write(path, value))
		return false;
	snprintf(s->path, sizeof(s->path), "%s", path);
	nr_settings++;
	return true;
}

void large_env_restore(void)
{
	while (nr_settings) {
		nr_settings--;
		mem_write(settings[nr_settings].path, settings[nr_settings].was);
	}
}

static const char *size_path(size_t size)
{
	static char path[96];

	snprintf(path, sizeof(path), THP "hugepages-%zukB/enabled", size >> 10);
	return path;
}

/* Kernels before 6.8 have but one size, and no switch for each. */
bool large_offered(size_t size)
{
	return !access(size_path(size), W_OK) ||
	       (size == MEM_HUGE && !access(THP "enabled", W_OK));
}

size_t large_nr_sizes(void)
{
	size_t i, nr = 0;

	for (i = 0; i < sizeof(sizes) / sizeof(*sizes); i++)
		nr += large_offered(sizes[i]);
	return nr ? nr : 1;
}

static bool set_size(size_t size)
{
	size_t i;

	if (!set(THP "enabled", "madvise"))
		return false;
	for (i = 0; i < sizeof(sizes) / sizeof(*sizes); i++)
		if (!access(size_path(sizes[i]), W_OK) &&
		    !set(size_path(sizes[i]),
			 sizes[i] == size ? "madvise" : "never"))
			return false;
	/* Collapse is a step; nobody else shall do it. */
	set(THP "khugepaged/scan_sleep_millisecs", "100000000");
	return true;
}

/* A look at all of a small process every few milliseconds. */
static bool set_hints(void)
{
	return set("/proc/sys/kernel/numa_balancing", "1") &&
	       set(NUMA "scan_size_mb", "16") &&
	       set(NUMA "scan_delay_ms", "1") &&
	       set(NUMA "scan_period_min_ms", "1") &&
	       set(NUMA "scan_period_max_ms", "10");
}

/* Newer kernels leave that to debuggers (CONFIG_PROC_MEM_FORCE_PTRACE). */
static bool can_force(void)
{
	int fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	char *p = mem_map(MEM_PAGE);
	bool can;

	can = fd >= 0 && p && !mprotect(p, MEM_PAGE, PROT_READ) &&
	      pwrite(fd, "", 1, (uintptr_t)p) == 1;
	if (p)
		munmap(p, MEM_PAGE);
	if (fd >= 0)
		close(fd);
	return can;
}

bool large_env_set(struct large_env *env, size_t size)
{
	env->force = can_force();
	env->size = size;
	env->nodes = mem_nodes();
	if (!set_size(size))
		return false;
	env->hints = env->nodes > 1 && set_hints();
	return true;
}

/* swap */

#define SWAP_BYTES	(64UL << 20)

static struct {
	enum large_swap kind;
	char path[32];
	int fd;			/* keeps the device or what is behind it */
	int number;
} swap = { .fd = -1 };

const char *large_swap_name(enum large_swap kind)
{
	static const char * const names[] = { "what is given", "zram", "loop" };

	return names[kind];
}

/* What mkswap does. */
static bool make_swap(const char *path, size_t bytes)
{
	struct {
		char boot[1024];
		uint32_t version, last_page, nr_badpages;
		char rest[MEM_PAGE - 1024 - 3 * 4 - 10];
		char magic[10];
	} __attribute__((packed)) header = {
		.version = 1, .last_page = bytes / MEM_PAGE - 1,
	};
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	ssize_t put;

	memcpy(header.magic, "SWAPSPACE2", sizeof(header.magic));
	if (fd < 0)
		return false;
	put = write(fd, &header, sizeof(header));
	/* swapon reads past the cache of the device. */
	return !fsync(fd) + !close(fd) == 2 && put == sizeof(header);
}

/* A device of our own, beside those that may be in use. */
static bool zram_make(void)
{
	char path[64], size[24];

	if (access("/sys/class/zram-control/hot_add", R_OK) &&
	    system("modprobe zram 2>/dev/null"))
		return false;
	swap.number = mem_read_long("/sys/class/zram-control/hot_add");
	if (swap.number < 0)
		return false;
	snprintf(path, sizeof(path), "/sys/block/zram%d/disksize", swap.number);
	snprintf(size, sizeof(size), "%lu", SWAP_BYTES);
	snprintf(swap.path, sizeof(swap.path), "/dev/zram%d", swap.number);
	return !mem_write(path, size);
}

static void zram_remove(void)
{
	char number[16];

	snprintf(number, sizeof(number), "%d", swap.number);
	mem_write("/sys/class/zram-control/hot_remove", number);
}

/*
 * On a file in memory, which is locked, lest reclaim swaps it out to itself.
 * Neither fast nor synchronous: pages go through the swap cache.
 */
static bool loop_make(void)
{
	struct loop_config config = { .block_size = MEM_PAGE };
	int control, device, file;
	void *p;

	if (access("/dev/loop-control", R_OK) &&
	    system("modprobe loop 2>/dev/null"))
		return false;
	control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	swap.number = control < 0 ? -1 : ioctl(control, LOOP_CTL_GET_FREE);
	if (control >= 0)
		close(control);
	if (swap.number < 0)
		return false;
	snprintf(swap.path, sizeof(swap.path), "/dev/loop%d", swap.number);
	file = memfd_create("cowsnap-swap", MFD_CLOEXEC);
	if (file < 0 || ftruncate(file, SWAP_BYTES))
		return false;
	config.fd = file;
	p = mmap(NULL, SWAP_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	device = open(swap.path, O_RDWR | O_CLOEXEC);
	if (p == MAP_FAILED || mlock(p, SWAP_BYTES) || device < 0)
		return false;
	swap.fd = device;
	return !ioctl(device, LOOP_CONFIGURE, &config);
}

static void loop_remove(void)
{
	ioctl(swap.fd, LOOP_CLR_FD);
	close(swap.fd);
	swap.fd = -1;
}

bool large_swap_on(struct large_env *env, enum large_swap kind)
{
	bool made = kind == SWAP_GIVEN ||
		    ((kind == SWAP_ZRAM ? zram_make() : loop_make()) &&
		     make_swap(swap.path, SWAP_BYTES) &&
		     !swapon(swap.path, SWAP_FLAG_PREFER | 1000));

	swap.kind = made ? kind : SWAP_GIVEN;
	env->have_swap = mem_have_swap();
	return made;
}

bool large_swap_off(void)
{
	bool good = swap.kind == SWAP_GIVEN || !swapoff(swap.path);

	if (swap.kind == SWAP_ZRAM)
		zram_remove();
	else if (swap.kind == SWAP_LOOP)
		loop_remove();
	swap.kind = SWAP_GIVEN;
	return good;
}
