"""Child processes that answer one JSON line per JSON line, and that can be killed and recycled.

Children are started by exec (never a fork of this process, which may hold JAX threads), each in a
session of its own; a child that dies, hangs or babbles costs its own request only.
"""

import json
import os
import queue
import select
import signal
import subprocess
import time
import weakref
from contextlib import contextmanager

LINE_LIMIT = 64 * 2**20


class ChildFailed(Exception):
    """The child died, ran out of time or sent no JSON; it has been killed and will be replaced."""


class Child:
    """One process. ask(value, seconds) -> its answer, or ChildFailed and no process any more."""

    def __init__(self, argv, hello=None):
        self.argv, self.hello, self.process, self.asked = argv, hello, None, 0

    def ask(self, value, seconds):
        if self.process is None:
            self._start()
        self.asked += 1
        try:
            return self._exchange(value, seconds)
        except (OSError, ValueError, TimeoutError) as error:
            code = self.process.poll()
            self.stop()
            raise ChildFailed(f"{error} (exit code {code})") from error

    def _start(self):
        self.process = subprocess.Popen(
            self.argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        )
        self.asked = 0
        if self.hello is not None:
            self._send(self.hello)

    def _send(self, value):
        data = memoryview(json.dumps(value).encode() + b"\n")
        while data:
            data = data[os.write(self.process.stdin.fileno(), data) :]

    def _exchange(self, value, seconds):
        self._send(value)
        end, line = time.monotonic() + seconds, bytearray()
        reader = self.process.stdout.fileno()
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([reader], [], [], max(0, end - time.monotonic()))
            if not ready:
                raise TimeoutError(f"no answer within {seconds} s")
            chunk = os.read(reader, 1 << 16)
            if not chunk:
                raise OSError("the child died")
            line += chunk
            if len(line) > LINE_LIMIT:
                raise ValueError("the child's answer is too long")
        return json.loads(line)

    def stop(self):
        """Closes its input, then TERM, then KILL of its whole session; reaps it."""
        process, self.process = self.process, None
        if process is None:
            return
        process.stdin.close()
        for sign in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, sign)
            except ProcessLookupError:
                pass
            try:
                process.wait(timeout=1)
                break
            except subprocess.TimeoutExpired:
                continue
        process.stdout.close()


class ChildPool:
    """`size` children, lent one at a time, each replaced after `recycle` requests. Thread-safe."""

    def __init__(self, argv, *, size, recycle=None, hello=None):
        self.children = [Child(argv, hello) for _ in range(size)]
        self.recycle = recycle
        self._idle = queue.SimpleQueue()
        for child in self.children:
            self._idle.put(child)
        self.close = weakref.finalize(self, _stop_all, self.children)  # also runs at exit

    @contextmanager
    def lend(self):
        child = self._idle.get()
        try:
            yield child
        finally:
            if self.recycle is not None and child.asked >= self.recycle:
                child.stop()
            self._idle.put(child)

    def ask(self, value, seconds):
        """The answer of whichever child is free next (waits for one); may raise ChildFailed."""
        with self.lend() as child:
            return child.ask(value, seconds)


def _stop_all(children):
    for child in children:
        child.stop()
