#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Usage: soak.sh
# For MINUTES, shared out among KERNELS and four parts, try to make the module
# lose something:
# model	random operations against a model of memory (model_test)
# hostile	threads tear apart what is being duplicated (hostile_test), and once
#		callers are killed in a long call (kill_test)
# kvm	a virtual machine in the guest writes to what is duplicated (kvm_test)
# foreign	programs that know nothing of it, under constant duplication
# and once on each kernel, for as long as that takes:
# faults	every step that can fail fails in turn (fault_test)
# Prints a table and, as the last line, the sums; build/soak/report.json has the
# same, build/soak/log what the figures were taken from. The status is 0 when
# each part did something on each kernel and nothing failed.
# Environment: MINUTES=10, KERNELS="6.1 6.12 7.3", JOBS (guests at a time),
# COWSNAP_SEED (chosen and printed otherwise).

set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/common.sh"

minutes=${MINUTES:-10}
kernels=${KERNELS:-6.1 6.12 7.3}
seed=${COWSNAP_SEED:-$((RANDOM * 32768 + RANDOM + 1))}
out=$top/build/soak
log=$out/log
parts=(foreign model hostile kvm faults)
programs=(fault_test hostile_test kill_test kvm_test model_test)

[[ $minutes =~ ^[1-9][0-9]*$ ]] || die "MINUTES=$minutes is no number of minutes"

build()
{
	local series kernel

	"$vm/kselftest.sh" >"$out/kselftest"
	quietly make -C "$top/selftests" KSELFTEST_DIR="$(cat "$out/kselftest")" \
		OUTPUT="$out/files/selftests" STATIC=1 -j"$(nproc)" \
		"${programs[@]/#/$out/files/selftests/}"
	cp "$vm/guest-check.sh" "$out/files"
	for series in $kernels; do
		kernel=$("$vm/fetch.sh" "$series")
		echo "$kernel" >"$out/kernel-$series"
		"$vm/build.sh" "$kernel" "$out/module-$series"
		COWSNAP_FAULTS=1 "$vm/build.sh" "$kernel" "$out/faults-$series"
		mkdir -p "$out/foreign-$series"
		"$vm/foreign-files.sh" "$kernel" "$out/foreign-$series"
	done
}

# The sum of the numbers before $2, an extended regular expression, in file $1.
sum()
{
	grep -aoE "[0-9]+ +($2)" "$1" | awk '{ n += $1 } END { print n + 0 }'
}

# What log $2 of part $1 says: operations, duplicates, pages checked, faults.
figures()
{
	local made tried failed

	case $1 in
	model)
		# "9000 pages verified"; "effective/tried: dup 90/100 dup-fixed 70/75",
		# of which the other dups are to be refused.
		made=$(grep -aoE ' dup(-fixed|-island)? [0-9]+/' "$2" |
			awk '{ n += $2 } END { print n + 0 }')
		tried=$(grep -a 'effective/tried:' "$2" | grep -oE '/[0-9]+' |
			awk '{ n += substr($0, 2) } END { print n + 0 }')
		echo "$tried $made $(sum "$2" 'pages verified') 0" ;;
	hostile)
		# "900 attacks; 300 calls, 100 done, 50 holes"
		echo "$(($(sum "$2" 'attacks;') + $(sum "$2" 'calls,'))) $(sum "$2" 'done,') 0 0" ;;
	kvm)
		# "40 duplicates of a running guest, 7424 pages verified"
		made=$(sum "$2" 'duplicates of a running guest')
		echo "$made $made $(sum "$2" 'pages verified') 0" ;;
	faults)
		# "52 steps can fail", each in a call; and what the module itself
		# counted, of each point that can fail, at the end:
		# "# at:FILE:LINE:WHAT FUNCTION failed 12".
		failed=$(grep -aE '^# [^ ]+ +[^ ]+ +failed [0-9]+$' "$2" |
			awk '{ n += $NF } END { print n + 0 }')
		echo "$(sum "$2" '(steps|allocations) can fail') 0 0 $failed" ;;
	foreign)
		# Of preload-counts.
		echo "$(sum "$2" 'tried ') $(sum "$2" 'made ')" \
		     "$(sum "$2" '(traced|compared|verified) ') 0" ;;
	esac
}

# How many things went wrong in the guest that ended with status $1 and log $2:
# tests, or a complaint of the kernel, a dead or a stuck guest, or that nothing ran.
failures_of()
{
	local failures

	failures=$(grep -ac '^not ok' "$2" || true)
	if [ "$failures" = 0 ] && { [ "$1" != 0 ] || ! grep -aq '^ok' "$2"; }; then
		failures=1
	fi
	echo "$failures"
}

# Was every test of log $1 left out? The guest's own results have no number.
all_skipped()
{
	! grep -a '^ok' "$1" | grep -qv '# SKIP\|^ok [a-z_]*$'
}

# Part $2 on kernel $1, for $3 seconds; a line of figures to its result file.
run_part()
{
	local series=$1 part=$2 seconds=$3 name=$1-$2 module=module status=0 start=$SECONDS
	local files=$out/files command boot=(--nodes 2 --cpus 4) numbers failures verdict=ran
	local environment="COWSNAP_SEED=$seed COWSNAP_TEST_TIMEOUT=$((2 * seconds + 900))"

	case $part in
	model|kvm|hostile)
		environment+=" COWSNAP_MINUTES=$(awk "BEGIN { print $seconds / 60 }")"
		command="$environment /files/guest-check.sh ${part}_test"
		[ "$part" != hostile ] || command+=" kill_test" ;;
	faults)
		module=faults boot=(--cpus 2)
		command="$environment /files/guest-check.sh fault_test" ;;
	foreign)
		# One program may take nine times its patience, beyond the time given.
		files=$out/foreign-$series
		command="/files/guest-foreign.sh --patience 150 --seconds $seconds"
		command+=" --start $((seed % 1000 + 1))" ;;
	esac
	"$vm/run.sh" --kernel "$(cat "$out/kernel-$series")" --module "$out/$module-$series/cowsnap.ko" \
		--files "$files" --timeout $((3 * seconds + 1500)) --keep-console "$log/$name.console" \
		"${boot[@]}" -- "$command" >"$log/$name.log" 2>&1 || status=$?
	numbers=$(figures "$part" "$log/$name.log")
	failures=$(failures_of $status "$log/$name.log")
	if [ "$failures" = 0 ] && [ "${numbers%% *}" = 0 ]; then
		# Then the figures are wrong, or the test.
		if all_skipped "$log/$name.log"; then verdict=skipped; else failures=1; fi
	fi
	echo "$series $part $numbers $((SECONDS - start)) $failures $verdict" >"$log/$name.result"
	if [ "$failures" != 0 ]; then
		echo "$name failed, $log/$name.log:"
		grep -a -B 12 -A 15 '^not ok\|^run.sh:' "$log/$name.log" | head -n 100
	fi
}

# $1: how many results there have to be, $2...: those that there are.
report()
{
	awk -v expected="$1" -v minutes="$minutes" -v seed="$seed" -v json="$out/report.json" '
	BEGIN {
		format = "%-8s %-8s %12s %12s %14s %8s %7s %9s %s\n"
		printf format, "kernel", "part", "operations", "duplicates", \
			"page checks", "faults", "hours", "failures", ""
		printf "{\n  \"minutes\": %d,\n  \"seed\": %d,\n  \"runs\": [", minutes, seed >json
	}
	{
		left_out = $9 == "skipped"
		printf format, $1, $2, $3, $4, $5, $6, sprintf("%.2f", $7 / 3600), $8, \
			left_out ? "left out there" : ""
		printf "%s\n    { \"kernel\": \"%s\", \"part\": \"%s\", \"operations\": %d, " \
			"\"duplicates\": %d, \"page_checks\": %d, \"faults\": %d, " \
			"\"seconds\": %d, \"failures\": %d, \"skipped\": %s }", \
			(NR > 1 ? "," : ""), $1, $2, $3, $4, $5, $6, $7, $8, \
			(left_out ? "true" : "false") >json
		for (i = 3; i <= 8; i++)
			all[i] += $i
		skipped += left_out
	}
	END {
		# A part without a result was lost.
		all[8] += expected - NR
		printf "\n  ],\n  \"failures\": %d\n}\n", all[8] >json
		verdict = all[8] ? all[8] " failures" : "nothing lost"
		if (skipped)
			verdict = verdict "; " skipped " parts left out"
		printf "%d operations, %d duplicates, %d page checks, %d faults injected, " \
			"%.2f hours: %s\n", all[3], all[4], all[5], all[6], all[7] / 3600, verdict
		exit(all[8] != 0)
	}' "${@:2}" /dev/null
}

mkdir -p "$out"
exec 8>"$out/lock"
flock 8
rm -rf "$log" "$out/files" "$out"/foreign-*
mkdir -p "$log" "$out/files/selftests"
trap kill_jobs EXIT
trap 'exit 1' INT TERM HUP

"$vm/setup.sh"
build
count=$(wc -w <<<"$kernels")
seconds=$((minutes * 60 / (count * (${#parts[@]} - 1))))
echo "seed $seed; ${parts[*]::3}: $seconds s each on each of $kernels"
for part in "${parts[@]}"; do
	for series in $kernels; do
		spawn run_part "$series" "$part" "$seconds"
	done
done
wait
shopt -s nullglob
report $((count * ${#parts[@]})) "$log"/*.result
