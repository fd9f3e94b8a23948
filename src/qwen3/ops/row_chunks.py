"""Flattened token rows in chunks, laid out so that every chunk spans all devices of the batch.

A chunk of *contiguous* rows would live on one device. So the rows are viewed as [P, M/P], P the
number of devices that the batch is spread over, and a chunk takes C rows of each of the P parts:
every device works on every chunk, and its part of the head's gradient stays on it until one
reduction at the end. Without a mesh P is 1 and nothing is moved.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as Spec

from qwen3.mesh import BATCH_AXES, axes_of

_LENGTH_AXES = axes_of("length")
_AXES = {"rows": (*BATCH_AXES, *_LENGTH_AXES), "vocab": axes_of("vocab"), None: ()}
_CHUNK_ELEMENTS = 2**26  # fp32 logits of 256 MiB a device


def default_chunk(vocab: int, tables: int = 1) -> int:
    """Rows of a chunk on one device: as many as 256 MiB of fp32 logits hold, but at least 256.

    tables: tables of logits alive at once (2 for a student and its teacher), among which the rows
    are divided. Every chunk reads and writes the head's gradient once, so on accelerators 1,024
    rows and more are better where memory allows: pass `chunk` there.
    """
    return max(256, _CHUNK_ELEMENTS // vocab) // tables


def _auto_sizes() -> dict[str, int]:
    """Sizes of the ambient mesh's automatic axes; empty without a mesh and inside shard_map."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return {}
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return {name: mesh.shape[name] for name, kind in kinds if kind == AxisType.Auto}


def ways(*axes: str) -> int:
    """Number of devices along these mesh axes; 1 without a mesh and inside shard_map."""
    sizes = _auto_sizes()
    return math.prod(sizes.get(axis, 1) for axis in axes)


def pin(x: jax.Array, *names: str | None) -> jax.Array:
    """Shard x by one name an axis: "rows" over the batch's and the length's mesh axes, "vocab" over
    "tensor", None not at all. An axis whose size does not divide is not sharded.
    """
    sizes = _auto_sizes()
    if math.prod(sizes.values()) <= 1:
        return x
    axes = [tuple(a for a in _AXES[name] if a in sizes) or None for name in names]
    fits = [size % ways(*(a or ())) == 0 for size, a in zip(x.shape, axes, strict=True)]
    spec = Spec(*(a if fit else None for a, fit in zip(axes, fits, strict=True)))
    return jax.lax.with_sharding_constraint(x, spec)


def flatten_rows(x_BT: jax.Array) -> jax.Array:
    """[B, T, ...] -> [M, ...] without moving what is sharded over batch and length.

    With a context axis the rows come part by part rather than in reading order;
    `unflatten_rows` undoes exactly this.
    """
    batch, length, *rest = x_BT.shape
    b, c = _parts(batch, length)
    x = x_BT.reshape(b, batch // b, c, length // c, *rest)
    return jnp.swapaxes(x, 1, 2).reshape(batch * length, *rest)


def unflatten_rows(x_M: jax.Array, batch: int, length: int) -> jax.Array:
    """[M, ...] -> [B, T, ...]: the inverse of `flatten_rows`."""
    b, c = _parts(batch, length)
    x = x_M.reshape(b, c, batch // b, length // c, *x_M.shape[1:])
    return jnp.swapaxes(x, 1, 2).reshape(batch, length, *x_M.shape[1:])


def _parts(batch: int, length: int) -> tuple[int, int]:
    """(parts of the batch, parts of the length): the mesh axes' sizes as far as they divide."""
    return math.gcd(batch, ways(*BATCH_AXES)), math.gcd(length, ways(*_LENGTH_AXES))


def split(tree: Any, chunk: int) -> Any:
    """Each leaf [M, ...] -> [chunks, P, C, ...] with C <= chunk; the last chunk is padded with 0.

    Weights are padded with 0 too, so padded rows add nothing to a weighted sum.
    """
    rows = jax.tree.leaves(tree)[0].shape[0]
    parts = math.gcd(rows, ways(*BATCH_AXES, *_LENGTH_AXES))
    part_rows = rows // parts
    chunks = max(1, math.ceil(part_rows / chunk))
    size = math.ceil(part_rows / chunks)

    def split_leaf(x: jax.Array) -> jax.Array:
        x = x.reshape(parts, part_rows, *x.shape[1:])
        x = jnp.pad(x, [(0, 0), (0, chunks * size - part_rows)] + [(0, 0)] * (x.ndim - 2))
        x = jnp.swapaxes(x.reshape(parts, chunks, size, *x.shape[2:]), 0, 1)
        return pin(x, None, "rows", *(None,) * (x.ndim - 2))

    return jax.tree.map(split_leaf, tree)


def join(tree: Any, rows: int) -> Any:
    """The inverse of `split`: each leaf [chunks, P, C, ...] -> [M, ...]."""

    def join_leaf(x: jax.Array) -> jax.Array:
        chunks, parts, size, *rest = x.shape
        x = jnp.swapaxes(x, 0, 1).reshape(parts, chunks * size, *rest)
        return pin(x[:, : rows // parts].reshape(rows, *rest), "rows", *(None,) * len(rest))

    return jax.tree.map(join_leaf, tree)
