#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# symbols.sh LIB MAP HEADER: what LIB exports is what MAP lists and HEADER
# declares, all of it versioned, under the promised soname.
set -eu
lib=$1 map=$2 header=$3

exported=$(readelf --dyn-syms --wide "$lib" |
	awk '$7 != "UND" && $4 == "FUNC" { print $8 }' | sort)
listed=$(sed -n 's/^\t\(cowsnap_[a-z_]*\);$/\1@@COWSNAP_1.0/p' "$map" | sort)
declared=$(grep -o '^[a-z].*[ *]cowsnap_[a-z_]*(' "$header" |
	sed 's/.*[ *]\(cowsnap_[a-z_]*\)(/\1@@COWSNAP_1.0/' | sort)

fail() { echo "not ok - $1"; exit 1; }

[ -n "$listed" ] || fail "the map lists nothing"
[ "$exported" = "$listed" ] || fail "exported and mapped symbols differ: $exported / $listed"
[ "$declared" = "$listed" ] || fail "declared and mapped symbols differ: $declared / $listed"
readelf -d "$lib" | grep -q 'soname: \[libcowsnap.so.1\]' || fail "soname is not libcowsnap.so.1"
echo "ok - $(echo "$listed" | wc -l) symbols exported as COWSNAP_1.0, soname libcowsnap.so.1"
