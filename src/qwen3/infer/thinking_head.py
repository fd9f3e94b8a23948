"""The head behind the automatic thinking budget: how long must the thought of a right answer be?

It reads the model's state at the last token of a prompt and predicts quantiles of the tokens of
thinking that a right answer takes, the chance of a right answer with thinking, and that without.
`budget` chooses by one dial. `stages.budget_head` trains it from the model's own rollouts.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from qwen3.data.atomic import replacing

FILE = "budget_head.npz"  # beside the model; not .safetensors, which loaders take for its weights
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
QUALITY = 0.9  # the dial of "auto"
MOST_WORTH = 1e9  # thinking tokens that a right answer is worth at a dial of 1

# Of F features, H hidden units, Q quantiles: mean, std [F], w1 [F, H], b1 [H], w2 [H, Q + 2],
# b2 [Q + 2], shift [Q].
Weights: TypeAlias = Mapping[str, Any]


class LengthPrediction(NamedTuple):
    """What the head says of one prompt."""

    lengths_Q: np.ndarray  # tokens of a right answer's thought, at the quantiles
    right: float  # chance of a right answer where the thought is never cut
    right_at_once: float  # chance of a right answer without thinking


@dataclass(frozen=True)
class BudgetHead:
    """A trained head."""

    weights: Weights
    scale: float  # median tokens of the right thoughts that it was trained on
    model: str  # `fingerprint` of the model whose states it reads
    quantiles: tuple[float, ...] = QUANTILES

    def predict(self, states_F: np.ndarray) -> LengthPrediction:
        """The prediction from a prompt's features (`infer.auto_budget.PromptStates`)."""
        lengths_NQ, chances_N2 = outputs(self.weights, jnp.asarray(states_F)[None])
        right, at_once = (float(p) for p in jax.nn.sigmoid(chances_N2[0]))
        return LengthPrediction(np.expm1(np.asarray(lengths_NQ[0], np.float64)), right, at_once)

    def save(self, folder: str | Path) -> Path:
        """Write FILE into a folder."""
        path = Path(folder) / FILE
        about = {"scale": self.scale, "model": self.model, "quantiles": self.quantiles}
        arrays: dict[str, Any] = {n: np.asarray(w, np.float32) for n, w in self.weights.items()}
        with replacing(path) as file:
            np.savez(file, about=np.array(json.dumps(about)), **arrays)
        return path


def load(folder: str | Path) -> BudgetHead:
    """The head beside a model. Raises ValueError naming a file that is missing or damaged."""
    path = Path(folder) / FILE
    if not path.is_file():
        raise ValueError(f"thinking_budget auto needs {FILE} in {folder}: `qwen3 budget` trains it")
    try:
        with np.load(path, allow_pickle=False) as stored:
            about = json.loads(str(stored["about"]))
            weights = {name: stored[name] for name in stored.files if name != "about"}
        head = BudgetHead(weights, **about | {"quantiles": tuple(about["quantiles"])})
        outputs(head.weights, jnp.zeros((1, len(weights["mean"]))))
    except (ValueError, TypeError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no budget head: {error}") from None
    return head


def outputs(weights: Weights, states_NF: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(log(1 + tokens) at the quantiles [N, Q], ascending; log-odds [N, 2] of a right answer with
    thinking and without it), of an MLP of one hidden layer.
    """
    x_NF = (states_NF - weights["mean"]) / weights["std"]
    hidden_NH = jax.nn.gelu(x_NF @ weights["w1"] + weights["b1"])
    out_NO = hidden_NH @ weights["w2"] + weights["b2"]
    lowest_N1, steps_NQ = out_NO[:, :1], jax.nn.softplus(out_NO[:, 1:-2])
    # Softplus keeps every quantile above the one before it.
    lengths_NQ = jnp.concatenate([lowest_N1, lowest_N1 + jnp.cumsum(steps_NQ, axis=1)], axis=1)
    # `shift` calibrates each quantile by itself, so that their order is seen to again.
    lengths_NQ = jax.lax.cummax(lengths_NQ + weights["shift"], axis=1)
    return jax.nn.relu(lengths_NQ), out_NO[:, -2:]


def budget(head: BudgetHead, prediction: LengthPrediction, quality: float) -> int:
    """The budget of most gain: (chance of a right answer) * worth - (expected tokens of thinking).

    Candidates are 0 and the lengths at the quantiles: a budget at quantile q lets a share q of the
    right thoughts end. quality: the dial, 0 to 1; worth = scale * quality / (1 - quality) tokens,
    so that at 0.5 a sure answer is worth a thought of median length, and at 1 any length.
    """
    worth = min(head.scale * quality / max(1 - quality, 1e-12), MOST_WORTH)
    q_K = np.array([0.0, *head.quantiles])
    lengths_K = np.maximum.accumulate([0.0, *prediction.lengths_Q])
    # Mean of min(length, budget): trapezoids up to the quantile, the rest is cut at the budget.
    ended_K = np.cumsum([0.0, *(np.diff(q_K) * (lengths_K[1:] + lengths_K[:-1]) / 2)])
    tokens_K = ended_K + (1 - q_K) * lengths_K
    chance_K = prediction.right * q_K
    chance_K[0] = prediction.right_at_once
    best = int(np.argmax(chance_K * worth - tokens_K))
    # Less what fp32 leaves of a whole number's logarithm.
    return 0 if best == 0 else int(np.ceil(lengths_K[best] - 1e-3))


def quality_of(thinking_budget: Any) -> float | None:
    """The dial of "auto" or "auto:0.7"; None for any other budget than an automatic one.

    Raises ValueError for a text that is neither, and for a dial outside 0 to 1.
    """
    if not isinstance(thinking_budget, str):
        return None
    name, _, dial = thinking_budget.partition(":")
    try:
        quality = float(dial) if dial else QUALITY
    except ValueError:
        quality = -1.0
    if name != "auto" or not 0 <= quality <= 1 or thinking_budget.endswith(":"):
        raise ValueError(
            f'thinking_budget {thinking_budget!r:.80}: wanted at least 0, or None, "auto", or '
            '"auto:Q" with a dial Q from 0 (few tokens) to 1 (quality)'
        )
    return quality


def parse(text: str) -> int | str:
    """A budget as a command line has it: tokens, or `quality_of`'s texts. ValueError for others."""
    if text.isdecimal() and text.isascii():
        return int(text)
    quality_of(text)
    return text
