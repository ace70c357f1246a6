# SPDX-License-Identifier: GPL-2.0

KDIR	?= /lib/modules/$(shell uname -r)/build
PREFIX	?= /usr/local
export PREFIX DESTDIR

.PHONY: all module user selftests check soak large bench bench-full report bench-count bench-native check-here bench-here install clean help

all: module user

help:
	@echo 'make                the module for the running kernel, library, bench'
	@echo 'make check          all tests, in virtual machines (MUTANTS=no KERNELS="6.1 6.12 7.3 debug"'
	@echo '                    TESTS="remap_test ..." JOBS=2; selftests/vm/check.sh says what they take)'
	@echo 'make soak           random operations and foreign programs, for MINUTES=10 in all (KERNELS=... JOBS=2)'
	@echo 'make large          10000 random sequences with huge pages of each size (KERNELS=... JOBS=2); more than an hour'
	@echo 'make bench          cowsnap beside other ways, a selection, in a virtual machine (BENCH_ARGS=... MEM=4G)'
	@echo 'make bench-full     every workload with every method, in a virtual machine (NODES=2 CPUS=4 ICOUNT=yes BENCH_ARGS="numa ...")'
	@echo 'make report         pictures and a page of what bench and bench-full left in build/bench (DIR=... of other results)'
	@echo 'make bench-count    instructions a page, compared with the stored ones (STORE=yes stores them; BENCH_ARGS=...)'
	@echo 'make bench-native   inner loops beside the kernel'"'"'s, in user space on this CPU (BENCH_ARGS=...)'
	@echo 'make check-here     the tests on this machine, with the module loaded'
	@echo 'make bench-here     the comparison on this machine, with the module loaded'
	@echo 'make install        module, library, header, man pages, udev rule (PREFIX= DESTDIR=)'
	@echo 'KDIR=DIR            the kernel to build the module for'

module: | kernel-headers
	$(MAKE) -C $(KDIR) M=$(CURDIR) modules

user:
	$(MAKE) -C user

selftests:
	$(MAKE) -C selftests

check:
	@selftests/vm/check.sh

soak:
	@selftests/vm/soak.sh

large:
	@selftests/vm/large.sh $(KERNELS)

bench:
	@selftests/vm/bench.sh $(BENCH_ARGS)

bench-full:
	@selftests/vm/bench.sh --full $(BENCH_ARGS)

report:
	@selftests/vm/report.sh $(DIR)

bench-count:
	@selftests/vm/bench.sh --count $(BENCH_ARGS)

bench-native:
	@$(MAKE) -s -C user native
	@user/build/bench-native $(BENCH_ARGS)

check-here: | loaded-module
	$(MAKE) -C selftests run_tests

bench-here: user | loaded-module
	user/build/cowsnap-bench $(BENCH_ARGS)

install: all
	$(MAKE) -C $(KDIR) M=$(CURDIR) $(if $(DESTDIR),INSTALL_MOD_PATH=$(DESTDIR)) modules_install
	$(MAKE) -C user install

clean:
	rm -rf build
	$(if $(wildcard $(KDIR)/Makefile),$(MAKE) -C $(KDIR) M=$(CURDIR) clean)
	$(MAKE) -C user clean
	rm -f selftests/*_test

.PHONY: kernel-headers loaded-module

kernel-headers:
	@test -e $(KDIR)/Makefile || { echo 'There is no kernel build directory $(KDIR): install linux-headers-$(shell uname -r), or set KDIR.' >&2; exit 1; }

loaded-module:
	@test -e /dev/cowsnap || { echo 'There is no /dev/cowsnap: load the module first (make && insmod cowsnap.ko).' >&2; exit 1; }
