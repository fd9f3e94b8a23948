"""Learning rates as pure functions of the step: warm-up, then constant, linear, cosine or WSD.

The report gives no rates. What it does say is implemented: S2 decays faster than S1 (report 3.2),
which is one schedule per stage, joined by `chain`. The rate depends on the global step that the
train step hands in, never on a counter inside the optimizer: a skipped update cannot shift it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from qwen3.config import OptimConfig

Rate = Callable[[Any], jax.Array]

# Share of the way from peak (0) to final (1), given the share of the decay that has passed.
DECAYS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "constant": lambda x: jnp.zeros_like(x),
    "linear": lambda x: x,
    "cosine": lambda x: 0.5 * (1.0 - jnp.cos(jnp.pi * x)),
    "wsd": lambda x: x,  # warm-up, stable, decay: linear over the last `decay_share` of the steps
}


def schedule(config: OptimConfig, steps: int, *, offset: int = 0) -> Rate:
    """rate(step): warm-up to `peak`, then a decay that reaches `peak * final` at offset + steps.

    Warm-up gives peak * (s + 1) / warmup, so the first step already moves. The WSD schedule stays
    at the peak until the last `decay_share` of the steps and then falls linearly; the others decay
    over all steps after the warm-up. Before `offset` the first rate holds, after the end the last.
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

    def rate(step: Any) -> jax.Array:
        position = jnp.clip(jnp.asarray(step) - offset, 0, steps).astype(jnp.float32)
        decayed = jnp.clip((position - start) / max(steps - start, 1), 0.0, 1.0)
        warm = jnp.minimum(1.0, (position + 1.0) / max(config.warmup, 1))
        return config.peak * warm * (1.0 - (1.0 - config.final) * decay(decayed))

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

    def rate(step: Any) -> jax.Array:
        value = rates[-1](step)
        for border, earlier in reversed(list(zip(borders[:-1], rates[:-1], strict=True))):
            value = jnp.where(jnp.asarray(step) < border, earlier(step), value)
        return value

    return rate
