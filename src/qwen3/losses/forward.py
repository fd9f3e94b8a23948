"""The forward pass and the per-token log-probabilities that the losses share.

A loss is (apply, params, batch, frozen, options) -> (sum, sums): a sum over the batch's tokens and
a dict of further sums, of which "weight" is the first one's divisor. The step adds up both over
micro-batches and devices and divides once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from qwen3.ops import chunked
from qwen3.ops.row_chunks import flatten_rows, unflatten_rows

MODES = ("no_think", "think")  # batch["mode"], int32 [B, T]: index into this

Params: TypeAlias = Any  # pytree of parameters, what the optimizer moves
# tokens, positions, segment_ids, targets: int32 [B, T]; weights: float32 [B, T], the loss mask;
# and what the loss's own docstring adds
Batch: TypeAlias = Mapping[str, Any]
Sums: TypeAlias = dict[str, jax.Array]  # metrics as scalar sums by name, "weight" among them
# (params, tokens, positions, segment_ids) -> an output with hidden_BTD, head_VD and router
Apply: TypeAlias = Callable[..., Any]


def run(apply: Apply, params: Params, batch: Batch) -> tuple[Any, jax.Array]:
    """(model output, hidden_MD) of a batch's tokens.

    expert_ids in the batch is the sampler's routing, replayed (R3, arXiv 2510.11370).
    """
    replayed = (batch["expert_ids"],) if "expert_ids" in batch else ()
    output = apply(params, batch["tokens"], batch["positions"], batch["segment_ids"], *replayed)
    return output, flatten_rows(output.hidden_BTD)


def token_log_probs(
    apply: Apply, params: Params, batch: Batch, *, chunk: int | None = None
) -> tuple[jax.Array, jax.Array]:
    """(log p(targets)_BT, entropy_BT) in nats at temperature 1; 0 where a position has no weight.

    Old and reference log-probabilities come from here too: by the same operations as in the loss,
    so that a policy's ratio to itself is exactly 1.
    """
    output, hidden_MD = run(apply, params, batch)
    targets_M = flatten_rows(batch["targets"])
    pair = chunked.log_probs(hidden_MD, output.head_VD, targets_M, chunk=chunk)
    used_BT = batch["weights"] > 0
    logp_BT, entropy_BT = (jnp.where(used_BT, unflatten_rows(x, *used_BT.shape), 0.0) for x in pair)
    return logp_BT, entropy_BT


def by_mode(values_BT: jax.Array, used_BT: jax.Array, batch: Batch, name: str) -> Sums:
    """{"name/think": sum, "name/no_think": sum} over used tokens; {} for a batch without modes."""
    if "mode" not in batch:
        return {}
    masks = {mode: used_BT * (batch["mode"] == index) for index, mode in enumerate(MODES)}
    return {f"{name}/{mode}": jnp.sum(values_BT * mask) for mode, mask in masks.items()}


def detached(sums: Sums) -> Sums:
    """The sums without gradient, as metrics are."""
    return jax.tree.map(jax.lax.stop_gradient, sums)
