"""Matrix products against weights with several input or output axes."""

import math

import jax
import jax.numpy as jnp

from qwen3 import mesh
from qwen3.ops import quantised
from qwen3.ops.int8 import Int8, Stored

FEW_ROWS = 64  # up to this many, a product with [*out, *in] weights is faster as W x


def linear(
    x: jax.Array,
    w: Stored,
    *,
    inputs: int = 1,
    outputs_first: bool = False,
    products: str = quantised.FLOAT,
) -> jax.Array:
    """Contract the last `inputs` axes of x with the first `inputs` axes of w.

    [..., *in] x [*in, *out] -> [..., *out], in x's dtype. Rows are flattened to one axis, which
    XLA:CPU multiplies up to three times faster, unless positions are sharded over "context".
    outputs_first: w is [*out, *in] instead, which is faster for few rows on CPUs
    (docs/log/2026-11-28-decode-speed.md). products: one of `quantised.PRODUCTS`. A matrix in int8
    has one scale an output. Raises ValueError when the contracted axes differ.
    """
    if isinstance(w, Int8):
        y = linear(x, w.numbers, inputs=inputs, outputs_first=outputs_first, products=products)
        return (y * w.scales.reshape(y.shape[x.ndim - inputs :])).astype(x.dtype)
    first = w.ndim - inputs if outputs_first else 0
    if x.shape[x.ndim - inputs :] != w.shape[first : first + inputs]:
        where = "last" if outputs_first else "first"
        raise ValueError(f"cannot contract {x.shape} with {w.shape} over the {where} {inputs} axes")
    if products != quantised.FLOAT:
        return quantised.product(
            x, w, inputs=inputs, outputs_first=outputs_first, products=products
        )
    if outputs_first:
        return _outputs_first(x, w, inputs)
    rows, outs = x.shape[: x.ndim - inputs], w.shape[inputs:]
    w = w.astype(x.dtype)
    # Merging batch and length would move rows between devices when the length is sharded too.
    if mesh.ambient_sizes().get("context", 1) > 1:
        return jnp.tensordot(x, w, axes=inputs)
    width = math.prod(w.shape[:inputs])
    y = x.reshape(math.prod(rows), width) @ w.reshape(width, math.prod(outs))
    return y.reshape(*rows, *outs)


def _outputs_first(x: jax.Array, w: jax.Array, inputs: int) -> jax.Array:
    outs, rows = w.shape[: w.ndim - inputs], x.shape[: x.ndim - inputs]
    x_RI = x.reshape(math.prod(rows), -1)
    w_OI = w.astype(x.dtype).reshape(math.prod(outs), -1)
    if x_RI.shape[0] > FEW_ROWS:
        return jnp.einsum("RI,OI->RO", x_RI, w_OI).reshape(*rows, *outs)
    # W x instead of x W: XLA:CPU then packs the few rows and not the matrix. The barrier keeps it
    # from transposing the product back.
    y_OR = jax.lax.optimization_barrier(jnp.einsum("OI,RI->OR", w_OI, x_RI))
    return y_OR.T.reshape(*rows, *outs)
