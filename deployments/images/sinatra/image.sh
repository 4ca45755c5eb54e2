# A guest book in Ruby with Sinatra, served by Puma: a master that has loaded the app, two workers with threads. The data
# is in a SQLite file, the counter of each worker in its memory.

suite=trixie
packages=(ruby ruby-sinatra puma ruby-sqlite3 busybox-static libc-bin)
leave_out=(
    'debconf*' perl 'perl-*' 'libperl*' ca-certificates openssl 'fonts-*' 'libjs-*' ruby-rubygems-integration zip unzip
    ruby-sdbm ruby-net-telnet ruby-xmlrpc rake ruby-minitest ruby-power-assert ruby-test-unit 'libmagic*' file
)
entrypoint='["/app/entrypoint.sh"]'
command='["puma","--config","puma.rb"]'
env='["PATH=/usr/local/bin:/usr/bin:/usr/sbin","RACK_ENV=production","LANG=C.UTF-8"]'
user=app
workdir=/app
ports=(9292/tcp)
owned=("1000:1000 app")

prepare() {
    local root=$1
    link_applets "$root"
    add_user "$root" app 1000 /app /bin/sh
}
