# To be sourced. The paths of the private stack, all below $stack, and functions that check what runs there.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
stack=${STACK_DIR:-$repository/target/stack}
mkdir -p "$stack"
stack=$(cd "$stack" && pwd -P)
socket=$stack/containerd/containerd.sock
pid_file=$stack/containerd/pid
# Valkey's folder: its process id, its port, its log and its data.
valkey=$stack/valkey
# The variables with which tests and servers use the stack.
env_file=$stack/env

die() {
    echo "$*" >&2
    exit 1
}

# lock: waits until no other script of the stack runs. The lock ends with the script.
lock() {
    exec 9>"$stack/lock"
    flock --timeout 600 9 || die "another make stack has held $stack/lock for 10 minutes"
}

# foreign_socket: prints the socket of another containerd, if the environment names one.
foreign_socket() {
    [ -n "${CONTAINERD_ADDRESS:-}" ] && [ "${CONTAINERD_ADDRESS#unix://}" != "$socket" ] || return 1
    printf '%s\n' "${CONTAINERD_ADDRESS#unix://}"
}

# running: prints the process id of this containerd, if it runs. The program is checked, because the number may belong
# to another process by now.
running() {
    local pid
    pid=$(cat "$pid_file" 2>/dev/null) && [ -n "$pid" ] || return 1
    [ "$(readlink "/proc/$pid/exe" 2>/dev/null)" = "$stack/usr/bin/containerd" ] || return 1
    printf '%s\n' "$pid"
}

# valkey_running: prints the process id of this Valkey, if it runs. Its program may have been replaced since it started.
valkey_running() {
    local pid exe
    pid=$(cat "$valkey/pid" 2>/dev/null) && [ -n "$pid" ] || return 1
    exe=$(readlink "/proc/$pid/exe" 2>/dev/null) || return 1
    case ${exe% (deleted)} in "$stack"/usr/bin/valkey-*) ;; *) return 1 ;; esac
    printf '%s\n' "$pid"
}

# ctr ARGUMENT...: runs the stack's ctr, with a deadline for its connection and for each call.
ctr() {
    timeout 30 "$stack/usr/bin/ctr" --address "$socket" --connect-timeout 5s "$@"
}

# wait_until SECONDS COMMAND...: waits until the command succeeds. Fails when the time is over.
wait_until() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.05
    done
}
