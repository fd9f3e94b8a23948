"""One state for every stage: what the optimizer moves, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P


class TrainState(struct.PyTreeNode):
    """`step` counts optimizer steps taken (int32 scalar); a reference or teacher is not in here."""

    step: jax.Array
    params: Any
    opt_state: optax.OptState


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
    elsewhere = NamedSharding(meshes.pop(), P()) if meshes else leaves[0][1].sharding

    def one(path, leaf):
        names = _names(path)
        tails = ((names[i:], leaf.shape) for i in range(len(names)))
        sharding = next((placed[tail] for tail in tails if tail in placed), elsewhere)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    state = jax.eval_shape(lambda p: create(p, tx), params)
    return jax.tree_util.tree_map_with_path(one, state)


def _names(path: tuple) -> tuple[str, ...]:
    return tuple(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)
