"""Steering entropy: "rise steadily or stay level" (report 4.2) as a target with a schedule.

The report gives no mechanism. This one is Skywork-OR1's (arXiv 2505.22312): an entropy bonus that
acts only while entropy is at or below target, and whose coefficient moves by a fixed change a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qwen3.train.loop import Hook
from qwen3.train.state import TrainState


@dataclass(frozen=True)
class EntropyTarget:
    """The mean entropy that a token should have, and how fast the bonus follows."""

    start: float = 1.0  # target at the first step, in nats or, if relative, in first entropies
    end: float = 1.0  # target at the last step; linear in between
    relative: bool = True  # targets are multiples of the entropy that the first step measured
    change: float = 0.005  # of the bonus's coefficient per optimizer step
    most: float = 0.05  # largest coefficient

    def __post_init__(self) -> None:
        if min(self.start, self.end, self.change, self.most) <= 0:
            raise ValueError(f"start, end, change and most of {self} must be above 0")


class EntropyControl:
    """The controller: `coefficient` is that of the entropy bonus at the next step.

    stored: what `state()` gave to a checkpoint.
    """

    def __init__(self, config: EntropyTarget, steps: int, stored: Mapping | None = None):
        self._config, self._steps = config, steps
        self._state: dict[str, Any] = dict(
            stored or {"coefficient": 0.0, "first": None, "below": True}
        )

    def state(self) -> dict[str, Any]:
        return dict(self._state)

    @property
    def coefficient(self) -> float:
        """0 while entropy is above its target."""
        return self._state["coefficient"] if self._state["below"] else 0.0

    def target(self, step: int) -> float:
        """Nats a token at optimizer step `step`; known once a step has been measured."""
        config = self._config
        share = min(step / max(self._steps, 1), 1.0)
        level = config.start + share * (config.end - config.start)
        return level * (self._state["first"] if config.relative else 1.0)

    def update(self, step: int, entropy: float) -> None:
        """Move the coefficient after optimizer step `step` had this mean entropy per token."""
        if self._state["first"] is None:
            self._state["first"] = entropy
        below = entropy <= self.target(step)
        moved = self._state["coefficient"] + self._config.change * (1 if below else -1)
        self._state["coefficient"] = min(max(moved, 0.0), self._config.most)
        self._state["below"] = below

    def hook(self) -> Hook:
        """Updates the controller after every step that trained on a token."""

        def update(step: int, state: TrainState | None, metrics: Mapping) -> None:
            if float(metrics["tokens"]) > 0:
                self.update(step, float(metrics["entropy"]) / float(metrics["tokens"]))

        return Hook(update)
