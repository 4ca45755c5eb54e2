#!/bin/sh
set -e
tmux new-session -d -s main -x 120 -y 30 bash --login
exec "$@"
