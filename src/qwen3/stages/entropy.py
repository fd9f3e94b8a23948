"""Steering entropy: "rise steadily or stay level" (report 4.2) as a target with a schedule.

The report gives no mechanism. This one is Skywork-OR1's (arXiv 2505.22312): an entropy bonus that
acts only while entropy is at or below target, and whose coefficient moves by a fixed change a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qwen3.train.loop import Hook


@dataclass(frozen=True)
class EntropyTarget:
    """start, end: mean entropy a token should have at the first and the last step (nats, linear in
    between); with `relative` multiples of what the first step measured. change: of the
    coefficient per optimizer step. most: its upper end.
    """

    start: float = 1.0
    end: float = 1.0
    relative: bool = True
    change: float = 0.005
    most: float = 0.05

    def __post_init__(self):
        if min(self.start, self.end, self.change, self.most) <= 0:
            raise ValueError(f"start, end, change and most of {self} must be above 0")


class EntropyControl:
    """`coefficient` for the next step. `stored`: what `state()` gave, for a checkpoint."""

    def __init__(self, config: EntropyTarget, steps: int, stored: Mapping | None = None):
        self._config, self._steps = config, steps
        self._state = dict(stored or {"coefficient": 0.0, "first": None, "below": True})

    def state(self) -> dict:
        return dict(self._state)

    @property
    def coefficient(self) -> float:
        return self._state["coefficient"] if self._state["below"] else 0.0

    def target(self, step: int) -> float:
        """In nats, at optimizer step `step`; known once a step has been measured."""
        config = self._config
        share = min(step / max(self._steps, 1), 1.0)
        wanted = config.start + share * (config.end - config.start)
        return wanted * (self._state["first"] if config.relative else 1.0)

    def update(self, step: int, entropy: float) -> None:
        """After optimizer step `step` saw this mean entropy per token."""
        if self._state["first"] is None:
            self._state["first"] = entropy
        below = entropy <= self.target(step)
        moved = self._state["coefficient"] + self._config.change * (1 if below else -1)
        self._state["coefficient"] = min(max(moved, 0.0), self._config.most)
        self._state["below"] = below

    def hook(self) -> Hook:
        def measured(step: int, state, metrics: Mapping) -> None:
            if float(metrics["tokens"]) > 0:
                self.update(step, float(metrics["entropy"]) / float(metrics["tokens"]))

        return Hook(measured)
