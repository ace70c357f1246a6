#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Usage: soak.sh
# For MINUTES, shared out among KERNELS, try to make the module lose something:
# model	random operations against a model of memory (model_test)
# kvm	a virtual machine in the guest writes to what is duplicated (*kvm*_test)
# faults	every step that can fail fails in turn (fault_test)
# foreign	programs that know nothing of it, under constant duplication
# A part whose program is not there is left out, and said to be. Prints a table
# and, as the last line, the sums; build/soak/report.json has the same. The status
# is 0 when all parts passed and each kernel had at least two of them.
# Environment: MINUTES=10, KERNELS="6.1 6.12", JOBS (guests at a time),
# COWSNAP_SEED (chosen and printed otherwise).

set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/common.sh"

minutes=${MINUTES:-10}
kernels=${KERNELS:-6.1 6.12}
seed=${COWSNAP_SEED:-$((RANDOM * 32768 + RANDOM + 1))}
out=$top/build/soak
log=$out/log

[[ $minutes =~ ^[1-9][0-9]*$ ]] || die "MINUTES=$minutes is no number of minutes"

# The programs of part $1, a line each.
programs_of()
{
	(
		cd "$top/selftests"
		case $1 in
		model)	compgen -G 'model_test.c' ;;
		kvm)	compgen -G '*kvm*_test.c' ;;
		faults)	compgen -G 'fault_test.c' ;;
		esac || true
	) | sed 's/\.c$//'
}

build()
{
	local series kernel programs

	"$vm/kselftest.sh" >"$out/kselftest"
	mapfile -t programs < <(for part in model kvm faults; do programs_of $part; done)
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

parts()
{
	local part

	for part in model kvm faults; do
		[ -z "$(programs_of $part)" ] || echo $part
	done
	echo foreign
}

# The sum of the numbers before $2, a regular expression, in file $1.
sum()
{
	grep -aoE "[0-9]+ +($2)" "$1" | awk '{ n += $1 } END { print n + 0 }'
}

# What log $3 of part $2 says: operations duplicates pages faults.
figures()
{
	local file=$3

	case $2 in
	foreign)
		echo "$(sum "$file" 'tried ') $(sum "$file" 'made ')" \
		     "$(sum "$file" 'traced |compared |verified ') 0" ;;
	*)
		# model_test: "412 steps, 9000 pages verified", "remap 90/100".
		echo "$(sum "$file" 'steps,|rounds')" \
		     "$(grep -aoE ' (remap|dup)[a-z_]* [0-9]+/' "$file" |
			awk '{ sub(/\//, "", $2); n += $2 } END { print n + 0 }')" \
		     "$(sum "$file" 'pages verified') $(sum "$file" 'faults injected|steps can fail')" ;;
	esac
}

# Part $2 on kernel $1, for $3 seconds; a line of figures to its result file.
run_part()
{
	local series=$1 part=$2 seconds=$3 name=$1-$2 module=module status=0 start=$SECONDS
	local failures files=$out/files command boot=(--nodes 2 --cpus 4)

	case $part in
	foreign)
		files=$out/foreign-$series boot=(--nodes 2 --cpus 2)
		command="/files/guest-foreign.sh --seconds $seconds --start $((seed % 61 + 1))" ;;
	*)
		[ "$part" != faults ] || module=faults
		command="COWSNAP_SEED=$seed COWSNAP_MINUTES=$(awk "BEGIN { print $seconds / 60 }")"
		command+=" COWSNAP_TEST_TIMEOUT=$((3 * seconds + 600))"
		command+=" /files/guest-check.sh $(programs_of "$part" | tr '\n' ' ')" ;;
	esac
	"$vm/run.sh" --kernel "$(cat "$out/kernel-$series")" --module "$out/$module-$series/cowsnap.ko" \
		--files "$files" --timeout $((3 * seconds + 1500)) --keep-console "$log/$name.console" \
		"${boot[@]}" -- "$command" >"$log/$name.log" 2>&1 || status=$?
	failures=$(grep -ac '^not ok' "$log/$name.log" || true)
	# A complaint of the kernel, a dead or a stuck guest; or nothing ran.
	if [ $status != 0 ] && [ "$failures" = 0 ] || ! grep -aq '^ok' "$log/$name.log"; then
		failures=$((failures + 1))
	fi
	echo "$series $part $(figures "$series" "$part" "$log/$name.log") $((SECONDS - start)) $failures" \
		>"$log/$name.result"
	[ "$failures" = 0 ] || { echo "$name failed, $log/$name.log:"; grep -a -A 5 '^not ok' "$log/$name.log" | head -n 30; } >&2
}

report()
{
	awk -v minutes="$minutes" -v seed="$seed" -v json="$out/report.json" '
	BEGIN {
		format = "%-8s %-8s %12s %12s %14s %8s %7s %9s\n"
		printf format, "kernel", "part", "operations", "duplicates", \
			"pages checked", "faults", "hours", "failures"
		printf "{\n  \"minutes\": %d,\n  \"seed\": %d,\n  \"runs\": [", minutes, seed >json
	}
	{
		printf format, $1, $2, $3, $4, $5, $6, sprintf("%.2f", $7 / 3600), $8
		printf "%s\n    { \"kernel\": \"%s\", \"part\": \"%s\", \"operations\": %d, " \
			"\"duplicates\": %d, \"pages\": %d, \"faults\": %d, \"seconds\": %d, " \
			"\"failures\": %d }", NR > 1 ? "," : "", $1, $2, $3, $4, $5, $6, $7, $8 >json
		for (i = 3; i <= 8; i++)
			all[i] += $i
		parts[$1]++
	}
	END {
		printf "\n  ],\n  \"failures\": %d\n}\n", all[8] >json
		bad = all[8] || !NR
		for (kernel in parts)
			bad = bad || parts[kernel] < 2
		printf "%d operations, %d duplicates, %d pages checked, %d faults injected, " \
			"%.2f hours: %s\n", all[3], all[4], all[5], all[6], all[7] / 3600, \
			all[8] ? all[8] " failures" : bad ? "too little ran" : "nothing lost"
		exit bad
	}' "$@"
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
mapfile -t list < <(parts)
count=$(wc -w <<<"$kernels")
seconds=$((minutes * 60 / (count * ${#list[@]})))
echo "seed $seed; ${list[*]}: $seconds s each on each of $kernels"
for series in $kernels; do
	for part in "${list[@]}"; do
		spawn run_part "$series" "$part" "$seconds"
	done
done
wait
shopt -s nullglob
report "$log"/*.result
