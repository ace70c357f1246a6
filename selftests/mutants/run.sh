#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Usage: run.sh [PATCH...]
# Each patch here breaks one promise of the module on purpose. Build the module
# with each (or with those named), run the tests that should notice, and print
# `ok` when one does. A mutant that survives, or does not build, is a failure.
# Above its diff a patch says:
#	Breaks: the promise, a sentence
#	Tests: PROGRAM[:TEST|:/VARIANT]...	what to run
#	Kernel: SERIES			(6.12), or debug
#	Boot: OPTION...			for vm/run.sh
#	Hangs: SECONDS			after which a test has failed (120)
# With fault_test among the tests the module is built with fault injection.
# Without arguments those for the debug kernel come last, and only if KERNELS has
# it, as that of check.sh does.
# Wanted: the tests, built, in build/check/files (as vm/check.sh leaves them).

set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/../vm/common.sh"

files=$top/build/check/files
out=$top/build/mutants

header()
{
	sed -n "/^\(---\|diff \)/q; s/^$2: *//p" "$1"
}

# What was seen in log $1 of a guest that ended with status $2: the test that
# failed, or how the guest died in which program. Empty when all went well, or
# when time ran out before a test had failed: a busy machine is slow, too.
caught_by()
{
	local running

	running=$(sed -n 's/^# == \(.*\) ==$/\1/p' "$1" | tail -n 1)
	if [ -z "$running" ] || grep -q 'nothing ran$' "$1"; then
		return
	fi
	case $2 in
	98)	echo "the kernel's complaint in $running" ;;
	97)	echo "the guest's death in $running" ;;
	*)	sed -n '/exit status 124$/d; s/^not ok \([0-9]* \)\?//p' "$1" | head -n 1 ;;
	esac
}

# Build mutant $1 of kernel $2 as $3/cowsnap.ko. Each of the few jobs has a
# directory of its own in which little is compiled anew from patch to patch.
build()
{
	local slot=0 fd

	while :; do
		slot=$((slot % jobs + 1))
		exec {fd}>"$out/slot-$slot.lock"
		flock -n "$fd" && break
		exec {fd}>&-
		sleep 0.2
	done
	slot=$out/slot-$slot-$(basename "$2")${COWSNAP_FAULTS:+-faults}
	"$vm/build.sh" "$2" "$slot" "$1" && cp "$slot/cowsnap.ko" "$3"
}

# Of the tests, only the programs $2... for a guest, in $1: unpacking takes time.
choose_files()
{
	local dir=$1 program

	shift
	mkdir -p "$dir/selftests" "$dir/mutants"
	ln -sf "$files/guest-check.sh" "$dir"
	for program; do
		ln -sf "$files/selftests/${program%%:*}" "$dir/selftests"
	done
}

# What became of $1, tests $2, which noticed $3, guest status $4, log $5, begun at $6.
verdict()
{
	if [ -n "$3" ]; then
		echo "ok mutant $1 caught by $3 ($((SECONDS - $6)) s)"
	elif [ "$4" = 0 ]; then
		echo "not ok mutant $1 survives $2"
	elif [ "$4" = 124 ] && grep -q '^# == ' "$5"; then
		echo "not ok mutant $1: not over in time, and nothing noticed ($5)"
	else
		echo "not ok mutant $1: no test ran ($5)"
	fi
}

name_of()
{
	basename "$1" .patch
}

# Build mutant $1 of kernel $2; what is said of that stands in its log.
build_mutant()
{
	local dir faults=''

	dir=$out/$(name_of "$1")
	mkdir -p "$dir"
	[[ " $(header "$1" Tests)" != *" fault_test"* ]] || faults=1
	(COWSNAP_FAULTS=$faults build "$1" "$2" "$dir") >"$dir/log" 2>&1 || true
}

# The guest that mutant $1 needs: kernel $2, a tab, options. Others may want the
# same.
guest_of()
{
	printf '%s\t%s\n' "$2" "$(header "$1" Boot)"
}

# Boot what guest_of() says once for all of mutants $2..., into $1.
save_guest()
{
	local dir=$1 patch programs kernel boot

	shift
	IFS=$'\t' read -r kernel boot <<<"${guests[$1]}"
	for patch; do
		read -r -a programs < <(header "$patch" Tests)
		choose_files "$dir/files" "${programs[@]}"
		ln -s "$out/$(name_of "$patch")/cowsnap.ko" "$dir/files/mutants/$(name_of "$patch").ko"
	done
	# shellcheck disable=SC2086
	"$vm/run.sh" --kernel "$kernel" $boot --files "$dir/files" --save "$dir" >"$dir/log" 2>&1 || true
}

# Run the tests $3... on the mutant of patch $1 built in $2; all goes to its log.
try()
{
	local patch=$1 dir=$2 kernel boot saved=${saved_guests[${guests[$1]}]:-} name limit command

	shift 2
	name=$(name_of "$patch")
	limit=$(header "$patch" Hangs)
	command="${limit:+COWSNAP_TIMEOUT=$limit }COWSNAP_TEST_TIMEOUT=120 /files/guest-check.sh $*"
	if [ -e "$saved/state" ]; then
		"$vm/run.sh" --from "$saved" -- "cp /files/mutants/$name.ko /cowsnap.ko && $command"
		return
	fi
	choose_files "$dir/files" "$@"
	IFS=$'\t' read -r kernel boot <<<"${guests[$patch]}"
	# shellcheck disable=SC2086
	"$vm/run.sh" --kernel "$kernel" --module "$dir/cowsnap.ko" --files "$dir/files" $boot -- "$command"
}

mutant()
{
	local patch=$1 name tests status by dir log start=$SECONDS

	name=$(name_of "$patch")
	dir=$out/$name
	log=$dir/log
	read -r -a tests < <(header "$patch" Tests) || true
	if [ ${#tests[@]} = 0 ]; then
		echo "not ok mutant $name: names no tests"
		return
	elif [ ! -e "$dir/cowsnap.ko" ]; then
		echo "not ok mutant $name: no build ($log)"
		return
	fi
	# Twice at most: on a busy machine the time may be over before a test has
	# begun, and what a race shows may be hidden once.
	for _ in 1 2; do
		status=0
		try "$patch" "$dir" "${tests[@]}" >"$log" 2>&1 || status=$?
		by=$(caught_by "$log" "$status")
		[ -z "$by" ] || break
	done
	verdict "$name" "${tests[*]}" "$by" "$status" "$log" "$start"
}

result_of()
{
	echo "$out/$(name_of "$1").result"
}

report()
{
	mutant "$@" | tee "$(result_of "$1")"
}

# In the order of the source files that they change: then each build compiles one.
all_patches()
{
	local patch

	grep -m 1 '^+++ ' "$top"/selftests/mutants/*.patch | sort -t : -k 2,2 -s | cut -d : -f 1 |
		while read -r patch; do
			[ "$(header "$patch" Kernel)" = debug ] || echo "$patch"
		done
	[[ " ${KERNELS:-} " != *" debug "* ]] ||
		grep -lx 'Kernel: debug' "$top"/selftests/mutants/*.patch
}

[ -d "$files/selftests" ] || die "no tests in $files; make check builds them"
if [ $# = 0 ]; then
	mapfile -t patches < <(all_patches)
	set -- "${patches[@]}"
fi
trap kill_jobs EXIT
trap 'exit 1' INT TERM HUP
rm -rf "$out"
mkdir -p "$out"
# Which guest each mutant needs, and the directory of those that are saved.
declare -A kernels guests saved_guests sharing
for patch; do
	series=$(header "$patch" Kernel)
	series=${series:-6.12}
	[ -n "${kernels[$series]:-}" ] || kernels[$series]=$("$vm/fetch.sh" "$series")
	guests[$patch]=$(guest_of "$patch" "${kernels[$series]}")
	sharing[${guests[$patch]}]+=$patch$'\n'
	spawn build_mutant "$patch" "${kernels[$series]}"
done
wait
# One that few share is booted for each: saving it takes as long.
nr=0
for guest in "${!sharing[@]}"; do
	mapfile -t patches < <(printf %s "${sharing[$guest]}")
	[ ${#patches[@]} -gt 3 ] || continue
	saved_guests[$guest]=$out/guest-$((nr += 1))
	spawn save_guest "${saved_guests[$guest]}" "${patches[@]}"
done
wait
for patch; do
	spawn report "$patch"
done
wait
rm -rf "$out"/guest-*/state
for patch; do
	[ -s "$(result_of "$patch")" ] || echo "not ok mutant $(name_of "$patch"): no result"
done
