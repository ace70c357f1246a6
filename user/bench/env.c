// SPDX-License-Identifier: GPL-2.0
/* The environment that every result carries. */
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include <cowsnap.h>

#include "bench.h"

struct env env;
size_t page_size;

/* The first line of a file; empty when there is none. */
static void read_line(const char *path, char *buf, size_t n)
{
	FILE *f = fopen(path, "re");

	buf[0] = 0;
	if (!f)
		return;
	if (!fgets(buf, n, f))
		buf[0] = 0;
	buf[strcspn(buf, "\n")] = 0;
	fclose(f);
}

/* "always [madvise] never" to "madvise". */
static void read_choice(const char *path, char *buf, size_t n)
{
	char line[128], *open, *close;

	read_line(path, line, sizeof(line));
	open = strchr(line, '[');
	close = open ? strchr(open, ']') : NULL;
	if (close)
		*close = 0;
	snprintf(buf, n, "%.*s", (int)n - 1,
		 open ? open + 1 : line[0] ? line : "not available");
}

/* Model name, and whether the CPU says that it is a virtual one. */
static bool read_cpu(void)
{
	FILE *f = fopen("/proc/cpuinfo", "re");
	bool hypervisor = false;
	char line[8192];

	while (f && fgets(line, sizeof(line), f)) {
		char *value = strchr(line, ':');

		if (!value)
			continue;
		value += strspn(value, ": \t");
		value[strcspn(value, "\n")] = 0;
		if (!strncmp(line, "model name", 10) && !env.cpu[0])
			snprintf(env.cpu, sizeof(env.cpu), "%.*s",
				 (int)sizeof(env.cpu) - 1, value);
		if (!strncmp(line, "flags", 5) && strstr(value, " hypervisor"))
			hypervisor = true;
	}
	if (f)
		fclose(f);
	if (!env.cpu[0])
		strcpy(env.cpu, "unknown");
	return hypervisor;
}

/* Whoever starts the virtual machine knows best; else what the CPU says. */
static void find_accelerator(bool hypervisor)
{
	const char *given = getenv("COWSNAP_ACCEL");

	env.guest = given && *given;
	env.icount = given && !strcmp(given, "icount");
	env.emulated = env.icount || (given && !strcmp(given, "tcg")) ||
		       strstr(env.cpu, "TCG");
	if (env.icount)
		strcpy(env.accel, "icount (emulated, 1 ns = 1 instruction)");
	else if (env.emulated)
		strcpy(env.accel, "tcg (emulated)");
	else if (given && *given)
		snprintf(env.accel, sizeof(env.accel), "%s", given);
	else
		strcpy(env.accel, hypervisor ? "virtual machine" : "bare metal");
}

static void ask_module(void)
{
	struct cowsnap_query q;
	int fd = cowsnap_open();

	if (fd < 0 || cowsnap_query(fd, &q)) {
		snprintf(env.module, sizeof(env.module), "none: %s", cowsnap_error());
	} else {
		env.abi = q.abi;
		snprintf(env.module, sizeof(env.module),
			 "ABI %u, kinds 0x%x, huge pages shared %s", q.abi, q.kinds,
			 q.huge_whole ? "whole" : "split");
	}
	if (fd >= 0)
		close(fd);
}

static void describe_topology(void)
{
	size_t at = 0;
	unsigned int i, cpu;

	at += snprintf(env.topology, sizeof(env.topology), "%u node%s, %u CPU%s",
		       place_nodes(), place_nodes() == 1 ? "" : "s",
		       place_cpus(), place_cpus() == 1 ? "" : "s");
	for (i = 0; i < place_nodes() && i < 8 && at < sizeof(env.topology) - 16; i++) {
		int node = place_node(i);

		for (cpu = 0; place_cpu_on(node, 0) >= 0; cpu++)
			if (cpu && place_cpu_on(node, cpu) == place_cpu_on(node, 0))
				break;
		at += snprintf(env.topology + at, sizeof(env.topology) - at,
			       "%s node %d: %u", i ? "," : " (CPUs on", node, cpu);
	}
	if (at < sizeof(env.topology) - 1)
		strcat(env.topology, ")");
}

/* Latencies contain one reading of the clock; say what that costs. */
static void measure_clock(void)
{
	struct series s = { 0 };
	int i;

	read_line("/sys/devices/system/clocksource/clocksource0/current_clocksource",
		  env.clock, sizeof(env.clock));
	for (i = 0; i < 101; i++) {
		uint64_t start = now_ns();
		int k;

		for (k = 0; k < 10; k++)
			now_ns();
		series_add(&s, (now_ns() - start) / 11.0);
	}
	env.clock_ns = series_summary(&s).median;
	series_free(&s);
}

static char *join(int argc, char **argv)
{
	size_t len = 1;
	char *s;
	int i;

	for (i = 0; i < argc; i++)
		len += strlen(argv[i]) + 1;
	s = calloc(1, len);
	for (i = 0; s && i < argc; i++) {
		strcat(s, argv[i]);
		if (i + 1 < argc)
			strcat(s, " ");
	}
	return s;
}

void env_init(int argc, char **argv)
{
	time_t now = time(NULL);
	char balancing[8];
	struct utsname u;

	strftime(env.time, sizeof(env.time), "%Y-%m-%dT%H:%M:%SZ", gmtime(&now));
	uname(&u);
	snprintf(env.kernel, sizeof(env.kernel), "%.60s %.30s", u.release, u.machine);
	find_accelerator(read_cpu());
	ask_module();
	describe_topology();
	read_choice("/sys/kernel/mm/transparent_hugepage/enabled", env.thp,
		    sizeof(env.thp));
	read_line("/proc/sys/kernel/numa_balancing", balancing, sizeof(balancing));
	strcpy(env.balancing, !balancing[0] ? "not available" :
	       balancing[0] == '0' ? "off" : "on");
	measure_clock();
	env.memory = (size_t)sysconf(_SC_PHYS_PAGES) * page_size;
	env.command = join(argc, argv);
}
