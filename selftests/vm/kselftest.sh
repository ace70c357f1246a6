#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Usage: kselftest.sh [SERIES]
# Take the kernel's test framework (kselftest.h, kselftest_harness.h, lib.mk,
# the runner) from the newest linux-source package of SERIES (6.12) into the
# cache and print its directory, tools/testing/selftests.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/common.sh"
# shellcheck source-path=SCRIPTDIR
. "$vm/apt.sh"

source=linux-source-${1:-6.12}
find_source()
{
	read -r _ version < <(apt_candidates "$source") || true
	dir=$cache/kselftest/${source}_$version
	[ -n "$version" ]
}

fetch_tree()
{
	local tmp selftests=$source/tools/testing/selftests

	say "fetching $source"
	mkdir -p "$cache/kselftest"
	tmp=$(mktemp -d "$cache/kselftest/tmp.XXXXXX")
	mkdir "$tmp/debs" "$tmp/tree"
	apt_fetch "$tmp/debs" "$source"
	dpkg-deb --fsys-tarfile "$tmp/debs/"*.deb | tar -xO "./usr/src/$source.tar.xz" |
		tar -xJ -C "$tmp/tree" --strip-components=1 --wildcards --no-wildcards-match-slash \
			"$selftests/lib.mk" "$selftests/*.h" "$selftests/*.sh" "$selftests/kselftest" \
			"$source/scripts/*.include" "$source/tools/scripts" "$source/tools/include/uapi"
	mv -T "$tmp/tree" "$dir"
}

if ! find_source || [ ! -d "$dir" ]; then
	cache_lock kselftest
	trap 'rm -rf "$cache"/kselftest/tmp.*' EXIT
	apt_refresh
	find_source || die "apt knows no $source"
	[ -d "$dir" ] || fetch_tree
fi
echo "$dir/tools/testing/selftests"
