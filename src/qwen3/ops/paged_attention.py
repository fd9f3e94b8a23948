"""Kernels that attend with one query a sequence to the pages of a KV cache, for each platform.

"in_place" (CPU): every page is multiplied where it stands with its owner's query, and one softmax a
sequence joins the parts. "gathered" (GPU, and any other platform): the pages of all sequences are
gathered a few at a time, up to the longest sequence. "pallas" (TPU): the kernel that JAX ships,
which copies a sequence's pages out of HBM while it computes with those before. All make the sums of
FlashAttention (arXiv 2205.14135) over the pages of PagedAttention (arXiv 2309.06180), in an order
that is the sequence's, not that of its pages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from qwen3.ops import int8
from qwen3.ops.int8 import Int8, Stored

MASKED = -1e30
SCALAR_MEMORY = 2**20  # bytes of a TensorCore's SMEM, where the Pallas kernel reads its table
STEP = 512  # places of a sequence that "gathered" and "pallas" take at once, at least a page


class Pages(NamedTuple):
    """Whose the M pages of a batch are, in any order. On a mesh, M and the sequences are divided
    over the batch axes and numbers are a shard's own.
    """

    owner_M: Any  # int32: sequence; B for a page of no sequence, which nothing is added of
    start_M: Any  # int32: the page's first place in the sequence; beyond it for no sequence
    order_M: Any  # int32: numbers of the pages, those of a sequence in their order
    # int32: the page of each P places of a sequence; behind its last page, any page of its own.
    table_BS: Any


class Query(NamedTuple):
    """What attends: one token a sequence, at place index_B, which sees the places up to it."""

    # [B, N, H] each: one for all keys, or with `chunk` three, for keys of the same chunk of so many
    # tokens, of the previous one and of earlier ones (Dual Chunk Attention).
    variants: Sequence[jax.Array]
    index_B: jax.Array
    active_B: jax.Array  # bool; what comes out of another sequence is not used
    chunk: int | None
    cores: int = 1  # TensorCores of a device

    def heads(self, K: int) -> tuple[int, int, int]:
        """[B, K, G] of a cache of K heads."""
        B, N, _ = self.variants[0].shape
        return B, K, N // K


# (query, keys, values [M, K, P, H], pages) -> [B, N, H] in fp32
Kernel: TypeAlias = Callable[[Query, Stored, Stored, Pages], jax.Array]


def attend(kernel: str, query: Query, keys: Stored, values_MKPH: Stored, pages: Pages) -> jax.Array:
    """Attention output [B, N, H] in fp32, scores scaled by H^-0.5. keys: see `places_last`.

    Raises ValueError for an unknown kernel, naming the known ones, and for what one cannot do.
    """
    return KERNELS[known(kernel)](query, keys, values_MKPH, pages)


def known(kernel: str) -> str:
    """The kernel's name. ValueError where it is none."""
    if kernel not in KERNELS:
        raise ValueError(f"unknown kernel of pages {kernel!r}; there are {', '.join(KERNELS)}")
    return kernel


def check_cache(kernel: str, dtype: Any) -> None:
    """ValueError where a kernel cannot read a cache of this dtype, naming what can."""
    if known(kernel) != "pallas" or dtype == jnp.bfloat16:
        return
    if dtype == int8.INT8:
        # JAX's form for int8 reads a scale for every number, so more bytes than of bfloat16.
        raise ValueError(
            "the kernel of pages 'pallas' takes no int8 cache: take execution.pages 'gathered', "
            "the cache 'rows', or cache_dtype 'bfloat16'"
        )
    raise ValueError(
        f"the kernel of pages 'pallas' rounds to bfloat16, so it takes no {dtype} cache: take "
        "'gathered'"
    )


def places_last(kernel: str) -> bool:
    """Whether keys are stored as [M, K, H, P] and not as values are, [M, K, P, H].

    XLA:CPU multiplies a query with such keys in little more than half the time. On a TPU the last
    axis takes memory in steps of 128.
    """
    return known(kernel) == "in_place"


def _in_place(query: Query, keys_MKHP: Stored, values_MKPH: Stored, pages: Pages) -> jax.Array:
    keys_MKHP, k_scales = int8.factor(keys_MKHP, query.variants[0].dtype)
    values_MKPH, v_scales = int8.factor(values_MKPH, query.variants[0].dtype)
    K, H, P = keys_MKHP.shape[1:]
    owner, shape = pages.owner_M, query.heads(K)
    place_MP = pages.start_M[:, None] + jnp.arange(P)
    index_M1 = query.index_B[owner][:, None]

    # A product with a multiple of the identity, which XLA computes once a sequence. A plain factor
    # is fused into the gather of queries, with norm, sines and cosines, and computed for each page.
    scale_HH = jnp.eye(H, dtype=jnp.float32) * H**-0.5

    def scores(q_BNH: jax.Array) -> jax.Array:
        q_BNH = jnp.matmul(q_BNH.astype(jnp.float32), scale_HH, precision=jax.lax.Precision.HIGHEST)
        q_BKGH = q_BNH.reshape(*shape, H).astype(keys_MKHP.dtype)
        scores_MKGP = jnp.einsum(
            "MKGH,MKHP->MKGP", q_BKGH[owner], keys_MKHP, preferred_element_type=jnp.float32
        )
        return int8.scaled(scores_MKGP, k_scales)

    variants = [scores(q) for q in query.variants]
    scores_MKGP = _by_distance(variants, query.chunk, index_M1, place_MP)
    scores_MKGP = jnp.where((place_MP <= index_M1)[:, None, None], scores_MKGP, MASKED)
    # Sums are in the order of the sequence, so that they do not depend on where its pages stand.
    order, ordered = pages.order_M, owner[pages.order_M]
    top_BKG = jnp.full(shape, MASKED).at[owner].max(scores_MKGP.max(-1), mode="drop")
    weights_MKGP = jnp.exp(scores_MKGP - top_BKG[owner][..., None])
    total_BKG = jnp.zeros(shape).at[ordered].add(weights_MKGP.sum(-1)[order], mode="drop")
    part_MKGH = jnp.einsum(
        "MKGP,MKPH->MKGH",
        int8.scaled(weights_MKGP, v_scales).astype(values_MKPH.dtype),
        values_MKPH,
        preferred_element_type=jnp.float32,
    )
    out_BKGH = jnp.zeros((*shape, H)).at[ordered].add(part_MKGH[order], mode="drop")
    # A sequence without pages has a total of 0.
    out_BKGH = out_BKGH / jnp.where(total_BKG == 0, 1.0, total_BKG)[..., None]
    return out_BKGH.reshape(query.variants[0].shape)


def _gathered(query: Query, keys_MKPH: Stored, values_MKPH: Stored, pages: Pages) -> jax.Array:
    K, P, H = jax.tree.leaves(keys_MKPH)[0].shape[1:]
    shape, count = query.heads(K), max(STEP // P, 1)  # pages of a sequence at once
    table_BS = _padded(pages.table_BS, count)
    last = jnp.max(jnp.where(query.active_B, query.index_B, -1))

    def rows(stored_MKPH: Stored, pages_BC: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        def each(x_MKPH: jax.Array) -> jax.Array:
            x_BKCPH = x_MKPH[pages_BC].swapaxes(1, 2)
            return x_BKCPH.reshape(*x_BKCPH.shape[:2], count * P, -1)

        return int8.factor(jax.tree.map(each, stored_MKPH), query.variants[0].dtype)

    def step(i: jax.Array, sums: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        top_BKG, total_BKG, out_BKGH = sums
        pages_BC = jax.lax.dynamic_slice_in_dim(table_BS, i * count, count, axis=1)
        keys_BKSH, k_scales = rows(keys_MKPH, pages_BC)
        values_BKSH, v_scales = rows(values_MKPH, pages_BC)
        scores = [
            jnp.einsum(
                "BKGH,BKSH->BKGS",
                (q.astype(jnp.float32) * H**-0.5).reshape(*shape, H).astype(keys_BKSH.dtype),
                keys_BKSH,
                preferred_element_type=jnp.float32,
            )
            for q in query.variants
        ]
        scores = [int8.scaled(s, k_scales) for s in scores]
        place_BS, index_B1 = (i * count * P + jnp.arange(count * P))[None], query.index_B[:, None]
        scores_BKGS = _by_distance(scores, query.chunk, index_B1, place_BS)
        scores_BKGS = jnp.where((place_BS <= index_B1)[:, None, None], scores_BKGS, MASKED)
        new_BKG = jnp.maximum(top_BKG, scores_BKGS.max(-1))
        weights_BKGS = jnp.exp(scores_BKGS - new_BKG[..., None])
        part_BKGH = jnp.einsum(
            "BKGS,BKSH->BKGH",
            int8.scaled(weights_BKGS, v_scales).astype(values_BKSH.dtype),
            values_BKSH,
            preferred_element_type=jnp.float32,
        )
        before_BKG = jnp.exp(top_BKG - new_BKG)
        return (
            new_BKG,
            total_BKG * before_BKG + weights_BKGS.sum(-1),
            out_BKGH * before_BKG[..., None] + part_BKGH,
        )

    start = (jnp.full(shape, MASKED), jnp.zeros(shape), jnp.zeros((*shape, H)))
    _, total_BKG, out_BKGH = jax.lax.fori_loop(0, last // (count * P) + 1, step, start)
    out_BKGH = out_BKGH / jnp.where(total_BKG == 0, 1.0, total_BKG)[..., None]
    return out_BKGH.reshape(query.variants[0].shape)


def _pallas(query: Query, keys_MKPH: Stored, values_MKPH: Stored, pages: Pages) -> jax.Array:
    from jax.experimental.pallas.ops.tpu.paged_attention import paged_attention

    if query.chunk is not None:
        raise ValueError(
            "the kernel of pages 'pallas' has no Dual Chunk Attention: take 'gathered'"
        )
    check_cache("pallas", jax.tree.leaves(keys_MKPH)[0].dtype)
    assert not isinstance(keys_MKPH, Int8) and not isinstance(values_MKPH, Int8)
    M, K, P, H = keys_MKPH.shape
    if H % 128:
        raise ValueError(
            f"the kernel of pages 'pallas' needs a head_dim of a multiple of 128, not {H}: take "
            "'gathered'"
        )
    (B, _, G), count = query.heads(K), max(STEP // P, 1)
    table_BS = _padded(pages.table_BS, count)
    # The kernel wants [K, M, P, H], which would be a copy of all pages. Each head of a page is a
    # page of its own here, and each kv head of a sequence a sequence of one kv head.
    table_BKS = table_BS[:, None] * K + jnp.arange(K, dtype=table_BS.dtype)[:, None]
    if 4 * table_BKS.size > SCALAR_MEMORY:
        raise ValueError(
            f"a table of {B} slots x {K} kv heads x {table_BS.shape[1]} pages on a device is more "
            f"than a TPU's scalar memory, {SCALAR_MEMORY} bytes: take fewer slots, or divide them "
            "or the heads over more devices"
        )
    length_B = jnp.where(query.active_B, query.index_B + 1, 0)
    out = paged_attention(
        (query.variants[0].astype(jnp.float32) * H**-0.5).reshape(B * K, G, H),
        keys_MKPH.reshape(1, M * K, P, H),
        values_MKPH.reshape(1, M * K, P, H),
        jnp.repeat(length_B, K),
        table_BKS.reshape(B * K, -1),
        pages_per_compute_block=count,
        megacore_mode="batch" if query.cores == 2 and B * K % 2 == 0 else None,
    )
    return out.reshape(B, K * G, H)


def _by_distance(
    scores: Sequence[jax.Array], chunk: int | None, index: jax.Array, place: jax.Array
) -> jax.Array:
    """The scores [X, K, G, P] of the variant that each place [X or 1, P] is seen with, by chunks
    between it and the query at index [X, 1].
    """
    if chunk is None:
        return scores[0]
    ahead = (index // chunk - place // chunk)[:, None, None]
    same, near, far = scores
    return jnp.where(ahead == 0, same, jnp.where(ahead == 1, near, far))


def _padded(table_BS: jax.Array, count: int) -> jax.Array:
    """The table with a multiple of `count` pages a sequence, the last of them its own again."""
    return jnp.pad(table_BS, [(0, 0), (0, -table_BS.shape[1] % count)], mode="edge")


KERNELS: dict[str, Kernel] = {"in_place": _in_place, "gathered": _gathered, "pallas": _pallas}
