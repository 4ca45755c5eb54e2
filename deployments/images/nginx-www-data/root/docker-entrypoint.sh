#!/bin/sh
# Runs the scripts of /docker-entrypoint.d in order, then becomes the command.
set -e
for script in /docker-entrypoint.d/*.sh; do
    echo "$0: running $script"
    "$script"
done
exec "$@"
