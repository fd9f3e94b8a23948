"""Batches on their way to the devices: read ahead in a thread, placed on the mesh."""

from __future__ import annotations

import contextlib
import math
import queue
import threading
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from qwen3.mesh import spec


class Prefetch:
    """source[first], source[first + 1], ... up to `until`, the next one read while one is used.

    An exception of the source is raised by the `next` that would have returned its batch.
    """

    def __init__(self, source: Any, first: int, until: int):
        self._source = source
        self._steps = range(first, until)
        self._ready: queue.Queue = queue.Queue(maxsize=1)
        self._closed = threading.Event()
        # The ambient mesh belongs to a thread; the source shall see the caller's.
        self._mesh = jax.sharding.get_mesh()
        self._thread = threading.Thread(target=self._read, name="prefetch", daemon=True)
        self._thread.start()

    def next(self) -> Any:
        batch, error = self._ready.get()
        if error is not None:
            raise error
        return batch

    def close(self) -> None:
        self._closed.set()
        while self._thread.is_alive():
            try:
                self._ready.get(timeout=0.01)
            except queue.Empty:
                pass

    def _read(self) -> None:
        with contextlib.nullcontext() if self._mesh.empty else jax.set_mesh(self._mesh):
            self._read_all()

    def _read_all(self) -> None:
        for step in self._steps:
            if self._closed.is_set():
                return
            try:
                item = (self._source[step], None)
            except BaseException as error:
                item = (None, error)
            self._ready.put(item)
            if item[1] is not None:
                return


class OnMesh:
    """An indexed source whose batches are placed on the mesh: rows over the batch axes.

    `source[step]` gives numpy arrays of the rows that `local_rows(mesh, rows)` names for this
    process (all `rows` on one process), whole in length.
    """

    def __init__(self, source: Any, mesh: Mesh, rows: int):
        self._source, self._mesh, self._rows = source, mesh, rows

    def __getitem__(self, step: int) -> dict:
        return place(self._source[step], self._mesh, self._rows)


def local_rows(mesh: Mesh, rows: int) -> range:
    """The rows of a batch of `rows` that lie on this process's devices."""
    sharding = NamedSharding(mesh, spec("batch"))
    _divides(mesh, rows, "rows", "batch")
    held = sharding.addressable_devices_indices_map((rows,)).values()
    bounds = [index[0].indices(rows)[:2] for index in held]
    return range(min(low for low, _ in bounds), max(high for _, high in bounds))


def place(batch: dict, mesh: Mesh, rows: int) -> dict:
    """Global arrays of `rows` rows from this process's (see OnMesh).

    Raises ValueError when rows or length do not divide over the mesh, or rows are missing.
    """
    here = local_rows(mesh, rows)

    def one(name: str, value: np.ndarray) -> jax.Array:
        if len(value) != len(here):
            raise ValueError(f"{name!r} has {len(value)} rows; this process holds {here}")
        axes = ("batch", "length")[: value.ndim] + (None,) * (value.ndim - 2)
        if value.ndim > 1:
            _divides(mesh, value.shape[1], f"positions of {name!r}", "length")
        sharding = NamedSharding(mesh, spec(*axes))

        def shard(index: tuple[slice, ...]) -> np.ndarray:
            low, high, _ = index[0].indices(rows)
            return value[(slice(low - here.start, high - here.start), *index[1:])]

        return jax.make_array_from_callback((rows, *value.shape[1:]), sharding, shard)

    return {name: one(name, np.asarray(value)) for name, value in batch.items()}


def _divides(mesh: Mesh, size: int, what: str, axis: str) -> None:
    names = spec(axis)[0]
    ways = math.prod(mesh.shape[name] for name in ([names] if isinstance(names, str) else names))
    if size % ways:
        raise ValueError(f"{size} {what} do not divide over {ways} shards of {axis!r}")
