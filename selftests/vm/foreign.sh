#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Usage: foreign.sh [--module FILE] [--keep-console FILE] KERNEL [ARGUMENT...]
# Foreign programs under constant duplication, in a guest of KERNEL (what fetch.sh
# takes): stress-ng and the kernel's own tests, alone and with the preload library
# (guest-foreign.sh, which gets the ARGUMENTs: --quick, --seconds N, ...). Prints
# TAP; the status is that of run.sh. The module is built unless FILE is one.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/common.sh"

module='' console=()
while [ $# -gt 0 ]; do
	case $1 in
	--module)	module=$2; shift 2 ;;
	--keep-console)	console=(--keep-console "$2"); shift 2 ;;
	-*)		usage 1 ;;
	*)		break ;;
	esac
done
[ $# -gt 0 ] || usage 1
kernel=$("$vm/fetch.sh" "$1")
shift

out=$top/build/foreign/${kernel##*/}
mkdir -p "$out"
exec 7>"$out/lock"
flock 7
if [ -z "$module" ]; then
	"$vm/build.sh" "$kernel" "$out/module"
	module=$out/module/cowsnap.ko
fi
rm -rf "$out/files"
mkdir "$out/files"
"$vm/foreign-files.sh" "$kernel" "$out/files"

# Some of the kernel's tests want two nodes and a CPU for each of their threads.
exec "$vm/run.sh" --kernel "$kernel" --nodes 2 --cpus 4 --module "$module" --files "$out/files" \
	--timeout "${FOREIGN_TIMEOUT:-1800}" "${console[@]}" -- /files/guest-foreign.sh "$@"
