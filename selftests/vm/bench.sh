#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Usage: bench.sh [--count] [ARGUMENT...]
# Run cowsnap-bench with ARGUMENTs in a guest of the newest supported kernel:
# 2 NUMA nodes, 4 CPUs, 4 GiB. With --count on one CPU whose clock counts
# instructions, so that the figures are the same from run to run.
# Environment: MEM, CPUS, NODES.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/common.sh"

series=6.12
options=(--nodes "${NODES:-2}" --cpus "${CPUS:-4}")
arguments=("$@")
if [ "${1:-}" = --count ]; then
	options=(--icount)
	arguments=("${@:2}")
	[ $# -gt 1 ] || arguments=(create --page '4k,thp' --size 1G --methods 'cowsnap,fork')
fi

"$vm/setup.sh"
kernel=$("$vm/fetch.sh" "$series")
out=$top/build/bench
mkdir -p "$out/files"
exec 8>"$out/lock"
flock 8
quietly make -C "$top/user" STATIC=1 O="$out/user" bench
"$vm/build.sh" "$kernel" "$out/module"
cp "$out/user/cowsnap-bench" "$out/files"

exec "$vm/run.sh" --kernel "$kernel" "${options[@]}" --mem "${MEM:-4G}" --timeout 3600 \
	--module "$out/module/cowsnap.ko" --files "$out/files" \
	-- "insmod /cowsnap.ko && exec /files/cowsnap-bench ${arguments[*]@Q}"
