#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Usage: check.sh
# All tests: for each supported kernel a guest with one node and 4-level page
# tables, one with two nodes, and one with a fault-injecting module; then the
# mutants. The last line counts the results; the status is 0 when some passed
# and none failed. The output of each guest is in build/check/log.
# Environment: KERNELS="6.1 6.12", MUTANTS=no, JOBS (guests at a time).

set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/common.sh"

kernels=${KERNELS:-6.1 6.12}
out=$top/build/check
log=$out/log

# Step $1, a test in itself, is the command $2...; status 1 when it fails.
step()
{
	local name=$1 start=$SECONDS status=0

	shift
	"$@" >"$log/$name.log" 2>&1 || status=1
	if [ $status = 0 ]; then
		echo "ok $name" >>"$log/$name.log"
		echo "$name: passed, $((SECONDS - start)) s"
	else
		echo "not ok $name" >>"$log/$name.log"
		echo "$name: failed, $log/$name.log ends so:"
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
	cp "$vm/guest-check.sh" "$out/files"
}

build_modules()
{
	local series kernel

	for series in $kernels; do
		kernel=$(cat "$out/kernel-$series") &&
		"$vm/build.sh" "$kernel" "$out/module-$series" &&
		COWSNAP_FAULTS=1 "$vm/build.sh" "$kernel" "$out/faults-$series" || return
	done
}

fetch_kernels()
{
	local series

	for series in $kernels; do
		"$vm/fetch.sh" "$series" >"$out/kernel-$series" || return
	done
}

# The guest called $1: kernel series $2, module directory $3, tests $4, options $5...
boot()
{
	local name=$1 series=$2 module=$3 tests=$4 status=0 start=$SECONDS passed failed skipped

	shift 4
	"$vm/run.sh" --kernel "$(cat "$out/kernel-$series")" --module "$out/$module-$series/cowsnap.ko" \
		--files "$out/files" --timeout 900 --keep-console "$log/$name.console" "$@" \
		-- "/files/guest-check.sh $tests" >"$log/$name.log" 2>&1 || status=$?
	case $status in
	0|1)	echo "ok boot $name: the kernel did not complain" ;;
	*)	echo "not ok boot $name: status $status of run.sh" ;;
	esac >>"$log/$name.log"

	read -r passed failed skipped < <(count_results "$log/$name.log")
	echo "$name: $passed passed, $failed failed, $skipped skipped, $((SECONDS - start)) s"
	[ "$failed" = 0 ] || grep '^not ok' "$log/$name.log" | sed 's/^/    /'
}

boot_all()
{
	local series tests

	tests=$(cd "$out/files/selftests" && echo *_test)
	tests=${tests//fault_test/}
	for series in $kernels; do
		spawn boot "$series-2nodes" "$series" module "$tests" --nodes 2 --cpus 8
		spawn boot "$series-1node" "$series" module "$tests" --cpus 2 --cpu max,la57=off
		[ ! -e "$out/files/selftests/fault_test" ] ||
			spawn boot "$series-faults" "$series" faults fault_test --cpus 2
	done
	wait
}

# However we end, the count comes last, and is none of a success by accident.
finish()
{
	local status=$? passed failed skipped

	kill_jobs
	read -r passed failed skipped < <(count_results "$log"/*.log)
	[ $status = 0 ] || [ "$failed" -gt 0 ] || failed=1
	echo "$passed passed, $failed failed, $skipped skipped"
	[ "$passed" -gt 0 ] && [ "$failed" = 0 ] || exit 1
}

mkdir -p "$out"
exec 8>"$out/lock"
flock 8
rm -rf "$log" "$out/files"
mkdir -p "$log" "$out/files/selftests"
trap finish EXIT
trap 'exit 1' INT TERM HUP

"$vm/setup.sh" g++ mandoc
step fetch fetch_kernels
step user build_user
step library make -C "$top/user" O="$out/user-shared" check || true
step modules build_modules
boot_all
if [ "${MUTANTS:-yes}" != no ]; then
	"$vm/../mutants/run.sh" | tee "$log/mutants.log"
fi
echo "in all $SECONDS s"
