#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Usage: report.sh [DIR...]
# Pictures and a page (DIR/report.html) of the results in DIR; without one of each
# directory of results that bench.sh has left in build/bench.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/common.sh"

"$vm/setup.sh"
quietly make -C "$top/user" bench
[ $# -gt 0 ] || mapfile -t dirs < <(find "$top/build/bench" -mindepth 2 -maxdepth 2 -name '*.json' \
					-printf '%h\n' 2>/dev/null | sort -u)
[ $# -gt 0 ] || set -- "${dirs[@]}"
[ $# -gt 0 ] || die "there are no results yet: make bench and make bench-full leave them in build/bench"
for dir; do
	"$top/user/build/cowsnap-bench" report "$dir"
done
