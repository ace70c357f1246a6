/* SPDX-License-Identifier: GPL-2.0 */
/*
 * System calls of the preload library's thread. The thread shares its host's
 * memory and has no thread area of its own, so that errno, and whatever else of
 * libc keeps something per thread, is out of bounds: results are -errno.
 */
#ifndef COWSNAP_PRELOAD_SYS_H
#define COWSNAP_PRELOAD_SYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>

#ifndef __x86_64__
#error "The preload library knows the system calls of x86-64 only"
#endif

static inline long sys6(long nr, long a, long b, long c, long d, long e, long f)
{
	register long r10 asm("r10") = d;
	register long r8 asm("r8") = e;
	register long r9 asm("r9") = f;
	long ret;

	asm volatile("syscall"
		     : "=a"(ret)
		     : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
		     : "rcx", "r11", "memory");
	return ret;
}

#define sys_args(nr, a, b, c, d, e, f, ...)	\
	sys6(nr, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
/* sys(NAME, arguments...), as many as it takes. */
#define sys(name, ...)	sys_args(SYS_##name, ##__VA_ARGS__, 0, 0, 0, 0, 0, 0, 0)

static inline bool sys_failed(long ret)
{
	return ret < 0 && ret > -4096;
}

/*
 * A thread that starts in @fn, which must not return, on a stack that ends at
 * @stack. Returns its id in the caller only.
 */
static inline long sys_thread(unsigned long flags, void *stack, void (*fn)(void *),
			      void *arg)
{
	void **top = (void **)stack - 2;
	register long r10 asm("r10") = 0;
	register long r8 asm("r8") = 0;
	long ret;

	top[0] = arg;
	top[1] = (void *)fn;
	asm volatile("syscall\n\t"
		     "test %%rax, %%rax\n\t"
		     "jnz 1f\n\t"
		     "xor %%ebp, %%ebp\n\t"
		     "pop %%rdi\n\t"
		     "pop %%rax\n\t"
		     "call *%%rax\n\t"
		     "ud2\n"
		     "1:"
		     : "=a"(ret)
		     : "a"(SYS_clone), "D"(flags), "S"(top), "d"(0), "r"(r10), "r"(r8)
		     : "rcx", "r11", "memory");
	return ret;
}

#endif
