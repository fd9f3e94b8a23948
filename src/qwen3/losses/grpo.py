"""Policy gradient over groups (GRPO) with orthogonal switches.

Departures from the report, which publishes none of these settings: the denominator is the whole
optimizer step's (every answer's tokens weigh the same, DAPO), not each answer's; no KL by default;
clip-higher; and rollouts may be corrected for the sampler's numerics. The published objectives are
rows of `objective.PRESETS`. Group advantages come in the batch, made on the host (`advantages`).

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

import jax
import jax.numpy as jnp

from qwen3.losses.forward import by_mode, detached, token_log_probs
from qwen3.losses.grpo_config import Grpo
from qwen3.losses.sequences import at_tokens, mean_at_tokens, per_sequence

_LOG_PROBS = ("old_logp", "rollout_logp", "reference_logp")
_MAX_LOG_RATIO = 20.0  # ratios stay finite; no gradient beyond


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
