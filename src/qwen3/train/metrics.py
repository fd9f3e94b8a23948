"""Metrics of a run: JSON lines, TensorBoard, tokens per second and MFU."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TextIO

import jax
import numpy as np
from etils import epath

from qwen3.data import jsonl
from qwen3.train import across
from qwen3.train.loop import Hook
from qwen3.train.writing import explained

Record = Mapping[str, float | str]
MEASURED = "eval/"  # how names of metrics begin that an evaluation adds at some steps


class RecordWriter(Protocol):
    """Where records go: a file, TensorBoard, the display."""

    def write(self, step: int, values: Record) -> None: ...

    def close(self) -> None: ...


class MetricsFile:
    """One JSON object a line, flushed line by line: a kill loses none that was written.

    On object stores, which cannot append, the whole file is written every `period` seconds.
    Raises WorkdirError, one line, where it cannot be written (disk full, say).
    """

    def __init__(self, path: Any, *, period: float = 30.0) -> None:
        self._path, self._period = epath.Path(path), period
        self._remote = "://" in str(path)
        self._lines = self._path.read_text() if self._remote and self._path.exists() else ""
        self._written = time.monotonic()
        self._stream: TextIO | None = None
        if not self._remote:
            with explained(self._path):
                self._stream = open(str(path), "a", encoding="utf-8")

    def write(self, step: int, values: Record) -> None:
        line = jsonl.line({"step": step, **{k: _json(v) for k, v in values.items()}})
        if self._stream is not None:
            with explained(self._path):
                self._stream.write(line)
                self._stream.flush()
            return
        self._lines += line
        if time.monotonic() - self._written > self._period:
            self.flush()

    def flush(self) -> None:
        if self._remote:
            with explained(self._path):
                self._path.write_text(self._lines)
            self._written = time.monotonic()

    def close(self) -> None:
        self.flush()
        if self._stream is not None:
            with explained(self._path):
                self._stream.close()


class TensorBoard:
    """Scalars as TensorBoard events; those after `step`, which a killed run left, are dropped.

    Needs tensorboardX (pip install "qwen3[tensorboard]"); ImportError says so.
    """

    def __init__(self, directory: Any, *, step: int = 0) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ImportError('TensorBoard needs pip install "qwen3[tensorboard]"') from error
        self._writer = SummaryWriter(str(directory), purge_step=step + 1 if step else None)

    def write(self, step: int, values: Record) -> None:
        for name, value in values.items():
            if isinstance(value, (int, float)):
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class Meter:
    """Condenses the metrics of every step into one record per `every` steps, for the writers.

    A step that was measured, whose metrics hold an "eval/..." value, has a record too. A record
    holds the metrics of its own step (so that a resumed run writes the same ones), what `derived`
    {name: function of the step} adds (the learning rate), the `labels` (the stage's name), and of
    the steps since the last record: "tokens_per_second", "seconds" per step, "input_wait" (share of
    the time) and "mfu" (model FLOPs utilisation: tokens/s *
    flops_per_token / peak_flops of all devices together; absent if no peak is given).
    The tokens of a step are its metric "trained_tokens", or else `tokens_per_step`.
    initial: what was measured before any step was taken, the record of step `first`; {} for
    nothing.
    Raises FloatingPointError when the loss is not finite and no spike skipping took care of it.
    """

    def __init__(
        self,
        writers: Sequence[Any],
        *,
        every: int,
        tokens_per_step: int = 0,
        flops_per_token: float = 0.0,
        peak_flops: float = 0.0,
        derived: Mapping[str, Callable[[int], Any]] | None = None,
        labels: Mapping[str, str] | None = None,
        initial: Mapping[str, float] | None = None,
        first: int = 0,
    ) -> None:
        self._writers, self._every, self._tokens_per_step = writers, every, tokens_per_step
        self._flops = flops_per_token / peak_flops if peak_flops else 0.0
        self._derived, self._labels = dict(derived or {}), dict(labels or {})
        self._steps, self._tokens, self._seconds, self._wait = 0, 0.0, 0.0, 0.0
        if initial:
            self._write(first, {**initial, **self._labels})

    def hook(self) -> Hook:
        return Hook(self, late=True)

    def __call__(self, step: int, state: object, metrics: dict[str, Any]) -> None:
        self._steps += 1
        self._tokens += float(metrics.get("trained_tokens", self._tokens_per_step))
        self._seconds += metrics["seconds"]
        self._wait += metrics["input_wait"]
        if not np.isfinite(metrics["loss"]) and not metrics.get("skipped", 0):
            raise FloatingPointError(f"the loss is {float(metrics['loss'])} at step {step}")
        if step % self._every and not any(name.startswith(MEASURED) for name in metrics):
            return
        # Vectors, such as expert counts, are for hooks alone: a record holds scalars.
        record: dict[str, float | str] = {
            name: float(value) for name, value in metrics.items() if np.ndim(value) == 0
        }
        with across.alone():
            # Step n was taken at the rate of the schedule's place n - 1.
            record |= {name: float(function(step - 1)) for name, function in self._derived.items()}
        self._write(step, {**record, **self._labels, **self._speed()})
        self._steps, self._tokens, self._seconds, self._wait = 0, 0.0, 0.0, 0.0

    def _write(self, step: int, record: Record) -> None:
        if jax.process_index() == 0:
            for writer in self._writers:
                writer.write(step, record)

    def _speed(self) -> dict[str, float]:
        rate = self._tokens / max(self._seconds, 1e-9)
        speed = {
            "seconds": self._seconds / self._steps,
            "input_wait": self._wait / max(self._seconds, 1e-9),
            "tokens_per_second": rate,
        }
        return {**speed, "mfu": rate * self._flops} if self._flops else speed


def _json(value: float | str) -> float | str:
    """Numbers with 7 digits; NaN and infinity as text, since JSON knows neither."""
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else str(value)
    return value
