#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# report.sh COWSNAP-BENCH: what "report" and the workloads about memory promise
# without the module. Bad requests end with status 2 and one sentence; the page
# needs nothing beside it; pictures of emulated figures say so; a run that is killed
# has written what it measured; settings come back.
set -u
bench=$1
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/tap.sh"

refuses()
{
	"$@" >"$work/out" 2>"$work/err"
	[ $? = 2 ] && [ "$(wc -l <"$work/err")" = 1 ]
	ok $? "refused in one sentence: ${*:2} ($(sed 's/^cowsnap-bench: //' "$work/err"))"
}

# measure DIR ACCELERATOR: small results as a machine of that kind would have them.
measure()
{
	local workload

	mkdir -p "$1"
	for workload in create touch checkpoint frequent refcount; do
		COWSNAP_ACCEL=$2 "$bench" --size 2M --page 4k --repeat 2 --methods fork,memcpy \
			--json "$1/$workload.json" "$workload" >>"$work/out" 2>&1 || return
	done
}

mkdir "$work/none" "$work/broken" "$work/bin"
echo '{ "results": [' >"$work/broken/x.json"
refuses "$bench" report
refuses "$bench" report "$work/nowhere"
refuses "$bench" report "$work/none"
refuses "$bench" report "$work/broken"
measure "$work/tcg" tcg
ok $? "small runs as in an emulated machine"
refuses env PATH="$work/bin" "$bench" report "$work/tcg"

# pictures_say DIR PATTERN: all of them, and there are some.
pictures_say()
{
	[ "$(find "$1" -name '*.svg' | wc -l)" -ge 6 ] &&
		! grep -L "$2" "$1"/*.svg | grep -q .
}

if command -v gnuplot >/dev/null; then
	"$bench" report "$work/tcg" >"$work/coverage" 2>"$work/err" && [ ! -s "$work/err" ]
	ok $? "a page of them"
	pictures_say "$work/tcg" 'emulated (TCG)'
	ok $? "pictures of emulated figures say so"
	[ "$(grep -o 'src="data:image/svg+xml;base64,[A-Za-z0-9+/=]*"' "$work/tcg/report.html" | wc -l)" = \
	  "$(find "$work/tcg" -name '*.svg' | wc -l)" ] && ! grep -q 'src="[^d]\|href=' "$work/tcg/report.html"
	ok $? "the page has all of them in it, and refers to nothing else"
	grep -q '^  refcount *fork *[1-9][0-9]*$' "$work/coverage" &&
		grep -q '^  numa *fork *EMPTY' "$work/coverage"
	ok $? "and says which methods and workloads have figures"
	measure "$work/icount" icount && "$bench" report "$work/icount" >/dev/null &&
		pictures_say "$work/icount" 'emulated (icount): numbers of instructions'
	ok $? "so do those of counted instructions"
	"$bench" --size 1M,2M --page 4k --methods fork,memcpy --json "$work/none/real.json" create >"$work/out" 2>&1 &&
		"$bench" report "$work/none" >"$work/out" && ! grep -q emulated "$work/none"/*.svg
	ok $? "and those of a real machine do not"
else
	ok 0 "pictures # SKIP gnuplot is not installed"
fi

# figure METRIC METHOD: its median in $work/j, which is written as JSON here.
figure()
{
	awk -v metric="\"metric\": \"$1\"," -v method="\"method\": \"$2\"," '
		index($0, "\"metric\":") { here = index($0, metric) }
		index($0, "\"method\":") && here { right = index($0, method) }
		index($0, "\"median\":") && here && right { gsub(/[^0-9.]/, ""); print; exit }
		/^  }/ { here = right = 0 }' "$work/j"
}

"$bench" --size 2M --repeat 1 --methods fork,memcpy,mprotect --json "$work/j" refcount >"$work/out" 2>&1
ok $? "a walk over objects with reference counts"
[ "$(figure 'snapshot USS before' fork)" = 0.0 ] && [ "$(figure 'snapshot USS after' fork)" = 2.0 ] &&
	[ "$(figure 'snapshot PSS before' fork)" = 1.0 ] && [ "$(figure 'source RSS after' fork)" = 2.0 ] &&
	[ "$(figure 'snapshot USS before' memcpy)" = 2.0 ] && [ "${faults:=$(figure 'faults of the walk' fork)}" ] &&
	[ "${faults%.*}" -ge 512 ]
ok $? "takes a copy of each page that was shared (${faults:-no} faults), and of none that was not"

[ "$(figure 'snapshot RSS before' mprotect)" = 0.0 ] && [ "$(figure 'source RSS before' mprotect)" = 2.0 ] &&
	[ "$(figure 'snapshot RSS after' mprotect)" = 2.0 ]
ok $? "each side has its own figures"

settings="/sys/kernel/mm/ksm/run /sys/kernel/mm/ksm/pages_to_scan /sys/kernel/mm/ksm/sleep_millisecs
	/proc/sys/kernel/numa_balancing"
# On somebody's machine nothing is changed at all; in a guest it comes back.
allow=()
[ -z "${COWSNAP_ACCEL:-}" ] || allow=(--allow-system)
# shellcheck disable=SC2086
before=$(cat $settings 2>&1)
"$bench" "${allow[@]}" --size 2M --repeat 1 --methods fork,memcpy --json "$work/j" migrate pcp numa >"$work/out" 2>&1
status=$?
[ $status = 0 ] || tail -n 20 "$work/out" | sed 's/^/# /'
ok $status "pages that are moved, per-CPU lists, nodes"
! grep -q 'WRONG' "$work/out" && grep -q '^  write, lists full .*none' "$work/out" &&
	grep -q '^  16 reads, nothing .*fork' "$work/out"
ok $? "with contents as they were, and figures"
[ ${#allow[@]} != 0 ] || grep -q '^  offline: not here: .*give --allow-system' "$work/out"
ok $? "and no memory of this machine offline, unless it may be"
"$bench" "${allow[@]}" --size 2M --repeat 100000 --methods fork migrate >"$work/out" 2>&1 &
pid=$!
sleep 1
kill -INT $pid
wait $pid
[ $? = 130 ]
ok $? "Ctrl-C while pages are moved"
# shellcheck disable=SC2086
[ "$(cat $settings 2>&1)" = "$before" ]
ok $? "settings are what they were"

rm -f "$work/j"
"$bench" --size 1M,64M --repeat 200 --methods fork,memcpy --json "$work/j" refcount >"$work/out" 2>&1 &
pid=$!
for _ in $(seq 300); do
	! grep -qs '"workload": "refcount"' "$work/j" || break
	sleep 0.2
done
kill -KILL $pid
wait $pid 2>/dev/null
[ "$(figure 'snapshot USS after' fork)" = 1.0 ] && grep -q '"interrupted": true' "$work/j"
ok $? "a run that was killed has written what it measured"
end_tests
