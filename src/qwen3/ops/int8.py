"""Arrays stored as int8: multiples of a scale that each vector has of its own.

scale = the vector's largest magnitude / 127, and each number is rounded to the nearest multiple, so
that it is off by half a scale at most. Scales are in fp32: beside a head of 128 numbers bfloat16
would save another 1.5% of the bytes, and round what is multiplied with it. They keep the axes of
the numbers, so that whatever cuts, copies or shards the axes of one does the same to the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

INT8 = "int8"  # the name of this form where a dtype is named
LARGEST = 127


class Int8(NamedTuple):
    """The array numbers * scales."""

    numbers: jax.Array  # int8
    scales: jax.Array  # fp32, of size 1 along the axes of a vector


Stored: TypeAlias = jax.Array | Int8  # a float array, or one in int8


def zeros(shape: Sequence[int], dtype: Any, axis: int) -> Stored:
    """Zeros of a dtype; for "int8" with a scale for each vector along `axis`."""
    if dtype != INT8:
        return jnp.zeros(shape, dtype)
    scales = list(shape)
    scales[axis] = 1
    return Int8(jnp.zeros(shape, jnp.int8), jnp.zeros(scales, jnp.float32))


def quantise(x: jax.Array, axis: int | Sequence[int]) -> Int8:
    """x with a scale for each vector along `axis`. A vector that is not finite has a scale that is
    not either, so that the error is not lost.
    """
    x = x.astype(jnp.float32)
    axes = axis if isinstance(axis, int) else tuple(axis)
    scales = jnp.max(jnp.abs(x), axis=axes, keepdims=True) / LARGEST
    numbers = jnp.round(x / jnp.where(scales == 0, 1.0, scales))
    return Int8(numbers.astype(jnp.int8), scales)


def like(stored: Stored, x: jax.Array, axis: int) -> Stored:
    """x as `stored` is: quantised along `axis`, or itself."""
    return quantise(x, axis) if isinstance(stored, Int8) else x


def dequantise(stored: Stored, dtype: Any) -> jax.Array:
    """What is stored as int8, in `dtype`; a float array as it is."""
    if not isinstance(stored, Int8):
        return stored
    return (stored.numbers * stored.scales).astype(dtype)


def factor(stored: Stored, dtype: Any) -> tuple[jax.Array, jax.Array | None]:
    """(keys or values as a factor of a product, scales of its other factor or result [.., S]): the
    numbers in `dtype`, which holds them exactly, and [.., 1, S]; a float array as it is, and None.
    """
    if not isinstance(stored, Int8):
        return stored, None
    *leading, _, _ = stored.scales.shape  # [.., 1, S] or [.., S, 1]
    return stored.numbers.astype(dtype), stored.scales.reshape(*leading, 1, -1)


def scaled(x: jax.Array, scales: jax.Array | None) -> jax.Array:
    """x * scales; x itself where there are none."""
    return x if scales is None else x * scales
