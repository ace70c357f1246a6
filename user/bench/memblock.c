// SPDX-License-Identifier: GPL-2.0
/*
 * Memory blocks that are taken offline and put back: it moves all pages of the
 * block, and before it looks at any, it empties the allocator's per-CPU lists of
 * the zone, on all CPUs, which nothing else that a program may ask for does.
 */
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

#define PATIENCE_S	2
#define BLOCKS	"/sys/devices/system/memory"

static int drain_block = -1;

static void block_state(int nr, char path[128])
{
	snprintf(path, 128, BLOCKS "/memory%d/state", nr);
}

static void on_patience_over(int sig)
{
	(void)sig;	/* ends the call that it comes in, no more */
}

/*
 * The kernel tries to move a page that is in use again and again, for ever, but
 * gives up when a signal comes. To this thread: others have calls of their own.
 */
static bool start_patience(timer_t *timer)
{
	struct sigaction sa = { .sa_handler = on_patience_over };	/* no SA_RESTART */
	struct sigevent ev = {
		.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGALRM,
		._sigev_un._tid = gettid(),
	};
	/* And again: the first might come before the call. */
	const struct itimerspec when = {
		.it_value.tv_sec = PATIENCE_S, .it_interval.tv_sec = 1,
	};

	sigaction(SIGALRM, &sa, NULL);
	return !timer_create(CLOCK_MONOTONIC, &ev, timer) &&
	       !timer_settime(*timer, 0, &when, NULL);
}

/* 0, or an errno. */
static int take_offline(int nr)
{
	char path[128];
	timer_t timer;
	int err = 0;

	block_state(nr, path);
	if (!start_patience(&timer))
		return errno;
	errno = 0;
	if (setting_set(path, "offline"))
		err = errno ? errno : ENOENT;
	timer_delete(timer);
	return err;
}

static void put_back(int nr)
{
	char path[128];

	block_state(nr, path);
	setting_restore(path);
}

const char *memblock_missing(bool system)
{
	char size[32];

	if (geteuid())
		return "taking memory offline needs root";
	if (!system)
		return "would take memory of this machine offline; give --allow-system";
	if (!setting_read(BLOCKS "/block_size_bytes", size, sizeof(size)))
		return "this kernel cannot take memory offline";
	return NULL;
}

/* The last block of a node is in its highest zone, where most memory comes from. */
static int last_block_of(int node, int below)
{
	char path[64];
	struct dirent *e;
	int nr, last = -1;
	DIR *d;

	snprintf(path, sizeof(path), "/sys/devices/system/node/node%d", node);
	d = opendir(path);
	while (d && (e = readdir(d)))
		if (sscanf(e->d_name, "memory%d", &nr) == 1 && nr > last && nr < below)
			last = nr;
	if (d)
		closedir(d);
	return last;
}

/*
 * EBUSY and EINTR are as good as success: something there cannot move, which is found
 * out when the lists have been emptied. EINVAL (a hole, two zones) comes before.
 */
const char *memblock_choose(int node)
{
	int nr = last_block_of(node, INT32_MAX), tries = 6, err;

	for (; nr >= 0 && tries--; nr = last_block_of(node, nr)) {
		err = take_offline(nr);
		put_back(nr);
		drain_block = nr;
		if (!err || err == EBUSY || err == EINTR)
			return NULL;
	}
	return sentence("no memory block of node %d can be taken offline", node);
}

void memblock_drain(void)
{
	take_offline(drain_block);
	put_back(drain_block);
}

const char *memblock_cycle(uint64_t frame)
{
	char size[32];
	uint64_t bytes;
	int nr, err;

	if (!setting_read(BLOCKS "/block_size_bytes", size, sizeof(size)))
		return "this kernel cannot take memory offline";
	bytes = strtoull(size, NULL, 16);
	nr = bytes ? frame * page_size / bytes : 0;
	err = take_offline(nr);
	put_back(nr);
	return err ? sentence("memory%d does not go offline: %s", nr, strerror(err)) : NULL;
}
