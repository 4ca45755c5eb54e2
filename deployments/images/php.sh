# To be sourced by images with PHP. Does what Debian's maintainer scripts would do, which are not run here.

# php_prepare ROOT EXTENSION...: sets up `php` and a shell in the folder, with these extensions in this order.
php_prepare() {
    local root=$1 php extension settings
    shift
    php=$(cd "$root/usr/bin" && echo php[0-9].[0-9])
    ln -s "$php" "$root/usr/bin/php"
    link_applets "$root"
    settings=$root/etc/php/${php#php}/cli
    mkdir -p "$settings/conf.d"
    cat >"$settings/php.ini" <<INI
; Compiled code is cached, so that a restored instance has it at once. The cache is small, because each instance has its
; own unless memory is shared.
zend_extension = opcache
opcache.enable_cli = 1
opcache.memory_consumption = 48
opcache.interned_strings_buffer = 4
opcache.max_accelerated_files = 4000
opcache.jit = off
opcache.jit_buffer_size = 0
expose_php = off
display_errors = off
log_errors = on
memory_limit = 128M
upload_max_filesize = 16M
post_max_size = 17M
INI
    for extension in "$@"; do
        echo "extension = $extension" >>"$settings/php.ini"
    done
}
