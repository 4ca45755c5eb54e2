# ttyd: a terminal with Bash in the browser, over a WebSocket. The terminal is one of tmux, which the entrypoint opens, so
# that a page that is loaded again shows the same one. Debian has ttyd in its unstable suite only.

suite=sid
packages=(ttyd tmux bash busybox-static tini ncurses-base libc-bin)
leave_out=('debconf*' 'perl*' openssl-provider-legacy libc-gconv-modules-extra)
entrypoint='["/usr/bin/tini","--","/usr/local/bin/entrypoint.sh"]'
command='["ttyd","--writable","--port","7681","tmux","attach-session","-t","main"]'
env='["PATH=/usr/local/bin:/usr/bin:/usr/sbin","LANG=C.UTF-8","TERM=xterm-256color"]'
user=guest
workdir=/home/guest
ports=(7681/tcp)
owned=("1000:1000 home/guest")

prepare() {
    local root=$1
    link_applets "$root"
    ln -sf bash "$root/usr/bin/sh"
    add_user "$root" guest 1000 /home/guest /usr/bin/bash
    echo 'tty:x:5:' >>"$root/etc/group"
    mkdir -p "$root/home/guest"
}
