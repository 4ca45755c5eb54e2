# A shop in the shape of the public development image of PrestaShop, whose own program cannot be had from packages: nginx
# and PHP-FPM as `www-data`, settings in PS_... and MYSQL_... variables, lock files in /tmp that say which steps were done,
# a redirect to the domain that the database holds, modules installed from ZIP files, MariaDB reached by TCP. Unless
# `MYSQL_HOST` names another one, that runs beside it as `mysql`: an instance is one container.

. "$images/php.sh"
suite=trixie
packages=(
    nginx-light php8.4-fpm php-cli php-mysql php-zip php-mbstring mariadb-server-core mariadb-client-core busybox-static bash
    gosu
)
leave_out=(
    perl 'perl-*' libperl5.40 'lib*-perl' debconf ucf sensible-utils procps psmisc 'libproc2-*' init-system-helpers adduser
    passwd 'libsemanage*' libsepol2 libaudit1 libaudit-common login.defs 'libpam*' 'libdb5*' 'libgdbm*' 'iproute2*' systemd
    systemd-standalone-tmpfiles 'libsystemd-shared*' 'libseccomp*' util-linux mount 'libmount*' 'libblkid*' libudev1
    'libsmartcols*' 'liblastlog*' 'libncursesw*' libcap-ng0
)
entrypoint='["/run.sh"]'
command='[]'
env='["PATH=/usr/local/bin:/usr/bin:/usr/sbin","PS_PROTOCOL=http","SSL_REDIRECT=false","MYSQL_HOST=127.0.0.1","MYSQL_PORT=3306","MYSQL_USER=prestashop","MYSQL_PASSWORD=prestashop","MYSQL_DATABASE=prestashop","INSTALL_MODULES_DIR="]'
workdir=/var/www/html
healthcheck='{"Test":["CMD","/run-scripts/healthcheck"],"Interval":1000000000,"Timeout":10000000000,"Retries":3}'
owned=('33:33 var/www/html' '999:999 var/lib/mysql' '999:999 run/mysqld')

prepare() {
    local root=$1 settings
    php_prepare "$root" mysqlnd mysqli pdo pdo_mysql zip mbstring ctype
    settings=$(echo "$root"/etc/php/*)
    cp -R "$settings/cli/." "$settings/fpm/"
    ln -s "$(basename "$root"/usr/sbin/php-fpm*)" "$root/usr/sbin/php-fpm"
    printf 'mysql:x:999:999::/var/lib/mysql:/usr/sbin/nologin\nwww-data:x:33:33::/var/www:/usr/sbin/nologin\n' >>"$root/etc/passwd"
    printf 'mysql:x:999:\nwww-data:x:33:\n' >>"$root/etc/group"
    rm -rf "$root/etc/nginx" "$root/etc/mysql"
    mkdir -p "$root/etc/nginx" "$root/etc/mysql" "$root"/var/{log/nginx,lib/nginx,lib/mysql} "$root/run/mysqld"
}

fill() {
    # A module that the first start installs where INSTALL_MODULES_DIR names this folder.
    (cd "$folder/modules" && python3 -m zipfile -c "$work/freedelivery.zip" freedelivery)
    mkdir -p "$1/modules-to-install"
    cp "$work/freedelivery.zip" "$1/modules-to-install/"
}
