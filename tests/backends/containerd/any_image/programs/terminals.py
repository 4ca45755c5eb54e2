import pty

# A terminal with a program on it, open when the instance is frozen.
master, slave = pty.openpty()
program = subprocess.Popen(
    [sys.executable, "-c", "import os\nwhile True: os.write(1, b'<' + os.read(0, 99).strip() + b'>')"],
    stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
)
os.close(slave)
kept = []


def read_until(terminal, end):
    text = b""
    while not text.endswith(end):
        text += os.read(terminal, 99)
    return text


def answer(word, text=""):
    if word == "say":
        os.write(master, f"{text}\n".encode())
        return read_until(master, f"<{text}>".encode()).decode().split()[-1]
    if word == "fill":
        while True:
            try:
                kept.append(pty.openpty())
            except OSError as error:
                return f"{len(kept)} then {error.strerror}"
    if word == "names":
        return " ".join(sorted(os.listdir("/dev/pts")))


serve(answer)
