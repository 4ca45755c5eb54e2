# Programs of several languages that draw random numbers, for the tests of equal numbers in restored instances: Python,
# Ruby and PostgreSQL, each linked with OpenSSL. No template uses it.
#
# PostgreSQL refuses to run as root, and a host without CAP_SYS_RESOURCE cannot freeze processes of other users. So the
# image has a library that makes PostgreSQL believe that it runs as another user (LD_PRELOAD=/usr/lib/other-user.so). Where
# instances have user namespaces, the user of its /etc/passwd does instead.

suite=trixie
packages=(python3 ruby postgresql-17 busybox-static)
# Left out is what only maintainer scripts, other databases' authentication and documentation need.
leave_out=(
    perl 'perl-*' libperl5.40 'lib*-perl' debconf ucf sensible-utils procps psmisc 'libproc2-*' init-system-helpers adduser
    passwd 'libsemanage*' libsepol2 login.defs libpam-modules libpam-modules-bin libpam-runtime
    'libdb5*' postgresql-common postgresql-common-dev postgresql-client-common ssl-cert ca-certificates openssl netbase
    media-types tzdata 'libllvm*' 'fonts-*' 'libjs-*' ruby-rubygems rubygems-integration ruby-net-telnet ruby-xmlrpc rake
    'ruby-webrick' ruby-sdbm ruby-minitest ruby-power-assert ruby-test-unit rubygems unzip zip 'libmagic*' file
    'libsystemd-shared' 'libz3-*' libc-l10n locales
)
command='["/bin/sh"]'
env='["PATH=/usr/bin:/usr/sbin:/usr/lib/postgresql/17/bin","PORT=80"]'

prepare() {
    local root=$1
    link_applets "$root"
    # What no program here reads at run time.
    rm -rf "$root"/usr/lib/python3*/{test,idlelib,ensurepip,lib2to3,pydoc_data} "$root"/usr/lib/python3/dist-packages
    rm -rf "$root"/usr/share/{ri,i18n,postgresql/17/man,perl*} "$root"/usr/lib/postgresql/17/lib/{bitcode,pgxs}
    rm -rf "$root"/usr/lib/ruby/gems "$root"/usr/lib/ruby/3*/{rdoc,rubygems,bundler,prism,irb} "$root"/usr/lib/*-linux-gnu/gconv
    find "$root/usr/bin" -name 'x86_64-linux-gnu-*' -delete
    echo 'app:x:1000:1000:app:/:/bin/sh' >>"$root/etc/passwd"
    mkdir -p "$root/run/postgresql"
}

fill() {
    mkdir -p "$1/usr/lib"
    cc -shared -fPIC -O1 -o "$1/usr/lib/other-user.so" "$folder/other-user.c"
}
