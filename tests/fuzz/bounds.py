"""Running a target: each case within its processor time, with no error but the documented one."""

import gc
import random
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class Hang(BaseException):
    """A case used up ten times its processor time."""


@dataclass(frozen=True)
class Target:
    """One reader, parser or scorer, and how it is attacked.

    open(folder) gives (make, call): make(rng) is an input, and call(input) what must not fail.
    """

    name: str
    open: Callable[[Path], tuple[Callable[[random.Random], Any], Callable[[Any], Any]]]
    errors: tuple[type[Exception], ...]  # what the target documents that it raises
    full: int  # cases of the long run
    share: int  # cases of the default run
    seconds: float = 1.0  # processor time of this process that no case exceeds
    named: bool = False  # whether an error names the file


@dataclass
class Outcome:
    """What came of a target's cases."""

    ends: Counter  # "accepted", or the name of the documented error
    slowest: float  # processor seconds of the slowest case


def attack(target: Target, folder: Path, cases: int, seed: str = "") -> Outcome:
    """Runs `cases` cases; AssertionError naming the case's number for whatever must not happen."""
    make, call = target.open(folder)
    ends: Counter = Counter()
    slowest = 0.0

    def stop(*_: Any) -> None:
        raise Hang

    gc.freeze()  # the collector's passes over what a whole suite has left are none of a case's time
    # Of user time: SIGPROF, the other timer of processor time, belongs to profilers.
    old = signal.signal(signal.SIGVTALRM, stop) or signal.SIG_DFL
    try:
        for case in range(cases):
            rng = random.Random(f"{target.name}/{seed}/{case}")
            data, error = make(rng), None
            start = time.process_time()
            signal.setitimer(signal.ITIMER_VIRTUAL, 10 * target.seconds)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    call(data)
            except target.errors as documented:
                error = documented
            except BaseException as other:
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
                text = f"case {case}: {type(other).__name__}: {other!s:.300}; input {data!r:.300}"
                raise AssertionError(text) from other
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            used = time.process_time() - start
            assert used <= target.seconds, f"case {case}: {used:.2f} s; input {data!r:.300}"
            if error is not None and target.named:
                assert str(folder) in str(error), f"case {case}: {error!s:.300} names no file"
            slowest = max(slowest, used)
            ends["accepted" if error is None else type(error).__name__] += 1
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, old)
        gc.unfreeze()
    return Outcome(ends, slowest)
