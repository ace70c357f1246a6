# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# Sourced by the scripts next to it; $vm and $top are for them.

vm=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck disable=SC2034
top=$(cd "$vm/../.." && pwd)
# What make told the script, it did not tell the kernel's build or ours.
unset MAKEFLAGS MAKELEVEL MFLAGS MAKEOVERRIDES
cache=${COWSNAP_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cowsnap}
# shellcheck disable=SC2034
debian_keyring=/usr/share/keyrings/debian-archive-keyring.gpg

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

# How many guests run at a time.
jobs=${JOBS:-$(nproc)}
[ "$jobs" -le 4 ] || jobs=${JOBS:-4}

# Run "$@" beside us, in a process group of its own, for kill_jobs; no lock is
# held longer than by us.
background()
{
	set -m
	"$@" 8>&- 9>&- &
	set +m
}

# The jobs of spawn that have not ended.
spawned=()
count_spawned()
{
	local job left=()

	for job in "${spawned[@]}"; do
		! kill -0 "$job" 2>/dev/null || left+=("$job")
	done
	spawned=("${left[@]}")
}

# Wait until fewer than $1 of them run. A second is little for a guest.
wait_spawned()
{
	count_spawned
	while [ ${#spawned[@]} -ge "$1" ]; do
		sleep 1
		count_spawned
	done
}

# The same as background, when fewer than $jobs of these are running.
spawn()
{
	wait_spawned "$jobs"
	background "$@"
	spawned+=($!)
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
