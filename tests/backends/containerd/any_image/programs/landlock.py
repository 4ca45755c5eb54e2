def answer(word):
    libc = ctypes.CDLL(None, use_errno=True)
    return f"{libc.syscall(444, None, 0, 1) >= 0} {os.strerror(ctypes.get_errno())}"


serve(answer)
