# WordPress, served by PHP's built-in server, and MariaDB. Both use little memory: an instance has one visitor, and the
# time of a restore grows with the pages of memory.

. "$images/php.sh"
suite=trixie
packages=(
    wordpress wordpress-theme-twentytwentyfive php-cli php-mysql php-xml php-mbstring mariadb-server-core
    mariadb-client-core busybox-static
)
# Left out are another web server, Perl, programs that only maintainer scripts use, and the libraries that only those
# and image processing need: no thumbnails are created, and uploads are shown as they are.
leave_out=(
    'apache2*' 'libapache2-*' 'libapr*' perl 'perl-*' libperl5.40 'lib*-perl' debconf ucf sensible-utils procps psmisc
    'libproc2-*' init-system-helpers php-gd 'php[0-9]*-gd' libgd3 'libavif*' 'libaom*' 'libheif*' 'libde265*' 'libdav1d*'
    'librav1e*' 'libsvtav1*' 'libgav1*' 'libyuv*' 'libabsl*' 'libwebp*' 'libsharpyuv*' 'libtiff*' 'libjpeg*' libxpm4
    libx11-6 libx11-data libxcb1 libxau6 libxdmcp6 'fonts-*' 'fontconfig*' libfontconfig1 libfreetype6 libimagequant0
    'libjbig*' liblerc4 'libdeflate*' 'libgomp*' 'libpng*' 'libcurl*' 'libldap*' 'libsasl2*' libssh2-1t64 librtmp1
    'libnghttp*' 'libpsl*' adduser passwd 'libsemanage*' libsepol2 libaudit1 libaudit-common login.defs 'libpam*'
    'libdb5*' 'libgdbm*' libjs-prototype libjs-scriptaculous javascript-common liblua5.4-0
)
command='["/bin/sh","/opt/start"]'
env='["PATH=/usr/bin:/usr/sbin","PORT=80"]'

prepare() {
    local root=$1 content=usr/share/wordpress/wp-content program
    php_prepare "$root" mysqlnd mysqli dom xml simplexml mbstring ctype tokenizer fileinfo exif iconv
    # Of the database's programs only those stay that start, query, check and dump it.
    for program in "$root"/usr/bin/{mariadb-*,aria_*,my*,resolveip,replace,innochecksum,msql2mysql,perror}; do
        case ${program##*/} in mariadb-admin | mariadb-check | mariadb-dump) ;; *) rm -f "$program" ;; esac
    done
    # One folder for the files of WordPress and those that a visitor adds, as in WordPress's own archive.
    cp -R -n "$root/var/lib/wordpress/wp-content/." "$root/$content/" 2>/dev/null || true
    rm -rf "$root/var/lib/wordpress" "$root/usr/share/wordpress/wp-config.php" "$root/usr/share/wordpress/.htaccess"
    mkdir -p "$root/$content/uploads" "$root/var/lib/mysql"
}
