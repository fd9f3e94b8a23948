"""Cross-entropy, log-probabilities and top-k over the vocabulary without ever holding [M, V].

A scan over chunks of rows makes the fp32 logits of one chunk at a time. Where the loss is a
weighted sum over rows, the gradient of that sum is taken in the forward pass, while the logits
are there (three matrix products, not four); the backward pass only scales it. Rows are padded,
chunked and placed by `rows`; vocabulary sharding needs nothing here but reductions over V.

Shapes: hidden_MD rows of final hidden states, head_VD the output matrix, P parts, C rows of a
part. All logits and reductions are fp32; the products take the dtype of `hidden`.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from qwen3.ops.row_chunks import default_chunk, join, pin, split, ways


def logits_of(hidden_PCD, head_VD):
    """logits_PCV in fp32, whatever the dtype of the products."""
    wide = wide_dtype(head_VD)
    logits_PCV = jnp.einsum("PCD,VD->PCV", hidden_PCD, head_VD, preferred_element_type=wide)
    return pin(logits_PCV, "rows", None, "vocab")


def wide_dtype(x):
    """fp32, or fp64 where the array is (in tests)."""
    return jnp.promote_types(x.dtype, jnp.float32)


def _vocab_iota(logits_PCV):
    return jax.lax.broadcasted_iota(jnp.int32, logits_PCV.shape, logits_PCV.ndim - 1)


def at(logits_PCV, ids_PC):
    """logits at one id per row; with a sharded vocabulary each device looks up its own share."""
    if ways("tensor") == 1:
        return jnp.take_along_axis(logits_PCV, ids_PC[..., None], axis=-1)[..., 0]
    here = _vocab_iota(logits_PCV) == ids_PC[..., None]
    return jnp.sum(jnp.where(here, logits_PCV, 0.0), axis=-1)


def one_hot_times(logits_PCV, ids_PC, values_PC):
    """values at ids and 0 elsewhere, in the shape of the logits; fuses into its consumer."""
    return jnp.where(_vocab_iota(logits_PCV) == ids_PC[..., None], values_PC[..., None], 0.0)


def max_and_normaliser(logits_PCV):
    """(max_PC, logsumexp_PC)."""
    max_PC = jnp.max(logits_PCV, axis=-1)
    sum_PC = jnp.sum(jnp.exp(logits_PCV - max_PC[..., None]), axis=-1)
    return max_PC, max_PC + jnp.log(sum_PC)


def sums(*tables_PCV):
    """The sum over V of each table, all in one pass that makes none of them in memory.

    One sum alone goes, on CPUs, to a kernel that first writes out what it adds up: it was measured
    at 2.6 times the time of a pass with two sums.
    """
    if ways("tensor") > 1:
        return tuple(jnp.sum(table, axis=-1) for table in tables_PCV)
    zeros = tuple(jnp.zeros((), table.dtype) for table in tables_PCV)
    add = lambda a, b: tuple(x + y for x, y in zip(a, b, strict=True))  # noqa: E731
    return jax.lax.reduce(tables_PCV, zeros, add, (tables_PCV[0].ndim - 1,))


# --- a weighted sum over rows, with its gradient taken in the forward pass -----------------------
@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def sum_over_rows(row_loss, chunk, hidden_MD, head_VD, rows, constants):
    """(sum over rows of a loss of their logits, dict of per-row statistics_M).

    `row_loss(logits_PCV, rows_PC, constants) -> (losses_PC, statistics_PC, dlogits_PCV)` gives its
    own gradient. Differentiable in hidden_MD and head_VD; `rows` (a tree of [M, ...], 0 in padded
    rows) and `constants` get no gradient, and neither do the statistics give one.
    """
    return _scan_rows(row_loss, chunk, hidden_MD, head_VD, rows, constants, gradients=False)[0]


def _forward(row_loss, chunk, hidden_MD, head_VD, rows, constants):
    return _scan_rows(row_loss, chunk, hidden_MD, head_VD, rows, constants, gradients=True)


def _backward(row_loss, chunk, gradients, cotangents):
    scaled = ((cotangents[0] * g).astype(g.dtype) for g in gradients)
    return *scaled, None, None


sum_over_rows.defvjp(_forward, _backward)


def _scan_rows(row_loss, chunk, hidden_MD, head_VD, rows, constants, *, gradients):
    """((sum, statistics), (dhidden_MD, dhead_VD) or None)."""
    head = pin(head_VD.astype(hidden_MD.dtype), "vocab", None)
    chunks = split((hidden_MD, rows), chunk or default_chunk(head.shape[0]))
    parts = chunks[0].shape[1]

    def one_chunk(dhead_PDV, xs):
        hidden_PCD, rows_PC = xs
        logits_PCV = logits_of(hidden_PCD, head)
        losses_PC, statistics, dlogits_PCV = row_loss(logits_PCV, rows_PC, constants)
        if not gradients:
            return dhead_PDV, (losses_PC, statistics, None)
        dlogits_PCV = dlogits_PCV.astype(head.dtype)
        dhidden_PCD = jnp.einsum("PCV,VD->PCD", dlogits_PCV, head)
        dhead_PDV = _add_gradient(dhead_PDV, dlogits_PCV, hidden_PCD)
        return dhead_PDV, (losses_PC, statistics, dhidden_PCD)

    zero = _no_gradient(parts, head) if gradients else None
    dhead_PDV, (losses, statistics, dhidden) = jax.lax.scan(one_chunk, zero, chunks)
    total = jnp.sum(losses), join(statistics, hidden_MD.shape[0])
    if not gradients:
        return total, None
    return total, (join(dhidden, hidden_MD.shape[0]), _head_gradient(dhead_PDV, head_VD))


def _no_gradient(parts, head_VD):
    shape = (parts, head_VD.shape[1], head_VD.shape[0])
    return pin(jnp.zeros(shape, wide_dtype(head_VD)), "rows", None, "vocab")


def _add_gradient(dhead_PDV, dlogits_PCV, hidden_PCD):
    """Each part's share of the head's gradient, fp32. Turned round: XLA:CPU multiplies over rows at
    half its rate unless the narrower factor comes first.
    """
    wide = wide_dtype(hidden_PCD)
    share = jnp.einsum("PCD,PCV->PDV", hidden_PCD, dlogits_PCV, preferred_element_type=wide)
    return pin(dhead_PDV + share, "rows", None, "vocab")


def _head_gradient(dhead_PDV, head_VD):
    """The parts added, once, after the scan. The barrier keeps XLA from turning a product back."""
    dhead_DV = jax.lax.optimization_barrier(jnp.sum(dhead_PDV, axis=0))
    return dhead_DV.T.astype(head_VD.dtype)


# --- cross-entropy --------------------------------------------------------------------------------
def cross_entropy(hidden_MD, head_VD, targets_M, weights_M, *, z_loss=0.0, chunk=None):
    """(sum over rows of weight * (-log p(target) + z_loss * normaliser^2), per-row statistics).

    Statistics, without gradient and without weights: `ce_M`, `normaliser_M` (logsumexp), and
    `correct_M`, 1 where no other id scores higher than the target. Weights are constants.
    """
    rows = {"targets": targets_M, "weights": weights_M}
    return sum_over_rows(partial(_ce_rows, z_loss), chunk, hidden_MD, head_VD, rows, ())


def _ce_rows(z_loss, logits_PCV, rows, constants):
    targets_PC, weights_PC = rows["targets"], rows["weights"]
    max_PC, normaliser_PC = max_and_normaliser(logits_PCV)
    target_PC = at(logits_PCV, targets_PC)
    ce_PC = normaliser_PC - target_PC
    losses_PC = weights_PC * (ce_PC + z_loss * jnp.square(normaliser_PC))
    slope_PC = weights_PC * (1.0 + 2.0 * z_loss * normaliser_PC)
    dlogits_PCV = jnp.exp(logits_PCV - normaliser_PC[..., None]) * slope_PC[..., None]
    dlogits_PCV -= one_hot_times(logits_PCV, targets_PC, weights_PC)
    correct_PC = (target_PC >= max_PC).astype(jnp.float32)
    return losses_PC, {"ce": ce_PC, "normaliser": normaliser_PC, "correct": correct_PC}, dlogits_PCV


# --- log-probabilities and entropy, per row -------------------------------------------------------
def log_probs(hidden_MD, head_VD, targets_M, *, temperature=1.0, chunk=None):
    """(log p(target)_M, entropy_M) in nats of softmax(logits / temperature); differentiable.

    Used where the loss is a nonlinear function of single rows' log-probabilities, so that the
    backward pass has to make the logits again (four matrix products).
    """
    if temperature <= 0:
        raise ValueError(f"temperature {temperature} must be above 0; the argmax has no log-probs")
    return _log_probs(float(temperature), chunk, hidden_MD, head_VD, targets_M)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _log_probs(temperature, chunk, hidden_MD, head_VD, targets_M):
    return _log_probs_forward(temperature, chunk, hidden_MD, head_VD, targets_M)[0]


def _log_probs_forward(temperature, chunk, hidden_MD, head_VD, targets_M):
    head = pin(head_VD.astype(hidden_MD.dtype), "vocab", None)

    def one_chunk(_, xs):
        hidden_PCD, targets_PC = xs
        logits_PCV = logits_of(hidden_PCD, head) / temperature
        max_PC = jnp.max(logits_PCV, axis=-1)
        shifted_PCV = logits_PCV - max_PC[..., None]
        terms_PCV = jnp.exp(shifted_PCV)
        sum_PC, weighted_PC = sums(terms_PCV, terms_PCV * shifted_PCV)
        normaliser_PC = max_PC + jnp.log(sum_PC)
        entropy_PC = jnp.log(sum_PC) - weighted_PC / sum_PC
        return None, (at(logits_PCV, targets_PC) - normaliser_PC, entropy_PC, normaliser_PC)

    chunks = split((hidden_MD, targets_M), chunk or default_chunk(head.shape[0]))
    _, outputs = jax.lax.scan(one_chunk, None, chunks)
    logp_M, entropy_M, normaliser_M = join(outputs, hidden_MD.shape[0])
    return (logp_M, entropy_M), (hidden_MD, head_VD, targets_M, entropy_M, normaliser_M)


def _log_probs_backward(temperature, chunk, saved, cotangents):
    hidden_MD, head_VD, targets_M, entropy_M, normaliser_M = saved
    head = pin(head_VD.astype(hidden_MD.dtype), "vocab", None)

    def one_chunk(dhead_PDV, xs):
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
def top_k_log_probs(hidden_MD, head_VD, k, *, temperature=1.0, vocab=None, chunk=None):
    """(log-probs_MK, ids_MK int32, normaliser_M) of each row's k likeliest ids, no gradient.

    The log-probs are those of the full distribution over the first `vocab` ids (default: all), so
    the tail's mass is what they lack of 1; log-prob + normaliser is the logit over temperature.
    Raises ValueError for a k outside 1..V.
    """
    head_VD = head_VD if vocab is None else head_VD[:vocab]
    if not 1 <= k <= head_VD.shape[0]:
        raise ValueError(f"top {k} of a vocabulary of {head_VD.shape[0]}: k must be 1 to that")
    head = pin(head_VD.astype(hidden_MD.dtype), "vocab", None)

    def one_chunk(_, hidden_PCD):
        logits_PCV = logits_of(hidden_PCD, head) / temperature
        _, normaliser_PC = max_and_normaliser(logits_PCV)
        values_PCK, ids_PCK = top_k(logits_PCV, k)
        return None, (values_PCK - normaliser_PC[..., None], ids_PCK, normaliser_PC)

    chunks = split(jax.lax.stop_gradient(hidden_MD), chunk or default_chunk(head.shape[0]))
    _, outputs = jax.lax.scan(one_chunk, None, chunks)
    return join(outputs, hidden_MD.shape[0])


def top_k(logits_PCV, k):
    """(values_PCK, ids_PCK); over a sharded vocabulary, the top k of each share's top k."""
    shares, vocab = ways("tensor"), logits_PCV.shape[-1]
    if shares == 1 or vocab % shares or vocab // shares < k:
        return jax.lax.top_k(logits_PCV, k)
    shared = logits_PCV.reshape(*logits_PCV.shape[:-1], shares, vocab // shares)
    values, ids = jax.lax.top_k(pin(shared, "rows", None, "vocab", None), k)
    ids += (jnp.arange(shares, dtype=ids.dtype) * (vocab // shares))[:, None]
    values, ids = (x.reshape(*x.shape[:-2], shares * k) for x in (values, ids))
    best, where = jax.lax.top_k(values, k)
    return best, jnp.take_along_axis(ids, where, axis=-1)
