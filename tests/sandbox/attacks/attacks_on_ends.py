"""Attacks on what ends a job: orphans, time, memory, output. What is measured is outside."""

# Programs that try to outlive their job. `f(case)` may return or not.
ORPHANS = {
    "forked when the interpreter ends": """
import atexit, os, time

def late():
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)

atexit.register(late)

def f(case):
    return 1
""",
    "forked in a thread while the main one leaves": """
import os, threading, time

def later():
    while True:
        try:
            if os.fork() == 0:
                os.setsid()
                time.sleep(600)
        except OSError:
            time.sleep(0.01)

def f(case):
    threading.Thread(target=later, daemon=True).start()
    time.sleep(0.1)
    os._exit(0)
""",
    "forked in a finalizer": """
import os, time

class Last:
    def __del__(self):
        if os.fork() == 0:
            os.setsid()
            time.sleep(600)

keep = Last()

def f(case):
    return 1
""",
    "forked in a signal handler": """
import os, signal, time

def again(*_):
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)

for sign in (signal.SIGTERM, signal.SIGALRM, signal.SIGHUP, signal.SIGCHLD):
    signal.signal(sign, again)

def f(case):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(9)
""",
    "a reaper of its own": """
import ctypes, os, time

ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)

def f(case):
    if os.fork() == 0:
        if os.fork() == 0:
            os.setsid()
            time.sleep(600)
        os._exit(0)
    return 1
""",
    "no death with the parent": """
import ctypes, os, time

ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)

def f(case):
    if os.fork() == 0:
        ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)
        time.sleep(600)
    os._exit(0)
""",
    "stopped children": """
import os, signal

def f(case):
    for _ in range(4):
        if os.fork() == 0:
            os.setsid()
            os.kill(os.getpid(), signal.SIGSTOP)
    return 1
""",
    "zombies": """
import os

def f(case):
    for _ in range(5):
        if os.fork() == 0:
            os._exit(0)
    return 1
""",
    "a chain that runs ahead of the sweep": """
import os, signal

def f(case):
    if os.fork() == 0:
        while True:
            try:
                if os.fork() != 0:
                    os._exit(0)
                os.setsid()
            except OSError:
                pass
    return 1
""",
    "a child that holds the answers open": """
import os, time

def f(case):
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)
""",
    "a new program of its own": """
import os, subprocess, sys

def f(case):
    code = "import os, signal, time\\n"
    code += "for sign in (1, 2, 15): signal.signal(sign, signal.SIG_IGN)\\n"
    code += "os.setsid(); time.sleep(600)"
    subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    return 1
""",
    "all signals ignored": """
import os, signal, time

for sign in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    try:
        signal.signal(sign, signal.SIG_IGN)
    except (OSError, ValueError):
        pass

def f(case):
    os.fork()
    while True:
        time.sleep(1)
""",
}

# Programs that try to take time, the candidate's or the trainer's.
TIME = {
    "a loop in C": """
def f(case):
    return sum(range(10**15))
""",
    "a power without end": """
def f(case):
    return pow(7, 10**9)
""",
    "a regular expression": """
import re

def f(case):
    return re.match("(a+)+$", "a" * 64 + "b")
""",
    "a loop that swallows the alarm": """
def f(case):
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass
""",
    "at import": """
while True:
    pass

def f(case):
    return 1
""",
    "at the end": """
import atexit, time

atexit.register(time.sleep, 600)

def f(case):
    return 1
""",
    "a thread that never ends": """
import threading

def spin():
    while True:
        pass

def f(case):
    threading.Thread(target=spin).start()
    return 1
""",
    "a trace function": """
import sys

def trace(*_):
    while True:
        pass

def f(case):
    sys.settrace(trace)
    return (lambda: 1)()
""",
    "a profile function that stays": """
import sys

def f(case):
    def profile(*_):
        while True:
            pass

    sys.setprofile(profile)
    return 1
""",
    "a callback of the garbage collector": """
import gc

def f(case):
    gc.callbacks.append(lambda *_: [None for _ in iter(int, 1)])
    gc.collect()
    return 1
""",
    "a finalizer": """
class Slow:
    def __del__(self):
        while True:
            pass

def f(case):
    Slow()
    return 1
""",
    "a comparison": """
class Slow(int):
    def __lt__(self, other):
        while True:
            pass

def f(case):
    return sorted([Slow(1), Slow(2)])
""",
    "blocked signals and sleep": """
import signal, time

def f(case):
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    time.sleep(600)
""",
    "code of many brackets": "x = " + "(" * 5_000 + ")" * 5_000 + "\ndef f(case): return 1",
    "a constant to fold": """
def f(case):
    return (1 << 10**9) + case
""",
    "answers closed, then sleep": """
import os, time

def f(case):
    os.closerange(0, 64)
    time.sleep(600)
""",
}

# Programs that try to hold memory; all ask for far more than their limit.
MEMORY = {
    "one block": """
def f(case):
    return len(bytearray(1 << 32))
""",
    "many blocks": """
def f(case):
    blocks = []
    while True:
        blocks.append(bytearray(1 << 20))
""",
    "in each process": """
import os, time

def f(case):
    for _ in range(12):
        try:
            os.fork()
        except OSError:
            break
    blocks = []
    try:
        while True:
            blocks.append(b"x" * (1 << 20))
    except MemoryError:
        time.sleep(600)
""",
    "shared between processes": """
import mmap, os, time

def f(case):
    maps = []
    for _ in range(40):
        try:
            area = mmap.mmap(-1, 16 << 20)
            area.write(b"x" * (16 << 20))
            maps.append(area)
        except (OSError, MemoryError, ValueError):
            break
    time.sleep(600)
""",
    "socket buffers": """
import socket, time

def f(case):
    pairs = []
    try:
        while True:
            a, b = socket.socketpair()
            a.setblocking(False)
            a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 26)
            pairs.append((a, b))
            while a.send(b"x" * 65536):
                pass
    except OSError:
        pass
    time.sleep(600)
""",
    "sockets in sockets": """
import array, os, socket, time

def f(case):
    keep = []
    try:
        for _ in range(2_000):
            a, b = socket.socketpair()
            a.setblocking(False)
            try:
                while a.send(b"x" * 65536):
                    pass
            except OSError:
                pass
            c, d = socket.socketpair()
            socket.send_fds(c, [b"x"], [a.fileno(), b.fileno()])
            a.close()
            b.close()
            keep.append((c, d))
    except OSError:
        pass
    time.sleep(600)
""",
    "pipes": """
import fcntl, os, time

def f(case):
    keep = []
    try:
        while True:
            r, w = os.pipe()
            os.set_blocking(w, False)
            try:
                fcntl.fcntl(w, 1031, 1 << 20)
            except OSError:
                pass
            keep.append((r, w))
            try:
                while os.write(w, b"x" * 65536):
                    pass
            except OSError:
                pass
    except OSError:
        pass
    time.sleep(600)
""",
    "files": """
import os, time

def f(case):
    n = 0
    try:
        while True:
            with open("/tmp/%d" % n, "wb") as file:
                file.write(b"x" * (1 << 19))
            n += 1
    except OSError:
        time.sleep(600)
""",
    "stacks of threads": """
import threading, time

def f(case):
    threading.stack_size(64 << 20)
    for _ in range(64):
        try:
            threading.Thread(target=time.sleep, args=(600,)).start()
        except (RuntimeError, MemoryError):
            break
    time.sleep(600)
""",
    "tables of pages": """
import mmap, time

def f(case):
    maps = []
    try:
        while True:
            area = mmap.mmap(-1, 1 << 26)
            for at in range(0, 1 << 26, 1 << 21):
                area[at] = 1
            maps.append(area)
    except (OSError, MemoryError, ValueError):
        time.sleep(600)
""",
    "locked memory": """
import ctypes, mmap, time

def f(case):
    ctypes.CDLL(None).mlockall(7)
    area = mmap.mmap(-1, 1 << 33)
    area[0] = 1
    time.sleep(600)
""",
}
