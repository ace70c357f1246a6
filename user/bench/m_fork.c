// SPDX-License-Identifier: GPL-2.0
/*
 * Method fork: a child holds the snapshot, at the same address. It sleeps on a
 * futex in shared memory and runs what it is told.
 */
#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

enum { CHILD_IDLE, CHILD_RUN, CHILD_EXIT };

struct child {
	uint32_t state;		/* futex: what the child is to do */
	side_fn fn;
	void *arg;
};

static void set_state(struct child *c, uint32_t state)
{
	__atomic_store_n(&c->state, state, __ATOMIC_RELEASE);
	syscall(SYS_futex, &c->state, FUTEX_WAKE, 1, NULL, NULL, 0);
}

/* Returns the new state; a timeout lets the parent see that the child died. */
static uint32_t wait_while(struct child *c, uint32_t state,
			   const struct timespec *timeout)
{
	uint32_t now = __atomic_load_n(&c->state, __ATOMIC_ACQUIRE);

	if (now != state)
		return now;
	syscall(SYS_futex, &c->state, FUTEX_WAIT, state, timeout, NULL, 0);
	return __atomic_load_n(&c->state, __ATOMIC_ACQUIRE);
}

/* Does next to nothing before it sleeps: the parent has yet to read its clock. */
static void __attribute__((noreturn)) run_child(struct snap *s, pid_t parent)
{
	struct child *c = s->child;
	uint32_t state;

	/* Never outlives the run, whatever ends it. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);

	while ((state = wait_while(c, CHILD_IDLE, NULL)) != CHILD_EXIT) {
		if (state != CHILD_RUN)
			continue;
		c->fn(s, c->arg);
		set_state(c, CHILD_IDLE);
	}
	_exit(0);
}

static const char *fork_take(struct snap *s)
{
	pid_t parent = getpid(), pid;
	sigset_t all, old;
	uint64_t start;

	s->child = shared_alloc(page_size);

	/* Ctrl-C is for the parent, which then ends the child in order. */
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &old);
	start = now_ns();
	pid = fork();
	if (!pid)
		run_child(s, parent);
	s->take_ns = now_ns() - start;
	sigprocmask(SIG_SETMASK, &old, NULL);

	s->pid = pid;
	if (pid > 0)
		return NULL;
	shared_free(s->child, page_size);
	return sentence("fork: %s", strerror(errno));
}

static void fork_start(struct snap *s, side_fn fn, void *arg)
{
	s->child->fn = fn;
	s->child->arg = arg;
	set_state(s->child, CHILD_RUN);
}

static void fork_wait(struct snap *s)
{
	const struct timespec second = { .tv_sec = 1 };
	int status;

	while (wait_while(s->child, CHILD_RUN, &second) == CHILD_RUN)
		if (waitpid(s->pid, &status, WNOHANG) == s->pid)
			die("the forked child died (status 0x%x), perhaps for lack of memory",
			    status);
}

static void fork_drop(struct snap *s)
{
	uint64_t start = now_ns();

	set_state(s->child, CHILD_EXIT);
	while (waitpid(s->pid, NULL, 0) < 0 && errno == EINTR)
		;
	s->drop_ns = now_ns() - start;
	shared_free(s->child, page_size);
}

const struct method method_fork = {
	.name = "fork",
	.help = "a child holds the snapshot; dropped by its exit",
	.shares = true,
	.take = fork_take,
	.start = fork_start,
	.wait = fork_wait,
	.drop = fork_drop,
};
