"""SwiGLU feed-forward (Shazeer 2020, arXiv 2002.05202); no bias (report, section 2)."""

import jax

from qwen3.mesh import constrain
from qwen3.ops.linear import linear


def swiglu(x_BTD: jax.Array, gate_DF: jax.Array, up_DF: jax.Array, down_FD: jax.Array) -> jax.Array:
    """down(silu(gate(x)) * up(x)): [B, T, D] -> [B, T, D]."""
    gate_BTF = constrain(linear(x_BTD, gate_DF), "batch", "length", "act_mlp")
    up_BTF = constrain(linear(x_BTD, up_DF), "batch", "length", "act_mlp")
    return linear(jax.nn.silu(gate_BTF) * up_BTF, down_FD)
