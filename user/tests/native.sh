#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# native.sh BENCH-NATIVE: bad requests end with status 1 and one sentence; a small
# run has a figure for each loop, order and number of threads, and says the same
# in JSON.
set -u
bench=$1
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/tap.sh"

refuses()
{
	"$bench" "$@" >"$work/out" 2>"$work/err"
	[ $? = 1 ] && [ "$(wc -l <"$work/err")" = 1 ] && [ ! -s "$work/out" ]
	ok $? "refused in one sentence: $* ($(sed 's/^[^:]*: //' "$work/err"))"
}

refuses --bogus
refuses nonsense
refuses --size 1
refuses --size 4x
refuses --rounds 0
refuses --rounds 100
refuses --loops share,nonsense
refuses --json "$work/none/x" --size 4 --rounds 1

"$bench" --help | grep -q -- --loops
ok $? "help"

"$bench" --size 4 --rounds 3 --json "$work/j" >"$work/out" 2>"$work/err"
ok $? "a small run"
[ ! -s "$work/err" ] && [ "$(awk 'length > 100' "$work/out" | wc -l)" = 0 ]
ok $? "in at most 100 columns"

cat >"$work/check.py" <<'EOF_PY'
import json, sys
run = json.load(open(sys.argv[1]))
table = [l for l in open(sys.argv[2]) if l.startswith("  ") and "x" in l]
rows = run["results"]
two = run["environment"]["cpus"] > 1
assert len(rows) == len(table) == 3 * len({r["loop"] for r in rows}) > 0
assert {r["order"] for r in rows} == {"in page order", "runs of 16", "shuffled"}
for r, line in zip(rows, table):
    for side in ["kernel", "one_thread"] + ["two_threads"] * two:
        v = r[side]
        assert 0 < v["best"] <= v["median"] < 1e6
        assert "%.2f" % v["best"] in line and "%.2f" % v["median"] in line
    assert "%.2fx" % r["ratio_one_thread"] in line and r["order"] in line
    assert ("ratio_two_threads" in r) == two
EOF_PY
if command -v python3 >/dev/null; then
	python3 "$work/check.py" "$work/j" "$work/out"
	ok $? "table and JSON agree, figure by figure"
else
	echo "ok $((nr += 1)) # SKIP no python3 to read JSON with"
fi

"$bench" --size 4 --rounds 1 --loops compare --json - 2>/dev/null | head -c 1 | grep -q '{'
ok $? "--json - leaves stdout to JSON"

end_tests
