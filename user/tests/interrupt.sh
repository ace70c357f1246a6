#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# interrupt.sh COWSNAP-BENCH METHOD...: with each METHOD, a run that is interrupted
# in the middle ends with 130, has written what it has, and leaves no child, no file
# and no other setting behind. What is not available is skipped.
set -u
bench=$1
shift
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/tap.sh"

# What a method might change outside of its process. (Others may mount or make files
# of their own meanwhile.)
system_state()
{
	grep -H . /sys/kernel/mm/ksm/run /sys/kernel/mm/ksm/pages_to_scan \
		/sys/kernel/mm/ksm/sleep_millisecs /sys/kernel/mm/ksm/smart_scan \
		/proc/sys/vm/unprivileged_userfaultfd /proc/sys/vm/max_map_count 2>/dev/null
	[ -z "${COWSNAP_REFLINK_DIR:-}" ] || ls -A "$COWSNAP_REFLINK_DIR"
}

# Interrupt process $1 some time after it is ready for that; 1 when it never is.
interrupt()
{
	until grep -qs '^  command' "$work/out"; do
		kill -0 "$1" 2>/dev/null || return 1
		sleep 0.1
	done
	sleep 0.3
	children=$(cat "/proc/$1/task/$1/children" 2>/dev/null)
	kill -INT "$1"
}

interrupted_run()
{
	rm -f "$work/json"
	"$bench" --size 2M --page 4k --repeat 1000000 --methods "$1" --json "$work/json" \
		create touch frequent >"$work/out" 2>"$work/err" &
	pid=$!
	interrupt $pid
	wait $pid
	[ $? = 130 ] && grep -q '"interrupted": true' "$work/json"
}

for method; do
	children=''
	system_state >"$work/before"
	interrupted_run "$method"
	status=$?
	if grep -q 'not available here' "$work/err"; then
		nr=$((nr + 1))
		echo "ok $nr - $method, interrupted # SKIP $(sed 's/^cowsnap-bench: //' "$work/err")"
		continue
	fi
	ok $status "$method, interrupted, ends with 130 and writes its results"
	for child in $children; do
		[ ! -e "/proc/$child" ] || status=1
	done
	system_state >"$work/after"
	diff "$work/before" "$work/after" && [ $status = 0 ]
	ok $? "$method, interrupted, leaves nothing behind"
done
end_tests
