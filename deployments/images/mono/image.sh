# A guest book in C#, compiled and run by Mono: the listener of the class library, a pool of threads, a garbage collector
# that moves objects. The entrypoint compiles the program.

suite=trixie
packages=(mono-runtime mono-mcs busybox-static)
leave_out=(
    'debconf*' perl 'perl-*' 'libperl*' ca-certificates ca-certificates-mono openssl 'binutils*' libbinutils 'libgprofng*'
    'libctf*' 'libsframe*' 'libssl*' ucf sensible-utils
)
entrypoint='["/app/entrypoint.sh"]'
command='["mono","/app/guests.exe"]'
env='["PATH=/usr/local/bin:/usr/bin:/usr/sbin","PORT=8080"]'
user=app
workdir=/app
ports=(8080/tcp)
owned=("1000:1000 app")

prepare() {
    local root=$1
    link_applets "$root"
    add_user "$root" app 1000 /app /bin/sh
}
