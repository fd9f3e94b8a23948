"""The device's slots and their KV cache, and how answers get into and out of them: pure functions.

A KV cache holds the keys and values of all layers: a tuple of L LayerCaches, or one LayerCache with
a leading L where the execution scans its layers. Row s of every array belongs to slot s, which
serves one answer at a time. Shapes never depend on the requests.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from qwen3.infer import budget
from qwen3.infer.requests import MOST_STOP_IDS
from qwen3.model import transformer
from qwen3.model.execution import Execution
from qwen3.model.layers import LayerCache
from qwen3.model.sizes import ModelConfig
from qwen3.ops import sampling

KVCache: TypeAlias = LayerCache | tuple[LayerCache, ...]
PADDING, PROMPT, SAMPLED, FORCED = 0, 1, 2, 3  # kinds of history tokens


class Slots(NamedTuple):
    """The decode state of S slots, without their KV cache."""

    token: jax.Array  # int32 [S]: the next input
    length: jax.Array  # int32 [S]: tokens in the KV cache
    tokens_left: jax.Array  # int32 [S]: tokens that may still be generated
    active: jax.Array  # bool [S]: whether the slot's answer goes on
    key: jax.Array  # uint32 [S, 2]: of the answer's random numbers
    rules: sampling.Rules  # [S] each
    stop_ids: jax.Array  # int32 [S, MOST_STOP_IDS], -1 for none
    counts_SV: jax.Array  # int32: how often a token was sampled; forced ones do not count
    seen_SV: jax.Array  # bool: tokens of prompt and answer
    automaton: budget.Automaton  # [S] each


class Admission(NamedTuple):
    """Host arrays that tell `insert` what goes into which slot: the first `count` of S entries."""

    count: Any  # int32 []
    slot: Any  # int32 [S]: destination
    source: Any  # int32 [S]: row of the prefilled batch
    token: Any  # int32 [S]: the first input, the last token so far
    length: Any  # int32 [S]: tokens in the KV cache, all but the last
    tokens_left: Any  # int32 [S]
    seeds: Any  # uint32 [S, 3]
    rules: sampling.Rules
    stop_ids: Any  # int32 [S, MOST_STOP_IDS]
    history: Any  # int32 [S, T + 1]: the tokens so far, prompt and answer
    kinds: Any  # int8 [S, T + 1]: PADDING, PROMPT, SAMPLED or FORCED, of each of them
    automaton: budget.Automaton


def new_slots(slots: int, vocab: int) -> Slots:
    """Device state of `slots` empty slots."""
    zeros = jnp.zeros(slots, jnp.int32)
    return Slots(
        token=zeros,
        length=zeros,
        tokens_left=zeros,
        active=jnp.zeros(slots, bool),
        key=jnp.zeros((slots, 2), jnp.uint32),
        rules=sampling.neutral(slots),
        stop_ids=jnp.full((slots, MOST_STOP_IDS), -1, jnp.int32),
        counts_SV=jnp.zeros((slots, vocab), jnp.int32),
        seen_SV=jnp.zeros((slots, vocab), bool),
        automaton=budget.automaton(dict.fromkeys(budget.DTYPES, zeros)),
    )


def new_kv_cache(config: ModelConfig, slots: int, length: int, execution: Execution) -> KVCache:
    """An empty KV cache of `length` places for each slot."""
    return transformer.new_cache(
        config, slots, length, execution.kv_dtype, stacked=execution.scan
    ).layers


def insert(
    slots: Slots, kv_cache: KVCache, prefilled: KVCache, new: Admission
) -> tuple[Slots, KVCache]:
    """Put `new` answers into their slots, with their rows of the `prefilled` KV cache."""
    keys = sampling.row_keys(new.seeds)
    vocab = slots.counts_SV.shape[1]

    def insert_one(i: jax.Array, carry: tuple[Slots, KVCache]) -> tuple[Slots, KVCache]:
        slots, kv_cache = carry
        slot = new.slot[i]

        def put(place_axis: int, cache: jax.Array, batch: jax.Array) -> jax.Array:
            row = jax.lax.dynamic_slice_in_dim(batch, new.source[i], 1, batch.ndim - 4)
            row = _whole_row(row, place_axis, cache.shape[place_axis], new.length[i])
            start: list[Any] = [0] * cache.ndim
            start[cache.ndim - 4] = slot
            return jax.lax.dynamic_update_slice(cache, row.astype(cache.dtype), start)

        kv_cache = _each_array(put, kv_cache, prefilled)
        kinds, history = new.kinds[i], new.history[i]
        # The id `vocab` stands for tokens that do not count: mode="drop" leaves it out.
        seen = jnp.where(kinds != PADDING, history, vocab)
        sampled = jnp.where(kinds == SAMPLED, history, vocab)
        filled = Slots(
            token=new.token[i],
            length=new.length[i],
            tokens_left=new.tokens_left[i],
            active=jnp.array(True),
            key=keys[i],
            rules=jax.tree.map(lambda x: x[i], new.rules),
            stop_ids=new.stop_ids[i],
            counts_SV=jnp.zeros(vocab, jnp.int32).at[sampled].add(1, mode="drop"),
            seen_SV=jnp.zeros(vocab, bool).at[seen].set(True, mode="drop"),
            automaton=jax.tree.map(lambda x: x[i], new.automaton),
        )
        return jax.tree.map(lambda old, x: old.at[slot].set(x), slots, filled), kv_cache

    return jax.lax.fori_loop(0, new.count, insert_one, (slots, kv_cache))


def rows_of(kv_cache: KVCache, slot_R: jax.Array, length_R: jax.Array, *, more: int) -> KVCache:
    """The rows of these slots with `more` empty places; zero from length_R on."""

    def cut(place_axis: int, cache: jax.Array) -> jax.Array:
        rows = jnp.take(cache, slot_R, axis=cache.ndim - 4, mode="clip")
        padding = [(0, 0)] * rows.ndim
        padding[place_axis] = (0, more)
        return jnp.pad(_cleared(rows, place_axis, length_R), padding)

    return _each_array(cut, kv_cache)


def put_rows(kv_cache: KVCache, rows: KVCache, slot_R: jax.Array, length_R: jax.Array) -> KVCache:
    """The KV cache with rows of length_R tokens in these slots; a slot that is none is left out."""

    def put(place_axis: int, cache: jax.Array, rows: jax.Array) -> jax.Array:
        rows = jax.lax.slice_in_dim(rows, 0, cache.shape[place_axis], axis=place_axis)
        rows = _cleared(rows, place_axis, length_R).astype(cache.dtype)
        at = (*[slice(None)] * (cache.ndim - 4), slot_R)
        return cache.at[at].set(rows, mode="drop")

    return _each_array(put, kv_cache, rows)


def _cleared(rows: jax.Array, place_axis: int, length_R: jax.Array) -> jax.Array:
    """Rows that are zero from length_R on, see `_whole_row`."""
    index = jax.lax.broadcasted_iota(jnp.int32, rows.shape, rows.ndim + place_axis)
    return jnp.where(index < length_R[:, None, None, None], rows, 0)


def _whole_row(row: jax.Array, place_axis: int, length: int, tokens: jax.Array) -> jax.Array:
    """A prefilled row's first `tokens` places, and zeros up to the cache's `length`.

    Zeros because a place without a token has weight 0 in attention, and 0 * NaN is NaN: nothing
    that an earlier answer or the prompt's padding left behind may stay in the slot.
    """
    width = min(row.shape[place_axis], length)
    row = jax.lax.slice_in_dim(row, 0, width, axis=place_axis)
    index = jax.lax.broadcasted_iota(jnp.int32, row.shape, row.ndim + place_axis)
    row = jnp.where(index < tokens, row, 0)
    padding = [(0, 0)] * row.ndim
    padding[place_axis] = (0, length - width)
    return jnp.pad(row, padding)


def resize(slots: Slots, kv_cache: KVCache, keep: jax.Array, *, length: int) -> tuple[Slots, Any]:
    """Slots `keep` (old indices, in the new order) with a KV cache of `length` places."""

    def resized(place_axis: int, cache: jax.Array) -> jax.Array:
        cache = jnp.take(cache, keep, axis=cache.ndim - 4)
        if length <= cache.shape[place_axis]:
            return jax.lax.slice_in_dim(cache, 0, length, axis=place_axis)
        padding = [(0, 0)] * cache.ndim
        padding[place_axis] = (0, length - cache.shape[place_axis])
        return jnp.pad(cache, padding)

    return jax.tree.map(lambda x: x[keep], slots), _each_array(resized, kv_cache)


def _each_array(function: Callable[..., jax.Array], cache: KVCache, *others: KVCache) -> KVCache:
    """function(place axis, array, ...) of every array of a KV cache, and of others beside.

    The places are the last axis of keys [.., K, H, S] and the last but one of values [.., K, S, H].
    """
    on_keys, on_values = partial(function, -1), partial(function, -2)
    return jax.tree.map(
        lambda *layers: LayerCache(
            jax.tree.map(on_keys, *(layer.keys for layer in layers)),
            jax.tree.map(on_values, *(layer.values for layer in layers)),
        ),
        cache,
        *others,
        is_leaf=lambda x: isinstance(x, LayerCache),
    )
