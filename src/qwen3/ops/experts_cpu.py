"""Expert FFN on CPU: a loop over the used blocks of rows, with an in-place backward pass.

XLA:CPU has no grouped matmul, but plain products of 128 rows run near its peak, so the loop does
one fused FFN per block (docs/log/2026-11-21-moe-block-loop.md). Further letters: J blocks, C rows
of one block.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


class _Blocks:
    """Every expert's rows cut into blocks of `size`, the last one short.

    A short block still reads `size` rows; the mask that comes with it zeroes the routing weights of
    other experts' rows, and with them their part of every product. The loop runs to `used`, so
    empty experts and unrouted rows cost nothing.
    """

    def __init__(self, sizes_E: jax.Array, rows: int, size: int) -> None:
        self.size = min(size, rows)
        # Every expert can have one short block: no routing needs more blocks than this.
        self.bound = -(-rows // self.size) + sizes_E.shape[0]
        self._last = rows - self.size
        blocks_E = (sizes_E + self.size - 1) // self.size
        block_ends_E, row_ends_E = jnp.cumsum(blocks_E), jnp.cumsum(sizes_E)
        self.used = block_ends_E[-1]
        block_J = jnp.arange(self.bound)
        owner_J = jnp.searchsorted(block_ends_E, block_J, side="right", method="compare_all")
        self._expert_J = jnp.minimum(owner_J, sizes_E.shape[0] - 1)
        nth_J = block_J - (block_ends_E - blocks_E)[self._expert_J]
        self._start_J = (row_ends_E - sizes_E)[self._expert_J] + nth_J * self.size
        self._end_J = row_ends_E[self._expert_J]

    def __getitem__(self, j: jax.Array | int) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(expert, first row to read, mask_C of the rows that are this block's own)."""
        # XLA moves a slice that would pass the end back to fit; the mask must follow.
        first = jnp.minimum(self._start_J[j], self._last)
        row_C = first + jnp.arange(self.size)
        return self._expert_J[j], first, (row_C >= self._start_J[j]) & (row_C < self._end_J[j])


def _add_rows(total: jax.Array, first: jax.Array, part: jax.Array) -> jax.Array:
    # Blocks overlap where they are short, so rows are added to and not overwritten.
    part = part + lax.dynamic_slice_in_dim(total, first, part.shape[0])
    return lax.dynamic_update_slice_in_dim(total, part, first, 0)


def _add_expert(total: jax.Array, expert: jax.Array, part: jax.Array) -> jax.Array:
    part = part + lax.dynamic_index_in_dim(total, expert, keepdims=False)
    return lax.dynamic_update_index_in_dim(total, part, expert, 0)


def _forward(
    x_RD: jax.Array,
    weights_R: jax.Array,
    gate_EDF: jax.Array,
    up_EDF: jax.Array,
    down_EFD: jax.Array,
    sizes_E: jax.Array,
    size: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    blocks = _Blocks(sizes_E, x_RD.shape[0], size)

    def body(j: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        y_RD, gate_JCF, up_JCF = carry
        e, first, own_C = blocks[j]
        x_CD = lax.dynamic_slice_in_dim(x_RD, first, blocks.size)
        weights_C = jnp.where(own_C, lax.dynamic_slice_in_dim(weights_R, first, blocks.size), 0)
        gate_CF, up_CF = x_CD @ gate_EDF[e], x_CD @ up_EDF[e]
        y_CD = (jax.nn.silu(gate_CF) * up_CF * weights_C[:, None]) @ down_EFD[e]
        return (
            _add_rows(y_RD, first, y_CD),
            lax.dynamic_update_index_in_dim(gate_JCF, gate_CF, j, 0),
            lax.dynamic_update_index_in_dim(up_JCF, up_CF, j, 0),
        )

    empty_JCF = jnp.zeros((blocks.bound, blocks.size, gate_EDF.shape[2]), x_RD.dtype)
    return lax.fori_loop(0, blocks.used, body, (jnp.zeros_like(x_RD), empty_JCF, empty_JCF))


def _backward(size: int, residuals: tuple[jax.Array, ...], dy_RD: jax.Array) -> tuple:
    x_RD, weights_R, gate_EDF, up_EDF, down_EFD, sizes_E, gate_JCF, up_JCF = residuals
    blocks = _Blocks(sizes_E, x_RD.shape[0], size)

    def body(j: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        dx_RD, dweights_R, dgate_EDF, dup_EDF, ddown_EFD = carry
        e, first, own_C = blocks[j]
        x_CD = lax.dynamic_slice_in_dim(x_RD, first, blocks.size)
        dy_CD = lax.dynamic_slice_in_dim(dy_RD, first, blocks.size)
        weights_C = lax.dynamic_slice_in_dim(weights_R, first, blocks.size)
        weights_C1 = jnp.where(own_C, weights_C, 0)[:, None]
        gate_CF, up_CF = gate_JCF[j], up_JCF[j]
        sigmoid_CF = jax.nn.sigmoid(gate_CF)
        silu_CF = gate_CF * sigmoid_CF
        hidden_CF = silu_CF * up_CF
        dweighted_CF = dy_CD @ down_EFD[e].T
        dweights_C = jnp.where(own_C, jnp.sum(dweighted_CF * hidden_CF, axis=1), 0)
        dhidden_CF = dweighted_CF * weights_C1
        dup_CF = dhidden_CF * silu_CF
        # d silu(g) / dg = sigmoid(g) + silu(g) (1 - sigmoid(g))
        dgate_CF = dhidden_CF * up_CF * (sigmoid_CF + silu_CF * (1 - sigmoid_CF))
        return (
            _add_rows(dx_RD, first, dgate_CF @ gate_EDF[e].T + dup_CF @ up_EDF[e].T),
            _add_rows(dweights_R, first, dweights_C),
            _add_expert(dgate_EDF, e, x_CD.T @ dgate_CF),
            _add_expert(dup_EDF, e, x_CD.T @ dup_CF),
            _add_expert(ddown_EFD, e, (hidden_CF * weights_C1).T @ dy_CD),
        )

    zeros = tuple(jnp.zeros_like(v) for v in (x_RD, weights_R, gate_EDF, up_EDF, down_EFD))
    return (*lax.fori_loop(0, blocks.used, body, zeros), None)


# A custom_vjp, because a loop whose bound is traced has no reverse derivative of its own.
@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def _loop(
    x_RD: jax.Array,
    weights_R: jax.Array,
    gate_EDF: jax.Array,
    up_EDF: jax.Array,
    down_EFD: jax.Array,
    sizes_E: jax.Array,
    size: int,
) -> jax.Array:
    return _forward(x_RD, weights_R, gate_EDF, up_EDF, down_EFD, sizes_E, size)[0]


def _forward_with_residuals(*arguments: Any) -> tuple:
    y_RD, gate_JCF, up_JCF = _forward(*arguments)
    return y_RD, (*arguments[:-1], gate_JCF, up_JCF)


_loop.defvjp(_forward_with_residuals, _backward)


def loop(
    x_RD: jax.Array,
    weights_R: jax.Array,
    gate_EDF: jax.Array,
    up_EDF: jax.Array,
    down_EFD: jax.Array,
    sizes_E: jax.Array,
    *,
    tiles: tuple[int, ...] = (128,),
) -> jax.Array:
    """The expert FFN with tiles[0] rows per block; see `experts.grouped_ffn` for the arguments.

    Gate and up products are kept for the backward pass.
    """
    return _loop(x_RD, weights_R, gate_EDF, up_EDF, down_EFD, sizes_E, tiles[0])
