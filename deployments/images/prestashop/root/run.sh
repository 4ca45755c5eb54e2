#!/bin/bash
# Prepares the shop and runs it. Each step leaves a lock file, so that a container that starts again does not repeat it.
set -euo pipefail

: "${MYSQL_HOST:?}" "${MYSQL_PORT:?}" "${MYSQL_USER:?}" "${MYSQL_PASSWORD:?}" "${MYSQL_DATABASE:?}"
[[ ${PS_DOMAIN:-} =~ ^[A-Za-z0-9.-]+(:[0-9]+)?$ ]] || { echo "run.sh: PS_DOMAIN must be the host of the shop, with its port" >&2; exit 2; }
[ "${SSL_REDIRECT:-false}" = false ] || export PS_PROTOCOL=https
locks=/tmp/flashlight

# The database of this container, unless a variable names another one.
if [ "$MYSQL_HOST" = 127.0.0.1 ]; then
    if [ ! -d /var/lib/mysql/mysql ]; then
        {
            # The statements of mariadb-install-db, which itself needs further programs. One statement a line.
            echo "CREATE DATABASE IF NOT EXISTS mysql;"
            echo "USE mysql;"
            echo "SET @auth_root_socket = 'root';"
            cat /usr/share/mariadb/mariadb_system_tables.sql /usr/share/mariadb/mariadb_performance_tables.sql \
                /usr/share/mariadb/mariadb_system_tables_data.sql
            echo "CREATE DATABASE $MYSQL_DATABASE CHARACTER SET utf8mb4;"
            echo "FLUSH PRIVILEGES;"
            echo "CREATE USER '$MYSQL_USER'@'127.0.0.1' IDENTIFIED BY '$MYSQL_PASSWORD';"
            echo "GRANT ALL ON $MYSQL_DATABASE.* TO '$MYSQL_USER'@'127.0.0.1';"
        } | gosu mysql mariadbd --bootstrap --log-warnings=0
    fi
    gosu mysql mariadbd &
fi

if [ ! -e "$locks-init.lock" ]; then
    sed -i "s/localhost:80/$PS_DOMAIN/g" /dump.sql
    tries=1200
    until /run-scripts/statements --execute='SELECT 1' >/dev/null 2>"$locks-error"; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || { echo "run.sh: the database does not answer: $(<"$locks-error")" >&2; exit 1; }
        sleep 0.1
    done
    touch "$locks-init.lock"
fi
if [ ! -e "$locks-dump.lock" ]; then
    /run-scripts/statements </dump.sql
    touch "$locks-dump.lock"
fi
if [ ! -e "$locks-modules-installed.lock" ]; then
    for zip in "${INSTALL_MODULES_DIR:-/nowhere}"/*.zip; do
        [ -e "$zip" ] || continue
        gosu www-data php /run-scripts/install-module.php "$zip"
    done
    touch "$locks-modules-installed.lock"
fi

php-fpm --fpm-config /etc/php-fpm/php-fpm.conf &
exec nginx -g 'daemon off;'
