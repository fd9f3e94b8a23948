"""Expert FFN on TPU: three Pallas grouped matmuls (megablox) with explicit gradients."""

import functools

import jax
import jax.numpy as jnp


def zero_tail(y_RD, sizes_E):
    """Grouped matmuls leave the rows behind the last group unwritten: old memory, NaN included."""
    return jnp.where(jnp.arange(y_RD.shape[0])[:, None] < jnp.sum(sizes_E), y_RD, 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _gmm(x_RK, weights, sizes_E, tiles, interpret):
    """x_RK times each of the matrices w_EKN, grouped by expert: a tuple of y_RN."""
    # Imported here: Pallas takes a second to load, and only TPU programs need it.
    from jax.experimental.pallas.ops.tpu.megablox.gmm import gmm

    each = (gmm(x_RK, w, sizes_E, x_RK.dtype, tiles, interpret=interpret) for w in weights)
    return tuple(zero_tail(y_RN, sizes_E) for y_RN in each)


def _gmm_keep(x_RK, weights, sizes_E, tiles, interpret):
    return _gmm(x_RK, weights, sizes_E, tiles, interpret), (x_RK, weights, sizes_E)


def _gmm_backward(tiles, interpret, kept, dys):
    from jax.experimental.pallas.ops.tpu.megablox.gmm import gmm, tgmm

    x_RK, weights, sizes_E = kept
    rows, contraction, columns = tiles
    turned = (rows, columns, contraction)
    dx_RK = sum(
        gmm(dy, w, sizes_E, x_RK.dtype, turned, transpose_rhs=True, interpret=interpret)
        for dy, w in zip(dys, weights, strict=True)
    )
    # The sum is made here: XLA would add where the rows are gathered and keep all terms till then.
    dx_RK = jax.lax.optimization_barrier(dx_RK)
    dws = tuple(
        tgmm(x_RK.T, dy, sizes_E, w.dtype, tiles, interpret=interpret)
        for dy, w in zip(dys, weights, strict=True)
    )
    return zero_tail(dx_RK, sizes_E), dws, None


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
    gate_RF, up_RF = _gmm(x_RD, (gate_EDF, up_EDF), sizes_E, into, interpret)
    hidden_RF = jax.nn.silu(gate_RF) * up_RF * weights_R[:, None]
    return _gmm(hidden_RF, (down_EFD,), sizes_E, out_of, interpret)[0][:rows]
