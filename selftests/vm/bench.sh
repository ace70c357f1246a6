#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Usage: bench.sh [--count | --full] [ARGUMENT...]
# Run cowsnap-bench with ARGUMENTs in a guest of the newest supported kernel:
# 2 NUMA nodes, 4 CPUs, 4 GiB. With --count on one CPU whose clock counts
# instructions, so that the figures are the same from run to run; without
# ARGUMENTs those of each operation, which are compared with the stored ones
# (user/bench/count.sh) and left in build/bench/count.json. With --full each
# workload runs by itself (user/bench/full.sh; ARGUMENTs are names of workloads),
# and its figures are left in build/bench/full-NODES/WORKLOAD.json. With nothing at
# all a selection runs in this way, for less than five minutes; its figures are left
# in build/bench/quick-NODES.
# Environment: MEM, CPUS, NODES; STORE=yes stores the figures instead; PATIENCE is
# how many seconds --full lets one workload run (900); ICOUNT=yes lets it count
# instructions, on one CPU, into build/bench/full-icount.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/common.sh"

series=6.12
options=(--nodes "${NODES:-2}" --cpus "${CPUS:-4}")
compare=''
# What methods need; swap, and a control group that can be asked to reclaim. NUMA
# balancing takes rights from entries, by chance; workloads about it switch it on.
before='BTRFS_SIZE=1536M . /files/methods/guest-methods.sh &&
	modprobe brd rd_nr=1 rd_size=131072 && mkswap /dev/ram0 >/dev/null && swapon /dev/ram0 &&
	echo +memory >/sys/fs/cgroup/cgroup.subtree_control && mkdir /sys/fs/cgroup/bench &&
	echo 0 >/sys/fs/cgroup/bench/cgroup.procs &&
	{ [ ! -e /proc/sys/kernel/numa_balancing ] || echo 0 >/proc/sys/kernel/numa_balancing; }'
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

# The same for what full.sh says: each marker names the file that follows it, which
# has its name when it is there to the end.
split_results()
{
	(cd "$1" && awk '/^== JSON [a-z]+ ==$/ { name = $3 ".json"; file = name ".part"; next }
			 /^== END ==$/ { close(file); system("mv " file " " name); file = ""; next }
			 file { print >file; next }
			 { print; fflush() }')
	rm -f "$1"/*.part
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

full=''
if [ "${1:-}" = --full ]; then
	shift
	full=full
	[ "${ICOUNT:-}" != yes ] || options=(--icount)
elif [ $# = 0 ]; then
	full=quick
	set -- --quick
fi

"$vm/setup.sh" jq btrfs-progs
kernel=$("$vm/fetch.sh" "$series")
out=$top/build/bench
mkdir -p "$out/files"
exec 8>"$out/lock"
flock 8
quietly make -C "$top/user" STATIC=1 O="$out/user" bench
"$vm/build.sh" "$kernel" "$out/module"
cp "$out/user/cowsnap-bench" "$top/user/bench/full.sh" "$out/files"
"$vm/methods.sh" "$out/files/methods"

guest=("$vm/run.sh" --kernel "$kernel" "${options[@]}" --mem "${MEM:-4G}" --timeout 3600
       --module "$out/module/cowsnap.ko" --files "$out/files" --)
# The kernel tests its ciphers when it has booted, on a CPU that is not idle then.
settled='while ps | grep -q "[c]ryptomgr_test"; do sleep 1; done'
command="insmod /cowsnap.ko && $before && $settled && /files/cowsnap-bench ${*@Q}"
if [ -n "$full" ]; then
	results=$out/$full-${NODES:-2}
	[ "${options[0]}" != --icount ] || results=$out/full-icount
	mkdir -p "$results"
	"${guest[@]}" "insmod /cowsnap.ko && $before && $settled && ${PATIENCE:+PATIENCE=$PATIENCE }/files/full.sh ${*@Q}" |
		split_results "$results"
	exit
fi
[ -n "$compare" ] || exec "${guest[@]}" "$command"

rm -f "$out/count.json"
"${guest[@]}" "$command && echo '$marker' && cat /tmp/json" | split_output "$out/count.json"
echo
"$top/user/bench/count.sh" ${commit:+--store "$commit"} "$out/count.json"
