#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Usage: build.sh KERNEL_DIR OUT_DIR [PATCH...]
# Build cowsnap.ko in OUT_DIR from a copy of the sources, with PATCHes applied,
# for the kernel that fetch.sh put into KERNEL_DIR. A warning is an error, except
# with PATCHes: what they take out may leave something unused. When KERNEL_DIR has
# a chroot, the build runs there, which takes root or user namespaces.
# Environment: COWSNAP_FAULTS=1 builds with fault injection points.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/common.sh"

[ $# -ge 2 ] || usage 1
kernel=$1
out=$2
shift 2
[ -e "$kernel/build/Makefile" ] || die "$kernel/build is no kernel build directory"
kernel=$(realpath "$kernel")

mkdir -p "$out"
out=$(cd "$out" && pwd)
rm -f "$out/cowsnap.ko"
# Sources only: a build in the checkout may be for another kernel. What is the
# same stays as old as it is: one directory serves for patch after patch.
(cd "$top" && printf '%s\n' Kbuild module/*.[ch] uapi/linux/*.h) >"$out/sources"
for file in "$out"/module/*.[ch]; do
	[ -e "$top/module/${file##*/}" ] || rm -f "$file"
done
while read -r file; do
	mkdir -p "$out/$(dirname "$file")"
	cmp -s "$top/$file" "$out/$file" || cp "$top/$file" "$out/$file"
done <"$out/sources"
# Nobody looks into a mutant with a debugger, which saves a fifth of the time.
options=(KCFLAGS=-g0)
[ $# -gt 0 ] || options=(KCFLAGS=-Werror)
[ -z "${COWSNAP_FAULTS:-}" ] || options+=("COWSNAP_FAULTS=$COWSNAP_FAULTS")
for patch; do
	patch -p1 -d "$out" --no-backup-if-mismatch -F0 -s -f <"$patch" ||
		die "${patch##*/} does not apply"
done

log=$out/build.log
where=()
[ ! -e "$kernel/chroot" ] ||
	where=("$vm/chroot.sh" --run "$(realpath "$kernel/chroot")" --bind "$kernel" --bind "$out" --)
if ! "${where[@]}" make -C "$kernel/build" M="$out" "${options[@]}" -j"$(nproc)" modules >"$log" 2>&1 ||
   { [ $# = 0 ] && grep -i 'warning:' "$log" | grep -qv 'compiler differs\|pahole version differs'; }; then
	cat "$log" >&2
	die "cowsnap does not build for $(cat "$kernel/release" 2>/dev/null || echo "$kernel")"
fi
[ -e "$out/cowsnap.ko" ] || die "the build left no cowsnap.ko in $out"
