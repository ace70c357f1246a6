// SPDX-License-Identifier: GPL-2.0
/*
 * Memory that is not duplicated: refused with the reason and the address, and
 * left as it was.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <stdio.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "harness.h"
#include "mem.h"
#include "uring.h"

#define PAGES(n)	((n) * MEM_PAGE)
#define U64(p)		((__u64)(uintptr_t)(p))
#define NR		16

/* Newer than the headers of Debian 12. */
#ifndef SYS_memfd_secret
#define SYS_memfd_secret 447
#endif
#ifndef SYS_map_shadow_stack
#define SYS_map_shadow_stack 453
#endif
#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE	0x08
#endif

/*
 * Refused: 4 MiB, the upper half of which is of a kind that is not duplicated.
 */
FIXTURE(refused)
{
	int fd;
	char *good;
	char *bad;
	struct cowsnap_remap r;
};

FIXTURE_VARIANT(refused)
{
	bool (*put)(char *at, size_t len);
	unsigned int reason;
};

static bool put_shared(char *at, size_t len)
{
	return mmap(at, len, PROT_READ | PROT_WRITE, MAP_SHARED |
		    MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at;
}

static bool put_memfd(char *at, size_t len, int flags)
{
	int fd = memfd_create("kinds", MFD_CLOEXEC);
	bool done;

	done = fd >= 0 && !ftruncate(fd, len) &&
	       mmap(at, len, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd,
		    0) == at;
	close(fd);
	return done;
}

static bool put_shared_file(char *at, size_t len)
{
	return put_memfd(at, len, MAP_SHARED);
}

/* Shared, but read-only: no reason to take it for private. */
static bool put_shared_read_only(char *at, size_t len)
{
	return put_memfd(at, len, MAP_SHARED) &&
	       !mprotect(at, len, PROT_READ);
}

static bool put_wipeonfork(char *at, size_t len)
{
	return !madvise(at, len, MADV_WIPEONFORK);
}

static bool put_droppable(char *at, size_t len)
{
	return mmap(at, len, PROT_READ | PROT_WRITE, MAP_DROPPABLE |
		    MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at;
}

/* Memory that not even the kernel maps; only ever shared. */
static bool put_secret(char *at, size_t len)
{
	int fd = syscall(SYS_memfd_secret, 0);
	bool done;

	if (fd < 0)
		return false;
	done = !ftruncate(fd, len) &&
	       mmap(at, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd,
		    0) == at;
	close(fd);
	return done;
}

/* The ring of a packet socket: pages of a driver in a mixed map. */
static bool put_packet_ring(char *at, size_t len)
{
	struct tpacket_req ring = {
		.tp_block_size = PAGES(16), .tp_block_nr = len / PAGES(16),
		.tp_frame_size = 2048, .tp_frame_nr = len / 2048,
	};
	int fd = socket(AF_PACKET, SOCK_RAW, 0);
	bool done;

	if (fd < 0)
		return false;
	done = !setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &ring,
			   sizeof(ring)) &&
	       mmap(at, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED,
		    fd, 0) == at;
	close(fd);
	return done;
}

/* Of two RAM disks one is for swap, the other one for us. */
static bool put_block_device(char *at, size_t len)
{
	int fd = open("/dev/ram1", O_RDONLY | O_CLOEXEC);
	bool done;

	if (fd < 0)
		return false;
	done = mmap(at, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED,
		    fd, 0) == at;
	close(fd);
	return done;
}

#define REFUSED(name, reason_)						\
	FIXTURE_VARIANT_ADD(refused, name)				\
	{ .put = put_##name, .reason = COWSNAP_REASON_##reason_ }

REFUSED(shared, SHARED);
REFUSED(shared_file, SHARED);
REFUSED(shared_read_only, SHARED);
REFUSED(wipeonfork, WIPEONFORK);
REFUSED(droppable, WIPEONFORK);
REFUSED(secret, SHARED);
REFUSED(packet_ring, PFNMAP);
REFUSED(block_device, SPECIAL);

FIXTURE_SETUP(refused)
{
	self->fd = mem_open();
	ASSERT_GE(self->fd, 0)
		TH_LOG("%s: %s. Is the module loaded?", MEM_DEVICE,
		       strerror(errno));
	self->good = mem_map_offset(2 * MEM_HUGE, MEM_HUGE, 0);
	ASSERT_NE(NULL, self->good);
	self->bad = self->good + MEM_HUGE;
	mem_fill(self->good, PAGES(NR), 1);
	/* Before it goes: MAP_FIXED would, if it failed, leave a hole. */
	if (!variant->put(self->bad, MEM_HUGE))
		SKIP(return, "no such memory here: %s", strerror(errno));
	self->r = (struct cowsnap_remap) { .size = sizeof(self->r) };
}

FIXTURE_TEARDOWN(refused)
{
	EXPECT_TRUE(mem_check(self->good, PAGES(NR), 1));
	close(self->fd);
}

TEST_F(refused, with_its_reason)
{
	self->r.src = U64(self->bad);
	self->r.len = MEM_HUGE;
	EXPECT_EQ(-EOPNOTSUPP, mem_refused(self->fd, &self->r));
	EXPECT_EQ(variant->reason, self->r.reason);
	EXPECT_EQ(self->r.src, self->r.fault_addr);
	/* A hole is something else: leaving it out would be silent. */
	self->r.flags = COWSNAP_REMAP_HOLES;
	EXPECT_EQ(-EOPNOTSUPP, mem_refused(self->fd, &self->r));
	EXPECT_EQ(variant->reason, self->r.reason);
}

TEST_F(refused, where_it_begins)
{
	self->r.src = U64(self->good);
	self->r.len = 2 * MEM_HUGE;
	EXPECT_EQ(-EOPNOTSUPP, mem_refused(self->fd, &self->r));
	EXPECT_EQ(variant->reason, self->r.reason);
	EXPECT_EQ(U64(self->bad), self->r.fault_addr);

	/* One page of it is enough. */
	self->r.len = MEM_HUGE + MEM_PAGE;
	EXPECT_EQ(-EOPNOTSUPP, mem_refused(self->fd, &self->r));
	EXPECT_EQ(U64(self->bad), self->r.fault_addr);

	/* From within: no part of the mapping before the range. */
	self->r.src = U64(self->bad) + PAGES(5);
	self->r.len = PAGES(3);
	EXPECT_EQ(-EOPNOTSUPP, mem_refused(self->fd, &self->r));
	EXPECT_EQ(variant->reason, self->r.reason);
	EXPECT_EQ(self->r.src, self->r.fault_addr);
}

TEST_F(refused, and_what_lies_before_it_is_not_shared)
{
	self->r.src = U64(self->good);
	self->r.len = 2 * MEM_HUGE;
	EXPECT_EQ(-EOPNOTSUPP, mem_refused(self->fd, &self->r));
	EXPECT_NE(0, mem_pagemap(self->good) & MEM_PM_EXCLUSIVE);
	self->r.len = MEM_HUGE;
	EXPECT_EQ(0, mem_refused(self->fd, &self->r));
	EXPECT_EQ(NR, self->r.shared);
}

/* Not written, not protected, not touched: no trace of having been looked at. */
TEST_F(refused, and_is_left_as_it_was)
{
	uint64_t was[NR], is[NR];
	struct mem_counters before, after;
	char flags[2][256], perms[5];
	bool fill;

	ASSERT_TRUE(mem_vma(self->bad, NULL, NULL, perms));
	/* A pool of one page, which is not to be taken. */
	fill = perms[1] == 'w' && variant->reason != COWSNAP_REASON_HUGETLB;
	if (fill)
		mem_fill(self->bad, PAGES(NR / 2), 2);
	ASSERT_TRUE(mem_smaps_flags(self->bad, flags[0], sizeof(flags[0])));
	ASSERT_TRUE(mem_pagemap_read(self->bad, was, NR));
	self->r.src = U64(self->good);
	self->r.len = 2 * MEM_HUGE;
	mem_counters(&before);
	EXPECT_EQ(-EOPNOTSUPP, mem_refused(self->fd, &self->r));
	self->r.src = U64(self->bad);
	self->r.len = MEM_HUGE;
	EXPECT_EQ(-EOPNOTSUPP, mem_refused(self->fd, &self->r));
	mem_counters(&after);
	EXPECT_TRUE(mem_counters_equal(&before, &after));
	ASSERT_TRUE(mem_pagemap_read(self->bad, is, NR));
	EXPECT_EQ(0, memcmp(was, is, sizeof(is)));
	ASSERT_TRUE(mem_smaps_flags(self->bad, flags[1], sizeof(flags[1])));
	EXPECT_STREQ(flags[0], flags[1]);
	if (fill)
		EXPECT_TRUE(mem_check(self->bad, PAGES(NR / 2), 2));
}

/* What is there without being asked for. */
FIXTURE(found)
{
	int fd;
};

FIXTURE_SETUP(found)
{
	self->fd = mem_open();
	ASSERT_GE(self->fd, 0)
		TH_LOG("%s: %s. Is the module loaded?", MEM_DEVICE,
		       strerror(errno));
}

FIXTURE_TEARDOWN(found)
{
	close(self->fd);
}

/* Pages of the kernel's own: code and clocks that it maps for the process. */
TEST_F(found, vdso_is_refused)
{
	char *vdso = (char *)getauxval(AT_SYSINFO_EHDR), name[64];
	struct cowsnap_remap r = { .size = sizeof(r), .len = MEM_PAGE };

	if (!vdso)
		SKIP(return, "no vdso");
	r.src = U64(vdso);
	EXPECT_EQ(-EOPNOTSUPP, mem_refused(self->fd, &r));
	EXPECT_EQ(COWSNAP_REASON_SPECIAL, r.reason);
	EXPECT_EQ(r.src, r.fault_addr);

	if (!mem_vma_name(vdso - MEM_PAGE, name, sizeof(name)) ||
	    strncmp(name, "[vvar", 5))
		return;
	r.src = U64(vdso - MEM_PAGE);
	EXPECT_EQ(-EOPNOTSUPP, mem_refused(self->fd, &r));
	/* It is both, a page frame mapping and the kernel's own. */
	EXPECT_TRUE(r.reason == COWSNAP_REASON_SPECIAL ||
		    r.reason == COWSNAP_REASON_PFNMAP);
	EXPECT_EQ(r.src, r.fault_addr);
}

/* No struct page behind it that could be counted. */
TEST_F(found, device_memory_is_refused)
{
	struct cowsnap_remap r = { .size = sizeof(r), .len = PAGES(4) };
	int fd = open("/dev/mem", O_RDONLY | O_CLOEXEC);
	void *rom;

	if (fd < 0)
		SKIP(return, "/dev/mem: %s", strerror(errno));
	rom = mmap(NULL, PAGES(4), PROT_READ, MAP_PRIVATE, fd, 0xf0000);
	if (rom == MAP_FAILED)
		SKIP(return, "/dev/mem: %s", strerror(errno));
	r.src = U64(rom);
	EXPECT_EQ(-EOPNOTSUPP, mem_refused(self->fd, &r));
	EXPECT_EQ(COWSNAP_REASON_PFNMAP, r.reason);
	EXPECT_EQ(r.src, r.fault_addr);
}

/*
 * Return addresses, which only the CPU writes: a second set of them could be
 * returned to. Nothing says that a process has to use its shadow stack.
 */
TEST_F(found, shadow_stack_is_refused)
{
	struct cowsnap_remap r = { .size = sizeof(r), .len = PAGES(4) };
	long at = syscall(SYS_map_shadow_stack, 0, r.len, /* token on top */1);
	uint64_t was[4], is[4], token, *top;

	if (at == -1)
		SKIP(return, "no shadow stacks: %s", strerror(errno));
	top = (uint64_t *)(at + r.len) - 1;
	token = *top;
	ASSERT_NE(0, token);
	ASSERT_TRUE(mem_pagemap_read((void *)at, was, 4));
	r.src = at;
	EXPECT_EQ(-EOPNOTSUPP, mem_refused(self->fd, &r));
	EXPECT_EQ(COWSNAP_REASON_SHADOW_STACK, r.reason);
	EXPECT_EQ(r.src, r.fault_addr);
	/* From within, and read-only: no less a shadow stack. */
	r.src += PAGES(3);
	r.len = MEM_PAGE;
	r.flags = COWSNAP_REMAP_READONLY;
	EXPECT_EQ(-EOPNOTSUPP, mem_refused(self->fd, &r));
	EXPECT_EQ(COWSNAP_REASON_SHADOW_STACK, r.reason);
	EXPECT_EQ(r.src, r.fault_addr);
	EXPECT_TRUE(mem_smaps_flag((void *)at, "ss"));
	ASSERT_TRUE(mem_pagemap_read((void *)at, is, 4));
	EXPECT_EQ(0, memcmp(was, is, sizeof(is)));
	EXPECT_EQ(token, *top);
}

/* Shared as it is meant to be mapped, and privately, which the kernel allows. */
TEST_F(found, ring_of_io_uring_is_refused)
{
	struct cowsnap_remap r = { .size = sizeof(r), .len = MEM_PAGE };
	struct uring ring;
	void *sqes;
	int err;

	err = uring_open(&ring);
	if (err)
		SKIP(return, "no io_uring: %s", strerror(-err));
	r.src = U64(ring.rings);
	EXPECT_EQ(-EOPNOTSUPP, mem_refused(self->fd, &r));
	EXPECT_EQ(COWSNAP_REASON_SHARED, r.reason);
	EXPECT_EQ(r.src, r.fault_addr);
	sqes = mmap(NULL, MEM_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE,
		    ring.fd, IORING_OFF_SQES);
	if (sqes != MAP_FAILED) {
		r.src = U64(sqes);
		EXPECT_EQ(-EOPNOTSUPP, mem_refused(self->fd, &r));
		EXPECT_EQ(COWSNAP_REASON_PFNMAP, r.reason);
		EXPECT_EQ(r.src, r.fault_addr);
	}
	uring_close(&ring);
}

TEST_HARNESS_MAIN
