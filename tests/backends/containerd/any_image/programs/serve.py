# Answers one line to each line that a visitor sends. The other programs are appended.
import ctypes, os, signal, socket, struct, subprocess, sys, threading, time


def serve(answer):
    listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
    while True:
        visitor, _ = listener.accept()
        with visitor:
            line = visitor.makefile().readline().split()
            try:
                text = answer(*line)
            except Exception as error:
                text = f"{type(error).__name__}: {error}"
            visitor.sendall(f"{text}\n".encode())


