#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# In a guest, under the name of a test: what methods of cowsnap-bench promise
# (bench_method_test), runs of it that are interrupted (bench_interrupt_test), and
# methods that come to the limit of mappings (bench_limit_test).
# With all that methods need, but for btrfs where the kernel lacks it.

dir=/files/methods
# shellcheck source-path=SCRIPTDIR
. $dir/guest-methods.sh || exit
trap remove_methods EXIT
set -- cowsnap cowsnap-release cowsnap-sync fork memcpy uffd-wp ksm mprotect remap-pages
[ -z "${COWSNAP_REFLINK_DIR:-}" ] || set -- "$@" reflink

case ${0##*/} in
bench_method_test)
	pages=/proc/sys/vm/nr_hugepages
	[ ! -e $pages ] || { old=$(cat $pages) && echo $((old + 8)) >$pages; }
	$dir/method_test "$@"
	status=$?
	[ ! -e $pages ] || echo "$old" >$pages
	exit $status
	;;
bench_interrupt_test)
	# Of cowsnap's variants one does.
	shift 2
	$dir/interrupt.sh $dir/cowsnap-bench "$@"
	;;
bench_limit_test)
	# Of 2 MiB each tenth page is written: twice as many mappings as that.
	limit=/proc/sys/vm/max_map_count
	# shellcheck source-path=SCRIPTDIR/../../user/tests
	. $dir/tap.sh
	trap 'rm -rf "$work"; remove_methods' EXIT
	old=$(cat $limit) && echo 90 >$limit
	$dir/cowsnap-bench --methods mprotect,remap-pages --size 2M --page 4k --repeat 1 \
		--warmup 0 frequent >"$work/out" 2>&1
	ok $? "the run ends as others do"
	echo "$old" >$limit
	for method in mprotect remap-pages; do
		[ "$(grep -c "^  $method: not available here: the limit of mappings" "$work/out")" = 1 ]
		ok $? "$method says why it has no figures"
		! grep -v 'not available here' "$work/out" | grep -v '^  command' | grep -q "$method"
		ok $? "and has none"
	done
	! grep WRONG "$work/out"
	ok $? "what it went on with is right"
	[ $failed = 0 ] || sed 's/^/# /' "$work/out"
	end_tests
	;;
esac
