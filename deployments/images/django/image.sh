# Django with its administration site, served by Gunicorn with three workers of two threads each; the data is in a SQLite
# file. The entrypoint creates the tables and the administrator, as that of many images of Django does.

suite=trixie
packages=(python3-django libjs-jquery python3-gunicorn python3-whitenoise busybox-static)
leave_out=('debconf*' 'perl*' 'javascript-common' ca-certificates openssl 'python3-setuptools' media-types netbase)
entrypoint='["/app/entrypoint.sh"]'
command='["python3","-m","gunicorn","--workers","3","--threads","2","--bind","0.0.0.0:8000","site_of_your_own.wsgi"]'
env='["PATH=/usr/local/bin:/usr/bin:/usr/sbin","PYTHONUNBUFFERED=1","DJANGO_SUPERUSER_USERNAME=admin","DJANGO_SUPERUSER_EMAIL=admin@example.org","DJANGO_SUPERUSER_PASSWORD=a visitor signs in"]'
user=app
workdir=/app
ports=(8000/tcp)
owned=("1000:1000 app")

prepare() {
    local root=$1
    link_applets "$root"
    rm -rf "$root"/usr/lib/python3*/{test,idlelib,ensurepip,lib2to3,pydoc_data}
    find "$root/usr/lib/python3/dist-packages/django" -name 'django*.[mp]o' ! -path '*/locale/en/*' -delete
    # What the maintainer scripts do. The time of a source file is another one in the image.
    PYTHONHOME=$root/usr "$root/usr/lib64/ld-linux-x86-64.so.2" --library-path "$root/usr/lib/x86_64-linux-gnu" \
        "$root/usr/bin/python3" -m compileall -q -s "$root" --invalidation-mode unchecked-hash "$root/usr/lib/python3" \
        "$root/usr/lib/python3."[0-9]*
    add_user "$root" app 1000 /app /bin/sh
}
