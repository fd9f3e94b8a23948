"""Calls with a time limit that neither stall the engine nor each other: each in its own thread.

Python cannot end a thread: a call that hangs is given up, and its thread lives until the process
ends. Code of a model runs in processes that can be killed (`qwen3.sandbox`).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any


class TimedCall:
    """A function in a thread of its own, from `start` on."""

    def __init__(self, function: Callable[[], Any], seconds: float):
        self._function, self._seconds = function, seconds
        self.future: Future[Any] = Future()
        self._deadline = float("inf")

    def start(self) -> None:
        """Begin; the time limit counts from here."""
        self._deadline = time.monotonic() + self._seconds
        threading.Thread(target=self._run, daemon=True, name="environment").start()

    def _run(self) -> None:
        try:
            result = self._function()
        except BaseException as error:
            self._end(self.future.set_exception, error)
        else:
            self._end(self.future.set_result, result)

    def _end(self, how: Callable[[Any], None], value: Any) -> None:
        if self.future.set_running_or_notify_cancel():
            how(value)

    @property
    def seconds_left(self) -> float:
        """Seconds to the time limit, 0 where it has passed."""
        return max(0.0, self._deadline - time.monotonic())

    @property
    def over(self) -> bool:
        """Whether it has ended or is out of time."""
        return self.future.done() or self.seconds_left == 0.0

    def result(self) -> Any:
        """What the function returned, waited for up to its limit. Raises what the function raised,
        and TimeoutError beyond the limit.
        """
        wait([self.future], timeout=self.seconds_left)
        if self.future.done() or not self.future.cancel():
            return self.future.result()
        raise TimeoutError(f"no answer within {self._seconds:g} s")


class CallPool:
    """Calls that run beside the engine, at most `workers` at a time, in the order they came."""

    def __init__(self, workers: int):
        self._workers = workers
        self._waiting: deque[tuple[Any, TimedCall]] = deque()
        self._running: list[tuple[Any, TimedCall]] = []

    def __len__(self) -> int:
        return len(self._waiting) + len(self._running)

    def add(self, owner: Any, call: TimedCall) -> None:
        """Run a call as soon as a worker is free."""
        self._waiting.append((owner, call))
        self._fill()

    def _fill(self) -> None:
        while self._waiting and len(self._running) < self._workers:
            self._running.append(self._waiting.popleft())
            self._running[-1][1].start()

    def finished(self, *, block: bool) -> list[tuple[Any, TimedCall]]:
        """The calls that are over, in the order they came. block: wait for one if there is any."""
        if block and self._running:
            seconds = min(call.seconds_left for _, call in self._running)
            futures = [call.future for _, call in self._running]
            wait(futures, timeout=seconds, return_when=FIRST_COMPLETED)
        over = {id(call) for _, call in self._running if call.over}
        finished = [pair for pair in self._running if id(pair[1]) in over]
        self._running = [pair for pair in self._running if id(pair[1]) not in over]
        self._fill()
        return finished
