"""Sums over the sequences of a batch, whether padded (a row each) or packed (several in a row).

A sequence is the tokens of one row with one segment id (0: padding), so packed and padded batches
give the same numbers. G: slots for the sequences of a row.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def per_sequence(values_BT: jax.Array, segment_ids_BT: jax.Array) -> jax.Array:
    """sums_BG over each sequence; G = T + 1 slots, one a segment id, 0 where there is none."""
    slots = segment_ids_BT.shape[1] + 1
    add = lambda values, ids: jax.ops.segment_sum(values, ids, num_segments=slots)  # noqa: E731
    return jax.vmap(add)(values_BT, segment_ids_BT)


def at_tokens(sums_BG: jax.Array, segment_ids_BT: jax.Array) -> jax.Array:
    """values_BT: for each token the value of its sequence."""
    return jnp.take_along_axis(sums_BG, segment_ids_BT, axis=1)


def mean_at_tokens(
    values_BT: jax.Array, weights_BT: jax.Array, segment_ids_BT: jax.Array
) -> jax.Array:
    """means_BT: for each token the weighted mean over its sequence; 0 where that has no weight."""
    sums_BG = per_sequence(values_BT * weights_BT, segment_ids_BT)
    weights_BG = per_sequence(weights_BT, segment_ids_BT)
    safe_BG = jnp.where(weights_BG > 0, weights_BG, 1.0)
    return at_tokens(sums_BG / safe_BG, segment_ids_BT)
