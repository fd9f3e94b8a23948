"""Expert FFN on TPU: three Pallas grouped matmuls (megablox) with explicit gradients.

Further letters: K the contracted width and N the columns of one grouped matmul.
"""

import functools

import jax
import jax.numpy as jnp


def zero_tail(y_RD: jax.Array, sizes_E: jax.Array) -> jax.Array:
    """y_RD with zeros behind the last group, where grouped matmuls leave old memory (even NaN)."""
    return jnp.where(jnp.arange(y_RD.shape[0])[:, None] < jnp.sum(sizes_E), y_RD, 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _grouped_matmul(
    x_RK: jax.Array,
    w_EKN: jax.Array,
    sizes_E: jax.Array,
    tiles: tuple[int, int, int],
    interpret: bool,
) -> jax.Array:
    """y_RN[r] = x_RK[r] @ w_EKN[expert of r]; tiles are those of (rows, K, N)."""
    # Imported here: Pallas takes a second to load, and only TPU programs need it.
    from jax.experimental.pallas.ops.tpu.megablox.gmm import gmm

    y_RN = gmm(x_RK, w_EKN, sizes_E, x_RK.dtype, tiles, interpret=interpret)
    return zero_tail(y_RN, sizes_E)


def _grouped_matmul_forward(
    x_RK: jax.Array,
    w_EKN: jax.Array,
    sizes_E: jax.Array,
    tiles: tuple[int, int, int],
    interpret: bool,
) -> tuple[jax.Array, tuple]:
    return _grouped_matmul(x_RK, w_EKN, sizes_E, tiles, interpret), (x_RK, w_EKN, sizes_E)


def _grouped_matmul_backward(
    tiles: tuple[int, int, int],
    interpret: bool,
    residuals: tuple[jax.Array, jax.Array, jax.Array],
    dy_RN: jax.Array,
) -> tuple:
    from jax.experimental.pallas.ops.tpu.megablox.gmm import gmm, tgmm

    x_RK, w_EKN, sizes_E = residuals
    rows, contraction, columns = tiles
    dx_RK = gmm(
        dy_RN,
        w_EKN,
        sizes_E,
        x_RK.dtype,
        (rows, columns, contraction),
        transpose_rhs=True,
        interpret=interpret,
    )
    dw_EKN = tgmm(x_RK.T, dy_RN, sizes_E, w_EKN.dtype, tiles, interpret=interpret)
    return zero_tail(dx_RK, sizes_E), dw_EKN, None


_grouped_matmul.defvjp(_grouped_matmul_forward, _grouped_matmul_backward)


def megablox(
    x_RD: jax.Array,
    weights_R: jax.Array,
    gate_EDF: jax.Array,
    up_EDF: jax.Array,
    down_EFD: jax.Array,
    sizes_E: jax.Array,
    *,
    tiles: tuple[int, ...] = (512, 1024, 1024),
    interpret: bool = False,
) -> jax.Array:
    """The expert FFN by grouped matmuls; see `experts.grouped_ffn` for the arguments.

    tiles: (rows, contraction, columns) of one kernel block, clipped to the shapes. `interpret` runs
    the kernel on a CPU, for tests.
    """
    rows, model = x_RD.shape
    ffn = gate_EDF.shape[2]
    # A bf16 register holds 16 rows, and the kernel needs a whole number of row tiles.
    row_tile = min(tiles[0], -(-rows // 16) * 16)
    pad = -rows % row_tile
    x_RD, weights_R = jnp.pad(x_RD, ((0, pad), (0, 0))), jnp.pad(weights_R, (0, pad))
    in_tiles = (row_tile, min(tiles[1], model), min(tiles[2], ffn))
    out_tiles = (row_tile, min(tiles[1], ffn), min(tiles[2], model))
    gate_RF = _grouped_matmul(x_RD, gate_EDF, sizes_E, in_tiles, interpret)
    up_RF = _grouped_matmul(x_RD, up_EDF, sizes_E, in_tiles, interpret)
    hidden_RF = jax.nn.silu(gate_RF) * up_RF * weights_R[:, None]
    return _grouped_matmul(hidden_RF, down_EFD, sizes_E, out_tiles, interpret)[:rows]
