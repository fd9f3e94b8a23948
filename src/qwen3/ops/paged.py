"""One new token a sequence into a paged KV cache, and its attention there.

The cache of a batch is a list of M pages of P places, each of one sequence, so that a long sequence
costs its own pages and no one else's. The kernels are in `paged_attention`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from qwen3 import mesh as meshes
from qwen3.ops import int8, paged_attention
from qwen3.ops.int8 import Stored
from qwen3.ops.paged_attention import Pages, Query


def append(
    queries: Sequence[jax.Array],
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    keys: Stored,
    values_MKPH: Stored,
    pages: Pages,
    *,
    index_B: jax.Array,
    active_B: jax.Array,
    kernel: str,
    chunk: int | None = None,
) -> tuple[jax.Array, Stored, Stored]:
    """(attention output [B, 1, N, H], keys and values with the new token of each active sequence).

    queries: [B, 1, N, H] each, see `paged_attention.Query`. keys: [M, K, H, P] or [M, K, P, H], see
    `paged_attention.places_last`. index_B: the new token's place; the query sees places up to it.
    With an ambient mesh, rows and pages are divided over the batch axes, heads over "tensor".
    """
    heads, row = meshes.spec("batch", None, "act_heads", None), meshes.spec("batch")
    cache = meshes.spec("batch", "act_heads", None, None)
    device = jax.sharding.get_abstract_mesh().abstract_device
    cores = 1 if device is None else device.num_cores or 1

    def shard(
        queries: tuple[jax.Array, ...],
        k_BTKH: jax.Array,
        v_BTKH: jax.Array,
        keys: Stored,
        values: Stored,
        pages: Pages,
        index_B: jax.Array,
        active_B: jax.Array,
    ) -> tuple[jax.Array, Stored, Stored]:
        count, _, size, _ = jax.tree.leaves(values)[0].shape
        page_B = jnp.take_along_axis(pages.table_BS, (index_B // size)[:, None], axis=1)[:, 0]
        page_B = jnp.where(active_B, page_B, count)  # there is no page M: nothing is written there
        place_B = index_B % size

        def write(old: Stored, x_BTKH: jax.Array, last: bool) -> Stored:
            def each(old: jax.Array, new_BKH: jax.Array) -> jax.Array:
                place = old.at[page_B, :, :, place_B] if last else old.at[page_B, :, place_B]
                return place.set(new_BKH.astype(old.dtype), mode="drop")

            return jax.tree.map(each, old, int8.like(old, x_BTKH[:, 0], axis=-1))

        keys = write(keys, k_BTKH, paged_attention.places_last(kernel))
        values = write(values, v_BTKH, False)
        query = Query(tuple(q[:, 0] for q in queries), index_B, active_B, chunk, cores)
        out_BNH = paged_attention.attend(kernel, query, keys, values, pages)
        return out_BNH[:, None].astype(queries[0].dtype), keys, values

    operands = (tuple(queries), k_BTKH, v_BTKH, keys, values_MKPH, pages, index_B, active_B)
    if math.prod(meshes.ambient_sizes().values()) <= 1:
        return shard(*operands)
    specs = (
        (heads,) * len(queries),
        *(heads, heads, cache, cache),
        Pages(row, row, row, meshes.spec("batch", None)),
        *(row, row),
    )
    return jax.shard_map(shard, in_specs=specs, out_specs=(heads, cache, cache), check_vma=False)(
        *operands
    )
