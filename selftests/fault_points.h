/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The fault points that the module of the fault-injection build announces, one
 * parameter each: how often it was reached, how often it failed, and, written to,
 * at which of the next times it shall fail.
 */
#ifndef COWSNAP_SELFTESTS_FAULT_POINTS_H
#define COWSNAP_SELFTESTS_FAULT_POINTS_H

#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "mem.h"

#define PARAMETERS	"/sys/module/cowsnap/parameters/"
#define MAX_POINTS	256

struct point {
	char name[120];
	char function[64];
	int reached, failed, armed;
};

static bool read_point(const char *name, struct point *p)
{
	char path[200], text[120] = "";
	bool is_one;
	int fd;

	snprintf(p->name, sizeof(p->name), "%s", name);
	snprintf(path, sizeof(path), PARAMETERS "%s", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	is_one = fd >= 0 && read(fd, text, sizeof(text) - 1) > 0 &&
		 sscanf(text, "%63s %d %d %d", p->function, &p->reached,
			&p->failed, &p->armed) == 4;
	if (fd >= 0)
		close(fd);
	return is_one;
}

/* What the kernel fills in, see getdents64(2). */
struct dirent64_head {
	uint64_t ino, off;
	unsigned short reclen;
	unsigned char type;
	char name[];
};

/*
 * How many there are: the list is of one build, in one order. Not by readdir()
 * and stdio: what malloc() touches would count as ours in a sweep.
 */
static int read_points(struct point *points)
{
	static char buf[16384] __attribute__((aligned(8)));
	int fd = open(PARAMETERS, O_RDONLY | O_DIRECTORY | O_CLOEXEC), nr = 0;
	const struct dirent64_head *d;
	long len, at;

	while (fd >= 0 && (len = syscall(__NR_getdents64, fd, buf, sizeof(buf))) > 0) {
		for (at = 0; at < len && nr < MAX_POINTS; at += d->reclen) {
			d = (const void *)(buf + at);
			nr += !strncmp(d->name, "at:", 3) &&
			      read_point(d->name, &points[nr]);
		}
	}
	if (fd >= 0)
		close(fd);
	return nr;
}

/* An injector for the one point that was chosen. */
static const char *chosen_point;

static bool arm_point(long n)
{
	char path[200], text[24];

	snprintf(path, sizeof(path), PARAMETERS "%s", chosen_point);
	snprintf(text, sizeof(text), "%ld", n);
	return !mem_write(path, text);
}

static long point_left(void)
{
	struct point p;

	return read_point(chosen_point, &p) ? p.armed : -1;
}

/* What depends on who else runs is reached in some calls only. */
#define POINT_TRIES	20

/* Before the steps of a sweep, and all after them. */
static struct point points_before[MAX_POINTS], points_now[MAX_POINTS];

static void note_points(void)
{
	read_points(points_before);
	read_points(points_now);	/* and touch what will be needed */
}

/*
 * Which step is the n-th may be chance, and of many not each is taken: points
 * that have been reached since note_points(), and have never failed, fail in a
 * call of @step, which returns 1 when the point did, 0 when not, -1 when that
 * broke something.
 */
static bool fail_missed_points(int (*step)(void *), void *arg)
{
	const struct point *now = points_now;
	int nr = read_points(points_now), i, tries, ret;

	for (i = 0; i < nr; i++) {
		if (now[i].failed || now[i].reached == points_before[i].reached)
			continue;
		chosen_point = now[i].name;
		for (tries = 0, ret = 0; !ret && tries < POINT_TRIES; tries++)
			ret = step(arg);
		if (ret < 0)
			return false;
	}
	return true;
}

#endif /* COWSNAP_SELFTESTS_FAULT_POINTS_H */
