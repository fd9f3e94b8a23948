"""Where rollouts are sampled: on the training mesh, on another mesh of the same devices, or on
devices of their own; and how the weights get there.

A mesh that trains well decodes badly: ZeRO-3 gathers all weights over "fsdp" for every token.
Tensor and expert axes divide the weights of a sampler for good, its data axis copies them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
from jax.sharding import Mesh

from qwen3 import mesh as meshes
from qwen3.config import MeshConfig
from qwen3.mesh import make_mesh
from qwen3.model import transformer
from qwen3.model.sizes import ModelConfig
from qwen3.train import across
from qwen3.train.state import TrainState


def training_devices(rollout_devices: int, teacher_devices: int = 0) -> list[Any] | None:
    """Devices of the training mesh: all but the last `rollout_devices`, and of the others all but
    the last `teacher_devices`; None for all.

    Raises ValueError where none would be left.
    """
    apart = {"rollout_devices": rollout_devices, "teacher_devices": teacher_devices}
    count = sum(apart.values())
    if not count:
        return None
    devices, named = jax.devices(), " and ".join(f"{k} {v}" for k, v in apart.items() if v)
    if count >= len(devices):
        raise ValueError(f"{named} of {len(devices)} devices leave none to train on")
    return devices[:-count]


def rollout_mesh(
    settings: MeshConfig | None, rollout_devices: int, training: Mesh, model: ModelConfig
) -> Mesh:
    """The mesh that samples with a `model`: `training` itself where neither setting is given.

    On devices of its own the default is data parallel. Raises ValueError, in one line, for a mesh
    that the devices do not fill, that divides positions, or that the model does not divide over.
    """
    if settings is None and not rollout_devices:
        return training
    own = jax.devices()[-rollout_devices:] if rollout_devices else None
    devices = own or sorted(training.devices.flat, key=lambda device: device.id)
    settings = settings or MeshConfig(data=-1, fsdp=1)
    try:
        mesh = make_mesh(settings, devices)
        if mesh.shape["context"] > 1:
            raise ValueError(
                f"generation does not divide positions: context {mesh.shape['context']}"
            )
        _shardings(model, mesh)
    except ValueError as error:
        raise ValueError(f"rollout_mesh: {error}") from None
    return mesh


@cache
def _shardings(model: ModelConfig, mesh: Mesh) -> Any:
    return meshes.shardings_of(transformer.abstract(model), mesh)


def _cast(params: Any, dtype: Any) -> Any:
    """The weights in `dtype`; themselves where they are in it, on whatever mesh they lie."""
    if all(leaf.dtype == dtype for leaf in jax.tree.leaves(params)):
        return params
    return _casting(params, dtype=dtype)


@partial(jax.jit, static_argnames="dtype")
def _casting(params: Any, *, dtype: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(dtype), params)


class WeightHandover:
    """The trainer's weights on the sampler's mesh: cast to its dtype, then moved, once an update.

    The moved copy is kept until `metrics` is read, for the engines of a phase's rounds.
    """

    def __init__(self, mesh: Mesh, dtype: Any):
        self._mesh, self._dtype = mesh, dtype
        self._moved: tuple[Any, Any] | None = None  # (what they are, weights)
        self._seconds = 0.0

    def __call__(
        self, model: ModelConfig, params_of: Callable[[TrainState], Any], state: TrainState
    ) -> Any:
        """The weights params_of(state) of a `model`, on the sampler's mesh."""
        key = (params_of, state.steps)
        if self._moved is None or self._moved[0] != key:
            params = jax.block_until_ready(params_of(state))
            start = time.perf_counter()
            moved = across.move(_cast(params, self._dtype), _shardings(model, self._mesh))
            self._moved = (key, jax.block_until_ready(moved))
            self._seconds += time.perf_counter() - start
        return self._moved[1]

    def metrics(self) -> dict[str, float]:
        """{"reshard_seconds": spent since the last call}; the copy is let go."""
        seconds, self._seconds, self._moved = self._seconds, 0.0, None
        return {"reshard_seconds": seconds}
