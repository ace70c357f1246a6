# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# Sourced by the tests next to it: results as TAP, and a directory of their own.

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0 nr=0

# ok STATUS NAME
ok()
{
	nr=$((nr + 1))
	if [ "$1" = 0 ]; then
		echo "ok $nr - $2"
	else
		echo "not ok $nr - $2"
		failed=1
	fi
}

# The plan, and the status that the script ends with.
end_tests()
{
	echo "1..$nr"
	exit $failed
}
