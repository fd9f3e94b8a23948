"""Cross-entropy, log-probabilities and top-k over the vocabulary without ever holding [M, V].

A scan over chunks of rows computes the fp32 logits of one chunk at a time. Where the loss is a
weighted sum over rows, the gradient of that sum is taken in the forward pass, while the logits
are at hand (three matrix products, not four); the backward pass only scales it. Rows are padded,
chunked and placed by `row_chunks`; a sharded vocabulary needs nothing here but reductions over V.

Shapes: hidden_MD rows of final hidden states, head_VD the output matrix, P parts, C rows of a
part. All logits and reductions are fp32; the products take the dtype of `hidden`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from qwen3.ops.row_chunks import default_chunk, join, pin, split, ways

Statistics: TypeAlias = dict[str, jax.Array]  # metrics by name, one value a row
# (logits_PCV, rows_PC, constants) -> (losses_PC, statistics_PC, d sum(losses) / d logits_PCV)
RowLoss: TypeAlias = Callable[[jax.Array, Any, Any], tuple[jax.Array, Statistics, jax.Array]]


def logits_of(hidden_PCD: jax.Array, head_VD: jax.Array) -> jax.Array:
    """logits_PCV = hidden head^T, accumulated in fp32 whatever the dtype of the factors."""
    wide = wide_dtype(head_VD)
    logits_PCV = jnp.einsum("PCD,VD->PCV", hidden_PCD, head_VD, preferred_element_type=wide)
    return pin(logits_PCV, "rows", None, "vocab")


def wide_dtype(x: jax.Array) -> jnp.dtype:
    """The dtype of logits and sums: fp32, or fp64 where the array has it (in tests)."""
    return jnp.promote_types(x.dtype, jnp.float32)


def _vocab_iota(logits_PCV: jax.Array) -> jax.Array:
    return jax.lax.broadcasted_iota(jnp.int32, logits_PCV.shape, logits_PCV.ndim - 1)


def at(logits_PCV: jax.Array, ids_PC: jax.Array) -> jax.Array:
    """The logit of one id per row; with a sharded vocabulary each device looks up its own share."""
    if ways("tensor") == 1:
        return jnp.take_along_axis(logits_PCV, ids_PC[..., None], axis=-1)[..., 0]
    is_id = _vocab_iota(logits_PCV) == ids_PC[..., None]
    return jnp.sum(jnp.where(is_id, logits_PCV, 0.0), axis=-1)


def one_hot_times(logits_PCV: jax.Array, ids_PC: jax.Array, values_PC: jax.Array) -> jax.Array:
    """The values at their ids and 0 elsewhere, [P, C, V]; XLA fuses it into its consumer."""
    return jnp.where(_vocab_iota(logits_PCV) == ids_PC[..., None], values_PC[..., None], 0.0)


def max_and_normaliser(logits_PCV: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(max_PC, logsumexp_PC) over the vocabulary."""
    max_PC = jnp.max(logits_PCV, axis=-1)
    sum_PC = jnp.sum(jnp.exp(logits_PCV - max_PC[..., None]), axis=-1)
    return max_PC, max_PC + jnp.log(sum_PC)


def sums(*tables_PCV: jax.Array) -> tuple[jax.Array, ...]:
    """The sum over V of each table, all in one pass that writes none of the tables to memory.

    A single sum goes, on CPUs, to a kernel that first writes out what it adds up, which took 2.6
    times as long as one pass with two sums.
    """
    if ways("tensor") > 1:
        return tuple(jnp.sum(table, axis=-1) for table in tables_PCV)
    zeros = tuple(jnp.zeros((), table.dtype) for table in tables_PCV)
    add = lambda a, b: tuple(x + y for x, y in zip(a, b, strict=True))  # noqa: E731
    return jax.lax.reduce(tables_PCV, zeros, add, (tables_PCV[0].ndim - 1,))


# --- a weighted sum over rows, with its gradient taken in the forward pass -----------------------
@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def sum_over_rows(
    row_loss: RowLoss,
    chunk: int | None,
    hidden_MD: jax.Array,
    head_VD: jax.Array,
    rows: Any,
    constants: Any,
) -> tuple[jax.Array, Statistics]:
    """(sum over rows of a loss of their logits, dict of per-row statistics_M).

    `row_loss(logits_PCV, rows_PC, constants) -> (losses_PC, statistics_PC, dlogits_PCV)` computes
    its own gradient. Differentiable in hidden_MD and head_VD; `rows` (a tree of [M, ...], 0 in
    padded rows) and `constants` get no gradient, and the statistics pass none on.
    chunk: rows a device takes at a time; None: `default_chunk`.
    """
    return _scan_rows(row_loss, chunk, hidden_MD, head_VD, rows, constants, gradients=False)[0]


def _forward(
    row_loss: RowLoss,
    chunk: int | None,
    hidden_MD: jax.Array,
    head_VD: jax.Array,
    rows: Any,
    constants: Any,
) -> tuple:
    return _scan_rows(row_loss, chunk, hidden_MD, head_VD, rows, constants, gradients=True)


def _backward(
    row_loss: RowLoss, chunk: int | None, gradients: tuple[jax.Array, jax.Array], cotangents: tuple
) -> tuple:
    scaled = ((cotangents[0] * g).astype(g.dtype) for g in gradients)
    return *scaled, None, None


sum_over_rows.defvjp(_forward, _backward)


def _scan_rows(
    row_loss: RowLoss,
    chunk: int | None,
    hidden_MD: jax.Array,
    head_VD: jax.Array,
    rows: Any,
    constants: Any,
    *,
    gradients: bool,
) -> tuple:
    """((sum, statistics), (dhidden_MD, dhead_VD), or None without `gradients`)."""
    head = pin(head_VD.astype(hidden_MD.dtype), "vocab", None)
    chunks = split((hidden_MD, rows), chunk or default_chunk(head.shape[0]))
    parts = chunks[0].shape[1]

    def one_chunk(dhead_PDV: Any, xs: tuple) -> tuple[Any, Any]:  # no carry without gradients
        hidden_PCD, rows_PC = xs
        logits_PCV = logits_of(hidden_PCD, head)
        losses_PC, statistics, dlogits_PCV = row_loss(logits_PCV, rows_PC, constants)
        if not gradients:
            return dhead_PDV, (losses_PC, statistics, None)
        dlogits_PCV = dlogits_PCV.astype(head.dtype)
        dhidden_PCD = jnp.einsum("PCV,VD->PCD", dlogits_PCV, head)
        dhead_PDV = _add_gradient(dhead_PDV, dlogits_PCV, hidden_PCD)
        return dhead_PDV, (losses_PC, statistics, dhidden_PCD)

    zero: Any = _no_gradient(parts, head) if gradients else None
    dhead_PDV, (losses, statistics, dhidden) = jax.lax.scan(one_chunk, zero, chunks)
    total = jnp.sum(losses), join(statistics, hidden_MD.shape[0])
    if not gradients:
        return total, None
    return total, (join(dhidden, hidden_MD.shape[0]), _head_gradient(dhead_PDV, head_VD))


def _no_gradient(parts: int, head_VD: jax.Array) -> jax.Array:
    shape = (parts, head_VD.shape[1], head_VD.shape[0])
    return pin(jnp.zeros(shape, wide_dtype(head_VD)), "rows", None, "vocab")


def _add_gradient(dhead_PDV: jax.Array, dlogits_PCV: jax.Array, hidden_PCD: jax.Array) -> jax.Array:
    """Add a chunk's gradient of the head, for each part of the rows, in fp32.

    Computed transposed ([D, V]): XLA:CPU is about twice as fast when the narrower operand comes
    first.
    """
    wide = wide_dtype(hidden_PCD)
    share = jnp.einsum("PCD,PCV->PDV", hidden_PCD, dlogits_PCV, preferred_element_type=wide)
    return pin(dhead_PDV + share, "rows", None, "vocab")


def _head_gradient(dhead_PDV: jax.Array, head_VD: jax.Array) -> jax.Array:
    """dhead_VD: the sum over the parts, made once, after the scan."""
    # The barrier keeps XLA from moving the transpose into the products of the scan.
    dhead_DV = jax.lax.optimization_barrier(jnp.sum(dhead_PDV, axis=0))
    return dhead_DV.T.astype(head_VD.dtype)


# --- cross-entropy --------------------------------------------------------------------------------
def cross_entropy(
    hidden_MD: jax.Array,
    head_VD: jax.Array,
    targets_M: jax.Array,
    weights_M: jax.Array,
    *,
    z_loss: float = 0.0,
    chunk: int | None = None,
) -> tuple[jax.Array, Statistics]:
    """(sum over rows of weight * (-log p(target) + z_loss * normaliser^2), per-row statistics).

    Statistics, without gradient and without weights: `ce_M` in nats, `normaliser_M` (logsumexp),
    and `correct_M`, 1 where no other id scores higher than the target. Weights are constants.
    """
    rows = {"targets": targets_M, "weights": weights_M}
    return sum_over_rows(partial(_ce_rows, z_loss), chunk, hidden_MD, head_VD, rows, ())


def _ce_rows(
    z_loss: float, logits_PCV: jax.Array, rows: Mapping[str, jax.Array], constants: Any
) -> tuple[jax.Array, Statistics, jax.Array]:
    targets_PC, weights_PC = rows["targets"], rows["weights"]
    max_PC, normaliser_PC = max_and_normaliser(logits_PCV)
    target_PC = at(logits_PCV, targets_PC)
    ce_PC = normaliser_PC - target_PC
    losses_PC = weights_PC * (ce_PC + z_loss * jnp.square(normaliser_PC))
    # d loss / d logit = p * slope - weight at the target, with d normaliser / d logit = p.
    slope_PC = weights_PC * (1.0 + 2.0 * z_loss * normaliser_PC)
    dlogits_PCV = jnp.exp(logits_PCV - normaliser_PC[..., None]) * slope_PC[..., None]
    dlogits_PCV -= one_hot_times(logits_PCV, targets_PC, weights_PC)
    correct_PC = (target_PC >= max_PC).astype(jnp.float32)
    return losses_PC, {"ce": ce_PC, "normaliser": normaliser_PC, "correct": correct_PC}, dlogits_PCV


# --- log-probabilities and entropy, per row -------------------------------------------------------
def log_probs(
    hidden_MD: jax.Array,
    head_VD: jax.Array,
    targets_M: jax.Array,
    *,
    temperature: float = 1.0,
    chunk: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """(log p(target)_M, entropy_M) in nats of softmax(logits / temperature); differentiable.

    For losses that are a nonlinear function of single rows' log-probabilities (policy gradients):
    the backward pass has to compute the logits again (four matrix products). Raises ValueError
    for a temperature of 0 or below.
    """
    if temperature <= 0:
        raise ValueError(f"temperature {temperature} must be above 0; the argmax has no log-probs")
    return _log_probs(float(temperature), chunk, hidden_MD, head_VD, targets_M)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _log_probs(
    temperature: float,
    chunk: int | None,
    hidden_MD: jax.Array,
    head_VD: jax.Array,
    targets_M: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    return _log_probs_forward(temperature, chunk, hidden_MD, head_VD, targets_M)[0]


def _log_probs_forward(
    temperature: float,
    chunk: int | None,
    hidden_MD: jax.Array,
    head_VD: jax.Array,
    targets_M: jax.Array,
) -> tuple:
    head = pin(head_VD.astype(hidden_MD.dtype), "vocab", None)

    def one_chunk(_: None, xs: tuple) -> tuple[None, Any]:
        hidden_PCD, targets_PC = xs
        logits_PCV = logits_of(hidden_PCD, head) / temperature
        max_PC = jnp.max(logits_PCV, axis=-1)
        shifted_PCV = logits_PCV - max_PC[..., None]
        terms_PCV = jnp.exp(shifted_PCV)
        # With x the logits less their maximum: entropy = log sum e^x - (sum x e^x) / sum e^x.
        sum_PC, weighted_PC = sums(terms_PCV, terms_PCV * shifted_PCV)
        normaliser_PC = max_PC + jnp.log(sum_PC)
        entropy_PC = jnp.log(sum_PC) - weighted_PC / sum_PC
        return None, (at(logits_PCV, targets_PC) - normaliser_PC, entropy_PC, normaliser_PC)

    chunks = split((hidden_MD, targets_M), chunk or default_chunk(head.shape[0]))
    _, outputs = jax.lax.scan(one_chunk, None, chunks)
    logp_M, entropy_M, normaliser_M = join(outputs, hidden_MD.shape[0])
    return (logp_M, entropy_M), (hidden_MD, head_VD, targets_M, entropy_M, normaliser_M)


def _log_probs_backward(
    temperature: float, chunk: int | None, saved: tuple, cotangents: tuple[jax.Array, jax.Array]
) -> tuple:
    hidden_MD, head_VD, targets_M, entropy_M, normaliser_M = saved
    head = pin(head_VD.astype(hidden_MD.dtype), "vocab", None)

    def one_chunk(dhead_PDV: jax.Array, xs: tuple) -> tuple[jax.Array, jax.Array]:
        hidden_PCD, targets_PC, entropy_PC, normaliser_PC, dlogp_PC, dentropy_PC = xs
        logits_PCV = logits_of(hidden_PCD, head) / temperature
        shifted_PCV = logits_PCV - normaliser_PC[..., None]
        # d entropy / d logit = -p (log p + entropy)
        slope_PCV = dlogp_PC[..., None] + dentropy_PC[..., None] * (
            shifted_PCV + entropy_PC[..., None]
        )
        dlogits_PCV = one_hot_times(logits_PCV, targets_PC, dlogp_PC)
        dlogits_PCV = (dlogits_PCV - jnp.exp(shifted_PCV) * slope_PCV) / temperature
        dlogits_PCV = dlogits_PCV.astype(head.dtype)
        dhidden_PCD = jnp.einsum("PCV,VD->PCD", dlogits_PCV, head)
        return _add_gradient(dhead_PDV, dlogits_PCV, hidden_PCD), dhidden_PCD

    rows = (hidden_MD, targets_M, entropy_M, normaliser_M, *cotangents)
    chunks = split(rows, chunk or default_chunk(head.shape[0]))
    zero = _no_gradient(chunks[0].shape[1], head)
    dhead_PDV, dhidden = jax.lax.scan(one_chunk, zero, chunks)
    return join(dhidden, hidden_MD.shape[0]), _head_gradient(dhead_PDV, head_VD), None


_log_probs.defvjp(_log_probs_forward, _log_probs_backward)


# --- top-k ----------------------------------------------------------------------------------------
def top_k_log_probs(
    hidden_MD: jax.Array,
    head_VD: jax.Array,
    k: int,
    *,
    temperature: float = 1.0,
    vocab: int | None = None,
    chunk: int | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(log_probs_MK, ids_MK int32, normaliser_M) of each row's k likeliest ids, without gradient.

    The log-probs are those of the full distribution over the first `vocab` ids (default: all), so
    the tail's mass is what they lack of 1; log-prob + normaliser is the logit over temperature.
    Raises ValueError for a k outside 1..V.
    """
    head_VD = head_VD if vocab is None else head_VD[:vocab]
    if not 1 <= k <= head_VD.shape[0]:
        raise ValueError(f"top {k} of a vocabulary of {head_VD.shape[0]}: k must be 1 to that")
    head = pin(head_VD.astype(hidden_MD.dtype), "vocab", None)

    def one_chunk(_: None, hidden_PCD: jax.Array) -> tuple[None, Any]:
        logits_PCV = logits_of(hidden_PCD, head) / temperature
        normaliser_PC = max_and_normaliser(logits_PCV)[1]
        values_PCK, ids_PCK = top_k(logits_PCV, k)
        return None, (values_PCK - normaliser_PC[..., None], ids_PCK, normaliser_PC)

    chunks = split(jax.lax.stop_gradient(hidden_MD), chunk or default_chunk(head.shape[0]))
    _, outputs = jax.lax.scan(one_chunk, None, chunks)
    return join(outputs, hidden_MD.shape[0])


def top_k(logits_PCV: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """(values_PCK, ids_PCK) of the k largest; over a sharded vocabulary, the top k of every shard's
    top k.
    """
    shards, vocab = ways("tensor"), logits_PCV.shape[-1]
    if shards == 1 or vocab % shards or vocab // shards < k:
        return jax.lax.top_k(logits_PCV, k)
    sharded = logits_PCV.reshape(*logits_PCV.shape[:-1], shards, vocab // shards)
    values, ids = jax.lax.top_k(pin(sharded, "rows", None, "vocab", None), k)
    ids += (jnp.arange(shards, dtype=ids.dtype) * (vocab // shards))[:, None]
    values, ids = (x.reshape(*x.shape[:-2], shards * k) for x in (values, ids))
    best, index = jax.lax.top_k(values, k)
    return best, jnp.take_along_axis(ids, index, axis=-1)
