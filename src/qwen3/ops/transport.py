"""The MoE layer on a mesh: one function, whatever the transport, the kernel and the mesh.

Inside `shard_map` there are only pure functions of one device's own tokens: the sort never leaves
the device. Without an ambient mesh, or with one of a single device, the same body runs unsharded.
Dropless by default: buffers hold the worst case (exchange.py says how large they are).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

from qwen3.mesh import AXES, BATCH_AXES, ambient_sizes
from qwen3.ops import experts as experts_ops
from qwen3.ops import moe as moe_ops
from qwen3.ops.exchange import TRANSPORTS, Weights, gather


class MoeStats(NamedTuple):
    """What a layer's router did, in sums over each batch row."""

    counts_BE: jax.Array  # float32 selections of each expert, without gradient
    probs_BE: jax.Array  # float32 sum of the full softmax over the row's real tokens
    tokens_B: jax.Array  # float32 real tokens
    dropped_B: jax.Array  # float32 selections that no expert computed; 0 without `bound`
    ids_BTA: jax.Array  # int32 choices, to be replayed


def moe(
    x_BTD: jax.Array,
    params: Mapping[str, jax.Array],
    *,
    active: int,
    transport: str,
    kernel: str | experts_ops.Kernel,
    mask_BT: jax.Array | None = None,
    ids_BTA: jax.Array | None = None,
    bound: float | None = None,
    tiles: Sequence[int] | None = None,
) -> tuple[jax.Array, MoeStats]:
    """One MoE layer: route, dispatch, experts, combine. Returns (y_BTD, MoeStats).

    params: router [D, E], gate and up [E, D, F], down [E, F, D], placed as mesh.RULES says.
    mask_BT is False at padding, which is neither routed nor counted nor computed (y = 0 there).
    ids_BTA replays a routing. transport: a name in TRANSPORTS. kernel, tiles: see
    experts.grouped_ffn. bound: None, or the transport's buffer as a multiple of a balanced load;
    what does not fit is dropped, and counted in dropped_B.

    The mesh is the ambient one (jax.set_mesh); B is sharded over (data, fsdp, expert), T over
    context. Raises ValueError for an unknown transport, a bound that it does not have, and sizes
    that the mesh does not divide.
    """
    if transport not in TRANSPORTS:
        raise ValueError(f"unknown transport {transport!r}; known: {', '.join(TRANSPORTS)}")
    if bound is not None and (bound <= 0 or transport == "fsdp"):
        raise ValueError(
            f"bound={bound} with transport {transport!r}: it is a positive multiple of a balanced "
            "load, and only transports that send tokens (all but fsdp) have a buffer to bound"
        )
    axes = dict.fromkeys(AXES, 1) | ambient_sizes()
    _check_divides(x_BTD, params, axes)
    mask_BT = jnp.ones(x_BTD.shape[:2], bool) if mask_BT is None else mask_BT.astype(bool)
    params = {name: params[name].astype(x_BTD.dtype) for name in ("router", "gate", "up", "down")}
    # With one device on the expert axis every transport is the plain local one.
    send = partial(
        TRANSPORTS[transport if axes["expert"] > 1 else "fsdp"],
        devices=axes["expert"],
        experts=params["router"].shape[1],
        ffn=partial(_ffn, kernel=kernel, tiles=tiles),
        bound=bound,
    )
    body = partial(_shard, axes=axes, active=active, send=send)
    if max(axes.values()) == 1:
        return body(x_BTD, mask_BT, ids_BTA, params)

    tokens, row, up = P(BATCH_AXES, "context"), P(BATCH_AXES), P("expert", "fsdp", "tensor")
    placed = {"router": P(), "gate": up, "up": up, "down": P("expert", "tensor", "fsdp")}
    return jax.shard_map(
        body,
        in_specs=(tokens, tokens, tokens, placed),
        out_specs=(tokens, MoeStats._make((row, row, row, row, tokens))),
        check_vma=False,  # a Pallas call cannot say over which axes its result varies
    )(x_BTD, mask_BT, ids_BTA, params)


def _ffn(
    x_RD: jax.Array,
    weights_R: jax.Array,
    weights: Weights,
    sizes_E: jax.Array,
    *,
    kernel: str | experts_ops.Kernel,
    tiles: Sequence[int] | None,
) -> jax.Array:
    gate, up, down = weights
    with jax.named_scope("experts"):
        return experts_ops.grouped_ffn(
            x_RD, weights_R, gate, up, down, sizes_E, kernel=kernel, tiles=tiles
        )


def _check_divides(
    x_BTD: jax.Array, params: Mapping[str, jax.Array], axes: Mapping[str, int]
) -> None:
    experts, model, ffn = params["gate"].shape
    split = axes["data"] * axes["fsdp"] * axes["expert"]
    for dimension, size, axis, parts in (
        ("batch rows", x_BTD.shape[0], "data x fsdp x expert", split),
        ("positions", x_BTD.shape[1], "context", axes["context"]),
        ("experts", experts, "expert", axes["expert"]),
        ("hidden width", model, "fsdp", axes["fsdp"]),
        ("expert FFN width", ffn, "tensor", axes["tensor"]),
    ):
        if size % parts:
            raise ValueError(f"{dimension}: {size} does not divide over a {axis} axis of {parts}")


def _shard(
    x_BTD: jax.Array,
    mask_BT: jax.Array,
    ids_BTA: jax.Array | None,
    params: Mapping[str, jax.Array],
    *,
    axes: Mapping[str, int],
    active: int,
    send: Callable[..., tuple[jax.Array, jax.Array]],
) -> tuple[jax.Array, MoeStats]:
    """The layer on one device's own tokens; `send` is the transport with its options."""
    batch, length, model = x_BTD.shape
    experts = params["router"].shape[1]
    x_MD, mask_M1 = x_BTD.reshape(-1, model), mask_BT.reshape(-1, 1)
    with jax.named_scope("route"):
        replayed_MA = None if ids_BTA is None else ids_BTA.reshape(-1, active)
        routing = moe_ops.route(x_MD, params["router"], active=active, ids_MA=replayed_MA)
        # Padding gets the id E, which no expert has: it sorts last and no kernel computes it.
        ids_MA = jnp.where(mask_M1, routing.ids_MA, experts)
    weights = params["gate"], params["up"], params["down"]
    weights = gather(weights, "fsdp", axes["fsdp"], dims=(1, 1, 2))
    y_MD, dropped_M = send(x_MD, routing.weights_MA, ids_MA, weights)
    if axes["tensor"] > 1:  # each device has some of the FFN's channels
        y_MD = lax.psum(y_MD, "tensor")
    probs_ME = jnp.where(mask_M1, routing.probs_ME, 0.0)
    sums = (
        moe_ops.count(ids_MA.reshape(batch, length, active), experts),
        probs_ME.reshape(batch, length, experts).sum(axis=1),
        mask_BT.sum(axis=1, dtype=jnp.float32),
        dropped_M.reshape(batch, length).sum(axis=1),
    )
    if axes["context"] > 1:
        sums = lax.psum(sums, "context")
    return y_MD.reshape(x_BTD.shape), MoeStats(*sums, routing.ids_MA.reshape(batch, length, active))
