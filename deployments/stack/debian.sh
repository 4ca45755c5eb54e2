# To be sourced. Downloads and verifies Debian's packages with a separate configuration of apt: without root, and
# without a change of the host's apt. Needs apt-get, dpkg-deb and Debian's signing keys.

# debian_mirrors: prints DEBIAN_MIRROR, or the mirrors that the host's apt uses.
debian_mirrors() {
    if [ -n "${DEBIAN_MIRROR:-}" ]; then
        printf '%s\n' "$DEBIAN_MIRROR"
    else
        # Each once, in the host's order. A mirror without the suite, such as a security mirror, is skipped later. The
        # lists of packages may be missing: a host whose apt was never updated has mirrors too.
        apt-get indextargets --no-release-info --format '$(SITE)' | awk '!seen[$0]++'
    fi
}

# debian_configure DIR SUITE: writes DIR/apt.conf for the suite, and downloads the lists of the first mirror that has
# it.
debian_configure() {
    local dir=$1 suite=$2 keys=/usr/share/keyrings/debian-archive-keyring.gpg mirror
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || {
        echo "apt-get and dpkg-deb are missing: Debian's packages are unpacked with them" >&2
        return 1
    }
    [ -r "$keys" ] || {
        echo "$keys is missing: apt-get install debian-archive-keyring" >&2
        return 1
    }
    mkdir -p "$dir"/{etc/apt.conf.d,etc/preferences.d,lists/partial,cache/archives/partial,dpkg}
    : >"$dir/dpkg/status" # as if nothing were installed, so that all dependencies are downloaded
    cat >"$dir/apt.conf" <<CONF
Dir "$dir";
Dir::Etc "etc";
Dir::Etc::sourcelist "sources.list";
Dir::Etc::sourceparts "none";
Dir::State "$dir";
Dir::State::lists "lists";
Dir::State::status "$dir/dpkg/status";
Dir::Cache "cache";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
APT::Install-Recommends "false";
APT::Sandbox::User "";
Acquire::Check-Valid-Until "false";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
Debug::NoLocking "true";
CONF
    # The host's settings for downloads: its proxies, certificates and credentials.
    apt-config dump | grep -E '^Acquire::https?::' >>"$dir/apt.conf" || true
    while read -r mirror; do
        echo "deb [signed-by=$keys] $mirror $suite main" >"$dir/etc/sources.list"
        if APT_CONFIG="$dir/apt.conf" apt-get -qq --error-on=any update 2>"$dir/update.log"; then
            return 0
        fi
    done < <(debian_mirrors)
    cat "$dir/update.log" >&2 || true
    echo "no mirror of this host's apt has Debian's $suite: set DEBIAN_MIRROR to one that has it" >&2
    return 1
}

# debian_fetch DIR SUITE PACKAGE...: downloads these packages and their dependencies, and prints the paths of the files.
debian_fetch() {
    local dir=$1 suite=$2 uris
    shift 2
    local get=(apt-get -qq --yes install --download-only "$@")
    # The lists may be older than the mirror, which then lacks files that they name. Only then are they downloaded
    # again. A folder that was moved is configured again.
    if ! { grep -qsxF "Dir \"$dir\";" "$dir/apt.conf" && APT_CONFIG="$dir/apt.conf" "${get[@]}" >"$dir/fetch.log" 2>&1; }; then
        debian_configure "$dir" "$suite" || return 1
        APT_CONFIG="$dir/apt.conf" "${get[@]}" >"$dir/fetch.log" 2>&1 || {
            cat "$dir/fetch.log" >&2
            return 1
        }
    fi
    # The folder has files of other fetches too. These are the files that apt would unpack now.
    uris=$(APT_CONFIG="$dir/apt.conf" apt-get -qq --yes install --print-uris -o Dir::Cache::archives=none "$@") || return 1
    awk -v dir="$dir/cache/archives" '{ print dir "/" $2 }' <<<"$uris"
}
