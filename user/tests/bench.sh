#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# bench.sh COWSNAP-BENCH: what the harness promises without the module. Bad
# requests end with status 2 and one sentence; a small run gets contents right and
# writes JSON and CSV that can be read; an interrupted run writes what it has and
# leaves no child. And what count.sh says of counted instructions.
set -u
bench=$1
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/tap.sh"

refuses()
{
	"$bench" "$@" >"$work/out" 2>"$work/err"
	[ $? = 2 ] && [ "$(wc -l <"$work/err")" = 1 ]
	ok $? "refused in one sentence: $* ($(sed 's/^cowsnap-bench: //' "$work/err"))"
}

refuses --bogus
refuses nonsense
refuses --size 3
refuses --size 1M,
refuses --size 8192G create --page 4k
refuses --page 2k
refuses --methods nonsense
refuses --methods fork,fork
refuses --nodes 0:0
refuses --nodes 0:999:0
refuses --nodes 999:0:0
refuses --repeat 0
refuses --pattern plaid
refuses --copiers 0
refuses --size 8192G --page 4k --methods mprotect create
refuses --json - --csv -
refuses --json "$work/none/x"
[ -e /dev/cowsnap ] || refuses --methods cowsnap create
[ -e /dev/cowsnap ] || refuses --methods cowsnap-sync frequent

[ "$(cat /sys/kernel/mm/ksm/run 2>/dev/null)" = 1 ] || refuses --methods ksm create
COWSNAP_REFLINK_DIR=/proc refuses --methods reflink create

"$bench" --help | grep -q checkpoint && "$bench" --list | grep -q memcpy &&
	"$bench" --version | grep -q '^cowsnap-bench [0-9]'
ok $? "help, list and version"

# many holds no copies; ops and threads are about the module.
reasons='memcpy: .* so many do not fit\|none of the module.s operations\|threads: left out'
reasons+='\|fork: .*cowsnap, which it would be compared with'
"$bench" --size 2M --page 4k --repeat 2 --methods fork,memcpy --json "$work/j" \
	--csv "$work/c" >"$work/out" 2>&1
ok $? "a small run of all workloads"
! grep 'not available\|left out\|WRONG' "$work/out" | grep -qv "$reasons"
ok $? "with figures for each method, or why a workload is not for it"
[ "$(awk 'length > 110' "$work/out" | grep -vc '^  command')" = 0 ]
ok $? "in at most 110 columns"
if command -v python3 >/dev/null; then
	python3 - "$work/j" "$work/c" <<'PY'
import csv, json, sys
run = json.load(open(sys.argv[1]))
rows = list(csv.DictReader(open(sys.argv[2])))
missing = [r for r in rows if r["not_available"]]
rows = [r for r in rows if not r["not_available"]]
assert [(r["workload"], r["method"], r["not_available"]) for r in missing] == \
       [(m["workload"], m["method"], m["why"]) for m in run["not_available"]]
assert len(rows) == len(run["results"]) and not any(None in r or None in r.values() for r in rows)
assert {r["workload"] for r in rows} == {"create", "ops", "touch", "checkpoint", "frequent",
                                         "rollback", "many", "numa", "refcount", "migrate",
                                         "pcp"}
for r, f in zip(rows, run["results"]):
    assert r["metric"] == f["metric"] and r["kernel"] == run["environment"]["kernel"]
    assert float(r["median"]) == f["median"] and int(r["count"]) == f["count"] > 0
PY
	ok $? "JSON and CSV agree, figure by figure"
fi

"$bench" --size 2M --methods fork create --json - 2>/dev/null | head -c 1 | grep -q '{'
ok $? "--json - leaves stdout to JSON"

"$bench" --size 64M --page 4k --repeat 1000 --methods fork,memcpy --json "$work/j" \
	create >"$work/out" 2>&1 &
pid=$!
sleep 2
children=$(cat "/proc/$pid/task/$pid/children")
kill -INT $pid
wait $pid
[ $? = 130 ] && grep -q '"interrupted": true' "$work/j"
ok $? "an interrupted run ends with 130 and writes its results"
left=0
for child in $children; do
	[ ! -e "/proc/$child" ] || left=1
done
ok $left "and leaves no child"

# Figures as cowsnap-bench writes them: of REMAP $1, of DIFF $2 (none without).
counted()
{
	jq -n --argjson remap "$1" --argjson diff "${2:-null}" '
		def figure($metric; $method; $n): {
			workload: "ops", params: { page: "4k" }, metric: $metric,
			method: $method, unit: "instr", per_page: $n };
		{ environment: { time: "now", kernel: "k", accelerator: "icount" },
		  results: [ figure("REMAP"; "cowsnap"; $remap), figure("REMAP"; "fork"; 200),
			     if $diff then figure("DIFF, equal"; "cowsnap"; $diff) else empty end ] }'
}

# compares WHAT PATTERN REMAP [DIFF]: the one sentence that matches, or (empty) none.
compares()
{
	local status

	counted "$3" "${4:-}" >"$work/now"
	"$count" "$work/now" "$work/stored" >"$work/out" 2>"$work/err"
	status=$?
	if [ -n "$2" ]; then
		[ $status = 1 ] && [ "$(wc -l <"$work/err")" = 1 ] && grep -q "$2" "$work/err"
	else
		[ $status = 0 ] && [ ! -s "$work/err" ]
	fi
	ok $? "count.sh: $1$(sed 's/^/ (/; s/$/)/' "$work/err")"
}

count=$(dirname "$0")/../bench/count.sh
if command -v jq >/dev/null; then
	jq -e '.limits | length > 0' "${count%.sh}.json" >/dev/null
	ok $? "count.json has limits"
	echo '{ "limits": [ { "page": "4k", "metric": "REMAP", "at_most": 0.5, "of": "REMAP" } ] }' \
		>"$work/stored"
	counted 90 10 >"$work/now"
	"$count" --store 0123456789abcdef "$work/now" "$work/stored" >/dev/null
	[ "$(jq -c '[.commit, .figures["4k"].REMAP.cowsnap, (.limits | length)]' "$work/stored")" = \
	  '["0123456789abcdef",90,1]' ]
	ok $? "count.sh: figures are stored with their commit, limits stay"
	compares "the same figures" '' 90 10
	compares "4 % more" '' 93.6 10.4
	compares "less" '' 50 5
	compares "6 % more of one" 'DIFF, equal of 4k.* 10.6 .* 6 % above 10 at 0123456789ab' 90 10.6
	compares "a figure that is gone" 'DIFF, equal of 4k.*not measured' 90
	jq '.figures["4k"].REMAP.cowsnap = 110' "$work/stored" >"$work/higher"
	mv "$work/higher" "$work/stored"
	compares "above a limit" 'REMAP of 4k.* 101 .* the limit is 100, 0.5 of what fork' 101 10
fi

end_tests
