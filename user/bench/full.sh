#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# full.sh [--quick | WORKLOAD...]: every workload (or these) by itself with every
# method, in the guest that selftests/vm/bench.sh boots; --quick: a selection that
# is over in five minutes also where instructions are emulated. After each its JSON
# goes to stdout between markers, so that what was measured is there whatever ends
# the next one. The status is that of the first that failed.
set -u
bench=$(dirname "$0")/cowsnap-bench
json=/tmp/full.json
status=0
quick=''
patience=${PATIENCE:-900}

# Whatever is slow when instructions are emulated has to end as well.
options()
{
	case $quick$1.${COWSNAP_ACCEL:-} in
	quick.create.*)	echo --size 1M,4M --page 4k,thp ;;
	quick.touch.*)	echo --size 1M --warmup 0 ;;
	quick.checkpoint.*) echo --size 4M --repeat 2 --pattern strided ;;
	quick.refcount.*) ;;
	quick.*)	echo --size 4M ;;
	create.tcg)	echo --size 1M,4M,16M --page 4k,thp,hugetlb ;;
	create.icount)	echo --size 256K,1M,4M --page 4k ;;
	frequent.icount) echo --size 2M ;;
	create.*)	echo --size any --page 4k,thp,hugetlb ;;
	ops.tcg)	echo --size 8M --page 4k,thp,hugetlb ;;
	checkpoint.tcg)	echo --size 4M --repeat 2 --warmup 0 ;;
	touch.tcg | pcp.tcg) echo --size 2M --warmup 0 ;;
	frequent.tcg | rollback.tcg) echo --size 4M ;;
	many.tcg | migrate.tcg) echo --size 1M ;;
	threads.tcg)	echo --size 32M ;;
	esac
}

echo 160 >/proc/sys/vm/nr_hugepages
if [ "${1:-}" = --quick ]; then
	quick=quick.
	patience=60
	set -- create touch checkpoint frequent refcount
fi
[ $# -gt 0 ] || set -- create ops touch checkpoint frequent rollback many threads numa \
	refcount migrate pcp
for workload; do
	rm -f "$json"
	# shellcheck disable=SC2046
	timeout -s INT "$patience" "$bench" "$workload" $(options "$workload") --json "$json"
	one=$?
	[ $status != 0 ] || status=$one
	[ ! -s "$json" ] || { echo "== JSON $workload =="; cat "$json"; echo '== END =='; }
done
exit $status
