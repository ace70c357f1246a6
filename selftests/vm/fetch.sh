#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Usage: fetch.sh SERIES...|all
# For each SERIES (6.1, 6.12) put the newest packaged Debian kernel into the
# cache, without installing it, and print its directory:
#	vmlinuz, config, release	what to boot; `uname -r`
#	build				what to give as KDIR
#	modules/lib/modules/RELEASE	the few modules the guests use

set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/common.sh"

guest_modules=(brd zram loop)

# The newest image of series $1 that has headers, and its version.
newest_image()
{
	local -a images

	mapfile -t images < <(apt-cache pkgnames "linux-image-$1." |
			      grep -E "^linux-image-${1//./\\.}\.[^-]+(-[0-9]+)?-amd64\$")
	# Headers sort before images, older before newer.
	apt_candidates "${images[@]}" "${images[@]/image/headers}" | sort -V |
		awk '/^linux-headers-/ { sub(/headers/, "image"); known[$1] = 1; next }
		     known[$1] { newest = $0 }
		     END { print newest }'
}

# Unpack image $1, with those of its modules that we need, into $2.
unpack_image()
{
	local release=$3 from=$2/root dir=lib/modules/$3 name

	dpkg-deb --fsys-tarfile "$1" | tar -x -C "$from" --wildcards './boot/*' './lib/modules/*/modules.*' \
		'./lib/modules/*/kernel/crypto/*' './lib/modules/*/kernel/drivers/block/*' \
		'./lib/modules/*/kernel/lib/*' './lib/modules/*/kernel/mm/*'
	mv "$from/boot/vmlinuz-$release" "$2/vmlinuz"
	mv "$from/boot/config-$release" "$2/config"
	find "$from/$dir" -name '*.ko.xz' -exec xz -d {} +
	/sbin/depmod -b "$from" "$release"

	mkdir -p "$2/modules/$dir"
	for name in "${guest_modules[@]}"; do
		/sbin/modprobe -d "$from" -S "$release" --show-depends "$name"
	done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | sort -u | xargs cp -t "$2/modules/$dir"
	cp "$from/$dir"/modules.{builtin,builtin.modinfo,order} "$2/modules/$dir"
	/sbin/depmod -b "$2/modules" "$release" 2>/dev/null
	rm -rf "${from:?}/boot" "${from:?}/lib"
}

# Make the header packages unpacked in $1 usable at $2.
move_headers()
{
	local tree=$1/root/usr/src/linux-headers-$3

	sed -i "s|/usr/src/|$2/root/usr/src/|" "$tree/Makefile"
	# It is there for BTF only, which would take pahole on each build.
	rm -f "$tree/vmlinux"
	ln -s "root/usr/src/linux-headers-$3" "$1/build"
}

# Find out about series $1: image, release, dir.
find_kernel()
{
	local version

	read -r image version < <(newest_image "$1") || true
	release=${image#linux-image-}
	dir=$cache/kernels/${image}_$version
	[ -n "$image" ]
}

# Make $dir, all of it or nothing.
fetch_kernel()
{
	local headers=linux-headers-$release tmp deb

	say "fetching $image"
	mkdir -p "$cache/kernels"
	tmp=$(mktemp -d "$cache/kernels/tmp.XXXXXX")
	chmod 755 "$tmp"
	mkdir "$tmp/debs" "$tmp/root"
	# shellcheck disable=SC2046
	apt_fetch "$tmp/debs" "$image" "$headers" \
		$(apt-cache depends "$headers" | sed -n 's/^ .Depends: \(linux-\(headers\|kbuild\)-.*\)/\1/p')
	for deb in "$tmp/debs"/*.deb; do
		case ${deb##*/} in
		linux-image-*)	unpack_image "$deb" "$tmp" "$release" ;;
		*)		dpkg-deb -x "$deb" "$tmp/root" ;;
		esac
	done
	move_headers "$tmp" "$dir" "$release"
	echo "$release" >"$tmp/release"
	rm -rf "$tmp/debs" "$tmp/root/usr/share"
	mv -T "$tmp" "$dir"
}

[ $# -gt 0 ] || usage 1
[ "$*" != all ] || set -- 6.1 6.12
for series; do
	if ! find_kernel "$series" || [ ! -d "$dir" ]; then
		cache_lock fetch
		trap 'rm -rf "$cache"/kernels/tmp.*' EXIT
		apt_refresh
		find_kernel "$series" || die "apt knows no linux-image of series $series with headers"
		[ -d "$dir" ] || fetch_kernel
	fi
	echo "$dir"
done
