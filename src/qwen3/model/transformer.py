"""The whole model as pure functions of a parameter tree; layers are stacked and scanned.

{"embed": [V, D], "layers": {..., each with a leading L}, "final_norm": [D], "head": [V, D]};
a tied model has no "head", and a reward model has "score", [1, D], in its place. Matrices start as
normal(0.02), norm gains at 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp

from qwen3.mesh import constrain, gathered
from qwen3.model.execution import Execution, rematerialise
from qwen3.model.layers import Block, LayerCache, Positions, frequencies
from qwen3.model.sizes import ModelConfig
from qwen3.ops import int8, norm, paged_attention, rope
from qwen3.ops.transport import MoeStats

Params: TypeAlias = dict[str, Any]  # the tree above


class Cache(NamedTuple):
    """The KV cache of all layers and the number of tokens that each row holds."""

    # With a leading L on both arrays, or one a layer (for Execution(scan=False), which then updates
    # each in place).
    layers: LayerCache | tuple[LayerCache, ...]
    lengths_B: jax.Array  # int32
    # Where arrays are lists of pages: one new token a row.
    pages: paged_attention.Pages | None = None


class Output(NamedTuple):
    """The result of a forward pass; logits = hidden head^T."""

    hidden_BTD: jax.Array  # after the final norm
    head_VD: jax.Array  # the output matrix; the embedding in a tied model
    router: MoeStats | None = None  # with a leading layer axis; None for dense models
    cache: Cache | None = None  # the updated one; with collect "cache", one of these tokens alone
    blocks_LBTD: jax.Array | None = None  # the residual stream after each block, if collected
    score_OD: jax.Array | None = None  # the scalar head of a reward model, O = 1; else None


def init(config: ModelConfig, key: jax.Array, dtype: Any = jnp.float32) -> Params:
    """Randomly initialised parameters; they depend on `key` and the config only."""
    return nn.meta.unbox(_init(config, key, dtype))


def abstract(config: ModelConfig, dtype: Any = jnp.float32) -> Any:
    """The parameter tree as shapes with logical axis names; nothing is allocated."""
    return jax.eval_shape(lambda: _init(config, jax.random.key(0), dtype))


def _init(config: ModelConfig, key: jax.Array, dtype: Any) -> Any:
    # Without the ambient mesh: the single token that the shapes are traced with divides over none.
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):
        return _declare(config, key, dtype)


def _declare(config: ModelConfig, key: jax.Array, dtype: Any) -> Any:
    embed_key, layers_key, head_key = jax.random.split(key, 3)
    block = Block(config, Execution(experts="dense"))
    x_BTD = jnp.zeros((1, 1, config.hidden))
    at = _positions(config, jnp.zeros((1, 1), jnp.int32), None, None)

    def layer(key: jax.Array) -> Any:
        return block.init(key, x_BTD, at, None, None)["params"]

    layers = jax.vmap(layer)(jax.random.split(layers_key, config.layers))
    layers = nn.meta.add_axis(layers, 0, {nn.PARTITION_NAME: "layers"})

    def matrix(key: jax.Array) -> nn.LogicallyPartitioned:
        value = config.init_std * jax.random.normal(key, (config.vocab, config.hidden))
        return nn.LogicallyPartitioned(value, ("vocab", "embed"))

    final = nn.LogicallyPartitioned(jnp.ones(config.hidden), ("norm",))
    params = {"embed": matrix(embed_key), "layers": layers, "final_norm": final}
    if config.scalar_head:
        params["score"] = nn.LogicallyPartitioned(new_score(config, head_key), (None, "norm"))
    elif not config.tied:
        params["head"] = matrix(head_key)
    return jax.tree.map(lambda x: x.astype(dtype), params)


def new_score(config: ModelConfig, key: jax.Array) -> jax.Array:
    """A randomly initialised scalar head [1, D] of a reward model, in fp32."""
    return config.init_std * jax.random.normal(key, (1, config.hidden))


def new_cache(
    config: ModelConfig, rows: int, length: int, dtype: Any = jnp.float32, *, stacked: bool = True
) -> Cache:
    """An empty KV cache with `length` slots for each of `rows` sequences."""

    def empty(*leading: int) -> LayerCache:
        keys = int8.zeros((*leading, rows, config.kv_heads, config.head_dim, length), dtype, -2)
        return LayerCache(keys, jax.tree.map(lambda x: x.swapaxes(-1, -2), keys))

    layers = empty(config.layers) if stacked else tuple(empty() for _ in range(config.layers))
    return Cache(layers, jnp.zeros(rows, jnp.int32))


def unstack(params: Params) -> Params:
    """The same parameters with "layers" as a tuple of trees, one a layer.

    Decoding on a CPU is fastest so: a scan would copy each layer's weights out of the stack.
    """
    stacked = params["layers"]
    if isinstance(stacked, tuple):
        return params
    count = jax.tree.leaves(stacked)[0].shape[0]
    layers = tuple(jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(count))
    return {**params, "layers": layers}


# Number of axes of a matrix that are contracted; the others are its outputs.
CONTRACTED_AXES = {
    "attention": {"query": 1, "key": 1, "value": 1, "out": 2},
    "mlp": {"gate": 1, "up": 1, "down": 1},
}


def on_matrices(layers: Any, change: Callable[[Any, int], Any]) -> Any:
    """One layer's parameters, or a tree of their structure, with `change` applied to matrices.

    change(leaf, inputs) is called for each matrix of attention and MLP, which an engine may store
    as [*out, *in] and in int8; `inputs` of its axes are contracted.
    """
    modules = {
        module: {**layers[module], **{n: change(layers[module][n], i) for n, i in inputs.items()}}
        for module, inputs in CONTRACTED_AXES.items()
        if module in layers
    }
    return {**layers, **modules}


def forward(
    params: Params,
    config: ModelConfig,
    tokens_BT: jax.Array,
    positions_BT: jax.Array | None = None,
    segments_BT: jax.Array | None = None,
    *,
    cache: Cache | None = None,
    execution: Execution = Execution(),
    expert_ids_LBTA: jax.Array | None = None,
    collect: frozenset[str] = frozenset(),
) -> Output:
    """Hidden states of every token.

    segments_BT: 0 is padding; documents 1, 2, ... attend only to themselves. positions_BT: within
    a document; by default counted from each document's first token, or on from the cache. With a
    KV cache, the real tokens of a row come first, and its length grows by their number.
    expert_ids_LBTA replays routing decisions (arXiv 2510.11370). collect: what else to return, of
    "cache" and "blocks". Raises ValueError for another name there.
    """
    if unknown := set(collect) - {"cache", "blocks"}:
        raise ValueError(f"cannot collect {sorted(unknown)}; known: blocks, cache")
    index_BT = None
    if cache is not None:
        index_BT = cache.lengths_B[:, None] + jnp.arange(tokens_BT.shape[1])
    if positions_BT is None:
        positions_BT = _count(tokens_BT, segments_BT) if index_BT is None else index_BT
    at = _positions(config, positions_BT, segments_BT, index_BT)
    if cache is not None:
        at = at._replace(pages=cache.pages)

    with jax.named_scope("embed"):
        embed_VD = gathered(params["embed"], execution.dtype, "vocab", "embed")
        x_BTD = constrain(embed_VD[tokens_BT], "batch", "length", "act_embed")
    x_BTD, (router, layers, blocks) = _blocks(
        params["layers"], config, execution, x_BTD, at, cache, expert_ids_LBTA, collect
    )
    if cache is not None:
        new_tokens = tokens_BT.shape[1] if segments_BT is None else (segments_BT != 0).sum(axis=1)
        cache = Cache(layers, cache.lengths_B + new_tokens, cache.pages)
    elif "cache" in collect:
        real_BT = jnp.ones_like(tokens_BT) if segments_BT is None else segments_BT != 0
        cache = Cache(layers, real_BT.sum(axis=1).astype(jnp.int32))
    hidden_BTD = norm.rms_norm(x_BTD, params["final_norm"], config.norm_eps)
    return Output(hidden_BTD, head(params), router, cache, blocks, params.get("score"))


def head(params: Params) -> Any:
    """The output matrix [V, D]; the embedding in a tied model."""
    return params["head"] if "head" in params else params["embed"]


def bind(config: ModelConfig, execution: Execution) -> Callable[..., Output]:
    """apply(params, tokens, positions, segment_ids, expert_ids=None) -> Output: the model as the
    losses call it.

    expert_ids_BTR, R = layers x active experts: the routing of another run, replayed.
    """

    def apply(
        params: Any,
        tokens_BT: Any,
        positions_BT: Any,
        segments_BT: Any,
        expert_ids_BTR: jax.Array | None = None,
    ) -> Output:
        replayed = None
        if expert_ids_BTR is not None:
            replayed = _replayed(config, expert_ids_BTR, segments_BT)
        return forward(
            params,
            config,
            tokens_BT,
            positions_BT,
            segments_BT,
            execution=execution,
            expert_ids_LBTA=replayed,
        )

    return apply


def _replayed(config: ModelConfig, ids_BTR: jax.Array, segments_BT: jax.Array) -> jax.Array:
    """The routing of a batch as [L, B, T, A]; padding goes to the first experts, each once."""
    active = config.active_experts
    ids_BTLA = ids_BTR.reshape(*ids_BTR.shape[:2], config.layers, active)
    is_token = (segments_BT > 0)[..., None, None]
    ids_BTLA = jnp.where(is_token, ids_BTLA, jnp.arange(active, dtype=ids_BTLA.dtype))
    return jnp.moveaxis(ids_BTLA, 2, 0)


def logits(output: Output) -> jax.Array:
    """fp32 logits [B, T, V]. For many tokens use ops.chunked, which never holds them all.

    Raises ValueError for a reward model, which predicts no tokens.
    """
    if output.score_OD is not None:
        raise ValueError("a reward model scores sequences; it has no logits of tokens")
    head_VD = gathered(output.head_VD, output.hidden_BTD.dtype, "vocab", "embed")
    logits_BTV = jnp.einsum(
        "BTD,VD->BTV", output.hidden_BTD, head_VD, preferred_element_type=jnp.float32
    )
    return constrain(logits_BTV, "batch", "length", "act_vocab")


def _count(tokens_BT: jax.Array, segments_BT: jax.Array | None) -> jax.Array:
    """positions_BT: 0, 1, 2, ... over each row, or over each segment of it."""
    index_T = jnp.arange(tokens_BT.shape[1])
    if segments_BT is None:
        return jnp.broadcast_to(index_T, tokens_BT.shape)
    first_BT = jnp.pad(segments_BT[:, 1:] != segments_BT[:, :-1], ((0, 0), (1, 0)))
    starts_BT = jax.lax.cummax(jnp.where(first_BT, index_T, 0), axis=1)
    return index_T - starts_BT


def _positions(
    config: ModelConfig,
    positions_BT: jax.Array,
    segments_BT: jax.Array | None,
    index_BT: jax.Array | None,
) -> Positions:
    cos_BTh, sin_BTh = rope.cos_sin(positions_BT, *frequencies(config))
    return Positions(positions_BT, segments_BT, index_BT, cos_BTh, sin_BTh)


def _blocks(
    layers: Any,
    config: ModelConfig,
    execution: Execution,
    x_BTD: jax.Array,
    at: Positions,
    cache: Cache | None,
    ids_LBTA: jax.Array | None,
    collect: frozenset[str],
) -> tuple[jax.Array, tuple[Any, Any, Any]]:
    """(x_BTD after all blocks, (router statistics, KV caches, residual streams) over layers).

    Caches and streams are None unless they are to be returned.
    """
    keep_cache = cache is not None or "cache" in collect
    # Without a cache nothing is rounded to what one would hold.
    block = Block(config, execution if keep_cache else execution.replace(cache_dtype=""))

    def apply(
        x_BTD: jax.Array, params: Params, layer_cache: LayerCache | None, ids_BTA: jax.Array | None
    ) -> tuple[jax.Array, tuple[Any, Any, Any]]:
        result: Any = block.apply({"params": params}, x_BTD, at, layer_cache, ids_BTA)
        out, router, new = result
        return out, (router, new if keep_cache else None, out if "blocks" in collect else None)

    run_layer = rematerialise(apply, execution)
    old = None if cache is None else cache.layers
    if execution.scan and not isinstance(layers, tuple):
        return jax.lax.scan(lambda x, xs: run_layer(x, *xs), x_BTD, (layers, old, ids_LBTA))

    # A tuple of layers takes and returns a tuple of caches: nothing is copied into a stack.
    per_layer = isinstance(layers, tuple) if old is None else not isinstance(old, LayerCache)
    layers = unstack({"layers": layers})["layers"]
    results = []
    for i, params in enumerate(layers):
        if old is None or not per_layer:
            layer_cache = jax.tree.map(lambda x, i=i: x[i], old)
        else:
            layer_cache = old[i]
        ids_BTA = None if ids_LBTA is None else ids_LBTA[i]
        x_BTD, result = run_layer(x_BTD, params, layer_cache, ids_BTA)
        results.append(result)
    routers, caches, streams = zip(*results, strict=True)
    return x_BTD, (_stack(routers), caches if per_layer else _stack(caches), _stack(streams))


def _stack(trees: Sequence[Any]) -> Any:
    """The trees stacked along a leading layer axis; None where all are None."""
    return jax.tree.map(lambda *xs: jnp.stack(xs), *trees)
