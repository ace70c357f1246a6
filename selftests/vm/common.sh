# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# Sourced by the scripts next to it; $vm and $top are for them.

vm=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck disable=SC2034
top=$(cd "$vm/../.." && pwd)
# What make told the script, it did not tell the kernel's build or ours.
unset MAKEFLAGS MAKELEVEL MFLAGS MAKEOVERRIDES
cache=${COWSNAP_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cowsnap}

die()
{
	echo "${0##*/}: $*" >&2
	exit 1
}

say()
{
	echo "${0##*/}: $*" >&2
}

usage()
{
	sed -n '/^# Usage:/,/^[^#]/s/^# \?//p' "$0" >&2
	exit "${1:-1}"
}

# Run a command quietly; its output appears only when it fails.
quietly()
{
	local log status=0

	log=$(mktemp)
	"$@" >"$log" 2>&1 || status=$?
	[ $status = 0 ] || { echo "failed ($status): $*"; cat "$log"; } >&2
	rm -f "$log"
	return $status
}

# Hold lock $1 of the cache until the script ends.
cache_lock()
{
	mkdir -p "$cache"
	exec 9>"$cache/$1.lock"
	flock 9
}

apt_update()
{
	[ "$(id -u)" = 0 ] || die "the package lists are missing or old; run as root: apt-get update"
	quietly apt-get -qq update
}

# Of the packages $@, those that apt could install: name and version, a line each.
apt_candidates()
{
	[ $# = 0 ] || apt-cache policy "$@" 2>/dev/null |
		awk '/^[^ ]/ { sub(/:$/, ""); name = $0 }
		     /^  Candidate:/ && $2 != "(none)" { print name, $2 }'
}

# Download the packages $2... into directory $1, with one try at fresher lists.
apt_fetch()
{
	local dir=$1

	shift
	(cd "$dir" && apt-get -qq download "$@" >/dev/null 2>&1) && return
	apt_update
	(cd "$dir" && quietly apt-get -qq download "$@")
}

# How many guests run at a time.
jobs=${JOBS:-$(nproc)}
[ "$jobs" -le 4 ] || jobs=${JOBS:-4}

# Wait until another background job may start.
throttle()
{
	while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do
		wait -n || true
	done
}

# Of the TAP results in files $@, how many passed, failed, were skipped.
count_results()
{
	cat "$@" | awk '/^not ok/ { failed++; next }
			/^ok .*# SKIP/ { skipped++; next }
			/^ok/ { passed++ }
			END { printf "%d %d %d\n", passed, failed, skipped }'
}
