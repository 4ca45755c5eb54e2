# nginx and PHP-FPM below s6, as images of a supervisor have it: its control by FIFOs, a logger process of another user for each
# service, workers of www-data, and connections between nginx and PHP-FPM that stay open.

. "$images/php.sh"
suite=trixie
packages=(nginx-light php-fpm php-sqlite3 s6 busybox-static)
leave_out=(
    'perl*' 'libperl*' debconf ucf sensible-utils procps psmisc init-system-helpers adduser passwd 'iproute2*' systemd
    libsystemd-shared mount 'libtext-*' 'libkrb5*' 'libgssapi*' 'libk5*' 'libtirpc*' 'libdb5*' 'libpam*' 'libbpf*' 'libelf*'
    'libxtables*' 'libproc2-*'
)
entrypoint='["/init"]'
env='["PATH=/command:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]'
ports=(8080/tcp)
volumes=(/var/www/data)
owned=("33:33 var/www/data" "101:101 var/log/services")

prepare() {
    local root=$1
    php_prepare "$root" pdo pdo_sqlite
    cp "$root"/etc/php/*/cli/php.ini "$root/etc/php.ini"
    ln -s "$(cd "$root/usr/sbin" && echo php-fpm[0-9]*)" "$root/usr/sbin/php-fpm"
    rm -rf "$root"/etc/php/*/fpm "$root"/etc/nginx/{sites-,modules-}* "$root/etc/nginx/nginx.conf" "$root/usr/lib/systemd"
    mkdir -p "$root/var/lib/nginx" "$root/var/log/nginx"
    add_user "$root" www-data 33 /var/www /usr/sbin/nologin
    add_user "$root" logger 101 / /usr/sbin/nologin
}

fill() {
    mkdir -p "$1/var/www/data" "$1/var/log/services/nginx" "$1/var/log/services/php-fpm"
    find "$1/etc/services.d" "$1/init" -type f -exec chmod 755 {} +
}
