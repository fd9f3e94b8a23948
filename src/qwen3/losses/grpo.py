"""Policy gradient over groups (GRPO) with orthogonal switches.

Departures from the report, which publishes none of these settings: the denominator is the whole
optimizer step's (every answer's tokens weigh the same, DAPO), not each answer's; no KL by default;
clip-higher; and rollouts may be corrected for the sampler's numerics by importance sampling. The
published objectives are rows of `grpo_config.PRESETS`. Group advantages come in the batch, computed
on the host (`advantages`).

Per token, with lr = log pi - log pi_old, A the advantage, m the weight (loss mask), w the truncated
importance weight pi_old / pi_rollout and keep its masks:

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

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from qwen3.losses.forward import Apply, Batch, Params, Sums, by_mode, detached, token_log_probs
from qwen3.losses.grpo_config import Grpo
from qwen3.losses.sequences import at_tokens, mean_at_tokens, per_sequence

_LOG_PROBS = ("old_logp", "rollout_logp", "reference_logp")
_MAX_LOG_RATIO = 20.0  # ratios stay finite; no gradient beyond


def policy_gradient(
    apply: Apply,
    params: Params,
    batch: Batch,
    frozen: Any,
    *,
    config: Grpo,
    chunk: int | None = None,
) -> tuple[jax.Array, Sums]:
    """(sum, sums) over the weighted tokens of packed or padded rows.

    batch, beside the usual: float32 [B, T] advantages, old_logp and/or rollout_logp, aligned with
    targets; reference_logp where there is a KL and frozen has no "reference" parameters; optional
    mode (index into `forward.MODES`) and expert_ids (the sampler's routing). frozen: () or a dict
    with "reference" and "entropy_coef". Raises ValueError for a KL without a reference, an entropy
    bonus without its coefficient, and a sampler correction without rollout_logp.
    """
    used_BT = (batch["weights"] > 0).astype(jnp.float32)
    with jax.named_scope("log_probs"):
        logp, entropy = token_log_probs(apply, params, batch, chunk=chunk)
    # Unweighted positions may hold inf or NaN; zero them first, because inf * 0 is NaN.
    stored = {n: jnp.where(used_BT > 0, batch[n], 0.0) for n in _LOG_PROBS if n in batch}
    stored = jax.lax.stop_gradient(stored)
    old = _old_log_probs(config, stored)
    reference = None if config.kl == "none" else _reference(apply, batch, stored, frozen, chunk)
    advantage = jnp.where(used_BT > 0, batch["advantages"], 0.0)
    if reference is not None and config.kl == "reward_k1":
        advantage -= config.kl_coef * (old - reference)
    advantage = jax.lax.stop_gradient(advantage)
    with jax.named_scope("policy_gradient"):
        ratio = _ratio(config, logp, old, batch)
        loss, events = _surrogate(config, ratio, advantage, logp)
        correction, mismatch = _correction(config, old, stored.get("rollout_logp"), batch, used_BT)
        loss *= correction
        if reference is not None and config.kl in ("k2", "weighted_k3"):
            loss += config.kl_coef * _kl_in_loss(config.kl, logp, old, reference)
        if config.entropy:
            loss -= _entropy_coef(frozen) * entropy
        share, weight, sequences = _aggregation(config, batch)
    total = jnp.sum(loss * share)
    values = {
        **events,
        "advantage": advantage,
        "advantage_abs": jnp.abs(advantage),
        "ratio": ratio,
        "ratio_squared": jnp.square(ratio),
        "drift_k3": _k3(old - logp),
        "entropy": entropy,
    }
    if reference is not None:
        values |= {"reference_k1": logp - reference, "reference_k3": _k3(reference - logp)}
    sums = _metrics(values, used_BT, batch) | {"weight": weight, "sequences": sequences}
    return total, detached(sums | mismatch)


def _metrics(values: Mapping[str, jax.Array], used_BT: jax.Array, batch: Batch) -> Sums:
    """Sums over the used tokens, with tokens and entropy also per mode."""
    return {
        "tokens": jnp.sum(used_BT),
        **{name: jnp.sum(value * used_BT) for name, value in values.items()},
        **by_mode(jnp.ones_like(used_BT), used_BT, batch, "tokens"),
        **by_mode(values["entropy"], used_BT, batch, "entropy"),
    }


def _exp(log_ratio: jax.Array) -> jax.Array:
    """exp, with the argument clipped so that no ratio is infinite."""
    return jnp.exp(jnp.clip(log_ratio, -_MAX_LOG_RATIO, _MAX_LOG_RATIO))


def _k3(log_q_over_p: jax.Array) -> jax.Array:
    """q / p - 1 - log(q / p), for samples of p: an estimate of KL(p||q) that is never negative."""
    return _exp(log_q_over_p) - 1.0 - log_q_over_p


def _ratio(config: Grpo, logp: jax.Array, old: jax.Array, batch: Batch) -> jax.Array:
    """The importance ratio pi / pi_old: per token, or the sequence's geometric mean (GSPO)."""
    log_ratio = logp - old
    if config.ratio != "token":
        log_ratio = mean_at_tokens(log_ratio, batch["weights"], batch["segment_ids"])
    if config.ratio == "sequence_token":
        # The value of the sequence's mean with the gradient of the token's own log-probability.
        log_ratio = jax.lax.stop_gradient(log_ratio) + logp - jax.lax.stop_gradient(logp)
    return _exp(log_ratio)


def _surrogate(
    config: Grpo, ratio: jax.Array, advantage: jax.Array, logp: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """(loss per token, masks of the tokens where a clip acted, by its name)."""
    if config.clip == "none":
        return -ratio * advantage, {}
    if config.clip == "cispo":
        assert config.ratio_cap is not None  # Grpo refuses cispo without one
        capped = jax.lax.stop_gradient(jnp.minimum(ratio, config.ratio_cap))
        return -capped * advantage * logp, {"clip_high": ratio > config.ratio_cap}
    low, high = 1.0 - config.clip_low, 1.0 + config.clip_high
    loss = -jnp.minimum(ratio * advantage, jnp.clip(ratio, low, high) * advantage)
    events = {
        "clip_low": (ratio < low) & (advantage < 0),
        "clip_high": (ratio > high) & (advantage > 0),
    }
    if config.dual_clip is not None:
        # Bounds what a very large ratio of a bad answer costs (arXiv 1912.09729).
        largest = config.dual_clip * jnp.abs(advantage)
        events["dual_clip"] = (advantage < 0) & (loss > largest)
        loss = jnp.where(advantage < 0, jnp.minimum(loss, largest), loss)
    return loss, events


def _correction(
    config: Grpo, old: jax.Array, rollout: jax.Array | None, batch: Batch, used_BT: jax.Array
) -> tuple[jax.Array | float, Sums]:
    """(factor per token, sums of the mismatch of sampler and trainer); no gradient.

    Importance sampling from the sampler's policy (pi_rollout) to the trainer's old one (pi_old),
    truncated (TIS) and masked (IcePop). The sums are of the raw ratio pi_old / pi_rollout, before
    truncation and masks.
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


def _kl_in_loss(kind: str, logp: jax.Array, old: jax.Array, reference: jax.Array) -> jax.Array:
    """The KL term per token, by its kind: its gradient estimates that of KL(pi || reference)."""
    if kind == "k2":
        return 0.5 * jnp.square(logp - reference)
    # The gradient through the ratio turns k3's forward-KL gradient into the reverse KL's.
    return _exp(logp - old) * _k3(reference - logp)


def _aggregation(config: Grpo, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
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


def _old_log_probs(config: Grpo, stored: Mapping[str, jax.Array]) -> jax.Array:
    name = "old_logp" if config.old == "recomputed" else "rollout_logp"
    if name not in stored:
        raise ValueError(f"old {config.old!r} needs batch[{name!r}]")
    return stored[name]


def _reference(
    apply: Apply, batch: Batch, stored: Mapping[str, jax.Array], frozen: Any, chunk: int | None
) -> jax.Array:
    """The reference policy's log-probabilities: those in the batch, else of frozen parameters."""
    if "reference_logp" in stored:
        return stored["reference_logp"]
    if "reference" not in frozen:
        raise ValueError("a KL needs batch['reference_logp'] or frozen['reference'] parameters")
    params = jax.lax.stop_gradient(frozen["reference"])
    batch = {
        name: value for name, value in batch.items() if name != "expert_ids"
    }  # its own routing
    return jax.lax.stop_gradient(token_log_probs(apply, params, batch, chunk=chunk)[0])


def _entropy_coef(frozen: Any) -> jax.Array:
    if "entropy_coef" not in frozen:
        raise ValueError("the entropy bonus needs frozen['entropy_coef']")
    return jax.lax.stop_gradient(frozen["entropy_coef"])


def report(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Means per token, mode or sequence from the step's metrics (sums over one divisor)."""
    tokens = float(metrics["tokens"])
    if tokens == 0:
        return {}
    means = {n: float(v) / tokens for n, v in metrics.items() if n in _PER_TOKEN}
    for ratio in ("ratio", "mismatch_ratio"):
        if ratio in means:
            # Effective sample size as a share of the tokens: 1 when all ratios are equal.
            means[f"{ratio}_ess"] = means[ratio] ** 2 / means[f"{ratio}_squared"]
    for name, value in metrics.items():
        metric, _, mode = name.partition("/")
        if mode and metric != "tokens" and float(metrics[f"tokens/{mode}"]) > 0:
            means[name] = float(value) / float(metrics[f"tokens/{mode}"])
    means["length"] = tokens / float(metrics["sequences"])
    return means


_PER_TOKEN = (
    *("advantage", "advantage_abs", "ratio", "ratio_squared", "drift_k3", "entropy", "kept"),
    *("clip_low", "clip_high", "dual_clip", "mismatch_abs", "mismatch_exp", "mismatch_k3"),
    *("mismatch_ratio", "mismatch_ratio_squared", "correction", "reference_k1", "reference_k3"),
)
