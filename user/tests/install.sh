#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# install.sh MAKE...: what the command MAKE installs, with DESTDIR and PREFIX added:
# the rule that opens the device to a group, and no further; library and headers as
# pkg-config finds them.
set -u
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/tap.sh"

status=0
"$@" install DESTDIR="$work" PREFIX=/usr >"$work/log" 2>&1 || status=$?
ok $status "make install"
[ $status = 0 ] || sed 's/^/# /' "$work/log"

rules=$(find "$work" -path '*/udev/rules.d/*cowsnap.rules')
[ -n "$rules" ] &&
	[ "$(grep -v '^#' "$rules")" = 'KERNEL=="cowsnap", SUBSYSTEM=="misc", GROUP="cowsnap", MODE="0660"' ]
ok $? "the udev rule gives the device to the group cowsnap and to nobody else"

cat >"$work/example.c" <<'EOF'
#include <cowsnap.h>
int main(void)
{
	return cowsnap_open() < 0 && !*cowsnap_error();
}
EOF
export PKG_CONFIG_SYSROOT_DIR=$work PKG_CONFIG_LIBDIR=$work/usr/lib/pkgconfig
# shellcheck disable=SC2046
${CC:-cc} -o "$work/example" "$work/example.c" $(pkg-config --cflags --libs cowsnap) &&
	LD_LIBRARY_PATH=$work/usr/lib "$work/example"
ok $? "a program builds with what pkg-config says, and runs"
end_tests
