#!/bin/bash
# Runs what /usr/local/bin/before-notebook.d holds, and then the command in this process's place.
set -euo pipefail
shopt -s nullglob
for file in /usr/local/bin/before-notebook.d/*.sh; do
    . "$file"
done
if [ "$(id -u)" = 0 ]; then
    echo "start.sh: this image runs as $NB_USER" >&2
    exit 1
fi
exec "$@"
