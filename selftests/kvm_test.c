// SPDX-License-Identifier: GPL-2.0
/*
 * A secondary MMU: the memory of a KVM guest is duplicated while its CPU writes
 * to it. The CPU's stores do not go through the page tables of this process;
 * unless the module tells KVM to forget its translations, they go on into pages
 * that the duplicate shares.
 *
 * The guest is a loop. In each round it stores the number of the round into the
 * first word of each page, in order. At any instant
 *
 *	page	0 1 2 3 4 5 ...
 *	word	8 8 8 7 7 7 ...		never rising, the last one short of the
 *					first by 1 at most
 *
 * Needs /dev/kvm; in a guest of QEMU without KVM that is kvm_amd upon the SVM
 * that TCG emulates. COWSNAP_MINUTES is how long it goes on (40 duplicates of
 * each kind of memory otherwise).
 *
 * Usage: kvm_test [OPTION of the harness... | --hold]
 * With --hold no test, but a machine that stays until the system ends: KVM
 * patches the scheduler when the first machine comes, and when the last one goes.
 */
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include "kernel.h"
#include "harness.h"

/* Guest-physical addresses. */
#define CODE		0x1000U
#define PEEK		0x1080U
#define SEEN		0x2000U
#define DATA		0x200000U	/* where a huge page can be mapped whole */

#define DATA_LEN	(2 * MEM_HUGE)
#define PAGES		64U		/* that the loop writes, */
#define STRIDE		(DATA_LEN / PAGES)	/* all over the memory */

/* 32-bit code, flat segments, no paging. */
static const unsigned char loop_code[] = {
	0x31, 0xc0,				/* xor	eax, eax */
	0x40,					/* round: inc eax */
	0xbf, 0x00, 0x00, 0x20, 0x00,		/* mov	edi, DATA */
	0xb9, PAGES, 0x00, 0x00, 0x00,		/* mov	ecx, PAGES */
	0x89, 0x07,				/* page: mov [edi], eax */
	0x81, 0xc7, 0x00, 0x00, 0x01, 0x00,	/* add	edi, STRIDE */
	0xe2, 0xf6,				/* loop	page */
	0xeb, 0xe9,				/* jmp	round */
};

static const unsigned char peek_code[] = {
	0xa1, 0x00, 0x00, 0x20, 0x00,		/* mov	eax, [DATA] */
	0xa3, 0x00, 0x20, 0x00, 0x00,		/* mov	[SEEN], eax */
	0xf4,					/* hlt */
};

_Static_assert(STRIDE == 0x10000, "as in the code");

struct vm {
	int kvm, vm, cpu;
	struct kvm_run *run;
	size_t run_len;
	char *low;		/* the pages of code and SEEN */
	pthread_t thread;
	volatile bool stop;
	int exit_reason;
};

static int add_memory(struct vm *vm, unsigned int slot, unsigned int at,
		      void *p, size_t len)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot,
		.guest_phys_addr = at,
		.memory_size = len,
		.userspace_addr = (uintptr_t)p,
	};

	return ioctl(vm->vm, KVM_SET_USER_MEMORY_REGION, &region) ? -errno : 0;
}

static void make_flat(struct kvm_segment *segment, unsigned int type)
{
	*segment = (struct kvm_segment) {
		.limit = 0xffffffff, .selector = 8, .type = type, .present = 1,
		.db = 1, .s = 1, .g = 1,
	};
}

static int set_cpu(struct vm *vm, unsigned int rip)
{
	struct kvm_regs regs = { .rip = rip, .rflags = 2 };
	struct kvm_sregs sregs;

	if (ioctl(vm->cpu, KVM_GET_SREGS, &sregs))
		return -errno;
	make_flat(&sregs.cs, 11);
	make_flat(&sregs.ds, 3);
	sregs.es = sregs.ss = sregs.fs = sregs.gs = sregs.ds;
	sregs.cr0 |= 1;		/* protected mode */
	if (ioctl(vm->cpu, KVM_SET_SREGS, &sregs) ||
	    ioctl(vm->cpu, KVM_SET_REGS, &regs))
		return -errno;
	return 0;
}

/* A machine with @data as its memory: 0 or -errno. */
static int vm_open(struct vm *vm, void *data)
{
	int err;

	vm->vm = ioctl(vm->kvm, KVM_CREATE_VM, 0);
	if (vm->vm < 0)
		return -errno;
	/* Intel wants a place for it. */
	ioctl(vm->vm, KVM_SET_TSS_ADDR, 0xfffbd000UL);
	vm->low = mem_map(4 * MEM_PAGE);
	if (!vm->low)
		return -ENOMEM;
	memcpy(vm->low + CODE, loop_code, sizeof(loop_code));
	memcpy(vm->low + PEEK, peek_code, sizeof(peek_code));
	err = add_memory(vm, 0, 0, vm->low, 4 * MEM_PAGE);
	if (!err)
		err = add_memory(vm, 1, DATA, data, DATA_LEN);
	if (err)
		return err;
	vm->cpu = ioctl(vm->vm, KVM_CREATE_VCPU, 0);
	if (vm->cpu < 0)
		return -errno;
	vm->run_len = ioctl(vm->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	vm->run = mmap(NULL, vm->run_len, PROT_READ | PROT_WRITE, MAP_SHARED,
		       vm->cpu, 0);
	return vm->run == MAP_FAILED ? -errno : 0;
}

static void vm_close(struct vm *vm)
{
	if (vm->run && vm->run != MAP_FAILED)
		munmap(vm->run, vm->run_len);
	if (vm->cpu >= 0)
		close(vm->cpu);
	if (vm->vm >= 0)
		close(vm->vm);
	if (vm->kvm >= 0)
		close(vm->kvm);
}

static void on_signal(int sig)
{
	(void)sig;
}

/* Until told to stop, or the guest does something other than run. */
static void *run_cpu(void *arg)
{
	struct vm *vm = arg;

	vm->exit_reason = -1;
	while (!vm->stop) {
		if (!ioctl(vm->cpu, KVM_RUN, 0)) {
			vm->exit_reason = vm->run->exit_reason;
			break;
		}
		if (errno != EINTR && errno != EAGAIN) {
			vm->exit_reason = -errno;
			break;
		}
	}
	return NULL;
}

static int vm_start(struct vm *vm, unsigned int rip)
{
	int err = set_cpu(vm, rip);

	vm->stop = false;
	vm->run->immediate_exit = 0;
	return err ? err : -pthread_create(&vm->thread, NULL, run_cpu, vm);
}

static void vm_stop(struct vm *vm)
{
	vm->stop = true;
	vm->run->immediate_exit = 1;
	pthread_kill(vm->thread, SIGUSR1);
	pthread_join(vm->thread, NULL);
}

static uint32_t word(const char *data, unsigned int page)
{
	return __atomic_load_n((uint32_t *)(data + page * STRIDE),
			       __ATOMIC_ACQUIRE);
}

/* Waits until the guest has ended round @round in @data. */
static bool reaches(const char *data, uint32_t round)
{
	double end = seconds() + 60;

	while ((int32_t)(word(data, PAGES - 1) - round) < 0) {
		if (seconds() > end)
			return false;
		usleep(200);
	}
	return true;
}

static void take_words(const char *data, uint32_t *words)
{
	unsigned int i;

	for (i = 0; i < PAGES; i++)
		words[i] = word(data, i);
}

static bool is_one_instant(const uint32_t *words)
{
	unsigned int i;

	for (i = 1; i < PAGES; i++)
		if (words[i] > words[i - 1])
			return false;
	return words[0] - words[PAGES - 1] <= 1;
}

FIXTURE(kvm)
{
	int fd;
	char *data;
	struct vm vm;
};

FIXTURE_VARIANT(kvm)
{
	bool huge;
};

FIXTURE_VARIANT_ADD(kvm, small_pages) { .huge = false };
FIXTURE_VARIANT_ADD(kvm, huge_pages) { .huge = true };

FIXTURE_SETUP(kvm)
{
	struct sigaction action = { .sa_handler = on_signal };
	unsigned int i;

	self->vm = (struct vm) { .kvm = -1, .vm = -1, .cpu = -1 };
	self->fd = mem_open();
	ASSERT_LE(0, self->fd);
	ASSERT_EQ(0, sigaction(SIGUSR1, &action, NULL));
	self->vm.kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (self->vm.kvm < 0)
		SKIP(return, "/dev/kvm: %s", strerror(errno));
	self->data = variant->huge ? mem_map_huge(DATA_LEN) :
				     mem_map_offset(DATA_LEN, MEM_HUGE, 0);
	if (!self->data)
		SKIP(return, "no huge pages");
	/* What the loop does not write, it leaves alone; it begins with 1. */
	mem_fill(self->data, DATA_LEN, 1);
	for (i = 0; i < PAGES; i++)
		memset(self->data + i * STRIDE, 0, 8);
	ASSERT_EQ(0, vm_open(&self->vm, self->data));
}

FIXTURE_TEARDOWN(kvm)
{
	vm_close(&self->vm);
	close(self->fd);
}

#define KEEP	4
#define ENOUGH	40
#define FOREVER	1000000	/* for the harness; we watch ourselves */

/* Is @nr enough? A guest that needs long for these few is slow, not broken. */
static bool is_enough(unsigned int nr, double since)
{
	const char *minutes = getenv("COWSNAP_MINUTES");
	double past = seconds() - since;

	if (minutes)
		return nr > KEEP && past > 60 * atof(minutes) / 2;
	return nr >= ENOUGH || past > 60;
}

/*
 * If this fails, the snapshot of a virtual machine's memory is torn, or the
 * machine goes on writing into it.
 */
TEST_F_TIMEOUT(kvm, duplicate_is_one_instant_while_the_guest_writes, FOREVER)
{
	uint32_t words[KEEP][PAGES], now[PAGES];
	char *dup[KEEP] = { NULL };
	double start = seconds();
	unsigned int i, nr, torn = 0, changed = 0;

	ASSERT_EQ(0, vm_start(&self->vm, CODE));
	for (nr = 0; !is_enough(nr, start); nr++) {
		i = nr % KEEP;
		if (dup[i]) {
			take_words(dup[i], now);
			changed += !!memcmp(now, words[i], sizeof(now));
			munmap(dup[i], DATA_LEN);
		}
		/* The guest has its translations back, in writing. */
		ASSERT_TRUE(reaches(self->data, word(self->data, 0) + 2));
		dup[i] = mem_dup(self->fd, self->data, DATA_LEN);
		ASSERT_NE(NULL, dup[i]);
		take_words(dup[i], words[i]);
		torn += !is_one_instant(words[i]);
		/* It runs on, and what it writes goes to the source. */
		ASSERT_TRUE(reaches(self->data, words[i][0] + 2))
			TH_LOG("the guest stands still, exit %d",
			       self->vm.exit_reason);
		take_words(dup[i], now);
		changed += !!memcmp(now, words[i], sizeof(now));
	}
	vm_stop(&self->vm);
	EXPECT_EQ(-1, self->vm.exit_reason);
	EXPECT_EQ(0, torn);
	EXPECT_EQ(0, changed);
	EXPECT_LT(4, nr);
	/* Of each page: when it was new, a round later, and before the end. */
	TH_LOG("%u duplicates of a running guest, %u pages verified; %u rounds",
	       nr, (3 * nr - KEEP) * PAGES, word(self->data, 0));
	/* And nothing else was written. */
	EXPECT_EQ(0, memcmp(self->data + 8, dup[0] + 8, STRIDE - 8));
}

/* With FIXED: back to an earlier state, of which the guest reads at once. */
TEST_F(kvm, guest_sees_what_its_memory_was_replaced_with)
{
	struct cowsnap_remap r;
	uint32_t *first = (uint32_t *)self->data, *seen;
	char *dup;

	seen = (uint32_t *)(self->vm.low + SEEN);
	*first = 1234;
	ASSERT_EQ(0, vm_start(&self->vm, PEEK));
	pthread_join(self->vm.thread, NULL);
	ASSERT_EQ(KVM_EXIT_HLT, self->vm.exit_reason);
	ASSERT_EQ(1234, *seen);

	dup = mem_dup(self->fd, self->data, DATA_LEN);
	ASSERT_NE(NULL, dup);
	*first = 5678;
	ASSERT_EQ(0, vm_start(&self->vm, PEEK));
	pthread_join(self->vm.thread, NULL);
	ASSERT_EQ(5678, *seen);

	ASSERT_EQ(0, mem_remap(self->fd, dup, DATA_LEN, self->data,
			       COWSNAP_REMAP_FIXED, &r));
	ASSERT_EQ(0, vm_start(&self->vm, PEEK));
	pthread_join(self->vm.thread, NULL);
	EXPECT_EQ(1234, *seen);
}

/* Returns when the machine is there, which a process of its own keeps. */
static int hold(void)
{
	struct vm vm = { .kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), .cpu = -1 };
	pid_t child;
	int fd;

	vm.vm = ioctl(vm.kvm, KVM_CREATE_VM, 0);
	if (vm.vm >= 0)
		vm.cpu = ioctl(vm.vm, KVM_CREATE_VCPU, 0);
	child = vm.cpu < 0 ? -1 : fork();
	if (child < 0) {
		perror("kvm_test --hold");
		return 1;
	}
	if (child)
		return 0;
	/* Whoever reads what we write is to find an end. */
	for (fd = 0; fd <= 2; fd++)
		close(fd);
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "--hold"))
		return hold();
	extend_timeouts();
	return test_harness_run(argc, argv);
}
