"""Divergences of a student from a constant teacher, chunked as in `chunked`: never [M, V].

With buckets v (the vocabulary; or k ids and one bucket for the rest), s and t the two
distributions, each kind gives the terms of its value per row, and g_v = s_v * dD/ds_v, from which
the gradient by the student's logits is g_v - s_v * sum(g). Conventions are those of GKD (arXiv
2306.13649) as TRL codes it:

    reverse_kl   KL(s||t)
    forward_kl   KL(t||s)
    jsd          beta KL(t||m) + (1 - beta) KL(s||m),  m = (1 - beta) s + beta t
    mix          forward_weight * forward_kl + (1 - forward_weight) * reverse_kl

jsd at beta 0 means forward_kl and at beta 1 reverse_kl. These ends are *discontinuous*: the
interior goes to 0 at both ends, and only jsd / beta -> forward_kl, jsd / (1 - beta) -> reverse_kl.
So beta is a choice, not something to anneal to an end.

A sampled token can stand in for the sum (`sampled`): its value is k1 = log s(y) - log t(y), its
gradient that of the score function, k1 * d log s(y), whose mean over y ~ s is the gradient of
reverse_kl. (Backpropagating k1 itself would have mean 0.)
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from qwen3.ops.chunked import (
    at,
    logits_of,
    max_and_normaliser,
    one_hot_times,
    sum_over_rows,
    sums,
    top_k,
)
from qwen3.ops.row_chunks import default_chunk, pin


def _reverse_kl(log_s, log_t, _):
    g = jnp.exp(log_s) * (log_s - log_t)
    return g, g


def _forward_kl(log_s, log_t, _):
    t = jnp.exp(log_t)
    return t * (log_t - log_s), -t


def _jsd(log_s, log_t, beta):
    log_m = jnp.logaddexp(jnp.log1p(-beta) + log_s, jnp.log(beta) + log_t)
    g = (1.0 - beta) * jnp.exp(log_s) * (log_s - log_m)
    return beta * jnp.exp(log_t) * (log_t - log_m) + g, g


def _mix(log_s, log_t, forward_weight):
    reverse, forward = _reverse_kl(log_s, log_t, None), _forward_kl(log_s, log_t, None)
    blend = lambda f, r: forward_weight * f + (1.0 - forward_weight) * r  # noqa: E731
    return tuple(blend(f, r) for f, r in zip(forward, reverse, strict=True))


KINDS = {"reverse_kl": _reverse_kl, "forward_kl": _forward_kl, "jsd": _jsd, "mix": _mix}
_MIXING = {"jsd": "beta", "mix": "forward_weight"}
_NOWHERE = -1e30  # log of no mass: finite, so that 0 * log 0 is 0 and not NaN


class DivergenceKind(NamedTuple):
    """A kind of divergence by name and its mixing parameter (beta or forward_weight), if any."""

    name: str
    mixing: float = 0.0


def resolve(kind, *, beta=None, forward_weight=None) -> DivergenceKind:
    """Check a kind's name and parameter; jsd's ends become the KLs that they stand for.

    Raises ValueError for an unknown kind, and for a parameter that is missing, out of [0, 1], or
    not of this kind.
    """
    if kind not in KINDS:
        raise ValueError(f"divergence {kind!r} is not one of {', '.join(KINDS)}")
    given = {"beta": beta, "forward_weight": forward_weight}
    needed = _MIXING.get(kind)
    for name, value in given.items():
        if (value is None) == (name == needed):
            word = "needs" if value is None else "has no"
            raise ValueError(f"divergence {kind!r} {word} {name} (got {value})")
    if needed is None:
        return DivergenceKind(kind)
    value = float(given[needed])
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{needed} {value} of divergence {kind!r} is not between 0 and 1")
    ends = {0.0: "forward_kl", 1.0: "reverse_kl"} if kind == "jsd" else {}
    return DivergenceKind(ends[value]) if value in ends else DivergenceKind(kind, value)


def divergence(
    student_MD,
    student_head_VD,
    teacher_ME,
    teacher_head_VE,
    targets_M,
    weights_M,
    *,
    kind="reverse_kl",
    beta=None,
    forward_weight=None,
    top=None,
    sampled=False,
    temperature=1.0,
    vocab=None,
    chunk=None,
):
    """(sum of weight * D(student, teacher) over rows, per-row statistics); the teacher is constant.

    `top` = k puts all but the student's k likeliest ids into one bucket; `sampled` uses the target
    id alone (reverse_kl only). `vocab` cuts both heads to one vocabulary before the softmax.
    Statistics_M, without gradient: `divergence`, `k1` (of the target), `entropy` and
    `teacher_entropy` (nats; with top or sampled those of the buckets are not used: full ones),
    `agree`, 1 where both have the same likeliest id. Widths D and E may differ.
    Raises ValueError for vocabularies that differ after the cut, and as `resolve`.
    """
    vocabs = student_head_VD.shape[0], teacher_head_VE.shape[0]
    if vocab is None and vocabs[0] != vocabs[1]:
        raise ValueError(f"vocabularies of {vocabs[0]} and {vocabs[1]} ids: pass one `vocab`")
    vocab = vocabs[0] if vocab is None else vocab
    if not 1 <= vocab <= min(vocabs):
        raise ValueError(f"vocab {vocab} is not within the heads' {vocabs[0]} and {vocabs[1]} rows")
    if top is not None and not 1 <= top <= vocab:
        raise ValueError(f"top {top} of a vocabulary of {vocab}: must be 1 to that")
    if sampled and (top is not None or kind != "reverse_kl"):
        raise ValueError(f"sampled estimates reverse_kl over the vocabulary, not {kind!r}, {top=}")
    settled = resolve(kind, beta=beta, forward_weight=forward_weight)
    teacher_head = pin(teacher_head_VE[:vocab].astype(teacher_ME.dtype), "vocab", None)
    rows = {"teacher": teacher_ME, "targets": targets_M, "weights": weights_M}
    rows, teacher_head = jax.lax.stop_gradient((rows, teacher_head))
    row_loss = partial(_divergence_rows, settled, top, sampled, float(temperature))
    chunk = chunk or default_chunk(vocab, tables=2)
    return sum_over_rows(row_loss, chunk, student_MD, student_head_VD[:vocab], rows, teacher_head)


def _divergence_rows(kind, top, sampled, temperature, logits_PCV, rows, teacher_head):
    student, teacher = logits_PCV, logits_of(rows["teacher"], teacher_head)
    (s_max, s_shift), (t_max, t_shift) = (_shifts(x, temperature) for x in (student, teacher))
    log_s, log_t = student / temperature - s_shift, teacher / temperature - t_shift
    k1_PC = at(log_s, rows["targets"]) - at(log_t, rows["targets"])
    terms, g = KINDS[kind.name](log_s, log_t, kind.mixing)
    value_PC, total_PC, minus_entropy_PC = sums(terms, g, jnp.exp(log_s) * log_s)
    # The gradient makes its log-probs (and exponentials) again instead of sharing those of the
    # value: two more [C, V] tables in memory would cost more than the arithmetic.
    s_shift, t_shift = jax.lax.optimization_barrier((s_shift, t_shift))
    again_s, again_t = student / temperature - s_shift, teacher / temperature - t_shift
    if sampled:
        value_PC, dlogits = k1_PC, one_hot_times(again_s, rows["targets"], k1_PC)
        dlogits -= jnp.exp(again_s) * k1_PC[..., None]
    elif top is None:
        _, g = KINDS[kind.name](again_s, again_t, kind.mixing)
        dlogits = g - jnp.exp(again_s) * total_PC[..., None]
    else:
        best_PCK, ids_PCK = top_k(log_s, top)
        chosen = _chosen(log_t, ids_PCK)
        _, tail_PC = max_and_normaliser(jnp.where(chosen, _NOWHERE, log_t))
        best = best_PCK, jnp.take_along_axis(log_t, ids_PCK, axis=-1), tail_PC
        value_PC, dlogits = _bucketed(kind, log_s, ids_PCK, *best)
    dlogits *= rows["weights"][..., None] / temperature
    statistics = {
        "divergence": value_PC,
        "k1": k1_PC,
        "entropy": -minus_entropy_PC,
        "teacher_entropy": -jnp.sum(jnp.exp(log_t) * log_t, axis=-1),
        "agree": jnp.any((log_s >= s_max) & (log_t >= t_max), axis=-1).astype(value_PC.dtype),
    }
    return rows["weights"] * value_PC, statistics, dlogits


def _shifts(logits_PCV, temperature):
    """(largest log-prob_PC1, normaliser_PC1) of the softmax of logits / temperature."""
    max_PC, normaliser_PC = max_and_normaliser(logits_PCV / temperature)
    return (max_PC - normaliser_PC)[..., None], normaliser_PC[..., None]


def _bucketed(kind, log_s_PCV, ids_PCK, student_PCK, teacher_PCK, teacher_tail_PC):
    """(value_PC, dlogits_PCV) over K ids and one bucket for all other ids."""
    chosen = _chosen(log_s_PCV, ids_PCK)
    rest = jnp.where(chosen, _NOWHERE, log_s_PCV)
    _, student_tail_PC = max_and_normaliser(rest)
    log_s = jnp.concatenate([student_PCK, student_tail_PC[..., None]], axis=-1)
    log_t = jnp.concatenate([teacher_PCK, teacher_tail_PC[..., None]], axis=-1)
    terms, g = KINDS[kind.name](log_s, log_t, kind.mixing)
    dbuckets = g - jnp.exp(log_s) * jnp.sum(g, axis=-1, keepdims=True)
    # Within the tail the gradient is shared out by the student's own odds there.
    within = jnp.where(chosen, 0.0, jnp.exp(rest - student_tail_PC[..., None]))
    value_PC = jnp.sum(terms, axis=-1)
    return value_PC, _put(within * dbuckets[..., -1:], ids_PCK, dbuckets[..., :-1])


def _chosen(x_PCV, ids_PCK):
    return _put(jnp.zeros_like(x_PCV), ids_PCK, jnp.ones_like(ids_PCK, x_PCV.dtype)) > 0


def _put(x_PCV, ids_PCK, values_PCK):
    """x with values at ids, row by row."""
    put = jax.vmap(jax.vmap(lambda x, ids, values: x.at[ids].set(values)))
    return put(x_PCV, ids_PCK, values_PCK)


def _log_rest(log_probs_PCK, vocab):
    """log of what the k probabilities lack of 1, at least the rounding unit; none where k is V.

    The floor keeps a tail that rounding ate from costing the student an unbounded reverse KL.
    """
    total = jax.nn.logsumexp(log_probs_PCK, axis=-1)
    if log_probs_PCK.shape[-1] == vocab:
        return jnp.full_like(total, _NOWHERE)
    return jnp.log(-jnp.expm1(jnp.minimum(total, -jnp.finfo(total.dtype).eps)))


def stored_divergence(
    hidden_MD,
    head_VD,
    ids_MK,
    teacher_logp_MK,
    weights_M,
    *,
    kind="forward_kl",
    beta=None,
    forward_weight=None,
    temperature=1.0,
    chunk=None,
):
    """(sum of weight * D over rows, statistics_M) against a teacher's stored top k, with a tail.

    `teacher_logp_MK` are full log-probs (stored logit - stored normaliser, at the temperature of
    this call), so what they lack of 1 is the tail's mass: the student pays for mass outside the k.
    `ids_MK` must be distinct within a row, and ids at or above V raise no error here: check them
    where the file is read. Padding: weight 0. Raises ValueError as `resolve`.
    """
    settled = resolve(kind, beta=beta, forward_weight=forward_weight)
    rows = {"ids": ids_MK, "teacher": teacher_logp_MK, "weights": weights_M}
    row_loss = partial(_stored_rows, settled, float(temperature))
    return sum_over_rows(row_loss, chunk, hidden_MD, head_VD, jax.lax.stop_gradient(rows), ())


def _stored_rows(kind, temperature, logits_PCV, rows, constants):
    log_s = logits_PCV / temperature - _shifts(logits_PCV, temperature)[1]
    student_PCK = jnp.take_along_axis(log_s, rows["ids"], axis=-1)
    tail_PC = _log_rest(rows["teacher"], logits_PCV.shape[-1])
    teacher = rows["teacher"], tail_PC
    value_PC, dlogits = _bucketed(kind, log_s, rows["ids"], student_PCK, *teacher)
    dlogits *= rows["weights"][..., None] / temperature
    statistics = {
        "divergence": value_PC,
        "entropy": -jnp.sum(jnp.exp(log_s) * log_s, axis=-1),
        "student_mass": jnp.sum(jnp.exp(student_PCK), axis=-1),
        "teacher_mass": jnp.sum(jnp.exp(rows["teacher"]), axis=-1),
    }
    return rows["weights"] * value_PC, statistics, dlogits
