"""What every stage writes and shows while it trains: one place for meters, displays and traces."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from qwen3.train.display import Display
from qwen3.train.loop import Hook
from qwen3.train.metrics import Meter, MetricsFile, TensorBoard
from qwen3.train.profile import Profile
from qwen3.train.workdir import Workdir


@dataclass(frozen=True)
class Log:
    """every: steps per record of metrics.jsonl. display: a live table or lines on stderr.
    tensorboard: events in the workdir too. peak_flops: of one device, for MFU (0: not written).
    profile: (first, last) steps to trace; `kill -USR1 <pid>` traces three more at any time.
    """

    every: int = 10
    display: bool = True
    tensorboard: bool = False
    peak_flops: float = 0.0
    profile: tuple[int, ...] = ()


@contextlib.contextmanager
def recording_hooks(
    work: Workdir,
    log: Log,
    *,
    stage: str,
    step: int,
    until: int,
    tokens_per_step: int,
    flops_per_token: float = 0.0,
    derived: Mapping[str, Callable[[int], Any]] | None = None,
) -> Iterator[list[Hook]]:
    """The hooks that record steps `step` + 1 to `until` of `stage`, closed at the end.

    derived: name -> function of the step, written into each record (the learning rate).
    """
    with contextlib.ExitStack() as closing:
        writers = []
        if jax.process_index() == 0:
            writers.append(MetricsFile(work.metrics))
            if log.display:
                writers.append(Display(stage=stage, until=until))
            if log.tensorboard:
                writers.append(TensorBoard(work.path / "tensorboard", step=step))
        profile = Profile(work.path / "profile", steps=log.profile)
        for each in (*writers, profile):
            closing.callback(each.close)
        meter = Meter(
            writers,
            every=log.every,
            tokens_per_step=tokens_per_step,
            flops_per_token=flops_per_token,
            peak_flops=log.peak_flops * jax.device_count(),
            derived=derived,
            labels={"stage": stage},
        )
        yield [meter.hook(), profile.hook()]
