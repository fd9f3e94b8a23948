"""Many small models trained side by side on one device, each on its own data or at its own rate.

The members are one model with one initialisation, mapped over (`jax.vmap`), so that a swarm
compiles once. Its tables of losses are what `mixture_search` and `rate_laws` are fitted to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from qwen3.config import OptimConfig
from qwen3.data.batches import AnyCorpus, Batches
from qwen3.data.mixture import Stage
from qwen3.losses import lm
from qwen3.model import transformer
from qwen3.model.execution import Execution
from qwen3.model.sizes import ModelConfig
from qwen3.train import optim

HELD_OUT_BATCH = 32  # rows at a time


@dataclass(frozen=True)
class SwarmSettings:
    """How the members of a swarm are trained."""

    steps: int  # optimizer steps
    optim: OptimConfig = OptimConfig(warmup=10)  # `peak` is each member's own
    seed: int = 0  # of the initialisation
    held_out_rows: int = 64  # of each held-out set, at most


def swarm_losses(
    model: ModelConfig,
    batches: Sequence[Batches],
    peaks: Sequence[float],
    held_out: Mapping[str, AnyCorpus],
    settings: SwarmSettings,
) -> dict[str, np.ndarray]:
    """{held-out set: loss in nats a token, float64 [members]} after training.

    batches: of each member, of equal batch size and length. peaks: learning rate of each. A member
    whose loss is no number any more keeps NaN.
    """
    params = trained_swarm(model, batches, peaks, settings)
    return held_out_losses(model, params, held_out, batches[0].stage.length, settings.held_out_rows)


def trained_swarm(
    model: ModelConfig,
    batches: Sequence[Batches],
    peaks: Sequence[float],
    settings: SwarmSettings,
) -> Any:
    """Parameters of all members after training, each leaf [members, ...]."""
    if len(batches) != len(peaks):
        raise ValueError(f"{len(batches)} members and {len(peaks)} learning rates")
    apply = transformer.bind(model, Execution())
    params = transformer.init(model, jax.random.key(settings.seed))
    params = jax.tree.map(lambda leaf: jnp.stack([leaf] * len(peaks)), params)
    return _trained(_loss(model, apply), params, batches, jnp.asarray(peaks), settings)


def held_out_losses(
    model: ModelConfig, params: Any, held_out: Mapping[str, AnyCorpus], length: int, rows: int
) -> dict[str, np.ndarray]:
    """{held-out set: loss in nats a token, float64 [members]} of a trained swarm, on at most `rows`
    rows of `length` tokens of each set."""
    apply = transformer.bind(model, Execution())
    return {
        name: _held_out(apply, params, corpus, name, length, model.vocab, rows)
        for name, corpus in held_out.items()
    }


def _loss(model: ModelConfig, apply: Callable) -> Callable:
    if not model.moe:
        return partial(lm.next_token, apply)
    return partial(lm.next_token, apply, balance="global", balance_coef=model.balance_coef)


def _trained(
    loss: Callable,
    params: Any,
    batches: Sequence[Batches],
    peaks: jax.Array,
    settings: SwarmSettings,
) -> Any:
    shape = optim.schedule(replace(settings.optim, peak=1.0), settings.steps)

    def optimizer(rate: Any) -> optax.GradientTransformationExtraArgs:
        return optax.with_extra_args_support(optim.build(settings.optim, lambda step: rate))

    def mean(params: Any, batch: dict) -> jax.Array:
        total, sums = loss(params, batch)
        return total / sums["weight"]

    @partial(jax.jit, donate_argnums=(0, 1))
    @partial(jax.vmap, in_axes=(0, 0, 0, 0, None))
    def update(params: Any, state: Any, batch: dict, rate: jax.Array, step: jax.Array) -> Any:
        value, grads = jax.value_and_grad(mean)(params, batch)
        changes, state = optimizer(rate).update(grads, state, params, step=step, value=value)
        return optax.apply_updates(params, changes), state

    state = jax.vmap(optimizer(0.0).init)(params)
    for step in range(settings.steps):
        members = [table[step] for table in batches]
        stacked = {name: np.stack([member[name] for member in members]) for name in members[0]}
        # As an argument: a schedule in the program would have each length compiled anew.
        rates = peaks * shape(step)
        params, state = update(params, state, stacked, rates, jnp.int32(step))
    return params


def _held_out(
    apply: Callable, params: Any, corpus: AnyCorpus, name: str, length: int, vocab: int, limit: int
) -> np.ndarray:
    stage = Stage(f"held out {name}", {name: 1}, length, HELD_OUT_BATCH, repeat_small=True)
    table = Batches(stage, {name: corpus}, 0, vocab=vocab)
    count = min(table.report(0)["epoch_rows"][name], limit)

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None))
    def sums(params: Any, batch: dict) -> jax.Array:
        _, totals = lm.next_token(apply, params, batch)
        return jnp.stack([totals["ce"], totals["weight"]])

    total = np.zeros((jax.tree.leaves(params)[0].shape[0], 2))
    for first in range(0, count, HELD_OUT_BATCH):
        numbers = np.arange(first, first + HELD_OUT_BATCH)
        batch = table.rows(0, (numbers % count).tolist())
        batch["weights"][numbers >= count] = 0
        total += np.asarray(sums(params, batch), np.float64)
    return total[:, 0] / total[:, 1]
