"""A trainer's parameters as an engine stores them: layer by layer unless it scans, with matrices
[*out, *in] where that decodes faster, in the compute dtype or, matrices, in int8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from qwen3.model import transformer
from qwen3.model.execution import Execution
from qwen3.model.sizes import ModelConfig
from qwen3.ops import int8
from qwen3.ops.int8 import INT8, Int8


def stored(params: Any, execution: Execution) -> Any:
    """A copy of a trainer's parameters. In int8 an output channel of a matrix has one scale;
    embedding, output matrix and norms stay in the compute dtype.
    """
    # What is rounded to int8 is the trainer's own number.
    dtype = None if execution.weights == INT8 else execution.dtype
    # Copies throughout: the trainer may donate its own arrays in its next step.
    params = jax.tree.map(lambda x: jnp.array(x, dtype, copy=True), params)
    if not execution.scan:
        params = transformer.unstack(params)
    if execution.outputs_first and not execution.scan:
        params = _on_matrices(
            params, lambda w, inputs: jnp.moveaxis(w, range(inputs), range(-inputs, 0))
        )
    if execution.weights != INT8:
        return params

    def quantised(w: jax.Array, inputs: int) -> Int8:
        first = -inputs if execution.outputs_first else int(execution.scan)
        return int8.quantise(w, range(first, first + inputs))

    def finished(x: jax.Array | Int8) -> jax.Array | Int8:
        return x if isinstance(x, Int8) else x.astype(execution.dtype)

    params = _on_matrices(params, quantised)
    return jax.tree.map(finished, params, is_leaf=lambda x: isinstance(x, Int8))


def shardings(trainer: Any, config: ModelConfig, execution: Execution, mesh: Mesh) -> Any:
    """The shardings of stored parameters, of those of a trainer's.

    Raises ValueError for experts, which int8 weights do not have.
    """
    params = trainer
    if not execution.scan:
        # Without the layer axis, which comes first in every spec.
        layer = jax.tree.map(lambda s: NamedSharding(mesh, P(*s.spec[1:])), params["layers"])
        params = {**params, "layers": (layer,) * config.layers}
    if execution.outputs_first and not execution.scan:
        params = _on_matrices(
            params, lambda s, inputs: NamedSharding(mesh, P(*s.spec[inputs:], *s.spec[:inputs]))
        )
    if execution.weights != INT8:
        return params
    if config.moe:
        raise ValueError(
            f"weights {INT8!r}: {config.name} has experts, which are not stored in int8; take "
            "weights '' and, for half the memory of float32, dtype 'bfloat16'"
        )
    replicated: Any = NamedSharding(mesh, P())
    return _on_matrices(params, lambda s, inputs: Int8(s, replicated))


def _on_matrices(params: Any, change: Callable[[Any, int], Any]) -> Any:
    """Parameters, or a tree of their structure, with `transformer.on_matrices` of every layer."""
    layers = params["layers"]
    if isinstance(layers, tuple):
        layers = tuple(transformer.on_matrices(layer, change) for layer in layers)
    else:
        layers = transformer.on_matrices(layers, change)
    return {**params, "layers": layers}
