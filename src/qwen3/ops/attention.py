"""Causal grouped-query attention (GQA); kv head j serves query heads j*G..j*G+G-1.

A query attends to keys of its own segment that do not come later. Padding is segment 0 and attends
to itself only, so no row of scores is ever empty. Kernels: "reference" (any platform; blocks of
queries, each against no more keys than it may see), "splash" (Pallas, TPU), "cudnn" and "tokamax"
(GPU). With an ambient mesh every kernel runs per shard: rows over the batch axes, heads over
"tensor", queries over "context" with keys and values gathered. `cached` attends into a KV cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from qwen3 import mesh as meshes
from qwen3.ops import int8

MASKED = -1e30  # score of a masked key: finite, so that its gradient is 0 and not NaN
RESIDUALS = "attention"  # name, for remat policies, of what the backward pass needs of a kernel
SMALLEST_BLOCK, MOST_BLOCKS = 128, 16  # of queries, in the reference kernel

Span: TypeAlias = tuple[int, int, int]  # first query, last query + 1, number of keys they may see
Spans: TypeAlias = tuple[Span, ...]
Places: TypeAlias = tuple[
    jax.Array, jax.Array | None, jax.Array | None
]  # index_T, q and k segments
Start: TypeAlias = jax.Array | int | None  # index of the first query among the keys; None: 0
Kernel: TypeAlias = Callable[
    [jax.Array, jax.Array, jax.Array, jax.Array | None, jax.Array | None, Start], jax.Array
]


def attention(
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    *,
    segments_BT: jax.Array | None = None,
    kernel: str = "reference",
) -> jax.Array:
    """[B, T, N, H] out of q [B, T, N, H] and k, v [B, T, K, H], scaled by H^-0.5.

    segments_BT: int32 ids of the documents packed into a row, 0 for padding; None: one document.
    Raises ValueError for an unknown kernel, naming the known ones.
    """
    if kernel not in KERNELS:
        raise ValueError(f"unknown attention kernel {kernel!r}; there are {', '.join(KERNELS)}")
    sizes = meshes.ambient_sizes()
    if math.prod(sizes.values()) <= 1:
        return KERNELS[kernel](q_BTNH, k_BTKH, v_BTKH, segments_BT, segments_BT, None)
    if segments_BT is None:
        segments_BT = jnp.ones(q_BTNH.shape[:2], jnp.int32)
    return _sharded(q_BTNH, k_BTKH, v_BTKH, segments_BT, kernel, sizes["context"])


def _sharded(
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    segments_BT: jax.Array,
    kernel: str,
    context: int,
) -> jax.Array:
    """Run the kernel on each device's own rows, heads and queries."""
    heads = meshes.spec("batch", "length", "act_heads", None)
    rows = meshes.spec("batch", "length")
    splash_plan = _splash_plan(q_BTNH, context) if kernel == "splash" else None

    def shard(
        q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array, plan: Any
    ) -> jax.Array:
        k_segments, start = segments, None
        if context > 1:
            k, v, k_segments = (
                jax.lax.all_gather(x, "context", axis=1, tiled=True) for x in (k, v, segments)
            )
            start = jax.lax.axis_index("context") * q.shape[1]
        if kernel == "splash":
            return _splash_run(plan, q, k, v, segments, k_segments)
        return KERNELS[kernel](q, k, v, segments, k_segments, start)

    plan_specs = None
    if splash_plan is not None:
        ambient = jax.sharding.get_abstract_mesh()
        plan_specs = splash_plan.manual_sharding_spec(NamedSharding(ambient, P(None, "context")))
    return jax.shard_map(
        shard, in_specs=(heads, heads, heads, rows, plan_specs), out_specs=heads, check_vma=False
    )(q_BTNH, k_BTKH, v_BTKH, segments_BT, splash_plan)


def reference(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    q_segments: jax.Array | None,
    k_segments: jax.Array | None,
    start: Start,
) -> jax.Array:
    """Attention in plain XLA, block of queries by block, on any platform.

    Query t is at index `start` + t of the S keys. With start None, known to be 0, the keys behind
    a block's last query are left out of its products, which halves the work.
    """
    B, T, N, H = q_BTNH.shape
    S, K = k_BSKH.shape[1:3]
    q_BKGTH = (q_BTNH * H**-0.5).reshape(B, T, K, N // K, H).transpose(0, 2, 3, 1, 4)
    size = T if start is not None else max(SMALLEST_BLOCK, -(-T // MOST_BLOCKS))
    spans = tuple(
        (first, min(first + size, T), S if start is not None else min(first + size, T))
        for first in range(0, T, size)
    )
    index_T = jnp.arange(T) + (0 if start is None else start)
    o_BKGTH = _blocked(
        q_BKGTH,
        k_BSKH.transpose(0, 2, 1, 3),
        v_BSKH.transpose(0, 2, 1, 3),
        (index_T, q_segments, k_segments),
        spans,
    )
    return o_BKGTH.transpose(0, 3, 1, 2, 4).reshape(B, T, N, H)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _blocked(
    q_BKGTH: jax.Array, k_BKSH: jax.Array, v_BKSH: jax.Array, places: Places, spans: Spans
) -> jax.Array:
    """Attention block by block. The backward pass gets the log-sum-exp of the scores and makes
    the weights again (FlashAttention, arXiv 2205.14135).
    """
    return _blocked_forward(q_BKGTH, k_BKSH, v_BKSH, places, spans)[0]


def _visible(places: Places, span: Span) -> jax.Array:
    """Mask [1 or B, t, keys], True where a query of the block may see the key."""
    (first, last, keys), (index_T, q_segments, k_segments) = span, places
    mask = (index_T[first:last, None] >= jnp.arange(keys)[None, :])[None]
    if q_segments is None or k_segments is None:
        return mask
    return mask & (q_segments[:, first:last, None] == k_segments[:, None, :keys])


def _rows(x_BKGTH: jax.Array, span: Span) -> jax.Array:
    """One block's queries [B, K, G * t, H], all query heads of a kv head in one matrix."""
    B, K, G, _, H = x_BKGTH.shape
    return x_BKGTH[:, :, :, span[0] : span[1]].reshape(B, K, -1, H)


def _matmul_fp32(form: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(form, a, b, preferred_element_type=jnp.float32)


def _blocked_forward(
    q_BKGTH: jax.Array, k_BKSH: jax.Array, v_BKSH: jax.Array, places: Places, spans: Spans
) -> tuple[jax.Array, tuple]:
    outs, sums = [], []
    B, K, G, _, H = q_BKGTH.shape
    for span in spans:
        first, last, keys = span
        scores = _matmul_fp32("BKRH,BKSH->BKRS", _rows(q_BKGTH, span), k_BKSH[:, :, :keys])
        scores = scores.reshape(B, K, G, last - first, keys)
        scores = jnp.where(_visible(places, span)[:, None, None], scores, MASKED)
        # Softmax with its division put off until after the product with the values.
        top = scores.max(axis=-1, keepdims=True)
        weights = jnp.exp(scores - top)
        total = weights.sum(axis=-1, keepdims=True)
        flat = weights.reshape(B, K, -1, keys).astype(v_BKSH.dtype)
        out = _matmul_fp32("BKRS,BKSH->BKRH", flat, v_BKSH[:, :, :keys])
        outs.append((out.reshape(B, K, G, -1, H) / total).astype(q_BKGTH.dtype))
        sums.append((top + jnp.log(total))[..., 0])
    # Named here, where the backward pass takes them from: a remat policy that saves them saves the
    # whole forward kernel. A name on the attention's output outside of it would save nothing.
    o_BKGTH = checkpoint_name(jnp.concatenate(outs, axis=3), RESIDUALS)
    lse_BKGT = checkpoint_name(jnp.concatenate(sums, axis=3), RESIDUALS)
    return o_BKGTH, (q_BKGTH, k_BKSH, v_BKSH, places, o_BKGTH, lse_BKGT)


def _blocked_backward(spans: Spans, residuals: tuple, do_BKGTH: jax.Array) -> tuple:
    """Gradients of q, k and v, with the scores made again as [keys, queries].

    In that order only the product for dq would need a transposed matrix of scores, and there the
    keys are transposed instead: XLA:CPU multiplies a batch of transposed matrices at a third of
    its rate (docs/log/2026-11-21-attention-on-a-cpu.md).
    """
    q_BKGTH, k_BKSH, v_BKSH, places, o_BKGTH, lse_BKGT = residuals
    B, K, G, _, H = q_BKGTH.shape
    dtype = q_BKGTH.dtype
    # Softmax: dscore = weight * (dweight - sum over keys of weight * dweight); that sum is o . do.
    inner_BKGT = jnp.sum(o_BKGTH.astype(jnp.float32) * do_BKGTH, axis=-1)
    k_BKHS = k_BKSH.swapaxes(2, 3)
    dq, dk = [], jnp.zeros(k_BKSH.shape, jnp.float32)
    dv = jnp.zeros_like(dk)
    for span in spans:
        first, last, keys = span
        q_BKRH, do_BKRH = _rows(q_BKGTH, span), _rows(do_BKGTH, span)
        lse, inner = (x[:, :, None, :, first:last] for x in (lse_BKGT, inner_BKGT))
        shape = (B, K, keys, G, last - first)
        scores = _matmul_fp32("BKSH,BKRH->BKSR", k_BKSH[:, :, :keys], q_BKRH).reshape(shape)
        visible = _visible(places, span).swapaxes(1, 2)[:, None, :, None]
        weights = jnp.exp(jnp.where(visible, scores, MASKED) - lse)
        dweights = _matmul_fp32("BKSH,BKRH->BKSR", v_BKSH[:, :, :keys], do_BKRH).reshape(shape)
        dscores = (weights * (dweights - inner)).astype(dtype).reshape(B, K, keys, -1)
        flat = weights.astype(dtype).reshape(dscores.shape)
        dv = dv.at[:, :, :keys].add(_matmul_fp32("BKSR,BKRH->BKSH", flat, do_BKRH))
        dk = dk.at[:, :, :keys].add(_matmul_fp32("BKSR,BKRH->BKSH", dscores, q_BKRH))
        block = _matmul_fp32("BKHS,BKSR->BKHR", k_BKHS[..., :keys], dscores)
        block = jax.lax.optimization_barrier(block)  # else XLA moves the transpose to the scores
        dq.append(block.swapaxes(2, 3).reshape(B, K, G, last - first, H))
    grads = (jnp.concatenate(dq, axis=3), dk, dv)
    return *(g.astype(dtype) for g in grads), None


_blocked.defvjp(_blocked_forward, _blocked_backward)


def cached(
    q_BTNH: jax.Array, k_BKHS: int8.Stored, v_BKSH: int8.Stored, *, q_index_BT: jax.Array
) -> jax.Array:
    """Attention into a KV cache: query t of row b sees the cache's slots 0..q_index_BT[b, t].

    [B, T, N, H] out, scores in fp32. Keys are stored with the S slots last: XLA:CPU multiplies a
    query with them in little more than half the time. Where they are in int8, it is scores and
    weights that are multiplied with the scales.
    """
    B, T, N, H = q_BTNH.shape
    k_BKHS, k_scales = int8.factor(k_BKHS, q_BTNH.dtype)
    v_BKSH, v_scales = int8.factor(v_BKSH, q_BTNH.dtype)
    K, S = k_BKHS.shape[1], k_BKHS.shape[-1]
    q_BKGTH = (q_BTNH * H**-0.5).reshape(B, T, K, N // K, H).transpose(0, 2, 3, 1, 4)
    q_BKRH = q_BKGTH.reshape(B, K, -1, H).astype(k_BKHS.dtype)
    mask = q_index_BT[:, None, None, :, None] >= jnp.arange(S)
    scores = int8.scaled(_matmul_fp32("BKRH,BKHS->BKRS", q_BKRH, k_BKHS), k_scales)
    scores = jnp.where(mask, scores.reshape(B, K, N // K, T, S), MASKED)
    weights = int8.scaled(jax.nn.softmax(scores, axis=-1).reshape(B, K, -1, S), v_scales)
    o_BKRH = jnp.einsum("BKRS,BKSH->BKRH", weights.astype(v_BKSH.dtype), v_BKSH)
    o_BTKGH = o_BKRH.reshape(B, K, N // K, T, H).transpose(0, 3, 1, 2, 4)
    return o_BTKGH.reshape(B, T, N, H).astype(q_BTNH.dtype)


def _splash_plan(q_BTNH: jax.Array, shards: int) -> Any:
    """The splash kernel object with its causal mask, queries in `shards` parts.

    Raises ValueError for head widths and lengths that the Pallas kernel cannot take.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    T, N, H = q_BTNH.shape[1:]
    if H % 128 and H != 64:
        raise ValueError(f"splash attention needs a head_dim of 64 or a multiple of 128, not {H}")
    heads = N // meshes.ambient_sizes().get("tensor", 1)
    block = math.gcd(512, T // shards)
    if block < 128:
        raise ValueError(f"splash attention needs multiples of 128 positions a shard, not {T}")
    sizes = splash.BlockSizes(
        block_q=block,
        block_kv=block,
        block_kv_compute=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_kv_dkv_compute=block,
        use_fused_bwd_kernel=True,
    )
    mask = masks.MultiHeadMask([masks.CausalMask((T, T)) for _ in range(heads)])
    return splash.make_splash_mha(
        mask,
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=shards,
        residual_checkpoint_name=RESIDUALS,
    )


def _splash_run(
    plan: Any,
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    q_segments: jax.Array,
    k_segments: jax.Array,
) -> jax.Array:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash

    def row(
        q_TNH: jax.Array,
        k_SKH: jax.Array,
        v_SKH: jax.Array,
        q_segments_T: jax.Array,
        k_segments_S: jax.Array,
    ) -> jax.Array:
        heads = (x.transpose(1, 0, 2) for x in (q_TNH * q_TNH.shape[-1] ** -0.5, k_SKH, v_SKH))
        segments = splash.SegmentIds(q=q_segments_T, kv=k_segments_S)
        return plan(*heads, segment_ids=segments).transpose(1, 0, 2)

    return jax.vmap(row)(q_BTNH, k_BSKH, v_BSKH, q_segments, k_segments)


def _splash(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    q_segments: jax.Array | None,
    k_segments: jax.Array | None,
    start: Start,
) -> jax.Array:
    """The splash kernel without a mesh: the whole batch on one device, so `start` is None."""
    if q_segments is None or k_segments is None:
        q_segments = k_segments = jnp.ones(q_BTNH.shape[:2], jnp.int32)
    return _splash_run(_splash_plan(q_BTNH, 1), q_BTNH, k_BSKH, v_BSKH, q_segments, k_segments)


def _mask(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    q_segments: jax.Array | None,
    k_segments: jax.Array | None,
    start: Start,
) -> jax.Array:
    """Mask [1 or B, 1, T, S], True where a query may see the key, for kernels that take one."""
    index_T = jnp.arange(q_BTNH.shape[1]) + (0 if start is None else start)
    mask = (index_T[:, None] >= jnp.arange(k_BSKH.shape[1])[None, :])[None, None]
    if q_segments is None or k_segments is None:
        return mask
    return mask & (q_segments[:, None, :, None] == k_segments[:, None, None, :])


def _cudnn(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    q_segments: jax.Array | None,
    k_segments: jax.Array | None,
    start: Start,
) -> jax.Array:
    mask = None  # plain causal attention needs none: cuDNN skips masked blocks by itself
    if q_segments is not None or start is not None:
        mask = _mask(q_BTNH, k_BSKH, q_segments, k_segments, start)
    return jax.nn.dot_product_attention(
        q_BTNH, k_BSKH, v_BSKH, mask=mask, is_causal=mask is None, implementation="cudnn"
    )


def _tokamax(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    q_segments: jax.Array | None,
    k_segments: jax.Array | None,
    start: Start,
) -> jax.Array:
    import tokamax

    mask = _mask(q_BTNH, k_BSKH, q_segments, k_segments, start)
    return tokamax.dot_product_attention(q_BTNH, k_BSKH, v_BSKH, mask=mask)


KERNELS: dict[str, Kernel] = {
    "reference": reference,
    "splash": _splash,
    "cudnn": _cudnn,
    "tokamax": _tokamax,
}
