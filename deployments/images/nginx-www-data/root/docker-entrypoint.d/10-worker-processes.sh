#!/bin/sh
# As many workers as there are processors, at most two.
set -e
processors=$(nproc)
[ "$processors" -le 2 ] || processors=2
sed -i "s/^worker_processes .*/worker_processes $processors;/" /etc/nginx/nginx.conf
