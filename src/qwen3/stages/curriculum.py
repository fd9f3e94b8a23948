"""How hard the problems of generated families are: bands of difficulty, kept by the pass rate.

A family that the policy always solves, or never, gives groups without a difference, which are
sampled for nothing. The report chose its prompts to be "learnable" and "as challenging as possible"
(4.2); here a family's band moves with the policy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qwen3.stages.rollouts import Rollout


@dataclass(frozen=True)
class Curriculum:
    """When a family's band of difficulty moves. The default lets all bands be as wide as they are
    in the mixture, and stand still."""

    step: float = 0.0  # share of a family's range of difficulty that its band moves after a phase
    width: float = 0.5  # of a band, as a share of the family's range
    low: float = 0.1  # mean score below which a family gets easier
    high: float = 0.9  # mean score above which it gets harder

    def __post_init__(self) -> None:
        if not 0 <= self.step <= 1 or not 0 < self.width <= 1 or not 0 <= self.low < self.high <= 1:
            raise ValueError(
                f"{self}: step and width are shares of a range, low is below high, all in 0..1"
            )


class DifficultyBands:
    """Where the bands of the families are: every one begins at the easy end of its range.

    Prompts are f(seed, number, state), and the state changes between phases only, so that a run
    that goes on draws what it would have drawn.
    """

    def __init__(self, curriculum: Curriculum):
        self._curriculum = curriculum
        self._places: dict[str, float] = {}

    def restore(self, stored: Mapping[str, float] | None) -> None:
        """Go on from what `state()` gave to a checkpoint."""
        self._places = dict(stored or {})

    def state(self) -> dict[str, float]:
        """Family -> place of the lower end of its band, 0 to 1 - width."""
        return dict(self._places)

    def range(self, family: str, whole: tuple[float, float]) -> tuple[float, float]:
        """The band within the difficulties `whole` that the mixture gives the family."""
        curriculum, (low, high) = self._curriculum, whole
        if not curriculum.step:
            return whole
        place, size = self._places.get(family, 0.0), high - low
        return low + place * size, low + (place + curriculum.width) * size

    def update(self, rollouts: Sequence[Rollout]) -> dict[str, float]:
        """Move the bands after a phase; the metrics: band/FAMILY, the place of each."""
        curriculum = self._curriculum
        if not curriculum.step:
            return {}
        scores: dict[str, list[float]] = {}
        for rollout in rollouts:
            if rollout.score is not None:
                scores.setdefault(rollout.task, []).append(rollout.score)
        for family, values in sorted(scores.items()):
            mean = sum(values) / len(values)
            move = (mean > curriculum.high) - (mean < curriculum.low)
            place = self._places.get(family, 0.0) + move * curriculum.step
            self._places[family] = min(max(place, 0.0), 1.0 - curriculum.width)
        return {f"band/{family}": place for family, place in sorted(self._places.items())}
