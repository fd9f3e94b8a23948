"""SwiGLU feed-forward network (Shazeer 2020, arXiv 2002.05202), no bias (report, section 2)."""

from functools import partial

import jax
from jax.ad_checkpoint import checkpoint_name

from qwen3.mesh import constrain
from qwen3.ops.int8 import Stored
from qwen3.ops.linear import linear as _linear
from qwen3.ops.quantised import FLOAT

GATED = "gate_and_up"  # name, for remat policies, of the two products that the gate multiplies


def swiglu(
    x_BTD: jax.Array,
    gate_DF: Stored,
    up_DF: Stored,
    down_FD: Stored,
    *,
    outputs_first: bool = False,
    products: str = FLOAT,
) -> jax.Array:
    """down(silu(gate(x)) * up(x)), [B, T, D] -> [B, T, D]. Options: see `linear`."""
    linear = partial(_linear, outputs_first=outputs_first, products=products)
    gate_BTF = constrain(linear(x_BTD, gate_DF), "batch", "length", "act_mlp")
    gate_BTF = checkpoint_name(gate_BTF, GATED)
    up_BTF = constrain(linear(x_BTD, up_DF), "batch", "length", "act_mlp")
    up_BTF = checkpoint_name(up_BTF, GATED)
    return linear(jax.nn.silu(gate_BTF) * up_BTF, down_FD)
