# Node-RED with a flow that answers in every way that a proxy must pass: long polls, events, uploads, WebSockets.

suite=trixie
packages=(nodejs)
# The same as for the image `node`, so that both have one first layer.
leave_out=(ca-certificates 'openssl*' 'debconf*' 'perl*' 'libperl*' 'adduser' 'passwd')
command='["/usr/bin/node","--max-old-space-size=128","/opt/node-red/node_modules/node-red/red.js","--settings","/opt/node-red/settings.js","--userDir","/opt/node-red"]'
env='["PATH=/usr/bin:/usr/sbin","PORT=80","NODE_ENV=production"]'

fill() {
    command -v npm >/dev/null || { echo "images: npm is missing: apt-get install npm" >&2; exit 1; }
    npm install --prefix "$1/opt/node-red" --omit=dev --no-audit --no-fund --ignore-scripts --no-update-notifier \
        --loglevel=error
    mkdir -p "$1/opt/node-red/public"
    # Lines of nine bytes, so that a client can compute each byte of the file.
    seq -f %08.0f 0 116508 >"$1/opt/node-red/public/numbers.txt"
}
