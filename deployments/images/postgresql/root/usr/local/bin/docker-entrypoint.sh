#!/usr/bin/env bash
# Prepares the data folder at the first start, runs what /docker-entrypoint-initdb.d holds, and then the database and the
# app, until one of both ends.
set -Eeuo pipefail

# A value is given as NAME, or in the file that NAME_FILE names.
file_env() {
    local name=$1 file="${1}_FILE"
    if [ -n "${!file:-}" ]; then
        export "$name"="$(<"${!file}")"
        unset "$file"
    fi
}

wait_for_database() {
    local tries=600
    until pg_isready --quiet "$@"; do
        ((tries -= 1)) || { echo "entrypoint: the database does not answer" >&2; exit 1; }
        sleep 0.1
    done
}

initialize() {
    initdb --username="$POSTGRES_USER" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") --auth-local=trust \
        --auth-host=scram-sha-256 --no-locale --encoding=UTF8 >/dev/null
    cat >>"$PGDATA/postgresql.conf" <<'CONF'
listen_addresses = '127.0.0.1'
unix_socket_directories = '/run/postgresql'
# An instance has one visitor.
shared_buffers = 16MB
max_connections = 20
fsync = off
CONF
    # Nothing else connects while the database is filled.
    pg_ctl --silent --wait --options="-c listen_addresses=''" start >/dev/null
    createdb --host=/run/postgresql --username="$POSTGRES_USER" "${POSTGRES_DB:-$POSTGRES_USER}" 2>/dev/null || true
    local file
    for file in /docker-entrypoint-initdb.d/*; do
        case $file in
        *.sh) . "$file" ;;
        *.sql) psql --quiet --set=ON_ERROR_STOP=1 --host=/run/postgresql --username="$POSTGRES_USER" \
            --dbname="${POSTGRES_DB:-$POSTGRES_USER}" --file="$file" ;;
        esac
    done
    pg_ctl --silent --wait --mode=fast stop >/dev/null
}

file_env POSTGRES_USER
file_env POSTGRES_PASSWORD

if [ "$1" = postgres ] && [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA" /run/postgresql
    chmod 0700 "$PGDATA"
    find "$PGDATA" /run/postgresql \! -user postgres -exec chown postgres '{}' +
    [ -s "$PGDATA/PG_VERSION" ] || gosu postgres "${BASH_SOURCE[0]}" initialize
    gosu postgres "$@" &
    wait_for_database --host=127.0.0.1
    cd /srv/notes
    gosu www-data gunicorn --bind="0.0.0.0:$PORT" --workers=2 --threads=2 --worker-tmp-dir=/tmp notes:app &
    trap 'kill -INT $(jobs -p) 2>/dev/null || true' TERM INT
    wait -n || true
    kill -INT $(jobs -p) 2>/dev/null || true
    wait
    exit
fi
if [ "$1" = initialize ]; then
    initialize
    exit
fi
exec "$@"
