#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# man.sh DIR: every page formats without a warning, as far as a formatter is
# installed, and every library call has a page.
set -eu
cd "$1"
status=0

for page in *.[134]; do
	if command -v mandoc >/dev/null; then
		mandoc -T lint -W warning "$page" || status=1
	fi
	if command -v groff >/dev/null; then
		warnings=$(groff -man -Tutf8 -ww -z "$page" 2>&1)
		[ -z "$warnings" ] || { echo "$warnings"; status=1; }
	fi
done

for call in $(sed -n 's/^\t\(cowsnap_[a-z_]*\);$/\1/p' ../lib/cowsnap.map); do
	[ -e "$call.3" ] || { echo "$call has no man page"; status=1; }
done

[ $status -eq 0 ] && echo "ok - man pages" || echo "not ok - man pages"
exit $status
