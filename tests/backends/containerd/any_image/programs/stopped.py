child = subprocess.Popen(["sleep", "600"])


def answer(word):
    child.send_signal(signal.SIGSTOP if word == "stop" else signal.SIGCONT)
    state = "T" if word == "stop" else "S"
    while open(f"/proc/{child.pid}/stat").read().rsplit(")", 1)[1].split()[0] != state:
        time.sleep(0.01)
    return state


serve(answer)
