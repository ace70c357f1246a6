# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2154
# Sourced after common.sh by scripts with steps that take long: a line for each
# step when it ends, with the seconds it and its processes took, and on a terminal
# below it what is being done. $log is where a step called NAME writes NAME.log.

running=$(mktemp -d)
ticker=''
# On a terminal, to the start of the line, and clear it.
clear_line=''
[ ! -t 1 ] || clear_line=$'\r\e[K'

# Set cpu: CPU seconds of the children that this shell has waited for.
count_cpu()
{
	local file=$running/.times.$BASHPID

	# In no subshell, which would tell of its own.
	times >"$file"
	cpu=$(awk 'NR == 2 { gsub(/m/, " "); gsub(/s/, ""); printf "%d", $1 * 60 + $2 + $3 * 60 + $4 }' \
		"$file")
}

begin()
{
	local cpu

	count_cpu
	echo "$EPOCHSECONDS $cpu" >"$running/$1"
}

# Step $1 is over: $2...
finish()
{
	local start cpu before name=$1

	shift
	count_cpu
	read -r start before <"$running/$name"
	rm -f "$running/$name"
	echo "$clear_line$name: $*, $((EPOCHSECONDS - start)) s (CPU $((cpu - before)) s)"
}

# The steps that are running, with their seconds, and the test that each is at.
status_line()
{
	local file start name at line=''

	for file in "$running"/*; do
		name=${file##*/}
		read -r start _ <"$file" || continue
		at=$(sed -n 's/^# == \(.*\) ==$/ \1/p' "$log/$name.log" | tail -n 1)
		line+="${line:+; }$name$at $((EPOCHSECONDS - start)) s"
	done 2>/dev/null
	echo -n "$clear_line${line:0:${COLUMNS:-$(tput cols 2>/dev/null || echo 80)} - 1}"
}

begin_progress()
{
	[ -t 1 ] || return 0
	while sleep 1; do
		status_line
	done 8>&- 9>&- &
	ticker=$!
}

end_progress()
{
	[ -z "$ticker" ] || kill "$ticker" 2>/dev/null || true
	echo -n "$clear_line"
	rm -rf "$running"
}
