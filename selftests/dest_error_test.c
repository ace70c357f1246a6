// SPDX-License-Identifier: GPL-2.0
/*
 * Where a duplicate cannot go: refused with the reason and the address, and what
 * stands there stays.
 */
#include <linux/capability.h>
#include <sys/auxv.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "request.h"

#define NR		16

#ifndef SYS_mseal
#define SYS_mseal	462
#endif

REQUEST_FIXTURE(refused)

TEST_F(refused, noreplace_is_eexist_where_something_is)
{
	int busy;

	for (busy = 0; busy < 4; busy++) {
		char *dst = mem_map_alone(self->len);

		ASSERT_NE(NULL, dst);
		munmap(dst, PAGES(busy));
		munmap(dst + PAGES(busy + 1), PAGES(3 - busy));
		mem_fill(dst + PAGES(busy), MEM_PAGE, 2);
		self->r.dst = U64(dst);
		self->r.flags = COWSNAP_REMAP_FIXED_NOREPLACE;
		EXPECT_EQ(-EEXIST, mem_refused(self->fd, &self->r));
		EXPECT_EQ(COWSNAP_REASON_EXISTS, self->r.reason);
		EXPECT_EQ(U64(dst) + PAGES(busy), self->r.fault_addr);
		EXPECT_TRUE(mem_check(dst + PAGES(busy), MEM_PAGE, 2));
		munmap(dst - MEM_PAGE, self->len + PAGES(2));
	}
}

/* mseal promises that nobody takes the memory away, also not through us. */
TEST_F(refused, sealed_destination_is_eperm_and_stays)
{
	char *dst = mem_map_alone(self->len);

	ASSERT_NE(NULL, dst);
	mem_fill(dst, self->len, 2);
	if (syscall(SYS_mseal, dst + PAGES(2), MEM_PAGE, 0))
		SKIP(return, "this kernel has no mseal()");
	self->r.dst = U64(dst);
	self->r.flags = COWSNAP_REMAP_FIXED;
	EXPECT_EQ(-EPERM, mem_refused(self->fd, &self->r));
	EXPECT_EQ(COWSNAP_REASON_SEALED, self->r.reason);
	EXPECT_EQ(U64(dst) + PAGES(2), self->r.fault_addr);
	EXPECT_TRUE(mem_check(dst, self->len, 2));
}

/* The kernel's own mappings: they can be replaced as a whole, but not cut. */
TEST_F(refused, destination_across_the_edge_of_the_vdso_is_einval)
{
	char *vdso = (char *)getauxval(AT_SYSINFO_EHDR), name[64];
	unsigned long start, end;

	if (!mem_vma(vdso, &start, &end, NULL) || end - start < PAGES(2))
		SKIP(return, "no vdso of two pages");
	self->r.dst = start + MEM_PAGE;
	self->r.flags = COWSNAP_REMAP_FIXED;
	EXPECT_EQ(-EINVAL, mem_refused(self->fd, &self->r));
	EXPECT_EQ(COWSNAP_REASON_ALIGN, self->r.reason);
	EXPECT_EQ(start + MEM_PAGE, self->r.fault_addr);
	self->r.dst = start + MEM_PAGE - self->len;
	EXPECT_EQ(-EINVAL, mem_refused(self->fd, &self->r));
	EXPECT_EQ(COWSNAP_REASON_ALIGN, self->r.reason);

	/* Up to its edge, unless the stack happens to be there. */
	while (mem_vma_name((char *)start - 1, name, sizeof(name)) &&
	       !strncmp(name, "[vvar", 5))
		mem_vma((char *)start - 1, &start, &end, NULL);
	self->r.len = MEM_PAGE;
	self->r.dst = start - MEM_PAGE;
	if (!mem_is_free((char *)start - MEM_PAGE, MEM_PAGE))
		return;
	EXPECT_EQ(0, call(self->fd, COWSNAP_REMAP, &self->r));
	EXPECT_TRUE(mem_check((char *)start - MEM_PAGE, MEM_PAGE, 1));
}

static int drop_rawio(void)
{
	struct __user_cap_header_struct head = {
		.version = _LINUX_CAPABILITY_VERSION_3,
	};
	struct __user_cap_data_struct data[2];

	if (syscall(SYS_capget, &head, data))
		return -errno;
	data[0].effective &= ~(1u << CAP_SYS_RAWIO);
	return syscall(SYS_capset, &head, data) ? -errno : 0;
}

/* Memory at the null pointer turns kernel bugs into exploits. */
TEST_F(refused, destination_below_mmap_min_addr_is_eperm)
{
	long min = mem_read_long("/proc/sys/vm/mmap_min_addr");
	__u64 dst;

	if (min < (long)MEM_PAGE)
		SKIP(return, "vm.mmap_min_addr is %ld", min);
	ASSERT_EQ(0, drop_rawio());
	for (dst = 0; dst < (__u64)min; dst += MEM_PAGE) {
		self->r.dst = dst;
		self->r.flags = COWSNAP_REMAP_FIXED;
		EXPECT_EQ(-EPERM, mem_refused(self->fd, &self->r))
			TH_LOG("at %#llx", dst);
		EXPECT_EQ(COWSNAP_REASON_MIN_ADDR, self->r.reason);
		EXPECT_EQ(dst, self->r.fault_addr);
		self->r.flags = COWSNAP_REMAP_FIXED_NOREPLACE;
		EXPECT_EQ(-EPERM, mem_refused(self->fd, &self->r));
		EXPECT_EQ(COWSNAP_REASON_MIN_ADDR, self->r.reason);
	}
}

TEST_F(refused, hint_below_mmap_min_addr_is_only_a_hint)
{
	long min = mem_read_long("/proc/sys/vm/mmap_min_addr");

	if (min < (long)MEM_PAGE)
		SKIP(return, "vm.mmap_min_addr is %ld", min);
	ASSERT_EQ(0, drop_rawio());
	self->r.dst = MEM_PAGE;
	ASSERT_EQ(0, call(self->fd, COWSNAP_REMAP, &self->r));
	EXPECT_GE(self->r.dst, (__u64)min);
	EXPECT_TRUE(mem_check((void *)self->r.dst, self->len, 1));
}

/* 47 bits of addresses less than half of which are free. */
TEST_F(refused, no_free_range_is_enomem)
{
	size_t len = 70UL << 40;
	void *p = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS |
		       MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		SKIP(return, "no 70 TiB of address space");
	self->r.src = U64(p);
	self->r.len = len;
	self->r.dst = U64(self->src);
	EXPECT_EQ(-ENOMEM, mem_refused(self->fd, &self->r));
	EXPECT_EQ(COWSNAP_REASON_NO_ROOM, self->r.reason);
	EXPECT_EQ(self->r.dst, self->r.fault_addr);
}

/*
 * Whatever can be checked is checked before anything is replaced: each way to
 * be refused leaves every byte of the destination where it was.
 */
FIXTURE(stays)
{
	int fd;
	char *src, *dst;
	size_t len;
	struct rlimit as;
	struct cowsnap_remap r;
};

enum cause {
	HOLE, HOLE_AT_END, SHARED_AT_END, WIPE_AT_END, FLAG, CONFLICT,
	RESERVED, MISALIGNED, OVERLAP, RLIMIT_FULL, SEALED_AT_END, NOREPLACE,
};

FIXTURE_VARIANT(stays)
{
	enum cause cause;
	int err;
	unsigned int reason;
};

#define STAYS(name, cause_, err_, reason_)				\
	FIXTURE_VARIANT_ADD(stays, name)				\
	{ .cause = cause_, .err = err_, .reason = COWSNAP_REASON_##reason_ }

STAYS(hole, HOLE, ENOMEM, HOLE);
STAYS(hole_at_end, HOLE_AT_END, ENOMEM, HOLE);
STAYS(shared_at_end, SHARED_AT_END, EOPNOTSUPP, SHARED);
STAYS(wipeonfork_at_end, WIPE_AT_END, EOPNOTSUPP, WIPEONFORK);
STAYS(unknown_flag, FLAG, EOPNOTSUPP, FLAG_UNKNOWN);
STAYS(conflict, CONFLICT, EINVAL, FLAG_CONFLICT);
STAYS(reserved, RESERVED, EINVAL, RESERVED);
STAYS(misaligned, MISALIGNED, EINVAL, ALIGN);
STAYS(overlap, OVERLAP, EINVAL, OVERLAP);
STAYS(rlimit, RLIMIT_FULL, ENOMEM, RLIMIT);
STAYS(sealed_at_end, SEALED_AT_END, EPERM, SEALED);
STAYS(noreplace, NOREPLACE, EEXIST, EXISTS);

FIXTURE_SETUP(stays)
{
	self->fd = mem_open();
	ASSERT_GE(self->fd, 0)
		TH_LOG("%s: %s. Is the module loaded?", MEM_DEVICE,
		       strerror(errno));
	self->len = PAGES(NR);
	self->src = mem_map_alone(self->len);
	self->dst = mem_map_alone(self->len);
	ASSERT_TRUE(self->src && self->dst);
	mem_fill(self->src, self->len, 1);
	mem_fill(self->dst, self->len, 2);
	ASSERT_EQ(0, getrlimit(RLIMIT_AS, &self->as));
	self->r = (struct cowsnap_remap) {
		.size = sizeof(self->r), .flags = COWSNAP_REMAP_FIXED,
		.src = U64(self->src), .len = self->len,
		.dst = U64(self->dst),
	};
}

FIXTURE_TEARDOWN(stays)
{
	close(self->fd);
}

static bool prepare(FIXTURE_DATA(stays) *self, enum cause cause)
{
	struct rlimit tight = self->as;
	char *end = self->src + self->len - MEM_PAGE;
	struct mem_counters c;
	char *long_src;

	switch (cause) {
	case HOLE:
		return !munmap(self->src + PAGES(3), MEM_PAGE);
	case HOLE_AT_END:
		return !munmap(end, MEM_PAGE);
	case SHARED_AT_END:
		return mmap(end, MEM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED |
			    MAP_ANONYMOUS | MAP_FIXED, -1, 0) == end;
	case WIPE_AT_END:
		return !madvise(end, MEM_PAGE, MADV_WIPEONFORK);
	case FLAG:
		self->r.flags |= 1u << 31;
		return true;
	case CONFLICT:
		self->r.flags |= COWSNAP_REMAP_FIXED_NOREPLACE;
		return true;
	case RESERVED:
		self->r.reserved = 1;
		return true;
	case MISALIGNED:
		self->r.len -= 1;
		return true;
	case OVERLAP:
		self->r.src = self->r.dst + MEM_PAGE;
		return true;
	case RLIMIT_FULL:
		/* Longer than what it replaces, which may count in favour. */
		long_src = mem_map_alone(2 * self->len);
		self->dst = mem_map_alone(2 * self->len);
		if (!long_src || !self->dst ||
		    munmap(self->dst + self->len, self->len))
			return false;
		mem_fill(self->dst, self->len, 2);
		self->r.src = U64(long_src);
		self->r.len = 2 * self->len;
		self->r.dst = U64(self->dst);
		mem_counters(&c);
		tight.rlim_cur = c.vm_size << 10;
		return !setrlimit(RLIMIT_AS, &tight);
	case SEALED_AT_END:
		return !syscall(SYS_mseal, self->dst + self->len - MEM_PAGE,
				MEM_PAGE, 0);
	case NOREPLACE:
		self->r.flags = COWSNAP_REMAP_FIXED_NOREPLACE;
		return true;
	}
	return false;
}

TEST_F(stays, refused_call_leaves_the_destination)
{
	struct mem_counters before, after;
	int err;

	if (!prepare(self, variant->cause)) {
		if (variant->cause == SEALED_AT_END && errno == ENOSYS)
			SKIP(return, "this kernel has no mseal()");
		ASSERT_TRUE(false)
			TH_LOG("%s", strerror(errno));
	}
	mem_counters(&before);
	err = mem_refused(self->fd, &self->r);
	mem_counters(&after);
	setrlimit(RLIMIT_AS, &self->as);
	EXPECT_EQ(-variant->err, err);
	EXPECT_EQ(variant->reason, self->r.reason);
	EXPECT_TRUE(mem_check(self->dst, self->len, 2));
	EXPECT_TRUE(mem_counters_equal(&before, &after));
}

TEST_HARNESS_MAIN
