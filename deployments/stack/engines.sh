# To be sourced after paths.sh. Docker and Podman from Debian's packages, in folders of the stack: installed, started,
# stopped. Nothing of the host changes, not its firewall either: these engines make no rules.

# The oldest versions that the program supports: Docker 20.10 and Podman 4.3.
engines_suite=bookworm
engines_packages=(docker.io podman netavark runc iptables)
# The programs that run from the folder, with the C library of the host. Those with further libraries find them in the
# folder, whatever starts them. Their loader stays: a program of this version of Go crashes when that is changed.
engines_programs=(docker containerd)
engines_linked_programs=(dockerd podman runc conmon)
engines=$stack/engines
docker=$stack/docker
podman=$stack/podman
docker_socket=$docker/docker.sock
podman_socket=$podman/podman.sock
engines_path=$engines/usr/bin:$engines/usr/sbin

# as_engine PROGRAM...: runs a program of the folder.
as_engine() {
    (
        export PATH=$engines_path:$PATH
        exec "$@"
    )
}

# engine_running FOLDER PROGRAM: prints the process id of an engine of this stack, if it runs.
engine_running() {
    local pid
    pid=$(cat "$1/pid" 2>/dev/null) && [ -n "$pid" ] || return 1
    [ "$(readlink "/proc/$pid/exe" 2>/dev/null)" = "$2" ] || return 1
    printf '%s\n' "$pid"
}

# programs FILE: prints the ids of the processes that run this file.
programs() {
    local exe
    for exe in /proc/[0-9]*/exe; do
        [ "$(readlink "$exe" 2>/dev/null)" != "$1" ] || basename "${exe%/exe}"
    done
}

docker_running() {
    engine_running "$docker" "$engines/usr/sbin/dockerd"
}

podman_running() {
    engine_running "$podman" "$engines/usr/bin/podman"
}

# engine_answers SOCKET: whether an engine answers there.
engine_answers() {
    as_engine timeout 10 docker --host "unix://$1" version
}

# Runs Podman with its own configuration, on its own folders.
podman_command=(
    env HOME="$podman/home" CONTAINERS_CONF="$podman/containers.conf" CONTAINERS_STORAGE_CONF="$podman/storage.conf"
    TMPDIR="$podman/tmp" "$engines/usr/bin/podman" --tmpdir "$podman/state"
)

# stack_patchelf ARGUMENT...: runs the stack's patchelf, which is started with its own loader.
stack_patchelf() {
    local library
    library=$(dirname "$(find "$stack/usr/lib" -name libc.so.6 -print -quit)")
    "$(find "$library" -name 'ld-linux*.so*' -print -quit)" --library-path "$library" "$stack/usr/bin/patchelf" "$@"
}

# install_engines: unpacks the packages. Needs what `install` installs.
install_engines() {
    local wanted debs deb name program file libraries
    wanted="$engines $engines_suite ${engines_packages[*]} $(sha256sum <"$here/engines.sh")"
    [ "$(cat "$engines/stamp" 2>/dev/null)" != "$wanted" ] || return 0
    ! docker_running && ! podman_running || die "stack: cannot install while an engine runs: stop it with make stack-down"
    echo "stack: fetching ${engines_packages[*]}"
    rm -rf "$engines"
    mkdir -p "$engines"
    debs=$(debian_fetch "$engines/debian" "$engines_suite" "${engines_packages[@]}")
    while read -r deb; do
        name=$(basename "$deb")
        # Dependencies that are never run here.
        case $name in libc6_* | gnupg* | gpg* | dirmngr_* | pinentry-* | passwd_* | adduser_* | perl* | debconf_* | dpkg_*) continue ;; esac
        dpkg-deb -x "$deb" "$engines"
    done <<<"$debs"
    rm -rf "$engines/debian"
    libraries=$(printf '%s:' "$engines"/usr/lib/*-linux-gnu "$engines"/lib/*-linux-gnu)
    for program in "${engines_linked_programs[@]}"; do
        file=$(find "$engines"/usr/{bin,sbin}/"$program" -print -quit 2>/dev/null || true)
        stack_patchelf --force-rpath --set-rpath "${libraries%:}" "${file:?the packages contain no $program}"
    done
    for program in "${engines_programs[@]}" "${engines_linked_programs[@]}"; do
        as_engine "$program" --version >/dev/null || die "stack: $program does not run here"
    done
    printf '%s\n' "$wanted" >"$engines/stamp"
}

# start_engine FOLDER COMMAND...: starts an engine in a session of its own, with none of the open descriptors: a caller
# that waits for the end of this script's output, or that holds a lock by a descriptor, must not wait for the engine.
start_engine() {
    local folder=$1
    shift
    (
        for descriptor in /proc/self/fd/*; do
            number=${descriptor##*/}
            [ "$number" -le 2 ] || eval "exec $number>&-" 2>/dev/null || true
        done
        cd /
        as_engine setsid bash -c 'echo $$ >"$1/pid"; shift; exec "$@"' - "$folder" "$@"
    ) </dev/null >"$folder/log" 2>&1 &
}

start_docker() {
    ! docker_running >/dev/null || return 0
    mkdir -p "$docker"
    # A daemon that was killed leaves the processes of its containerd, which the next one uses.
    rm -f "$docker/pid" "$docker/daemon.pid"
    start_engine "$docker" "$engines/usr/sbin/dockerd" --data-root "$docker/data" --exec-root "$docker/exec" \
        --pidfile "$docker/daemon.pid" --host "unix://$docker_socket" --group root --bridge none --iptables=false \
        --ip6tables=false --ip-forward=false --userland-proxy-path "$engines/usr/sbin/docker-proxy"
}

start_podman() {
    ! podman_running >/dev/null || return 0
    mkdir -p "$podman"/{home/.config/containers,tmp,networks}
    rm -f "$podman/pid"
    # Locks in files: those in shared memory would be shared with every other Podman of this host.
    cat >"$podman/containers.conf" <<CONF
[engine]
cgroup_manager = "cgroupfs"
conmon_path = ["$engines/usr/bin/conmon"]
events_logger = "file"
helper_binaries_dir = ["$engines/usr/lib/podman"]
lock_type = "file"
runtime = "runc"
[engine.runtimes]
runc = ["$engines/usr/sbin/runc"]
[containers]
seccomp_profile = "$engines/usr/share/containers/seccomp.json"
[network]
network_backend = "netavark"
network_config_dir = "$podman/networks"
CONF
    cat >"$podman/storage.conf" <<CONF
[storage]
driver = "overlay"
graphroot = "$podman/data"
runroot = "$podman/run"
CONF
    echo '{"default":[{"type":"insecureAcceptAnything"}]}' >"$podman/home/.config/containers/policy.json"
    start_engine "$podman" "${podman_command[@]}" system service --time=0 "unix://$podman_socket"
}

# up_engines: installs and starts both, and waits until they answer.
up_engines() {
    install_engines
    start_docker
    start_podman
    wait_until 60 engine_answers "$docker_socket" || die "stack-up: Docker does not answer, its log is $docker/log"
    wait_until 60 engine_answers "$podman_socket" || die "stack-up: Podman does not answer, its log is $podman/log"
}

# down_engines: stops both, with all containers. Uses `end` and `shims` of the caller.
down_engines() {
    local pid
    if pid=$(podman_running); then
        as_engine "${podman_command[@]}" rm --force --all --time 0 >/dev/null 2>&1 || true
        end "$pid"
    fi
    # Podman keeps a process for each command of a container, five minutes longer than the command.
    # shellcheck disable=SC2046 # a list of numbers
    end $(programs "$engines/usr/bin/conmon")
    if pid=$(docker_running); then
        # It ends its containers and its containerd.
        end "$pid"
    fi
    rm -f "$docker/pid" "$podman/pid" "$docker_socket" "$podman_socket"
}
