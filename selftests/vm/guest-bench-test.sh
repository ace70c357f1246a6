#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# In a guest, under the name of a test: what methods of cowsnap-bench promise
# (bench_method_test), and runs of it that are interrupted (bench_interrupt_test).
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
esac
