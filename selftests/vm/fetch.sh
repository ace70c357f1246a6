#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Usage: fetch.sh KERNEL...|all
# Put each KERNEL into the cache, without installing it, and print its directory:
#	vmlinuz, config, release	what to boot; `uname -r`
#	build				what to give as KDIR
#	chroot				where to build, when not here (see build.sh)
#	modules/lib/modules/RELEASE	the few modules the guests use
# A KERNEL is one of
#	6.1, 6.12, 7.3 ...	the newest packaged Debian kernel of that series, from
#				the machine's release or from trixie-backports (which
#				takes root once, for the chroot with its compiler)
#	debug			6.12 with every check that debug.config asks for
#	DIR			a directory as described
#	VMLINUZ:BUILD[:ROOT]	any image, the directory it was built in or its headers,
#				and the root below which its modules are installed (/)

set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/common.sh"
# shellcheck source-path=SCRIPTDIR
. "$vm/apt.sh"
# shellcheck source-path=SCRIPTDIR
. "$vm/debug.sh"

guest_modules=(brd zram loop ext4 btrfs kvm_amd)
# Part of a directory's name: another layout is another directory.
layout=$(sha256sum <<<"2 ${guest_modules[*]}")
layout=${layout:0:8}

# The newest image of series $1 that has headers, and its version.
newest_image()
{
	local -a images

	mapfile -t images < <(apt_names "linux-image-$1." |
			      grep -E "^linux-image-${1//./\\.}\.[^-]+(-[0-9]+)?-amd64\$")
	# Headers sort before images, older before newer.
	apt_candidates "${images[@]}" "${images[@]/image/headers}" | sort -V |
		awk '/^linux-headers-/ { sub(/headers/, "image"); known[$1] = 1; next }
		     known[$1] { newest = $0 }
		     END { print newest }'
}

# Unpack of the packages $2... what a guest may need, into the root $1.
unpack_image()
{
	local root=$1 deb

	shift
	for deb; do
		dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$root" --wildcards --exclude='*/dtbs/*' \
			--exclude='*/kernel/drivers/[!bc]*' --exclude='*/kernel/sound/*' \
			--exclude='*/kernel/net/*' --exclude='*/share/*'
	done
	# Where /lib is a link to usr/lib, packages still may use either.
	if [ -d "$root/usr/lib/modules" ]; then
		mkdir -p "$root/lib"
		mv "$root/usr/lib/modules" "$root/lib"
	fi
	find "$root/lib" -name '*.ko.xz' -exec xz -d {} +
}

# The modules of release $3 that guests use, with those they need, from root $1
# into root $2; those that the kernel has built in or lacks are left out.
copy_modules()
{
	local dir=lib/modules/$3 name

	mkdir -p "$2/$dir"
	[ -d "$1/$dir" ] || return 0
	for name in "${guest_modules[@]}"; do
		/sbin/modprobe -d "$1" -S "$3" --show-depends "$name" 2>/dev/null ||
			say "kernel $3 has no module $name"
	done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | sort -u | xargs -r cp -t "$2/$dir"
	cp "$1/$dir"/modules.{builtin,builtin.modinfo,order} "$2/$dir"
	/sbin/depmod -b "$2" "$3" 2>/dev/null
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

# Find out about series $1 in the suite that apt reads: image, release, dir.
find_packaged()
{
	local version

	read -r image version < <(newest_image "$1") || true
	release=${image#linux-image-}
	dir=$cache/kernels/${image}_$version-$layout
	[ -n "$image" ]
}

# The same in the first suite that has it.
find_series()
{
	local where

	for where in "${suites[@]}"; do
		if use_suite "$where" && find_packaged "$1"; then
			return
		fi
	done
	return 1
}

# The chroot for a kernel of another suite: with the compiler that its headers
# name and what kbuild's programs are linked with. (pahole is for BTF.)
find_compiler()
{
	local packages

	mapfile -t packages < <(
		apt_depends "linux-headers-$release" | sed -n 's/^\(gcc-[0-9]*\)-for-host$/\1/p'
		apt_depends "linux-headers-$release" | grep '^linux-kbuild-' |
			{ read -r kbuild && apt_depends "$kbuild"; } | grep '^lib\|^zlib'
	)
	"$vm/chroot.sh" "${suite%-backports}" make libc6-dev "${packages[@]}"
}

fetch_packaged()
{
	local headers=linux-headers-$release of_image of_headers tmp=$1

	say "fetching $image"
	mapfile -t of_image < <(apt_depends "$image" | grep -E '^linux-(base|binary|modules)-[0-9]')
	mapfile -t of_headers < <(apt_depends "$headers" | grep -E '^linux-(headers|kbuild)-')
	mkdir -p "$tmp/image" "$tmp/headers" "$tmp/files" "$tmp/root"
	apt_fetch "$tmp/image" "$image" "${of_image[@]}"
	apt_fetch "$tmp/headers" "$headers" "${of_headers[@]}"

	unpack_image "$tmp/files" "$tmp/image"/*.deb
	mv "$tmp/files/boot/vmlinuz-$release" "$tmp/vmlinuz" 2>/dev/null ||
		mv "$tmp/files/lib/modules/$release/vmlinuz" "$tmp/vmlinuz"
	mv "$tmp/files/boot/config-$release" "$tmp/config" 2>/dev/null ||
		mv "$tmp/files/lib/modules/$release/config" "$tmp/config"
	/sbin/depmod -b "$tmp/files" "$release"
	copy_modules "$tmp/files" "$tmp/modules" "$release"

	find "$tmp/headers" -name '*.deb' -exec dpkg-deb -x {} "$tmp/root" \;
	move_headers "$tmp" "$dir" "$release"
	rm -rf "$tmp/files" "$tmp/image" "$tmp/headers" "$tmp/root/usr/share"
}

# Kernel $1, VMLINUZ:BUILD[:ROOT]: links to what is there.
find_given()
{
	local key

	IFS=: read -r image build root <<<"$1"
	[ -r "$image" ] || die "there is no kernel image $image"
	[ -e "$build/Makefile" ] || die "$build is no kernel build directory"
	image=$(realpath "$image")
	build=$(realpath "$build")
	root=$(realpath "${root:-/}")
	release=$(cat "$build/include/config/kernel.release" 2>/dev/null) ||
		release=$(make -s -C "$build" kernelrelease)
	# Anything may have been built there again.
	key=$(stat -c '%n %Y %s' "$image" "$build/Makefile" "$root/lib/modules/$release/modules.dep" 2>/dev/null |
		sha256sum)
	dir=$cache/kernels/given-$release-${key:0:12}-$layout
}

link_given()
{
	ln -s "$image" "$1/vmlinuz"
	ln -s "$build" "$1/build"
	cp "$build/.config" "$1/config"
	copy_modules "$root" "$1/modules" "$release"
}

# Make $dir by command $1, all of it or nothing.
make_dir()
{
	local tmp

	cache_lock "kernel-${dir##*/}"
	[ ! -d "$dir" ] || return 0
	mkdir -p "$cache/kernels"
	rm -rf "$cache/kernels/tmp.${dir##*/}".*
	tmp=$(mktemp -d "$cache/kernels/tmp.${dir##*/}.XXXXXX")
	# shellcheck disable=SC2064
	trap "rm -rf '$tmp'" EXIT
	chmod 755 "$tmp"
	"$1" "$tmp"
	echo "$release" >"$tmp/release"
	mv -T "$tmp" "$dir"
}

get_series()
{
	if ! find_series "$1" || [ ! -d "$dir" ]; then
		refresh_suites
		find_series "$1" || die "apt knows no linux-image of series $1 with headers"
		make_dir fetch_packaged
	fi
	[ -z "$suite" ] || [ -d "$dir/chroot/usr" ] || ln -sfn "$(find_compiler)" "$dir/chroot"
}

[ $# -gt 0 ] || usage 1
[ "$*" != all ] || set -- 6.1 6.12 7.3 debug
for kernel; do
	case $kernel in
	debug)	find_debug; [ -d "$dir" ] || make_dir build_debug ;;
	*:*)	find_given "$kernel"; [ -d "$dir" ] || make_dir link_given ;;
	*/*)	dir=$(realpath "$kernel")
		[ -e "$dir/vmlinuz" ] || die "there is no vmlinuz in $kernel"
		[ -e "$dir/build/Makefile" ] || die "$kernel/build is no kernel build directory" ;;
	*)	get_series "$kernel" ;;
	esac
	echo "$dir"
done
