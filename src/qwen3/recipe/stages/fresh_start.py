"""New parameters for the tiny runs: those of `qwen3.create`, but for the gains of QK-Norm.

Qwen3 norms queries and keys, so scores are at most gain^2 sqrt(head_dim): 11.3 for its heads of
128, 5.7 for heads of 32. The gains therefore start where the bound is Qwen3's (LOG.md: a third
fewer steps, with heads of 16).
"""

from pathlib import Path

from qwen3.infer.language_model import create


def save(folder, model, seed, mesh) -> str:
    """Make them once, as a Hugging Face folder; its name, for `init_from`."""
    if not Path(folder).exists():
        made = create(model, seed, mesh)
        attention = made.params["layers"]["attention"]
        for name in ("query_norm", "key_norm"):
            attention[name] = attention[name] * (128 / model.head_dim) ** 0.25
        made.save(folder)
    return str(folder)
