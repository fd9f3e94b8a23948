"""The grouped expert FFN over rows sorted by expert: one function, one kernel per platform.

Every kernel computes y[r] = (w[r] * silu(x[r] @ gate[e]) * (x[r] @ up[e])) @ down[e] for the expert
e that owns row r. The routing weight multiplies the hidden row, not the result, so no kernel has to
keep y for the backward pass. Rows behind sum(sizes) give zero and receive zero gradient, whatever
finite value they hold, and the loop and the TPU kernel spend no arithmetic on them.

Letters: R rows, D model, F expert ffn, E experts. `jax.lax.ragged_dot` is used nowhere: on CPU it
takes longer than all experts densely (experiments/bench_moe_layer.py), and on TPU its derivative is
counted as a product with every expert.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp

from qwen3.ops.experts_cpu import loop
from qwen3.ops.experts_tpu import megablox, zero_tail

# (x_RD, weights_R, gate_EDF, up_EDF, down_EFD, sizes_E, and `tiles` where it has any) -> y_RD
Kernel: TypeAlias = Callable[..., jax.Array]


def grouped_ffn(
    x_RD: jax.Array,
    weights_R: jax.Array,
    gate_EDF: jax.Array,
    up_EDF: jax.Array,
    down_EFD: jax.Array,
    sizes_E: jax.Array,
    *,
    kernel: str | Kernel,
    tiles: Sequence[int] | None = None,
) -> jax.Array:
    """Weighted SwiGLU of each row by its own expert; returns y_RD.

    x_RD is sorted by expert, sizes_E int32 counts the rows of each. `kernel` is a name in KERNELS
    or a function like those. `tiles` replaces the kernel's own tile sizes: (rows,) for the loop,
    (rows, contraction, columns) for megablox; the other two have none. Raises ValueError for an
    unknown kernel and for tiles that it does not take.
    """
    if isinstance(kernel, str):
        if kernel not in KERNELS:
            raise ValueError(f"unknown experts kernel {kernel!r}; known: {', '.join(KERNELS)}")
        if tiles is not None and kernel not in TILED:
            raise ValueError(f"the experts kernel {kernel!r} takes no tiles ({tiles})")
        kernel = KERNELS[kernel]
    options = {} if tiles is None else {"tiles": tuple(tiles)}
    return kernel(x_RD, weights_R, gate_EDF, up_EDF, down_EFD, sizes_E, **options)


def dense(
    x_RD: jax.Array,
    weights_R: jax.Array,
    gate_EDF: jax.Array,
    up_EDF: jax.Array,
    down_EFD: jax.Array,
    sizes_E: jax.Array,
) -> jax.Array:
    """Every row through every expert, then a mask: the reference, with E times the arithmetic."""
    owner_R = jnp.searchsorted(jnp.cumsum(sizes_E), jnp.arange(x_RD.shape[0]), side="right")
    weights_RE = weights_R[:, None] * jax.nn.one_hot(owner_R, sizes_E.shape[0], dtype=x_RD.dtype)
    gate_REF = jnp.einsum("RD,EDF->REF", x_RD, gate_EDF)
    up_REF = jnp.einsum("RD,EDF->REF", x_RD, up_EDF)
    hidden_REF = jax.nn.silu(gate_REF) * up_REF * weights_RE[:, :, None]
    return jnp.einsum("REF,EFD->RD", hidden_REF, down_EFD)


def tokamax(
    x_RD: jax.Array,
    weights_R: jax.Array,
    gate_EDF: jax.Array,
    up_EDF: jax.Array,
    down_EFD: jax.Array,
    sizes_E: jax.Array,
) -> jax.Array:
    """tokamax.ragged_dot for GPUs, which has kernels for the product and for both gradients."""
    try:
        from tokamax import ragged_dot
    except ImportError as error:
        raise ImportError(
            "the 'tokamax' experts kernel needs the tokamax package: pip install tokamax"
        ) from error
    # This mask is for x's gradient, whose rows behind the last group are left unwritten too.
    x_RD = zero_tail(x_RD, sizes_E)
    gate_RF = zero_tail(ragged_dot(x_RD, gate_EDF, group_sizes=sizes_E), sizes_E)
    up_RF = zero_tail(ragged_dot(x_RD, up_EDF, group_sizes=sizes_E), sizes_E)
    hidden_RF = zero_tail(jax.nn.silu(gate_RF) * up_RF * weights_R[:, None], sizes_E)
    return zero_tail(ragged_dot(hidden_RF, down_EFD, group_sizes=sizes_E), sizes_E)


KERNELS: dict[str, Kernel] = {
    "loop": loop,
    "megablox": megablox,
    "tokamax": tokamax,
    "dense": dense,
}
TILED = ("loop", "megablox")  # kernels with tile sizes to choose
