# Shared memory and semaphores by name, as programs with an older libc use them: they insist on a tmpfs at /dev/shm.
import errno, mmap

libc = ctypes.CDLL(None, use_errno=True)
libc.sem_open.restype = ctypes.c_void_p
TMPFS_MAGIC = 0x01021994


def type_of(path):
    found = (ctypes.c_long * 32)()
    assert libc.statfs(path, found) == 0, os.strerror(ctypes.get_errno())
    return found[0]


def segment(name, flags=0):
    # The rule of glibc before 2.35: no shared memory where the file system is not the right one.
    if type_of(b"/dev/shm") != TMPFS_MAGIC:
        raise OSError("no tmpfs at /dev/shm")
    return libc.shm_open(name, os.O_RDWR | flags, 0o600)


made = segment(b"/kept", os.O_CREAT)
os.ftruncate(made, 8192)
kept = mmap.mmap(made, 8192)
kept[:5] = b"first"
unlinked_file = segment(b"/unlinked", os.O_CREAT)
os.ftruncate(unlinked_file, 4096)
unlinked = mmap.mmap(unlinked_file, 4096)
unlinked[:4] = b"gone"
libc.shm_unlink(b"/unlinked")
semaphore = ctypes.c_void_p(libc.sem_open(b"/counted", os.O_CREAT, 0o600, 2))
os.makedirs("/dev/shm/folder", mode=0o750)
open("/dev/shm/folder/file", "w").write("in a folder")
os.chown("/dev/shm/folder/file", 33, 34)
# Another process maps the same segment.
child = os.fork()
if child == 0:
    while True:
        if kept[100:104] == b"ping":
            kept[100:104] = b"pong"
        time.sleep(0.01)


def answer(word, text=""):
    if word == "fill":
        try:
            with open("/dev/shm/large", "wb") as large:
                for _ in range(1 << 12):
                    large.write(bytes(1 << 20))
        except OSError as error:
            return errno.errorcode[error.errno]
        finally:
            os.unlink("/dev/shm/large")
        return "4 GiB"
    if word == "write":
        kept[:5] = text.encode()
        return "written"
    kept[100:104] = b"ping"
    deadline = time.monotonic() + 10
    while kept[100:104] != b"pong" and time.monotonic() < deadline:
        time.sleep(0.01)
    again = segment(b"/kept")
    seen = os.pread(again, 5, 0).decode()
    os.close(again)
    counted = 0
    while libc.sem_trywait(semaphore) == 0:
        counted += 1
    for _ in range(counted):
        libc.sem_post(semaphore)
    file = os.stat("/dev/shm/folder/file")
    return " ".join([
        seen, kept[:5].decode(), unlinked[:4].decode(), kept[100:104].decode(), f"sem={counted}",
        f"owner={file.st_uid}:{file.st_gid}", oct(os.stat("/dev/shm").st_mode & 0o7777),
        ",".join(sorted(name for name in os.listdir("/dev/shm") if not name.startswith("link_remap"))),
    ])


serve(answer)
