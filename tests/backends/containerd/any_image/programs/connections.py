# A server on several addresses, and a process that keeps connections to each of them, as a pool for a database does.
def echo(connection):
    while True:
        data = connection.recv(99)
        if not data:
            return
        connection.sendall(data.upper())


def accept(listener):
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=echo, args=(connection,), daemon=True).start()


if os.fork() == 0:
    unix = socket.socket(socket.AF_UNIX)
    unix.bind("\0pool")
    unix.listen()
    listeners = [
        socket.create_server(("127.0.0.1", 7001)),
        socket.create_server(("::1", 7002), family=socket.AF_INET6),
        socket.create_server(("", 7003), family=socket.AF_INET6, dualstack_ipv6=True),
        unix,
    ]
    threads = [threading.Thread(target=accept, args=(listener,)) for listener in listeners]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]


def connect(target):
    while True:
        try:
            if isinstance(target, str):
                connection = socket.socket(socket.AF_UNIX)
                connection.connect(target)
                return connection
            return socket.create_connection(target)
        except OSError:
            time.sleep(0.01)


pool = [connect(target) for target in [("127.0.0.1", 7001), ("::1", 7002), ("127.0.0.1", 7003), "\0pool"]]
# Connections of visitors, which an instance does not have after a restore.
held = []


def answer(word):
    if word == "ask":
        answers = []
        for connection in pool:
            try:
                connection.settimeout(5)
                connection.sendall(b"word")
                answers.append(connection.recv(99).decode())
            except OSError as error:
                answers.append(type(error).__name__)
        return " ".join(answers)
    if word == "hold":
        held.append(socket.create_server(("127.0.0.1", 7004)))
        threading.Thread(target=lambda: held.append(held[0].accept()[0])).start()
        return "held"
    if word == "held":
        held[1].settimeout(5)
        try:
            return repr(held[1].recv(99))
        except OSError as error:
            return type(error).__name__
    if word == "count":
        return str(len(held))


serve(answer)
