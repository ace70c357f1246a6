#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Usage: check.sh
# All tests: for each kernel a guest with two nodes and 4-level page tables, and
# one with one node, 5-level page tables and a fault-injecting module, without the
# tests that cannot tell; on the debug kernel, where everything takes several
# times as long, two guests share the tests. Then the mutants.
# The last line counts the results; the status is 0 when some passed and none
# failed. The output of each guest is in build/check/log, how long each program
# took in build/check/times.
# Environment: KERNELS="6.1 6.12 7.3 debug" (what fetch.sh takes; the one that takes
# longest last), MUTANTS=no, JOBS (guests at a time), TESTS="abi_test ..." (of the
# programs only these).

set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/common.sh"
# shellcheck source-path=SCRIPTDIR
. "$vm/progress.sh"

# A guest with the fault-injecting module waits for most of its time.
jobs=$((jobs + 1))
kernels=${KERNELS:-6.1 6.12 7.3 debug}
out=$top/build/check
log=$out/log
# What neither nodes nor page-table levels make a difference to. Whatever is
# missing here runs twice.
same='argument_test attribute_test churn_test diff_test dirty_test file_test fuzz_test'
same+=' hmm_test hostile_test hugetlb_file_test hugetlb_surplus_test hugetlb_test instant_test'
same+=' kill_test kinds_test ksm_test kvm_test large_test life_test limit_test mapped_test'
same+=' model_test moving_test oom_test ops_argument_test ops_place_test ops_race_test pin_test'
same+=' query_test race_test reclaim_test refresh_test refused_test release_kinds_test'
same+=' release_test remap_test rmap_test security_test sequence_test stranger_test'
same+=' sync_kinds_test sync_rmap_test sync_test uffd_kinds_test uffd_test unshare_kinds_test unshare_test'

# How kernel $1 is called in file names.
name_of()
{
	local name=${1%/}

	name=${name##*/}
	echo "${name//[^A-Za-z0-9._+-]/-}"
}

# Step $1, a test in itself, is the command $2...; status 1 when it fails.
step()
{
	local name=$1 status=0

	shift
	begin "$name"
	"$@" >"$log/$name.log" 2>&1 || status=1
	if [ $status = 0 ]; then
		echo "ok $name" >>"$log/$name.log"
		finish "$name" passed
	else
		echo "not ok $name" >>"$log/$name.log"
		finish "$name" "failed, $log/$name.log ends so:"
		tail -n 20 "$log/$name.log"
	fi
	return $status
}

build_user()
{
	"$vm/kselftest.sh" >"$out/kselftest" &&
	make -C "$top/user" STATIC=1 O="$out/user" &&
	make -C "$top/selftests" KSELFTEST_DIR="$(cat "$out/kselftest")" \
		OUTPUT="$out/files/selftests" STATIC=1 -j"$(nproc)" &&
	strip "$out/files/selftests"/*_test &&
	cp "$vm/guest-check.sh" "$out/files"
}

# What cowsnap-bench promises, and what its methods need: in a guest of one kernel,
# since it is about the program.
bench_kernel=6.12
bench_tests='bench_interrupt_test bench_limit_test bench_method_test'
build_bench()
{
	local test dir=$out/files-bench

	make -C "$top/user" STATIC=1 O="$out/user" "$out/user/tests/method_test" &&
	"$vm/methods.sh" "$dir/methods" &&
	cp "$out/user/cowsnap-bench" "$out/user/tests/method_test" "$top/user/tests/interrupt.sh" \
		"$top/user/tests/tap.sh" "$dir/methods" &&
	strip "$dir/methods/cowsnap-bench" "$dir/methods/method_test" &&
	mkdir -p "$dir/selftests" &&
	for test in $bench_tests; do
		cp "$vm/guest-bench-test.sh" "$dir/selftests/$test" || return
	done
}

build_modules()
{
	local dir

	dir=$(cat "$out/kernel-$1") &&
	"$vm/build.sh" "$dir" "$out/module-$1" &&
	COWSNAP_FAULTS=1 "$vm/build.sh" "$dir" "$out/faults-$1"
}

# Kernel $1, called $2. The link is what says that it is there.
fetch_kernel()
{
	"$vm/fetch.sh" "$1" >"$out/fetched-$2" && mv "$out/fetched-$2" "$out/kernel-$2"
}

# One after the other: they come from the same few archives.
fetch_kernels()
{
	local kernel

	for kernel; do
		step "fetch-$(name_of "$kernel")" fetch_kernel "$kernel" "$(name_of "$kernel")" || true
	done
}

# Is guest $1 allowed to leave out test $2 for reason $3?
may_skip()
{
	local guest test reason

	while IFS=$'\t' read -r guest test reason; do
		# shellcheck disable=SC2053
		[[ $1 == $guest && $2 == $test && $3 == "$reason"* ]] && return
	done < <(grep -v '^#' "$vm/skips")
	return 1
}

# What guest $1, with log $2, left out that it should not. Of kernels other than
# ours nobody has said what they lack.
unexpected_skips()
{
	local test reason

	[[ $1 =~ ^(6\.1|6\.12|7\.3|debug)- ]] || return 0
	sed -nE 's/^ok ([0-9]+ )?(.*) # SKIP *(.*)/\2\t\3/p' "$2" |
	while IFS=$'\t' read -r test reason; do
		may_skip "$1" "$test" "$reason" || echo "not ok left out: $test: $reason"
	done
}

# The guest called $1: kernel $2, module directory $3, tests $4, options $5...
boot()
{
	local name=$1 kernel=$2 module=$3 tests=$4 status=0 passed failed skipped

	shift 4
	begin "$name"
	"$vm/run.sh" --kernel "$(cat "$out/kernel-$kernel")" --module "$out/$module-$kernel/cowsnap.ko" \
		--files "$out/files" --keep-console "$log/$name.console" "$@" \
		-- "/files/guest-check.sh $tests" >"$log/$name.log" 2>&1 || status=$?
	# run.sh may fail before there is a guest.
	case $status in
	0)	grep -aq '^ok' "$log/$name.log" || status=none ;;
	1)	! grep -aq '^not ok' "$log/$name.log" || status=0 ;;
	esac
	if [ $status = 0 ]; then
		echo "ok boot $name: the kernel did not complain"
	else
		echo "not ok boot $name: status $status of run.sh"
	fi >>"$log/$name.log"
	unexpected_skips "$name" "$log/$name.log" >"$log/$name.skips"
	cat "$log/$name.skips" >>"$log/$name.log"

	read -r passed failed skipped < <(count_results "$log/$name.log")
	finish "$name" "$passed passed, $failed failed, $skipped skipped"
	# With what was said before: where this runs, nobody may be there to look.
	[ "$failed" = 0 ] || grep -a -B 12 '^not ok' "$log/$name.log" | head -n 200 | sed 's/^/    /'
}

# Of the built tests: those in $1, or with - as $2 all but those.
tests_of()
{
	local test

	# Those of the bench first: they want huge pages, of memory that is in one piece yet.
	for test in $bench_tests "$out/files/selftests"/*_test; do
		test=${test##*/}
		[[ -z "${TESTS:-}" || " $TESTS " == *" $test "* ]] || continue
		if [[ " $1 " == *" $test "* ]]; then
			[ -n "${2:-}" ] || echo -n "$test "
		else
			[ -z "${2:-}" ] || echo -n "$test "
		fi
	done
}

# The guest of kernel $1 called $2, with module directory $3, tests $4, options
# $5..., unless there is nothing to test in it.
start()
{
	local name=$1-$2

	[ "$1" != debug ] || set -- "$@" --timeout 2400
	[ -z "$4" ] || spawn boot "$name" "$1" "$3" "$4" --timeout 1800 "${@:5}"
}

# The guests of kernel $1.
boot_kernel()
{
	if [ "$1" = debug ]; then
		start debug same module "$(tests_of "$same")" --nodes 2
		start debug faults faults "$(tests_of "$same $bench_tests" -)" --nodes 2
		return
	fi
	if [ "$1" = $bench_kernel ]; then
		start "$1" 2nodes module "$(tests_of fault_test -)" --nodes 2 --cpu max,la57=off \
			--files "$out/files-bench"
	else
		start "$1" 2nodes module "$(tests_of "fault_test $bench_tests" -)" --nodes 2 \
			--cpu max,la57=off
	fi
	start "$1" 1node faults "$(tests_of "$same $bench_tests" -)"
}

# As soon as kernel $1 is there: its modules and guests.
check_kernel()
{
	while [ ! -e "$out/kernel-$1" ]; do
		grep -qs '^not ok' "$log/fetch-$1.log" && return
		sleep 1
	done
	step "build-$1" build_modules "$1" || return 0
	boot_kernel "$1"
}

# What each program took in each guest, the longest first.
write_times()
{
	awk '/^# .* took [0-9]+ s$/ {
		guest = FILENAME
		gsub(/.*\/|\.log$/, "", guest)
		printf "%5d s  %-16s %s\n", $4, $2, guest
	}' "$log"/*.log | sort -rn >"$out/times"
}

# However we end, the count comes last, and is none of a success by accident.
at_exit()
{
	local status=$? passed failed skipped

	kill_jobs
	end_progress
	write_times
	read -r passed failed skipped < <(count_results "$log"/*.log)
	[ $status = 0 ] || [ "$failed" -gt 0 ] || failed=1
	echo "$passed passed, $failed failed, $skipped skipped"
	[ "$passed" -gt 0 ] && [ "$failed" = 0 ] || exit 1
}

for test in ${TESTS:-}; do
	[[ -e $top/selftests/$test.c || " $bench_tests " == *" $test "* ]] ||
		die "there is no selftests/$test.c"
done
mkdir -p "$out"
exec 8>"$out/lock"
flock 8
rm -rf "$log" "$out/files" "$out/files-bench" "$out"/kernel-* "$out"/fetched-*
mkdir -p "$log" "$out/files/selftests"
trap at_exit EXIT
trap 'exit 1' INT TERM HUP

"$vm/setup.sh" g++ mandoc btrfs-progs
begin_progress
read -r -a list <<<"$kernels"
background fetch_kernels "${list[@]}"
step user build_user
step bench build_bench
step library make -C "$top/user" O="$out/user-shared" check || true
for kernel in "${list[@]}"; do
	check_kernel "$(name_of "$kernel")"
done
if [ "${MUTANTS:-yes}" != no ]; then
	# Many and short: they fill the time until the last guests end.
	wait_spawned 3
	begin mutants
	KERNELS=$kernels "$vm/../mutants/run.sh" | tee "$log/mutants.log" | sed -u "s/^/$clear_line/"
	finish mutants over
fi
wait_spawned 1
echo "${clear_line}in all $SECONDS s; times of the programs: $out/times"
