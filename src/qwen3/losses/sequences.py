"""Sums over the sequences of a batch, whether each has a row of its own or several share one.

A sequence is the tokens of one row with one segment id (0: padding). Packed and padded batches
therefore give the same numbers.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def per_sequence(values_BT, segment_ids_BT):
    """sums_BG over each sequence, G = T + 1 slots by segment id; empty ones are 0."""
    slots = segment_ids_BT.shape[1] + 1
    add = lambda values, ids: jax.ops.segment_sum(values, ids, num_segments=slots)  # noqa: E731
    return jax.vmap(add)(values_BT, segment_ids_BT)


def at_tokens(sums_BG, segment_ids_BT):
    """Each token's own sequence's value, [B, T]."""
    return jnp.take_along_axis(sums_BG, segment_ids_BT, axis=1)


def mean_at_tokens(values_BT, weights_BT, segment_ids_BT):
    """Each token's own sequence's weighted mean; 0 where a sequence has no weight."""
    sums_BG = per_sequence(values_BT * weights_BT, segment_ids_BT)
    weights_BG = per_sequence(weights_BT, segment_ids_BT)
    safe_BG = jnp.where(weights_BG > 0, weights_BG, 1.0)
    return at_tokens(sums_BG / safe_BG, segment_ids_BT)
