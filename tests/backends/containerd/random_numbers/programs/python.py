# Draws from every generator of Python and of the libcrypto below it, at each line that a visitor sends.
import ctypes, os, random, secrets, socket, ssl, subprocess, sys, threading, queue, uuid

libcrypto = ctypes.CDLL("libcrypto.so.3")
libc = ctypes.CDLL(None)


def private_bytes():
    buffer = ctypes.create_string_buffer(16)
    assert libcrypto.RAND_priv_bytes(buffer, 16) == 1
    return buffer.raw.hex()


def arc4random():
    buffer = ctypes.create_string_buffer(16)
    libc.arc4random_buf(buffer, ctypes.c_size_t(16))
    return buffer.raw.hex()


# A thread has generators of its own.
asked, answered = queue.Queue(), queue.Queue()


def thread():
    while True:
        asked.get()
        answered.put(ssl.RAND_bytes(16).hex())


threading.Thread(target=thread, daemon=True).start()


# A child that has drawn itself, and one that has only inherited the generators of its parent.
class Child:
    def __init__(self, draws):
        (self.question, asked), (said, self.answer) = os.pipe()[::-1], os.pipe()[::-1]
        if os.fork() == 0:
            os.close(self.question), os.close(self.answer)
            if draws:
                ssl.RAND_bytes(1)
            while os.read(asked, 1):
                os.write(said, ssl.RAND_bytes(16))
            os._exit(0)
        os.close(asked), os.close(said)

    def draw(self):
        os.write(self.question, b"x")
        return os.read(self.answer, 16).hex()


ssl.RAND_bytes(1)
drawing, waiting = Child(True), Child(False)
is_first = True


def draw():
    global is_first
    asked.put(None)
    numbers = [
        ("secret", "ssl.RAND_bytes", ssl.RAND_bytes(16).hex()),
        ("secret", "RAND_priv_bytes", private_bytes()),
        ("secret", "thread.RAND_bytes", answered.get()),
        ("secret", "child.RAND_bytes", drawing.draw()),
        ("secret", "secrets.token_hex", secrets.token_hex(16)),
        ("secret", "uuid.uuid4", str(uuid.uuid4())),
        ("secret", "os.urandom", os.urandom(16).hex()),
        ("secret", "SystemRandom", str(secrets.SystemRandom().getrandbits(64))),
        ("secret", "arc4random", arc4random()),
        ("open", "random.random", str(random.random())),
    ]
    # Before the freeze this child never draws.
    if not is_first:
        numbers.append(("secret", "waiting.RAND_bytes", waiting.draw()))
    is_first = False
    return "\n".join(" ".join(number) for number in numbers)


listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
while True:
    try:
        visitor, _ = listener.accept()
    except OSError:
        continue
    with visitor:
        if visitor.recv(100):
            visitor.sendall(draw().encode())
