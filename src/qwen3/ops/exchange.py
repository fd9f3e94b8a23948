"""Expert parallelism: four ways to bring tokens and experts together, as one device of the expert
axis sees them.

| transport | what moves over the expert axis | rows of D that the buffer holds, dropless |
|---|---|---|
| fsdp | the weights, gathered like every other matrix | M A |
| all_to_all | routed rows, in equal slots per pair of devices | G M min(A, E/G) |
| ragged_all_to_all | routed rows, packed; not on CPU | G M min(A, E/G) |
| ring | tokens before they are copied A-fold, and results back | G M min(A, E/G) |

M tokens per device, A active experts, G devices. Rows that hold nothing cost memory and copies,
but no product. `bound` caps a buffer at that multiple of a balanced load (M A rows per device);
what does not fit is dropped and counted.

Each transport is (x_MD, weights_MA, ids_MA, expert weights) -> (y_MD, dropped_M). An id of E means
"not routed".
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from qwen3.ops import moe

Weights: TypeAlias = tuple[jax.Array, jax.Array, jax.Array]  # gate, up, down of local experts
# (x_RD sorted by expert, weights_R, Weights, sizes_E) -> y_RD: the expert FFN
Ffn: TypeAlias = Callable[[jax.Array, jax.Array, Weights, jax.Array], jax.Array]


def gather(weights: Weights, axis: str, size: int, *, dims: tuple[int, int, int]) -> Weights:
    """All-gather weights over a mesh axis of `size`, each along its axis in `dims`.

    The only place that gathers expert weights, so that their transpose (reduce-scatter of the
    gradients) is also in one place.
    """
    if size == 1:
        return weights
    pairs = zip(weights, dims, strict=True)
    gate, up, down = (lax.all_gather(w, axis, axis=d, tiled=True) for w, d in pairs)
    return gate, up, down


def _send(
    x_MD: jax.Array,
    weights_MA: jax.Array,
    row_R: jax.Array,
    place_MA: jax.Array,
    has_missing: bool = True,
) -> tuple[jax.Array, jax.Array]:
    """(x_RD, weights_R1): tokens and routing weights copied to the places of their routed rows."""
    x_RD = moe.send_rows(x_MD, row_R // weights_MA.shape[1], place_MA, has_missing)
    weights_N1, place_N1 = weights_MA.reshape(-1, 1), place_MA.reshape(-1, 1)
    return x_RD, moe.send_rows(weights_N1, row_R, place_N1, has_missing)


def _local(
    x_MD: jax.Array,
    weights_MA: jax.Array,
    ids_MA: jax.Array,
    weights: Weights,
    *,
    experts: int,
    ffn: Ffn,
    rows: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Sort, dispatch, experts, combine, all on this device; at most `rows` rows are computed."""
    active = ids_MA.shape[1]
    with jax.named_scope("dispatch"):
        order = moe.sort_rows(ids_MA, experts)
        total = order.rows_R.shape[0]
        rows = total if rows is None else min(rows, total)
        sizes_E = _cut(order.sizes_E, rows)
        row_R = order.rows_R[:rows]
        fits_MA = order.places_MA < jnp.sum(sizes_E)
        if has_missing := rows < total:
            order = order._replace(places_MA=jnp.where(fits_MA, order.places_MA, rows))
        x_RD, weights_R1 = _send(x_MD, weights_MA, row_R, order.places_MA, has_missing)
    y_RD = ffn(x_RD, weights_R1[:, 0], weights, sizes_E)
    with jax.named_scope("combine"):
        y_MD = moe.sum_rows(y_RD, row_R // active, order.places_MA, has_missing)
    dropped_M = jnp.sum((ids_MA < experts) & ~fits_MA, axis=1, dtype=jnp.float32)
    return y_MD, dropped_M


def _cut(sizes: jax.Array, limit: int) -> jax.Array:
    """Sizes of consecutive groups (last axis) when only their first `limit` rows are kept."""
    ends = jnp.minimum(jnp.cumsum(sizes, axis=-1), limit)
    return jnp.diff(ends, axis=-1, prepend=0)


def _limit(worst: int, balanced: float, bound: float | None) -> int:
    """Rows of a buffer: the worst case, or ceil(bound * balanced load) if that is less."""
    return worst if bound is None else min(worst, -int(-bound * balanced // 1))


def _fsdp(
    x_MD: jax.Array,
    weights_MA: jax.Array,
    ids_MA: jax.Array,
    weights: Weights,
    *,
    devices: int,
    experts: int,
    ffn: Ffn,
    bound: float | None,
) -> tuple[jax.Array, jax.Array]:
    """Gather the experts' weights to the tokens, which stay at home. Can never drop a row."""
    weights = gather(weights, "expert", devices, dims=(0, 0, 0))
    return _local(x_MD, weights_MA, ids_MA, weights, experts=experts, ffn=ffn)


def _ring(
    x_MD: jax.Array,
    weights_MA: jax.Array,
    ids_MA: jax.Array,
    weights: Weights,
    *,
    devices: int,
    experts: int,
    ffn: Ffn,
    bound: float | None,
) -> tuple[jax.Array, jax.Array]:
    """Gather all tokens to every device, which computes its own experts' share of each output."""
    local = experts // devices
    routed, active = ids_MA.size, ids_MA.shape[1]
    with jax.named_scope("dispatch"):
        x_ND, weights_NA, ids_NA = lax.all_gather((x_MD, weights_MA, ids_MA), "expert", tiled=True)
        ids_NA = ids_NA - lax.axis_index("expert") * local
        ids_NA = jnp.where((ids_NA >= 0) & (ids_NA < local), ids_NA, local)
    rows = _limit(x_ND.shape[0] * min(active, local), routed, bound)
    y_ND, dropped_N = _local(x_ND, weights_NA, ids_NA, weights, experts=local, ffn=ffn, rows=rows)
    with jax.named_scope("combine"):
        return lax.psum_scatter((y_ND, dropped_N), "expert", tiled=True)


class _Traffic(NamedTuple):
    """Who sends how many rows to whom. S source, G destination, e expert of the destination."""

    order: moe.Order  # this device's routed rows, sorted by expert and so by destination
    sent_SGe: jax.Array  # rows that travel, after the cut
    first_G: jax.Array  # place in `order` of this device's first row for device g
    device_MA: jax.Array  # destination of each of this device's rows; `devices`: dropped, unrouted
    nth_MA: jax.Array  # the row's number among this device's rows for that destination


def _plan(
    ids_MA: jax.Array, *, devices: int, experts: int, cut: Callable[[jax.Array], jax.Array]
) -> _Traffic:
    """Exchange the row counts and decide which rows travel; `cut` limits the counts [S, G, e]."""
    local = experts // devices
    order = moe.sort_rows(ids_MA, experts)
    sizes_SGe = lax.all_gather(order.sizes_E.reshape(devices, local), "expert")
    sent_SGe = cut(sizes_SGe)
    device = lax.axis_index("expert")
    sizes_G, sent_G = sizes_SGe[device].sum(-1), sent_SGe[device].sum(-1)
    first_G = jnp.cumsum(sizes_G) - sizes_G
    device_MA = jnp.minimum(ids_MA // local, devices - 1)
    nth_MA = order.places_MA - first_G[device_MA]
    travels_MA = (ids_MA < experts) & (nth_MA < sent_G[device_MA])
    device_MA = jnp.where(travels_MA, device_MA, devices)
    return _Traffic(order, sent_SGe, first_G, device_MA, nth_MA)


def _dropped(traffic: _Traffic, ids_MA: jax.Array, devices: int, experts: int) -> jax.Array:
    """dropped_M: selections of each token that were routed but do not travel."""
    return jnp.sum((ids_MA < experts) & (traffic.device_MA == devices), axis=1, dtype=jnp.float32)


def _all_to_all(
    x_MD: jax.Array,
    weights_MA: jax.Array,
    ids_MA: jax.Array,
    weights: Weights,
    *,
    devices: int,
    experts: int,
    ffn: Ffn,
    bound: float | None,
) -> tuple[jax.Array, jax.Array]:
    """Exchange the same number of slots between all pairs of devices; runs on any backend.

    C slots of a pair, P = G C slots of a device's buffer.
    """
    local = experts // devices
    tokens, active = ids_MA.shape
    slots = _limit(tokens * min(active, local), tokens * active / devices, bound)
    with jax.named_scope("dispatch"):
        traffic = _plan(ids_MA, devices=devices, experts=experts, cut=lambda n: _cut(n, slots))
        device = lax.axis_index("expert")
        # Slot c for device g holds this device's c-th row for g; the last slots may be empty.
        nth_GC = jnp.arange(slots)[None].repeat(devices, 0)
        place_GC = traffic.first_G[:, None] + nth_GC
        filled_GC = nth_GC < traffic.sent_SGe[device].sum(-1)[:, None]
        row_GC = traffic.order.rows_R[jnp.minimum(place_GC, tokens * active - 1)]
        row_P = jnp.where(filled_GC, row_GC, tokens * active).reshape(-1)
        slot_MA = jnp.where(
            traffic.device_MA < devices,
            traffic.device_MA * slots + traffic.nth_MA,
            devices * slots,
        )

        def swap(x_PD: jax.Array) -> jax.Array:
            parts = x_PD.reshape(devices, slots, -1)
            return lax.all_to_all(parts, "expert", 0, 0).reshape(x_PD.shape)

        x_PD, weights_P1 = map(swap, _send(x_MD, weights_MA, row_P, slot_MA))
        # The rows from one source are sorted: the c-th is of the first expert that ends past c.
        ends_Se = jnp.cumsum(traffic.sent_SGe[:, device], axis=-1)
        expert_P1 = jnp.sum(nth_GC[:, :, None] >= ends_Se[:, None], axis=-1).reshape(-1, 1)
    y_PD, _ = _local(x_PD, weights_P1, expert_P1, weights, experts=local, ffn=ffn)
    with jax.named_scope("combine"):
        y_MD = moe.sum_rows(swap(y_PD), row_P // active, slot_MA)
    return y_MD, _dropped(traffic, ids_MA, devices, experts)


def _ragged_all_to_all(
    x_MD: jax.Array,
    weights_MA: jax.Array,
    ids_MA: jax.Array,
    weights: Weights,
    *,
    devices: int,
    experts: int,
    ffn: Ffn,
    bound: float | None,
) -> tuple[jax.Array, jax.Array]:
    """Send each device exactly the rows for its experts, into one packed buffer of P rows there."""
    local = experts // devices
    tokens, active = ids_MA.shape
    routed = tokens * active
    rows = _limit(devices * tokens * min(active, local), routed, bound)

    def cut(sizes_SGe: jax.Array) -> jax.Array:
        # A receiver's buffer is filled in the order of its X = S e (source, expert) pairs.
        sizes_GX = sizes_SGe.transpose(1, 0, 2).reshape(devices, devices * local)
        return _cut(sizes_GX, rows).reshape(devices, devices, local).transpose(1, 0, 2)

    with jax.named_scope("dispatch"):
        traffic = _plan(ids_MA, devices=devices, experts=experts, cut=cut)
        device = lax.axis_index("expert")
        sent_SG = traffic.sent_SGe.sum(-1)
        landing_SG = jnp.cumsum(sent_SG, axis=0) - sent_SG  # first row of source s at g
        first_SG = lax.all_gather(traffic.first_G, "expert")
        # Operands of ragged_all_to_all: input offsets, send sizes, output offsets, receive sizes.
        outbound = (traffic.first_G, sent_SG[device], landing_SG[device], sent_SG[:, device])
        inbound = (landing_SG[:, device], sent_SG[:, device], first_SG[:, device], sent_SG[device])
        travels_MA = traffic.device_MA < devices
        place_MA = jnp.where(travels_MA, traffic.order.places_MA, routed)

        def move(x_ND: jax.Array, size: int, sizes: tuple[jax.Array, ...]) -> jax.Array:
            empty = jnp.zeros((size, x_ND.shape[1]), x_ND.dtype)
            return lax.ragged_all_to_all(x_ND, empty, *sizes, axis_name="expert")

        operands = _send(x_MD, weights_MA, traffic.order.rows_R, place_MA)
        x_PD, weights_P1 = (move(operand, rows, outbound) for operand in operands)
        ends_X = jnp.cumsum(traffic.sent_SGe[:, device].reshape(-1))
        pair_P = jnp.searchsorted(ends_X, jnp.arange(rows), side="right", method="compare_all")
        expert_P1 = jnp.where(pair_P < devices * local, pair_P % local, local)[:, None]
    y_PD, _ = _local(x_PD, weights_P1, expert_P1, weights, experts=local, ffn=ffn)
    with jax.named_scope("combine"):
        y_RD = move(y_PD, routed, inbound)
        y_MD = moe.sum_rows(y_RD, traffic.order.rows_R // active, place_MA)
    return y_MD, _dropped(traffic, ids_MA, devices, experts)


TRANSPORTS: dict[str, Callable[..., tuple[jax.Array, jax.Array]]] = {
    "fsdp": _fsdp,
    "all_to_all": _all_to_all,
    "ragged_all_to_all": _ragged_all_to_all,
    "ring": _ring,
}
