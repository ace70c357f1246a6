#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Usage: . guest-methods.sh
# In a guest, where methods.sh put it: provide what methods of cowsnap-bench need
# and the kernel can do. btrfs on a loop device of $BTRFS_SIZE (1G), most of which
# is never touched; KSM; userfaultfd. Returns a status. remove_methods ends it.

provide_btrfs()
{
	tools=$1
	modprobe -q loop
	modprobe -q btrfs
	if ! grep -qw btrfs /proc/filesystems; then
		echo "# this kernel has no btrfs"
		return 0
	fi
	truncate -s "${BTRFS_SIZE:-1G}" /tmp/btrfs &&
	losetup /dev/loop0 /tmp/btrfs &&
	"$tools/ld.so" --library-path "$tools" "$tools/mkfs.btrfs" -K /dev/loop0 >/tmp/mkfs.log 2>&1 &&
	mkdir -p /btrfs && mount -t btrfs /dev/loop0 /btrfs &&
	export COWSNAP_REFLINK_DIR=/btrfs
}

remove_methods()
{
	[ ! -e /sys/kernel/mm/ksm/run ] || echo 0 >/sys/kernel/mm/ksm/run
	[ -z "${COWSNAP_REFLINK_DIR:-}" ] ||
		{ umount /btrfs && losetup -d /dev/loop0 && rm /tmp/btrfs; }
}

provide_ksm()
{
	[ ! -e /sys/kernel/mm/ksm/run ] || echo 1 >/sys/kernel/mm/ksm/run
}

provide_userfaultfd()
{
	[ ! -e /proc/sys/vm/unprivileged_userfaultfd ] ||
		echo 1 >/proc/sys/vm/unprivileged_userfaultfd
}

provide_btrfs "${METHODS_DIR:-/files/methods}" && provide_ksm && provide_userfaultfd
