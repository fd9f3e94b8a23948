"""Checkpoints by time: the step at which the next one is due, the same in all processes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from qwen3 import hosts


def check_minutes(minutes: float) -> None:
    """Raise ValueError for what is no time between checkpoints."""
    if not 0 <= minutes < math.inf:
        raise ValueError(
            f"save_minutes {minutes}: wanted the minutes between checkpoints, or 0 for none by time"
        )


class SaveTimes:
    """due(step): whether `minutes` have passed since the last save; 0: never.

    The clock of process 0 decides for all. As that takes a message to every host, process 0 also
    says when it wants to be asked next: half-way to the time, by the slowest steps so far.
    """

    def __init__(self, minutes: float, clock: Callable[[], float] = time.monotonic) -> None:
        check_minutes(minutes)
        self._period, self._clock = 60 * minutes, clock
        self._saved_at = clock()  # seconds
        self._asked_at, self._asked_step = self._saved_at, -1  # -1: not yet
        self._aside = _aside()
        self._slowest = 0.0  # seconds of a step
        self._next = 0  # step at which process 0 is asked again
        self._due = 0  # the last step that a checkpoint was due at

    def due(self, step: int) -> bool:
        """Whether to save after `step`; all processes ask alike, any number of times a step."""
        if self._period and step >= self._next:
            pause = int(hosts.decided(lambda: self._pause(step)))
            self._next = step + max(1, pause)
            self._due = self._due if pause else step
        return bool(self._period) and step == self._due

    def saved(self, step: int) -> None:
        """A checkpoint has been written, for whatever reason: the time begins anew."""
        self._saved_at, self._next = self._clock(), step + 1

    def _pause(self, step: int) -> str:
        """Steps until the next question, "0" if a checkpoint is due now; in process 0."""
        now, aside = self._clock(), _aside()
        spent = now - self._asked_at - (aside - self._aside)
        steps = step - self._asked_step if self._asked_step >= 0 else 1
        self._slowest = max(self._slowest, spent / max(1, steps))
        self._asked_at, self._asked_step, self._aside = now, step, aside
        left = self._saved_at + self._period - now
        return str(max(1, int(left / 2 / max(self._slowest, 1e-6)))) if left > 0 else "0"


def _aside() -> float:
    """Seconds of this process that went into no step."""
    return sum(hosts.spent.get(kind, 0.0) for kind in ("compile", "save", "restore"))
