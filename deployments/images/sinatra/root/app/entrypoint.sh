#!/bin/sh
set -e
# What a killed server leaves.
rm -f tmp/server.pid
mkdir -p tmp
exec "$@"
