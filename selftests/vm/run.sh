#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Usage: run.sh [OPTION...] -- COMMAND...
# Boot a kernel in a virtual machine, run COMMAND there as root, print its
# output, and return its exit status. One argument is a line of shell; several
# are run as they are.
#	--kernel DIR		as printed by fetch.sh (newest 6.12)
#	--cpus N		(2)
#	--nodes N		NUMA nodes, CPUs and memory split evenly (1)
#	--mem SIZE		in all, as 512M or 2G (2G)
#	--cpu MODEL		as `max,la57=off` for 4-level page tables (max)
#	--icount		guest time counts instructions; 1 CPU
#	--timeout SECONDS	(300)
#	--append WORDS		for the kernel command line
#	--module FILE		becomes /cowsnap.ko; not loaded
#	--files DIR		its contents appear in /files; may be repeated
#	--keep-console FILE	the kernel's messages
#	--shell			an interactive shell, or COMMAND, on the terminal
#	--save DIR		no COMMAND: boot, and put the guest there for --from
#	--from DIR		instead of booting go on with that guest, as often as
#				wanted; takes no option but --timeout, --keep-console
# The status is 98 when the kernel complained about anything, 124 when the time
# was over, 97 when the guest ended in another way, 2 for wrong arguments.
# COMMAND finds kvm, tcg or icount in $COWSNAP_ACCEL; here COWSNAP_ACCEL=kvm or
# tcg overrides the choice.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/common.sh"

splats='BUG:|WARNING:|Oops:|KASAN|KCSAN|KMSAN|KFENCE|UBSAN|Kernel panic|Call Trace'
splats+='|possible (recursive|circular) locking|INFO: task .* blocked|rcu: INFO: rcu_.* detected'
splats+='|soft lockup|hard LOCKUP|Bad (page|swap)|bad (pte|pmd|pud|p4d|pgd)|general protection'
splats+='|kmemleak: [0-9]+ new suspected|trying to register non-static key|BUG [a-z][^ ]* \('
splats+='|unable to handle|refcount_t:|Bad rss-counter|non-zero pgtables_bytes|double fault|kernel BUG at'
# Bad page, died, warned, soft lockup: bits 5, 7, 9 and 14.
tainted=$((1 << 5 | 1 << 7 | 1 << 9 | 1 << 14))

cpus=2 nodes=1 mem=2G cpu=max timeout=300
kernel='' icount='' append='' module='' console='' shell='' guest='' save='' from=''
files=()
wrong() { echo "run.sh: $*" >&2; exit 2; }
while [ $# -gt 0 ]; do
	case $1 in
	--icount)	icount=1 cpus=1; shift; continue ;;
	--shell)	shell=1; shift; continue ;;
	--help)		usage 0 ;;
	--)		shift; break ;;
	esac
	[ $# -ge 2 ] || wrong "$1 needs a value"
	case $1 in
	--kernel)	kernel=$2 ;;
	--cpus)		cpus=$2 ;;
	--nodes)	nodes=$2 ;;
	--mem)		mem=$2 ;;
	--cpu)		cpu=$2 ;;
	--timeout)	timeout=$2 ;;
	--append)	append=$2 ;;
	--module)	module=$2 ;;
	--files)	files+=("$2") ;;
	--keep-console)	console=$2 ;;
	--save)		save=$2 ;;
	--from)		from=$2 ;;
	*)		wrong "unknown option $1" ;;
	esac
	shift 2
done

[ $# -gt 0 ] || [ -n "$shell$save" ] || usage 2
[ -z "$from" ] || [ -e "$from/state" ] || wrong "no saved guest in $from"
[ -z "$from" ] || [ -z "$kernel$module$append$shell$save$icount" ] || wrong "--from takes what was saved"
[ -n "$from" ] || [ -n "$kernel" ] || kernel=$("$vm/fetch.sh" 6.12)
[ -n "$from" ] || [ -e "$kernel/vmlinuz" ] || wrong "no kernel in $kernel"
[ -z "$module" ] || [ -e "$module" ] || wrong "no module $module"
[ -z "$icount" ] || [ "$cpus$nodes" = 11 ] || wrong "--icount is for one CPU"
[ $((cpus % nodes)) = 0 ] || wrong "$cpus CPUs cannot be split among $nodes nodes"
case $mem in
*M)	mib=${mem%M} ;;
*G)	mib=$((${mem%G} * 1024)) ;;
*)	wrong "--mem $mem: no M or G" ;;
esac

work=$(mktemp -d)
# shellcheck disable=SC2317
cleanup()
{
	if [ -n "$guest" ]; then
		# timeout passes it on, and follows it with SIGKILL.
		kill -TERM "$guest" 2>/dev/null || true
		wait "$guest" || true
	fi
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 143' INT TERM HUP

# The command as a script, $1.
write_command()
{
	local script=$1

	shift
	{
		echo '#!/bin/sh'
		case $# in
		0)	echo 'exec sh -i' ;;
		1)	printf '%s\n' "$1" ;;
		*)	printf '%q ' "$@" ;;
		esac
	} >"$script"
	chmod 755 "$script"
}

# /init, busybox, the kernel's modules, what the caller wants, the command.
make_initramfs()
{
	local root=$work/root dir

	mkdir -p "$root/bin" "$root/files" "$root/lib"
	cp "$vm/init.sh" "$root/init"
	cp "$(command -v busybox)" "$root/bin/busybox"
	ln -s busybox "$root/bin/sh"
	[ ! -d "$kernel/modules/lib/modules" ] || cp -r "$kernel/modules/lib/modules" "$root/lib"
	for dir in "${files[@]}"; do
		cp -rL "$dir/." "$root/files"
	done
	# Of a function in a trace kallsyms knows the name; the rest is 20 times as much.
	[ -z "$module" ] || strip --strip-debug -o "$root/cowsnap.ko" "$module"
	write_command "$root/command" "$@"
	chmod 755 "$root/init"
	(cd "$root" && find . | cpio -o -H newc -R 0:0 --quiet) >"${save:-$work}/initramfs"
}

# KVM counts only once a kernel has come up under it: on some machines it hangs.
# The verdict holds until the machine boots again.
kvm_works()
{
	local verdict

	verdict=$cache/kvm-$(cat /proc/sys/kernel/random/boot_id)-${kernel##*/}
	[ -w /dev/kvm ] || return
	if [ ! -e "$verdict" ]; then
		mkdir -p "$cache"
		if COWSNAP_ACCEL=kvm "$0" --kernel "$kernel" --cpus 2 --mem 512M --timeout 10 \
				     -- true >/dev/null 2>&1; then
			echo yes >"$verdict.$$"
		else
			echo no >"$verdict.$$"
		fi
		mv "$verdict.$$" "$verdict"
	fi
	[ "$(cat "$verdict")" = yes ]
}

choose_accel()
{
	if [ -n "$icount" ]; then
		accel=icount
	else
		accel=${COWSNAP_ACCEL:-}
		[ -n "$accel" ] || { kvm_works && accel=kvm || accel=tcg; }
	fi
	case $accel in
	kvm)	qemu+=(-accel kvm) ;;
	tcg)	qemu+=(-accel 'tcg,thread=multi') ;;
	icount)	qemu+=(-accel 'tcg,thread=single' -icount 'shift=0,sleep=off') ;;
	*)	wrong "COWSNAP_ACCEL is kvm or tcg, not $accel" ;;
	esac
}

# One socket and one memory backend a node; the last takes what is left over.
add_topology()
{
	local node other size=$((mib / nodes)) distances=()

	qemu+=(-m "${mib}M" -smp "$cpus,sockets=$nodes,cores=$((cpus / nodes)),threads=1")
	for ((node = 0; node < nodes; node++)); do
		[ $node -lt $((nodes - 1)) ] || size=$((size + mib % nodes))
		qemu+=(-object "memory-backend-ram,id=mem$node,size=${size}M")
		qemu+=(-numa "node,nodeid=$node,memdev=mem$node" -numa "cpu,node-id=$node,socket-id=$node")
		for ((other = 0; other < nodes; other++)); do
			[ $other = $node ] || distances+=(-numa "dist,src=$node,dst=$other,val=20")
		done
	done
	qemu+=("${distances[@]}")
}

# The rest of what makes the machine: its CPU and the words for the kernel.
add_words()
{
	words="console=ttyS0,115200 oops=panic softlockup_panic=1 panic=-1 rcupdate.rcu_cpu_stall_timeout=120"
	# TCG's counter is right, but too late at times for the clock's watchdog,
	# and the clock taken then makes the guest crawl. And a CPU may meet the
	# breakpoint with which another patched the kernel's text, after that is
	# over: fatal, and likely in the timer's code while booting. So the other
	# CPUs come up in init.sh, and are expected: else each locked instruction of
	# the kernel is patched for one CPU, and patched back. On a busy host a CPU
	# that all others wait for may not run for longer than the 20 s after which
	# that counts as a lockup.
	[ "$accel" = kvm ] ||
		words+=" tsc=reliable maxcpus=1 noreplace-smp watchdog_thresh=60"
	# This saves time where instructions are emulated, and says nothing about the
	# module: no CPU measures how fast it loops, which fails after 2 s; no return
	# thunks and retpolines, each a jump to code that is looked for anew; and of
	# the string instructions none that go byte by byte here. Pages go on being
	# cleared (init_on_alloc): the kernel looks at what is freed only then.
	if [ "$accel" = tcg ]; then
		words+=" lpj=10000000 mitigations=off"
		cpu+=,erms=off,fsrm=off
	fi
	# What checks each access takes half of the time of booting to unpack, for
	# which ramfs does less than tmpfs.
	! grep -qs '^CONFIG_KASAN=y' "$kernel/config" || words+=" rootfstype=ramfs"
	# Where the firmware is not asked, the kernel makes the nodes.
	! grep -qs '^# CONFIG_ACPI is not set' "$kernel/config" || words+=" numa=fake=$nodes"
	words+=" cowsnap.accel=$accel${shell:+ cowsnap.shell}${save:+ cowsnap.save} $append"
	[ ! -t 1 ] || words+=" cowsnap.tty"
	qemu+=(-M q35 -cpu "$cpu" -nodefaults -no-user-config -display none -no-reboot
	       -kernel "$kernel/vmlinuz" -initrd "${save:-$work}/initramfs" -append "$words")
}

boot()
{
	local out=stdio,signal=off

	[ -z "$save" ] || out=null
	rm -f "$work/console" "$work/status" "$work/in"
	set -- "${qemu[@]}" -chardev "file,id=console,path=$work/console" -serial chardev:console \
	       -chardev "$out,id=out" -serial chardev:out \
	       -chardev "file,id=status,path=$work/status" -serial chardev:status
	if [ -n "$shell" ]; then
		"$@"
		return
	fi
	mkfifo "$work/in"
	if [ -n "$save" ]; then
		timeout -k 5 "$timeout" "$@" -monitor stdio <>"$work/in" >"$work/monitor" &
		guest=$!
		put_away &
	elif [ -n "$from" ]; then
		timeout -k 5 "$timeout" "$@" -incoming "exec:cat '$from/state'" <>"$work/in" &
		guest=$!
		wake &
	else
		timeout -k 5 "$timeout" "$@" </dev/null &
		guest=$!
	fi
	wait "$guest"
}

# Wait until the guest says that it waits for a command, see init.sh.
await_ready()
{
	until grep -aqs ready "$work/status"; do
		kill -0 "$guest" 2>/dev/null || return
		sleep 0.1
	done
}

# Save a guest that has booted, and end it.
put_away()
{
	await_ready || return
	printf '%s\n' 'migrate_set_parameter max-bandwidth 100G' \
		"migrate \"exec:cat >'$save/state.new'\"" 'info migrate' quit >"$work/in"
}

# Send a saved guest its command. While its state is being read it would be lost.
wake()
{
	await_ready || return
	{ echo -n '!'; wc -c <"$work/command"; cat "$work/command"; } >"$work/in"
}

# Has the guest been put away?
is_saved()
{
	[ -n "$save" ] && grep -aq 'status: completed' "$work/monitor"
}

# Did a guest on TCG die before the command began? Then it was the emulator.
stillborn()
{
	[ "$accel" = tcg ] && [ "$ended" = 0 ] && ! is_saved && ! grep -aq started "$work/status"
}

# Print what the kernel complained about, with its surroundings.
show_splat()
{
	echo "run.sh: the kernel complained:" >&2
	{ grep -aE -B 3 -A 40 "$splats" "$work/console" | head -n 200; } >&2 || true
}

# Sets qemu and accel.
build_machine()
{
	[ -z "$save" ] || mkdir -p "$save"
	make_initramfs "$@"
	qemu=(qemu-system-x86_64)
	choose_accel
	add_topology
	add_words
	[ -z "$save" ] || [ "$accel" = tcg ] || wrong "--save is for TCG; with $accel booting takes no longer"
	[ -z "$save" ] || declare -p qemu accel >"$save/machine"
}

if [ -n "$from" ]; then
	write_command "$work/command" "$@"
	# shellcheck disable=SC1091
	. "$from/machine"
else
	build_machine "$@"
fi
for attempt in 1 2 3; do
	ended=0
	boot || ended=$?
	guest=''
	if ! stillborn || [ $attempt = 3 ]; then
		break
	fi
	say "the guest did not come up; once more"
done

if is_saved; then
	mv "$save/state.new" "$save/state"
	exit
fi
touch "$work/console" "$work/status"
tr -d '\r' <"$work/console" >"$work/plain" && mv "$work/plain" "$work/console"
[ -z "$console" ] || cp "$work/console" "$console"
read -r status taint < <(grep -av 'started\|ready' "$work/status") || true

if grep -aEq "$splats" "$work/console"; then
	show_splat
	exit 98
elif [ "$ended" = 124 ] || [ "$ended" = 137 ]; then
	echo "run.sh: no end after $timeout s; the console's last lines:" >&2
	tail -n 30 "$work/console" >&2
	exit 124
elif [ -z "${taint:-}" ]; then
	echo "run.sh: the guest ended without a status ($ended); the console's last lines:" >&2
	tail -n 30 "$work/console" >&2
	exit 97
elif [ $((taint & tainted)) != 0 ]; then
	echo "run.sh: the kernel is tainted ($taint), its log is clean" >&2
	exit 98
fi
exit "$status"
