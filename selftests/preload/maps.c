// SPDX-License-Identifier: GPL-2.0
/* Which of the program's mappings are next, and which are better left alone. */
#include <sys/resource.h>
#include <unistd.h>

#include "preload.h"

struct line {
	unsigned long start, end, inode;
	unsigned long anon;	/* kB of anonymous pages */
	bool private, writable;
	bool huge;		/* MADV_HUGEPAGE */
};

static const char *parse_number(const char *at, int base, unsigned long *value)
{
	for (*value = 0;; at++) {
		int digit = *at >= 'a' ? *at - 'a' + 10 : *at - '0';

		if (digit < 0 || digit >= base)
			return at;
		*value = *value * base + digit;
	}
}

static const char *skip_word(const char *at)
{
	while (*at != ' ')
		at++;
	return at + 1;
}

/* 7f0000000000-7f0000001000 rw-p 00000000 00:00 0    [stack] */
static void parse_line(const char *at, struct line *line)
{
	at = parse_number(at, 16, &line->start) + 1;
	at = parse_number(at, 16, &line->end) + 1;
	line->writable = at[1] == 'w';
	line->private = at[3] == 'p';
	line->huge = false;
	line->anon = 0;
	at = skip_word(skip_word(skip_word(at)));
	parse_number(at, 10, &line->inode);
}

/*
 * A sample of all lines, each as likely as another, since a program may have
 * more mappings than we have time for.
 */
static void consider(struct preload *p, const struct line *line, unsigned int *seen)
{
	unsigned int place = (*seen)++;

	if (place >= MAX_TARGETS)
		place = random_below(p, *seen);
	else
		p->nr_targets++;
	if (place < MAX_TARGETS) {
		p->target[place].start = line->start;
		p->target[place].end = line->end;
		p->target[place].file = line->inode;
	}
	if (line->writable && !line->inode && line->anon > p->most_anon) {
		p->most_anon = line->anon;
		p->busiest.start = line->start;
		p->busiest.end = line->end;
	}
}

/*
 * vsyscall is no memory of the process; our own arena is left out. What is
 * refused anyway, and what nobody writes, we try now and then.
 */
static bool wanted(struct preload *p, const struct line *line)
{
	if (!line->private || line->start >= 1UL << 56)
		return false;
	if (line->start < p->arena_end && p->arena < line->end)
		return false;
	if (line->huge && !p->huge_whole)
		return false;
	if (line->inode && !(p->kinds & COWSNAP_KIND_FILE))
		return !random_below(p, 32);
	return line->writable || !random_below(p, 4);
}

/* VmFlags: rd wr mr mw me ac hg */
static bool flags_have(const char *at, const char *end, const char *flag)
{
	for (; at + 2 < end; at++)
		if (at[0] == ' ' && at[1] == flag[0] && at[2] == flag[1])
			return true;
	return false;
}

/* Text of smaps: of a mapping a line as in maps, then lines that have a name. */
struct reader {
	struct preload *p;
	struct line line;
	unsigned long nr;
	unsigned int seen;
	bool pending;		/* has the mapping been read, but not considered? */
};

static void end_mapping(struct reader *r)
{
	if (r->pending && wanted(r->p, &r->line))
		consider(r->p, &r->line, &r->seen);
	r->pending = false;
}

static bool starts_with(const char *at, const char *end, const char *name)
{
	while (*name && at < end && *at == *name)
		at++, name++;
	return !*name;
}

static void read_line(struct reader *r, const char *at, const char *end)
{
	static const char anonymous[] = "Anonymous:";

	if (*at < 'A' || *at > 'Z') {
		end_mapping(r);
		parse_line(at, &r->line);
		r->pending = true;
		r->nr++;
	} else if (starts_with(at, end, "VmFlags:")) {
		r->line.huge = flags_have(at, end, "hg");
	} else if (starts_with(at, end, anonymous)) {
		for (at += sizeof(anonymous) - 1; at < end && *at == ' '; at++)
			;
		parse_number(at, 10, &r->line.anon);
	}
}

/* Of all mappings; a long name may be cut off. */
static unsigned long read_mappings(struct preload *p)
{
	struct reader r = { .p = p };
	unsigned long fill = 0, i, begin;
	long len;

	sys(lseek, p->smaps, 0, SEEK_SET);
	while ((len = sys(read, p->smaps, p->text + fill, sizeof(p->text) - fill)) > 0) {
		fill += len;
		for (begin = i = 0; i < fill; i++) {
			if (p->text[i] != '\n')
				continue;
			read_line(&r, p->text + begin, p->text + i);
			begin = i + 1;
		}
		fill -= begin;
		for (i = 0; i < fill; i++)
			p->text[i] = p->text[begin + i];
	}
	end_mapping(&r);
	return r.nr;
}

unsigned int pick_targets(struct preload *p)
{
	p->nr_targets = 0;
	p->busiest = (struct target){};
	p->most_anon = 0;
	advice_look(p);
	/* The program's share of the limit stays untouched. */
	if (read_mappings(p) > p->max_maps / 2) {
		count(&p->counts->skipped, 1);
		return 0;
	}
	return p->nr_targets;
}
