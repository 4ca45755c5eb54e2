# A page in PHP, served by PHP's built-in server, with its data in a SQLite file.

. "$images/php.sh"
suite=trixie
packages=(php-cli php-sqlite3 busybox-static)
leave_out=(perl-base debconf ucf sensible-utils procps psmisc init-system-helpers 'libtext-*' libsystemd0 libproc2-0)
command='["/bin/sh","/app/start"]'
env='["PATH=/usr/bin:/usr/sbin","PORT=80"]'

prepare() {
    php_prepare "$1" pdo pdo_sqlite
}
