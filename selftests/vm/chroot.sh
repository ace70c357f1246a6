#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Usage: chroot.sh SUITE PACKAGE...
#        chroot.sh --run DIR [--bind DIR]... -- COMMAND...
# Put a minimal Debian of SUITE with PACKAGEs into the cache and print its
# directory: for kernels whose build tools this machine's own release cannot run.
# Making it takes root. With --run, run COMMAND in such a directory, where it
# sees the --bind directories at their own paths, and /proc and /dev. What that
# mounts is seen by COMMAND only and gone with it, however it ends.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/common.sh"
# shellcheck source-path=SCRIPTDIR
. "$vm/apt.sh"

# A file system of its own, so that nothing has to be made in the chroot, and
# two may use it at a time. Root in its own mount namespace, or in one where it
# is mapped to whoever we are.
run()
{
	local root=$1 bind=() unshare=(unshare --mount --propagation private)

	shift
	while [ "${1:-}" = --bind ]; do
		bind+=("$2")
		shift 2
	done
	if [ $# -lt 2 ] || [ "$1" != -- ]; then
		usage 1
	fi
	shift
	[ "$(id -u)" = 0 ] || unshare+=(--map-root-user)
	"${unshare[@]}" true 2>/dev/null ||
		die "building in $root takes a mount namespace: run this as root"
	exec "${unshare[@]}" "$0" --enter "$root" "${bind[@]}" -- "$@"
}

enter()
{
	local from=$1 root dir

	shift
	# Hidden by the mount: anything that is a directory will do.
	root=$from/mnt
	mount -t tmpfs -o mode=755 tmpfs "$root"
	for dir in "$from"/*; do
		if [ -L "$dir" ]; then
			cp -P "$dir" "$root"
		fi
	done
	for dir in usr etc var; do
		mkdir "$root/$dir"
		mount --rbind "$from/$dir" "$root/$dir"
	done
	mkdir -p "$root"/{proc,dev,tmp}
	mount --rbind /proc "$root/proc"
	mount --rbind /dev "$root/dev"
	while [ "$1" != -- ]; do
		mkdir -p "$root$1"
		mount --rbind "$1" "$root$1"
		shift
	done
	shift
	exec env -i PATH=/usr/sbin:/usr/bin HOME=/tmp LC_ALL=C.UTF-8 chroot "$root" "$@"
}

find_chroot()
{
	local recipe="$*"

	recipe=$(sha256sum <<<"$recipe")
	dir=$cache/chroots/$1-${recipe:0:12}
}

# All of it or nothing. What debootstrap mounts, it mounts for itself only.
make_chroot()
{
	local tmp name=$1 packages mirror

	[ "$(id -u)" = 0 ] || die "as root, run: COWSNAP_CACHE=$cache $0 $*"
	shift
	say "making a chroot of $name"
	mirror=$(debian_mirror)
	packages=$(IFS=,; echo "$*")
	mkdir -p "$cache/chroots"
	tmp=$(mktemp -d "$cache/chroots/tmp.XXXXXX")
	chmod 755 "$tmp"
	quietly unshare --mount --propagation private \
		debootstrap --variant=minbase --include="$packages" --keyring="$debian_keyring" \
			"$name" "$tmp" ${mirror:+"$mirror"}
	rm -rf "$tmp"/var/{cache/apt,lib/apt/lists}/*
	mv -T "$tmp" "$dir"
}

case ${1:-} in
--run)		shift; run "$@" ;;
--enter)	shift; enter "$@" ;;
-*)		usage 1 ;;
esac
[ $# -gt 1 ] || usage 1
find_chroot "$@"
if [ ! -d "$dir" ]; then
	cache_lock chroot
	trap 'rm -rf "$cache"/chroots/tmp.*' EXIT
	[ -d "$dir" ] || make_chroot "$@"
fi
echo "$dir"
