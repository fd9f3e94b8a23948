"""The optimizer: gradient clipping, AdamW or Muon, decoupled weight decay, skipping of spikes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import optax

from qwen3.config import OptimConfig
from qwen3.train.schedules import DECAYS, Rate, chain, schedule
from qwen3.train.spikes import SpikeState, skip_spikes

__all__ = ["DECAYS", "Rate", "SpikeState", "build", "chain", "decays", "schedule", "skip_spikes"]


def build(config: OptimConfig, rate: Rate) -> optax.GradientTransformationExtraArgs:
    """Gradient clipping, AdamW or Muon, weight decay; `update` takes `step=` and `value=` (loss).

    `clip_norm` > 0 scales a gradient whose global norm is larger down to it. Weight decay is
    decoupled (arXiv 1711.05101): it is added after the moments and scaled by the learning rate.
    `skip_spikes` > 0 guards all of it (see `spikes.skip_spikes`). Raises ValueError on an unknown
    optimizer.
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


VECTORS = ("norm", "bias")  # ends of the names of vectors, which are [L, D] over stacked layers


def decays(params: Any) -> Any:
    """True where weight decay applies: matrices. Vectors stay free, stacked [L, D] ones too."""

    def is_matrix(path: tuple, leaf: jax.Array) -> bool:
        return leaf.ndim >= 2 and not _leaf_name(path).endswith(VECTORS)

    return jax.tree_util.tree_map_with_path(is_matrix, params)


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
    """Muon for the matrices inside the layers, Adam for the rest. Its momentum is betas[1]."""

    def dimension_numbers(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: _muon_axes(path, leaf) or optax.MaskedNode(), params
        )

    def labels(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: "muon" if _muon_axes(path, leaf) else "adam", params
        )

    muon = optax.chain(
        optax.contrib.scale_by_muon(
            beta=config.betas[1],
            weight_dimension_numbers=dimension_numbers,
            mu_dtype=config.moments,
        ),
        optax.stateless(lambda updates, params: _match_adam(updates)),
    )
    return optax.partition({"muon": muon, "adam": _adamw(config)}, labels)


def _muon_axes(path: tuple, leaf: jax.Array) -> optax.contrib.MuonDimensionNumbers | None:
    axes = MUON_AXES.get(_leaf_name(path)) if leaf.ndim >= 3 else None
    return optax.contrib.MuonDimensionNumbers(*axes) if axes else None


def _match_adam(updates: Any) -> Any:
    """Bring an orthogonal update to Adam's RMS of about 0.2, so that one rate serves both.

    An orthogonal m x n matrix has RMS 1 / sqrt(max(m, n)), hence u * 0.2 * sqrt(max(fan in, fan
    out)) (arXiv 2502.16982, 2.2).
    """

    def scale(path: tuple, update: jax.Array) -> jax.Array:
        numbers = _muon_axes(path, update)
        assert numbers is not None, f"{path} is no matrix of Muon's"
        fans = [math.prod(update.shape[axis] for axis in axes) for axes in numbers]
        return 0.2 * math.sqrt(max(fans)) * update

    return jax.tree_util.tree_map_with_path(scale, updates)


def _leaf_name(path: tuple) -> str:
    return str(getattr(path[-1], "key", path[-1]))


OPTIMIZERS: dict[str, Callable[[OptimConfig], optax.GradientTransformation]] = {
    "adamw": _adamw,
    "muon": _muon,
}


def _scale_by_step(rate: Rate) -> optax.GradientTransformationExtraArgs:
    """Multiply by minus the rate of the step that is handed in; the state holds no counter."""

    def update(
        updates: Any, state: Any, params: Any = None, *, step: jax.Array, **_: Any
    ) -> tuple[Any, Any]:
        scale = -rate(step)
        return jax.tree.map(lambda u: (scale * u).astype(u.dtype), updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
