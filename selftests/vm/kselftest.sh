#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Usage: kselftest.sh [SERIES]
# Take the kernel's test framework (kselftest.h, kselftest_harness.h, lib.mk,
# the runner) from the newest linux-source package of SERIES (6.12) into the
# cache and print its directory, tools/testing/selftests. The kernel's own tests
# of memory and what `make headers` takes are there, too (foreign-files.sh).

set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/common.sh"
# shellcheck source-path=SCRIPTDIR
. "$vm/apt.sh"

series=${1:-6.12}
source=linux-source-$series

find_tree()
{
	find_source "$series" && dir=$cache/kselftest/${source}_$source_version.3
}

fetch_tree()
{
	local tmp selftests=$source/tools/testing/selftests
	local headers=("$source"/{Makefile,Kbuild,scripts,include/{uapi,asm-generic,vdso},usr/{Makefile,include}}
		       "$source"/arch/x86/{Makefile*,include,tools,entry/syscalls})
	local mm=("$selftests"/{mm,vm,x86,filesystems,pidfd,clone3} "$source"/mm/gup_test.h
		  "$source"/{lib/test_hmm_uapi.h,tools/include})

	mkdir -p "$cache/kselftest"
	tmp=$(mktemp -d "$cache/kselftest/tmp.XXXXXX")
	dpkg-deb --fsys-tarfile "$source_deb" | tar -xO "./usr/src/$source.tar.xz" |
		tar -xJ -C "$tmp" --strip-components=1 --wildcards --no-wildcards-match-slash \
			"$selftests/lib.mk" "$selftests/*.h" "$selftests/*.sh" "$selftests/kselftest" \
			"$source/tools/scripts" "${headers[@]}" "${mm[@]}" 2>"$tmp.log" || true
	# Not every kernel has all of them.
	! grep -v 'Not found in archive\|Exiting with failure' "$tmp.log" >&2 ||
		die "$source cannot be unpacked"
	rm -f "$tmp.log"
	[ -e "$tmp/tools/testing/selftests/lib.mk" ] || die "$source is not what it was"
	chmod 755 "$tmp"
	mv -T "$tmp" "$dir"
}

if ! find_tree || [ ! -d "$dir" ]; then
	cache_lock kselftest
	trap 'rm -rf "$cache"/kselftest/tmp.*' EXIT
	fetch_source "$series"
	find_tree
	[ -d "$dir" ] || fetch_tree
fi
echo "$dir/tools/testing/selftests"
