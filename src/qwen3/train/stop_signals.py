"""SIGTERM where nothing has to be saved: while a run starts, between its stages, at its end.

Without jax, so that a command can be ready for the signal before it imports it.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator

log = logging.getLogger("qwen3")

STOPPED = 42  # exit code of a run that saved and left and wants to be started again


class Stopped(SystemExit):
    """The run was told to leave and has saved at `step`; uncaught, it is exit code 42.

    step: 0 where no training loop was under way.
    """

    def __init__(self, step: int = 0) -> None:
        super().__init__(STOPPED)
        self.step = step


class Notice:
    """The stop signal that this process got in `leaving_at_once`; "" until one comes."""

    name = ""


@contextlib.contextmanager
def leaving_at_once() -> Iterator[None]:
    """Let SIGTERM raise Stopped (exit code 42) at once, but where `preemption` notes it.

    On several processes JAX's preemption service takes over as soon as they have joined.
    """
    # Only the main thread may set handlers; elsewhere the embedding program decides.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    Notice.name = ""
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        yield
        # Python drops what a handler raises while a finaliser runs; the notice is still there.
        if Notice.name:
            raise Stopped
    except Stopped as stopped:
        if not stopped.step:
            log.warning("stopped by SIGTERM; start again to go on (exit code %d)", STOPPED)
        raise
    finally:
        Notice.name = ""
        signal.signal(signal.SIGTERM, before)


def _leave(number: int, frame: object) -> None:
    # Supervisors repeat the signal; a second one must not cut short the leaving.
    if not Notice.name:
        Notice.name = signal.Signals(number).name
        raise Stopped
