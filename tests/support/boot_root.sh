#!/bin/bash
# boot_root.sh DEBIAN FOLDER CGROUP [FILE TARGET]...: boots the Debian in the folder DEBIAN by its own systemd, and ends when
# that ends. What changes is written into FOLDER, which has the folders root, upper and work. Each FILE of the host appears
# as TARGET, a path without its first slash. Needs root. The network is the host's.
#
# CGROUP is a cgroup of the hierarchy name=systemd, of which nothing else is seen inside. /proc/sys cannot be written:
# else the start of that Debian would change the kernel's settings of this host.
set -euo pipefail
mkdir "/sys/fs/cgroup/systemd/$3"
echo $$ >"/sys/fs/cgroup/systemd/$3/cgroup.procs"
# A test that is killed leaves nothing that runs.
exec setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child --cgroup --uts --ipc --propagation private bash -euc '
    debian=$1 folder=$2 root=$2/root
    shift 3
    mount -t overlay -o "lowerdir=$debian,upperdir=$folder/upper,workdir=$folder/work,volatile" overlay "$root"
    mount -t proc proc "$root/proc"
    mount --bind "$root/proc/sys" "$root/proc/sys"
    mount -o remount,bind,ro "$root/proc/sys"
    mount -t sysfs -o ro sysfs "$root/sys"
    mount -t tmpfs tmpfs "$root/sys/fs/cgroup"
    mkdir "$root/sys/fs/cgroup/systemd"
    mount -t cgroup -o none,name=systemd cgroup "$root/sys/fs/cgroup/systemd"
    mount -t tmpfs tmpfs "$root/run"
    mount -t tmpfs tmpfs "$root/dev"
    mkdir "$root/dev/pts" "$root/dev/shm"
    mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
    ln -s pts/ptmx "$root/dev/ptmx"
    mount -t tmpfs tmpfs "$root/dev/shm"
    for device in null zero full random urandom tty; do set -- "$@" "/dev/$device" "dev/$device"; done
    while [ $# -gt 0 ]; do
        touch "$root/$2"
        mount --bind "$1" "$root/$2"
        shift 2
    done
    cd "$root"
    mkdir -p run/host-root
    pivot_root . run/host-root
    umount -l /run/host-root
    rmdir /run/host-root
    exec env -i container=test PATH=/usr/sbin:/usr/bin /lib/systemd/systemd --system --unit=multi-user.target
' - "$@"
