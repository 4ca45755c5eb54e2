# Tomcat on a Java virtual machine, as the user `tomcat`, with an app of JSP pages that has sessions and a store of its
# own.

suite=trixie
packages=(tomcat10 openjdk-21-jre-headless libstdc++6 bash coreutils)
# Left out is what only maintainer scripts and the service of an init system need, and the libraries of fonts and
# printers, which no server loads.
leave_out=(
    perl 'perl-*' libperl5.40 'lib*-perl' debconf ucf sensible-utils procps 'libproc2-*' init-system-helpers adduser passwd
    'libpam*' 'libdb5*' systemd 'libsystemd*' libapparmor1 'libseccomp*' util-linux mount 'libmount*' 'libblkid*' libudev1
    'libsmartcols*' 'liblastlog*' 'libsqlite*' 'libncursesw*' 'libaudit*' libcap-ng0 ca-certificates ca-certificates-java
    openssl java-common 'libpcsclite*' libnss3 libnspr4 'liblcms*'
)
entrypoint='["/usr/local/bin/entrypoint"]'
command='["catalina.sh","run"]'
env='["PATH=/usr/local/bin:/usr/share/tomcat10/bin:/usr/bin:/usr/sbin","JAVA_HOME=/usr/lib/jvm/java-21-openjdk-amd64","CATALINA_HOME=/usr/share/tomcat10","CATALINA_BASE=/var/lib/tomcat","JAVA_OPTS=-Xmx128m -XX:+UseSerialGC -Djava.awt.headless=true","LANG=C.UTF-8"]'
user=tomcat
workdir=/var/lib/tomcat
ports=(8080/tcp)
owned=('1001:1001 var/lib/tomcat')

prepare() {
    local root=$1 base=$1/var/lib/tomcat file
    ln -sfn bash "$root/usr/bin/sh"
    echo 'tomcat:x:1001:1001::/var/lib/tomcat:/usr/sbin/nologin' >>"$root/etc/passwd"
    echo 'tomcat:x:1001:' >>"$root/etc/group"
    rm -rf "$root"/usr/lib/jvm/*/{jmods,man,demo} "$root"/usr/lib/jvm/*/lib/{src.zip,ct.sym} "$root"/var/lib/tomcat10 "$root"/usr/share/maven-repo
    mkdir -p "$base/conf"
    # The default settings, which Debian copies at the installation. The image brings its own server.xml.
    for file in context.xml logging.properties web.xml catalina.properties tomcat-users.xml jaspic-providers.xml; do
        cp "$root/usr/share/tomcat10/etc/$file" "$base/conf/"
    done
}

fill() {
    mkdir -p "$1"/var/lib/tomcat/{logs,work,temp,data}
}
