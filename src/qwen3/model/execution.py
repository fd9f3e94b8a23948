"""How a model is run, as opposed to what it is: dtype, rematerialisation, kernels, transport."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_policies as policies
from jax.sharding import Mesh

from qwen3 import mesh as meshes
from qwen3.ops.attention import RESIDUALS
from qwen3.ops.int8 import INT8
from qwen3.ops.mlp import GATED
from qwen3.ops.quantised import FLOAT, PRODUCTS

# The order of routed rows (ops.moe) is always saved: a few bytes, and sorting is slow.
_ORDER = "routing"


def _offload(*saved: str) -> Callable:
    """Save these names on the device and the blocks' inputs in host memory; recompute the rest."""
    return policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[*saved, _ORDER],
        names_which_can_be_offloaded=["block_input"],
        offload_src="device",
        offload_dst="pinned_host",
    )


# What of a block is saved for the backward pass; the rest is computed again.
REMAT: dict[str, Callable | None] = {
    "none": None,  # everything
    "full": policies.save_only_these_names(_ORDER),  # nothing but the block's input
    "dots": policies.save_from_both_policies(  # outputs of matrix products with weights
        policies.dots_with_no_batch_dims_saveable, policies.save_only_these_names(_ORDER)
    ),
    # What the backward pass of the reference and splash kernels needs, so that they run once.
    "attention": policies.save_only_these_names(RESIDUALS, _ORDER),
    # The same, and the two wide products of the feed-forward network, experts' too.
    "feed_forward": policies.save_only_these_names(RESIDUALS, GATED, _ORDER),
    "offload": _offload(),  # as "full", with the blocks' inputs in host memory
    "offload_attention": _offload(RESIDUALS),
}

CACHE_DTYPES = ("", "float32", "bfloat16", INT8)
WEIGHTS = ("", INT8)

# Defaults of each platform. bf16 is slower than fp32 on CPUs.
PLATFORMS = {
    "cpu": {"dtype": "float32", "attention": "reference", "pages": "in_place", "experts": "loop"},
    "tpu": {"dtype": "bfloat16", "attention": "splash", "pages": "pallas", "experts": "megablox"},
    "gpu": {"dtype": "bfloat16", "attention": "cudnn", "pages": "gathered", "experts": "tokamax"},
}


@dataclass(frozen=True)
class Execution:
    """Precision, rematerialisation, kernels and transport of a forward pass.

    Raises ValueError for unknown products, an unknown remat policy, dtype of KV caches or form of
    weights; kernels and transports are checked at use.
    """

    dtype: str = "float32"  # of activations and weights at use; norms, softmax, router stay fp32
    cache_dtype: str = ""  # of the KV caches of generation, one of CACHE_DTYPES; "": dtype
    # How generation stores the matrices of attention and MLP, one of WEIGHTS; "": in dtype. In int8
    # each output channel has a scale.
    weights: str = ""
    remat: str = "none"  # rematerialisation policy, one of REMAT
    attention: str = "reference"  # kernel, one of ops.attention.KERNELS
    pages: str = "in_place"  # kernel of a paged KV cache, one of ops.paged_attention.KERNELS
    experts: str = "loop"  # kernel, one of ops.experts.KERNELS
    transport: str = "fsdp"  # of tokens to experts, one of ops.transport.TRANSPORTS
    # Rows of a transport's buffer as a multiple of a balanced load; None: none is ever dropped.
    expert_bound: float | None = None
    scan: bool = True  # layers as one loop (compile time flat in depth), or written out
    outputs_first: bool = False  # attention and MLP matrices stored [*out, *in], see ops.linear
    # Products of attention and MLP matrices, one of ops.quantised.PRODUCTS: "float" is in `dtype`.
    products: str = FLOAT

    def __post_init__(self) -> None:
        if self.products not in PRODUCTS:
            raise ValueError(f"unknown products {self.products!r}; there are {', '.join(PRODUCTS)}")
        if self.remat not in REMAT:
            raise ValueError(f"unknown remat policy {self.remat!r}; there are {', '.join(REMAT)}")
        if self.cache_dtype not in CACHE_DTYPES:
            known = ", ".join(map(repr, CACHE_DTYPES))
            raise ValueError(f"cache_dtype {self.cache_dtype!r}: wanted one of {known}")
        if self.weights not in WEIGHTS:
            known = ", ".join(map(repr, WEIGHTS))
            raise ValueError(f"weights {self.weights!r}: wanted one of {known}")
        if self.weights and self.products != FLOAT:
            raise ValueError(
                f"weights {self.weights!r} with products {self.products!r}: stored int8 weights "
                f"are multiplied as {FLOAT!r}"
            )

    @property
    def kv_dtype(self) -> str:
        """The dtype of KV caches."""
        return self.cache_dtype or self.dtype

    @staticmethod
    def for_mesh(mesh: Mesh | None = None, **changes: Any) -> Execution:
        """The defaults of the platform of the mesh's devices, with `changes`."""
        return Execution(**{**PLATFORMS[meshes.platform(mesh)], **changes})

    def replace(self, **changes: Any) -> Execution:
        """A copy with some settings changed."""
        return dataclasses.replace(self, **changes)


def rematerialise(function: Callable, execution: Execution) -> Callable:
    """`function` with the execution's rematerialisation policy applied (gradient checkpointing)."""
    if execution.remat == "none":
        return function
    # prevent_cse keeps XLA from merging the recomputation with the forward pass; a scan does too.
    return jax.checkpoint(function, policy=REMAT[execution.remat], prevent_cse=not execution.scan)
