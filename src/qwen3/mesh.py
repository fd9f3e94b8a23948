"""The five mesh axes, the axis that each logical name is sharded over, and how arrays are placed.

Data parallelism is "data" and "fsdp", tensor parallelism "tensor", expert parallelism "expert" and
context parallelism "context". The axes always exist, with size 1 when unused: one code path from
one CPU to a pod. The mesh is ambient (`with jax.set_mesh(mesh):`); without one, `constrain` does
nothing.
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
    """A mesh of `devices` (default: every device of every process), each axis AxisType.Auto.

    Devices of several TPU slices are split along "data": slices are connected by the data-centre
    network, and data parallelism has the least to send. Raises ValueError when the sizes of the
    axes do not multiply to the number of devices, or "data" not to that of the slices.
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
        grid = _tpu_grid(sizes, devices)
    else:
        grid = np.asarray(devices, dtype=object).reshape(sizes)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _tpu_grid(sizes: list[int], devices: list) -> np.ndarray:
    """TPU devices in an array of these sizes, neighbours along an axis near each other."""
    from jax.experimental import mesh_utils

    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return mesh_utils.create_device_mesh(sizes, devices=devices, allow_split_physical_axes=True)
    if sizes[0] % slices:
        raise ValueError(
            f"a mesh over {slices} slices has data={slices} or a multiple of it, not data="
            f"{sizes[0]}: only data parallelism goes over the network between slices"
        )
    across = [slices] + [1] * (len(sizes) - 1)
    return mesh_utils.create_hybrid_device_mesh(
        [sizes[0] // slices, *sizes[1:]], across, devices, allow_split_physical_axes=True
    )


def spec(*names: str | None) -> P:
    """PartitionSpec of an array whose axes have these logical names."""
    return P(*(RULES[name] for name in names))


def axes_of(name: str | None) -> tuple[str, ...]:
    """The mesh axes that a logical name is sharded over."""
    axes = RULES[name]
    return () if axes is None else (axes,) if isinstance(axes, str) else axes


def ambient_sizes() -> dict[str, int]:
    """Axis sizes of the ambient mesh; {} without one."""
    mesh = jax.sharding.get_abstract_mesh()
    return {} if mesh.empty else dict(mesh.shape)


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """x sharded by its logical axis names; x itself outside a mesh or on one device."""
    sizes = ambient_sizes()
    if math.prod(sizes.values()) <= 1:
        return x
    return jax.lax.with_sharding_constraint(x, spec(*names))


def shardings_of(boxed: Any, mesh: Mesh) -> Any:
    """NamedShardings of a tree of logically named leaves, as `model.transformer.abstract` gives it.

    Raises ValueError naming the parameter whose axis the mesh does not divide.
    """

    def sharding(path: tuple, leaf: Any) -> NamedSharding:
        names = leaf.names if isinstance(leaf, nn.LogicallyPartitioned) else ()
        value = leaf.value if isinstance(leaf, nn.LogicallyPartitioned) else leaf
        for size, name in zip(value.shape, names, strict=False):
            ways = math.prod(mesh.shape[axis] for axis in axes_of(name))
            if size % ways:
                raise ValueError(
                    f"{jax.tree_util.keystr(path)}: axis {name!r} of {size} does not divide over "
                    f"{'x'.join(axes_of(name))} of {ways}"
                )
        return NamedSharding(mesh, spec(*names))

    return jax.tree_util.tree_map_with_path(
        sharding, boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned)
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Sharding of [batch, length] arrays: rows over data, fsdp, expert; positions over context."""
    return NamedSharding(mesh, spec("batch", "length"))


def platform(mesh: Mesh | None = None) -> str:
    """Platform of the mesh's devices, "cpu", "tpu" or "gpu"; it need not be this process's own."""
    device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
    return {"cuda": "gpu", "rocm": "gpu"}.get(device.platform, device.platform)


def gathered(w: jax.Array, dtype: Any, *names: str | None) -> jax.Array:
    """A weight at its use: cast to `dtype`, then gathered over fsdp, so that half the bytes travel.

    `names` are its logical axis names; only "embed" is sharded over fsdp.
    """
    return constrain(w.astype(dtype), *(None if name == "embed" else name for name in names))
