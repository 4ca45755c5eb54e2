# To be sourced after paths.sh and debian.sh. MariaDB from Debian's packages, in folders of the stack: the newest version,
# and the oldest that the program supports. Tests start servers of their own with them; no server runs for all.

mariadb_suites=(sid bookworm)
mariadb_packages=(mariadb-server-core mariadb-client-core)
# The programs that run from the folder. The paths of their libraries are written into them.
mariadb_programs=(sbin/mariadbd bin/{mariadb,my_print_defaults,resolveip})

# mariadb_folder SUITE: prints the folder of the version that a suite of Debian has.
mariadb_folder() {
    printf '%s\n' "$stack/mariadb-$1"
}

# mariadb_installed SUITE: whether the folder has a version that was unpacked there completely.
mariadb_installed() {
    [ "$(cat "$(mariadb_folder "$1")/stamp" 2>/dev/null)" = "$(mariadb_stamp "$1")" ]
}

mariadb_stamp() {
    echo "$(mariadb_folder "$1") ${mariadb_packages[*]} $(sha256sum <"$here/mariadb.sh")"
}

# install_mariadb: unpacks the packages of each suite. Needs what `install` installs.
install_mariadb() {
    local suite
    for suite in "${mariadb_suites[@]}"; do
        mariadb_installed "$suite" || unpack_mariadb "$suite"
    done
}

# prepare_mariadb FOLDER: makes the data folder that each test starts with a copy of. It is small, and has no database and
# no user but root.
prepare_mariadb() {
    bash "$1/usr/bin/mariadb-install-db" --no-defaults --basedir="$1/usr" --lc-messages-dir="$1/usr/share/mysql" \
        --datadir="$1/data" --user=root --auth-root-authentication-method=normal --skip-test-db --skip-name-resolve \
        --innodb-log-file-size=8M >"$1/data.log" 2>&1 || die "stack: MariaDB did not make its data folder: see $1/data.log"
}

unpack_mariadb() {
    folder=$(mariadb_folder "$1")
    echo "stack: fetching ${mariadb_packages[*]} of $1"
    rm -rf "$folder"
    mkdir -p "$folder"
    debs=$(debian_fetch "$folder/debian" "$1" "${mariadb_packages[@]}")
    while read -r deb; do
        name=$(basename "$deb")
        # Dependencies that are never run here.
        case $name in perl* | libperl* | debconf_* | dpkg_* | passwd_* | adduser_*) continue ;; esac
        dpkg-deb -x "$deb" "$folder"
    done <<<"$debs"
    rm -rf "$folder/debian"
    # All folders with libraries, below /lib too where a package still has that.
    library=$(find "$folder" -name '*.so.*' -printf '%h\n' | sort -u | paste -sd:)
    loader=$(find "$folder" -name 'ld-linux*.so*' -print -quit)
    for program in "${mariadb_programs[@]}"; do
        file=$(readlink -f "$folder/usr/$program") && [ -e "$file" ] || die "stack: the packages contain no $program"
        stack_patchelf --set-interpreter "${loader:?the packages contain no C library}" --force-rpath --set-rpath "$library" "$file"
        "$file" --version >/dev/null || die "stack: $program does not run here"
    done
    prepare_mariadb "$folder"
    mariadb_stamp "$1" >"$folder/stamp"
}
