"""The device's slots and caches, and how answers get into and out of them: pure and jittable.

A cache is a tuple of L LayerCaches, or one with a leading L where the execution scans its layers.
A slot (row) holds one answer. Shapes never depend on the requests.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qwen3.infer import budget
from qwen3.infer.requests import MOST_STOP_IDS
from qwen3.model import transformer
from qwen3.model.execution import Execution
from qwen3.model.layers import LayerCache
from qwen3.model.sizes import ModelConfig
from qwen3.ops import sampling

PADDING, PROMPT, SAMPLED, FORCED = 0, 1, 2, 3  # kinds of history tokens


class Slots(NamedTuple):
    """What each of S slots is about; everything but counts and seen is one short row of numbers."""

    token: jax.Array  # the next input
    length: jax.Array  # tokens in the cache
    left: jax.Array  # tokens that may still be made
    active: jax.Array
    key: jax.Array  # uint32 [S, 2]
    rules: sampling.Rules
    stops: jax.Array  # [S, MOST_STOP_IDS], -1 for none
    counts_SV: jax.Array  # generated tokens, forced ones left out
    seen_SV: jax.Array  # tokens of prompt and answer
    thinking: budget.Automaton


class Admission(NamedTuple):
    """Rows to be filled: the first `count` of S entries. Host arrays.

    slot: where to; source: row of the prefilled batch; seeds: uint32 [S, 3]; history, kinds
    [S, T + 1]: the tokens so far, the first input included, and what each is.
    """

    count: Any
    slot: Any
    source: Any
    token: Any
    length: Any
    left: Any
    seeds: Any
    rules: sampling.Rules
    stops: Any
    history: Any
    kinds: Any
    thinking: budget.Automaton


def new_slots(slots: int, vocab: int) -> Slots:
    """Empty ones."""
    zeros = jnp.zeros(slots, jnp.int32)
    return Slots(
        token=zeros,
        length=zeros,
        left=zeros,
        active=jnp.zeros(slots, bool),
        key=jnp.zeros((slots, 2), jnp.uint32),
        rules=sampling.neutral(slots),
        stops=jnp.full((slots, MOST_STOP_IDS), -1, jnp.int32),
        counts_SV=jnp.zeros((slots, vocab), jnp.int32),
        seen_SV=jnp.zeros((slots, vocab), bool),
        thinking=automaton({name: zeros for name in budget.Automaton._fields}),
    )


def automaton(fields) -> budget.Automaton:
    return budget.Automaton(
        **{name: jnp.asarray(value, budget.DTYPES[name]) for name, value in fields.items()}
    )


def insert(slots: Slots, layers: Any, prompts: Any, new: Admission) -> tuple[Slots, Any]:
    """Put arrivals into their slots; `prompts` is what prefill gave."""
    keys = sampling.row_keys(new.seeds)

    def one(i, carry):
        slots, layers = carry
        row, source = new.slot[i], new.source[i]

        def put(places, cache, prompt):
            axis = cache.ndim - 4
            taken = jax.lax.dynamic_slice_in_dim(prompt, source, 1, axis)
            length = min(taken.shape[places], cache.shape[places])
            taken = jax.lax.slice_in_dim(taken, 0, length, axis=places)
            start = [0] * cache.ndim
            start[axis] = row
            return jax.lax.dynamic_update_slice(cache, taken.astype(cache.dtype), start)

        layers = _each_cache(put, layers, prompts)
        kinds, vocab = new.kinds[i], slots.counts_SV.shape[1]
        seen = jnp.where(kinds != PADDING, new.history[i], vocab)
        made = jnp.where(kinds == SAMPLED, new.history[i], vocab)
        seen_V = jnp.zeros(vocab, bool).at[seen].set(True, mode="drop")
        counts_V = jnp.zeros(vocab, jnp.int32).at[made].add(1, mode="drop")
        filled = Slots(
            token=new.token[i],
            length=new.length[i],
            left=new.left[i],
            active=True,
            key=keys[i],
            rules=jax.tree.map(lambda x: x[i], new.rules),
            stops=new.stops[i],
            counts_SV=counts_V,
            seen_SV=seen_V,
            thinking=jax.tree.map(lambda x: x[i], new.thinking),
        )
        return jax.tree.map(lambda old, x: old.at[row].set(x), slots, filled), layers

    return jax.lax.fori_loop(0, new.count, one, (slots, layers))


def resize(slots: Slots, layers: Any, keep: jax.Array, *, length: int) -> tuple[Slots, Any]:
    """Slots `keep` (old indices, in the new order) with caches of another length."""

    def cache(places, x):
        x = jnp.take(x, keep, axis=x.ndim - 4)
        if length <= x.shape[places]:
            return jax.lax.slice_in_dim(x, 0, length, axis=places)
        pad = [(0, 0)] * x.ndim
        pad[places] = (0, length - x.shape[places])
        return jnp.pad(x, pad)

    return jax.tree.map(lambda x: x[keep], slots), _each_cache(cache, layers)


def _each_cache(function, layers, *others):
    """function(axis of the places, array, ...) of every cache: keys have them last."""
    return jax.tree.map(
        lambda *caches: LayerCache(
            function(-1, *(each.keys for each in caches)),
            function(-2, *(each.values for each in caches)),
        ),
        layers,
        *others,
        is_leaf=lambda x: isinstance(x, LayerCache),
    )


def new_layers(
    config: ModelConfig, slots: int, length: int, execution: Execution
) -> LayerCache | tuple[LayerCache, ...]:
    return transformer.new_cache(
        config, slots, length, execution.dtype, stacked=execution.scan
    ).layers
