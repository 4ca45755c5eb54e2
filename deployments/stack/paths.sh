# To be sourced. The places of the private stack, all below $stack, and questions about what runs there.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
stack=${STACK_DIR:-$repository/target/stack}
mkdir -p "$stack"
stack=$(cd "$stack" && pwd -P)
socket=$stack/containerd/containerd.sock
pid_file=$stack/containerd/pid
# Valkey's folder: its process id, its port, its log and what it keeps.
valkey=$stack/valkey
# What tests and servers read to use the stack.
env_file=$stack/env

die() {
    echo "$*" >&2
    exit 1
}

# One of install, up and down at a time. The lock ends with the script.
lock() {
    exec 9>"$stack/lock"
    flock --timeout 600 9 || die "another make stack has held $stack/lock for 10 minutes"
}

# The socket of a containerd that is not ours, where the environment names one.
foreign_socket() {
    [ -n "${CONTAINERD_ADDRESS:-}" ] && [ "${CONTAINERD_ADDRESS#unix://}" != "$socket" ] || return 1
    printf '%s\n' "${CONTAINERD_ADDRESS#unix://}"
}

# The id of our containerd's process, if it runs. A number alone proves nothing: it may be another program's by now.
running() {
    local pid
    pid=$(cat "$pid_file" 2>/dev/null) && [ -n "$pid" ] || return 1
    [ "$(readlink "/proc/$pid/exe" 2>/dev/null)" = "$stack/usr/bin/containerd" ] || return 1
    printf '%s\n' "$pid"
}

# The same for our Valkey, whose program may have been installed anew since it began.
valkey_running() {
    local pid exe
    pid=$(cat "$valkey/pid" 2>/dev/null) && [ -n "$pid" ] || return 1
    exe=$(readlink "/proc/$pid/exe" 2>/dev/null) || return 1
    case ${exe% (deleted)} in "$stack"/usr/bin/valkey-*) ;; *) return 1 ;; esac
    printf '%s\n' "$pid"
}

# Our ctr, with a deadline for its connection and for each call.
ctr() {
    timeout 30 "$stack/usr/bin/ctr" --address "$socket" --connect-timeout 5s "$@"
}

# wait_until SECONDS COMMAND...: until the command is true, or the time is over.
wait_until() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.05
    done
}
