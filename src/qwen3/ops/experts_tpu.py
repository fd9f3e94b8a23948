"""Expert FFN on TPU: three Pallas grouped matmuls (megablox) with explicit gradients."""

import functools

import jax
import jax.numpy as jnp


def zero_tail(y_RD, sizes_E):
    """Grouped matmuls leave the rows behind the last group unwritten: old memory, NaN included."""
    return jnp.where(jnp.arange(y_RD.shape[0])[:, None] < jnp.sum(sizes_E), y_RD, 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _gmm(x_RK, w_EKN, sizes_E, tiles, interpret):
    # Imported here: Pallas takes a second to load, and only TPU programs need it.
    from jax.experimental.pallas.ops.tpu.megablox.gmm import gmm

    y_RN = gmm(x_RK, w_EKN, sizes_E, x_RK.dtype, tiles, interpret=interpret)
    return zero_tail(y_RN, sizes_E)


def _gmm_keep(x_RK, w_EKN, sizes_E, tiles, interpret):
    return _gmm(x_RK, w_EKN, sizes_E, tiles, interpret), (x_RK, w_EKN, sizes_E)


def _gmm_backward(tiles, interpret, kept, dy_RN):
    from jax.experimental.pallas.ops.tpu.megablox.gmm import gmm, tgmm

    x_RK, w_EKN, sizes_E = kept
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


_gmm.defvjp(_gmm_keep, _gmm_backward)


def megablox(
    x_RD,
    weights_R,
    gate_EDF,
    up_EDF,
    down_EFD,
    sizes_E,
    *,
    tiles=(512, 1024, 1024),
    interpret=False,
):
    """tiles = (rows, contraction, columns), clipped to the shapes; `interpret` runs it on CPU."""
    rows, model = x_RD.shape
    ffn = gate_EDF.shape[2]
    # A bf16 register holds 16 rows, and the kernel wants whole row tiles.
    row_tile = min(tiles[0], -(-rows // 16) * 16)
    pad = -rows % row_tile
    x_RD, weights_R = jnp.pad(x_RD, ((0, pad), (0, 0))), jnp.pad(weights_R, (0, pad))
    into = (row_tile, min(tiles[1], model), min(tiles[2], ffn))
    out_of = (row_tile, min(tiles[1], ffn), min(tiles[2], model))
    gate_RF = _gmm(x_RD, gate_EDF, sizes_E, into, interpret)
    up_RF = _gmm(x_RD, up_EDF, sizes_E, into, interpret)
    hidden_RF = jax.nn.silu(gate_RF) * up_RF * weights_R[:, None]
    return _gmm(hidden_RF, down_EFD, sizes_E, out_of, interpret)[:rows]
