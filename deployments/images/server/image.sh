# The server: this program, the libraries that it is linked with, and the certificates by which it knows registries. No
# shell and no package manager. It runs as a user without rights, with the built-in app as processes; `make image` makes it.

. "$images/program.sh"
suite=bookworm
packages=(ca-certificates)
# Only the certificates are used.
leave_out=(adduser debconf dpkg 'gcc-*' 'lib*' 'openssl*' passwd 'perl*' tar 'zlib*')
tag=try-it-now:latest
entrypoint='["/usr/bin/try-it-now"]'
command='["serve"]'
env='["PATH=/usr/bin:/bin","STATE_DIR=/var/lib/try-it-now"]'
user=999:999
workdir=/var/lib/try-it-now
ports=(8080/tcp)
volumes=(/var/lib/try-it-now)
owned=('999:999 var/lib/try-it-now')

prepare() {
    add_user "$1" try-it-now 999 /var/lib/try-it-now /usr/sbin/nologin
    mkdir -p "$1/var/lib/try-it-now" "$1/etc/ssl/certs"
    chmod 700 "$1/var/lib/try-it-now"
    # Sockets of engines are mounted there.
    ln -s ../run "$1/var/run"
    cat "$1"/usr/share/ca-certificates/mozilla/*.crt >"$1/etc/ssl/certs/ca-certificates.crt"
    rm -rf "$1"/usr/share/ca-certificates "$1"/usr/sbin/update-ca-certificates "$1"/etc/ca-certificates
}
