"""Matrix products of quantised operands, int8 or float8, in the forward and the backward pass.

Quantised training by qwix: each row of activations, each output channel of a weight and each row or
column of an incoming gradient is scaled by its own largest magnitude and rounded to the nearest;
sums are in int32 (int8) or fp32 (float8). Weights and their gradients are stored as ever.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import jax

# Name -> (dtype of activations and weights, of incoming gradients). float8 as FP8 training has it:
# more bits for values, more range for gradients (arXiv 2209.05433).
QUANTISED = {"int8": ("int8", "int8"), "float8": ("float8_e4m3fn", "float8_e5m2")}
FLOAT = "float"  # the name of products in the dtype of the activations
PRODUCTS = (FLOAT, *QUANTISED)


def product(
    x: jax.Array, w: jax.Array, *, inputs: int, outputs_first: bool, products: str
) -> jax.Array:
    """`linear.linear` with operands quantised as QUANTISED[products] says, in x's dtype."""
    quantised, config = _qwix(products)
    first = w.ndim - inputs if outputs_first else 0
    contracted = tuple(range(x.ndim - inputs, x.ndim)), tuple(range(first, first + inputs))
    return quantised(x, w.astype(x.dtype), (contracted, ((), ())), config).astype(x.dtype)


@cache
def _qwix(products: str) -> tuple[Any, Any]:
    """(qwix's differentiable product, its settings). Raises ImportError saying what to install."""
    try:
        # The providers of qwix call the same function; it has no public name of its own.
        from qwix._src.core import dot_general_qt
    except ImportError as error:
        raise ImportError(f'products={products!r} needs pip install "qwen3[quantised]"') from error
    operands, gradients = QUANTISED[products]
    config = dot_general_qt.DotGeneralQtConfig(
        lhs_qtype=operands,
        rhs_qtype=operands,
        dlhs_grad_qtype=gradients,
        drhs_grad_qtype=gradients,
    )
    return dot_general_qt.dot_general_qt, config
