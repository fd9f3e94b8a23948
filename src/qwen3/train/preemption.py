"""Preemption notices: finish the step on SIGTERM or SIGINT and leave, all processes together.

In the long phases between two steps (rollouts, evaluation) it is the block of tokens or rows that
is finished: `hosts.alive`, which they call between blocks, raises Stopped.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

from qwen3 import hosts
from qwen3.train.stop_signals import STOPPED, Notice, Stopped, tell

__all__ = ["STOPPED", "Stopped", "stop_requests"]


_questions = itertools.count(1)


class _Requests:
    """Remembers the stop signal that came; `name` is "" until one does."""

    block: _Requests | None = None  # of the `stop_requests` block that the main thread is in

    def __init__(self, name: str = "") -> None:
        self.name = name

    def note(self, number: int, frame: object) -> None:
        self.name = signal.Signals(number).name
        # A second Ctrl-C must work as usual.
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def reached(self, step: int) -> bool:
        """Whether to leave after this step."""
        return self.told()

    def told(self) -> bool:
        """Whether to leave here. All processes ask alike."""
        return bool(self.name)

    def finish(self) -> None:
        """Raise Stopped if a signal came that the block did not act upon."""
        if self.name:
            tell(self.name)
            raise Stopped


class _Preemption(_Requests):
    """JAX's preemption service: a SIGTERM to any process makes all of them agree on one step.

    The service catches SIGTERM itself, and a Python handler set after jax.distributed.initialize
    would silence it. Ctrl-C is passed on to it as a SIGTERM.
    """

    def note(self, number: int, frame: object) -> None:
        super().note(number, frame)
        os.kill(os.getpid(), signal.SIGTERM)

    def told(self) -> bool:
        # The service agrees on a number of questions that no process has asked yet.
        stop = multihost_utils.reached_preemption_sync_point(next(_questions))
        self.name = self.name or ("SIGTERM" if stop else "")
        return stop

    def finish(self) -> None:
        """Go on: the service remembers the notice, and all leave together in the next loop."""


@contextlib.contextmanager
def stop_requests() -> Iterator[_Requests]:
    """Note stop signals in place of dying by them, until the block ends.

    Stopped is raised at the end if one came that the block did not act upon. A block inside
    another one shares its requests and leaves acting to it.
    """
    Notice.begun = True
    distributed = jax.distributed.is_initialized()
    requests = _Preemption() if distributed else _Requests(Notice.name)
    # Only the main thread may set handlers; elsewhere the embedding program decides.
    if threading.current_thread() is not threading.main_thread():
        yield requests
        return
    if _Requests.block is not None:
        yield _Requests.block
        return
    signals = [signal.SIGINT] if distributed else [signal.SIGINT, signal.SIGTERM]
    before = {number: signal.signal(number, requests.note) for number in signals}
    _Requests.block = requests
    try:
        yield requests
    finally:
        _Requests.block = None
        Notice.leaving = Notice.leaving or bool(requests.name)
        for number, handler in before.items():
            signal.signal(number, handler)
    requests.finish()


def _leave_between_blocks() -> None:
    """Raise Stopped in a long phase, where a signal has come."""
    if threading.current_thread() is not threading.main_thread():
        return
    requests = _Requests.block
    if requests is None and jax.distributed.is_initialized():
        requests = _Preemption()  # before the first step: signals do not end this process
    if requests is not None and requests.told():
        raise Stopped


hosts.between_blocks.append(_leave_between_blocks)
