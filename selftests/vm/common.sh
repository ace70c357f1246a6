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

# Before something is taken from the archive: an old list may name what is gone.
apt_refresh()
{
	[ "$(id -u)" = 0 ] || return 0
	[ -z "$(find "$cache/apt-updated" -mmin -60 2>/dev/null)" ] || return 0
	apt_update || say "going on with the package lists as they are"
	mkdir -p "$cache"
	touch "$cache/apt-updated"
}

# Download the packages $2... into directory $1.
apt_fetch()
{
	(cd "$1" && quietly apt-get -qq download "${@:2}")
}

# How many guests run at a time.
jobs=${JOBS:-$(nproc)}
[ "$jobs" -le 4 ] || jobs=${JOBS:-4}

# Run "$@" as a job, when fewer than $jobs are running.
spawn()
{
	while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do
		wait -n || true
	done
	# A process group of its own, for kill_jobs; no lock held longer than by us.
	set -m
	"$@" 8>&- 9>&- &
	set +m
}

kill_jobs()
{
	local job

	for job in $(jobs -p); do
		kill -TERM -- "-$job" 2>/dev/null || true
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
