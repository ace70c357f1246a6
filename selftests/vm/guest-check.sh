#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Usage: guest-check.sh [PROGRAM[:TEST|:/VARIANT]...]
# In a guest: load /cowsnap.ko, provide swap, run the programs in
# /files/selftests (all of them, or those named; of a program all tests, the one
# named, or those of a variant), unload the module. Results are TAP lines; the status is 1 when one
# is `not ok`. A program has COWSNAP_TEST_TIMEOUT seconds (1200). What a kernel
# with checks has to say at the end, leaks and lockdep, is a result as well.

dir=/files/selftests
cgroup=/sys/fs/cgroup/guest-check
kmemleak=/sys/kernel/debug/kmemleak
failed=0
# How much slower than others a kernel with all checks is.
[ ! -e $kmemleak ] || export COWSNAP_SLOWNESS="${COWSNAP_SLOWNESS:-5}"
limit=${COWSNAP_TEST_TIMEOUT:-$((1200 * ${COWSNAP_SLOWNESS:-1}))}

result()
{
	if [ "$1" = 0 ]; then
		echo "ok $2"
	else
		echo "not ok $2"
		failed=1
	fi
}

setup()
{
	modprobe brd rd_nr=2 rd_size=131072 &&
	mkswap /dev/ram0 >/dev/null &&
	swapon /dev/ram0 &&
	echo madvise >/sys/kernel/mm/transparent_hugepage/enabled &&
	# It would make huge what tests have taken apart; tests of it wake it.
	echo 100000000 >/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs &&
	# Its faults would be counted with ours; tests of it switch it on.
	{ [ ! -e /proc/sys/kernel/numa_balancing ] ||
		echo 0 >/proc/sys/kernel/numa_balancing; } &&
	mkdir $cgroup
}

# What a program says has to agree with how it ended.
judge()
{
	name=$1 status=$2
	plan=$(sed -n 's/^1\.\.\([0-9]*\).*/\1/p' /tmp/output | head -n 1)
	results=$(grep -cE '^(not )?ok ' /tmp/output)

	if [ "$status" = 4 ] && [ "$results" = 0 ]; then
		echo "ok $name # SKIP $(sed -n 's/.*# SKIP *//p' /tmp/output | head -n 1)"
	elif [ "$status" = 0 ] && [ "$results" = 0 ]; then
		result 1 "$name: nothing ran"
	elif [ -n "$plan" ] && [ "$plan" != "$results" ]; then
		result 1 "$name: $results of $plan results, exit status $status"
	elif [ "$status" != 0 ] && ! grep -q '^not ok ' /tmp/output; then
		result 1 "$name: exit status $status"
	fi
	! grep -q '^not ok ' /tmp/output || failed=1
}

now()
{
	cut -d. -f1 /proc/uptime
}

# What lies about from the start is not ours. An object counts as lost when two
# scans, 5 seconds after it was allocated, find no pointer to it.
forget_leaks()
{
	[ ! -e $kmemleak ] || echo clear >$kmemleak
}

check_leaks()
{
	[ -e $kmemleak ] || return 0
	sleep 6
	echo scan >$kmemleak && echo scan >$kmemleak && cat $kmemleak >/tmp/leaks
	[ $? = 0 ] && [ ! -s /tmp/leaks ]
	result $? no_kernel_memory_leaked
	sed 's/^/# /' /tmp/leaks
}

# It switches itself off at its first complaint, of any kind, and then is blind.
check_lockdep()
{
	[ -e /proc/lockdep_stats ] || return 0
	grep -q 'debug_locks: *1' /proc/lockdep_stats
	result $? lockdep_still_watches
}

# Where the CPU has SVM, which TCG emulates. KVM patches the scheduler when the
# first machine is made, and back when the last one goes; there the emulator's
# other CPU may keep the breakpoint that stands in that place meanwhile, and meet
# it for ever (an endless exc_int3 in finish_task_switch). So one machine is made
# while no other CPU is up, and stays.
load_kvm()
{
	modprobe -q kvm_amd 2>/dev/null
	[ "${COWSNAP_ACCEL:-}" = tcg ] && [ -e /dev/kvm ] && ! pidof kvm_test >/dev/null || return 0
	switch_cpus 0 && "$dir/kvm_test" --hold
	switch_cpus 1
}

# All but the first.
switch_cpus()
{
	for cpu in /sys/devices/system/cpu/cpu[1-9]*/online; do
		[ ! -e "$cpu" ] || echo "$1" >"$cpu" || return
	done
}

# In a control group, so that no process of it is left afterwards.
run_test()
{
	program=${1%%:*} only=${1#"${1%%:*}"} start=$(now)
	by=-t
	# Of the harness's options any selects: a variant alone, then.
	case $only in
	*/*)	only=:${only#*/} by=-v ;;
	esac

	echo "# == $1 =="
	if [ ! -x "$dir/$program" ]; then
		result 1 "$1: nothing ran"
		return
	fi
	[ "$program" != kvm_test ] || load_kvm
	mkfifo /tmp/pipe
	tee /tmp/output </tmp/pipe &
	(
		echo 0 >$cgroup/cgroup.procs
		exec timeout -k 5 "$limit" "$dir/$program" ${only:+"$by" "${only#:}"}
	) </dev/null >/tmp/pipe 2>&1
	status=$?
	# What is left of it may be in a group of its own.
	for group in $cgroup /sys/fs/cgroup/cowsnap-*; do
		[ ! -e "$group/cgroup.kill" ] || echo 1 >"$group/cgroup.kill"
	done
	wait
	while grep -q . $cgroup/cgroup.procs; do
		usleep 100000
	done
	rm /tmp/pipe
	judge "$1" $status
	echo "# $1 took $(($(now) - start)) s"
}

setup || { result 1 "guest set-up"; exit 1; }
forget_leaks
insmod /cowsnap.ko || { result 1 "insmod"; exit 1; }
if [ $# = 0 ]; then
	cd $dir || exit
	set -- *_test
	cd / || exit
fi
for test; do
	run_test "$test"
done
rmmod cowsnap
result $? rmmod_after_tests
# With a swap entry leaked this does not end.
timeout 60 swapoff /dev/ram0
result $? swapoff_after_tests
check_leaks
check_lockdep
exit $failed
