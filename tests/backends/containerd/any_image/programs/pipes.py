import errno, stat


def make(kind, path, number=0):
    try:
        os.mknod(path, 0o600 | kind, number)
        return "made"
    except OSError as error:
        return errno.errorcode[error.errno]


def answer(word):
    folder = f"/tmp/{word}"
    os.mkdir(folder)
    found = {
        "pipe": make(stat.S_IFIFO, f"{folder}/pipe"),
        "socket": make(stat.S_IFSOCK, f"{folder}/socket"),
        "file": make(stat.S_IFREG, f"{folder}/file"),
        "null": make(stat.S_IFCHR, f"{folder}/null", os.makedev(1, 3)),
        "whiteout": make(stat.S_IFCHR, f"{folder}/whiteout", 0),
        "disk": make(stat.S_IFBLK, f"{folder}/disk", os.makedev(8, 0)),
    }
    pipe = f"{folder}/pipe"
    threading.Thread(target=lambda: open(pipe, "w").write("through")).start()
    found["read"] = open(pipe).read()
    return " ".join(f"{name}={result}" for name, result in found.items())


serve(answer)
