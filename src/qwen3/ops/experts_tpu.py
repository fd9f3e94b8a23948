"""Expert FFN on TPU: three Pallas grouped matmuls (megablox) with explicit gradients.

Further letters: K the contracted width and N the columns of one grouped matmul.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from qwen3.ops.grouped_tiles import LANES, Tiles, product_tiles, row_tile, weight_tiles
from qwen3.ops.mlp import GATED


def zero_tail(y_RD: jax.Array, sizes_E: jax.Array) -> jax.Array:
    """y_RD with zeros behind the last group, where grouped matmuls leave old memory (even NaN)."""
    return jnp.where(jnp.arange(y_RD.shape[0])[:, None] < jnp.sum(sizes_E), y_RD, 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _grouped_matmul(
    x_RK: jax.Array,
    w_EKN: jax.Array,
    sizes_E: jax.Array,
    tiles: Tiles | None,
    interpret: bool,
) -> jax.Array:
    """y_RN[r] = x_RK[r] @ w_EKN[expert of r]; tiles are those of (rows, K, N), or by shape."""
    # Imported here: Pallas takes a second to load, and only TPU programs need it.
    from jax.experimental.pallas.ops.tpu.megablox.gmm import gmm

    shape = x_RK.shape[0], *w_EKN.shape
    tiles = _clipped(tiles or product_tiles(*shape), *shape)
    # XLA stores a matrix of few columns along its rows, as lanes would stay empty; the kernel,
    # which wants the last axis along lanes, takes the transpose without a copy.
    columns_first = w_EKN.shape[2] % LANES > 0 and w_EKN.shape[1] % LANES == 0
    y_RN = gmm(
        x_RK,
        w_EKN.swapaxes(1, 2) if columns_first else w_EKN,
        sizes_E,
        x_RK.dtype,
        tiles,
        transpose_rhs=columns_first,
        interpret=interpret,
    )
    return zero_tail(y_RN, sizes_E)


def _grouped_matmul_forward(
    x_RK: jax.Array,
    w_EKN: jax.Array,
    sizes_E: jax.Array,
    tiles: Tiles | None,
    interpret: bool,
) -> tuple[jax.Array, tuple]:
    return _grouped_matmul(x_RK, w_EKN, sizes_E, tiles, interpret), (x_RK, w_EKN, sizes_E)


def _grouped_matmul_backward(
    tiles: Tiles | None,
    interpret: bool,
    residuals: tuple[jax.Array, jax.Array, jax.Array],
    dy_RN: jax.Array,
) -> tuple:
    from jax.experimental.pallas.ops.tpu.megablox.gmm import gmm, tgmm

    x_RK, w_EKN, sizes_E = residuals
    R, (E, K, N) = x_RK.shape[0], w_EKN.shape
    of_x = product_tiles(R, E, N, K) if tiles is None else (tiles[0], tiles[2], tiles[1])
    of_w = weight_tiles(R, E, K, N) if tiles is None else tiles
    dx_RK = gmm(
        dy_RN,
        w_EKN,
        sizes_E,
        x_RK.dtype,
        _clipped(of_x, R, E, N, K),
        transpose_rhs=True,
        interpret=interpret,
    )
    of_w = _clipped(of_w, R, E, K, N)
    dw_EKN = tgmm(x_RK.T, dy_RN, sizes_E, w_EKN.dtype, of_w, interpret=interpret)
    return zero_tail(dx_RK, sizes_E), dw_EKN, None


_grouped_matmul.defvjp(_grouped_matmul_forward, _grouped_matmul_backward)


def _clipped(tiles: Tiles, rows: int, experts: int, contraction: int, columns: int) -> Tiles:
    return tiles[0], min(tiles[1], contraction), min(tiles[2], columns)


def megablox(
    x_RD: jax.Array,
    weights_R: jax.Array,
    gate_EDF: jax.Array,
    up_EDF: jax.Array,
    down_EFD: jax.Array,
    sizes_E: jax.Array,
    *,
    tiles: Tiles | None = None,
    interpret: bool = False,
) -> jax.Array:
    """The expert FFN by grouped matmuls; see `experts.grouped_ffn` for the arguments.

    tiles: (rows, contraction, columns) of one kernel block, clipped to the shapes; None: those of
    `grouped_tiles` for each product. `interpret` runs the kernel on a CPU, for tests.
    """
    rows = x_RD.shape[0]
    # A bf16 register holds 16 rows, and the kernel needs a whole number of row tiles.
    tile = min(tiles[0], -(-rows // 16) * 16) if tiles else row_tile(rows, gate_EDF.shape[0])
    tiles = tiles and (tile, *tiles[1:])
    pad = -rows % tile
    x_RD, weights_R = jnp.pad(x_RD, ((0, pad), (0, 0))), jnp.pad(weights_R, (0, pad))
    gate_RF = checkpoint_name(_grouped_matmul(x_RD, gate_EDF, sizes_E, tiles, interpret), GATED)
    up_RF = checkpoint_name(_grouped_matmul(x_RD, up_EDF, sizes_E, tiles, interpret), GATED)
    hidden_RF = jax.nn.silu(gate_RF) * up_RF * weights_R[:, None]
    return _grouped_matmul(hidden_RF, down_EFD, sizes_E, tiles, interpret)[:rows]
