"""SIGTERM where nothing has to be saved: while a run starts, between its stages, at its end.

Without jax, so that a program can be ready for the signal before it imports it. Three handlers
follow each other: `answer_sigterm`'s from the program's first line to its last moment, in a run
that of `leaving_at_once`, and where something is to be saved that of `preemption`.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

STOPPED = 42  # exit code of a run that saved and left and wants to be started again
AGAIN = 0.05  # seconds until a signal that came during an import comes again


class Stopped(SystemExit):
    """The run was told to leave and has saved at `step`; uncaught, it is exit code 42.

    step: 0 where no training loop was under way.
    """

    def __init__(self, step: int = 0) -> None:
        super().__init__(STOPPED)
        self.step = step


class Notice:
    """What a process in `leaving_at_once` knows of stop signals."""

    name = ""  # of the one that came there; "" until one comes
    begun = False  # whether there has been anything to save: a block of `preemption`
    leaving = False  # whether such a block got a signal, and what it interrupted has been saved

    @classmethod
    def forget(cls) -> None:
        cls.name, cls.begun, cls.leaving = "", False, False


def answer_sigterm() -> None:
    """Let SIGTERM end this program with exit code 42, at once and to its last moment.

    For programs alone, as the first thing that they do: nothing is to be saved while they import,
    nor once they have left their run. A handler that somebody has set stays.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _end)
        # Registered first, called last. While Python is taken down there are no handlers any more.
        atexit.register(signal.signal, signal.SIGTERM, signal.SIG_IGN)


def is_script() -> bool:
    """Whether this program is a file given to python, such as an experiment.

    Not so in a notebook, under pytest, and in processes that multiprocessing starts.
    """
    program = sys.modules["__main__"]
    return program.__spec__ is None and str(getattr(program, "__file__", "")).endswith(".py")


@contextlib.contextmanager
def leaving_at_once() -> Iterator[None]:
    """Let SIGTERM raise Stopped (exit code 42) at once, but where `preemption` notes it.

    On several processes JAX's preemption service takes over as soon as they have joined.
    """
    # Only the main thread may set handlers; elsewhere the embedding program decides.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    Notice.forget()
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        yield
        # Python drops what a handler raises while a finaliser runs; the notice is still there.
        if Notice.name:
            raise Stopped
    finally:
        signal.signal(signal.SIGTERM, before)
        Notice.forget()


def tell(name: str) -> None:
    """One line on stderr, past Python's streams, which a handler may find in use."""
    line = f"stopped by {name}; start again to go on (exit code {STOPPED})\n"
    with contextlib.suppress(OSError):  # closed, or on a full disk
        os.write(2, line.encode())


def _end(number: int, frame: object) -> None:
    tell(signal.Signals(number).name)
    os._exit(STOPPED)


def _leave(number: int, frame: FrameType | None) -> None:
    # Supervisors repeat the signal; a second one must not cut short the leaving.
    if Notice.name or Notice.leaving:
        return
    if _importing(frame):
        # What is raised while native code is loaded aborts the process (numpy, jaxlib).
        if not Notice.begun:
            _end(number, frame)
        again = threading.Timer(AGAIN, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()
        return
    Notice.name = signal.Signals(number).name
    tell(Notice.name)
    raise Stopped


def _importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported in this frame or in one that called it."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False
