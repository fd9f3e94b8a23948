"""New parameters for the tiny runs: those of `qwen3.create`, but for the gains of QK-Norm.

Qwen3 norms queries and keys, so scores are at most gain^2 sqrt(head_dim): 11.3 for its heads of
128, 5.7 for heads of 32. The gains therefore start where the bound is Qwen3's, which saved a third
of the steps with heads of 16 (docs/log/2026-11-22-qk-norm-gains.md).
"""

from __future__ import annotations

from pathlib import Path

from jax.sharding import Mesh

from qwen3.infer.language_model import create
from qwen3.model.sizes import ModelConfig


def save(folder: str | Path, model: ModelConfig, seed: int, mesh: Mesh) -> str:
    """Save new parameters as a Hugging Face folder, unless it exists; its name, for `init_from`."""
    if not Path(folder).exists():
        fresh = create(model, seed, mesh)
        attention = fresh.params["layers"]["attention"]
        for name in ("query_norm", "key_norm"):
            attention[name] = attention[name] * (128 / model.head_dim) ** 0.25
        fresh.save(folder)
    return str(folder)
