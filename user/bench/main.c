// SPDX-License-Identifier: GPL-2.0
/* cowsnap-bench: options, and what is run with them. */
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"
#include "results.h"

enum {
	OPT_METHODS = 256, OPT_SIZE, OPT_PAGE, OPT_REPEAT, OPT_WARMUP, OPT_WRITERS,
	OPT_CHECKPOINTERS, OPT_COPIERS, OPT_PATTERN, OPT_NODES, OPT_ALLOW_SYSTEM,
	OPT_JSON, OPT_CSV, OPT_LIST, OPT_HELP, OPT_VERSION,
};

static const struct option long_options[] = {
	{ "methods", required_argument, NULL, OPT_METHODS },
	{ "size", required_argument, NULL, OPT_SIZE },
	{ "page", required_argument, NULL, OPT_PAGE },
	{ "repeat", required_argument, NULL, OPT_REPEAT },
	{ "warmup", required_argument, NULL, OPT_WARMUP },
	{ "writers", required_argument, NULL, OPT_WRITERS },
	{ "checkpointers", required_argument, NULL, OPT_CHECKPOINTERS },
	{ "copiers", required_argument, NULL, OPT_COPIERS },
	{ "pattern", required_argument, NULL, OPT_PATTERN },
	{ "nodes", required_argument, NULL, OPT_NODES },
	{ "allow-system", no_argument, NULL, OPT_ALLOW_SYSTEM },
	{ "json", required_argument, NULL, OPT_JSON },
	{ "csv", required_argument, NULL, OPT_CSV },
	{ "list", no_argument, NULL, OPT_LIST },
	{ "help", no_argument, NULL, OPT_HELP },
	{ "version", no_argument, NULL, OPT_VERSION },
	{ NULL, 0, NULL, 0 },
};

static const char help[] =
"usage: cowsnap-bench [OPTION]... [WORKLOAD]...\n"
"       cowsnap-bench report DIR\n"
"Compares ways to make a snapshot of memory. Without a WORKLOAD: all of them, at\n"
"sizes that end within minutes even in an emulated machine.\n"
"report makes pictures and one page, DIR/report.html, of the results in DIR/*.json.\n"
"\n"
"  --methods LIST      of the methods below; default all that are available\n"
"  --size LIST         bytes with K, M or G, for instance 1M,256M,1G; or any:\n"
"                      from 1M on as memory allows\n"
"  --page LIST         4k, thp, hugetlb\n"
"  --repeat N          samples of each figure; default depends on the size\n"
"  --warmup N          turns that are not counted; default 1\n"
"  --writers N         touch, checkpoint: threads that write\n"
"  --checkpointers N   checkpoint: threads that copy the snapshot out\n"
"  --copiers N         threads that copy for method memcpy; default 1\n"
"  --pattern NAME      checkpoint: strided, contiguous or both\n"
"  --nodes LIST        numa: source:reader:writer, for instance 0:1:0,1:1:0;\n"
"                      default all combinations\n"
"  --allow-system      numa, migrate, pcp: may change settings of this machine (KSM,\n"
"                      NUMA balancing), compact its memory and take blocks of it\n"
"                      offline for a moment; in the guests of make bench they may\n"
"  --json FILE         write every figure and the environment; - is stdout\n"
"  --csv FILE          the same as CSV; the table goes to stderr when one is -\n"
"  --list              print the names of workloads and methods\n"
"  --help, --version\n";

static void print_tables(FILE *f)
{
	unsigned int i;

	fputs("workloads:\n", f);
	for (i = 0; i < nr_workloads; i++)
		fprintf(f, "  %-15s %s\n", workloads[i]->name, workloads[i]->help);
	fputs("methods:\n", f);
	for (i = 0; i < nr_methods; i++)
		fprintf(f, "  %-15s %s\n", methods[i]->name, methods[i]->help);
}

/* The next of a comma-separated list, or NULL; cuts it off. */
static char *next_item(char **list, const char *option)
{
	char *item = strsep(list, ",");

	if (item && !*item)
		die("--%s: an item of the list is empty; see --help", option);
	return item;
}

static unsigned int parse_number(const char *s, const char *option, unsigned int min,
				 unsigned int max)
{
	char *end;
	long v = strtol(s, &end, 10);

	if (!*s || *end || v < (long)min || v > (long)max)
		die("--%s %s: must be a number from %u to %u", option, s, min, max);
	return v;
}

static size_t parse_size(const char *s)
{
	char *end;
	unsigned long long v = strtoull(s, &end, 10);
	unsigned int shift = 0;

	switch (*end) {
	case 'G': case 'g': shift = 30; break;
	case 'M': case 'm': shift = 20; break;
	case 'K': case 'k': shift = 10; break;
	}
	end += shift ? 1 : 0;
	if (*s < '0' || *s > '9' || *end || !v || v > (1ull << 46 >> shift))
		die("--size %s: must be a number of bytes, with K, M or G, or any", s);
	if ((v << shift) % page_size)
		die("--size %s: must be a multiple of the page size, %zu", s, page_size);
	return v << shift;
}

static void parse_sizes(struct bench *b, char *list)
{
	char *s;

	b->any_size = !strcmp(list, "any");
	b->nr_sizes = 0;
	while (!b->any_size && (s = next_item(&list, "size"))) {
		if (b->nr_sizes == ARRAY_SIZE(b->sizes))
			die("--size: at most %zu sizes", ARRAY_SIZE(b->sizes));
		b->sizes[b->nr_sizes++] = parse_size(s);
	}
}

static void parse_pages(struct bench *b, char *list)
{
	unsigned int i;
	char *s;

	b->nr_pages = 0;
	while ((s = next_item(&list, "page"))) {
		for (i = 0; i < NR_PAGE_KINDS && strcmp(s, page_names[i]); i++)
			;
		if (i == NR_PAGE_KINDS)
			die("--page %s: unknown; choose from 4k, thp, hugetlb", s);
		if (b->nr_pages == NR_PAGE_KINDS)
			die("--page: at most %u kinds", NR_PAGE_KINDS);
		b->pages[b->nr_pages++] = i;
	}
}

static void parse_methods(struct bench *b, char *list)
{
	const struct method *m;
	const char *why;
	unsigned int i;
	char *s;

	b->nr_methods = 0;
	b->methods_named = true;
	while ((s = next_item(&list, "methods"))) {
		m = method_find(s);
		if (!m)
			die("--methods %s: unknown; see --list", s);
		for (i = 0; i < b->nr_methods; i++)
			if (b->methods[i] == m)
				die("--methods %s: twice", s);
		/* Asked for by name, so not just a line in the table. */
		why = method_missing(m, 0, PAGE_4K);
		if (why)
			die("method %s is not available here: %s", s, why);
		b->methods[b->nr_methods++] = m;
	}
}

static void check_nodes(const struct nodes *n)
{
	const int used[] = { n->src, n->reader, n->writer };
	unsigned int i;

	if (!place_node_has_memory(n->src))
		die("--nodes: node %d does not exist or has no memory for the source",
		    n->src);
	for (i = 0; i < ARRAY_SIZE(used); i++)
		if (place_cpu_on(used[i], 0) < 0)
			die("--nodes: node %d does not exist or has no CPU that may be used",
			    used[i]);
}

static void parse_nodes(struct bench *b, char *list)
{
	char *s;

	b->nr_nodes = 0;
	while ((s = next_item(&list, "nodes"))) {
		struct nodes *n = &b->nodes[b->nr_nodes++];
		int end = 0;

		if (b->nr_nodes > ARRAY_SIZE(b->nodes) - 1)
			die("--nodes: at most %zu combinations", ARRAY_SIZE(b->nodes) - 1);
		if (sscanf(s, "%d:%d:%d%n", &n->src, &n->reader, &n->writer, &end) != 3 ||
		    s[end])
			die("--nodes %s: must be source:reader:writer, for instance 0:1:0", s);
		check_nodes(n);
	}
}

static const char *parse_pattern(const char *s)
{
	if (strcmp(s, "strided") && strcmp(s, "contiguous") && strcmp(s, "both"))
		die("--pattern %s: unknown; choose strided, contiguous or both", s);
	return s;
}

struct outputs {
	const char *json, *csv;
};

static void parse_options(struct bench *b, int argc, char **argv, struct outputs *out)
{
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, ":", long_options, NULL)) != -1) {
		switch (c) {
		case OPT_METHODS: parse_methods(b, optarg); break;
		case OPT_SIZE: parse_sizes(b, optarg); break;
		case OPT_PAGE: parse_pages(b, optarg); break;
		case OPT_REPEAT: b->repeat = parse_number(optarg, "repeat", 1, 1000000); break;
		case OPT_WARMUP: b->warmup = parse_number(optarg, "warmup", 0, 1000000); break;
		case OPT_WRITERS: b->writers = parse_number(optarg, "writers", 1, 1024); break;
		case OPT_CHECKPOINTERS:
			b->checkpointers = parse_number(optarg, "checkpointers", 1, 1024);
			break;
		case OPT_COPIERS: copy_threads = parse_number(optarg, "copiers", 1, 1024); break;
		case OPT_PATTERN: b->pattern = parse_pattern(optarg); break;
		case OPT_NODES: parse_nodes(b, optarg); break;
		case OPT_ALLOW_SYSTEM: b->system = true; break;
		case OPT_JSON: out->json = optarg; break;
		case OPT_CSV: out->csv = optarg; break;
		case OPT_LIST: print_tables(stdout); exit(0);
		case OPT_HELP: fputs(help, stdout); print_tables(stdout); exit(0);
		case OPT_VERSION: puts("cowsnap-bench " BENCH_VERSION); exit(0);
		case ':': die("%s needs an argument; see --help", argv[optind - 1]);
		default: die("%s: unknown option; see --help", argv[optind - 1]);
		}
	}
}

static const struct workload *find_workload(const char *name)
{
	unsigned int i;

	for (i = 0; i < nr_workloads; i++)
		if (!strcmp(workloads[i]->name, name))
			return workloads[i];
	die("%s: unknown workload; see --list", name);
}

static void run_workloads(struct bench *b, char **names, int nr)
{
	unsigned int i;

	b->named = nr > 0;
	if (!nr) {
		for (i = 0; i < nr_workloads && !interrupted(); i++)
			workloads[i]->run(b);
		return;
	}
	for (; nr-- && !interrupted(); names++)
		find_workload(*names)->run(b);
}

int main(int argc, char **argv)
{
	struct bench b = { .repeat = -1, .warmup = -1, .pattern = "both" };
	struct outputs out = { NULL, NULL };
	int i;

	if (argc > 1 && !strcmp(argv[1], "report"))
		return report_pages(argc - 2, argv + 2);

	page_size = sysconf(_SC_PAGESIZE);
	b.report.out = stdout;
	memcpy(b.methods, methods, nr_methods * sizeof(methods[0]));
	b.nr_methods = nr_methods;

	place_init();
	env_init(argc, argv);	/* before list options are cut apart */
	parse_options(&b, argc, argv, &out);
	for (i = optind; i < argc; i++)
		find_workload(argv[i]);
	b.system |= env.guest;
	results_open(&b.report, out.json, out.csv);
	interrupt_init();
	report_environment(&b.report);
	run_workloads(&b, argv + optind, argc - optind);

	progress_clear();
	b.report.interrupted = interrupted();
	if (b.report.interrupted)
		fputs("interrupted: what was measured until then is above\n", b.report.out);
	results_close();
	return b.report.interrupted ? 130 : b.report.status;
}
