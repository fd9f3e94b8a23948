"""The training loop: batch, step, hooks. It waits for the device only if a hook needs the state."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from qwen3 import hosts
from qwen3.train.preemption import STOPPED, Stopped, stop_requests
from qwen3.train.prefetch import Prefetch
from qwen3.train.state import TrainState

log = logging.getLogger("qwen3")

# (step, state, metrics); the state is a TrainState, or None for a late hook.
HookFunction = Callable[[int, Any, dict[str, Any]], None]
TrainStep = Callable[[TrainState, Any, Any], tuple[TrainState, dict[str, Any]]]


@dataclass(frozen=True)
class Hook:
    """What happens beside training: recording, evaluation, saving.

    Hooks run in their order and share the metrics; those that measure come first, and what they put
    into theirs, all others see: a record, a save. A plain function is `Hook(function)`.
    """

    call: HookFunction
    every: int = 1  # steps between calls; a call sees the state of its step, which the loop awaits
    late: bool = False  # metrics only (state None), while the next step runs: no device waits
    last: bool = False  # called also when the loop ends or is stopped (save)
    measures: bool = False  # evaluates the state; its metrics are {}, to be filled
    also: Callable[[int], bool] = lambda step: False  # further steps that it is called after

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"a hook cannot run every {self.every} steps; at least 1 is needed")

    def due(self, step: int, leaving: bool) -> bool:
        return step % self.every == 0 or (leaving and self.last) or self.also(step)


class _StepRecord(NamedTuple):
    """One step as hooks see it; metrics may still be computed on the device."""

    step: int
    metrics: dict[str, Any]
    times: dict[str, float]
    leaving: bool


def train(
    state: TrainState,
    step: TrainStep,
    source: Any,
    *,
    frozen: Any = (),
    until: int,
    hooks: Sequence[Hook | HookFunction] = (),
) -> TrainState:
    """Train from `state.step` to step `until`; returns the last state (the first is donated).

    `source` is a callable, batch = source(state), or indexed by the step, batch = source[step];
    an indexed one is read one batch ahead in a thread. Batch number n makes step n + 1.
    Hooks get metrics as numpy values, with "seconds" (wall time of the step) and "input_wait"
    (seconds of it spent waiting for the batch) added. Order: measuring hooks, late hooks, the
    others.

    SIGTERM (a preemption notice) or SIGINT: the step is finished, the `last` hooks run, and
    Stopped (exit code 42) is raised; on several processes all leave at the same step. Exceptions
    of source and hooks pass.
    """
    every_hook = [hook if isinstance(hook, Hook) else Hook(hook) for hook in hooks]
    late_hooks = [hook for hook in every_hook if hook.late]
    measuring = [hook for hook in every_hook if hook.measures]
    state_hooks = [hook for hook in every_hook if not hook.late]
    taken = int(state.step)
    prefetch = None if callable(source) else Prefetch(source, taken, until)
    previous: _StepRecord | None = None
    clock = time.perf_counter()
    try:
        with stop_requests() as stop:
            while taken < until:
                start_of_wait = time.perf_counter()
                batch = source(state) if prefetch is None else prefetch.next()
                input_wait = time.perf_counter() - start_of_wait
                with jax.profiler.StepTraceAnnotation("step", step_num=taken):
                    state, metrics = step(state, batch, frozen)
                taken += 1
                # The device is busy with this step: now is the time for hooks of the one before.
                if previous:
                    _call(late_hooks, previous, None)
                stopped = stop.reached(taken)
                now = time.perf_counter()
                times = {"seconds": now - clock, "input_wait": input_wait}
                clock = now
                hosts.heartbeat(taken, **times)
                record = _StepRecord(taken, metrics, times, stopped or taken == until)
                if record.leaving or any(hook.due(taken, False) for hook in state_hooks):
                    record = _measured(measuring, record, state)
                    _call(late_hooks, record, None)
                    _call([hook for hook in state_hooks if not hook.measures], record, state)
                    previous = None
                else:
                    previous = record
                if stopped:
                    _log_stop(stop.name, taken)
                    raise Stopped(taken)
    finally:
        if prefetch is not None:
            prefetch.close()
    return state


def _measured(hooks: Sequence[Hook], record: _StepRecord, state: TrainState) -> _StepRecord:
    """The record with what the measuring hooks that are due say of the state."""
    values: dict[str, Any] = {}
    for hook in hooks:
        if hook.due(record.step, record.leaving):
            hook.call(record.step, state, values)
    return record._replace(metrics={**record.metrics, **values})


def _call(hooks: Sequence[Hook], record: _StepRecord, state: TrainState | None) -> None:
    due = [hook for hook in hooks if hook.due(record.step, record.leaving)]
    if due:
        metrics = {**jax.device_get(record.metrics), **record.times}
        for hook in due:
            hook.call(record.step, state, metrics)


def _log_stop(name: str, step: int) -> None:
    log.warning(
        "stopped by %s after step %d; start again to go on from the last checkpoint (exit code %d)",
        name,
        step,
        STOPPED,
    )
