# Semaphores, files that were deleted while they are open, and pipes.
import multiprocessing, stat

libc = ctypes.CDLL(None, use_errno=True)
libc.sem_open.restype = ctypes.c_void_p
named = ctypes.c_void_p(libc.sem_open(b"/named", os.O_CREAT, 0o600, 1))
lock = multiprocessing.Lock()
lower = open("/etc/nsswitch.conf")
os.unlink("/etc/nsswitch.conf")
large = open("/tmp/large", "w+b")
block = os.urandom(1 << 20)
for _ in range(100):
    large.write(block)
large.flush()
os.unlink("/tmp/large")
os.mkfifo("/tmp/pipe")
pipe = os.open("/tmp/pipe", os.O_RDWR)
os.write(pipe, b"in the pipe")
moved = open("/tmp/before", "w+")
os.rename("/tmp/before", "/tmp/after")


def answer(word):
    if word == "start":
        return "started"
    results = [libc.sem_trywait(named), libc.sem_post(named)]
    with lock:
        results.append(0)
    lower.seek(0)
    results.append(0 if "hosts:" in lower.read() else 1)
    large.seek(99 << 20)
    results.append(0 if large.read() == block else 1)
    results.append(0 if os.read(pipe, 99) == b"in the pipe" else 1)
    moved.write("x")
    moved.flush()
    results.append(0 if open("/tmp/after").read() == "x" else 1)
    results.append(len([name for name in os.listdir("/etc") + os.listdir("/tmp") if "link_remap" in name]))
    return " ".join(map(str, results))


serve(answer)
