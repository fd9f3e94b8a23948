"""One transformer block (report, section 2): modules declare, functions in `ops` compute.

x += attention(norm(x)); x += feed_forward(norm(x)). Pre-norm with RMSNorm, QK-Norm before RoPE,
grouped-query attention (GQA), no bias.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from qwen3.mesh import constrain, gathered
from qwen3.model.execution import Execution
from qwen3.model.sizes import ModelConfig
from qwen3.ops import attention, dual_chunk, int8, mlp, norm, paged, rope, transport
from qwen3.ops.int8 import INT8, Int8, Stored
from qwen3.ops.linear import linear
from qwen3.ops.paged_attention import Pages


class Positions(NamedTuple):
    """Positions of the tokens, computed once and shared by all layers."""

    positions_BT: jax.Array  # int32, restarting with every document of a packed row
    segments_BT: jax.Array | None  # int32 number of the document, 0: padding; None: one document
    index_BT: jax.Array | None  # int32 slot of each token in the KV cache; None: no cache
    cos_BTh: jax.Array  # fp32, h = H / 2
    sin_BTh: jax.Array
    pages: Pages | None = None  # of a cache that is a list of pages


class LayerCache(NamedTuple):
    """The KV cache of one layer, each array laid out for products with few queries: a row a
    sequence, or M pages of P places (see `ops.paged`).
    """

    keys: Stored  # [B, K, H, S], [M, K, H, P] or [M, K, P, H], rotated to their positions
    values: Stored  # [B, K, S, H] or [M, K, P, H]


def frequencies(config: ModelConfig) -> tuple[np.ndarray, float]:
    """(rotary frequencies [H/2], factor on cos and sin), those of YaRN where config has it."""
    if config.rope_scaling is None:
        return rope.inverse_frequencies(config.head_dim, config.rope_theta), 1.0
    yarn = config.rope_scaling
    return rope.yarn_frequencies(
        config.head_dim,
        config.rope_theta,
        factor=yarn.factor,
        original_length=yarn.original_length,
        beta_fast=yarn.beta_fast,
        beta_slow=yarn.beta_slow,
    )


class Weight:
    """Declares a module's parameters: normal(init_std) matrices with logical axis names."""

    def __init__(
        self, module: nn.Module, config: ModelConfig, dtype: Any, outputs_first: bool = False
    ):
        self.module, self.dtype, self.outputs_first = module, dtype, outputs_first
        self.normal = nn.initializers.normal(config.init_std)

    def matrix(self, name: str, names: tuple, shape: tuple, inputs: int = 1) -> Stored:
        """A matrix with these logical axes, in the compute dtype or int8 and gathered over fsdp.

        Its first `inputs` axes are contracted; with outputs_first they are stored last.
        """
        if self.outputs_first:
            names, shape = (x[inputs:] + x[:inputs] for x in (names, shape))
        stored = self.stored(name, names, shape)
        if isinstance(stored, Int8):  # of an engine; its scales are on every device
            return stored._replace(numbers=gathered(stored.numbers, jnp.int8, *names))
        return gathered(stored, self.dtype, *names)

    def stored(self, name: str, names: tuple, shape: tuple) -> Any:
        """A matrix as it is stored: for the experts, whose transport gathers them itself."""
        return self._param(name, self.normal, names, shape)

    def scale(self, name: str, width: int) -> jax.Array:
        """The gain of an RMSNorm, 1 at first."""
        return self._param(name, nn.initializers.ones_init(), ("norm",), (width,))

    def _param(self, name: str, init: Any, names: tuple, shape: tuple) -> Any:
        return self.module.param(name, nn.with_logical_partitioning(init, names), shape)


class Attention(nn.Module):
    """Grouped-query attention (GQA) with QK-Norm, by plain RoPE or Dual Chunk Attention."""

    config: ModelConfig
    execution: Execution

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, at: Positions, cache: LayerCache | None
    ) -> tuple[jax.Array, LayerCache]:
        """(output_BTD, the cache with these tokens; without a cache, one of these tokens alone)."""
        c = self.config
        outputs_first, products = self.execution.outputs_first, self.execution.products
        weight = Weight(self, c, x_BTD.dtype, outputs_first)
        product = partial(linear, outputs_first=outputs_first, products=products)
        q_names, kv_names = ("embed", "heads", "head_dim"), ("embed", "kv_heads", "head_dim")
        query = weight.matrix("query", q_names, (c.hidden, c.heads, c.head_dim))
        key = weight.matrix("key", kv_names, (c.hidden, c.kv_heads, c.head_dim))
        value = weight.matrix("value", kv_names, (c.hidden, c.kv_heads, c.head_dim))
        out_names = ("heads", "head_dim", "embed")
        out = weight.matrix("out", out_names, (c.heads, c.head_dim, c.hidden), inputs=2)
        q_scale = weight.scale("query_norm", c.head_dim)
        k_scale = weight.scale("key_norm", c.head_dim)

        heads = ("batch", "length", "act_heads", None)
        q_BTNH = constrain(product(x_BTD, query), *heads)
        k_BTKH = constrain(product(x_BTD, key), *heads)
        v_BTKH = constrain(product(x_BTD, value), *heads)
        q_BTNH = norm.rms_norm(q_BTNH, q_scale, c.norm_eps)
        k_BTKH = norm.rms_norm(k_BTKH, k_scale, c.norm_eps)
        with jax.named_scope("attend"):
            attend = self.plain if c.dual_chunk is None else self.dual_chunk
            o_BTNH, new_cache = attend(q_BTNH, k_BTKH, v_BTKH, at, cache)
        return product(constrain(o_BTNH, *heads), out, inputs=2), new_cache

    def plain(
        self,
        q_BTNH: jax.Array,
        k_BTKH: jax.Array,
        v_BTKH: jax.Array,
        at: Positions,
        cache: LayerCache | None,
    ) -> tuple[jax.Array, LayerCache]:
        """RoPE and one softmax over the tokens themselves or over the cache."""
        q_BTNH = rope.rotate(q_BTNH, at.cos_BTh, at.sin_BTh)
        k_BTKH = rope.rotate(k_BTKH, at.cos_BTh, at.sin_BTh)
        if cache is None:
            new_cache, k_BTKH, v_BTKH = filled(k_BTKH, v_BTKH, self.execution.cache_dtype)
            o_BTNH = attention.attention(
                q_BTNH, k_BTKH, v_BTKH, segments_BT=at.segments_BT, kernel=self.execution.attention
            )
            return o_BTNH, new_cache
        assert at.index_BT is not None  # `forward` sets it with a cache
        if at.pages is not None:
            return append((q_BTNH,), k_BTKH, v_BTKH, at, cache, self.execution.pages)
        cache = write(cache, k_BTKH, v_BTKH, at.index_BT)
        return attention.cached(q_BTNH, cache.keys, cache.values, q_index_BT=at.index_BT), cache

    def dual_chunk(
        self,
        q_BTNH: jax.Array,
        k_BTKH: jax.Array,
        v_BTKH: jax.Array,
        at: Positions,
        cache: LayerCache | None,
    ) -> tuple[jax.Array, LayerCache]:
        """Dual Chunk Attention over the tokens themselves or over the cache."""
        settings = self.config.dual_chunk
        assert settings is not None
        inverse_frequencies, scale = frequencies(self.config)

        def rotate(x: jax.Array, positions_BT: jax.Array) -> jax.Array:
            return rope.rotate(x, *rope.cos_sin(positions_BT, inverse_frequencies, scale))

        k_BTKH = rotate(k_BTKH, at.positions_BT % settings.chunk)
        if cache is not None and at.pages is not None:
            towards = dual_chunk.query_positions(
                at.positions_BT,
                train_length=settings.train_length,
                chunk=settings.chunk,
                variant=settings.variant,
            )
            queries = tuple(rotate(q_BTNH, positions_BT) for positions_BT in towards)
            return append(queries, k_BTKH, v_BTKH, at, cache, self.execution.pages, settings.chunk)
        if cache is None:
            new_cache, k_BSKH, v_BSKH = filled(k_BTKH, v_BTKH, self.execution.cache_dtype)
            k_positions_BS, index_T = at.positions_BT, jnp.arange(q_BTNH.shape[1])
            mask_BTS = (index_T[:, None] >= index_T[None, :])[None]
            if at.segments_BT is not None:
                mask_BTS &= at.segments_BT[:, :, None] == at.segments_BT[:, None, :]
        else:
            assert at.index_BT is not None  # `forward` sets it with a cache
            new_cache = write(cache, k_BTKH, v_BTKH, at.index_BT)
            keys, values = (int8.dequantise(x, q_BTNH.dtype) for x in new_cache)
            k_BSKH, v_BSKH = keys.transpose(0, 3, 1, 2), values.transpose(0, 2, 1, 3)
            # A cache holds one document from its first token on, so a slot is a position.
            k_positions_BS = jnp.arange(k_BSKH.shape[1])[None]
            mask_BTS = at.index_BT[:, :, None] >= k_positions_BS[:, None, :]
        o_BTNH = dual_chunk.dual_chunk_attention(
            q_BTNH,
            k_BSKH,
            v_BSKH,
            rotate,
            q_positions_BT=at.positions_BT,
            k_positions_BS=k_positions_BS,
            mask_BTS=mask_BTS,
            train_length=settings.train_length,
            chunk=settings.chunk,
            variant=settings.variant,
        )
        return o_BTNH, new_cache


def append(
    queries: tuple[jax.Array, ...],
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    at: Positions,
    cache: LayerCache,
    kernel: str,
    chunk: int | None = None,
) -> tuple[jax.Array, LayerCache]:
    """One new token a sequence into a list of pages, and its attention. See `paged.append`."""
    assert at.pages is not None and at.index_BT is not None and at.segments_BT is not None
    o_BTNH, keys, values = paged.append(
        queries,
        k_BTKH,
        v_BTKH,
        *cache,
        at.pages,
        index_B=at.index_BT[:, 0],
        active_B=at.segments_BT[:, 0] != 0,
        kernel=kernel,
        chunk=chunk,
    )
    return o_BTNH, LayerCache(keys, values)


def stacked(k_BTKH: Stored, v_BTKH: Stored) -> LayerCache:
    """These tokens' keys and values as a cache stores them."""
    return LayerCache(
        jax.tree.map(lambda x: x.transpose(0, 2, 3, 1), k_BTKH),
        jax.tree.map(lambda x: x.transpose(0, 2, 1, 3), v_BTKH),
    )


def filled(
    k_BTKH: jax.Array, v_BTKH: jax.Array, cache_dtype: str
) -> tuple[LayerCache, jax.Array, jax.Array]:
    """(a cache of these tokens, their keys and values as it gives them back).

    A prompt attends to what an int8 cache holds of it, as its answer will: a token then sees the
    same whether those before it were prefilled with it, earlier, or decoded.
    """
    if cache_dtype != INT8:
        return stacked(k_BTKH, v_BTKH), k_BTKH, v_BTKH
    pair = tuple(int8.quantise(x, axis=-1) for x in (k_BTKH, v_BTKH))
    k_BTKH, v_BTKH = (int8.dequantise(x, k_BTKH.dtype) for x in pair)
    return stacked(*pair), k_BTKH, v_BTKH


def write(
    cache: LayerCache, k_BTKH: jax.Array, v_BTKH: jax.Array, index_BT: jax.Array
) -> LayerCache:
    """The cache with keys and values of new tokens in consecutive slots from index_BT[:, 0] on."""

    def put(axis: int, old: jax.Array, new: jax.Array) -> jax.Array:
        def put_row(old: jax.Array, new: jax.Array, first: jax.Array) -> jax.Array:
            start = (0, 0, first) if axis == 2 else (0, first, 0)
            return jax.lax.dynamic_update_slice(old, new.astype(old.dtype), start)

        return jax.vmap(put_row)(old, new, index_BT[:, 0])

    pair = (int8.like(old, x, axis=-1) for old, x in zip(cache, (k_BTKH, v_BTKH), strict=True))
    new = stacked(*pair)
    return LayerCache(
        jax.tree.map(partial(put, 2), cache.keys, new.keys),
        jax.tree.map(partial(put, 1), cache.values, new.values),
    )


class Mlp(nn.Module):
    """The dense feed-forward network, SwiGLU."""

    config: ModelConfig
    execution: Execution

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        d, f = self.config.hidden, self.config.ffn
        run = self.execution
        weight = Weight(self, self.config, x_BTD.dtype, run.outputs_first)
        gate_DF = weight.matrix("gate", ("embed", "mlp"), (d, f))
        up_DF = weight.matrix("up", ("embed", "mlp"), (d, f))
        down_FD = weight.matrix("down", ("mlp", "embed"), (f, d))
        options: Any = {"outputs_first": run.outputs_first, "products": run.products}
        return mlp.swiglu(x_BTD, gate_DF, up_DF, down_FD, **options)


class Moe(nn.Module):
    """The mixture of experts: 128 experts, top-8, no shared expert (report, section 2)."""

    config: ModelConfig
    execution: Execution

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, mask_BT: jax.Array | None, ids_BTA: jax.Array | None
    ) -> tuple[jax.Array, transport.MoeStats]:
        c, run = self.config, self.execution
        d, f, e = c.hidden, c.expert_ffn, c.experts
        weight = Weight(self, c, x_BTD.dtype)
        weights = {
            "router": weight.stored("router", ("embed", None), (d, e)),
            "gate": weight.stored("gate", ("experts", "embed", "mlp"), (e, d, f)),
            "up": weight.stored("up", ("experts", "embed", "mlp"), (e, d, f)),
            "down": weight.stored("down", ("experts", "mlp", "embed"), (e, f, d)),
        }
        return transport.moe(
            x_BTD,
            weights,
            active=c.active_experts,
            mask_BT=mask_BT,
            ids_BTA=ids_BTA,
            transport=run.transport,
            kernel=run.experts,
            bound=run.expert_bound,
        )


class Block(nn.Module):
    """One transformer block."""

    config: ModelConfig
    execution: Execution

    @nn.compact
    def __call__(
        self,
        x_BTD: jax.Array,
        at: Positions,
        cache: LayerCache | None,
        ids_BTA: jax.Array | None,
    ) -> tuple[jax.Array, transport.MoeStats | None, LayerCache]:
        """(x_BTD, the router's statistics or None in a dense model, this layer's KV cache).

        ids_BTA: experts to replay instead of the router's own choice.
        """
        c, router = self.config, None
        weight = Weight(self, c, x_BTD.dtype)
        attention_scale = weight.scale("attention_norm", c.hidden)
        mlp_scale = weight.scale("mlp_norm", c.hidden)
        x_BTD = checkpoint_name(constrain(x_BTD, "batch", "length", "act_embed"), "block_input")

        with jax.named_scope("attention"):
            h_BTD = norm.rms_norm(x_BTD, attention_scale, c.norm_eps)
            h_BTD, new_cache = Attention(c, self.execution, name="attention")(h_BTD, at, cache)
            x_BTD = x_BTD + constrain(h_BTD, "batch", "length", "act_embed")
        with jax.named_scope("feed_forward"):
            h_BTD = norm.rms_norm(x_BTD, mlp_scale, c.norm_eps)
            if c.moe:
                real_BT = None if at.segments_BT is None else at.segments_BT != 0
                h_BTD, router = Moe(c, self.execution, name="moe")(h_BTD, real_BT, ids_BTA)
            else:
                h_BTD = Mlp(c, self.execution, name="mlp")(h_BTD)
            x_BTD = x_BTD + constrain(h_BTD, "batch", "length", "act_embed")
        return x_BTD, router, new_cache
