#!/bin/bash
# Starts the database, installs the site at the first start, and becomes the web server. Where another host has the
# database, it only becomes the web server.
set -euo pipefail

# A value is given as NAME, or in the file that NAME_FILE names.
file_env() {
    local name=$1 file="${1}_FILE"
    if [ -n "${!file:-}" ]; then
        export "$name"="$(<"${!file}")"
        unset "$file"
    fi
}

initialize() {
    {
        # The statements of mariadb-install-db, which itself needs further programs. One statement a line.
        echo "CREATE DATABASE IF NOT EXISTS mysql;"
        echo "USE mysql;"
        echo "SET @auth_root_socket = 'root';"
        cat /usr/share/mariadb/mariadb_system_tables.sql /usr/share/mariadb/mariadb_performance_tables.sql \
            /usr/share/mariadb/mariadb_system_tables_data.sql
        echo "CREATE DATABASE $WORDPRESS_DB_NAME CHARACTER SET utf8mb4;"
        echo "FLUSH PRIVILEGES;"
        echo "CREATE USER '$WORDPRESS_DB_USER'@'127.0.0.1' IDENTIFIED BY '$WORDPRESS_DB_PASSWORD';"
        echo "GRANT ALL ON $WORDPRESS_DB_NAME.* TO '$WORDPRESS_DB_USER'@'127.0.0.1';"
    } | gosu mysql mariadbd --bootstrap --log-warnings=0
}

wait_for_database() {
    local tries=1200
    until mariadb-admin --host=127.0.0.1 --user="$WORDPRESS_DB_USER" --password="$WORDPRESS_DB_PASSWORD" --silent ping 2>/dev/null; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || { echo "entrypoint: the database does not answer" >&2; exit 1; }
        sleep 0.1
    done
}

database=$WORDPRESS_DB_HOST
[ -z "${WORDPRESS_DB_HOST_FILE:-}" ] || database=$(<"$WORDPRESS_DB_HOST_FILE")
if [ "${1##*/}" = apache2 ] && [ "${database%%:*}" = 127.0.0.1 ]; then
    file_env WORDPRESS_DB_PASSWORD
    file_env WORDPRESS_DB_USER
    [ -d /var/lib/mysql/mysql ] || initialize
    gosu mysql mariadbd &
    wait_for_database
    gosu www-data php /opt/install.php
fi
exec "$@"
