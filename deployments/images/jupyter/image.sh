# JupyterLab with a terminal and a Python kernel, in the shape of the public notebook images: `tini` first, a start script,
# the user `jovyan` (1000) of the group `users` (100), and a home folder that they own.

suite=trixie
packages=(python3 bash coreutils tini libstdc++6)
leave_out=(ca-certificates openssl netbase media-types tzdata debconf 'perl*' 'libperl*')
entrypoint='["tini","-g","--","start.sh"]'
command='["start-notebook.sh"]'
env='["PATH=/usr/local/bin:/usr/bin:/usr/sbin","HOME=/home/jovyan","NB_USER=jovyan","NB_UID=1000","NB_GID=100","SHELL=/bin/bash","LANG=C.UTF-8","JUPYTER_PORT=8888","JUPYTER_TOKEN=","PYTHONPATH=/opt/jupyter"]'
user=jovyan
workdir=/home/jovyan
ports=(8888/tcp)
owned=('1000:100 home/jovyan')

prepare() {
    local root=$1
    ln -sfn bash "$root/usr/bin/sh"
    echo 'jovyan:x:1000:100::/home/jovyan:/bin/bash' >>"$root/etc/passwd"
    echo 'users:x:100:' >>"$root/etc/group"
    rm -rf "$root"/usr/lib/python3*/{test,idlelib,ensurepip,pydoc_data}
}

fill() {
    local site=$1/opt/jupyter
    mkdir -p "$site" "$1"/usr/local/{share,etc}
    # For the image's Python, which need not be the one of this host.
    python3 -m pip install --quiet --target "$site" --python-version 3.13 --platform manylinux_2_28_x86_64 \
        --platform manylinux2014_x86_64 --platform any --only-binary=:all: --no-compile --disable-pip-version-check \
        --root-user-action ignore --requirement "$folder/requirements.txt" 2>/dev/null
    mv "$site/share/jupyter" "$1/usr/local/share/"
    mv "$site/etc/jupyter" "$1/usr/local/etc/"
    # What only a person at the keyboard would miss: the types of libraries, other languages, the debugger.
    rm -rf "$site"/{bin,share,etc,debugpy,jedi/third_party/typeshed/third_party} "$site"/babel/locale-data
    mkdir -p "$site/babel/locale-data"
    find "$site" -depth -type d -name tests -exec rm -rf '{}' +
}
