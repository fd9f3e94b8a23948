"""The paged KV cache on the device, as pure functions (PagedAttention, arXiv 2309.06180).

The pool holds M pages of P places for all layers: values [M, K, P, H] a layer, and keys like them
or as [M, K, H, P] (`paged_attention.places_last`), with a leading L where the execution scans its
layers. Decode steps attend to the pages where they stand, so the pool is the only KV cache there
is, and it is as long as the sequences, not slots x the longest. On a mesh every batch shard has its
own part, and page numbers are a shard's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from qwen3 import mesh as meshes
from qwen3.infer.slots import KVCache
from qwen3.model.execution import Execution
from qwen3.model.layers import LayerCache
from qwen3.model.sizes import ModelConfig
from qwen3.ops import paged_attention
from qwen3.ops.paged_attention import Pages

NO_PAGE = 2**30  # a page number that no pool has: what is written there is dropped


class PageTable(NamedTuple):
    """Host arrays that tell a decode call whose the pages are, and which to copy before."""

    pages: Pages
    source_M: Any  # int32: pages that are copied
    target_M: Any  # int32: where to
    counts: Any  # int32 [1] a shard: how many of them


def new_pool(config: ModelConfig, pages: int, page_size: int, execution: Execution) -> KVCache:
    """An empty pool."""
    leading = (config.layers,) if execution.scan else ()
    shape = (*leading, pages, config.kv_heads, page_size, config.head_dim)
    places_last = paged_attention.places_last(execution.pages)

    def layer() -> LayerCache:
        values = jnp.zeros(shape, execution.kv_dtype)
        return LayerCache(_turned(values, places_last), values)

    return layer() if execution.scan else tuple(layer() for _ in range(config.layers))


def _turned(x: jax.Array, places_last: bool) -> jax.Array:
    """Keys [..., P, H] as [..., H, P] or the reverse, where the pool stores them so."""
    return x.swapaxes(-1, -2) if places_last else x


def copy(pool: KVCache, table: PageTable, length_S: jax.Array, *, places_last: bool) -> KVCache:
    """The pool with its copies made, which are zero at every place that holds no token.

    Zero because such a place has weight 0 in attention, and 0 * NaN is NaN: nothing that an earlier
    answer left behind in a page may reach the next one.
    """

    def shard(
        pool: LayerCache,
        pages: Pages,
        source_M: jax.Array,
        target_M: jax.Array,
        counts: jax.Array,
        length_S: jax.Array,
    ) -> LayerCache:
        place_P1 = jnp.arange(pool.values.shape[-2])[:, None]

        # Page by page: each is a copy in place, and none is copied beyond their number.
        def copy_one(i: jax.Array, pool: LayerCache) -> LayerCache:
            to = target_M[i]
            left = length_S[pages.owner_M[to]] - pages.start_M[to]
            keys, values = (jax.lax.dynamic_slice_in_dim(x, source_M[i], 1) for x in pool)
            token = place_P1 < left
            page = jnp.where(_turned(token, places_last), keys, 0), jnp.where(token, values, 0)
            return LayerCache._make(
                jax.lax.dynamic_update_slice_in_dim(old, new, to, 0)
                for old, new in zip(pool, page, strict=True)
            )

        return jax.lax.fori_loop(0, counts[0], copy_one, pool)

    return _each_layer(shard, (pool,), (*table, length_S))


def resize(pool: KVCache, source_M: jax.Array) -> KVCache:
    """A pool of other length: which page of the old one stands at each place."""

    def shard(pool: LayerCache, source_M: jax.Array) -> LayerCache:
        return LayerCache._make(jnp.take(x, source_M, axis=0, mode="clip") for x in pool)

    return _each_layer(shard, (pool,), (source_M,))


def store(pool: KVCache, rows: KVCache, pages_RW: jax.Array, *, places_last: bool) -> KVCache:
    """The pool with rows of W x P places, each cut into its pages; NO_PAGE for those to drop."""

    def shard(pool: LayerCache, rows: LayerCache, pages_RW: jax.Array) -> LayerCache:
        (R, W), (K, size, H) = pages_RW.shape, pool.values.shape[1:]
        keys = rows.keys.reshape(R, K, H, W, size).transpose(0, 3, 1, 4, 2)
        keys = _turned(keys, places_last)
        values = rows.values.reshape(R, K, W, size, H).transpose(0, 2, 1, 3, 4)
        return LayerCache._make(
            old.at[pages_RW.reshape(-1)].set(
                new.reshape(R * W, *old.shape[1:]).astype(old.dtype), mode="drop"
            )
            for old, new in zip(pool, (keys, values), strict=True)
        )

    return _each_layer(shard, (pool, rows), (pages_RW,))


def rows_of(
    pool: KVCache, pages_RW: jax.Array, length_R: jax.Array, *, more: int, places_last: bool
) -> KVCache:
    """Rows of W x P places and `more` empty ones, out of their pages; zero from length_R on."""

    def shard(pool: LayerCache, pages_RW: jax.Array, length_R: jax.Array) -> LayerCache:
        R, W = pages_RW.shape
        keys, values = (jnp.take(x, pages_RW, axis=0, mode="clip") for x in pool)
        _, _, K, size, H = values.shape
        keys = _turned(keys, places_last).transpose(0, 2, 4, 1, 3).reshape(R, K, H, W * size)
        values = values.transpose(0, 2, 1, 3, 4).reshape(R, K, W * size, H)
        token = jnp.arange(W * size) < length_R[:, None, None, None]
        padding = [(0, 0), (0, 0), (0, 0), (0, more)]
        keys = jnp.pad(jnp.where(token, keys, 0), padding)
        values = jnp.where(token.swapaxes(2, 3), values, 0)
        return LayerCache(keys, jnp.pad(values, [padding[0], padding[1], padding[3], padding[2]]))

    return _each_layer(shard, (pool,), (pages_RW, length_R))


def new_places(rows: KVCache, start_R: jax.Array, count: int) -> KVCache:
    """Of each row, the `count` places from start_R on."""

    def shard(rows: LayerCache, start_R: jax.Array) -> LayerCache:
        def cut(axis: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
            return lambda row, start: jax.lax.dynamic_slice_in_dim(row, start, count, axis)

        return LayerCache(
            jax.vmap(cut(2))(rows.keys, start_R), jax.vmap(cut(1))(rows.values, start_R)
        )

    return _each_layer(shard, (rows,), (start_R,))


def _each_layer(
    function: Callable[..., LayerCache], caches: tuple[KVCache, ...], operands: tuple[Any, ...]
) -> KVCache:
    """function(layer of each cache, *operands) of every layer, on each batch shard's own part."""

    def layer(*layers: LayerCache) -> LayerCache:
        call: Callable[..., LayerCache] = function
        names: tuple[str | None, ...] = ("batch", "act_heads", None, None)
        if layers[0].keys.ndim == 5:  # a stack of layers
            in_axes = (*(0 for _ in layers), *(None for _ in operands))
            call, names = jax.vmap(function, in_axes=in_axes), (None, *names)
        if math.prod(meshes.ambient_sizes().values()) <= 1:
            return call(*layers, *operands)
        cache = LayerCache._make((meshes.spec(*names),) * 2)
        row = jax.tree.map(lambda _: meshes.spec("batch"), operands)
        return jax.shard_map(
            call,
            in_specs=(*(cache for _ in layers), *row),
            out_specs=cache,
            check_vma=False,
        )(*layers, *operands)

    if isinstance(caches[0], LayerCache):
        return layer(*cast(tuple[LayerCache, ...], caches))
    return tuple(layer(*layers) for layers in zip(*cast(Any, caches), strict=True))
