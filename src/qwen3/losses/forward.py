"""From a batch to rows: the forward pass and per-token log-probabilities that the losses share."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from qwen3.ops import chunked
from qwen3.ops.row_chunks import flatten_rows, unflatten_rows

MODES = ("no_think", "think")  # batch["mode"], int32 [B, T]: index into this


def run(apply, params, batch):
    """(model output, hidden_MD) of a batch's tokens."""
    names = "tokens", "positions", "segment_ids"
    output = apply(params, *(batch[name] for name in names))
    return output, flatten_rows(output.hidden_BTD)


def token_log_probs(apply, params, batch, *, chunk=None):
    """(log p(targets)_BT, entropy_BT) at temperature 1, 0 where a position has no weight.

    What the old and the reference log-probabilities are made with: by the same operations as in
    the loss, so that a policy's ratio to itself is exactly 1.
    """
    output, hidden_MD = run(apply, params, batch)
    targets_M = flatten_rows(batch["targets"])
    pair = chunked.log_probs(hidden_MD, output.head_VD, targets_M, chunk=chunk)
    used_BT = batch["weights"] > 0
    return tuple(jnp.where(used_BT, unflatten_rows(x, *used_BT.shape), 0.0) for x in pair)


def by_mode(values_BT, used_BT, batch, name):
    """{"name/think": sum, "name/no_think": sum, ...} where the batch tells modes, else {}."""
    if "mode" not in batch:
        return {}
    picked = {mode: used_BT * (batch["mode"] == index) for index, mode in enumerate(MODES)}
    return {f"{name}/{mode}": jnp.sum(values_BT * mask) for mode, mask in picked.items()}


def detached(sums):
    """Metrics carry no gradient."""
    return jax.tree.map(jax.lax.stop_gradient, sums)
