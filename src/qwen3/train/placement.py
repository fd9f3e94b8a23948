"""Placing a batch on the mesh: which rows this process holds, and host rows as global arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from qwen3.mesh import spec


def local_rows(mesh: Mesh, rows: int) -> np.ndarray:
    """The rows of a batch of batch size `rows` that lie on this process's devices, int64, sorted.

    Raises ValueError when the rows do not divide over the mesh's batch axes.
    """
    _check_divides(mesh, rows, "rows", "batch")
    held = np.zeros(rows, bool)
    sharding = NamedSharding(mesh, spec("batch"))
    for index in sharding.addressable_devices_indices_map((rows,)).values():
        assert index is not None, "an addressable device has an index"
        held[index[0]] = True
    return np.flatnonzero(held)


def place(batch: Mapping[str, np.ndarray], mesh: Mesh, rows: int) -> dict[str, jax.Array]:
    """Global arrays of `rows` rows, the batch size, from the rows that `local_rows` names.

    Arrays are [B, T, ...] or [B]; rows lie over the batch axes (data parallel), positions over
    `context`. Raises ValueError when rows or positions do not divide over the mesh, or rows are
    missing.
    """
    held = local_rows(mesh, rows)
    # Row r of the global batch is row local[r] of this process's arrays; -1: another process's.
    local = np.full(rows, -1)
    local[held] = np.arange(len(held))

    def globally(name: str, value: np.ndarray) -> jax.Array:
        if len(value) != len(held):
            raise ValueError(f"{name!r} has {len(value)} rows; this process holds {len(held)}")
        axes = ("batch", "length")[: value.ndim] + (None,) * (value.ndim - 2)
        if value.ndim > 1:
            _check_divides(mesh, value.shape[1], f"positions of {name!r}", "length")

        def shard(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None, "an array with rows is indexed"
            return value[local[index[0]]][:, *index[1:]]

        sharding = NamedSharding(mesh, spec(*axes))
        shape = (rows, *value.shape[1:])
        return jax.make_array_from_callback(shape, sharding, shard, dtype=value.dtype)

    return {name: globally(name, np.asarray(value)) for name, value in batch.items()}


def place_whole(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Global arrays from a batch of which every process has all rows."""
    rows = len(next(iter(batch.values())))
    held = local_rows(mesh, rows)
    return place({name: value[held] for name, value in batch.items()}, mesh, rows)


def _check_divides(mesh: Mesh, size: int, what: str, axis: str) -> None:
    names = spec(axis)[0]
    ways = math.prod(mesh.shape[name] for name in ([names] if isinstance(names, str) else names))
    if size % ways:
        raise ValueError(f"{size} {what} do not divide over {ways} shards of {axis!r}")
