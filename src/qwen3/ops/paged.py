"""Attention of one query a sequence into a paged KV cache: page by page, whatever the lengths.

The cache of a batch is a list of M pages of P places. Page m belongs to sequence `owner_M[m]` and
holds its places from `start_M[m]` on, so a long sequence costs its own pages and no one else's.
Each page is multiplied with its owner's query; one softmax a sequence joins them (the sums of
FlashAttention, arXiv 2205.14135; pages are those of PagedAttention, arXiv 2309.06180).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qwen3 import mesh as meshes

MASKED = -1e30


class Pages(NamedTuple):
    """Whose the M pages of a batch are, in any order. On a mesh, M and the sequences are divided
    over the batch axes and numbers are a shard's own.
    """

    owner_M: Any  # int32: sequence; B for a page of no sequence, which nothing is added of
    start_M: Any  # int32: the page's first place in the sequence; beyond it for no sequence
    order_M: Any  # int32: numbers of the pages, those of a sequence in their order
    # int32: pages that new tokens go into. W follow each other in the sequence; the page of place i
    # stands at i // P % W.
    next_BW: Any


def append(
    queries: Sequence[jax.Array],
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    keys_MKHP: jax.Array,
    values_MKPH: jax.Array,
    pages: Pages,
    *,
    index_B: jax.Array,
    active_B: jax.Array,
    chunk: int | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(attention output [B, 1, N, H], keys and values with the new token of each active sequence).

    queries: [B, 1, N, H] each. Without `chunk` there is one, for all keys; with it there are
    three, for keys of the same chunk of so many tokens, of the previous one and of earlier ones
    (Dual Chunk Attention). index_B: the new token's place; the query sees places up to it.
    """
    heads, row = meshes.spec("batch", None, "act_heads", None), meshes.spec("batch")
    cache = meshes.spec("batch", "act_heads", None, None)

    def shard(
        queries: tuple[jax.Array, ...],
        k_BTKH: jax.Array,
        v_BTKH: jax.Array,
        keys: jax.Array,
        values: jax.Array,
        pages: Pages,
        index_B: jax.Array,
        active_B: jax.Array,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        size = keys.shape[-1]
        turn_B1 = (index_B // size % pages.next_BW.shape[1])[:, None]
        page_B = jnp.take_along_axis(pages.next_BW, turn_B1, axis=1)[:, 0]
        page_B = jnp.where(active_B, page_B, keys.shape[0])  # no page M: nothing is written there
        place_B = index_B % size
        keys = keys.at[page_B, :, :, place_B].set(k_BTKH[:, 0].astype(keys.dtype), mode="drop")
        values = values.at[page_B, :, place_B].set(v_BTKH[:, 0].astype(values.dtype), mode="drop")
        return _attend(queries, keys, values, pages, index_B, chunk), keys, values

    operands = (tuple(queries), k_BTKH, v_BTKH, keys_MKHP, values_MKPH, pages, index_B, active_B)
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


def _attend(
    queries: Sequence[jax.Array],
    keys_MKHP: jax.Array,
    values_MKPH: jax.Array,
    pages: Pages,
    index_B: jax.Array,
    chunk: int | None,
) -> jax.Array:
    """[B, 1, N, H], scores and sums in fp32."""
    B, _, N, H = queries[0].shape
    K, P = keys_MKHP.shape[1], keys_MKHP.shape[-1]
    owner, shape = pages.owner_M, (B, K, N // K)
    place_MP = pages.start_M[:, None] + jnp.arange(P)
    index_M1 = index_B[owner][:, None]

    # A product with a multiple of the identity, which XLA computes once a sequence. A plain factor
    # is fused into the gather of queries, with norm, sines and cosines, and computed for each page.
    scale_HH = jnp.eye(H, dtype=jnp.float32) * H**-0.5

    def scores(q_BTNH: jax.Array) -> jax.Array:
        q_BNH = jnp.matmul(
            q_BTNH[:, 0].astype(jnp.float32), scale_HH, precision=jax.lax.Precision.HIGHEST
        )
        q_BKGH = q_BNH.reshape(*shape, H).astype(keys_MKHP.dtype)
        return jnp.einsum(
            "MKGH,MKHP->MKGP", q_BKGH[owner], keys_MKHP, preferred_element_type=jnp.float32
        )

    if chunk is None:
        scores_MKGP = scores(queries[0])
    else:
        same, near, far = (scores(q) for q in queries)
        ahead = (index_M1 // chunk - place_MP // chunk)[:, None, None]
        scores_MKGP = jnp.where(ahead == 0, same, jnp.where(ahead == 1, near, far))
    scores_MKGP = jnp.where((place_MP <= index_M1)[:, None, None], scores_MKGP, MASKED)
    # Sums are in the order of the sequence, so that they do not depend on where its pages stand.
    order, ordered = pages.order_M, owner[pages.order_M]
    top_BKG = jnp.full(shape, MASKED).at[owner].max(scores_MKGP.max(-1), mode="drop")
    weights_MKGP = jnp.exp(scores_MKGP - top_BKG[owner][..., None])
    total_BKG = jnp.zeros(shape).at[ordered].add(weights_MKGP.sum(-1)[order], mode="drop")
    part_MKGH = jnp.einsum(
        "MKGP,MKPH->MKGH",
        weights_MKGP.astype(values_MKPH.dtype),
        values_MKPH,
        preferred_element_type=jnp.float32,
    )
    out_BKGH = jnp.zeros((*shape, H)).at[ordered].add(part_MKGH[order], mode="drop")
    # A sequence without pages has a total of 0.
    out_BKGH = out_BKGH / jnp.where(total_BKG == 0, 1.0, total_BKG)[..., None]
    return out_BKGH.reshape(B, 1, N, H).astype(queries[0].dtype)
