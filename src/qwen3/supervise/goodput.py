"""Where the time of a run went: goodput, and badput by its cause.

Goodput is the share of the wall time since the pod was first active that went into steps of the
final history of the run; badput is the rest, by cause.
"""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

Record = dict[str, Any]
# What the time goes to from an event to the next; an attempt's is split further.
AFTER = {"up": "waiting", "active": "set-up", "supervise": "set-up", "attempt": "attempt"}
AFTER |= {"end": "down", "left": "down", "lost": "down", "down": ""}
USEFUL = "useful"  # goodput
BADPUT = ("waiting", "set-up", "start", "compile", "restore", "save", "input", "lost steps", "down")


def seconds_by_cause(
    events: Iterable[Record], metrics: Sequence[Record], report: Record, now: float
) -> Counter[str]:
    """Seconds by cause (BADPUT, or USEFUL) since the pod was first active.

    events: of the pod, and of one of its hosts. metrics: records of the run's steps. report: the
    host's newest one, for the attempt that still runs. What lies between `down` and the next `up`,
    or after the run is done, is not counted.
    """
    timeline = sorted((e for e in events if e["event"] in AFTER), key=lambda event: event["time"])
    begun = itertools.dropwhile(lambda event: event["event"] != "active", timeline)
    usual = statistics.median([row.get("seconds", 0.0) for row in metrics] or [0.0])
    seconds: Counter[str] = Counter()
    for event, following in itertools.pairwise([*begun, {"event": "", "time": now}]):
        cause, duration = AFTER[event["event"]], following["time"] - event["time"]
        if cause == "attempt":
            end = following if following["event"] == "end" else report
            seconds.update(_attempt(duration, event, end, usual))
        elif cause and event.get("state") != "done":
            seconds[cause] += duration
    return seconds


def _attempt(duration: float, begin: Record, end: Record, usual: float) -> dict[str, float]:
    """Seconds of an attempt by cause; one that failed loses the steps after its checkpoint.

    usual: seconds of a step, for an attempt that reported no phases.
    """
    spent = dict(end.get("spent") or {})
    steps = max(0, end.get("step", 0) - begin["checkpoint"])
    useful = min(spent.pop("step", steps * usual), duration)
    again = max(0, end.get("step", 0) - end["checkpoint"]) if end.get("code") else 0
    lost = useful * min(1.0, again / max(steps, 1))
    rest = max(0.0, duration - useful - sum(spent.values()))
    return {**spent, USEFUL: useful - lost, "lost steps": lost, "start": rest}
