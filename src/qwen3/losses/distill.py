"""Distillation: divergence from a teacher, resident or elsewhere, or from its stored top-k logits.

On-policy (`divergence`, and `handed_over` for a teacher on other devices): the student sampled the
tokens, in either mode; the teacher reads the identical tokens, so it is in the same mode, and gets
no gradient; neither does the sampling. Forced tokens (a thinking budget's closing sentence),
prompts and tool results have weight 0. Off-policy distillation on the teacher's responses is
`lm.next_token`; with its stored logits, `stored`. The report (arXiv 2505.09388, section 4.5) names
neither direction nor temperature; full-vocabulary reverse KL at temperature 1 is our default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from qwen3.losses.forward import Apply, Batch, Params, Sums, by_mode, detached, run
from qwen3.losses.sequences import at_tokens, per_sequence
from qwen3.ops import chunked_divergence
from qwen3.ops.row_chunks import flatten_rows, unflatten_rows

TENTHS = 10  # parts of an answer for which the divergence is reported


@dataclass(frozen=True)
class Distill:
    """The divergence to minimise; `ops.chunked_divergence` defines its kinds and their ends.

    Raises ValueError for a combination that has no meaning.
    """

    kind: str = "reverse_kl"  # "reverse_kl", "forward_kl", "jsd" or "mix"
    beta: float | None = None  # of "jsd", between 0 (forward_kl) and 1 (reverse_kl)
    forward_weight: float | None = None  # of "mix", the share of forward_kl
    top: int | None = None  # the student's k likeliest ids and a tail instead of the vocabulary
    sampled: bool = False  # the sampled id alone, an estimate of reverse_kl
    temperature: float = 1.0  # of both softmaxes; that of sampling is another setting
    vocab: int | None = None  # number of ids that both models know; None: both have as many

    def __post_init__(self) -> None:
        chunked_divergence.resolve(self.kind, beta=self.beta, forward_weight=self.forward_weight)
        if self.temperature <= 0:
            raise ValueError(f"temperature {self.temperature} must be above 0")
        if self.top is not None and self.top < 1:
            raise ValueError(f"top {self.top} must be at least 1 id")
        if self.sampled and (self.top is not None or self.kind != "reverse_kl"):
            raise ValueError(f"sampled estimates full reverse_kl, not {self.kind!r}, {self.top=}")

    @property
    def mixing(self) -> dict[str, Any]:
        """The arguments of `chunked_divergence` that choose the kind."""
        return dict(kind=self.kind, beta=self.beta, forward_weight=self.forward_weight)


def divergence(
    apply: Apply,
    params: Params,
    batch: Batch,
    frozen: Mapping[str, Params],
    *,
    teacher_apply: Apply,
    config: Distill,
    chunk: int | None = None,
) -> tuple[jax.Array, Sums]:
    """(sum of weight * D(student, teacher), sums); frozen["teacher"] are the teacher's parameters.

    teacher_apply is called like apply and may be a model of another size and width. sums: weight,
    and over trained tokens: tokens, divergence, k1, entropy, teacher_entropy and agree, each also
    per mode where batch has "mode", and divergence by tenth of each answer. Raises ValueError when
    the vocabularies differ and config.vocab does not cut them.
    """
    student, hidden_MD = run(apply, params, batch)
    with jax.named_scope("teacher"):
        teacher, teacher_ME = run(teacher_apply, jax.lax.stop_gradient(frozen["teacher"]), batch)
    return _against(
        (hidden_MD, student.head_VD), (teacher_ME, teacher.head_VD), batch, config, chunk
    )


def handed_over(
    apply: Apply,
    params: Params,
    batch: Batch,
    frozen: Mapping[str, jax.Array],
    *,
    config: Distill,
    chunk: int | None = None,
) -> tuple[jax.Array, Sums]:
    """`divergence` of a teacher that ran elsewhere, over the same full vocabulary.

    batch, beside the usual: teacher_hidden [B, T, E], the teacher's hidden states after its final
    norm, V / E times smaller than its logits. frozen["teacher_head"] is its output matrix [V, E].
    """
    student, hidden_MD = run(apply, params, batch)
    teacher_ME = flatten_rows(batch["teacher_hidden"])
    teacher = (teacher_ME, frozen["teacher_head"])
    return _against((hidden_MD, student.head_VD), teacher, batch, config, chunk)


def _against(
    student: tuple[jax.Array, jax.Array],
    teacher: tuple[jax.Array, jax.Array],
    batch: Batch,
    config: Distill,
    chunk: int | None,
) -> tuple[jax.Array, Sums]:
    """The divergence of (hidden states, head) of a student from those of a teacher."""
    with jax.named_scope("divergence"):
        total, rows_M = chunked_divergence.divergence(
            *student,
            *teacher,
            flatten_rows(batch["targets"]),
            flatten_rows(batch["weights"]),
            **config.mixing,
            top=config.top,
            sampled=config.sampled,
            temperature=config.temperature,
            vocab=config.vocab,
            chunk=chunk,
        )
    return total, _sums(rows_M, batch)


def stored(
    apply: Apply,
    params: Params,
    batch: Batch,
    frozen: Any = (),
    *,
    config: Distill,
    chunk: int | None = None,
) -> tuple[jax.Array, Sums]:
    """(sum of weight * D, sums) against stored top-k logits; forward_kl is the usual kind here.

    batch, beside the usual: teacher_ids int32 and teacher_logits float32 [B, T, K], and the
    teacher's normaliser over its whole vocabulary, teacher_normaliser float32 [B, T]; logits and
    normaliser at config.temperature. The k ids and one bucket for the tail are the distribution.
    Raises ValueError for `top` or `sampled`, since the file fixes the ids.
    """
    if config.top is not None or config.sampled:
        raise ValueError(f"stored logits fix their own ids: {config.top=}, {config.sampled=}")
    output, hidden_MD = run(apply, params, batch)
    head_VD = output.head_VD[: config.vocab]
    logp_BTK = batch["teacher_logits"] - batch["teacher_normaliser"][..., None]
    with jax.named_scope("divergence"):
        total, rows_M = chunked_divergence.stored_divergence(
            hidden_MD,
            head_VD,
            flatten_rows(batch["teacher_ids"]),
            flatten_rows(logp_BTK),
            flatten_rows(batch["weights"]),
            **config.mixing,
            temperature=config.temperature,
            chunk=chunk,
        )
    return total, _sums(rows_M, batch)


def _sums(rows_M: Mapping[str, jax.Array], batch: Batch) -> Sums:
    """Sums of the per-row statistics over trained tokens: in all, per mode and per tenth."""
    weights_BT = batch["weights"]
    used_BT = (weights_BT > 0).astype(jnp.float32)
    rows_BT = {name: unflatten_rows(x, *used_BT.shape) for name, x in rows_M.items()}
    rows_BT = {name: jnp.where(used_BT > 0, x, 0.0) for name, x in rows_BT.items()}
    rows_BT["tokens"] = used_BT
    sums = {"weight": jnp.sum(weights_BT)}
    sums |= {name: jnp.sum(x) for name, x in rows_BT.items()}
    for name, x in rows_BT.items():
        sums |= by_mode(x, used_BT, batch, name)
    tenth_BT = _tenth(used_BT, batch["segment_ids"])
    for tenth in range(TENTHS):
        mask_BT = used_BT * (tenth_BT == tenth)
        sums[f"tokens/tenth_{tenth}"] = jnp.sum(mask_BT)
        sums[f"divergence/tenth_{tenth}"] = jnp.sum(rows_BT["divergence"] * mask_BT)
    return detached(sums)


def _tenth(used_BT: jax.Array, segment_ids_BT: jax.Array) -> jax.Array:
    """tenth_BT: the tenth of its sequence's trained tokens that a token is in, 0 to 9."""
    # Trained tokens of the row before this one, less those before its sequence began.
    before_BT = jnp.cumsum(used_BT, axis=1) - used_BT
    lowest = lambda x, ids: jax.ops.segment_min(x, ids, num_segments=x.shape[0] + 1)  # noqa: E731
    start_BT = at_tokens(jax.vmap(lowest)(before_BT, segment_ids_BT), segment_ids_BT)
    length_BT = at_tokens(per_sequence(used_BT, segment_ids_BT), segment_ids_BT)
    return ((before_BT - start_BT) * TENTHS // jnp.maximum(length_BT, 1.0)).astype(jnp.int32)


def report(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Means per trained token from the step's metrics: in all, per mode and per tenth."""
    means = {}
    for name, value in metrics.items():
        metric, slash, part = name.partition("/")
        tokens = float(metrics.get(f"tokens{slash}{part}", 0.0))
        if metric in _PER_TOKEN and tokens > 0:
            means[name] = float(value) / tokens
    return means


_PER_TOKEN = (
    *("divergence", "k1", "entropy", "teacher_entropy", "agree", "student_mass", "teacher_mass"),
)
