"""How much each mode's tokens weigh in fine-tuning; may follow the modes' losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from qwen3.losses.forward import MODES
from qwen3.train.loop import Hook


@dataclass(frozen=True)
class ModeWeights:
    """think, no_think: weight of a token of either mode. adapt: weights are multiplied by
    (the mode's running loss / the mean of both)^adapt: above 0 the worse mode gets more, below 0
    less, 0 leaves them fixed. horizon: steps of the running mean.
    """

    think: float = 1.0
    no_think: float = 1.0
    adapt: float = 0.0
    horizon: float = 20.0

    def __post_init__(self):
        if min(self.think, self.no_think) < 0 or self.think + self.no_think == 0:
            raise ValueError(
                f"weights think {self.think} and no_think {self.no_think}: not below "
                "0, and one of them above"
            )
        if self.horizon < 1:
            raise ValueError(f"horizon {self.horizon} must be at least 1 step")


class Weighting:
    """The weights of a run. `stored`: what `state()` gave, for a checkpoint."""

    def __init__(self, config: ModeWeights, stored: Mapping[str, float] | None = None):
        self.config = config
        self.losses: dict[str, float] = dict(stored or {})

    def state(self) -> dict[str, float]:
        return dict(self.losses)

    def weights(self) -> np.ndarray:
        """float32, by index into MODES."""
        fixed = np.array([getattr(self.config, mode) for mode in MODES])
        if len(self.losses) < len(MODES) or self.config.adapt == 0:
            return fixed.astype(np.float32)
        losses = np.array([self.losses[mode] for mode in MODES])
        return (fixed * (losses / losses.mean()) ** self.config.adapt).astype(np.float32)

    def apply(self, batch: dict) -> dict:
        return {**batch, "weights": batch["weights"] * self.weights()[batch["mode"]]}

    def hook(self) -> Hook:
        """Takes the losses of each step's modes, before the next step's batch is weighted."""
        return Hook(self.update)

    def update(self, step: int, state, metrics: Mapping) -> None:
        name = "ce" if "ce" in metrics else "divergence"
        for mode in MODES:
            tokens = float(metrics.get(f"tokens/{mode}", 0.0))
            if tokens == 0:
                continue
            loss = float(metrics[f"{name}/{mode}"]) / tokens
            before = self.losses.get(mode, loss)
            self.losses[mode] = before + (loss - before) / self.config.horizon
