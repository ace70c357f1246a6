#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Usage: methods.sh DIR
# Put into DIR what guest-methods.sh needs, with itself: mkfs.btrfs, as it is
# linked here, with its libraries and the program that loads them.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/common.sh"

[ $# = 1 ] || usage 1
mkfs=$(PATH=$PATH:/sbin:/usr/sbin command -v mkfs.btrfs) || die "there is no mkfs.btrfs"
mkdir -p "$1"
cp "$vm/guest-methods.sh" "$mkfs" "$1"
# "libz.so.1 => /lib/libz.so.1 (0x...)", and the loader by its path alone.
ldd "$mkfs" | sed -n 's/.* => \(\/[^ ]*\) .*/\1/p' | xargs cp -Lt "$1"
cp -L "$(ldd "$mkfs" | sed -n 's/^[[:space:]]*\(\/[^ ]*\) .*/\1/p')" "$1/ld.so"
