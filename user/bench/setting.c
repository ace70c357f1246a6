// SPDX-License-Identifier: GPL-2.0
/*
 * Settings of the machine that a run needs otherwise than they are. What was
 * there before comes back when they are not needed any more, and at the latest
 * when the program ends, also by die() or after Ctrl-C.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"

struct setting {
	char path[128];
	char before[32];
};

static struct setting settings[16];
static unsigned int nr_settings;
static pid_t owner;

static bool write_file(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	ssize_t len = strlen(value), n = -1;
	int err;

	if (fd >= 0) {
		n = write(fd, value, len);
		err = errno;
		close(fd);
		errno = err;
	}
	return n == len;
}

bool setting_read(const char *path, char *buf, size_t n)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t len = fd < 0 ? -1 : read(fd, buf, n - 1);

	if (fd >= 0)
		close(fd);
	buf[len > 0 ? len : 0] = 0;
	buf[strcspn(buf, "\n")] = 0;
	return len > 0;
}

bool setting_poke(const char *path, const char *value)
{
	return write_file(path, value);
}

static struct setting *find(const char *path)
{
	unsigned int i;

	for (i = 0; i < nr_settings; i++)
		if (!strcmp(settings[i].path, path))
			return &settings[i];
	return NULL;
}

void setting_restore(const char *path)
{
	struct setting *s = find(path);

	if (!s || getpid() != owner)
		return;
	write_file(s->path, s->before);
	*s = settings[--nr_settings];
}

/* A child that holds a snapshot has the table as well, but set nothing. */
static void restore_all(void)
{
	while (nr_settings && getpid() == owner)
		setting_restore(settings[nr_settings - 1].path);
}

static bool remember(const char *path)
{
	struct setting *s = &settings[nr_settings];

	if (find(path))
		return true;
	if (nr_settings == ARRAY_SIZE(settings) ||
	    !setting_read(path, s->before, sizeof(s->before)))
		return false;
	snprintf(s->path, sizeof(s->path), "%s", path);
	if (!owner)
		atexit(restore_all);
	owner = getpid();
	nr_settings++;
	return true;
}

const char *setting_set(const char *path, const char *value)
{
	if (!remember(path))
		return sentence("there is no %s", path);
	if (write_file(path, value))
		return NULL;
	return sentence("%s: cannot be set to %s: %s", path, value, strerror(errno));
}
