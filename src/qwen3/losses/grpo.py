"""Policy gradient over groups (GRPO) with orthogonal switches.

Departures from the report, which publishes none of these settings: the denominator is the whole
optimizer step's (every answer's tokens weigh the same, DAPO), not each answer's; no KL by default;
clip-higher; and rollouts may be corrected for the sampler's numerics. The published objectives are
rows of `PRESETS`. Group advantages are made on the host (`advantages`) and come in the batch.

Per token, with lr = log pi - log pi_old, A the advantage, m the weight, w and keep the correction:

    r        token: exp(lr);  sequence: exp(mean over the sequence of lr);
             sequence_token: the same value, with the gradient of the token's own log pi
    l        clipped: -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), and for A < 0 at most
             dual_clip |A|;  cispo: -sg(min(r, ratio_cap)) A log pi;  none: -r A
    loss     sum of m c (w keep l + kl_coef KL - entropy_coef H)
    c        tokens: 1;  sequences: 1 / (the sequence's sum of m);  constant: 1 / constant_length
    weight   tokens: sum of m;  sequences and constant: number of sequences

Masks of the correction zero a token's loss but leave the denominators: a rejected token counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from qwen3.losses.rows import by_mode, detached, token_log_probs
from qwen3.losses.sequences import at_tokens, mean_at_tokens, per_sequence

RATIOS = ("token", "sequence", "sequence_token")
CLIPS = ("symmetric", "higher", "cispo", "none")
AGGREGATIONS = ("tokens", "sequences", "constant")
KLS = ("none", "k2", "weighted_k3", "reward_k1")
OLDS = ("recomputed", "rollout")
_WRONG_KLS = {
    "k1": "has mean gradient 0 when backpropagated; use 'k2', 'weighted_k3' or 'reward_k1'",
    "k3": "has the gradient of the forward KL when backpropagated; use 'k2' or 'weighted_k3'",
}
_LOG_PROBS = ("old_logp", "rollout_logp", "reference_logp")
_MAX_LOG_RATIO = 20.0  # ratios stay finite; no gradient beyond


@dataclass(frozen=True)
class Grpo:
    """The switches; a combination that is not an objective raises ValueError here, not in a run.

    ratio, clip, aggregation, kl, old: see the tables above. clip_low and clip_high are used by
    "symmetric" (must be equal) and "higher"; ratio_cap by "cispo" and is the largest ratio itself,
    not a distance from 1 (ScaleRL: 5). Mismatch of sampler and trainer, on pi_old / pi_rollout:
    `tis_cap` truncates the token weight (2), `token_band` drops tokens outside it (IcePop, .5 to
    5), `sequence_band` drops sequences whose *geometric mean* is outside (.999 to 1.002; products
    over tokens die with length). kl: "k2" and ratio-weighted k3 in the loss, "reward_k1" takes
    kl_coef (log pi_old - log pi_ref) off each token's advantage. `entropy` adds the bonus whose
    coefficient is frozen["entropy_coef"]. old: "recomputed" by the trainer (batch["old_logp"]), or
    the engine's own ("rollout", batch["rollout_logp"]).
    """

    ratio: str = "token"
    clip: str = "higher"
    clip_low: float = 0.2
    clip_high: float = 0.28
    ratio_cap: float | None = None
    dual_clip: float | None = None
    aggregation: str = "tokens"
    constant_length: int | None = None
    old: str = "recomputed"
    tis_cap: float | None = None
    token_band: tuple[float, float] | None = None
    sequence_band: tuple[float, float] | None = None
    kl: str = "none"
    kl_coef: float = 0.0
    entropy: bool = False

    def __post_init__(self):
        for problem in _problems(self):
            raise ValueError(problem)

    @property
    def clipped(self) -> bool:
        return self.clip in ("symmetric", "higher")


PRESETS = {
    "grpo": dict(clip="symmetric", clip_high=0.2, aggregation="sequences"),  # arXiv 2402.03300
    "dapo": dict(),  # arXiv 2503.14476
    "dr_grpo": dict(clip="symmetric", clip_high=0.2, aggregation="constant"),  # arXiv 2503.20783
    "gspo": dict(  # arXiv 2507.18071
        ratio="sequence", aggregation="sequences", clip_low=3e-4, clip_high=4e-4
    ),
    "cispo": dict(clip="cispo", ratio_cap=5.0),  # arXiv 2506.13585, cap of 2510.13786
    "minirl": dict(tis_cap=2.0),  # arXiv 2512.01374
    "reinforce": dict(clip="none"),
}


def preset(name: str, **changes) -> Grpo:
    """A published objective by name, with changes. Raises ValueError for an unknown name."""
    if name not in PRESETS:
        raise ValueError(f"objective {name!r} is not one of {', '.join(PRESETS)}")
    return Grpo(**{**PRESETS[name], **changes})


def _problems(c: Grpo):
    """Every reason why these switches make no objective, in words."""
    if c.kl in _WRONG_KLS:
        yield f"kl {c.kl!r} {_WRONG_KLS[c.kl]}"
    tables = {"ratio": RATIOS, "clip": CLIPS, "aggregation": AGGREGATIONS, "kl": KLS, "old": OLDS}
    for name, choices in tables.items():
        if getattr(c, name) not in choices:
            yield f"{name} {getattr(c, name)!r} is not one of {', '.join(choices)}"
    if c.clipped and not (0 < c.clip_low < 1 and c.clip_high > 0):
        yield f"clip_low {c.clip_low} and clip_high {c.clip_high} must be above 0, low below 1"
    if c.clip == "symmetric" and c.clip_low != c.clip_high:
        yield f"a symmetric clip has one size, not {c.clip_low} and {c.clip_high}"
    if c.clip == "higher" and not c.clip_high > c.clip_low:
        yield f"clip 'higher' needs clip_high {c.clip_high} above clip_low {c.clip_low}"
    if (c.clip == "cispo") != (c.ratio_cap is not None):
        yield f"ratio_cap {c.ratio_cap} with clip {c.clip!r}: clip 'cispo' and only it has one"
    if c.ratio_cap is not None and c.ratio_cap < 1:
        yield f"ratio_cap {c.ratio_cap} is the largest ratio, so at least 1 (5 is usual)"
    if c.dual_clip is not None and not (c.clipped and c.dual_clip > 1 + c.clip_high):
        yield f"dual_clip {c.dual_clip} needs a clipped loss and a size above 1 + clip_high (3)"
    if (c.aggregation == "constant") != (c.constant_length is not None):
        yield f"constant_length {c.constant_length} with aggregation {c.aggregation!r}"
    if c.constant_length is not None and c.constant_length < 1:
        yield f"constant_length {c.constant_length} must be at least 1 token"
    yield from _sequence_problems(c)
    yield from _mismatch_problems(c)
    if (c.kl == "none") != (c.kl_coef == 0) or c.kl_coef < 0:
        yield f"kl {c.kl!r} with kl_coef {c.kl_coef}: a KL needs a coefficient above 0"


def _sequence_problems(c: Grpo):
    if c.ratio == "token":
        return
    if c.clip == "cispo":
        yield f"clip 'cispo' caps token ratios; it has no {c.ratio!r} form"
    if c.aggregation != "sequences":
        yield f"ratio {c.ratio!r} is a mean over sequences; aggregation is {c.aggregation!r}"
    if c.clipped and c.clip_high > 0.1:
        yield (
            f"ratio {c.ratio!r} is a geometric mean, which a clip of {c.clip_high} never touches; "
            "its authors use clip_low 3e-4, clip_high 4e-4"
        )
    if c.tis_cap is not None or c.token_band is not None:
        yield f"token weights (tis_cap, token_band) break the {c.ratio!r} ratio; use sequence_band"
    if c.kl == "reward_k1" and c.ratio == "sequence":
        yield "kl 'reward_k1' gives tokens their own advantages; use ratio 'sequence_token'"


def _mismatch_problems(c: Grpo):
    corrections = {n: getattr(c, n) for n in ("tis_cap", "token_band", "sequence_band")}
    given = {name: value for name, value in corrections.items() if value is not None}
    if c.old == "rollout" and given:
        yield f"old 'rollout' is the sampler's own policy: {', '.join(given)} would do nothing"
    if c.tis_cap is not None and c.tis_cap < 1:
        yield f"tis_cap {c.tis_cap} must be at least 1 (2 is usual)"
    for name in ("token_band", "sequence_band"):
        band = given.get(name)
        if band is not None and not (len(band) == 2 and 0 < band[0] < 1 < band[1]):
            yield f"{name} {band} must be (low, high) with 0 < low < 1 < high"


def policy_gradient(apply, params, batch, frozen, *, config: Grpo, chunk=None):
    """(sum, sums) over the weighted tokens of packed or padded rows.

    batch, beside the usual: float32 [B, T] advantages, old_logp and/or rollout_logp, aligned with
    targets; reference_logp where there is a KL and frozen has no "reference" parameters; optional
    mode (index into `rows.MODES`). frozen: () or a dict with "reference" and "entropy_coef".
    """
    used_BT = (batch["weights"] > 0).astype(jnp.float32)
    with jax.named_scope("log_probs"):
        logp, entropy = token_log_probs(apply, params, batch, chunk=chunk)
    # Whatever stands at positions without weight, they give 0 and not an infinity times 0.
    given = {n: jnp.where(used_BT > 0, batch[n], 0.0) for n in _LOG_PROBS if n in batch}
    given = jax.lax.stop_gradient(given)
    old = given["old_logp" if config.old == "recomputed" else "rollout_logp"]
    advantage, reference = jnp.where(used_BT > 0, batch["advantages"], 0.0), None
    if config.kl != "none":
        reference = given.get("reference_logp")
        if reference is None:
            reference = _reference(apply, batch, frozen, chunk)
    if config.kl == "reward_k1":
        advantage -= config.kl_coef * (old - reference)
    advantage = jax.lax.stop_gradient(advantage)
    with jax.named_scope("policy_gradient"):
        ratio = _ratio(config, logp, old, batch)
        loss, events = _surrogate(config, ratio, advantage, logp)
        correction, mismatch = _correction(config, old, given.get("rollout_logp"), batch, used_BT)
        loss *= correction
        if config.kl in ("k2", "weighted_k3"):
            loss += config.kl_coef * _kl_in_loss(config.kl, logp, old, reference)
        if config.entropy:
            loss -= _entropy_coef(frozen) * entropy
        share, weight, sequences = _aggregation(config, batch)
    total = jnp.sum(loss * share)
    sums = {
        "tokens": jnp.sum(used_BT),
        "sequences": sequences,
        **{name: jnp.sum(value * used_BT) for name, value in events.items()},
        "advantage": jnp.sum(advantage * used_BT),
        "advantage_abs": jnp.sum(jnp.abs(advantage) * used_BT),
        "ratio": jnp.sum(ratio * used_BT),
        "ratio_squared": jnp.sum(jnp.square(ratio) * used_BT),
        "drift_k3": jnp.sum(_k3(old - logp) * used_BT),
        "entropy": jnp.sum(entropy * used_BT),
        **by_mode(jnp.ones_like(used_BT), used_BT, batch, "tokens"),
        **by_mode(entropy, used_BT, batch, "entropy"),
        **mismatch,
    }
    if reference is not None:
        sums["reference_k1"] = jnp.sum((logp - reference) * used_BT)
        sums["reference_k3"] = jnp.sum(_k3(reference - logp) * used_BT)
    return total, {"weight": weight, **detached(sums)}


def _exp(log_ratio):
    return jnp.exp(jnp.clip(log_ratio, -_MAX_LOG_RATIO, _MAX_LOG_RATIO))


def _k3(log_q_over_p):
    """q / p - 1 - log(q / p), for samples of p: an estimate of KL(p||q) that is never negative."""
    return _exp(log_q_over_p) - 1.0 - log_q_over_p


def _ratio(config, logp, old, batch):
    log_ratio = logp - old
    if config.ratio != "token":
        log_ratio = mean_at_tokens(log_ratio, batch["weights"], batch["segment_ids"])
    if config.ratio == "sequence_token":
        log_ratio = jax.lax.stop_gradient(log_ratio) + logp - jax.lax.stop_gradient(logp)
    return _exp(log_ratio)


def _surrogate(config, ratio, advantage, logp):
    """(loss per token, which of the clips acted there)."""
    if config.clip == "none":
        return -ratio * advantage, {}
    if config.clip == "cispo":
        capped = jax.lax.stop_gradient(jnp.minimum(ratio, config.ratio_cap))
        return -capped * advantage * logp, {"clip_high": ratio > config.ratio_cap}
    low, high = 1.0 - config.clip_low, 1.0 + config.clip_high
    loss = -jnp.minimum(ratio * advantage, jnp.clip(ratio, low, high) * advantage)
    events = {
        "clip_low": (ratio < low) & (advantage < 0),
        "clip_high": (ratio > high) & (advantage > 0),
    }
    if config.dual_clip is not None:
        most = config.dual_clip * jnp.abs(advantage)
        events["dual_clip"] = (advantage < 0) & (loss > most)
        loss = jnp.where(advantage < 0, jnp.minimum(loss, most), loss)
    return loss, events


def _correction(config, old, rollout, batch, used_BT):
    """(factor per token, sums about sampler against trainer); no gradient.

    The sums are of the raw ratio, before truncation and before any mask.
    """
    if rollout is None:
        if config.tis_cap or config.token_band or config.sequence_band:
            raise ValueError("correcting for the sampler needs batch['rollout_logp']")
        return 1.0, {}
    log_ratio = old - rollout
    raw = _exp(log_ratio)
    factor = jnp.ones_like(raw)
    if config.tis_cap is not None:
        factor = jnp.minimum(raw, config.tis_cap)
    if config.token_band is not None:
        low, high = config.token_band
        weight = raw if config.tis_cap is None else factor
        factor = jnp.where((raw >= low) & (raw <= high), weight, 0.0)
    if config.sequence_band is not None:
        low, high = config.sequence_band
        mean = jnp.exp(mean_at_tokens(log_ratio, batch["weights"], batch["segment_ids"]))
        factor = jnp.where((mean >= low) & (mean <= high), factor, 0.0)
    sums = {
        "mismatch_abs": jnp.abs(log_ratio),
        "mismatch_exp": _exp(jnp.abs(log_ratio)),
        "mismatch_k3": _k3(log_ratio),
        "mismatch_ratio": raw,
        "mismatch_ratio_squared": jnp.square(raw),
        "kept": factor > 0,
        "correction": factor,
    }
    return factor, {name: jnp.sum(value * used_BT) for name, value in sums.items()}


def _kl_in_loss(kind, logp, old, reference):
    if kind == "k2":
        return 0.5 * jnp.square(logp - reference)
    # The gradient through the ratio turns k3's forward-KL gradient into the reverse KL's.
    return _exp(logp - old) * _k3(reference - logp)


def _aggregation(config, batch):
    """(factor per token, this batch's part of the denominator, number of sequences)."""
    weights_BT, segments_BT = batch["weights"], batch["segment_ids"]
    lengths_BG = per_sequence(weights_BT, segments_BT)
    sequences = jnp.sum((lengths_BG > 0).astype(weights_BT.dtype))
    if config.aggregation == "tokens":
        return weights_BT, jnp.sum(weights_BT), sequences
    if config.aggregation == "constant":
        return weights_BT / config.constant_length, sequences, sequences
    lengths_BT = at_tokens(lengths_BG, segments_BT)
    return weights_BT / jnp.where(lengths_BT > 0, lengths_BT, 1.0), sequences, sequences


def _reference(apply, batch, frozen, chunk):
    if "reference" not in frozen:
        raise ValueError("a KL needs batch['reference_logp'] or frozen['reference'] parameters")
    params = jax.lax.stop_gradient(frozen["reference"])
    return jax.lax.stop_gradient(token_log_probs(apply, params, batch, chunk=chunk)[0])


def _entropy_coef(frozen):
    if "entropy_coef" not in frozen:
        raise ValueError("the entropy bonus needs frozen['entropy_coef']")
    return jax.lax.stop_gradient(frozen["entropy_coef"])


def report(metrics) -> dict[str, float]:
    """Means from the step's metrics (sums over one common divisor), by their own denominators."""
    tokens = float(metrics["tokens"])
    if tokens == 0:
        return {}
    means = {n: float(v) / tokens for n, v in metrics.items() if n in _PER_TOKEN}
    for raw in ("ratio", "mismatch_ratio"):
        if raw in means:
            # Effective share of the samples: 1 when all weights are equal.
            means[f"{raw}_ess"] = means[raw] ** 2 / means[f"{raw}_squared"]
    for name, value in metrics.items():
        head, _, mode = name.partition("/")
        if mode and head != "tokens" and float(metrics[f"tokens/{mode}"]) > 0:
            means[name] = float(value) / float(metrics[f"tokens/{mode}"])
    means["length"] = tokens / float(metrics["sequences"])
    return means


_PER_TOKEN = (
    *("advantage", "advantage_abs", "ratio", "ratio_squared", "drift_k3", "entropy", "kept"),
    *("clip_low", "clip_high", "dual_clip", "mismatch_abs", "mismatch_exp", "mismatch_k3"),
    *("mismatch_ratio", "mismatch_ratio_squared", "correction", "reference_k1", "reference_k3"),
)
