#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Usage: bench.sh [--count] [ARGUMENT...]
# Run cowsnap-bench with ARGUMENTs in a guest of the newest supported kernel:
# 2 NUMA nodes, 4 CPUs, 4 GiB. With --count on one CPU whose clock counts
# instructions, so that the figures are the same from run to run; without
# ARGUMENTs those of each operation, which are compared with the stored ones
# (user/bench/count.sh) and left in build/bench/count.json.
# Environment: MEM, CPUS, NODES; STORE=yes stores the figures instead.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/common.sh"

series=6.12
options=(--nodes "${NODES:-2}" --cpus "${CPUS:-4}")
compare=''
# What methods need; swap, and a control group that can be asked to reclaim.
before='BTRFS_SIZE=1536M . /files/methods/guest-methods.sh &&
	modprobe brd rd_nr=1 rd_size=131072 && mkswap /dev/ram0 >/dev/null && swapon /dev/ram0 &&
	echo +memory >/sys/fs/cgroup/cgroup.subtree_control && mkdir /sys/fs/cgroup/bench &&
	echo 0 >/sys/fs/cgroup/bench/cgroup.procs'
marker='== JSON =='

# What the stored figures will be said to belong to.
committed()
{
	git -C "$top" diff --quiet HEAD -- Kbuild module uapi user/lib user/bench/*.[ch] ||
		die "STORE=yes: commit first; figures belong to a commit"
	git -C "$top" rev-parse HEAD
}

# The table goes on, what follows the marker goes to file $1.
split_output()
{
	awk -v marker="$marker" -v file="$1" \
		'$0 == marker { json = 1; next } json { print >file; next } { print; fflush() }'
}

if [ "${1:-}" = --count ]; then
	shift
	options=(--icount)
	if [ $# = 0 ]; then
		compare=1
		set -- ops --page '4k,thp,hugetlb' --json /tmp/json
		before='echo 256 >/proc/sys/vm/nr_hugepages'
	fi
fi
commit=''
[ -z "$compare" ] || [ "${STORE:-}" != yes ] || commit=$(committed)

"$vm/setup.sh" jq btrfs-progs
kernel=$("$vm/fetch.sh" "$series")
out=$top/build/bench
mkdir -p "$out/files"
exec 8>"$out/lock"
flock 8
quietly make -C "$top/user" STATIC=1 O="$out/user" bench
"$vm/build.sh" "$kernel" "$out/module"
cp "$out/user/cowsnap-bench" "$out/files"
"$vm/methods.sh" "$out/files/methods"

guest=("$vm/run.sh" --kernel "$kernel" "${options[@]}" --mem "${MEM:-4G}" --timeout 3600
       --module "$out/module/cowsnap.ko" --files "$out/files" --)
# The kernel tests its ciphers when it has booted, on a CPU that is not idle then.
settled='while ps | grep -q "[c]ryptomgr_test"; do sleep 1; done'
command="insmod /cowsnap.ko && $before && $settled && /files/cowsnap-bench ${*@Q}"
[ -n "$compare" ] || exec "${guest[@]}" "$command"

rm -f "$out/count.json"
"${guest[@]}" "$command && echo '$marker' && cat /tmp/json" | split_output "$out/count.json"
echo
"$top/user/bench/count.sh" ${commit:+--store "$commit"} "$out/count.json"
