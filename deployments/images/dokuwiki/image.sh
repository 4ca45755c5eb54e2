# DokuWiki on Apache with PHP in its workers, in the shape of PHP's own image for Apache: a foreground script, a parent of
# root, workers of www-data, logs to the standard outputs, SIGWINCH to stop.

. "$images/php.sh"
suite=trixie
packages=(dokuwiki libapache2-mod-php php-mbstring busybox-static)
leave_out=(
    'perl*' 'libperl*' 'lib*-perl' debconf ucf sensible-utils procps psmisc init-system-helpers adduser passwd tar dpkg
    'libtext-*' 'libkrb5*' 'libgssapi*' 'libk5*' 'libdb5*' 'libgdbm*' 'libproc2-*' libsystemd0 'liblua*' 'libcurl*' 'librtmp*'
    'libldap*' 'libsasl2*' 'libaprutil1-ldap' 'libaprutil1-dbd*' 'libnghttp*' 'libssh2*' 'libpsl*' 'libgnutls*' 'libp11*' libbrotli1
    'libjansson*' libtasn1-6 'libnettle*' 'libhogweed*'
)
entrypoint='["/usr/local/bin/docker-php-entrypoint"]'
command='["apache2-foreground"]'
env='["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin","APACHE_RUN_USER=www-data","APACHE_RUN_GROUP=www-data"]'
workdir=/usr/share/dokuwiki
volumes=(/var/lib/dokuwiki)
stop_signal=SIGWINCH
owned=("33:33 var/lib/dokuwiki")

prepare() {
    local root=$1 php
    php_prepare "$root" dom xml simplexml xmlwriter mbstring ctype tokenizer fileinfo exif iconv
    cp "$root"/etc/php/*/cli/php.ini "$root/etc/php.ini"
    # Not every build of PHP has each as a file.
    while read -r php; do
        [ -e "$(echo "$root"/usr/lib/php/*/"$php.so")" ] || sed -i "/^extension = $php\$/d" "$root/etc/php.ini"
    done < <(sed -n 's/^extension = //p' "$root/etc/php.ini")
    rm -rf "$root/etc/apache2" "$root/etc/dokuwiki/apache.conf" "$root/usr/lib/systemd"
    mkdir -p "$root/etc/apache2" "$root/var/log/apache2" "$root/var/www"
    add_user "$root" www-data 33 /var/www /usr/sbin/nologin
    ln -sf /dev/stdout "$root/var/log/apache2/access.log"
    ln -sf /dev/stderr "$root/var/log/apache2/error.log"
}

fill() {
    chmod 755 "$1"/usr/local/bin/*
}
