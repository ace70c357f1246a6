// SPDX-License-Identifier: GPL-2.0
/*
 * The files that results go to. They are written anew as results come, so that a
 * run that is interrupted, or ended by something worse, has written what it
 * measured; and once more at the end.
 */
#include <errno.h>
#include <string.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench.h"
#include "results.h"

/* A run may have hundreds of groups; emulated, writing them all takes a while. */
#define SAVE_EACH_NS	(5 * 1000000000ull)

struct result_file {
	const char *name;
	FILE *f;
	bool again;	/* a regular file, that can be written more than once */
	void (*write)(const struct report *rep, FILE *f);
};

static struct result_file files[] = {
	{ .write = output_json },
	{ .write = output_csv },
};
static struct report *report;
static uint64_t saved_ns;
static pid_t owner;
static bool write_failed;

/* Opened before measuring, so that a bad name does not cost a run. */
static void open_file(struct result_file *r, const char *name)
{
	struct stat st;

	r->name = name;
	if (!name)
		return;
	if (!strcmp(name, "-")) {
		report->out = stderr;
		r->f = stdout;
		return;
	}
	r->f = fopen(name, "we");
	if (!r->f)
		die("%s: cannot write: %s", name, strerror(errno));
	r->again = !fstat(fileno(r->f), &st) && S_ISREG(st.st_mode);
}

/* Not once more when the program ends by it. */
static void __attribute__((noreturn)) fail(const struct result_file *r)
{
	write_failed = true;
	die("%s: cannot write: %s", r->name, strerror(errno));
}

/* Made in memory first: being killed meanwhile shall not cost what was there. */
static void write_anew(struct result_file *r)
{
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);
	int fd = fileno(r->f);

	if (!f)
		die("out of memory for results");
	r->write(report, f);
	fclose(f);
	/* What it had before may have been longer. */
	if (pwrite(fd, text, len, 0) != (ssize_t)len || ftruncate(fd, len))
		fail(r);
	free(text);
}

static void write_file(struct result_file *r, bool last)
{
	if (r->f && r->again)
		write_anew(r);
	else if (r->f && last)
		r->write(report, r->f);
}

static void save(void)
{
	size_t i;

	if (saved_ns && now_ns() - saved_ns < SAVE_EACH_NS)
		return;
	report->interrupted = true;	/* as it would be, if this is the last time */
	for (i = 0; i < ARRAY_SIZE(files); i++)
		write_file(&files[i], /* last= */false);
	report->interrupted = false;
	saved_ns = now_ns();
}

/* die() ends the program as well: not in a child, and not after results_close(). */
static void save_at_exit(void)
{
	size_t i;

	if (!report || getpid() != owner)
		return;
	report->interrupted = true;
	for (i = 0; i < ARRAY_SIZE(files); i++)
		if (!write_failed)
			write_file(&files[i], /* last= */true);
}

void results_open(struct report *rep, const char *json, const char *csv)
{
	report = rep;
	owner = getpid();
	open_file(&files[0], json);
	open_file(&files[1], csv);
	if (files[0].f == stdout && files[1].f == stdout)
		die("--json - and --csv -: only one of them can have stdout");
	rep->save = save;
	atexit(save_at_exit);
}

void results_close(void)
{
	struct report *rep = report;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(files); i++)
		write_file(&files[i], /* last= */true);
	report = NULL;
	for (i = 0; i < ARRAY_SIZE(files); i++)
		if (files[i].f && (fflush(files[i].f) || ferror(files[i].f)))
			fail(&files[i]);
	rep->save = NULL;
}
