"""Skipping of loss spikes: a wrapper that leaves out the update of an outlying gradient."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class SpikeState(NamedTuple):
    """The state of the wrapped optimizer and what it takes to recognise a spike."""

    norms: jax.Array  # [window] norms of the last finite gradients, a ring buffer
    seen: jax.Array  # finite gradients so far
    skipped_last: jax.Array  # 1.0 if the last update was skipped
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

    def init(params: Any) -> SpikeState:
        norms = jnp.zeros((window,), jnp.float32)
        seen = jnp.zeros((), jnp.int32)
        return SpikeState(norms, seen, jnp.zeros((), jnp.float32), inner.init(params))

    def update(
        updates: Any, state: SpikeState, params: Any = None, *, value: jax.Array, **extra: Any
    ) -> tuple[Any, SpikeState]:
        norm = optax.global_norm(updates)
        finite = jnp.isfinite(norm) & jnp.isfinite(value)
        spike = (state.seen >= window) & (norm > factor * jnp.median(state.norms))
        good = finite & ~spike
        # Computed in any case and then chosen: under jit there is no branch around it.
        moved, moments = inner.update(updates, state.inner, params, value=value, **extra)
        moments = jax.tree.map(lambda new, old: jnp.where(good, new, old), moments, state.inner)
        moved = jax.tree.map(lambda u: jnp.where(good, u, jnp.zeros_like(u)), moved)
        slot = state.seen % window
        norms = state.norms.at[slot].set(jnp.where(finite, norm, state.norms[slot]))
        seen = state.seen + finite.astype(jnp.int32)
        return moved, SpikeState(norms, seen, 1.0 - good.astype(jnp.float32), moments)

    return optax.GradientTransformationExtraArgs(init, update)
