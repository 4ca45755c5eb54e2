# A web app in Python with a cache in memory beside it, all of one user without root's rights: gunicorn with workers that
# have threads, and Valkey, to which the workers hold connections over TCP.

suite=trixie
packages=(valkey-server python3-redis gunicorn python3-flask busybox-static)
leave_out=(
    tar dpkg libdebconfclient0 base-passwd init-system-helpers 'libaudit*' libcap-ng0 'libdb5*' debconf 'libpam*' tzdata login.defs
    'libsemanage*' libsepol2 passwd adduser netbase libattr1 libacl1 libselinux1 'libpcre2-*'
)
entrypoint='["/app/entrypoint"]'
command='["gunicorn","--bind","0.0.0.0:8000","--workers","2","--threads","8","app:app"]'
env='["PATH=/usr/local/bin:/usr/bin:/bin","PYTHONUNBUFFERED=1","PYTHONDONTWRITEBYTECODE=1"]'
user=app
workdir=/app
ports=(8000/tcp)
healthcheck='{"Test":["CMD-SHELL","wget -q -O - http://127.0.0.1:8000/health | grep -q PONG"],"Interval":2000000000,"Timeout":5000000000,"Retries":10}'
owned=("1000:1000 home/app")

prepare() {
    local root=$1
    link_applets "$root"
    rm -rf "$root"/usr/lib/python3*/{test,idlelib,ensurepip,lib2to3,pydoc_data} "$root"/etc/valkey "$root/usr/lib/systemd"
    add_user "$root" app 1000 /home/app /bin/sh
    mkdir -p "$root/home/app"
}

fill() {
    chmod 755 "$1/app/entrypoint"
}
