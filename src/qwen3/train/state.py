"""The train state of every stage: the step, the parameters and the optimizer's state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from qwen3.train import across


class TrainState(struct.PyTreeNode):
    """What the optimizer moves. A reference or a teacher is not in here: they are `frozen`."""

    step: jax.Array  # optimizer steps taken, int32 scalar
    params: Any
    opt_state: optax.OptState

    @property
    def steps(self) -> int:
        """Optimizer steps taken, in every process; all must ask for it alike."""
        return int(across.read(self.step))


def create(params: Any, tx: optax.GradientTransformation) -> TrainState:
    """Step 0 of `params`, in the dtype they have (fp32 masters; compute dtype is cast at use)."""
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))


def fresh(init: Callable[[], Any], tx: optax.GradientTransformation, template: Any) -> TrainState:
    """Initialise on the devices, each shard where `template` (see `abstract`) wants it."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, template)
    return jax.jit(lambda: create(init(), tx), out_shardings=shardings)()


def abstract(params: Any, tx: optax.GradientTransformation) -> TrainState:
    """The state's ShapeDtypeStructs with shardings, from those of `params`: no memory is used.

    A leaf of the optimizer's state that mirrors a parameter (same path, same shape) lies where the
    parameter lies; counters and the like are replicated. Serves restore, `fresh` and `plan`.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    placed = {(_names(path), leaf.shape): leaf.sharding for path, leaf in leaves}
    meshes = {s.mesh for s in placed.values() if isinstance(s, NamedSharding)}
    replicated = NamedSharding(meshes.pop(), P()) if meshes else leaves[0][1].sharding

    def with_sharding(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        # The path of a moment, such as 0.mu.layers.query, ends with its parameter's path.
        names = _names(path)
        tails = ((names[i:], leaf.shape) for i in range(len(names)))
        sharding = next((placed[tail] for tail in tails if tail in placed), replicated)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    state = jax.eval_shape(lambda p: create(p, tx), params)
    return jax.tree_util.tree_map_with_path(with_sharding, state)


def _names(path: tuple) -> tuple[str, ...]:
    return tuple(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)
