"""Four ways to bring tokens and experts together, seen from one device of the expert axis.

| transport | what moves over the expert axis | rows of D that the buffer holds, dropless |
|---|---|---|
| fsdp | the weights, gathered like every other matrix | M A |
| all_to_all | routed rows, in equal slots per pair of devices | G M min(A, E/G) |
| ragged_all_to_all | routed rows, packed; not on CPU | G M min(A, E/G) |
| ring | tokens before they are copied A-fold, and results back | G M min(A, E/G) |

M tokens per device, A active experts, G devices. Rows that hold nothing cost memory and copies,
but no product. `bound` caps a buffer at that multiple of a balanced load (M A rows per device);
what does not fit is dropped and counted.

Each transport is (x_MD, weights_MA, ids_MA, expert weights) -> (y_MD, dropped_M). An id of E is
"not routed".
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from qwen3.ops import moe


def gather(weights, axis, size, *, dims):
    """Whole matrices from their parts along a mesh axis: the only place that gathers weights."""
    if size == 1:
        return weights
    pairs = zip(weights, dims, strict=True)
    return tuple(lax.all_gather(w, axis, axis=d, tiled=True) for w, d in pairs)


def _send(x_MD, weights_MA, row_R, place_MA, holes=True):
    """Copies of the tokens, and the routing weights as a column, at the places of their rows."""
    x_RD = moe.send_rows(x_MD, row_R // weights_MA.shape[1], place_MA, holes)
    return x_RD, moe.send_rows(weights_MA.reshape(-1, 1), row_R, place_MA.reshape(-1, 1), holes)


def _local(x_MD, weights_MA, ids_MA, weights, *, experts, ffn, rows=None):
    """Sort, copy out, compute, bring back, all on this device. At most `rows` rows are computed."""
    active = ids_MA.shape[1]
    with jax.named_scope("dispatch"):
        order = moe.sort_rows(ids_MA, experts)
        total = order.rows_R.shape[0]
        rows = total if rows is None else min(rows, total)
        sizes_E = _cut(order.sizes_E, rows)
        taken_R = order.rows_R[:rows]
        kept_MA = order.places_MA < jnp.sum(sizes_E)
        if holes := rows < total:
            order = order._replace(places_MA=jnp.where(kept_MA, order.places_MA, rows))
        x_RD, weights_R1 = _send(x_MD, weights_MA, taken_R, order.places_MA, holes)
    y_RD = ffn(x_RD, weights_R1[:, 0], weights, sizes_E)
    with jax.named_scope("combine"):
        y_MD = moe.sum_rows(y_RD, taken_R // active, order.places_MA, holes)
    dropped_M = jnp.sum((ids_MA < experts) & ~kept_MA, axis=1, dtype=jnp.float32)
    return y_MD, dropped_M


def _cut(sizes, limit):
    """Sizes of consecutive groups (last axis) when only their first `limit` rows are kept."""
    ends = jnp.minimum(jnp.cumsum(sizes, axis=-1), limit)
    return jnp.diff(ends, axis=-1, prepend=0)


def _limit(worst, balanced, bound):
    return worst if bound is None else min(worst, -int(-bound * balanced // 1))


def _fsdp(x_MD, weights_MA, ids_MA, weights, *, devices, experts, ffn, bound):
    """Nothing is sent: the experts' weights come to the tokens. Cannot drop, whatever the bound."""
    weights = gather(weights, "expert", devices, dims=(0, 0, 0))
    return _local(x_MD, weights_MA, ids_MA, weights, experts=experts, ffn=ffn)


def _ring(x_MD, weights_MA, ids_MA, weights, *, devices, experts, ffn, bound):
    """All tokens visit every device, which computes its own experts' share of each."""
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

    order: moe.Order
    kept_SGe: jax.Array  # rows that travel
    first_G: jax.Array  # where my rows for device g start in my order
    device_MA: jax.Array  # destination of each of my rows; `devices` when it stays at home
    nth_MA: jax.Array  # its number among my rows for that destination


def _plan(ids_MA, *, devices, experts, cut):
    here = experts // devices
    order = moe.sort_rows(ids_MA, experts)
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

        x_PD, weights_P1 = map(swap, _send(x_MD, weights_MA, row_P, slot_MA))
        # The rows from one source are sorted: the c-th is of the first expert that ends past c.
        ends_Se = jnp.cumsum(kept_SGe[:, mine], axis=-1)
        expert_P1 = jnp.sum(nth_GC[:, :, None] >= ends_Se[:, None], axis=-1).reshape(-1, 1)
    y_PD, _ = _local(x_PD, weights_P1, expert_P1, weights, experts=here, ffn=ffn)
    with jax.named_scope("combine"):
        y_MD = moe.sum_rows(swap(y_PD), row_P // active, slot_MA)
    return y_MD, _dropped(plan, ids_MA, devices, experts)


def _ragged_all_to_all(x_MD, weights_MA, ids_MA, weights, *, devices, experts, ffn, bound):
    """Each device sends exactly what it has for each other one, into one packed buffer there."""
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

        sent = _send(x_MD, weights_MA, plan.order.rows_R, place_MA)
        x_PD, weights_P1 = (move(part, rows, there) for part in sent)
        ends_X = jnp.cumsum(plan.kept_SGe[:, mine].reshape(-1))
        nth_P = jnp.searchsorted(ends_X, jnp.arange(rows), side="right", method="compare_all")
        expert_P1 = jnp.where(nth_P < devices * here, nth_P % here, here)[:, None]
    y_PD, _ = _local(x_PD, weights_P1, expert_P1, weights, experts=here, ffn=ffn)
    with jax.named_scope("combine"):
        y_RD = move(y_PD, routed, back)
        y_MD = moe.sum_rows(y_RD, plan.order.rows_R // active, place_MA)
    return y_MD, _dropped(plan, ids_MA, devices, experts)


TRANSPORTS = {
    "fsdp": _fsdp,
    "all_to_all": _all_to_all,
    "ragged_all_to_all": _ragged_all_to_all,
    "ring": _ring,
}
