#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Usage: large.sh [KERNEL...]
# The long run of large_test: for each KERNEL (6.1 6.12 7.3) and each size of large
# folios a guest that runs 10000 sequences, beginning with the largest, which
# take longest. A line for each; the output is in build/large/log. The status is
# 0 when some passed and none failed.
# Environment: COWSNAP_LARGE_SEQUENCES, COWSNAP_LARGE_FIRST, COWSNAP_SIZE (only
# folios of so many kB), JOBS (guests at a time).

set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/common.sh"

out=$top/build/large
log=$out/log
nr=${COWSNAP_LARGE_SEQUENCES:-10000}
first=${COWSNAP_LARGE_FIRST:-1}
sizes=${COWSNAP_SIZE:-2048 1024 512 256 128 64 32 16}
# Not for the result but for the time it takes where instructions are emulated:
# one CPU (the other node is memory only).
fast=(--nodes 2 --cpus 2 --mem 1G --cpu 'max,la57=off' --append nr_cpus=1)

build()
{
	local kernel

	"$vm/kselftest.sh" >"$out/kselftest" &&
	make -C "$top/selftests" KSELFTEST_DIR="$(cat "$out/kselftest")" \
		OUTPUT="$out/files/selftests" STATIC=1 "$out/files/selftests/large_test" &&
	cp "$vm/guest-check.sh" "$out/files" || return
	for kernel; do
		"$vm/fetch.sh" "$kernel" >"$out/kernel-$kernel" &&
		"$vm/build.sh" "$(cat "$out/kernel-$kernel")" "$out/module-$kernel" || return
	done
}

# Folios of $2 kB in a guest with kernel $1.
boot()
{
	local name=$1-$2 status=0 passed failed skipped

	"$vm/run.sh" --kernel "$(cat "$out/kernel-$1")" --module "$out/module-$1/cowsnap.ko" \
		--files "$out/files" --timeout 100000 --keep-console "$log/$name.console" "${fast[@]}" \
		-- "export COWSNAP_LARGE_SEQUENCES=$nr COWSNAP_LARGE_FIRST=$first COWSNAP_SIZE=$2
		    COWSNAP_TEST_TIMEOUT=99000 /files/guest-check.sh large_test" \
		>"$log/$name.log" 2>&1 || status=$?
	# The other sizes are skipped; when this one is, too, the kernel has none.
	read -r passed failed skipped < <(grep -v '^ok .*_after_tests' "$log/$name.log" | count_results -)
	if [ "$status" != 0 ] || [ "$failed" != 0 ]; then
		echo "not ok $name: status $status, $log/$name.log"
		grep -a -A 30 'COWSNAP_SEED=' "$log/$name.log" | sed 's/^/    /' | head -n 30
	elif [ "$passed" = 0 ]; then
		echo "ok $name # SKIP no folios of this size, $skipped tests skipped"
	else
		echo "ok $name:$(sed -n 's/^# \([0-9]* sequences\)/ \1/p' "$log/$name.log")"
	fi
}

report()
{
	boot "$@" | tee "$log/$1-$2.result"
}

[ $# -gt 0 ] || set -- 6.1 6.12 7.3
mkdir -p "$out"
exec 8>"$out/lock"
flock 8
rm -rf "$log" "$out/files"
mkdir -p "$log" "$out/files/selftests"
trap kill_jobs EXIT
trap 'exit 1' INT TERM HUP

quietly build "$@"
for size in $sizes; do
	for kernel; do
		spawn report "$kernel" "$size"
	done
done
wait
read -r passed failed skipped < <(count_results "$log"/*.result)
echo "$passed passed, $failed failed, $skipped skipped"
[ "$passed" -gt 0 ] && [ "$failed" = 0 ]
