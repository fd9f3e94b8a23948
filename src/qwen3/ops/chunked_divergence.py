"""Divergences of a student from a constant teacher, chunked as in `chunked`: never [M, V].

With buckets v (the vocabulary; or k ids and one bucket for the rest), s and t the student's and
the teacher's distribution over them, each kind gives the terms of its value per row, and g_v =
s_v * dD/ds_v, from which the gradient by the student's logits is g_v - s_v * sum(g). Conventions
are those of GKD (arXiv 2306.13649) as TRL codes it:

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

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from qwen3.ops.chunked import (
    Statistics,
    at,
    logits_of,
    max_and_normaliser,
    one_hot_times,
    sum_over_rows,
    sums,
    top_k,
)
from qwen3.ops.row_chunks import default_chunk, pin

# (log s, log t, mixing) -> (terms of the value, g), each in the shape of log s
Terms: TypeAlias = Callable[[jax.Array, jax.Array, float], tuple[jax.Array, jax.Array]]


def _reverse_kl(log_s: jax.Array, log_t: jax.Array, _: float) -> tuple[jax.Array, jax.Array]:
    g = jnp.exp(log_s) * (log_s - log_t)
    return g, g


def _forward_kl(log_s: jax.Array, log_t: jax.Array, _: float) -> tuple[jax.Array, jax.Array]:
    t = jnp.exp(log_t)
    return t * (log_t - log_s), -t


def _jsd(log_s: jax.Array, log_t: jax.Array, beta: float) -> tuple[jax.Array, jax.Array]:
    log_m = jnp.logaddexp(jnp.log1p(-beta) + log_s, jnp.log(beta) + log_t)
    g = (1.0 - beta) * jnp.exp(log_s) * (log_s - log_m)
    return beta * jnp.exp(log_t) * (log_t - log_m) + g, g


def _mix(log_s: jax.Array, log_t: jax.Array, forward_weight: float) -> tuple[jax.Array, jax.Array]:
    r_terms, r_g = _reverse_kl(log_s, log_t, 0.0)
    f_terms, f_g = _forward_kl(log_s, log_t, 0.0)
    r_weight = 1.0 - forward_weight
    return forward_weight * f_terms + r_weight * r_terms, forward_weight * f_g + r_weight * r_g


KINDS: dict[str, Terms] = {
    "reverse_kl": _reverse_kl,
    "forward_kl": _forward_kl,
    "jsd": _jsd,
    "mix": _mix,
}
_MIXING = {"jsd": "beta", "mix": "forward_weight"}  # kind -> its parameter
_LOG_ZERO = -1e30  # log of no mass: finite, so that 0 * log 0 is 0 and not NaN


class DivergenceKind(NamedTuple):
    """A kind of divergence by name and its mixing parameter (beta or forward_weight), if any."""

    name: str
    mixing: float = 0.0


def resolve(
    kind: str, *, beta: float | None = None, forward_weight: float | None = None
) -> DivergenceKind:
    """The checked kind and its parameter; jsd with beta 0 or 1 becomes the KL that it stands for.

    Raises ValueError for an unknown kind, and for a parameter that is missing, out of [0, 1], or
    one of another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"divergence {kind!r} is not one of {', '.join(KINDS)}")
    mixing = None
    for name, value in {"beta": beta, "forward_weight": forward_weight}.items():
        if (value is None) == (name == _MIXING.get(kind)):
            word = "needs" if value is None else "has no"
            raise ValueError(f"divergence {kind!r} {word} {name} (got {value})")
        mixing = value if mixing is None else mixing
    if mixing is None:
        return DivergenceKind(kind)
    mixing = float(mixing)
    if not 0.0 <= mixing <= 1.0:
        raise ValueError(f"{_MIXING[kind]} {mixing} of divergence {kind!r} is not between 0 and 1")
    ends = {0.0: "forward_kl", 1.0: "reverse_kl"} if kind == "jsd" else {}
    return DivergenceKind(ends[mixing]) if mixing in ends else DivergenceKind(kind, mixing)


def divergence(
    student_MD: jax.Array,
    student_head_VD: jax.Array,
    teacher_ME: jax.Array,
    teacher_head_VE: jax.Array,
    targets_M: jax.Array,
    weights_M: jax.Array,
    *,
    kind: str = "reverse_kl",
    beta: float | None = None,
    forward_weight: float | None = None,
    top: int | None = None,
    sampled: bool = False,
    temperature: float = 1.0,
    vocab: int | None = None,
    chunk: int | None = None,
) -> tuple[jax.Array, Statistics]:
    """(sum of weight * D(student, teacher) over rows, per-row statistics); the teacher is constant.

    `top` = k puts all but the student's k likeliest ids into one bucket; `sampled` uses the target
    id alone (reverse_kl only). `vocab` cuts both heads to one vocabulary before the softmax.
    temperature: of both softmaxes. The widths D and E may differ.
    Statistics_M, without gradient: `divergence`, `k1` (of the target), `entropy` and
    `teacher_entropy` (nats, always over the full vocabulary), `agree`, 1 where both have the same
    likeliest id. Raises ValueError for vocabularies that differ without a `vocab`, a `vocab` or
    `top` out of range, `sampled` with another kind, and as `resolve`.
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
    resolved = resolve(kind, beta=beta, forward_weight=forward_weight)
    teacher_head = pin(teacher_head_VE[:vocab].astype(teacher_ME.dtype), "vocab", None)
    rows = {"teacher": teacher_ME, "targets": targets_M, "weights": weights_M}
    rows, teacher_head = jax.lax.stop_gradient((rows, teacher_head))
    row_loss = partial(_divergence_rows, resolved, top, sampled, float(temperature))
    chunk = chunk or default_chunk(vocab, tables=2)
    return sum_over_rows(row_loss, chunk, student_MD, student_head_VD[:vocab], rows, teacher_head)


def _divergence_rows(
    kind: DivergenceKind,
    top: int | None,
    sampled: bool,
    temperature: float,
    logits_PCV: jax.Array,
    rows: Mapping[str, jax.Array],
    teacher_head: jax.Array,
) -> tuple[jax.Array, Statistics, jax.Array]:
    student, teacher = logits_PCV, logits_of(rows["teacher"], teacher_head)
    (s_max, s_shift), (t_max, t_shift) = (_shifts(x, temperature) for x in (student, teacher))
    log_s, log_t = student / temperature - s_shift, teacher / temperature - t_shift
    k1_PC = at(log_s, rows["targets"]) - at(log_t, rows["targets"])
    terms, g = KINDS[kind.name](log_s, log_t, kind.mixing)
    value_PC, total_PC, minus_entropy_PC = sums(terms, g, jnp.exp(log_s) * log_s)
    # The gradient computes its log-probs (and exponentials) again instead of sharing those of the
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
        student_PCK, ids_PCK = top_k(log_s, top)
        in_top_PCV = _mask_of(log_t, ids_PCK)
        _, tail_PC = max_and_normaliser(jnp.where(in_top_PCV, _LOG_ZERO, log_t))
        teacher_PCK = jnp.take_along_axis(log_t, ids_PCK, axis=-1)
        value_PC, dlogits = _bucketed(kind, log_s, ids_PCK, student_PCK, teacher_PCK, tail_PC)
    dlogits *= rows["weights"][..., None] / temperature
    statistics = {
        "divergence": value_PC,
        "k1": k1_PC,
        "entropy": -minus_entropy_PC,
        "teacher_entropy": -jnp.sum(jnp.exp(log_t) * log_t, axis=-1),
        "agree": jnp.any((log_s >= s_max) & (log_t >= t_max), axis=-1).astype(value_PC.dtype),
    }
    return rows["weights"] * value_PC, statistics, dlogits


def _shifts(logits_PCV: jax.Array, temperature: float) -> tuple[jax.Array, jax.Array]:
    """(largest log-prob_PC1, normaliser_PC1) of softmax(logits / temperature)."""
    max_PC, normaliser_PC = max_and_normaliser(logits_PCV / temperature)
    return (max_PC - normaliser_PC)[..., None], normaliser_PC[..., None]


def _bucketed(
    kind: DivergenceKind,
    log_s_PCV: jax.Array,
    ids_PCK: jax.Array,
    student_PCK: jax.Array,
    teacher_PCK: jax.Array,
    teacher_tail_PC: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """(value_PC, dlogits_PCV) over K ids and one bucket for all other ids."""
    in_top_PCV = _mask_of(log_s_PCV, ids_PCK)
    tail_PCV = jnp.where(in_top_PCV, _LOG_ZERO, log_s_PCV)
    _, student_tail_PC = max_and_normaliser(tail_PCV)
    log_s = jnp.concatenate([student_PCK, student_tail_PC[..., None]], axis=-1)
    log_t = jnp.concatenate([teacher_PCK, teacher_tail_PC[..., None]], axis=-1)
    terms, g = KINDS[kind.name](log_s, log_t, kind.mixing)
    dbuckets = g - jnp.exp(log_s) * jnp.sum(g, axis=-1, keepdims=True)
    # Within the tail the gradient is shared out by the student's own odds: p(id | tail).
    within = jnp.where(in_top_PCV, 0.0, jnp.exp(tail_PCV - student_tail_PC[..., None]))
    value_PC = jnp.sum(terms, axis=-1)
    return value_PC, _put(within * dbuckets[..., -1:], ids_PCK, dbuckets[..., :-1])


def _mask_of(x_PCV: jax.Array, ids_PCK: jax.Array) -> jax.Array:
    """bool [P, C, V], True at the ids."""
    return _put(jnp.zeros_like(x_PCV), ids_PCK, jnp.ones_like(ids_PCK, x_PCV.dtype)) > 0


def _put(x_PCV: jax.Array, ids_PCK: jax.Array, values_PCK: jax.Array) -> jax.Array:
    """x with `values` written at `ids`, row by row."""
    put = jax.vmap(jax.vmap(lambda x, ids, values: x.at[ids].set(values)))
    return put(x_PCV, ids_PCK, values_PCK)


def _log_rest(log_probs_PCK: jax.Array, vocab: int) -> jax.Array:
    """log(1 - sum of the k probabilities), the tail's mass; no mass where k is the vocabulary.

    The floor of one rounding unit keeps a tail lost to rounding from costing the student an
    unbounded reverse KL.
    """
    total = jax.nn.logsumexp(log_probs_PCK, axis=-1)
    if log_probs_PCK.shape[-1] == vocab:
        return jnp.full_like(total, _LOG_ZERO)
    return jnp.log(-jnp.expm1(jnp.minimum(total, -jnp.finfo(total.dtype).eps)))


def stored_divergence(
    hidden_MD: jax.Array,
    head_VD: jax.Array,
    ids_MK: jax.Array,
    teacher_logp_MK: jax.Array,
    weights_M: jax.Array,
    *,
    kind: str = "forward_kl",
    beta: float | None = None,
    forward_weight: float | None = None,
    temperature: float = 1.0,
    chunk: int | None = None,
) -> tuple[jax.Array, Statistics]:
    """(sum of weight * D over rows, statistics_M) against a teacher's stored top k, with a tail.

    `teacher_logp_MK` are log-probs of the full distribution (stored logit - stored normaliser, at
    the temperature of this call), so what they lack of 1 is the tail's mass, and the student pays
    for mass outside the k ids. `ids_MK` must be distinct within a row; ids at or above V raise no
    error here: check them where the file is read. Padding has weight 0. Raises ValueError as
    `resolve`.
    """
    resolved = resolve(kind, beta=beta, forward_weight=forward_weight)
    rows = {"ids": ids_MK, "teacher": teacher_logp_MK, "weights": weights_M}
    row_loss = partial(_stored_rows, resolved, float(temperature))
    return sum_over_rows(row_loss, chunk, hidden_MD, head_VD, jax.lax.stop_gradient(rows), ())


def _stored_rows(
    kind: DivergenceKind,
    temperature: float,
    logits_PCV: jax.Array,
    rows: Mapping[str, jax.Array],
    constants: tuple,
) -> tuple[jax.Array, Statistics, jax.Array]:
    log_s = logits_PCV / temperature - _shifts(logits_PCV, temperature)[1]
    student_PCK = jnp.take_along_axis(log_s, rows["ids"], axis=-1)
    tail_PC = _log_rest(rows["teacher"], logits_PCV.shape[-1])
    value_PC, dlogits = _bucketed(kind, log_s, rows["ids"], student_PCK, rows["teacher"], tail_PC)
    dlogits *= rows["weights"][..., None] / temperature
    statistics = {
        "divergence": value_PC,
        "entropy": -jnp.sum(jnp.exp(log_s) * log_s, axis=-1),
        "student_mass": jnp.sum(jnp.exp(student_PCK), axis=-1),
        "teacher_mass": jnp.sum(jnp.exp(rows["teacher"]), axis=-1),
    }
    return rows["weights"] * value_PC, statistics, dlogits
