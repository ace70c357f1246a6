// SPDX-License-Identifier: GPL-2.0
/*
 * userfaultfd: a monitor that fills what is missing with zeroes and takes write
 * protection away again. So a registration shows in no content.
 */
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>

#include "model.h"

#define MODES	(UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP)

static void answer(int fd, const struct uffd_msg *msg)
{
	uint64_t addr = msg->arg.pagefault.address & ~(MEM_PAGE - 1);
	struct uffdio_range range = { addr, MEM_PAGE };
	struct uffdio_zeropage zero = { .range = range };
	struct uffdio_writeprotect wp = { .range = range };

	if (msg->event != UFFD_EVENT_PAGEFAULT)
		return;
	if (msg->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP) {
		if (!ioctl(fd, UFFDIO_WRITEPROTECT, &wp))
			return;
	} else if (!ioctl(fd, UFFDIO_ZEROPAGE, &zero)) {
		return;
	}
	/* There already, or no longer registered: let it try again. */
	ioctl(fd, UFFDIO_WAKE, &range);
}

static void *monitor(void *arg)
{
	struct uffd *u = arg;
	struct pollfd fds[2] = {
		{ .fd = u->fd, .events = POLLIN },
		{ .fd = u->stop[0], .events = POLLIN },
	};
	struct uffd_msg msg;

	while (poll(fds, 2, -1) >= 0 && !fds[1].revents)
		while (read(u->fd, &msg, sizeof(msg)) == sizeof(msg))
			answer(u->fd, &msg);
	return NULL;
}

bool model_uffd_start(struct world *w)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffd *u = &w->uffd;

	u->fd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (u->fd < 0)
		return false;
	if (ioctl(u->fd, UFFDIO_API, &api) || pipe(u->stop))
		return false;
	return !pthread_create(&u->thread, NULL, monitor, u);
}

void model_uffd_stop(struct world *w)
{
	if (write(w->uffd.stop[1], "x", 1) == 1)
		pthread_join(w->uffd.thread, NULL);
	close(w->uffd.fd);
	close(w->uffd.stop[0]);
	close(w->uffd.stop[1]);
}

/* In a child nothing is registered, and there is no monitor. */
void model_uffd_forked(struct world *w)
{
	close(w->uffd.fd);
	close(w->uffd.stop[0]);
	close(w->uffd.stop[1]);
}

static bool is_registered(const struct page *p)
{
	return p->flags & UFFD;
}

enum outcome op_uffd_register(struct world *w)
{
	struct run r = model_pick(w, page_is_anon, 60);
	struct uffdio_register reg = { .mode = MODES };
	unsigned int i;

	if (!r.nr)
		return NOTHING;
	model_log(w, "%u+%u", r.first, r.nr);
	reg.range = (struct uffdio_range){ (uintptr_t)run_addr(&r), run_len(&r) };
	if (ioctl(w->uffd.fd, UFFDIO_REGISTER, &reg))
		return FAILED;
	for (i = 0; i < r.nr; i++)
		run_page(&r, i)->flags |= UFFD;
	return DONE;
}

enum outcome op_uffd_unregister(struct world *w)
{
	struct run r = model_pick(w, is_registered, 200);
	struct uffdio_range range;
	unsigned int i;

	if (!r.nr)
		return NOTHING;
	model_log(w, "%u+%u", r.first, r.nr);
	range = (struct uffdio_range){ (uintptr_t)run_addr(&r), run_len(&r) };
	if (ioctl(w->uffd.fd, UFFDIO_UNREGISTER, &range))
		return FAILED;
	for (i = 0; i < r.nr; i++)
		run_page(&r, i)->flags &= ~UFFD;
	return DONE;
}

/* The next store to one of these waits for the monitor. */
enum outcome op_uffd_protect(struct world *w)
{
	struct run r = model_pick(w, is_registered, 60);
	struct uffdio_writeprotect wp = { .mode = UFFDIO_WRITEPROTECT_MODE_WP };

	if (!r.nr)
		return NOTHING;
	model_log(w, "%u+%u", r.first, r.nr);
	wp.range = (struct uffdio_range){ (uintptr_t)run_addr(&r), run_len(&r) };
	if (!ioctl(w->uffd.fd, UFFDIO_WRITEPROTECT, &wp))
		return DONE;
	/* 6.1 takes a range within one mapping only. */
	return errno == ENOENT ? NOTHING : FAILED;
}
