# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154
# Sourced by fetch.sh: the kernel with every check, built from Debian's
# linux-source package with allnoconfig and debug.config. Kept by the hash of
# what it is made from.

debug_series=6.12
debug_config=$vm/debug.config

# Find out about it, as find_packaged does: dir; the rest is known when built.
find_debug()
{
	local key

	find_source "$debug_series" || return
	key=$(cat "$debug_config" "${BASH_SOURCE[0]}" | sha256sum)
	dir=$cache/kernels/linux-debug_$source_version-${key:0:12}
}

# Of the sources every Kconfig, and what this configuration may compile.
unpack_source()
{
	local skip

	mapfile -t skip < <(printf -- '--exclude=*/%s/*.[chS]\n' sound \
			    drivers/{gpu,iio,infiniband,media,net,scsi,staging,usb})
	dpkg-deb --fsys-tarfile "$1" | tar -xO "./usr/src/linux-source-$debug_series.tar.xz" |
		tar -xJ -C "$2" --strip-components=1 --exclude='*/Documentation/*/*' \
			--exclude='*/arch/[!x]*/*.[chS]' --exclude='*/dts/*' \
			--exclude='*/tools/testing/*' --exclude='*/tools/perf/*' "${skip[@]}"
}

# Of tree $1, leave out what debug.config cannot: all of tracing, which lockdep
# brings along for one file there.
# KASAN is for the files that handle memory: what others get wrong there shows in
# them, and each access that it checks is several times as slow. Lockdep runs most.
trim_source()
{
	local kconfig=$1/kernel/trace/Kconfig file
	local kasan=(kernel/{exit,fork,task_work,workqueue}
		     fs/{aio,binfmt_elf,buffer,exec,userfaultfd}
		     lib/{idr,interval_tree,iov_iter,maple_tree,radix-tree,rbtree,xarray})

	sed -i '/^config PREEMPTIRQ_TRACEPOINTS$/,/help/s/^\tselect TRACING$/\tselect TRACE_CLOCK/' "$kconfig"
	sed -n '/^config PREEMPTIRQ_TRACEPOINTS$/,/help/p' "$kconfig" | grep -q 'select TRACE_CLOCK$' ||
		die "kernel/trace/Kconfig is not as expected"
	find "$1"/{arch/x86,block,crypto,drivers,fs,init,io_uring,ipc,kernel,lib,security} \
		-name Makefile -not -path '*/fs/proc/*' -not -path '*/fs/hugetlbfs/*' \
		-exec sed -i '$a KASAN_SANITIZE := n' {} +
	for file in "${kasan[@]}"; do
		[ -e "$1/$file.c" ] || die "the source has no $file.c"
		echo "KASAN_SANITIZE_${file##*/}.o := y" >>"$1/${file%/*}/Makefile"
	done
	sed -i '$a CFLAGS_lockdep.o += -O2' "$1/kernel/locking/Makefile"
}

# Every line of debug.config has to come true.
configure()
{
	local lost

	quietly make -C "$1" KCONFIG_ALLCONFIG="$debug_config" allnoconfig
	lost=$(grep '^CONFIG_' "$debug_config" | grep -vxFf "$1/.config") || true
	[ -z "$lost" ] || die "debug.config is not possible: ${lost//$'\n'/ }"
}

# Of the tree $1 what the build of a module wants, into $2.
keep_headers()
{
	local dir=arch/x86

	mkdir -p "$2/$dir" "$2/tools/objtool"
	mv "$1"/{.config,Makefile,Module.symvers,include,scripts} "$2"
	mv "$1/$dir"/{include,Makefile*} "$2/$dir"
	mv "$1/tools/objtool/objtool" "$2/tools/objtool"
}

build_debug()
{
	local tmp=$1 src=$1/src

	"$vm/setup.sh" flex bison bc libelf-dev
	fetch_source "$debug_series"
	say "building the debug kernel, which takes some minutes"
	mkdir "$src"
	unpack_source "$source_deb" "$src"
	trim_source "$src"
	configure "$src"
	# The kernel's warnings are none of ours, and take time.
	quietly make -C "$src" -j"$(nproc)" KCFLAGS=-w bzImage modules
	quietly make -C "$src" INSTALL_MOD_PATH="$tmp/modules" INSTALL_MOD_STRIP=1 modules_install
	release=$(cat "$src/include/config/kernel.release")
	rm -f "$tmp/modules/lib/modules/$release"/{build,source}
	mv "$src/arch/x86/boot/bzImage" "$tmp/vmlinuz"
	cp "$src/.config" "$tmp/config"
	keep_headers "$src" "$tmp/build"
	rm -rf "$src"
}
