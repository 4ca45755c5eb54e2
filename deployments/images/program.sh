# To be sourced by images that hold this program. Sets `inputs`, and `fill` copies the program and the libraries that it is
# linked with.

program=${TRY_IT_NOW_BINARY:-${CARGO_TARGET_DIR:-$repository/target}/debug/try-it-now}
[ -x "$program" ] || { echo "images: $program is missing: cargo build" >&2; exit 1; }
# The layers are built in other folders.
program=$(realpath "$program")
inputs=("$program" "$images/program.sh")

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
