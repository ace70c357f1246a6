#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# /init of the guests that run.sh boots: set the system up, run /command with
# its output on ttyS1, say on ttyS2 that it starts and its exit status, power off.

/bin/busybox mkdir -p /proc /sys /dev /tmp /root /sbin /usr/bin /usr/sbin
/bin/busybox --install -s
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=linux
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t debugfs debugfs /sys/kernel/debug
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/shm /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
mount -t devpts devpts /dev/pts
ip link set lo up

stty -F /dev/ttyS1 raw -echo 115200
stty -F /dev/ttyS2 raw -echo 115200
# shellcheck disable=SC2013
for word in $(cat /proc/cmdline); do
	case $word in
	cowsnap.accel=*) export COWSNAP_ACCEL="${word#*=}" ;;
	cowsnap.shell) shell=1 ;;
	cowsnap.tty) tty=1 ;;
	cowsnap.save) saved=1 ;;
	esac
done

for cpu in /sys/devices/system/cpu/cpu[1-9]*/online; do
	[ ! -e "$cpu" ] || grep -q 1 "$cpu" || echo 1 >"$cpu" || poweroff -f
done

# Here run.sh --save puts us away. Woken up, we say so, and get a command.
# shellcheck disable=SC3045
if [ -n "$saved" ]; then
	{
		until read -r -t 0.3 -n 1 _; do
			echo ready >/dev/ttyS2
		done
		read -r length
		head -c "$length" >/command
	} </dev/ttyS1
fi

echo started >/dev/ttyS2
cd / || exit
if [ -n "$shell" ]; then
	stty -F /dev/ttyS1 sane
	setsid -c /command </dev/ttyS1 >/dev/ttyS1 2>&1
	status=$?
elif [ -n "$tty" ]; then
	/command </dev/null >/dev/ttyS1 2>&1
	status=$?
else
	# No terminal there, so none here.
	mkfifo /output
	cat </output >/dev/ttyS1 &
	/command </dev/null >/output 2>&1
	status=$?
	# What the command left running may hold the pipe open for ever.
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		kill -0 $! 2>/dev/null || break
		usleep 500000
	done
fi
# The kernel's taint flags tell of a splat that was not printed.
echo "$status $(cat /proc/sys/kernel/tainted)" >/dev/ttyS2
# The debug kernel cannot power off; QEMU ends when it would start again.
[ -d /sys/firmware/acpi ] || reboot -f
poweroff -f
