#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Usage: count.sh [--store COMMIT] RUN.json [STORED.json]
#	 count.sh --table [STORED.json]
# Compare the instructions a page that cowsnap-bench counted in RUN.json with
# those of STORED.json (count.json beside this script), whose limits they have to
# keep as well. Each figure that is more than 5 % worse, is above its limit or is
# not there any more gets a sentence, and the status is 1 then. With --store they
# become the stored ones instead, as those of COMMIT; the limits stay. With
# --table the stored ones are printed as README.md shows them.

set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
commit=''
if [ "${1:-}" = --store ]; then
	commit=$2
	shift 2
fi
if [ "${1:-}" = --table ]; then
	jq -r '
		def cell: if . == null then "–" else tostring end;
		"| \(.kernel | split(" ")[0]) | 4 KiB | instead | THP | hugetlb |", "|---|---|---|---|---|",
		(.figures as $f | $f["4k"] | keys_unsorted[] | . as $m |
		 [ $m, ($f["4k"][$m].cowsnap | cell),
		   ([$f["4k"][$m] | to_entries[] | select(.key != "cowsnap") |
		     "\(.key) \(.value)"] | join(", ")),
		   ($f.thp[$m].cowsnap | cell), ($f.hugetlb[$m].cowsnap | cell) ] |
		 "| " + join(" | ") + " |")' "${2:-$here/count.json}"
	exit
fi
run=${1:?count.sh: no RUN.json}
stored=${2:-$here/count.json}

# {"4k": {"REMAP": {"cowsnap": 118.7, "fork": 201.7}}}
# shellcheck disable=SC2016
figures='
def figures: reduce (.results[] | select(.workload == "ops" and .unit != "count")) as $f ({};
	.[$f.params.page][$f.metric][$f.method] = ($f.per_page * 100 | round / 100));'

if [ -n "$commit" ]; then
	jq --arg commit "$commit" --slurpfile old "$stored" "$figures"'
		{ commit: $commit, time: .environment.time, kernel: .environment.kernel,
		  accelerator: .environment.accelerator, figures: figures, limits: $old[0].limits }
		' "$run" >"$stored.new"
	mv "$stored.new" "$stored"
	echo "stored: instructions a page of $commit, in ${stored#"$PWD"/}"
	exit
fi

# shellcheck disable=SC2016
worse=$(jq -r --slurpfile old "$stored" "$figures"'
def two: . * 100 | round / 100;
$old[0] as $old | figures as $new | ($old.commit // "" | .[:12]) as $commit |
def is($page; $metric; $method): $new[$page][$metric][$method];
def name($page; $metric): "\($metric) of \($page) pages";

($old.figures | to_entries[] | .key as $page | .value | to_entries[] | .key as $metric |
 .value.cowsnap | select(. != null) | . as $was | is($page; $metric; "cowsnap") as $now |
 if $now == null then
	"\(name($page; $metric)): not measured any more; was \($was) instructions a page at \($commit)"
 elif $now > $was * 1.05 + 0.02 then
	"\(name($page; $metric)): \($now) instructions a page, \(($now / $was - 1) * 100 | two) % above \($was) at \($commit)"
 else empty end),

($old.limits[] | . as $l | is($l.page; $l.metric; "cowsnap") as $now |
 (if $l.of then $l.at_most * (is($l.page; $l.of; "fork") // 0) | two else $l.at_most end) as $limit |
 select($now == null or $now > $limit) |
 "\(name($l.page; $l.metric)): \($now // "no") instructions a page, the limit is \($limit)"
 + if $l.of then ", \($l.at_most) of what fork takes" else "" end)
' "$run")

if [ -n "$worse" ]; then
	echo "$worse" >&2
	exit 1
fi
echo "no figure is more than 5 % above that of $(jq -r '.commit[:12]' "$stored"), none is above its limit"
