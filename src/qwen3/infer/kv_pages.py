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
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from qwen3 import mesh as meshes
from qwen3.infer.slots import KVCache
from qwen3.model.execution import Execution
from qwen3.model.layers import LayerCache
from qwen3.model.sizes import ModelConfig
from qwen3.ops import int8, paged_attention
from qwen3.ops.int8 import Stored
from qwen3.ops.paged_attention import Pages

NO_PAGE = 2**30  # a page number that no pool has: what is written there is dropped


class PageTable(NamedTuple):
    """Host arrays that tell a decode call whose the pages are, and which to copy before."""

    pages: Pages
    source_M: Any  # int32: pages that are copied
    target_M: Any  # int32: where to
    counts: Any  # int32 [1] a shard: how many of them


def new_pool(config: ModelConfig, pages: int, page_size: int, execution: Execution) -> KVCache:
    """An empty pool. ValueError for a dtype that the execution's kernel of pages does not take."""
    paged_attention.check_cache(execution.pages, jnp.dtype(execution.kv_dtype))
    leading = (config.layers,) if execution.scan else ()
    shape = (*leading, pages, config.kv_heads, page_size, config.head_dim)
    places_last = paged_attention.places_last(execution.pages)

    def layer() -> LayerCache:
        values = int8.zeros(shape, execution.kv_dtype, -1)
        return LayerCache(_turned(values, places_last), values)

    return layer() if execution.scan else tuple(layer() for _ in range(config.layers))


def _turned(stored: Stored, places_last: bool) -> Any:
    """Keys [..., P, H] as [..., H, P] or the reverse, where the pool stores them so."""
    return jax.tree.map(lambda x: x.swapaxes(-1, -2) if places_last else x, stored)


def _places(pool: LayerCache) -> int:
    """Places of a page."""
    return jax.tree.leaves(pool.values)[0].shape[-2]


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
        place_P1 = jnp.arange(_places(pool))[:, None]

        # Page by page: each is a copy in place, and none is copied beyond their number.
        def copy_one(i: jax.Array, pool: LayerCache) -> LayerCache:
            to = target_M[i]
            left = length_S[pages.owner_M[to]] - pages.start_M[to]
            token_P1 = place_P1 < left

            def put(token: jax.Array, old: jax.Array) -> jax.Array:
                page = jax.lax.dynamic_slice_in_dim(old, source_M[i], 1)
                page = jnp.where(token, page, 0)
                return jax.lax.dynamic_update_slice_in_dim(old, page, to, 0)

            return LayerCache(
                jax.tree.map(partial(put, _turned(token_P1, places_last)), pool.keys),
                jax.tree.map(partial(put, token_P1), pool.values),
            )

        return jax.lax.fori_loop(0, counts[0], copy_one, pool)

    return _each_layer(shard, (pool,), (*table, length_S))


def resize(pool: KVCache, source_M: jax.Array) -> KVCache:
    """A pool of other length: which page of the old one stands at each place."""

    def shard(pool: LayerCache, source_M: jax.Array) -> LayerCache:
        return jax.tree.map(lambda x: jnp.take(x, source_M, axis=0, mode="clip"), pool)

    return _each_layer(shard, (pool,), (source_M,))


def put(pool: KVCache, pages: KVCache, target_B: jax.Array) -> KVCache:
    """The pool with one page of each shard at its target, NO_PAGE for one to drop."""

    def shard(pool: LayerCache, pages: LayerCache, target_1: jax.Array) -> LayerCache:
        return jax.tree.map(lambda x, new: x.at[target_1].set(new, mode="drop"), pool, pages)

    return _each_layer(shard, (pool, pages), (target_B,))


def store(pool: KVCache, rows: KVCache, pages_RW: jax.Array, *, places_last: bool) -> KVCache:
    """The pool with rows of W x P places, each cut into its pages; NO_PAGE for those to drop."""

    def shard(pool: LayerCache, rows: LayerCache, pages_RW: jax.Array) -> LayerCache:
        (R, W), size = pages_RW.shape, _places(pool)

        def key_pages(x_RKHS: jax.Array) -> jax.Array:
            K, H = x_RKHS.shape[1:3]
            return x_RKHS.reshape(R, K, H, W, size).transpose(0, 3, 1, 4, 2)

        def value_pages(x_RKSH: jax.Array) -> jax.Array:
            K, H = x_RKSH.shape[1], x_RKSH.shape[-1]
            return x_RKSH.reshape(R, K, W, size, H).transpose(0, 2, 1, 3, 4)

        def put(old: jax.Array, new: jax.Array) -> jax.Array:
            new = new.reshape(R * W, *old.shape[1:]).astype(old.dtype)
            return old.at[pages_RW.reshape(-1)].set(new, mode="drop")

        keys = _turned(jax.tree.map(key_pages, rows.keys), places_last)
        values = jax.tree.map(value_pages, rows.values)
        return jax.tree.map(put, pool, LayerCache(keys, values))

    return _each_layer(shard, (pool, rows), (pages_RW,))


def rows_of(
    pool: KVCache, pages_RW: jax.Array, length_R: jax.Array, *, more: int, places_last: bool
) -> KVCache:
    """Rows of W x P places and `more` empty ones, out of their pages; zero from length_R on."""

    def shard(pool: LayerCache, pages_RW: jax.Array, length_R: jax.Array) -> LayerCache:
        (R, W), size = pages_RW.shape, _places(pool)
        token = jnp.arange(W * size) < length_R[:, None, None, None]
        none, after = (0, 0), (0, more)

        def key_rows(x: jax.Array) -> jax.Array:
            x = _turned(jnp.take(x, pages_RW, axis=0, mode="clip"), places_last)
            _, _, K, _, H = x.shape
            x = x.transpose(0, 2, 4, 1, 3).reshape(R, K, H, W * size)
            return jnp.pad(jnp.where(token, x, 0), [none, none, none, after])

        def value_rows(x: jax.Array) -> jax.Array:
            x = jnp.take(x, pages_RW, axis=0, mode="clip")
            _, _, K, _, H = x.shape
            x = x.transpose(0, 2, 1, 3, 4).reshape(R, K, W * size, H)
            return jnp.pad(jnp.where(token.swapaxes(2, 3), x, 0), [none, none, after, none])

        keys, values = pool
        return LayerCache(jax.tree.map(key_rows, keys), jax.tree.map(value_rows, values))

    return _each_layer(shard, (pool,), (pages_RW, length_R))


def new_places(rows: KVCache, start_R: jax.Array, count: int) -> KVCache:
    """Of each row, the `count` places from start_R on."""

    def shard(rows: LayerCache, start_R: jax.Array) -> LayerCache:
        def cut(axis: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
            return lambda row, start: jax.lax.dynamic_slice_in_dim(row, start, count, axis)

        return LayerCache(
            jax.tree.map(lambda x: jax.vmap(cut(2))(x, start_R), rows.keys),
            jax.tree.map(lambda x: jax.vmap(cut(1))(x, start_R), rows.values),
        )

    return _each_layer(shard, (rows,), (start_R,))


def _each_layer(
    function: Callable[..., LayerCache], caches: tuple[KVCache, ...], operands: tuple[Any, ...]
) -> KVCache:
    """function(layer of each cache, *operands) of every layer, on each batch shard's own part."""

    def layer(*layers: LayerCache) -> LayerCache:
        call: Callable[..., LayerCache] = function
        names: tuple[str | None, ...] = ("batch", "act_heads", None, None)
        if jax.tree.leaves(layers[0])[0].ndim == 5:  # a stack of layers
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
