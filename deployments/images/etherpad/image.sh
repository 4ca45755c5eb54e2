# Etherpad, an editor for several people at once: Node with socket.io, pads in a file of its own database and in memory. At
# each start it asks npm for its extensions. Its user is that of the public image.

suite=trixie
packages=(nodejs busybox-static)
leave_out=(ca-certificates 'openssl*' 'debconf*' 'perl*' 'libperl*' 'adduser' 'passwd')
command='["node","src/node/server.js"]'
env='["PATH=/opt/etherpad/node_modules/.bin:/usr/local/bin:/usr/bin:/usr/sbin","NODE_ENV=production"]'
user=etherpad
workdir=/opt/etherpad
ports=(9001/tcp)
volumes=(/opt/etherpad/var)
owned=("5001:0 opt/etherpad")
healthcheck='{"Test":["CMD-SHELL","wget -q -O /dev/null http://127.0.0.1:9001/"],"Interval":2000000000,"Timeout":5000000000,"StartPeriod":120000000000}'

prepare() {
    local root=$1
    link_applets "$root"
    echo 'etherpad:x:5001:0:etherpad:/opt/etherpad:/bin/sh' >>"$root/etc/passwd"
}

fill() {
    local app=$1/opt/etherpad
    command -v npm >/dev/null || { echo "images: npm is missing: apt-get install npm" >&2; exit 1; }
    npm install --prefix "$app" --omit=dev --no-audit --no-fund --ignore-scripts --no-update-notifier --loglevel=error
    # Etherpad finds its folder by this name.
    mv "$app/node_modules/ep_etherpad-lite" "$app/src"
    ln -s ../src "$app/node_modules/ep_etherpad-lite"
    rm -rf "$app/src/tests" "$app/package-lock.json"
    mkdir -p "$app/var"
}
