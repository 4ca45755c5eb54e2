# A process that streams numbered lines over TCP to another, which notes what is lost or doubled. One of two streams
# has a reader that is slower than its writer, so that data waits in both sockets.
import mmap

PORTS = {"fast": 7101, "slow": 7102}
results = {name: mmap.mmap(-1, 4096) for name in PORTS}


def write(name):
    stream = socket.create_connection(("127.0.0.1", PORTS[name])).makefile("wb")
    number = 0
    while True:
        stream.write(b"%d %s\n" % (number, b"x" * 200))
        number += 1
        if name == "fast" and number % 50 == 0:
            stream.flush()
            time.sleep(0.001)


def read(name, listener):
    lines = listener.accept()[0].makefile("rb")
    seen, wrong = 0, 0
    while True:
        line = lines.readline()
        if line != b"%d %s\n" % (seen, b"x" * 200):
            wrong += 1
        seen += 1
        results[name][:16] = struct.pack("qq", seen, wrong)
        # Pauses are few, because each may take long on a busy host.
        if name == "slow" and seen % 20 == 0:
            time.sleep(0.001)


for name, port in PORTS.items():
    listener = socket.create_server(("127.0.0.1", port))
    if os.fork() == 0:
        read(name, listener)
    listener.close()
    if os.fork() == 0:
        write(name)


def answer(word):
    return " ".join("%d %d" % struct.unpack("qq", results[name][:16]) for name in PORTS)


serve(answer)
