"""Mixture of experts (MoE): the router, and the two permutations around the expert FFN.

Letters: B batch, T length, M tokens (B*T), D model, E experts, A active experts per token,
R routed rows (M*A), N any rows.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

Permutation: TypeAlias = Callable[[jax.Array, jax.Array, jax.Array, bool], jax.Array]


class Routing(NamedTuple):
    """What the router chose for M tokens, and the probabilities that it chose from."""

    weights_MA: jax.Array  # sums to 1 over A, in the dtype of x
    ids_MA: jax.Array  # int32, distinct over A
    probs_ME: jax.Array  # float32 softmax over all experts, before any choice


class Order(NamedTuple):
    """The routed rows sorted by expert; row m*A + a is the a-th choice of token m."""

    rows_R: jax.Array  # the row at each place of the sorted order
    places_MA: jax.Array  # each row's place in it: the inverse permutation
    sizes_E: jax.Array  # int32 rows per expert; rows with the id E come behind all of them


def route(
    x_MD: jax.Array, router_DE: jax.Array, *, active: int, ids_MA: jax.Array | None = None
) -> Routing:
    """float32 logits -> softmax over all experts -> top-k -> divide by their sum -> cast.

    `ids_MA` replays an earlier choice (routing replay): only the discrete ids are taken over,
    weights and gradients come from the live router. Raises ValueError when `active` is not within
    1..E or the replayed ids have another shape. (Qwen3 report, section 2; norm_topk_prob)
    """
    experts = router_DE.shape[1]
    if not 1 <= active <= experts:
        raise ValueError(f"active={active} experts per token, but the router has {experts}")
    logits_ME = jnp.einsum(
        "MD,DE->ME", x_MD, router_DE.astype(x_MD.dtype), preferred_element_type=jnp.float32
    )
    probs_ME = jax.nn.softmax(logits_ME, axis=-1)
    if ids_MA is None:
        ids_MA = _keep(jax.lax.top_k(jax.lax.stop_gradient(probs_ME), active)[1])
    elif ids_MA.shape != (x_MD.shape[0], active):
        raise ValueError(f"replayed ids {ids_MA.shape} are not {(x_MD.shape[0], active)}")
    # A comparison and a sum, not a gather: its transpose is then no scatter-add.
    chosen_MAE = ids_MA[:, :, None] == jnp.arange(experts)
    weights_MA = jnp.sum(jnp.where(chosen_MAE, probs_ME[:, None, :], 0.0), axis=-1)
    weights_MA = weights_MA / jnp.sum(weights_MA, axis=-1, keepdims=True)
    return Routing(weights_MA.astype(x_MD.dtype), ids_MA.astype(jnp.int32), probs_ME)


def count(ids_BTA: jax.Array, experts: int) -> jax.Array:
    """Selections per expert of each batch row, float32 [B, E]; an id of E counts nowhere."""
    chosen_BTAE = ids_BTA[..., None] == jnp.arange(experts)
    return jnp.sum(chosen_BTAE, axis=(1, 2), dtype=jnp.float32)


def sort_rows(ids_MA: jax.Array, experts: int) -> Order:
    """Order of the routed rows by expert, stable. An id of `experts` means "not routed"."""
    flat_R = ids_MA.reshape(-1)
    rows_R = _keep(jnp.argsort(flat_R, stable=True).astype(jnp.int32))
    places_MA = _keep(jnp.argsort(rows_R).astype(jnp.int32).reshape(ids_MA.shape))
    sizes_E = jnp.sum(flat_R[:, None] == jnp.arange(experts), axis=0, dtype=jnp.int32)
    return Order(rows_R, places_MA, sizes_E)


def _keep(index: jax.Array) -> jax.Array:
    """Mark integer decisions as kept by every remat policy.

    They cost 4 bytes a routed row instead of a second sort, and the recomputed forward pass cannot
    choose other experts.
    """
    # Stored flat: on TPU a last axis of A would be padded to 128.
    return checkpoint_name(index.reshape(-1), "routing").reshape(index.shape)


# The two functions below are each other's transpose, so both directions are gathers and XLA never
# sees a scatter-add. `to_R` and `back_NA` must describe one relation: to_R[r] == n exactly when r
# is in back_NA[n]. With `has_missing`, an index past the end (N, or R) means "no row" and reads
# zero; without, every index must be in bounds, which saves a pass over the rows
# (docs/log/2026-11-28-moe-rows-without-fills.md).


def _take(x_ND: jax.Array, index: jax.Array, has_missing: bool) -> jax.Array:
    if has_missing:
        return x_ND.at[index].get(mode="fill", fill_value=0)
    return x_ND.at[index].get(mode="promise_in_bounds")


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def send_rows(
    x_ND: jax.Array, to_R: jax.Array, back_NA: jax.Array, has_missing: bool = True
) -> jax.Array:
    """Dispatch: y_RD[r] = x_ND[to_R[r]], every row copied to all of its places."""
    return _take(x_ND, to_R, has_missing)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def sum_rows(
    y_RD: jax.Array, to_R: jax.Array, back_NA: jax.Array, has_missing: bool = True
) -> jax.Array:
    """Combine: x_ND[n] = sum_a y_RD[back_NA[n, a]] in float32, the copies of a row added up."""
    rows_NAD = _take(y_RD, back_NA, has_missing)
    return jnp.sum(rows_NAD, axis=1, dtype=jnp.float32).astype(y_RD.dtype)


def _forward_of(function: Permutation) -> Callable:
    """The forward rule: the result, and the indices as residuals."""
    return lambda x, to_R, back_NA, has_missing: (
        function(x, to_R, back_NA, has_missing),
        (to_R, back_NA),
    )


def _backward_by(transpose: Permutation) -> Callable:
    """The backward rule: the cotangent through the other function, with the same indices."""
    return lambda has_missing, indices, g: (
        transpose(g, indices[0], indices[1], has_missing),
        None,
        None,
    )


send_rows.defvjp(_forward_of(send_rows), _backward_by(sum_rows))
sum_rows.defvjp(_forward_of(sum_rows), _backward_by(send_rows))
