"""Profiler traces on demand: for steps named beforehand, or when SIGUSR1 arrives."""

from __future__ import annotations

import logging
import signal
import threading
from typing import Any

import jax

from qwen3.train.loop import Hook

log = logging.getLogger("qwen3")


class Profile:
    """Traces of a few steps under `directory`, for TensorBoard or Perfetto.

    `steps` (first, last): trace from the end of step `first` to the end of step `last`; () for
    none. `kill -USR1 <pid>` traces the next `length` steps of a running process. Raises
    ValueError when the last step is not after the first.
    """

    def __init__(self, directory: Any, *, steps: tuple[int, ...] = (), length: int = 3) -> None:
        if len(steps) not in (0, 2) or (steps and steps[0] >= steps[1]):
            raise ValueError(f"profile steps {steps} are neither () nor (first, later)")
        self._directory, self._steps, self._length = str(directory), steps, length
        self._signalled = False  # SIGUSR1 came and no trace has begun yet
        self._ends = 0  # last step of the trace under way, 0 if there is none
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGUSR1, self._note)

    def hook(self) -> Hook:
        return Hook(self, late=True, last=True)

    def __call__(self, step: int, state: object, metrics: dict[str, Any]) -> None:
        if self._ends:
            if step >= self._ends:
                self.close()
        elif self._signalled or (self._steps and step == self._steps[0]):
            self._ends = step + self._length if self._signalled else self._steps[1]
            self._signalled = False
            jax.profiler.start_trace(self._directory)

    def close(self) -> None:
        """End a trace under way."""
        if self._ends:
            jax.profiler.stop_trace()
            log.warning("profile of the steps up to %d in %s", self._ends, self._directory)
            self._ends = 0

    def _note(self, number: int, frame: object) -> None:
        self._signalled = True
