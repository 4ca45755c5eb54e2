# nginx as public images have it: an entrypoint that completes the configuration, a master of root with workers of
# www-data, logs to the standard outputs, and SIGQUIT to stop. Uploads by WebDAV are the files of the workers.

suite=trixie
# The same first layer as that of the image `nginx`, with users.
packages=(nginx-light busybox-static)
leave_out=('perl*' 'libperl*' debconf ucf sensible-utils procps psmisc init-system-helpers adduser passwd 'iproute2*')
entrypoint='["/docker-entrypoint.sh"]'
command='["nginx","-g","daemon off;"]'
env='["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]'
stop_signal=SIGQUIT
owned=("33:33 srv/www/uploads")

prepare() {
    local root=$1
    link_applets "$root"
    add_user "$root" www-data 33 /var/www /usr/sbin/nologin
    rm -rf "$root/etc/nginx/sites-"* "$root/etc/nginx/modules-"* "$root/etc/nginx/nginx.conf"
    mkdir -p "$root/var/log/nginx" "$root/var/lib/nginx"
    ln -sf /dev/stdout "$root/var/log/nginx/access.log"
    ln -sf /dev/stderr "$root/var/log/nginx/error.log"
}

fill() {
    mkdir -p "$1/srv/www/uploads"
    chmod 755 "$1/docker-entrypoint.sh" "$1"/docker-entrypoint.d/*
}
