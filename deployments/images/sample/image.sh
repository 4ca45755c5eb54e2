# The built-in guest book: this program and the libraries that it is linked with, and nothing else.

program=${TRY_IT_NOW_BINARY:-${CARGO_TARGET_DIR:-$repository/target}/debug/try-it-now}
[ -x "$program" ] || { echo "images: $program is missing: cargo build" >&2; exit 1; }
inputs=("$program")
command='["/usr/bin/try-it-now","sample-app"]'
env='["PATH=/usr/bin:/bin","HOST=0.0.0.0","PORT=80","INSTANCE_FILES=/etc/try-it-now"]'

fill() {
    local root=$1 library
    mkdir -p "$root/usr/bin"
    # Without the debug symbols, which are most of the file and not needed there.
    strip -o "$root/usr/bin/try-it-now" "$program" 2>/dev/null || cp "$program" "$root/usr/bin/try-it-now"
    chmod 755 "$root/usr/bin/try-it-now"
    ldd "$program" | grep -oE '/[^ ]+' | while read -r library; do
        # In the image /lib is a link to /usr/lib; on this host it need not be.
        case $library in /lib*) target=$root/usr$library ;; *) target=$root$library ;; esac
        mkdir -p "$(dirname "$target")"
        cp -L "$library" "$target"
    done
}
