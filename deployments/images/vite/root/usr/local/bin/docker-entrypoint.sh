#!/bin/sh
# Words that are no program are for Node.
set -e
command -v "${1:-}" >/dev/null && [ ! -f "$1" ] || set -- node "$@"
exec "$@"
