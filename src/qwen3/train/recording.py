"""What every stage writes and shows while it trains: metrics, the display, profiler traces."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from qwen3.train.display import Display
from qwen3.train.loop import Hook
from qwen3.train.metrics import Meter, MetricsFile, RecordWriter, TensorBoard
from qwen3.train.profile import Profile
from qwen3.train.run_record import add_run_record
from qwen3.train.trackers import Tracker, check
from qwen3.train.workdir import Workdir


@dataclass(frozen=True)
class Log:
    """What a run records; it may change when the run goes on."""

    every: int = 10  # steps per record of metrics.jsonl
    display: bool = True  # a live table (or lines, without a terminal) on stderr
    tensorboard: bool = False  # TensorBoard events in the workdir too
    track: tuple[str, ...] = ()  # "wandb", "trackio": send the records there too
    peak_flops: float = 0.0  # FLOPs a second of one device, for MFU; 0: MFU is not recorded
    profile: tuple[int, ...] = ()  # (first, last) step to trace; SIGUSR1 traces three at any time

    def __post_init__(self) -> None:
        check(self.track)


@contextlib.contextmanager
def recording_hooks(
    work: Workdir,
    log: Log,
    *,
    stage: str,
    step: int,
    until: int,
    tokens_per_step: int = 0,
    flops_per_token: float = 0.0,
    derived: Mapping[str, Callable[[int], Any]] | None = None,
    initial: Mapping[str, float] | None = None,
) -> Iterator[list[Hook]]:
    """The hooks that record steps `step` + 1 to `until` of `stage`; files are closed at the end.

    tokens_per_step: of each step, where its metrics do not count "trained_tokens".
    derived: name -> function of the step, whose value goes into each record (the learning rate).
    initial: what was measured at `step`, before any step is taken.
    """
    with contextlib.ExitStack() as closing:
        writers: list[RecordWriter] = []
        if jax.process_index() == 0:
            add_run_record(work.path)
            writers.append(MetricsFile(work.metrics))
            if log.display:
                writers.append(Display(stage=stage, until=until))
            if log.tensorboard:
                writers.append(TensorBoard(work.path / "tensorboard", step=step))
            for name in log.track:
                writers.append(Tracker(name, work.path, work.config, resumed=step > 0))
        profile = Profile(work.path / "profile", steps=log.profile)
        for writer in writers:
            closing.callback(writer.close)
        closing.callback(profile.close)
        meter = Meter(
            writers,
            every=log.every,
            tokens_per_step=tokens_per_step,
            flops_per_token=flops_per_token,
            peak_flops=log.peak_flops * jax.device_count(),
            derived=derived,
            labels={"stage": stage},
            initial=initial,
            first=step,
        )
        yield [meter.hook(), profile.hook()]
