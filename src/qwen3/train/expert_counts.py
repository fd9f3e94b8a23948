"""Selections of experts of the last optimizer step, kept in the optimizer's state.

The "previous" form of the load-balancing loss (ops.balance) counts nothing in the step itself. The
counts are saved and restored with the rest of the state, so that a resumed run goes on bitwise.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class LastCounts(NamedTuple):
    """State of `remember`."""

    expert_counts: jax.Array  # float32 [L, E]; zeros before the first step


def remember(
    tx: optax.GradientTransformation, layers: int, experts: int
) -> optax.GradientTransformationExtraArgs:
    """`tx`, with a state that remembers the `expert_counts` that its `update` is given."""

    def update(
        updates: Any,
        state: LastCounts,
        params: Any = None,
        *,
        expert_counts: jax.Array,
        **_: Any,
    ) -> tuple[Any, LastCounts]:
        return updates, LastCounts(expert_counts)

    def init(params: Any) -> LastCounts:
        return LastCounts(jnp.zeros((layers, experts), jnp.float32))

    return optax.chain(tx, optax.GradientTransformationExtraArgs(init, update))


def last(opt_state: optax.OptState) -> jax.Array:
    """The kept counts [L, E]. Raises ValueError where the optimizer keeps none."""
    counts = optax.tree_utils.tree_get(opt_state, "expert_counts")
    if counts is None:
        raise ValueError("the optimizer keeps no expert counts: wrap it in expert_counts.remember")
    return counts
