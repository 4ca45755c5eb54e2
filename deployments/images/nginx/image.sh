# nginx with files, uploads by WebDAV and the redirects that it makes with its own port.

suite=trixie
packages=(nginx-light busybox-static)
leave_out=('perl*' 'libperl*' debconf ucf sensible-utils procps psmisc init-system-helpers adduser passwd 'iproute2*')
command='["/usr/sbin/nginx"]'
env='["PATH=/usr/bin:/usr/sbin"]'

prepare() {
    rm -rf "$1/etc/nginx"
    mkdir -p "$1/etc/nginx" "$1/var/log/nginx"
    ln -s busybox "$1/usr/bin/sha256sum"
}

fill() {
    mkdir -p "$1/srv/numbers" "$1/srv/uploads"
    # Lines of nine bytes, so that a client can compute each byte of the file.
    seq -f %08.0f 0 116508 >"$1/srv/numbers/all.txt"
    gzip --no-name --keep "$1/srv/numbers/all.txt"
    echo '<!doctype html><title>nginx of your own</title><p>Numbers of your own.</p>' >"$1/srv/numbers/index.html"
}
