"""Distillation: divergence from a resident teacher, or from a teacher's stored top-k logits.

On-policy (`divergence`): the student sampled the tokens, in either mode; the teacher reads the
identical tokens, so it is in the same mode, and gets no gradient; neither does the sampling. Forced
tokens (a thinking budget's closing sentence), prompts and tool results have weight 0. Off-policy on
the teacher's responses is `lm.next_token`; with its stored logits, `stored`. The report names
neither direction nor temperature; full-vocabulary reverse KL at temperature 1 is our default.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from qwen3.losses.forward import by_mode, detached, run
from qwen3.losses.sequences import at_tokens, per_sequence
from qwen3.ops import chunked_divergence
from qwen3.ops.row_chunks import flatten_rows, unflatten_rows

DECILES = 10


@dataclass(frozen=True)
class Distill:
    """What to measure; see `ops.chunked_divergence` for kinds, their conventions and ends.

    kind: reverse_kl, forward_kl, jsd (needs beta), mix (needs forward_weight). top: the student's k
    likeliest ids and a tail instead of the vocabulary. sampled: the sampled id alone (reverse_kl).
    temperature: of both softmaxes, apart from the sampling's. vocab: ids that both models know.
    Raises ValueError for combinations that mean nothing.
    """

    kind: str = "reverse_kl"
    beta: float | None = None
    forward_weight: float | None = None
    top: int | None = None
    sampled: bool = False
    temperature: float = 1.0
    vocab: int | None = None

    def __post_init__(self):
        chunked_divergence.resolve(self.kind, beta=self.beta, forward_weight=self.forward_weight)
        if self.temperature <= 0:
            raise ValueError(f"temperature {self.temperature} must be above 0")
        if self.top is not None and self.top < 1:
            raise ValueError(f"top {self.top} must be at least 1 id")
        if self.sampled and (self.top is not None or self.kind != "reverse_kl"):
            raise ValueError(f"sampled estimates full reverse_kl, not {self.kind!r}, {self.top=}")

    @property
    def mixing(self) -> dict:
        return dict(kind=self.kind, beta=self.beta, forward_weight=self.forward_weight)


def divergence(apply, params, batch, frozen, *, teacher_apply, config: Distill, chunk=None):
    """(sum of weight * D(student, teacher), sums); frozen["teacher"] are the teacher's parameters.

    teacher_apply is called like apply and may be another size with another width. sums: weight,
    tokens, divergence, k1, entropy, teacher_entropy and agree over trained tokens, each also per
    mode where batch has "mode", and divergence by tenth of each answer. Raises ValueError when the
    vocabularies differ and no `vocab` says where to cut.
    """
    student, hidden_MD = run(apply, params, batch)
    with jax.named_scope("teacher"):
        teacher, teacher_ME = run(teacher_apply, jax.lax.stop_gradient(frozen["teacher"]), batch)
    with jax.named_scope("divergence"):
        total, rows_M = chunked_divergence.divergence(
            *(hidden_MD, student.head_VD, teacher_ME, teacher.head_VD),
            *(flatten_rows(batch[name]) for name in ("targets", "weights")),
            **config.mixing,
            top=config.top,
            sampled=config.sampled,
            temperature=config.temperature,
            vocab=config.vocab,
            chunk=chunk,
        )
    return total, _sums(rows_M, batch)


def stored(apply, params, batch, frozen=(), *, config: Distill, chunk=None):
    """(sum of weight * D, sums) against stored top-k logits; forward_kl is the usual kind here.

    batch, beside the usual: teacher_ids int32 and teacher_logits float32 [B, T, K], and the
    teacher's normaliser over its whole vocabulary, teacher_normaliser float32 [B, T]; logits and
    normaliser at config.temperature. The k ids and one tail bucket make the distribution.
    """
    if config.top is not None or config.sampled:
        raise ValueError(f"stored logits fix their own ids: {config.top=}, {config.sampled=}")
    output, hidden_MD = run(apply, params, batch)
    head_VD = output.head_VD[: config.vocab]
    logp_BTK = batch["teacher_logits"] - batch["teacher_normaliser"][..., None]
    with jax.named_scope("divergence"):
        total, rows_M = chunked_divergence.stored_divergence(
            *(hidden_MD, head_VD),
            *(flatten_rows(x) for x in (batch["teacher_ids"], logp_BTK, batch["weights"])),
            **config.mixing,
            temperature=config.temperature,
            chunk=chunk,
        )
    return total, _sums(rows_M, batch)


def _sums(rows_M, batch):
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
    for tenth in range(DECILES):
        here_BT = used_BT * (tenth_BT == tenth)
        sums[f"tokens/tenth_{tenth}"] = jnp.sum(here_BT)
        sums[f"divergence/tenth_{tenth}"] = jnp.sum(rows_BT["divergence"] * here_BT)
    return detached(sums)


def _tenth(used_BT, segment_ids_BT):
    """Which tenth of its sequence's trained tokens a token is in, 0 to 9."""
    before_BT = jnp.cumsum(used_BT, axis=1) - used_BT
    lowest = lambda x, ids: jax.ops.segment_min(x, ids, num_segments=x.shape[0] + 1)  # noqa: E731
    start_BT = at_tokens(jax.vmap(lowest)(before_BT, segment_ids_BT), segment_ids_BT)
    length_BT = at_tokens(per_sequence(used_BT, segment_ids_BT), segment_ids_BT)
    return ((before_BT - start_BT) * DECILES // jnp.maximum(length_BT, 1.0)).astype(jnp.int32)


def report(metrics) -> dict[str, float]:
    """Means per trained token from the step's metrics, in all, per mode and per tenth."""
    means = {}
    for name, value in metrics.items():
        base, slash, part = name.partition("/")
        tokens = float(metrics.get(f"tokens{slash}{part}", 0.0))
        if base in _PER_TOKEN and tokens > 0:
            means[name] = float(value) / tokens
    return means


_PER_TOKEN = (
    *("divergence", "k1", "entropy", "teacher_entropy", "agree", "student_mass", "teacher_mass"),
)
