"""The training loop: batch, step, hooks. It waits for the device only if a hook needs the state."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from qwen3 import hosts
from qwen3.train import across
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

    SIGTERM (a preemption notice) or SIGINT: the step is finished, or the block of rollouts or of
    an evaluation is, whose phase is then begun anew by the next start; the `last` hooks run, and
    Stopped (exit code 42) is raised. On several processes all leave at the same place. Other
    exceptions of source and hooks pass.
    """
    seen = _Hooks(hooks)
    taken = state.steps
    prefetch = None if callable(source) else Prefetch(source, taken, until)
    clock = time.perf_counter()
    with stop_requests() as stop:
        try:
            while taken < until:
                start_of_wait = time.perf_counter()
                batch = source(state) if prefetch is None else prefetch.next()
                input_wait = time.perf_counter() - start_of_wait
                with jax.profiler.StepTraceAnnotation("step", step_num=taken):
                    state, metrics = step(state, batch, frozen)
                taken += 1
                # The device is busy with this step: now is the time for hooks of the one before.
                seen.catch_up()
                stopped = stop.reached(taken)
                now = time.perf_counter()
                times = {"seconds": now - clock, "input_wait": input_wait}
                clock = now
                hosts.heartbeat(taken, **times)
                seen.after(_StepRecord(taken, metrics, times, stopped or taken == until), state)
                if stopped:
                    raise Stopped
        except Stopped:
            # Told in the midst of rollouts or of an evaluation: the last step is still to be saved.
            seen.leave(state)
            _log_stop(stop.name, taken)
            raise Stopped(taken) from None
        finally:
            if prefetch is not None:
                prefetch.close()
    return state


class _Hooks:
    """The hooks of a loop, and which of them have seen its last step."""

    def __init__(self, hooks: Sequence[Hook | HookFunction]) -> None:
        every = [hook if isinstance(hook, Hook) else Hook(hook) for hook in hooks]
        self._late = [hook for hook in every if hook.late]
        self._measuring = [hook for hook in every if hook.measures]
        self._others = [hook for hook in every if not (hook.late or hook.measures)]
        self._record: _StepRecord | None = None  # of the last step
        self._called: set[int] = set()  # ids of the hooks that have seen it

    def after(self, record: _StepRecord, state: TrainState) -> None:
        """Call the hooks that are due; the late ones wait for the next step where they can."""
        self._record, self._called = record, set()
        due = [*self._due(self._measuring, record), *self._due(self._others, record)]
        if due or record.leaving:
            self._measure(record, state)
            self._call(self._late, None)
            self._call(self._others, state)

    def catch_up(self) -> None:
        """Call the late hooks, unless they have seen the last step."""
        self._call(self._late, None)

    def leave(self, state: TrainState) -> None:
        """Call what is due where a loop ends and has not seen the last step; nothing measures."""
        if self._record is not None:
            self._record = self._record._replace(leaving=True)
            self._call(self._late, None)
            self._call(self._others, state)

    def _measure(self, record: _StepRecord, state: TrainState) -> None:
        """Add to the record what the measuring hooks that are due say of the state."""
        values: dict[str, Any] = {}
        for hook in self._due(self._measuring, record):
            hook.call(record.step, state, values)
        self._record = record._replace(metrics={**record.metrics, **values})

    def _call(self, hooks: Sequence[Hook], state: TrainState | None) -> None:
        record = self._record
        due = self._due(hooks, record) if record is not None else []
        if record is not None and due:
            metrics = {**across.read(record.metrics), **record.times}
            for hook in due:
                self._called.add(id(hook))
                hook.call(record.step, state, metrics)

    def _due(self, hooks: Sequence[Hook], record: _StepRecord) -> list[Hook]:
        unseen = (hook for hook in hooks if id(hook) not in self._called)
        return [hook for hook in unseen if hook.due(record.step, record.leaving)]


def _log_stop(name: str, step: int) -> None:
    log.warning(
        "stopped by %s after step %d; start again to go on from the last checkpoint (exit code %d)",
        name,
        step,
        STOPPED,
    )
