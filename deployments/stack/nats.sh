# To be sourced after paths.sh and debian.sh. The server of NATS from Debian's packages, in a folder of the stack. None
# runs here: each test starts its own.

# Servers before 2.14 lose messages of a work queue, and no stable release of Debian has a newer one yet.
nats_suite=sid
nats=$stack/nats
nats_path=$nats/usr/sbin

# install_nats: unpacks the package, which has a stamp of its own: another version of it leaves the rest of the stack as
# it is. The server needs no library but the C library of the host.
install_nats() {
    local wanted debs deb
    wanted="$nats $nats_suite $(sha256sum <"$here/nats.sh")"
    [ "$(cat "$nats/stamp" 2>/dev/null)" != "$wanted" ] || return 0
    echo "stack: fetching nats-server"
    rm -rf "$nats"
    mkdir -p "$nats"
    debs=$(debian_fetch "$nats/debian" "$nats_suite" nats-server)
    while read -r deb; do
        case $(basename "$deb") in nats-server_*) dpkg-deb -x "$deb" "$nats" ;; esac
    done <<<"$debs"
    rm -rf "$nats/debian"
    PATH=$nats_path nats-server --version >/dev/null || die "stack: nats-server does not run here"
    printf '%s\n' "$wanted" >"$nats/stamp"
}
