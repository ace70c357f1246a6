#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Usage: kselftest.sh [SERIES]
# Take the kernel's test framework (kselftest.h, kselftest_harness.h, lib.mk,
# the runner) from the newest linux-source package of SERIES (6.12) into the
# cache and print its directory, tools/testing/selftests.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/common.sh"

source=linux-source-${1:-6.12}
[ -n "$(apt_candidates "$source")" ] || apt_update
read -r _ version < <(apt_candidates "$source") || true
[ -n "$version" ] || die "apt knows no $source"

cache_lock kselftest
dir=$cache/kselftest/${source}_$version
if [ ! -d "$dir" ]; then
	say "fetching $source"
	mkdir -p "$cache/kselftest"
	tmp=$(mktemp -d "$cache/kselftest/tmp.XXXXXX")
	trap 'rm -rf "$tmp"' EXIT
	mkdir "$tmp/debs" "$tmp/tree"
	apt_fetch "$tmp/debs" "$source"
	selftests=$source/tools/testing/selftests
	dpkg-deb --fsys-tarfile "$tmp/debs/"*.deb | tar -xO "./usr/src/$source.tar.xz" |
		tar -xJ -C "$tmp/tree" --strip-components=1 --wildcards --no-wildcards-match-slash \
			"$selftests/lib.mk" "$selftests/*.h" "$selftests/*.sh" "$selftests/kselftest" \
			"$source/scripts/*.include" "$source/tools/scripts" "$source/tools/include/uapi"
	chmod 755 "$tmp/tree"
	mv -T "$tmp/tree" "$dir"
fi
echo "$dir/tools/testing/selftests"
