"""How much each mode's tokens weigh in fine-tuning; may follow the modes' losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from qwen3.losses.forward import MODES
from qwen3.train.loop import Hook
from qwen3.train.state import TrainState


@dataclass(frozen=True)
class ModeWeights:
    """Loss weights of the thinking modes."""

    think: float = 1.0  # weight of a token of an answer with thinking
    no_think: float = 1.0  # weight of a token of an answer without
    # Weights are multiplied by (the mode's running loss / the mean of both)^adapt: above 0 the
    # worse mode gets more, below 0 less, 0 leaves them fixed.
    adapt: float = 0.0
    horizon: float = 20.0  # steps of the running mean

    def __post_init__(self) -> None:
        if min(self.think, self.no_think) < 0 or self.think + self.no_think == 0:
            raise ValueError(
                f"weights think {self.think} and no_think {self.no_think}: not below "
                "0, and one of them above"
            )
        if self.horizon < 1:
            raise ValueError(f"horizon {self.horizon} must be at least 1 step")


class Weighting:
    """The weights of a run, which may follow its losses.

    stored: what `state()` gave to a checkpoint.
    """

    def __init__(self, config: ModeWeights, stored: Mapping[str, float] | None = None):
        self.config = config
        self.losses: dict[str, float] = dict(stored or {})

    def state(self) -> dict[str, float]:
        return dict(self.losses)

    def weights(self) -> np.ndarray:
        """float32 [2], by index into losses.forward.MODES."""
        fixed = np.array([getattr(self.config, mode) for mode in MODES])
        if len(self.losses) < len(MODES) or self.config.adapt == 0:
            return fixed.astype(np.float32)
        losses = np.array([self.losses[mode] for mode in MODES])
        return (fixed * (losses / losses.mean()) ** self.config.adapt).astype(np.float32)

    def apply(self, batch: dict) -> dict:
        """The batch with its loss mask multiplied by each token's mode weight."""
        return {**batch, "weights": batch["weights"] * self.weights()[batch["mode"]]}

    def hook(self) -> Hook:
        """Takes each step's losses by mode, before the next step's batch is weighted."""
        return Hook(self.update)

    def update(self, step: int, state: TrainState | None, metrics: Mapping) -> None:
        """Running mean of each mode's loss per token; a step without a token of it counts not."""
        name = "ce" if "ce" in metrics else "divergence"
        for mode in MODES:
            tokens = float(metrics.get(f"tokens/{mode}", 0.0))
            if tokens == 0:
                continue
            loss = float(metrics[f"{name}/{mode}"]) / tokens
            before = self.losses.get(mode, loss)
            self.losses[mode] = before + (loss - before) / self.config.horizon
