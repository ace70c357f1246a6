#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Usage: guest-foreign.sh [--quick | --seconds N] [--start N] [--patience N] [PROGRAM...]
# In a guest: load /cowsnap.ko and run programs that know nothing of it (see
# table below), each alone and then with the preload library in it, which keeps
# duplicating, checking and dropping the program's memory. Their results must be
# the same, test by test. With --seconds go round the table from line --start
# until the time is over; --quick is one pass over the short ones; PROGRAMs limit
# it to those whose line contains one of the words. What takes longer alone than
# --patience seconds (300) is left out. TAP; the counts come last.

dir=/files/foreign
counts=/tmp/counts
work=/tmp/foreign
failed=0 broken=0 passes=1 quick='' seconds='' start=1 patience=300

# A line each: letters, which set, the command. q: also with --quick; r: it is a
# failure when it is not there, or nothing passes. Arguments as in run_vmtests.sh
# of the kernel, where it gives any. ng is stress-ng, which ends with its first
# failed verification, ksm is the same while KSM merges pages. A stressor takes
# --timeout seconds of its own. Not there are tests that want a page to be nobody
# else's: khugepaged (it does not collapse pages that are mapped twice) and of
# uffd-unit-tests those of UFFDIO_MOVE (EBUSY).
table()
{
	cat <<-EOF
	q mm mkdirty
	q mm mremap_dontunmap
	qr mm madv_populate
	q mm mseal_test
	q mm mlock2-tests
	qr mm ksm_tests -M -p 10
	q mm map_populate
	q ng --vm 2 --vm-bytes 8M --vm-method all
	q ng --bigheap 1 --bigheap-growth 64K --fork 1 --fork-max 2
	q ng --memthrash 1 --mprotect 1
	- ng --brk 1 --stackmmap 1
	- ng --mmap 1 --mmap-bytes 8M --mremap 1 --mremap-bytes 4M
	- ng --mincore 1 --mlock 1
	- ng --userfaultfd 1 --userfaultfd-bytes 4M --malloc 1 --malloc-bytes 8M
	- ksm --vm 2 --vm-bytes 8M --vm-method all --vm-madvise mergeable
	- ng --vm 1 --vm-bytes 16M --vm-method all --vm-madvise hugepage --thrash
	- ng --numa 1 --mmapaddr 1
	- ng --pageswap 1 --remap 1
	- ng --vm-rw 1 --vm-rw-bytes 8M --vm-splice 1
	- ng --stack 1 --bad-altstack 1
	- ng --qsort 1 --tree 1 --pthread 1
	r mm mremap_test
	- mm ksm_functional_tests
	- mm uffd-unit-tests -f register
	- mm uffd-unit-tests -f zeropage
	- mm uffd-unit-tests -f wp-
	- mm uffd-unit-tests -f minor
	- mm uffd-unit-tests -f events
	- mm uffd-unit-tests -f poison
	- mm uffd-unit-tests -f sigbus
	r mm uffd-stress anon 20 4
	- mm uffd-stress shmem-private 20 4
	- mm uffd-wp-mremap
	- mm pagemap_ioctl
	r mm soft-dirty
	r mm cow
	- mm gup_longterm
	r mm migration
	- mm ksm_tests -U
	- mm ksm_tests -Z -p 10 -z 0
	- mm ksm_tests -Z -p 10 -z 1
	- mm ksm_tests -N -m 1
	- mm ksm_tests -N -m 0
	- mm split_huge_page_test
	- mm transhuge-stress -d 5
	- mm mdwe_test
	- mm map_fixed_noreplace
	- mm mlock-random-test
	- mm mrelease_test
	- mm memfd_secret
	- mm droppable
	- mm guard-regions
	- mm process_madv
	- mm merge
	- mm rmap
	- mm prctl_thp_disable
	- mm protection_keys_64
	- mm pkey_sighandler_tests_64
	- mm compaction_test
	- mm hugepage-mmap
	- mm hugetlb-mmap
	- mm map_hugetlb
	- mm hugepage-mremap 10 /tmp/huge/mremap
	- mm hugetlb-mremap
	- mm hugetlb-madvise /tmp/huge/madvise
	- mm hugetlb_madv_vs_map
	- mm thuge-gen
	EOF
}

# Results that duplicating changes by what it is, for differences() to let pass: a
# pattern of result and name. Each with its reason.
excused()
{
	case $1 in
	# MADV_PAGEOUT leaves a page alone that is mapped more than once, and while
	# a duplicate exists each is. The test then says that it could not be.
	"skip "*"MADV_PAGEOUT did not work"*) return 0 ;;
	# The statistics of KSM count the duplicate's pages with the program's, and
	# a page is not merged while it is being duplicated; these tests want exact
	# numbers.
	"not ok test_unmerge_zero_pages: 'ksm_zero_pages' updated after merging "*) return 0 ;;
	"not ok KSM "*) return 0 ;;
	# Where source and duplicate may not both map a huge page, it is split, and
	# the memory is as after MADV_NOHUGEPAGE. These want huge pages, or one mapping
	# of parts that have been duplicated and others.
	"skip "*"Not all THPs allocated"* | "skip process_madvise.remote_collapse "* | \
	"not ok failed to merge VMAs after munlock"* | \
	"not ok prctl_thp_disable_"*) [ "$huge_whole" = 0 ]; return ;;
	# Fails now and then beside any other program: a preempted thread's rseq
	# area has to be written, and the test has taken the rights to it away.
	"not ok test_sigsegv_handler_with_pkey0_disabled "*) return 0 ;;
	*) return 1 ;;
	esac
}

# One line a result of output $1, "ok", "not ok" or "skip" and what of. Tests of
# one name are told apart by the heading above them, or by counting them.
results_of()
{
	awk -v status="$2" '
	function emit(result, name) {
		gsub(/0x[0-9a-f]+/, "ADDRESS", name)
		name = heading (heading == "" ? "" : ": ") name
		print result " " name " (" ++seen[result name] ")"
	}
	{ sub(/\r$/, ""); sub(/^[ \t]+/, "") }
	/\[RUN\]/ { heading = $0; sub(/^.*\[RUN\] */, "", heading); next }
	/^(not )?ok / {
		result = /^not/ ? "not ok" : / # SKIP/ ? "skip" : "ok"
		sub(/^(not )?ok ([0-9]+ )?(- )?/, "")
		emit(result, $0)
		next
	}
	/^Testing .*\.\.\. / {
		result = /failed/ ? "not ok" : /skipped/ ? "skip" : "ok"
		sub(/\.\.\. .*/, "")
		emit(result, $0)
		next
	}
	/^stress-ng: fail:/ { bad++ }
	END {
		heading = ""
		emit(status == 0 && !bad ? "ok" : status == 4 ? "skip" : "not ok", \
		     "the end, with status " status)
	}' "$1"
}

# What failed or was left out in results $2 and never did alone ($1), or got lost;
# empty when alike. A program ends with status 1 because of a test that failed: when
# all of these are excused, so is its end.
differences()
{
	awk 'NR == FNR { alone[$0] = 1; next } !alone[$0] && !/^ok /' "$1" "$2" >"$work/only"
	grep -v '^[a-z ]* the end, ' "$work/only" |
	while read -r line; do
		excused "$line" || echo "only under duplication: $line"
	done >"$work/unexcused"
	cat "$work/unexcused"
	ends='with status'
	if [ ! -s "$work/unexcused" ] && grep -qv ' the end, ' "$work/only"; then
		ends='with status \([^1]\|1[^ ]\)'
	fi
	# Their end is their only result, and is 1 unless the statistics of KSM are
	# exactly those of their own memory: see excused().
	case $name in
	"mm ksm_tests "*) ends='with status \([^1]\|1[^ ]\)' ;;
	esac
	sed -n "s/^[a-z ]* the end, $ends/only under duplication: &/p" "$work/only"
	# A test left out, whatever its result was.
	if [ "$(grep -c . "$1.first")" -gt "$(grep -c . "$2")" ]; then
		echo "only $(grep -c . "$2") results of $(grep -c . "$1.first")"
	fi
}

# Run command $3... with output to $1 for at most $2 seconds: sets status.
run()
{
	output=$1 limit=$2
	shift 2
	timeout -k 5 "$limit" "$@" >"$output" 2>&1 </dev/null
	status=$?
	# What a killed program left behind may hold memory or a lock.
	[ $status = 0 ] || sleep 1
}

run_alone()
{
	run "$work/$key.out" "$patience" "$@"
	results_of "$work/$key.out" $status >"$work/$key.last"
	cat "$work/$key.last" >>"$work/$key.alone"
}

run_duplicated()
{
	run "$work/$key.dup.out" $((patience + 4 * took)) env LD_PRELOAD=$dir/cowsnap-preload.so \
		COWSNAP_PRELOAD_COUNTS=$counts COWSNAP_PRELOAD_NAP=500 $split "$@"
	results_of "$work/$key.dup.out" $status >"$work/$key.dup"
}

now()
{
	cut -d. -f1 /proc/uptime
}

# How often the library has counted $1, in all programs.
count_of()
{
	$dir/preload-counts $counts 2>/dev/null |
		awk -v name="$1" '$2 == name { n = $1 } END { print n + 0 }'
}

# The library counts them, whatever the program made of its end. The text is that
# of the first one.
broken_promises()
{
	$dir/preload-counts $counts 2>/dev/null | awk -v before="$1" '
		$2 == "failures" && $1 > before { print $1 - before " promises broken" }
		/^cowsnap-preload: / && before == 0'
}

# The program was not compared, because of $1.
leave_out()
{
	if [ -n "$required" ]; then
		echo "not ok foreign $name: $1"
		failed=1
	else
		echo "ok foreign $name # SKIP $1"
	fi
	[ ! -e "$work/$key.out" ] || tail -n 5 "$work/$key.out" | sed 's/^/#   /'
}

# The program of line $1 of the table: its letters $2, set $3, command $4...
try_program()
{
	key=program$1 name=$3 required=''
	case $2 in *r*) required=1 ;; esac
	shift 3
	name="$name $*"
	# stress-ng does not look how its memory is mapped.
	split='' merge=0
	case $name in
	ng*|ksm*)
		[ "${name%% *}" = ng ] || merge=1
		split=COWSNAP_PRELOAD_SPLIT=1
		set -- $dir/stress-ng --timeout 3 --verify --oomable --temp-path /tmp "$@" ;;
	*)	if [ ! -x "$dir/mm/$1" ]; then
			leave_out "is not there"
			return
		fi
		program=$dir/mm/$1; shift; set -- "$program" "$@" ;;
	esac
	# Some leave another number behind, and one wants just one.
	pool=160
	[ "$1" != $dir/mm/hugetlb_madv_vs_map ] || pool=1
	echo $pool >/proc/sys/vm/nr_hugepages
	[ $merge = 0 ] || echo 1 >/sys/kernel/mm/ksm/run
	compare_runs "$@"
	# Also unmerges what is left.
	[ $merge = 0 ] || echo 2 >/sys/kernel/mm/ksm/run
}

# Command $@ of the table, called $name, alone and duplicated.
compare_runs()
{
	if [ ! -e "$work/$key.alone" ]; then
		begin=$(now)
		run_alone "$@"
		# Of stressors, which take a few seconds, a failure may be of that moment.
		[ $status = 0 ] || [ -z "$split" ] || { begin=$(now); run_alone "$@"; }
		cp "$work/$key.last" "$work/$key.alone.first"
		took=$(($(now) - begin))
		echo $took >"$work/$key.took"
		echo $status >"$work/$key.status"
	fi
	took=$(cat "$work/$key.took")
	alone=$(cat "$work/$key.status")
	case $alone in
	124|137|143)
		leave_out "takes longer than $patience s here, alone"
		return ;;
	esac
	if ! grep -q '^ok ' "$work/$key.alone" || { [ -n "$split" ] && [ "$alone" != 0 ]; }; then
		leave_out "passes nothing here, alone, and ends with status $alone"
		return
	fi
	broken=$(count_of failures) made=$(count_of made) begin=$(now) runs=0
	# Most are over before much has been duplicated: some times, then.
	while [ $runs -lt 10 ] && [ $(($(now) - begin)) -lt 5 ]; do
		run_duplicated "$@"
		runs=$((runs + 1))
		[ -z "$(all_differences)$(broken_promises "$broken")" ] || break
	done
	made=$(($(count_of made) - made))
	# A test may not be steady by itself: what it says alone is then a set.
	for _ in 1 2; do
		[ -n "$(all_differences)" ] || break
		run_alone "$@"
	done
	report "$(all_differences)"
}

all_differences()
{
	differences "$work/$key.alone" "$work/$key.dup"
}

# $1: what differs. Without a duplicate nothing was tried.
report()
{
	promise=$(broken_promises "$broken")
	[ $made -gt 0 ] || promise="${promise:+$promise; }no duplicate was made"
	skips=$(grep -c '^skip' "$work/$key.dup") bad=$(grep -c '^not ok' "$work/$key.dup")
	if [ -z "$1$promise" ]; then
		echo "ok foreign $name: $(grep -c . "$work/$key.dup") results alike ($skips skipped, $bad failed)," \
		     "$made duplicates in $runs runs, $(($(now) - begin)) s"
		return
	fi
	failed=1
	echo "not ok foreign $name"
	printf '%s\n' "$promise" "$1" | sed 's/^/# /' | head -n 20
	{
		grep -B 3 -A 3 '^ *not ok\|cowsnap-preload:\|Bail out\|ERROR' "$work/$key.dup.out" |
			head -n 40
		tail -n 15 "$work/$key.dup.out"
	} | sed 's/^/#   /'
}

setup()
{
	mkdir -p /lib64 /lib/x86_64-linux-gnu /tmp/huge $work &&
	ln -s $dir/lib/ld-linux-x86-64.so.2 /lib64/ &&
	ln -s $dir/lib/* /lib/x86_64-linux-gnu/ &&
	modprobe brd rd_nr=1 rd_size=131072 &&
	mkswap /dev/ram0 >/dev/null &&
	swapon /dev/ram0 &&
	echo madvise >/sys/kernel/mm/transparent_hugepage/enabled &&
	mount -t hugetlbfs none /tmp/huge &&
	insmod /cowsnap.ko &&
	huge_whole=$(dmesg | sed -n 's/.*cowsnap: .* huge_whole \([01]\).*/\1/p') &&
	# For programs that give up being root.
	chmod 666 /dev/cowsnap
}

finish()
{
	if $dir/preload-counts $counts >$work/counts; then
		echo "ok foreign: duplicates were checked"
	else
		echo "not ok foreign: no duplicate was checked, or a promise broken"
		failed=1
	fi
	sed 's/^/# /' $work/counts
	finish_step "rmmod" rmmod cowsnap
	finish_step "swapped pages can be read back" swapoff /dev/ram0
	finish_step "no hugetlb page is lost" pool_is_free
}

finish_step()
{
	name=$1
	shift
	if "$@"; then
		echo "ok foreign: $name"
	else
		echo "not ok foreign: $name"
		failed=1
	fi
}

# But for what the tests themselves leave in files.
pool_is_free()
{
	rm -f /tmp/huge/*
	awk '/^HugePages_Total/ { total = $2 } /^HugePages_(Rsvd|Surp)/ { odd += $2 }
	     /^HugePages_Free/ { free = $2 }
	     END { exit(odd || free != total) }' /proc/meminfo
}

while [ $# -gt 0 ]; do
	case $1 in
	--quick)	quick=1; shift ;;
	--seconds)	seconds=$2 passes=1000000; shift 2 ;;
	--start)	start=$2; shift 2 ;;
	--patience)	patience=$2; shift 2 ;;
	*)		break ;;
	esac
done

# Is line $1 to be run? The words are in $wanted.
chosen()
{
	case $quick${1%% *} in 1*q*|[!1]*) ;; *) return 1 ;; esac
	[ -n "$wanted" ] || return 0
	for word in $wanted; do
		case " $1 " in *" $word "*) return 0 ;; esac
	done
	return 1
}

# Or, the first ones taking that long, nothing has been tried yet.
time_is_left()
{
	[ "$(now)" -lt $end ] || [ "$(count_of made)" = 0 ]
}

setup || { echo "not ok foreign set-up"; exit 1; }
wanted=$*
table >$work/table
# Some look for files where they are.
cd /tmp || exit 1
lines=$(grep -c . $work/table)
end=$(($(now) + ${seconds:-1000000}))
pass=0
while [ $pass -lt $passes ] && time_is_left; do
	i=0
	while [ $i -lt "$lines" ] && time_is_left; do
		number=$(((start - 1 + i) % lines + 1))
		line=$(sed -n "${number}p" $work/table)
		i=$((i + 1))
		# shellcheck disable=SC2086
		! chosen "$line" || try_program $number $line
	done
	pass=$((pass + 1))
done
finish
exit $failed
