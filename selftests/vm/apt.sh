# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2154,SC2034
# shellcheck source-path=SCRIPTDIR
# Sourced after common.sh: packages from the archive, of the machine's own
# release or, after use_suite, of another one.

# The suite that apt reads, and what tells it so; empty for the machine's own.
suite=''
apt_options=()
# Where to look for a kernel or its source, the machine's own release first.
suites=('' trixie-backports)

# The archive that the machine's apt uses, in whatever format it was told.
debian_mirror()
{
	# shellcheck disable=SC2016
	apt-get indextargets --format '$(REPO_URI) $(ORIGIN) $(LABEL)' 'Created-By: Packages' |
		awk '$2 == "Debian" && $3 == "Debian" && !uri { uri = $1 }
		     END { print uri }'
}

# Have apt read suite $1 of that archive through lists of our own; '' for the
# machine's own. The machine's settings stay as they are.
use_suite()
{
	local dir=$cache/apt/$1 mirror line

	suite=$1
	apt_options=()
	[ -n "$suite" ] || return 0
	mirror=$(debian_mirror)
	[ -n "$mirror" ] || return
	line="deb [signed-by=$debian_keyring] $mirror $suite main"
	mkdir -p "$dir/lists/partial" "$dir/archives/partial"
	[ -e "$dir/status" ] || : >"$dir/status"
	[ "$line" = "$(cat "$dir/sources.list" 2>/dev/null)" ] || echo "$line" >"$dir/sources.list"
	apt_options=(
		-o "Dir::Etc::SourceList=$dir/sources.list" -o Dir::Etc::SourceParts=/dev/null
		-o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null
		-o "Dir::State::Lists=$dir/lists" -o "Dir::State::status=$dir/status"
		-o "Dir::Cache=$dir" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=
		-o APT::Default-Release= -o Acquire::Languages=none -o APT::Sandbox::User=root
	)
}

apt_update()
{
	[ -n "$suite" ] || [ "$(id -u)" = 0 ] ||
		die "the package lists are missing or old; run as root: apt-get update"
	quietly apt-get "${apt_options[@]}" -qq update
}

# Before something is taken from the archive: an old list may name what is gone.
apt_refresh()
{
	local stamp=$cache/apt-updated${suite:+-$suite}

	[ -n "$suite" ] || [ "$(id -u)" = 0 ] || return 0
	[ -z "$(find "$stamp" -mmin -60 2>/dev/null)" ] || return 0
	mkdir -p "$cache"
	if apt_update; then
		touch "$stamp"
	else
		say "going on with the package lists as they are"
	fi
}

refresh_suites()
{
	local where

	for where in "${suites[@]}"; do
		if use_suite "$where"; then
			apt_refresh
		fi
	done
}

# Names of packages that begin with $1.
apt_names()
{
	apt-cache "${apt_options[@]}" pkgnames "$1"
}

# Of the packages $@, those that apt could install: name and version, a line each.
apt_candidates()
{
	[ $# = 0 ] || apt-cache "${apt_options[@]}" policy "$@" 2>/dev/null |
		awk '/^[^ ]/ { sub(/:$/, ""); name = $0 }
		     /^  Candidate:/ && $2 != "(none)" { print name, $2 }'
}

# What packages $@ depend on, of whatever suite.
apt_depends()
{
	apt-cache "${apt_options[@]}" depends --no-recommends --no-suggests --no-conflicts \
		--no-breaks --no-replaces --no-enhances "$@" |
		sed -n 's/^ .Depends: <\?\([^<>]*\)>\?$/\1/p'
}

# Download the packages $2... into directory $1.
apt_fetch()
{
	(cd "$1" && quietly apt-get "${apt_options[@]}" -qq download "${@:2}")
}

# Find out about the newest linux-source package of series $1 in the first suite
# that has one: source_version, and where the cache keeps it, source_deb.
find_source()
{
	local where

	source_version=''
	for where in "${suites[@]}"; do
		use_suite "$where" || continue
		read -r _ source_version < <(apt_candidates "linux-source-$1") || true
		[ -z "$source_version" ] || break
	done
	source_deb=$cache/sources/linux-source-$1_$source_version.deb
	[ -n "$source_version" ]
}

# See that $source_deb is there: several want parts of it, none all of it.
fetch_source()
{
	local tmp

	(
		cache_lock source
		if find_source "$1"; then
			[ ! -e "$source_deb" ] || exit 0
			apt_refresh
		else
			refresh_suites
		fi
		find_source "$1" || die "apt knows no linux-source-$1"
		mkdir -p "$cache/sources"
		rm -rf "$cache"/sources/tmp.*
		tmp=$(mktemp -d "$cache/sources/tmp.XXXXXX")
		say "fetching linux-source-$1"
		apt_fetch "$tmp" "linux-source-$1"
		mv "$tmp"/*.deb "$source_deb"
		rmdir "$tmp"
	) || exit
	find_source "$1"
}
