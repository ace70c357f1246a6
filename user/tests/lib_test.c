// SPDX-License-Identifier: GPL-2.0
/*
 * What libcowsnap promises without the module: a sentence for every reason,
 * sentences for a device that is absent or is something else, and outputs that
 * never show an older failure. Prints TAP.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cowsnap.h"

/* Every enumerator of <linux/cowsnap.h>; made by the Makefile. */
static const struct {
	unsigned int value;
	const char *name;
} reasons[] = {
#include "reasons.h"
};

static int nr, failures;

static void ok(int good, const char *what, const char *detail)
{
	printf("%sok %d - %s%s%s\n", good ? "" : "not ", ++nr, what,
	       detail ? " " : "", detail ? detail : "");
	failures += !good;
}

static void each_reason_has_its_own_sentence(void)
{
	const char *unknown = cowsnap_reason(~0u);
	size_t i, j;

	for (i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++) {
		const char *s = cowsnap_reason(reasons[i].value);
		int good = s && *s && s != unknown && s[strlen(s) - 1] != '.';

		for (j = 0; good && j < i; j++)
			good = strcmp(s, cowsnap_reason(reasons[j].value));
		ok(good, "reason has its own sentence:", reasons[i].name);
	}
	ok(unknown && *unknown, "an unknown reason has a sentence", NULL);
}

static void each_sentence_fits(void)
{
	struct cowsnap_remap r = { .fault_addr = ~0ull };
	char buf[256];
	size_t i;
	int longest = 0;

	for (i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++) {
		int len;

		r.reason = reasons[i].value;
		len = cowsnap_strerror(&r, EOPNOTSUPP, buf, sizeof(buf));
		longest = len > longest ? len : longest;
	}
	ok(longest < (int)sizeof(buf), "256 bytes hold every sentence", NULL);
}

static void sentence_names_the_address(void)
{
	struct cowsnap_remap r = {
		.reason = COWSNAP_REASON_SHARED,
		.fault_addr = 0x7f1234567000,
	};
	char buf[256], tiny[8];
	int len = cowsnap_strerror(&r, EOPNOTSUPP, buf, sizeof(buf));

	ok(!strcmp(buf, "0x7f1234567000: MAP_SHARED memory cannot be duplicated; use a private mapping"),
	   "the sentence begins with the address:", buf);
	ok(cowsnap_strerror(&r, EOPNOTSUPP, tiny, sizeof(tiny)) == len &&
	   !memcmp(tiny, buf, 7) && !tiny[7], "a short buffer is terminated", NULL);

	r.reason = COWSNAP_REASON_HOLE;
	r.fault_addr = 0;
	cowsnap_strerror(&r, ENOMEM, buf, sizeof(buf));
	ok(!strncmp(buf, "0x0: ", 5), "a hole at address 0 has an address", NULL);

	r.reason = COWSNAP_REASON_EMPTY;
	cowsnap_strerror(&r, EINVAL, buf, sizeof(buf));
	ok(strncmp(buf, "0x", 2), "a bad request has none", NULL);
}

static void open_failures_say_what_to_do(void)
{
	char buf[256];

	cowsnap_strerror(NULL, ENOENT, buf, sizeof(buf));
	ok(!!strstr(buf, "load the module"), "ENOENT:", buf);
	cowsnap_strerror(NULL, EACCES, buf, sizeof(buf));
	ok(!!strstr(buf, "group cowsnap"), "EACCES:", buf);
	cowsnap_strerror(NULL, EIO, buf, sizeof(buf));
	ok(!!strstr(buf, strerror(EIO)), "any other errno:", buf);
}

static void wrong_descriptor_is_reported(void)
{
	struct cowsnap_remap r = {
		.reason = COWSNAP_REASON_POISON,
		.fault_addr = 1,
	};
	struct cowsnap_query q;
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	ok(!*cowsnap_error(), "no error before a call has failed", NULL);

	errno = 0;
	ok(cowsnap_remap(-1, &r) == -1 && errno == EBADF,
	   "a closed descriptor is EBADF:", cowsnap_error());
	ok(!r.reason && !r.fault_addr, "and shows no older reason", NULL);

	errno = 0;
	ok(cowsnap_query(fd, &q) == -1 && errno == ENOTTY,
	   "another device is ENOTTY:", cowsnap_error());
	errno = 0;
	ok(cowsnap_snapshot(fd, &q, 4096) == MAP_FAILED && errno == ENOTTY,
	   "a snapshot through it is MAP_FAILED", NULL);
	close(fd);
}

int main(void)
{
	wrong_descriptor_is_reported();
	each_reason_has_its_own_sentence();
	each_sentence_fits();
	sentence_names_the_address();
	open_failures_say_what_to_do();

	printf("1..%d\n", nr);
	return failures != 0;
}
