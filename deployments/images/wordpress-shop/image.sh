# WordPress with a plugin that sells things, in the shape of the public WordPress image: an entrypoint of root, Apache with
# PHP in its workers of `www-data`, settings in variables of the environment, MariaDB reached by TCP. Unless
# `WORDPRESS_DB_HOST` names another one, that runs beside it as `mysql`, and the shop is installed: an instance is one
# container. With another one, WordPress waits to be installed, as the public image does.

. "$images/php.sh"
suite=trixie
packages=(
    wordpress wordpress-theme-twentytwentyfive apache2-bin libapache2-mod-php8.4 php-cli php-mysql php-xml php-mbstring
    mariadb-server-core mariadb-client-core busybox-static bash gosu
)
# Left out are Perl, programs that only maintainer scripts use, and the libraries that only those and image processing
# need.
leave_out=(
    perl 'perl-*' libperl5.40 'lib*-perl' debconf ucf sensible-utils procps psmisc 'libproc2-*' init-system-helpers php-gd
    'php[0-9]*-gd' libgd3 'libavif*' 'libaom*' 'libheif*' 'libde265*' 'libdav1d*' 'librav1e*' 'libsvtav1*' 'libgav1*'
    'libyuv*' 'libabsl*' 'libwebp*' 'libsharpyuv*' 'libtiff*' 'libjpeg*' libxpm4 libx11-6 libx11-data libxcb1 libxau6
    libxdmcp6 'fonts-*' 'fontconfig*' libfontconfig1 libfreetype6 libimagequant0 'libjbig*' liblerc4 'libdeflate*'
    'libgomp*' 'libpng*' adduser passwd 'libsemanage*' libsepol2 libaudit1 libaudit-common login.defs 'libpam*' 'libdb5*'
    'libgdbm*' libjs-prototype libjs-scriptaculous javascript-common apache2 apache2-data apache2-utils
)
entrypoint='["docker-entrypoint.sh"]'
command='["apache2","-f","/etc/apache2/apache2.conf","-D","FOREGROUND"]'
env='["PATH=/usr/local/bin:/usr/bin:/usr/sbin","WORDPRESS_DB_HOST=127.0.0.1:3306","WORDPRESS_DB_NAME=wordpress","WORDPRESS_DB_USER=wordpress","WORDPRESS_DB_PASSWORD=wordpress","WORDPRESS_TABLE_PREFIX=wp_"]'
workdir=/var/www/html
volumes=(/var/www/html)
stop_signal=SIGWINCH
owned=('33:33 var/www/html' '999:999 var/lib/mysql' '999:999 run/mysqld')

prepare() {
    local root=$1 site=$1/var/www/html settings
    php_prepare "$root" mysqlnd mysqli dom xml simplexml mbstring ctype tokenizer fileinfo exif iconv
    settings=$(echo "$root"/etc/php/*)
    cp -R "$settings/cli/." "$settings/apache2/"
    printf 'mysql:x:999:999::/var/lib/mysql:/usr/sbin/nologin\nwww-data:x:33:33::/var/www:/usr/sbin/nologin\n' >>"$root/etc/passwd"
    printf 'mysql:x:999:\nwww-data:x:33:\n' >>"$root/etc/group"
    mkdir -p "$root/var/www" "$root/var/lib/mysql" "$root/run/mysqld"
    cp -R -n "$root/var/lib/wordpress/wp-content/." "$root/usr/share/wordpress/wp-content/" 2>/dev/null || true
    mv "$root/usr/share/wordpress" "$site"
    rm -rf "$root/var/lib/wordpress" "$site/wp-config.php" "$site/.htaccess" "$root"/etc/mysql
    mkdir -p "$site/wp-content/uploads" "$root/etc/mysql"
}
