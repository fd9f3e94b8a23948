"""Learning rates as pure functions of the step, AdamW and Muon, and skipping of loss spikes.

The report gives no rates. What it does say is kept: S2 decays faster than S1 (report 3.2), which
is one schedule per stage, joined by `chain`. The rate depends on the global step that the train
step hands in, never on a counter inside the optimizer: a skipped update cannot shift the schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from qwen3.config import OptimConfig

Rate = Callable[[Any], Any]

# Share of the way from peak (0) to final (1), given the share of the decay that has passed.
DECAYS = {
    "constant": lambda x: jnp.zeros_like(x),
    "linear": lambda x: x,
    "cosine": lambda x: 0.5 * (1.0 - jnp.cos(jnp.pi * x)),
    "wsd": lambda x: x,
}


def schedule(config: OptimConfig, steps: int, *, offset: int = 0) -> Rate:
    """rate(step): warm-up to `peak`, then a decay that reaches `peak * final` at offset + steps.

    Warm-up gives peak * (s + 1) / warmup, so the first step already moves. "wsd" stays at the peak
    until the last `decay_share` of the steps and then falls linearly; the others decay over all
    steps after the warm-up. Before `offset` the first rate holds, after the end the last one.
    Raises ValueError on an unknown schedule or a warm-up longer than the steps.
    """
    if config.schedule not in DECAYS:
        raise ValueError(f"schedule {config.schedule!r} is none of {', '.join(DECAYS)}")
    if not 0 <= config.warmup <= steps:
        raise ValueError(f"a warm-up of {config.warmup} steps does not fit into {steps} steps")
    if not 0 < config.decay_share <= 1:
        raise ValueError(f"decay_share {config.decay_share} is not in (0, 1]")
    length = round(steps * config.decay_share) if config.schedule == "wsd" else steps
    start = max(steps - length, config.warmup)
    decay = DECAYS[config.schedule]

    def rate(step):
        at = jnp.clip(jnp.asarray(step) - offset, 0, steps).astype(jnp.float32)
        gone = jnp.clip((at - start) / max(steps - start, 1), 0.0, 1.0)
        warm = jnp.minimum(1.0, (at + 1.0) / max(config.warmup, 1))
        return config.peak * warm * (1.0 - (1.0 - config.final) * decay(gone))

    return rate


def chain(stages: Sequence[tuple[OptimConfig, int]]) -> Rate:
    """One rate over consecutive (config, steps) stages, each with its own schedule and offset."""
    if not stages:
        raise ValueError("a chain of schedules needs at least one stage")
    rates, borders, offset = [], [], 0
    for config, steps in stages:
        rates.append(schedule(config, steps, offset=offset))
        offset += steps
        borders.append(offset)

    def rate(step):
        value = rates[-1](step)
        for border, earlier in reversed(list(zip(borders[:-1], rates[:-1], strict=True))):
            value = jnp.where(jnp.asarray(step) < border, earlier(step), value)
        return value

    return rate


def build(config: OptimConfig, rate: Rate) -> optax.GradientTransformationExtraArgs:
    """Clip by the global norm, then AdamW or Muon; the update takes `step=` and `value=` (loss).

    With `skip_spikes` > 0 the whole of it is guarded (see `skip_spikes`).
    """
    if config.optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer {config.optimizer!r} is none of {', '.join(OPTIMIZERS)}")
    clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    tx = optax.chain(
        *clip,
        OPTIMIZERS[config.optimizer](config),
        optax.add_decayed_weights(config.weight_decay, mask=decays),
        _scale_by_step(rate),
    )
    if config.skip_spikes:
        tx = skip_spikes(tx, factor=config.skip_spikes, window=config.spike_window)
    return tx


def decays(params: Any) -> Any:
    """True where weight decay applies: matrices. Norm gains stay free, stacked [L, D] ones too."""

    def one(path, leaf):
        return leaf.ndim >= 2 and not _leaf_name(path).endswith("norm")

    return jax.tree_util.tree_map_with_path(one, params)


def _adamw(config: OptimConfig) -> optax.GradientTransformation:
    return optax.scale_by_adam(
        b1=config.betas[0], b2=config.betas[1], eps=config.eps, mu_dtype=config.moments
    )


# Axes that a weight sums over and axes it gives, by name; the leading layer (and expert) axes are
# batches of separate matrices. Whatever is not named here (embed, head, router, norms) takes Adam.
MUON_AXES = {
    "query": ((1,), (2, 3)),
    "key": ((1,), (2, 3)),
    "value": ((1,), (2, 3)),
    "out": ((1, 2), (3,)),
    "gate": ((-2,), (-1,)),
    "up": ((-2,), (-1,)),
    "down": ((-2,), (-1,)),
}


def _muon(config: OptimConfig) -> optax.GradientTransformation:
    """Muon for the matrices inside the layers, Adam for the rest."""

    def masked(params):
        return jax.tree_util.tree_map_with_path(
            lambda p, x: _axes(p, x) or optax.MaskedNode(), params
        )

    def labels(params):
        return jax.tree_util.tree_map_with_path(
            lambda p, x: "muon" if _axes(p, x) else "adam", params
        )

    muon = optax.chain(
        optax.contrib.scale_by_muon(
            beta=config.betas[1], weight_dimension_numbers=masked, mu_dtype=config.moments
        ),
        optax.stateless(lambda updates, params: _match_adam(updates)),
    )
    return optax.partition({"muon": muon, "adam": _adamw(config)}, labels)


def _axes(path: tuple, leaf: jax.Array) -> optax.contrib.MuonDimensionNumbers | None:
    named = MUON_AXES.get(_leaf_name(path)) if leaf.ndim >= 3 else None
    return optax.contrib.MuonDimensionNumbers(*named) if named else None


def _match_adam(updates: Any) -> Any:
    """Bring an orthogonal update to Adam's rms of about 0.2, so that one rate serves both.

    u * 0.2 * sqrt(max(fan in, fan out)) (arXiv 2502.16982, 2.2).
    """

    def one(path, update):
        fans = [math.prod(update.shape[axis] for axis in axes) for axes in _axes(path, update)]
        return 0.2 * math.sqrt(max(fans)) * update

    return jax.tree_util.tree_map_with_path(one, updates)


def _leaf_name(path: tuple) -> str:
    return str(getattr(path[-1], "key", path[-1]))


OPTIMIZERS = {"adamw": _adamw, "muon": _muon}


def _scale_by_step(rate: Rate) -> optax.GradientTransformationExtraArgs:
    def update(updates, state, params=None, *, step, **_):
        scale = -rate(step)
        return jax.tree.map(lambda u: (scale * u).astype(u.dtype), updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


class SpikeState(NamedTuple):
    """Norms of the last finite gradients (a ring), and whether the last update was skipped."""

    norms: jax.Array
    seen: jax.Array
    skipped_last: jax.Array
    inner: Any


def skip_spikes(
    inner: optax.GradientTransformation, *, factor: float, window: int = 128
) -> optax.GradientTransformationExtraArgs:
    """Leave parameters and moments untouched when loss or norm is not finite, or the norm spikes.

    A spike is a norm above `factor` times the median of the last `window` finite norms; nothing
    counts as one before the window is full. Spikes enter the window too: a lasting change of level
    moves the median within half a window, so training cannot stall for ever.
    Raises ValueError when factor <= 1 or window < 2.
    """
    if factor <= 1 or window < 2:
        raise ValueError(f"skip_spikes needs factor > 1 and window >= 2, not {factor} and {window}")
    inner = optax.with_extra_args_support(inner)

    def init(params):
        no = jnp.zeros((), jnp.float32)
        seen = jnp.zeros((), jnp.int32)
        return SpikeState(jnp.zeros((window,), jnp.float32), seen, no, inner.init(params))

    def update(updates, state, params=None, *, value, **extra):
        norm = optax.global_norm(updates)
        finite = jnp.isfinite(norm) & jnp.isfinite(value)
        spike = (state.seen >= window) & (norm > factor * jnp.median(state.norms))
        good = finite & ~spike
        moved, moments = inner.update(updates, state.inner, params, value=value, **extra)
        kept = jax.tree.map(lambda new, old: jnp.where(good, new, old), moments, state.inner)
        moved = jax.tree.map(lambda u: jnp.where(good, u, jnp.zeros_like(u)), moved)
        slot = state.seen % window
        norms = state.norms.at[slot].set(jnp.where(finite, norm, state.norms[slot]))
        seen = state.seen + finite.astype(jnp.int32)
        return moved, SpikeState(norms, seen, 1.0 - good.astype(jnp.float32), kept)

    return optax.GradientTransformationExtraArgs(init, update)
