# PostgreSQL and a web app in Python with a pool of connections to it, by 127.0.0.1. The entrypoint has the shape of the
# public PostgreSQL image: it begins as root, gives the data folder to the user `postgres`, and goes on as that user. The
# app runs as a user of its own.

suite=trixie
packages=(
    postgresql-17 bash coreutils findutils gosu gunicorn python3-flask python3-psycopg-c python3-psycopg-pool
)
# Left out is what only maintainer scripts, other authentication and compiled queries need.
leave_out=(
    perl 'perl-*' libperl5.40 'lib*-perl' debconf ucf sensible-utils procps psmisc 'libproc2-*' init-system-helpers adduser
    passwd 'libsemanage*' libsepol2 login.defs libpam-modules libpam-modules-bin libpam-runtime 'libdb5*' postgresql-common
    postgresql-common-dev postgresql-client-common ssl-cert ca-certificates openssl netbase media-types tzdata 'libllvm*'
    'fonts-*' 'libjs-*' 'libsystemd-shared' 'libz3-*' libc-l10n locales python3-pkg-resources python3-setuptools
)
entrypoint='["docker-entrypoint.sh"]'
command='["postgres"]'
env='["PATH=/usr/local/bin:/usr/bin:/usr/sbin:/usr/lib/postgresql/17/bin","PGDATA=/var/lib/postgresql/data","POSTGRES_USER=notes","POSTGRES_PASSWORD=notes","PORT=8000"]'
ports=(8000/tcp)
volumes=(/var/lib/postgresql/data)
stop_signal=SIGINT
owned=('999:999 var/lib/postgresql' '999:999 run/postgresql')

prepare() {
    local root=$1
    ln -sfn bash "$root/usr/bin/sh"
    echo 'postgres:x:999:999::/var/lib/postgresql:/bin/bash' >>"$root/etc/passwd"
    echo 'www-data:x:33:33::/var/www:/usr/sbin/nologin' >>"$root/etc/passwd"
    printf 'postgres:x:999:\nwww-data:x:33:\n' >>"$root/etc/group"
    mkdir -p "$root/var/lib/postgresql/data" "$root/run/postgresql"
    rm -rf "$root"/usr/lib/python3*/{test,idlelib,ensurepip,pydoc_data} "$root"/usr/share/{postgresql/17/man,perl*}
    rm -rf "$root"/usr/lib/postgresql/17/lib/{bitcode,pgxs}
    find "$root/usr/bin" -name 'x86_64-linux-gnu-*' -delete
}
