"""Preemption notices: leave in good order on SIGTERM or SIGINT, all processes at the same step."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

STOPPED = 42  # exit code of a run that saved and left and wants to be started again


class Stopped(SystemExit):
    """The run was told to leave and has saved at `step`; uncaught, it is exit code 42."""

    def __init__(self, step: int) -> None:
        super().__init__(STOPPED)
        self.step = step


class _Requests:
    """Remembers the stop signal that came; `name` is "" until one does."""

    def __init__(self) -> None:
        self.name = ""

    def note(self, number: int, frame: object) -> None:
        self.name = signal.Signals(number).name
        # A second Ctrl-C must work as usual.
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def reached(self, step: int) -> bool:
        """Whether to leave after this step."""
        return bool(self.name)


class _Preemption(_Requests):
    """JAX's preemption service: a SIGTERM to any process makes all of them agree on one step.

    The service catches SIGTERM itself, and a Python handler set after jax.distributed.initialize
    would silence it. Ctrl-C is passed on to it as a SIGTERM.
    """

    def note(self, number: int, frame: object) -> None:
        super().note(number, frame)
        os.kill(os.getpid(), signal.SIGTERM)

    def reached(self, step: int) -> bool:
        stop = multihost_utils.reached_preemption_sync_point(step)
        self.name = self.name or ("SIGTERM" if stop else "")
        return stop


@contextlib.contextmanager
def stop_requests() -> Iterator[_Requests]:
    """Note stop signals in place of dying by them, until the block ends."""
    distributed = jax.distributed.is_initialized()
    requests = _Preemption() if distributed else _Requests()
    signals = [signal.SIGINT] if distributed else [signal.SIGINT, signal.SIGTERM]
    # Only the main thread may set handlers; elsewhere the embedding program decides.
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, requests.note) for number in signals} if main else {}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
