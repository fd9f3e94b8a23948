"""The MoE layer on a mesh: four ways to bring tokens and experts together, behind one function.

| transport | what moves over the expert axis | buffer per device, in rows of D, when nothing may drop |
|---|---|---|
| fsdp | the weights (gathered, like every other matrix) | M A |
| all_to_all | routed rows, in equal slots per pair of devices | G M min(A, E/G) |
| ragged_all_to_all | routed rows, packed; TPU and GPU only | G M min(A, E/G) |
| ring | tokens before they are copied A-fold (all-gather), results back (reduce-scatter) | G M min(A, E/G) |

M tokens per device, G devices on the expert axis. Everything inside `shard_map` is a pure per-shard body: the
sort never leaves a device. Dropless by default: the buffers hold the worst case. `bound` caps them at that
multiple of a balanced load (M A rows per device); rows that do not fit are dropped and counted in stats.dropped_B.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

from qwen3.ops import experts as experts_ops
from qwen3.ops import moe as rows_ops

TOKEN_AXES = ("data", "fsdp", "expert")  # the batch is split over all three


class MoeStats(NamedTuple):
    counts_BE: jax.Array  # float32 selections of each expert, without gradient
    probs_BE: jax.Array  # float32 sum of the full softmax over the row's real tokens, with gradient
    tokens_B: jax.Array  # float32 real tokens
    dropped_B: jax.Array  # float32 selections that no expert computed; 0 unless `bound` is set
    ids_BTA: jax.Array  # int32 choices, to be replayed


class _Axes(NamedTuple):
    """Sizes of the mesh axes this layer uses; without an ambient mesh all are 1."""

    data: int = 1
    fsdp: int = 1
    context: int = 1
    expert: int = 1
    tensor: int = 1


def moe(
    x_BTD,
    params,
    *,
    active,
    transport,
    kernel,
    mask_BT=None,
    ids_BTA=None,
    bound=None,
    tiles=None,
):
    """One MoE layer: route, dispatch, experts, combine. Returns (y_BTD, MoeStats).

    params: router [D, E], gate and up [E, D, F], down [E, F, D]; experts over the mesh axis "expert", D over
    "fsdp", F over "tensor". mask_BT is False at padding, which is not routed, counted or computed (y = 0).
    ids_BTA replays a routing. transport: a name in TRANSPORTS; kernel, tiles: see experts.grouped_ffn.
    The mesh is the ambient one (jax.set_mesh); x is split over (data, fsdp, expert) in B and context in T.
    """
    if transport not in TRANSPORTS:
        raise ValueError(f"unknown transport {transport!r}; known: {', '.join(TRANSPORTS)}")
    if bound is not None and bound <= 0:
        raise ValueError(f"bound={bound} of a balanced load; it must be above 0, or None for dropless")
    mesh = jax.sharding.get_abstract_mesh()
    axes = _Axes(**{a: mesh.shape[a] for a in _Axes._fields if a in mesh.axis_names})
    _check_divides(x_BTD, params, axes)
    mask_BT = jnp.ones(x_BTD.shape[:2], bool) if mask_BT is None else mask_BT.astype(bool)

    def body(x_BTD, mask_BT, ids_BTA, params):
        weights = tuple(params[name].astype(x_BTD.dtype) for name in ("gate", "up", "down"))

        def ffn(x_RD, weights_R, experts, sizes_E):
            with jax.named_scope("experts"):
                return experts_ops.grouped_ffn(
                    x_RD, weights_R, *experts, sizes_E, kernel=kernel, tiles=tiles
                )

        return _shard(
            x_BTD, mask_BT, ids_BTA, params["router"], weights, axes,
            active=active, send=TRANSPORTS[transport], ffn=ffn, bound=bound,
        )  # fmt: skip

    if max(axes) == 1:
        return body(x_BTD, mask_BT, ids_BTA, params)

    def present(*names):
        return tuple(n for n in names if n in mesh.axis_names) or None

    batch, (context, fsdp, expert, tensor) = present(*TOKEN_AXES), map(
        present, ("context", "fsdp", "expert", "tensor")
    )
    tokens, row = P(batch, context), P(batch)
    into = P(expert, fsdp, tensor)
    return jax.shard_map(
        body,
        in_specs=(
            tokens,
            tokens,
            tokens,
            {"router": P(), "gate": into, "up": into, "down": P(expert, tensor, fsdp)},
        ),
        out_specs=(tokens, MoeStats(row, row, row, row, tokens)),
        check_vma=False,  # a Pallas call does not say over which axes its result varies
    )(x_BTD, mask_BT, ids_BTA, {name: params[name] for name in ("router", "gate", "up", "down")})


def _check_divides(x_BTD, params, axes):
    experts, model, ffn = params["gate"].shape
    split = axes.data * axes.fsdp * axes.expert
    for what, size, parts in (
        ("batch rows", x_BTD.shape[0], {"data x fsdp x expert": split}),
        ("positions", x_BTD.shape[1], {"context": axes.context}),
        ("experts", experts, {"expert": axes.expert}),
        ("hidden width", model, {"fsdp": axes.fsdp}),
        ("expert FFN width", ffn, {"tensor": axes.tensor}),
    ):
        for name, part in parts.items():
            if size % part:
                raise ValueError(f"{what}: {size} does not divide over a {name} axis of {part}")


def _gather(weights, axis, size, *, dims):
    """Whole matrices from their parts along one mesh axis: the only place where weights are gathered."""
    if size == 1:
        return weights
    return tuple(lax.all_gather(w, axis, axis=d, tiled=True) for w, d in zip(weights, dims))


def _shard(x_BTD, mask_BT, ids_BTA, router_DE, weights, axes, *, active, send, ffn, bound):
    """What one device does with its own tokens."""
    batch, length, model = x_BTD.shape
    experts = router_DE.shape[1]
    x_MD, mask_M = x_BTD.reshape(-1, model), mask_BT.reshape(-1)
    with jax.named_scope("route"):
        given_MA = None if ids_BTA is None else ids_BTA.reshape(-1, active)
        routing = rows_ops.route(x_MD, router_DE, active=active, ids_MA=given_MA)
        # Padding gets the id E, which no expert has: it sorts last and no kernel computes it.
        ids_MA = jnp.where(mask_M[:, None], routing.ids_MA, experts)
    weights = _gather(weights, "fsdp", axes.fsdp, dims=(1, 1, 2))
    y_MD, dropped_M = send(
        x_MD, routing.weights_MA, ids_MA, weights,
        devices=axes.expert, experts=experts, ffn=ffn, bound=bound,
    )  # fmt: skip
    if axes.tensor > 1:
        y_MD = lax.psum(y_MD, "tensor")
    probs_ME = jnp.where(mask_M[:, None], routing.probs_ME, 0.0)
    sums = (
        rows_ops.count(ids_MA.reshape(batch, length, active), experts),
        probs_ME.reshape(batch, length, experts).sum(axis=1),
        mask_BT.sum(axis=1, dtype=jnp.float32),
        dropped_M.reshape(batch, length).sum(axis=1, dtype=jnp.float32),
    )
    if axes.context > 1:
        sums = lax.psum(sums, "context")
    stats = MoeStats(*sums, routing.ids_MA.reshape(batch, length, active))
    return y_MD.reshape(x_BTD.shape), stats


# --- transports: (x_MD, weights_MA, ids_MA, weights) -> (y_MD, dropped_M) ------------------------


def _local(x_MD, weights_MA, ids_MA, weights, *, experts, ffn, rows=None):
    """Sort, copy out, compute, bring back, all on this device. At most `rows` rows are computed."""
    active = ids_MA.shape[1]
    with jax.named_scope("dispatch"):
        order = rows_ops.sort_rows(ids_MA, experts)
        total = order.rows_R.shape[0]
        rows = total if rows is None else min(rows, total)
        sizes_E = _cut(order.sizes_E, rows)
        taken_R = order.rows_R[:rows]
        kept_MA = order.places_MA < jnp.sum(sizes_E)
        if rows < total:
            order = order._replace(places_MA=jnp.where(kept_MA, order.places_MA, rows))
        x_RD = rows_ops.send_rows(x_MD, taken_R // active, order.places_MA)
        weights_R1 = rows_ops.send_rows(
            weights_MA.reshape(-1, 1), taken_R, order.places_MA.reshape(-1, 1)
        )
    y_RD = ffn(x_RD, weights_R1[:, 0], weights, sizes_E)
    with jax.named_scope("combine"):
        y_MD = rows_ops.sum_rows(y_RD, taken_R // active, order.places_MA)
    dropped_M = jnp.sum((ids_MA < experts) & ~kept_MA, axis=1, dtype=jnp.float32)
    return y_MD, dropped_M


def _cut(sizes, limit):
    """Sizes of consecutive groups when only the first `limit` rows (over the last axis) are kept."""
    ends = jnp.minimum(jnp.cumsum(sizes, axis=-1), limit)
    return jnp.diff(ends, axis=-1, prepend=0)


def _limit(worst, balanced, bound):
    return worst if bound is None else min(worst, -int(-bound * balanced // 1))


def _fsdp(x_MD, weights_MA, ids_MA, weights, *, devices, experts, ffn, bound):
    """Nothing is sent: the experts' weights come to the tokens. Cannot drop, whatever the bound."""
    weights = _gather(weights, "expert", devices, dims=(0, 0, 0))
    return _local(x_MD, weights_MA, ids_MA, weights, experts=experts, ffn=ffn)


def _ring(x_MD, weights_MA, ids_MA, weights, *, devices, experts, ffn, bound):
    """All tokens visit every device, which computes its own experts' share of each."""
    if devices == 1:
        return _local(x_MD, weights_MA, ids_MA, weights, experts=experts, ffn=ffn)
    here = experts // devices
    routed, active = ids_MA.size, ids_MA.shape[1]
    with jax.named_scope("dispatch"):
        x_ND, weights_NA, ids_NA = lax.all_gather((x_MD, weights_MA, ids_MA), "expert", tiled=True)
        ids_NA = ids_NA - lax.axis_index("expert") * here
        ids_NA = jnp.where((ids_NA >= 0) & (ids_NA < here), ids_NA, here)
    rows = _limit(x_ND.shape[0] * min(active, here), routed, bound)
    y_ND, dropped_N = _local(x_ND, weights_NA, ids_NA, weights, experts=here, ffn=ffn, rows=rows)
    with jax.named_scope("combine"):
        return lax.psum_scatter((y_ND, dropped_N), "expert", tiled=True)


class _Plan(NamedTuple):
    """Who sends how much to whom. S source, G destination, e expert of the destination."""

    order: rows_ops.Order
    kept_SGe: jax.Array  # rows that travel
    first_G: jax.Array  # where my rows for device g start in my order
    device_MA: jax.Array  # destination of each of my rows; `devices` when it stays at home
    nth_MA: jax.Array  # its number among my rows for that destination


def _plan(ids_MA, *, devices, experts, cut):
    here = experts // devices
    order = rows_ops.sort_rows(ids_MA, experts)
    sizes_SGe = lax.all_gather(order.sizes_E.reshape(devices, here), "expert")
    kept_SGe = cut(sizes_SGe)
    mine = lax.axis_index("expert")
    sizes_G, kept_G = sizes_SGe[mine].sum(-1), kept_SGe[mine].sum(-1)
    first_G = jnp.cumsum(sizes_G) - sizes_G
    device_MA = jnp.minimum(ids_MA // here, devices - 1)
    nth_MA = order.places_MA - first_G[device_MA]
    travels_MA = (ids_MA < experts) & (nth_MA < kept_G[device_MA])
    return _Plan(order, kept_SGe, first_G, jnp.where(travels_MA, device_MA, devices), nth_MA)


def _dropped(plan, ids_MA, devices, experts):
    return jnp.sum((ids_MA < experts) & (plan.device_MA == devices), axis=1, dtype=jnp.float32)


def _all_to_all(x_MD, weights_MA, ids_MA, weights, *, devices, experts, ffn, bound):
    """Every pair of devices exchanges the same number of slots, so that any backend can run it."""
    if devices == 1:
        return _local(x_MD, weights_MA, ids_MA, weights, experts=experts, ffn=ffn)
    here = experts // devices
    tokens, active = ids_MA.shape
    slots = _limit(tokens * min(active, here), tokens * active / devices, bound)
    with jax.named_scope("dispatch"):
        plan = _plan(ids_MA, devices=devices, experts=experts, cut=lambda n: _cut(n, slots))
        kept_SGe = plan.kept_SGe
        mine = lax.axis_index("expert")
        nth_GC = jnp.arange(slots)[None].repeat(devices, 0)
        place_GC = plan.first_G[:, None] + nth_GC
        filled_GC = nth_GC < kept_SGe[mine].sum(-1)[:, None]
        row_GC = plan.order.rows_R[jnp.minimum(place_GC, tokens * active - 1)]
        row_P = jnp.where(filled_GC, row_GC, tokens * active).reshape(-1)
        slot_MA = jnp.where(
            plan.device_MA < devices, plan.device_MA * slots + plan.nth_MA, devices * slots
        )

        def swap(x_PD):
            parts = x_PD.reshape(devices, slots, -1)
            return lax.all_to_all(parts, "expert", 0, 0).reshape(x_PD.shape)

        x_PD = swap(rows_ops.send_rows(x_MD, row_P // active, slot_MA))
        weights_P1 = swap(
            rows_ops.send_rows(weights_MA.reshape(-1, 1), row_P, slot_MA.reshape(-1, 1))
        )
        # From source s come rows sorted by expert: the c-th belongs to the first expert whose end is past c.
        ends_Se = jnp.cumsum(kept_SGe[:, mine], axis=-1)
        expert_P1 = jnp.sum(nth_GC[:, :, None] >= ends_Se[:, None], axis=-1).reshape(-1, 1)
    y_PD, _ = _local(x_PD, weights_P1, expert_P1, weights, experts=here, ffn=ffn)
    with jax.named_scope("combine"):
        y_MD = rows_ops.sum_rows(swap(y_PD), row_P // active, slot_MA)
    return y_MD, _dropped(plan, ids_MA, devices, experts)


def _ragged_all_to_all(x_MD, weights_MA, ids_MA, weights, *, devices, experts, ffn, bound):
    """Each device sends exactly what it has for each other one, into one packed buffer there."""
    if devices == 1:
        return _local(x_MD, weights_MA, ids_MA, weights, experts=experts, ffn=ffn)
    here = experts // devices
    tokens, active = ids_MA.shape
    routed = tokens * active
    rows = _limit(devices * tokens * min(active, here), routed, bound)

    def cut(sizes_SGe):
        sizes_GX = sizes_SGe.transpose(1, 0, 2).reshape(devices, devices * here)
        return _cut(sizes_GX, rows).reshape(devices, devices, here).transpose(1, 0, 2)

    with jax.named_scope("dispatch"):
        plan = _plan(ids_MA, devices=devices, experts=experts, cut=cut)
        mine = lax.axis_index("expert")
        kept_SG = plan.kept_SGe.sum(-1)
        landing_SG = jnp.cumsum(kept_SG, axis=0) - kept_SG  # where the rows of s start at g
        first_SG = lax.all_gather(plan.first_G, "expert")
        there = (plan.first_G, kept_SG[mine], landing_SG[mine], kept_SG[:, mine])
        back = (landing_SG[:, mine], kept_SG[:, mine], first_SG[:, mine], kept_SG[mine])
        travels_MA = plan.device_MA < devices
        place_MA = jnp.where(travels_MA, plan.order.places_MA, routed)

        def move(x_ND, size, sizes):
            empty = jnp.zeros((size, x_ND.shape[1]), x_ND.dtype)
            return lax.ragged_all_to_all(x_ND, empty, *sizes, axis_name="expert")

        token_R = plan.order.rows_R // active
        x_PD = move(rows_ops.send_rows(x_MD, token_R, place_MA), rows, there)
        weights_P1 = move(
            rows_ops.send_rows(
                weights_MA.reshape(-1, 1), plan.order.rows_R, place_MA.reshape(-1, 1)
            ),
            rows,
            there,
        )
        ends_X = jnp.cumsum(plan.kept_SGe[:, mine].reshape(-1))
        nth_P = jnp.searchsorted(ends_X, jnp.arange(rows), side="right", method="compare_all")
        expert_P1 = jnp.where(nth_P < devices * here, nth_P % here, here)[:, None]
    y_PD, _ = _local(x_PD, weights_P1, expert_P1, weights, experts=here, ffn=ffn)
    with jax.named_scope("combine"):
        y_MD = rows_ops.sum_rows(move(y_PD, routed, back), token_R, place_MA)
    return y_MD, _dropped(plan, ids_MA, devices, experts)


TRANSPORTS = {
    "fsdp": _fsdp,
    "all_to_all": _all_to_all,
    "ragged_all_to_all": _ragged_all_to_all,
    "ring": _ring,
}
