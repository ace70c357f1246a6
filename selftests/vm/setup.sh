#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Usage: setup.sh [PACKAGE...]
# See that the Debian packages for building and for running the VMs are there,
# and PACKAGE as well. What is missing is installed when we are root; otherwise
# the command to run is printed, and the status is 2.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/common.sh"
# shellcheck source-path=SCRIPTDIR
. "$vm/apt.sh"

packages=(
	gcc make libc6-dev patch pkg-config		# building
	libelf1						# objtool of the header packages
	libnuma-dev libjansson-dev			# cowsnap-bench
	xz-utils kmod cpio busybox-static		# initramfs
	debootstrap					# compilers of other releases
	qemu-system-x86
	gnuplot-nox					# cowsnap-bench report
)

missing()
{
	comm -23 <(printf '%s\n' "$@" | sort -u) \
		<(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null |
		  sed -n 's/^installed //p' | sort -u)
}

command -v dpkg-query >/dev/null || die "the VMs are made of Debian packages; this is no Debian"
packages+=("$@")
mapfile -t list < <(missing "${packages[@]}")
[ ${#list[@]} -gt 0 ] || exit 0

install=(apt-get install -y --no-install-recommends "${list[@]}")
if [ "$(id -u)" != 0 ]; then
	echo "Packages are missing. As root, run:" >&2
	echo "apt-get update && ${install[*]}" >&2
	exit 2
fi

cache_lock setup
say "installing ${list[*]}"
export DEBIAN_FRONTEND=noninteractive
apt_refresh
quietly "${install[@]}" -qq -o DPkg::Lock::Timeout=300
