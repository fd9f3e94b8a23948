"""The one loop: batch, step, hooks; it waits for the device only where a hook needs the state."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from qwen3.train.preemption import STOPPED, Stopped, stop_requests
from qwen3.train.prefetch import Prefetch
from qwen3.train.state import TrainState

log = logging.getLogger("qwen3")


@dataclass(frozen=True)
class Hook:
    """`call(step, state, metrics)` after every `every`-th step; a plain function is Hook(function).

    A hook sees the state of its step, for which the loop waits. A `late` hook reads metrics only:
    it is called with state None while the next step runs, so the device never waits for it.
    `last` hooks are called also when the loop ends or is stopped (save). Hooks run in order and
    share the metrics: what an evaluation adds to them, a save after it sees.
    """

    call: Callable[[int, TrainState | None, dict], None]
    every: int = 1
    late: bool = False
    last: bool = False

    def __post_init__(self):
        if self.every < 1:
            raise ValueError(f"a hook cannot run every {self.every} steps; at least 1 is needed")

    def due(self, step: int, leaving: bool) -> bool:
        return step % self.every == 0 or (leaving and self.last)


def train(
    state: TrainState,
    step: Callable[[TrainState, Any, Any], tuple[TrainState, dict]],
    source: Any,
    *,
    frozen: Any = (),
    until: int,
    hooks: Sequence[Hook | Callable] = (),
) -> TrainState:
    """Step from `state.step` until step `until`; returns the last state (the first is donated).

    `source` is a callable, batch = source(state), or indexed by the step, batch = source[step];
    an indexed one is read one batch ahead in a thread. Batch number n makes step n + 1.
    Hooks get metrics as numpy values, with "seconds" (wall time of the step) and "input_wait"
    (seconds of it spent waiting for the batch) added. Order: late hooks, then the others.

    SIGTERM or SIGINT: the step is finished, the `last` hooks run, and Stopped (exit code 42) is
    raised; on several processes all leave at the same step. Exceptions of source and hooks pass.
    """
    hooks = [hook if isinstance(hook, Hook) else Hook(hook) for hook in hooks]
    at = int(state.step)
    ahead = None if callable(source) else Prefetch(source, at, until)
    pending: tuple[int, dict, dict] | None = None
    clock = time.perf_counter()
    try:
        with stop_requests() as stop:
            while at < until:
                asked = time.perf_counter()
                batch = source(state) if ahead is None else ahead.next()
                wait = time.perf_counter() - asked
                with jax.profiler.StepTraceAnnotation("step", step_num=at):
                    state, metrics = step(state, batch, frozen)
                at += 1
                if pending:
                    _call(hooks, *pending, None, late=True)
                stopped = stop.reached(at)
                leaving = stopped or at == until
                present = any(hook.due(at, leaving) for hook in hooks if not hook.late)
                now = time.perf_counter()
                pending = (at, metrics, {"seconds": now - clock, "input_wait": wait})
                clock = now
                if present or leaving:
                    _call(hooks, *pending, None, late=True, leaving=leaving)
                    _call(hooks, *pending, state, late=False, leaving=leaving)
                    pending = None
                if stopped:
                    log.warning(
                        "stopped by %s after step %d; start again to go on from the last "
                        "checkpoint (exit code %d)",
                        stop.name,
                        at,
                        STOPPED,
                    )
                    raise Stopped(at)
    finally:
        if ahead is not None:
            ahead.close()
    return state


def _call(
    hooks: Sequence[Hook],
    at: int,
    metrics: dict,
    times: dict,
    state: TrainState | None,
    *,
    late: bool,
    leaving: bool = False,
) -> None:
    due = [hook for hook in hooks if hook.late == late and hook.due(at, leaving)]
    if due:
        fetched = {**jax.device_get(metrics), **times}
        for hook in due:
            hook.call(at, state, fetched)
