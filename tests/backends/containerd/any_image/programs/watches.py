# Watches of files and folders of the image and of its own.
libc = ctypes.CDLL(None, use_errno=True)
watcher = libc.inotify_init1(os.O_NONBLOCK)
os.makedirs("/tmp/own/deep")
open("/tmp/own/file", "w").write("old")
paths = ["/etc", "/etc/passwd", "/usr/lib", "/tmp/own", "/tmp/own/deep", "/tmp/own/file"]
for path in paths:
    if libc.inotify_add_watch(watcher, path.encode(), 0x102) < 0:
        sys.exit(f"no watch of {path}")


def answer(word):
    if word != "change":
        return f"{len(paths)} watches"
    for path in paths:
        with open(f"{path}/new" if os.path.isdir(path) else path, "a") as file:
            file.write("new")
    seen, found = os.read(watcher, 1 << 16), set()
    while seen:
        watch, mask, _, length = struct.unpack("iIII", seen[:16])
        found.add(watch)
        seen = seen[16 + length:]
    return f"{len(found)} seen"


serve(answer)
