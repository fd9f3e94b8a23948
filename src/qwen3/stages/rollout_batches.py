"""Rollouts as batches on the mesh, and values of a batch back to the tokens they belong to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from qwen3.data import rows
from qwen3.data.rows import TokenSequence
from qwen3.infer.compiled import batch_ways
from qwen3.train import across
from qwen3.train.placement import place_whole


@dataclass(frozen=True)
class BatchRows:
    """Rows of the batches that sequences are packed into, and their microbatches.

    A packed batch has fewer rows than sequences, and as many fewer microbatches: none is of padding
    alone, and none has more rows than those of the largest batch.
    """

    most: int  # rows of the largest batch
    parts: int  # microbatches of the largest batch
    ways: int  # what the mesh divides rows by

    def rows(self, packed: int) -> int:
        """The rows of the batch for `packed` rows with sequences."""
        return rows.round_up(packed, self.ways, self.most)

    def microbatches(self, count: int) -> int:
        """Microbatches of a batch of `count` rows, each divided over the mesh."""
        least = min(-(-count * self.parts // self.most), count // self.ways)
        return next(n for n in range(least, count + 1) if count % (n * self.ways) == 0)


class RolloutBatches:
    """Sequences -> batches of rows of `length`, in few different numbers of rows.

    most: sequences that a batch can have, at most, which are computed in `microbatches` parts.
    also: another mesh over which the rows of a microbatch have to divide.
    """

    def __init__(
        self,
        mesh: Mesh,
        length: int,
        *,
        most: int,
        microbatches: int,
        pad: int,
        also: Mesh | None = None,
    ):
        self._mesh, self._length, self._most, self._pad = mesh, length, most, pad
        self.wait: Callable[[jax.Array], None] = lambda value: None  # until it is computed
        ways = math.lcm(batch_ways(mesh), batch_ways(also or mesh))
        self._rounding = BatchRows(most, microbatches, ways)

    @property
    def microbatches(self) -> Callable[[int], int]:
        """The number of parts that a batch of some rows is computed in."""
        return self._rounding.microbatches

    def batch(self, sequences: Sequence[TokenSequence], **by_row: float) -> dict:
        """The batch, packed best-fit. by_row: values that are the same for every row, [B]."""
        where = rows.layout([len(sequence) for sequence in sequences], self._length)
        count = self._rounding.rows(where.rows)
        batch = rows.fill(sequences, where, self._length, pad=self._pad, rows=count)
        batch |= {name: np.full(count, value, np.float32) for name, value in by_row.items()}
        return place_whole(batch, self._mesh)

    def values(
        self, function: Callable, params: Any, sequences: Sequence[TokenSequence]
    ) -> list[np.ndarray]:
        """function(params, batch) -> [B, T], read back for each sequence of n tokens as [n]."""
        value = function(params, self.batch(sequences))
        self.wait(value)
        return [fields["value"] for fields in self.read_back({"value": value}, sequences)]

    def read_back(
        self, values: Mapping[str, jax.Array], sequences: Sequence[TokenSequence]
    ) -> list[dict[str, np.ndarray]]:
        """Values by name, [B, T, ...] of the batch of `sequences`, as [n, ...] of each of them."""
        where = rows.layout([len(sequence) for sequence in sequences], self._length)
        arrays = across.read({name: across.replicated(v) for name, v in values.items()})
        columns = [rows.read_back(v, sequences, where) for v in arrays.values()]
        return [dict(zip(values, row, strict=True)) for row in zip(*columns, strict=True)]
