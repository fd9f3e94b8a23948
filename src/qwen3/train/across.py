"""Values and arrays of meshes in which some processes have no device.

JAX runs a program of such a mesh in every process, in those without its devices as nothing: all
processes take the same steps. What they cannot do is read a result, or have an array go to devices
of other processes. `read` and `move` do; all processes must call them alike.
"""

from __future__ import annotations

import base64
import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from qwen3 import hosts

PIECE = 1 << 28  # bytes of an array, at most, that every device holds while it moves


def read(values: Any) -> Any:
    """A tree of arrays as NumPy arrays, in every process. Arrays of a mesh over several processes
    must be `replicated`.

    Where a process has no device of an array's mesh, the first one that has tells its value.
    """
    processes = holders(values)
    if len(processes) == jax.process_count():
        return jax.device_get(values)
    text = hosts.decided(lambda: _packed(jax.device_get(values)), min(processes))
    return pickle.loads(base64.b64decode(text))


def replicated(value: jax.Array) -> jax.Array:
    """The array whole on each device of its mesh; itself where one process has them all."""
    if jax.process_count() == 1:
        return value
    return _program(_same, NamedSharding(_mesh(value.sharding), P()))(value)


def computed(value: jax.Array) -> bool:
    """Whether the value is there, as process 0 sees it: the same answer in every process."""
    pending: Any = value  # its stub does not name is_ready
    return hosts.decided(lambda: "yes" if pending.is_ready() else "") == "yes"


def alone() -> AbstractContextManager:
    """In the block each process computes for itself, on a device of its own."""
    if jax.process_count() == 1:
        return nullcontext()
    return jax.set_mesh(Mesh(np.array(jax.local_devices()[:1], dtype=object), "device"))


def holders(tree: Any) -> set[int]:
    """Processes that have devices of the meshes of all arrays, or templates of arrays, in a tree.
    Arrays that are committed to no device are on each process's own.
    """
    processes = set(range(jax.process_count()))
    if len(processes) > 1:
        for leaf in jax.tree.leaves(tree):
            sharding = getattr(leaf, "sharding", None)
            if sharding is not None and getattr(leaf, "committed", True):
                processes &= _processes(sharding)
    return processes


def place(values: Any, sharding: NamedSharding) -> Any:
    """Arrays from a tree of NumPy arrays that every process has. (`jax.device_put` would compare
    them in a collective; an array of a process's own device crashes JAX 0.10 where it goes into a
    program of a single device of another process.)
    """

    def array(value: np.ndarray) -> jax.Array:
        value = np.asarray(value)
        return jax.make_array_from_callback(
            value.shape, sharding, lambda index: value[index], dtype=value.dtype
        )

    return jax.tree.map(array, values)


def absent(template: jax.ShapeDtypeStruct) -> jax.Array:
    """The array of a template, in a process that has no device of its mesh."""
    return jax.make_array_from_single_device_arrays(
        template.shape, template.sharding, [], dtype=template.dtype
    )


@cache
def _processes(sharding: Any) -> frozenset[int]:
    return frozenset(device.process_index for device in sharding.device_set)


def _packed(values: Any) -> str:
    return base64.b64encode(pickle.dumps(values)).decode()


def move(arrays: Any, shardings: Any) -> Any:
    """The arrays of a tree where the NamedShardings of another one want them, on any devices.

    To devices of other processes they go in pieces of PIECE bytes, which all devices of both meshes
    receive whole: each chip of a large mesh needs room for one of them, not for the array.
    """
    return jax.tree.map(_moved, arrays, shardings)


def _moved(array: Any, sharding: NamedSharding) -> jax.Array:
    local = jax.process_count() == 1 or not isinstance(array, jax.Array)
    if local or array.sharding.device_set == sharding.device_set:
        return jax.device_put(array, sharding)
    rows = len(array) if array.ndim else 1
    step = max(1, rows * PIECE // max(array.nbytes, 1))
    if rows <= step:
        return _sent(array, sharding)
    piece = NamedSharding(sharding.mesh, P(None, *sharding.spec[1:]))
    cuts = range(0, rows, step)
    whole = NamedSharding(_mesh(array.sharding), P())
    parts = [
        _sent(_program(_rows, whole, count=min(step, rows - start))(array, start), piece)
        for start in cuts
    ]
    return _program(jnp.concatenate, sharding)(parts)


def _sent(array: jax.Array, sharding: NamedSharding) -> jax.Array:
    """The array from the first device of its mesh to all of the target's, each of which then keeps
    its part. It travels as integers, whose sum with zeros is exact for every bit pattern.
    """
    shape, words = array.shape, np.dtype(f"uint{8 * array.dtype.itemsize}")
    source, target = _mesh(array.sharding), sharding.mesh
    given = _program(_as_words, NamedSharding(source, P()))(array)
    devices = [*source.devices.flat, *target.devices.flat]
    parts = {shard.device: shard.data for shard in given.addressable_shards}
    for device in devices:
        if device.process_index == jax.process_index() and device not in parts:
            parts[device] = jax.device_put(np.zeros((1, *shape), words), device)
    both = Mesh(np.array(devices, dtype=object), "device")
    stacked = jax.make_array_from_single_device_arrays(
        (len(devices), *shape), NamedSharding(both, P("device")), list(parts.values()), dtype=words
    )
    received = _program(_first, NamedSharding(both, P()))(stacked)
    own = {shard.device: shard.data for shard in received.addressable_shards}
    whole = jax.make_array_from_single_device_arrays(
        shape,
        NamedSharding(target, P()),
        [own[device] for device in target.devices.flat if device in own],
        dtype=words,
    )
    return _program(_from_words, sharding, dtype=array.dtype)(whole)


def _mesh(sharding: Any) -> Mesh:
    """The mesh of an array; that of its one device where its sharding tells of no mesh."""
    if isinstance(sharding, NamedSharding):
        assert isinstance(sharding.mesh, Mesh), sharding
        return sharding.mesh
    (device,) = sharding.device_set
    return Mesh(np.array([device], dtype=object), "device")


@cache
def _program(function: Callable[..., jax.Array], out: NamedSharding, **options: Any) -> Callable:
    """The jitted function, whose result lies as `out` says, run with its mesh ambient."""
    jitted = jax.jit(partial(function, **options), out_shardings=out)

    mesh = _mesh(out)

    def call(*arguments: Any) -> jax.Array:
        with jax.set_mesh(mesh):
            return jitted(*arguments)

    return call


def _same(array: jax.Array) -> jax.Array:
    return array


def _first(arrays: jax.Array) -> jax.Array:
    return arrays[0]


def _rows(array: jax.Array, start: int, *, count: int) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(array, start, count)


def _as_words(array: jax.Array) -> jax.Array:
    if array.dtype == bool:
        return array.astype(jnp.uint8)[None]
    return jax.lax.bitcast_convert_type(array, f"uint{8 * array.dtype.itemsize}")[None]


def _from_words(words: jax.Array, *, dtype: Any) -> jax.Array:
    if np.dtype(dtype).kind == "b":
        return words.astype(bool)
    return jax.lax.bitcast_convert_type(words, dtype)
