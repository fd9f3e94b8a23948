"""The grouped expert FFN over rows sorted by expert: one function, one kernel per platform.

Every kernel computes y[r] = (w[r] * silu(x[r] @ gate[e]) * (x[r] @ up[e])) @ down[e] for the expert e that owns
row r. The routing weight multiplies the hidden row, not the result, so no kernel has to keep y for the
backward pass. Rows behind sum(sizes) give zero and receive zero gradient, whatever they hold, and the
loop and the TPU kernel spend no arithmetic on them.

`jax.lax.ragged_dot` is used nowhere: on CPU it is a masked dense product (experiments/bench_moe_layer.py)
and on TPU its backward pass is counted as a product with all experts.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax


def grouped_ffn(x_RD, weights_R, gate_EDF, up_EDF, down_EFD, sizes_E, *, kernel, tiles=None):
    """Weighted SwiGLU of each row by its own expert; returns y_RD.

    x_RD is sorted by expert, sizes_E int32 counts rows per expert. `kernel` is a name in KERNELS or a
    function like those; `tiles` = (rows, contraction, columns) replaces the kernel's own tile sizes.
    """
    if isinstance(kernel, str):
        if kernel not in KERNELS:
            raise ValueError(f"unknown experts kernel {kernel!r}; known: {', '.join(KERNELS)}")
        kernel = KERNELS[kernel]
    options = {} if tiles is None else {"tiles": tuple(tiles)}
    return kernel(x_RD, weights_R, gate_EDF, up_EDF, down_EFD, sizes_E, **options)


def dense(x_RD, weights_R, gate_EDF, up_EDF, down_EFD, sizes_E):
    """Every row through every expert, then a mask: the reference, E times the arithmetic."""
    owner_R = jnp.searchsorted(jnp.cumsum(sizes_E), jnp.arange(x_RD.shape[0]), side="right")
    weights_RE = weights_R[:, None] * jax.nn.one_hot(owner_R, sizes_E.shape[0], dtype=x_RD.dtype)
    gate_REF = jnp.einsum("RD,EDF->REF", x_RD, gate_EDF)
    up_REF = jnp.einsum("RD,EDF->REF", x_RD, up_EDF)
    hidden_REF = jax.nn.silu(gate_REF) * up_REF * weights_RE[:, :, None]
    return jnp.einsum("REF,EFD->RD", hidden_REF, down_EFD)


# --- CPU: a loop over the used blocks of rows ----------------------------------------------------


class _Blocks:
    """Where the row blocks lie: every expert's rows cut into blocks of `size`, the last one short.

    A short block still reads `size` rows; `weights` zeroes those of other experts, which makes their part of
    every product zero. The loop runs to `used`, so empty experts and unrouted rows cost nothing.
    """

    def __init__(self, sizes_E, rows, size):
        self.size = min(size, rows)
        self.last_start = rows - self.size
        per_expert_E = (sizes_E + self.size - 1) // self.size
        ends_E = jnp.cumsum(per_expert_E)
        row_ends_E = jnp.cumsum(sizes_E)
        self.bound = -(-rows // self.size) + sizes_E.shape[0]
        self.used = ends_E[-1]
        block_J = jnp.arange(self.bound)
        expert_J = jnp.searchsorted(ends_E, block_J, side="right", method="compare_all")
        self.expert_J = jnp.minimum(expert_J, sizes_E.shape[0] - 1)
        nth_J = block_J - (ends_E - per_expert_E)[self.expert_J]
        self.start_J = (row_ends_E - sizes_E)[self.expert_J] + nth_J * self.size
        self.end_J = row_ends_E[self.expert_J]

    def __getitem__(self, j):
        """(expert, first row to read, mask of the rows that are this block's own)."""
        # A slice that would pass the end is moved forward by XLA; the mask must know.
        first = jnp.minimum(self.start_J[j], self.last_start)
        row = first + jnp.arange(self.size)
        return self.expert_J[j], first, (row >= self.start_J[j]) & (row < self.end_J[j])


def _rows(x, first, size):
    return lax.dynamic_slice_in_dim(x, first, size)


def _add_rows(total, first, part):
    part = part + lax.dynamic_slice_in_dim(total, first, part.shape[0])
    return lax.dynamic_update_slice_in_dim(total, part, first, 0)


def _add_expert(total, expert, part):
    part = part + lax.dynamic_index_in_dim(total, expert, keepdims=False)
    return lax.dynamic_update_index_in_dim(total, part, expert, 0)


def _loop_forward(x_RD, weights_R, gate_EDF, up_EDF, down_EFD, sizes_E, block):
    blocks = _Blocks(sizes_E, x_RD.shape[0], block)

    def body(j, carry):
        y_RD, gates_JCF, ups_JCF = carry
        e, first, own_C = blocks[j]
        x_CD = _rows(x_RD, first, blocks.size)
        weights_C = jnp.where(own_C, _rows(weights_R, first, blocks.size), 0)
        gate_CF, up_CF = x_CD @ gate_EDF[e], x_CD @ up_EDF[e]
        y_CD = (jax.nn.silu(gate_CF) * up_CF * weights_C[:, None]) @ down_EFD[e]
        gates_JCF = lax.dynamic_update_index_in_dim(gates_JCF, gate_CF, j, 0)
        ups_JCF = lax.dynamic_update_index_in_dim(ups_JCF, up_CF, j, 0)
        return _add_rows(y_RD, first, y_CD), gates_JCF, ups_JCF

    kept_JCF = jnp.zeros((blocks.bound, blocks.size, gate_EDF.shape[2]), x_RD.dtype)
    return lax.fori_loop(0, blocks.used, body, (jnp.zeros_like(x_RD), kept_JCF, kept_JCF))


def _loop_backward(block, kept, dy_RD):
    x_RD, weights_R, gate_EDF, up_EDF, down_EFD, sizes_E, gates_JCF, ups_JCF = kept
    blocks = _Blocks(sizes_E, x_RD.shape[0], block)

    def body(j, carry):
        dx_RD, dweights_R, dgate_EDF, dup_EDF, ddown_EFD = carry
        e, first, own_C = blocks[j]
        x_CD, dy_CD = (_rows(rows, first, blocks.size) for rows in (x_RD, dy_RD))
        weights_C = jnp.where(own_C, _rows(weights_R, first, blocks.size), 0)[:, None]
        gate_CF, up_CF = gates_JCF[j], ups_JCF[j]
        sigmoid_CF = jax.nn.sigmoid(gate_CF)
        silu_CF = gate_CF * sigmoid_CF
        hidden_CF = silu_CF * up_CF
        dweighted_CF = dy_CD @ down_EFD[e].T
        dhidden_CF = dweighted_CF * weights_C
        dup_CF = dhidden_CF * silu_CF
        dgate_CF = dhidden_CF * up_CF * (sigmoid_CF + silu_CF * (1 - sigmoid_CF))
        dweights_C = jnp.where(own_C, jnp.sum(dweighted_CF * hidden_CF, axis=1), 0)
        return (
            _add_rows(dx_RD, first, dgate_CF @ gate_EDF[e].T + dup_CF @ up_EDF[e].T),
            _add_rows(dweights_R, first, dweights_C.astype(dweights_R.dtype)),
            _add_expert(dgate_EDF, e, x_CD.T @ dgate_CF),
            _add_expert(dup_EDF, e, x_CD.T @ dup_CF),
            _add_expert(ddown_EFD, e, (hidden_CF * weights_C).T @ dy_CD),
        )

    zeros = tuple(jnp.zeros_like(v) for v in (x_RD, weights_R, gate_EDF, up_EDF, down_EFD))
    return (*lax.fori_loop(0, blocks.used, body, zeros), None)


# A loop with a traced bound has no reverse derivative of its own, hence the custom one.
@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def _loop(x_RD, weights_R, gate_EDF, up_EDF, down_EFD, sizes_E, block):
    return _loop_forward(x_RD, weights_R, gate_EDF, up_EDF, down_EFD, sizes_E, block)[0]


def _loop_keep(*arguments):
    y_RD, gates_JCF, ups_JCF = _loop_forward(*arguments)
    return y_RD, (*arguments[:-1], gates_JCF, ups_JCF)


_loop.defvjp(_loop_keep, _loop_backward)


def loop(x_RD, weights_R, gate_EDF, up_EDF, down_EFD, sizes_E, *, tiles=(128,)):
    """CPU: one fused FFN per block of tiles[0] rows, weight gradients added up in place."""
    return _loop(x_RD, weights_R, gate_EDF, up_EDF, down_EFD, sizes_E, tiles[0])


# --- TPU: Pallas megablox --------------------------------------------------------------------------


def _zero_tail(y_RD, sizes_E):
    """The kernels leave rows behind the last group unwritten: whatever was in memory, NaN included."""
    return jnp.where(jnp.arange(y_RD.shape[0])[:, None] < jnp.sum(sizes_E), y_RD, 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _gmm(x_RK, w_EKN, sizes_E, tiles, interpret):
    from jax.experimental.pallas.ops.tpu.megablox.gmm import gmm

    y_RN = gmm(x_RK, w_EKN, sizes_E, x_RK.dtype, tiles, interpret=interpret)
    return _zero_tail(y_RN, sizes_E)


def _gmm_keep(x_RK, w_EKN, sizes_E, tiles, interpret):
    return _gmm(x_RK, w_EKN, sizes_E, tiles, interpret), (x_RK, w_EKN, sizes_E)


def _gmm_backward(tiles, interpret, kept, dy_RN):
    from jax.experimental.pallas.ops.tpu.megablox.gmm import gmm, tgmm

    x_RK, w_EKN, sizes_E = kept
    rows, contraction, columns = tiles
    swapped = (rows, columns, contraction)
    dx_RK = gmm(
        dy_RN, w_EKN, sizes_E, x_RK.dtype, swapped, transpose_rhs=True, interpret=interpret
    )
    dw_EKN = tgmm(x_RK.T, dy_RN, sizes_E, w_EKN.dtype, tiles, interpret=interpret)
    return _zero_tail(dx_RK, sizes_E), dw_EKN, None


_gmm.defvjp(_gmm_keep, _gmm_backward)


def megablox(
    x_RD, weights_R, gate_EDF, up_EDF, down_EFD, sizes_E, *, tiles=(512, 1024, 1024), interpret=False
):
    """TPU: three Pallas grouped matmuls with explicit forward, dlhs and drhs. `interpret` runs them on CPU."""
    rows, model = x_RD.shape
    ffn = gate_EDF.shape[2]
    # A tile's rows are a multiple of what a bf16 register holds, and the rows a multiple of the tile.
    row_tile = min(tiles[0], -(-rows // 16) * 16)
    pad = -rows % row_tile
    x_RD, weights_R = jnp.pad(x_RD, ((0, pad), (0, 0))), jnp.pad(weights_R, (0, pad))
    into = (row_tile, min(tiles[1], model), min(tiles[2], ffn))
    out_of = (row_tile, min(tiles[1], ffn), min(tiles[2], model))
    gate_RF = _gmm(x_RD, gate_EDF, sizes_E, into, interpret)
    up_RF = _gmm(x_RD, up_EDF, sizes_E, into, interpret)
    hidden_RF = jax.nn.silu(gate_RF) * up_RF * weights_R[:, None]
    return _gmm(hidden_RF, down_EFD, sizes_E, out_of, interpret)[:rows]


# --- GPU: tokamax ------------------------------------------------------------------------------------


def tokamax(x_RD, weights_R, gate_EDF, up_EDF, down_EFD, sizes_E):
    """GPU: tokamax.ragged_dot, which has Triton kernels for the product and both of its gradients."""
    try:
        from tokamax import ragged_dot
    except ImportError as error:
        raise ImportError(
            "the 'tokamax' experts kernel needs the tokamax package: pip install tokamax"
        ) from error
    # The mask on x stops the unwritten rows of its gradient.
    x_RD = _zero_tail(x_RD, sizes_E)
    gate_RF = _zero_tail(ragged_dot(x_RD, gate_EDF, group_sizes=sizes_E), sizes_E)
    up_RF = _zero_tail(ragged_dot(x_RD, up_EDF, group_sizes=sizes_E), sizes_E)
    hidden_RF = _zero_tail(jax.nn.silu(gate_RF) * up_RF * weights_R[:, None], sizes_E)
    return _zero_tail(ragged_dot(hidden_RF, down_EFD, group_sizes=sizes_E), sizes_E)


KERNELS = {"loop": loop, "megablox": megablox, "tokamax": tokamax, "dense": dense}
