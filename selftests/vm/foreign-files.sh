#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Usage: foreign-files.sh KERNEL_DIR OUT_DIR
# Put into OUT_DIR guest-foreign.sh and what it runs: stress-ng, the tests of
# memory (selftests/mm) of the kernel that fetch.sh put into KERNEL_DIR, as its
# source package has them, the preload library, and the shared libraries of all of
# them. They cannot be static: nothing could be loaded
# into them. The kernel's tests are built once, in the cache; those that do not
# build are named, and missing.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/common.sh"

[ $# = 2 ] || usage 1
series=$(sed 's/^\([0-9]*\.[0-9]*\).*/\1/' "$1/release")
out=$2/foreign

# The tests want headers newer than this machine's. A backport to 6.12 uses a
# name that its header has not got yet.
build_mm()
{
	local tree=$1 dir=$1/tools/testing/selftests/mm

	[ -d "$dir" ] || dir=$tree/tools/testing/selftests/vm
	mkdir -p "$tree/mm.tmp"
	{
		make -C "$tree" headers
		make -C "$dir" -k -j"$(nproc)" OUTPUT="$tree/mm.tmp" CAN_BUILD_I386=0 \
			EXTRA_CFLAGS='-DKSFT_SKIP=4' || true
	} >"$tree/mm.log" 2>&1
	sed -n 's/^make.*: \*\*\* .*\/mm.tmp\/\([^]]*\)\] Error.*/\1/p' "$tree/mm.log" >"$tree/mm.failed"
	[ -x "$tree/mm.tmp/mremap_test" ] || die "the kernel's tests do not build, see $tree/mm.log"
	mv -T "$tree/mm.tmp" "$tree/mm.built"
}

# The source tree of series $1, with its tests built.
mm_tests()
{
	local tree

	tree=$("$vm/kselftest.sh" "$1") || return
	tree=${tree%/tools/testing/selftests}
	if [ ! -d "$tree/mm.built" ]; then
		cache_lock "kselftest-mm-$1"
		[ -d "$tree/mm.built" ] || build_mm "$tree"
	fi
	echo "$tree"
}

# Of files $@ the programs.
take()
{
	local program

	for program; do
		[ ! -x "$program" ] || strip -o "$out/mm/${program##*/}" "$program"
	done
}

# Every shared library that programs $@ name, the loader among them.
libraries()
{
	local program

	for program; do
		ldd "$program" 2>/dev/null || true
	done | grep -o '/[^ ]*\.so[^ ]*' | sort -u
}

"$vm/setup.sh" stress-ng libcap-dev libnuma-dev liburing-dev
tree=$(mm_tests "$series")
[ ! -s "$tree/mm.failed" ] || say "not built for $series: $(tr '\n' ' ' <"$tree/mm.failed")"

mkdir -p "$out/lib" "$out/mm"
quietly make -C "$top/selftests/preload" OUTPUT="$(cd "$out" && pwd)"
cp "$(command -v stress-ng)" "$out"
take "$tree"/mm.built/*
# 6.1 has one under its old name, lacks another, and its migration gives up when a
# page is busy once, where later ones try again.
if [ -e "$out/mm/userfaultfd" ]; then
	mv "$out/mm/userfaultfd" "$out/mm/uffd-stress"
	take "$(mm_tests 6.12)"/mm.built/{cow,migration}
fi
# What threads need that are cancelled, named by no program.
gcc=$(gcc -print-file-name=libgcc_s.so.1)
{ libraries "$out/stress-ng" "$out/preload-counts" "$out/mm"/*; echo "$gcc"; } |
	xargs cp -Lt "$out/lib"
cp "$vm/guest-foreign.sh" "$2"
