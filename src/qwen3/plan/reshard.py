"""The handover of weights from the trainer's mesh to the sampler's: bytes and predicted seconds.

What `stages.rollout_layout.WeightHandover` and the engine's `place` do, counted from the shardings:
no program moves arrays between meshes whose devices stand in another order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from qwen3 import mesh as meshes
from qwen3.model import transformer
from qwen3.model.sizes import ModelConfig
from qwen3.plan import predict
from qwen3.plan.chips import Chip

RESHARD_METHOD = (
    "reshard: cast in place (fp32 read, the sampler's dtype written), what a device lacks of its "
    "part of the sampler's layout received over all links one way, and the engine's copy (read and "
    "written), one after the other, at the shares of HBM and links above; of the device that "
    "receives most"
)


@dataclass(frozen=True)
class Handover:
    """Bytes of the device that receives most."""

    stored: float  # of the trainer's fp32 parameters
    placed: float  # of the sampler's parameters, in its dtype
    received: float  # of those, from other devices

    def seconds(self, chip: Chip, itemsize: int) -> float:
        """Predicted seconds. itemsize: bytes of the sampler's dtype."""
        cast = self.stored * (1 + itemsize / 4)
        memory = (cast + 2 * self.placed) / (predict.MEMORY * chip.per_device("bandwidth"))
        return memory + self.received / (predict.LINKS * chip.per_device("ici"))


def handover(model: ModelConfig, dtype: Any, trainer: Mesh, sampler: Mesh) -> Handover:
    """The bytes of one handover of a `model` in `dtype` between two meshes of the same devices."""
    boxed = transformer.abstract(model)
    pairs = zip(
        jax.tree.leaves(meshes.shardings_of(boxed, trainer)),
        jax.tree.leaves(meshes.shardings_of(boxed, sampler)),
        jax.tree.leaves(boxed),
        strict=True,
    )
    size = jnp.dtype(dtype).itemsize
    stored, placed = 0.0, 0.0
    received = dict.fromkeys(sampler.devices.flat, 0.0)
    for source, target, leaf in pairs:
        stored += 4.0 * math.prod(source.shard_shape(leaf.shape))
        placed += float(size * math.prod(target.shard_shape(leaf.shape)))
        for device, lacking in _lacking(source, target, leaf.shape).items():
            received[device] += size * lacking
    return Handover(stored, placed, max(received.values()))


def _lacking(source: NamedSharding, target: NamedSharding, shape: tuple[int, ...]) -> dict:
    """Elements of each device's part under `target` that are not in its part under `source`."""
    before = source.devices_indices_map(shape)
    return {
        device: _elements(after, after, shape) - _elements(before[device], after, shape)
        for device, after in target.devices_indices_map(shape).items()
    }


def _elements(a: Any, b: Any, shape: tuple[int, ...]) -> int:
    """Elements that two parts of an array have in common; a part is a slice of each axis."""
    common = 1
    for one, other, length in zip(a, b, shape, strict=True):
        first, last = zip(one.indices(length)[:2], other.indices(length)[:2], strict=True)
        common *= max(min(last) - max(first), 0)
    return common
