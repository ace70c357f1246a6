// SPDX-License-Identifier: GPL-2.0
/*
 * Looks up what the kernel does not export, once, when the module is loaded.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kprobes.h>

#include "compat.h"

#define DEFINE_FUNC(name) DEFINE_STATIC_CALL_NULL(cowsnap_##name, name);
#define DEFINE_DATA(name) typeof(name) *cowsnap_data_##name __ro_after_init;
COWSNAP_KSYM_FUNCS(DEFINE_FUNC)
COWSNAP_KSYM_DATA(DEFINE_DATA)

/* Not exported either, since 5.7. */
DEFINE_STATIC_CALL_NULL(cowsnap_lookup, kallsyms_lookup_name);

/*
 * A kprobe tells the address of any function; it is never left armed. With IBT
 * the address may be that of the instruction after the ENDBR, which is as good
 * for a direct call.
 */
static int __init find_lookup(void)
{
	struct kprobe probe = { .symbol_name = "kallsyms_lookup_name" };
	int err = cowsnap_fault() ? -ENOMEM : register_kprobe(&probe);

	if (err) {
		pr_err("no kprobe on kallsyms_lookup_name (%d): this kernel needs CONFIG_KPROBES and CONFIG_KALLSYMS\n",
		       err);
		return err;
	}
	static_call_update(cowsnap_lookup, (void *)probe.addr);
	unregister_kprobe(&probe);
	return 0;
}

static void *__init lookup(const char *name)
{
	void *addr = NULL;

	if (!cowsnap_fault())
		addr = (void *)static_call(cowsnap_lookup)(name);
	if (!addr)
		pr_err("this kernel has no symbol %s: it is not one that this version of cowsnap supports\n",
		       name);
	return addr;
}

/* Where each is, until none is known to be missing: calls are patched late. */
#define DEFINE_FOUND(name) static void *found_##name __initdata;
COWSNAP_KSYM_FUNCS(DEFINE_FOUND)

#define RESOLVE_FUNC(name) do {				\
	found_##name = lookup(#name);			\
	if (!found_##name)				\
		missing++;				\
} while (0);

#define TAKE_FUNC(name) static_call_update(cowsnap_##name, found_##name);

#define RESOLVE_DATA(name) do {				\
	cowsnap_data_##name = lookup(#name);		\
	if (!cowsnap_data_##name)			\
		missing++;				\
} while (0);

/**
 * cowsnap_ksyms_init - resolve every symbol, name each that is missing
 *
 * Return: 0, -ENOENT when one is missing, or what register_kprobe() returned.
 */
int __init cowsnap_ksyms_init(void)
{
	unsigned int missing = 0;
	int err = find_lookup();

	if (err)
		return err;
	COWSNAP_KSYM_FUNCS(RESOLVE_FUNC)
	COWSNAP_KSYM_DATA(RESOLVE_DATA)
	if (missing)
		return -ENOENT;
	COWSNAP_KSYM_FUNCS(TAKE_FUNC)
	return 0;
}
