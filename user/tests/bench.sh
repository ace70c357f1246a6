#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# bench.sh COWSNAP-BENCH: what the harness promises without the module. Bad
# requests end with status 2 and one sentence; a small run gets contents right and
# writes JSON and CSV that can be read; an interrupted run writes what it has and
# leaves no child.
set -u
bench=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0 nr=0

ok()
{
	nr=$((nr + 1))
	if [ "$1" = 0 ]; then
		echo "ok $nr - $2"
	else
		echo "not ok $nr - $2"
		failed=1
	fi
}

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
refuses --json - --csv -
refuses --json "$work/none/x"
[ -e /dev/cowsnap ] || refuses --methods cowsnap create

"$bench" --help | grep -q checkpoint && "$bench" --list | grep -q memcpy &&
	"$bench" --version | grep -q '^cowsnap-bench [0-9]'
ok $? "help, list and version"

"$bench" --size 2M --page 4k --repeat 2 --methods fork,memcpy --json "$work/j" \
	--csv "$work/c" >"$work/out" 2>&1
ok $? "a small run of all workloads"
! grep -q 'not available\|left out\|WRONG' "$work/out"
ok $? "with figures for each method"
[ "$(awk 'length > 110' "$work/out" | grep -vc '^  command')" = 0 ]
ok $? "in at most 110 columns"
if command -v python3 >/dev/null; then
	python3 - "$work/j" "$work/c" <<'PY'
import csv, json, sys
run = json.load(open(sys.argv[1]))
rows = list(csv.DictReader(open(sys.argv[2])))
assert len(rows) == len(run["results"]) and not any(None in r or None in r.values() for r in rows)
assert {r["workload"] for r in rows} == {"create", "touch", "checkpoint", "numa"}
for r, f in zip(rows, run["results"]):
    assert r["metric"] == f["metric"] and r["kernel"] == run["environment"]["kernel"]
    assert float(r["median"]) == f["median"] and int(r["count"]) == f["count"] > 0
PY
	ok $? "JSON and CSV agree, figure by figure"
fi

"$bench" --size 2M create --json - 2>/dev/null | head -c 1 | grep -q '{'
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

echo "1..$nr"
exit $failed
