"""The five mesh axes, where each logical name goes, and how arrays are placed.

The axes always exist, size 1 when unused: one code path from one CPU to a pod. The mesh is
ambient (`with jax.set_mesh(mesh):`); without one, `constrain` does nothing.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from qwen3.config import MeshConfig

AXES = ("data", "fsdp", "context", "expert", "tensor")
BATCH_AXES = ("data", "fsdp", "expert")

RULES: dict[str | None, str | tuple[str, ...] | None] = {
    # weights
    "vocab": "tensor",
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
    "experts": "expert",
    "layers": None,
    "norm": None,
    # activations
    "batch": BATCH_AXES,
    "length": "context",
    "act_embed": None,
    "act_heads": "tensor",
    "act_mlp": "tensor",
    "act_vocab": "tensor",
    None: None,
}


def make_mesh(config: MeshConfig = MeshConfig(), devices: Any = None) -> Mesh:
    """A mesh of all `devices` (default: all there are), every axis AxisType.Auto.

    Raises ValueError when the axes' sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = [getattr(config, axis) for axis in AXES]
    if any(size != -1 and size < 1 for size in sizes) or sizes.count(-1) > 1:
        raise ValueError(f"mesh {config}: sizes are at least 1, and one of them may be -1")
    known = math.prod(size for size in sizes if size != -1)
    if -1 in sizes and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if math.prod(sizes) != len(devices):
        named = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
        raise ValueError(
            f"a mesh of {named} needs {known if -1 in sizes else math.prod(sizes)} devices "
            f"(or a multiple, with one axis -1); there are {len(devices)}"
        )
    if devices and devices[0].platform == "tpu":
        from jax.experimental import mesh_utils

        grid = mesh_utils.create_device_mesh(sizes, devices=devices, allow_split_physical_axes=True)
    else:
        grid = np.asarray(devices, dtype=object).reshape(sizes)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def spec(*names: str | None) -> P:
    """Partition of an array whose axes bear these logical names."""
    return P(*(RULES[name] for name in names))


def ambient_sizes() -> dict[str, int]:
    """Axis sizes of the ambient mesh; empty without one."""
    mesh = jax.sharding.get_abstract_mesh()
    return {} if mesh.empty else dict(mesh.shape)


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """Place an activation by its logical axis names; outside a mesh, x itself."""
    sizes = ambient_sizes()
    if math.prod(sizes.values()) <= 1:
        return x
    return jax.lax.with_sharding_constraint(x, spec(*names))


def shardings_of(boxed: Any, mesh: Mesh) -> Any:
    """NamedShardings for a tree of logically named leaves (what `model.transformer.abstract` gives)

    Raises ValueError naming the parameter whose axis the mesh does not divide.
    """

    def one(path, leaf):
        names = leaf.names if isinstance(leaf, nn.LogicallyPartitioned) else ()
        value = leaf.value if isinstance(leaf, nn.LogicallyPartitioned) else leaf
        partition = spec(*names)
        for size, axes, name in zip(value.shape, partition, names, strict=False):
            ways = math.prod(mesh.shape[a] for a in _tuple(axes))
            if size % ways:
                raise ValueError(
                    f"{jax.tree_util.keystr(path)}: axis {name!r} of {size} does not divide over "
                    f"{'x'.join(_tuple(axes))} of {ways}"
                )
        return NamedSharding(mesh, partition)

    return jax.tree_util.tree_map_with_path(
        one, boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned)
    )


def _tuple(axes: Any) -> tuple[str, ...]:
    return () if axes is None else (axes,) if isinstance(axes, str) else tuple(axes)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """[batch, length] arrays: rows over data, fsdp and expert, positions over context."""
    return NamedSharding(mesh, spec("batch", "length"))


def platform(mesh: Mesh | None = None) -> str:
    """The kind of the mesh's devices, which need not be this process's: "cpu", "tpu" or "gpu"."""
    device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
    return {"cuda": "gpu", "rocm": "gpu"}.get(device.platform, device.platform)


def gathered(w: jax.Array, dtype: Any, *names: str | None) -> jax.Array:
    """A weight at its use: cast first, then gathered over fsdp, so that half the bytes travel."""
    return constrain(w.astype(dtype), *(None if name == "embed" else name for name in names))
