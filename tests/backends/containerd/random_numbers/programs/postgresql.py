# Draws from PostgreSQL, at each line that a visitor sends: in a session that was open before the freeze, and in a new
# one. PostgreSQL gets its numbers from OpenSSL.
import os, socket, subprocess, time

# PostgreSQL refuses to run as root. In a user namespace it runs as another user; else it believes that it does.
if open("/proc/self/uid_map").read().split()[1] == "0":
    other_user = dict(env=dict(os.environ, LD_PRELOAD="/usr/lib/other-user.so"))
else:
    other_user = dict(user=1000, group=1000, extra_groups=[])
os.mkdir("/tmp/sockets")
os.chmod("/tmp/sockets", 0o777)
psql = ["psql", "--host", "/tmp/sockets", "--user", "app", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "postgres"]
options = ["--no-locale", "--encoding", "UTF8", "--no-sync", "--auth", "trust", "--username", "app"]
subprocess.run(["initdb", "--pgdata", "/tmp/data", *options], **other_user, check=True, stdout=subprocess.DEVNULL)
settings = ["listen_addresses=", "unix_socket_directories=/tmp/sockets", "shared_buffers=1MB", "max_connections=10", "fsync=off"]
server = ["postgres", "-D", "/tmp/data", *(word for setting in settings for word in ("-c", setting))]
subprocess.Popen(server, **other_user)
while subprocess.run([*psql, "--command", "select 1"], capture_output=True).returncode:
    time.sleep(0.05)
session = subprocess.Popen(psql, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)


def ask(query):
    session.stdin.write(query + ";\n")
    return session.stdout.readline().strip()


def draw():
    new = subprocess.run([*psql, "--command", "select gen_random_uuid()"], capture_output=True, text=True, check=True)
    return "\n".join([
        "secret gen_random_uuid " + ask("select gen_random_uuid()"),
        "secret new.gen_random_uuid " + new.stdout.strip(),
        "open random() " + ask("select random()"),
    ])


listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
while True:
    try:
        visitor, _ = listener.accept()
    except OSError:
        continue
    with visitor:
        if visitor.recv(100):
            visitor.sendall(draw().encode())
