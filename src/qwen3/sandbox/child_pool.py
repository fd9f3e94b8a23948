"""Child processes that answer one JSON line per JSON line, and that can be killed and recycled.

Children are started by exec (never a fork of this process, which may hold JAX threads), each in a
session of its own; a child that dies, hangs or babbles costs its own request only. All waiting has
a time limit: for the answer, and for a stopped child to take the question.
"""

import json
import os
import queue
import select
import signal
import subprocess
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

LINE_LIMIT = 64 * 2**20  # bytes of an answer
# Signals by which a program ends through what it computes, not by another's hand.
OWN_SIGNALS = {
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGABRT,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGXCPU,
}


class ChildFailed(Exception):
    """The child died, ran out of time or sent no JSON; it has been killed and will be replaced."""

    def __init__(self, reason: str, exit_code: int | None = None, cpu_seconds: float = 0.0) -> None:
        super().__init__(f"{reason} (exit code {exit_code})")
        self.exit_code = exit_code  # None for a child that still ran; -N for death by signal N
        self.cpu_seconds = cpu_seconds  # processor time that the request had used
        self.own_doing = exit_code is not None and -exit_code in OWN_SIGNALS


class Child:
    """One process; it is started at its first request, and again after it has failed."""

    def __init__(
        self,
        argv: Sequence[str],
        hello: Any = None,
        warm_up: tuple[Any, float] | None = None,
    ) -> None:
        self.argv = list(argv)
        self.hello = hello  # a first line for a new process, which does not answer it
        self.warm_up = warm_up  # (a first question, seconds for its answer): slow imports end here
        self.process: subprocess.Popen[bytes] | None = None
        self.requests = 0  # since the process was started

    def ask(self, value: Any, seconds: float) -> Any:
        """The answer within `seconds`, or ChildFailed and no process any more."""
        if self.process is not None and self.process.poll() is not None:
            self.stop()  # it died idle: no fault of this request
        if self.process is None:
            self._start()
        self.requests += 1
        return self._exchange(value, seconds)

    def _start(self) -> None:
        self.process = subprocess.Popen(
            self.argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        )
        assert self.process.stdin is not None
        os.set_blocking(self.process.stdin.fileno(), False)
        self.requests = 0
        if self.hello is not None:
            self._exchange(self.hello, 10.0, answered=False)
        if self.warm_up is not None:
            self._exchange(*self.warm_up)

    def _exchange(self, value: Any, seconds: float, answered: bool = True) -> Any:
        """Sends a line and, if it is `answered`, reads one; a failure ends the process."""
        process = self.process
        assert process is not None
        used, end = cpu_seconds(process.pid), time.monotonic() + seconds
        try:
            self._send(process, value, end)
            return json.loads(self._receive(process, end)) if answered else None
        except (OSError, ValueError, RecursionError) as error:
            spent = cpu_seconds(process.pid) - used
            if isinstance(error, EOFError | OSError) and not isinstance(error, TimeoutError):
                _settle(process)
            code = process.poll()
            self.stop()
            raise ChildFailed(str(error), code, spent) from error

    def _send(self, process: subprocess.Popen[bytes], value: Any, end: float) -> None:
        assert process.stdin is not None
        data, writer = memoryview(json.dumps(value).encode() + b"\n"), process.stdin.fileno()
        while data:
            _, ready, _ = select.select([], [writer], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise TimeoutError("the child does not read")
            data = data[os.write(writer, data) :]

    def _receive(self, process: subprocess.Popen[bytes], end: float) -> bytes:
        assert process.stdout is not None
        reader, line = process.stdout.fileno(), bytearray()
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([reader], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise TimeoutError("no answer in time")
            chunk = os.read(reader, 1 << 16)
            if not chunk:
                raise OSError("the child died")
            line += chunk
            if len(line) > LINE_LIMIT:
                raise ValueError("the child's answer is too long")
        return bytes(line)

    def stop(self) -> None:
        """Closes its input, then TERM, then KILL of its whole session; reaps it."""
        process, self.process = self.process, None
        if process is None:
            return
        assert process.stdin is not None and process.stdout is not None
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


def _settle(process: subprocess.Popen[bytes]) -> None:
    """Waits a moment for the exit code of a process that has closed its pipes."""
    try:
        process.wait(timeout=1)
    except subprocess.TimeoutExpired:
        pass


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used, its waited-for children included; 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


class ChildPool:
    """`size` children, lent one at a time, each replaced after `recycle` requests. Thread-safe."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        size: int,
        recycle: int | None = None,
        hello: Any = None,
        warm_up: tuple[Any, float] | None = None,
    ) -> None:
        self.children = [Child(argv, hello, warm_up) for _ in range(size)]
        self.recycle = recycle
        self._idle: queue.SimpleQueue[Child] = queue.SimpleQueue()
        for child in self.children:
            self._idle.put(child)
        self.close = weakref.finalize(self, _stop_all, self.children)  # also runs at exit

    @contextmanager
    def lend(self) -> Iterator[Child]:
        """A child for the time of the block; waits for an idle one."""
        child = self._idle.get()
        try:
            yield child
        finally:
            if self.recycle is not None and child.requests >= self.recycle:
                child.stop()
            self._idle.put(child)

    def ask(self, value: Any, seconds: float) -> Any:
        """The answer of whichever child is free next (waits for one); may raise ChildFailed."""
        with self.lend() as child:
            return child.ask(value, seconds)


def _stop_all(children: Sequence[Child]) -> None:
    for child in children:
        child.stop()
