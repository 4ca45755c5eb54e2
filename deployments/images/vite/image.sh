# Vite's development server, which sends each change of a source file to the browser by a WebSocket. The page saves a file
# by an interface of the server. The user is that of the images of Node.

suite=trixie
packages=(nodejs busybox-static)
leave_out=(ca-certificates 'openssl*' 'debconf*' 'perl*' 'libperl*' 'adduser' 'passwd')
entrypoint='["docker-entrypoint.sh"]'
command='["node_modules/vite/bin/vite.js","--host","0.0.0.0"]'
env='["PATH=/usr/local/bin:/usr/bin:/usr/sbin","NODE_ENV=development"]'
user=node
workdir=/app
ports=(5173/tcp)
owned=("1000:1000 app" "1000:1000 home/node")

prepare() {
    local root=$1
    link_applets "$root"
    add_user "$root" node 1000 /home/node /bin/sh
    mkdir -p "$root/home/node"
}

fill() {
    command -v npm >/dev/null || { echo "images: npm is missing: apt-get install npm" >&2; exit 1; }
    npm install --prefix "$1/app" --no-audit --no-fund --ignore-scripts --no-update-notifier --loglevel=error
}
