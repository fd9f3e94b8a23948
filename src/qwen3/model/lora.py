"""Low-rank adapters (LoRA, arXiv 2106.09685): train r-wide factors instead of whole matrices.

A matrix W [*in, *out] of every layer becomes W + (alpha / rank) A B with A [*in, rank] and
B [rank, *out]. Only A and B are trained, so gradients and the optimizer's state are small; B starts
at 0, so training starts from the model as it is. `merge` gives the whole matrices again: it is used
in the loss, for rollouts and on export, so there is one forward pass for both.
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

# Module and matrix of one layer, and how many axes of the matrix are contracted.
MATRICES = {
    name: (module, inputs)
    for module, matrices in transformer.CONTRACTED_AXES.items()
    for name, inputs in matrices.items()
}


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

    {module: {matrix: {"a": [L, *in, r], "b": [L, r, *out]}}}, without logical names.
    """
    return nn.meta.unbox(_declare(lora, model, key))


def abstract(lora: LoraConfig, model: ModelConfig) -> Params:
    """Shapes of the adapters with logical axis names, for `mesh.shardings_of`."""
    return jax.eval_shape(lambda key: _declare(lora, model, key), jax.random.key(0))


def _declare(lora: LoraConfig, model: ModelConfig, key: jax.Array) -> Params:
    layers = transformer.abstract(model)["layers"]
    adapters: dict[str, dict[str, Any]] = {}
    for name in lora.targets:
        module, inputs = MATRICES[name]
        if module not in layers:
            raise ValueError(
                f"{model.name} has no {module!r} matrices for LoRA target {name!r}: a mixture of "
                "experts takes adapters on its attention only"
            )
        boxed = layers[module][name]
        shape, names = boxed.value.shape, boxed.names
        cut = 1 + inputs  # the stacked layers, then the contracted axes
        a_shape, b_shape = (*shape[:cut], lora.rank), (shape[0], lora.rank, *shape[cut:])
        key, a_key = jax.random.split(key)
        a = jax.random.normal(a_key, a_shape) / math.sqrt(math.prod(shape[1:cut]))
        adapters.setdefault(module, {})[name] = {
            "a": nn.LogicallyPartitioned(a, (*names[:cut], None)),
            "b": nn.LogicallyPartitioned(jnp.zeros(b_shape), (names[0], None, *names[cut:])),
        }
    return adapters


def merge(base: Params, adapters: Params, lora: LoraConfig) -> Params:
    """The parameters with every adapter added to its matrix, in the dtype of `base`."""
    layers = dict(base["layers"])
    for module, matrices in adapters.items():
        layers[module] = dict(layers[module])
        for name, factors in matrices.items():
            weight = layers[module][name]
            update = jax.vmap(_product)(factors["a"], factors["b"])
            # Added in fp32: a small update is not lost in a bf16 matrix before it is rounded once.
            added = weight.astype(jnp.float32) + lora.scale * update
            layers[module][name] = added.astype(weight.dtype)
    return {**base, "layers": layers}


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """[*in, r] x [r, *out] -> [*in, *out], of one layer."""
    return jnp.tensordot(a, b, axes=1)


def adapted(loss: Callable, lora: LoraConfig) -> Callable:
    """A loss (or prepass) over whole parameters as one over adapters.

    Its frozen argument becomes {"base": parameters, "rest": the loss's own frozen}.
    """

    def over_adapters(adapters: Params, batch: Any, frozen: Any) -> Any:
        base = jax.lax.stop_gradient(frozen["base"])
        return loss(merge(base, adapters, lora), batch, frozen["rest"])

    return over_adapters
