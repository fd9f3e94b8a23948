"""Which checkpoints of a run stay on disk: the last few, every so many steps, and the best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Keep:
    """Retention rule of a run's checkpoints: one stays if any part of the rule names it."""

    last: int = 3  # newest checkpoints, at least 1
    every: int = 0  # also every step that is a multiple of this; 0 for none
    best: str = ""  # also the one with the best value of this metric; "" for none
    best_is: str = "min"  # "min" or "max": which value of `best` is best

    def __post_init__(self) -> None:
        if self.last < 1:
            raise ValueError(f"keeping the last {self.last} checkpoints would keep none")
        if self.best_is not in ("min", "max"):
            raise ValueError(f"best_is {self.best_is!r} is neither 'min' nor 'max'")

    def choose(self, scores: Mapping[int, float | None]) -> set[int]:
        """Steps to keep, of {step: value of the metric `best`, None where it was not measured}."""
        steps = sorted(scores)
        keep = set(steps[-self.last :])
        if self.every:
            keep |= {step for step in steps if step % self.every == 0}
        measured = [(score, step) for step, score in scores.items() if score is not None]
        if self.best and measured:
            choose = min if self.best_is == "min" else max
            keep.add(choose(measured, key=lambda pair: pair[0])[1])
        return keep


LAST_THREE = Keep()
