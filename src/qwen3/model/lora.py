"""Low-rank adapters (LoRA, arXiv 2106.09685): train r-wide factors instead of whole matrices.

A matrix W [*in, *out] of every layer, and of every expert, becomes W + (alpha / rank) A B with
A [*in, rank] and B [rank, *out]. Only A and B are trained, so gradients and the optimizer's state
are small; B starts at 0, so training starts from the model as it is. `merge` gives the whole
matrices again: it is used in the loss, for rollouts and on export, so there is one forward pass for
both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from qwen3.model import transformer
from qwen3.model.sizes import ModelConfig

Params = Any

# Matrices of one layer that can have an adapter, and how many axes of each are contracted.
MATRICES = {
    name: inputs
    for matrices in transformer.CONTRACTED_AXES.values()
    for name, inputs in matrices.items()
}
# How many leading axes of a module's parameters count separate matrices: layers, then experts.
STACKED = {"attention": 1, "mlp": 1, "moe": 2}


@dataclass(frozen=True)
class LoraConfig:
    """Which matrices get an adapter, and how wide it is. Rank 0 trains the whole model instead."""

    rank: int = 0  # width r of the factors; 8 to 64 is usual
    alpha: float = 32.0  # the update is scaled by alpha / rank
    targets: tuple[str, ...] = tuple(MATRICES)  # matrices of a layer by name

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise ValueError(f"LoRA rank {self.rank}: wanted 1 or more, or 0 for none")
        if unknown := sorted(set(self.targets) - set(MATRICES)):
            raise ValueError(f"LoRA targets {unknown}: choose from {', '.join(MATRICES)}")
        if self.rank and not self.targets:
            raise ValueError("LoRA without targets trains nothing")

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


def init(lora: LoraConfig, model: ModelConfig, key: jax.Array) -> Params:
    """New adapters in fp32: A normal with variance 1 / inputs, B zero.

    {module: {matrix: {"a": [L, *in, r], "b": [L, r, *out]}}}, without logical names; the matrices
    of experts have an axis E behind L.
    """
    return nn.meta.unbox(_declare(lora, model, key))


def abstract(lora: LoraConfig, model: ModelConfig) -> Params:
    """Shapes of the adapters with logical axis names, for `mesh.shardings_of`."""
    # The key is made inside: with the mesh of a slice that is not there nothing can be computed.
    return jax.eval_shape(lambda: _declare(lora, model, jax.random.key(0)))


def _declare(lora: LoraConfig, model: ModelConfig, key: jax.Array) -> Params:
    layers = transformer.abstract(model)["layers"]
    adapters: dict[str, dict[str, Any]] = {}
    for name in lora.targets:
        module = module_of(name, model)
        boxed = layers[module][name]
        shape, names = boxed.value.shape, boxed.names
        stacked = STACKED[module]
        cut = stacked + MATRICES[name]  # the stacked axes, then the contracted ones
        a_shape = (*shape[:cut], lora.rank)
        b_shape = (*shape[:stacked], lora.rank, *shape[cut:])
        key, a_key = jax.random.split(key)
        a = jax.random.normal(a_key, a_shape) / math.sqrt(math.prod(shape[stacked:cut]))
        b_names = (*names[:stacked], None, *names[cut:])
        adapters.setdefault(module, {})[name] = {
            "a": nn.LogicallyPartitioned(a, (*names[:cut], None)),
            "b": nn.LogicallyPartitioned(jnp.zeros(b_shape), b_names),
        }
    return adapters


def module_of(name: str, model: ModelConfig) -> str:
    """The module of a layer that holds this matrix: "attention", "mlp", or "moe" for experts."""
    if name in transformer.CONTRACTED_AXES["attention"]:
        return "attention"
    return "moe" if model.moe else "mlp"


def merge(base: Params, adapters: Params, lora: LoraConfig) -> Params:
    """The parameters with every adapter added to its matrix, in the dtype of `base`."""
    layers = dict(base["layers"])
    for module, matrices in adapters.items():
        layers[module] = dict(layers[module])
        for name, factors in matrices.items():
            weight = layers[module][name]
            product = _product
            for _ in range(STACKED[module]):
                product = jax.vmap(product)
            update = product(factors["a"], factors["b"])
            # Added in fp32: a small update is not lost in a bf16 matrix before it is rounded once.
            added = weight.astype(jnp.float32) + lora.scale * update
            layers[module][name] = added.astype(weight.dtype)
    return {**base, "layers": layers}


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """[*in, r] x [r, *out] -> [*in, *out], of one matrix."""
    return jnp.tensordot(a, b, axes=1)


def adapted(loss: Callable, lora: LoraConfig) -> Callable:
    """A loss (or prepass) over whole parameters as one over adapters.

    Its frozen argument becomes {"base": parameters, "rest": the loss's own frozen}.
    """

    def over_adapters(adapters: Params, batch: Any, frozen: Any) -> Any:
        base = jax.lax.stop_gradient(frozen["base"])
        return loss(merge(base, adapters, lora), batch, frozen["rest"])

    return over_adapters
