"""How a model is run, as opposed to what it is: precision, recomputation, kernels, transport."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import jax
from jax.ad_checkpoint import checkpoint_policies as policies
from jax.sharding import Mesh

from qwen3 import mesh as meshes

# The order of routed rows (ops.moe) is always kept: a few bytes, and sorting is slow.
_ORDER = "routing"


def _offload(*saved: str):
    return policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[*saved, _ORDER],
        names_which_can_be_offloaded=["block_input"],
        offload_src="device",
        offload_dst="pinned_host",
    )


REMAT = {
    "none": None,
    "full": policies.save_only_these_names(_ORDER),
    "dots": policies.save_from_both_policies(
        policies.dots_with_no_batch_dims_saveable, policies.save_only_these_names(_ORDER)
    ),
    "attention": policies.save_only_these_names("attention", _ORDER),
    "offload": _offload(),
    "offload_attention": _offload("attention"),
}

# What each platform computes with, unless a run says otherwise. bf16 is slower than fp32 on CPUs.
PLATFORMS = {
    "cpu": {"dtype": "float32", "attention": "reference", "experts": "loop"},
    "tpu": {"dtype": "bfloat16", "attention": "splash", "experts": "megablox"},
    "gpu": {"dtype": "bfloat16", "attention": "cudnn", "experts": "tokamax"},
}


@dataclass(frozen=True)
class Execution:
    """dtype: activations and weights at use (norms, softmax and router stay fp32).
    remat: one of REMAT. attention: one of ops.attention.KERNELS. experts: one of
    ops.experts.KERNELS. transport: one of ops.transport.TRANSPORTS; expert_bound: slots of the
    fixed transports as a multiple of a balanced load, None for the bound that can drop nothing.
    scan: layers as one loop (compile time flat in depth) or written out. outputs_first: the
    matrices of attention and dense feed-forward are stored [*out, *in], see ops.linear.
    """

    dtype: str = "float32"
    remat: str = "none"
    attention: str = "reference"
    experts: str = "loop"
    transport: str = "fsdp"
    expert_bound: float | None = None
    scan: bool = True
    outputs_first: bool = False

    def __post_init__(self):
        if self.remat not in REMAT:
            raise ValueError(f"unknown remat policy {self.remat!r}; there are {', '.join(REMAT)}")

    @staticmethod
    def for_mesh(mesh: Mesh | None = None, **changes) -> Execution:
        """The kernels of the platform that the mesh's devices are of, with `changes`."""
        return Execution(**{**PLATFORMS[meshes.platform(mesh)], **changes})

    def replace(self, **changes) -> Execution:
        return dataclasses.replace(self, **changes)


def rematerialise(function, execution: Execution):
    """`function` with the execution's policy: what of it is kept for the backward pass."""
    if execution.remat == "none":
        return function
    # A scan already keeps XLA from merging the recomputation with the forward pass.
    return jax.checkpoint(function, policy=REMAT[execution.remat], prevent_cse=not execution.scan)
