"""Best-fit packing of documents into rows, computed from their lengths alone.

A document longer than a row is cut into full rows and a rest; every other document stays in one
piece, as do rests. ("Fewer Truncations Improve Language Modeling", arXiv 2404.10830)
"""

import dataclasses
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Pieces:
    """Spans of documents, each no longer than a row; all fields are int64 [pieces]."""

    document: np.ndarray  # index of the document
    start: np.ndarray  # its first token in the piece
    length: np.ndarray  # tokens of the piece

    def __len__(self) -> int:
        return len(self.document)

    def take(self, index: np.ndarray | slice) -> "Pieces":
        """The pieces at `index` (int array, mask or slice)."""
        return Pieces(self.document[index], self.start[index], self.length[index])


@dataclasses.dataclass(frozen=True)
class PackedRows:
    """Rows of pieces: row r holds pieces[offsets[r] : offsets[r + 1]], one after the other."""

    pieces: Pieces
    offsets: np.ndarray  # int64 [rows + 1]
    used: np.ndarray  # int64 [rows], tokens of each row

    def __len__(self) -> int:
        return len(self.used)


def cut(documents: np.ndarray, lengths: np.ndarray, capacity: int) -> Pieces:
    """Documents int [n] of `lengths` int [n] tokens -> pieces of at most `capacity` tokens, in
    order.
    """
    counts = -(-lengths // capacity)  # pieces of each document, rounded up
    document = np.repeat(documents, counts)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    start = (np.arange(len(document)) - first) * capacity
    return Pieces(document, start, np.minimum(np.repeat(lengths, counts) - start, capacity))


def best_fit(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """Row of each piece, int64 [pieces]: longest first, into the fullest open row that has room.

    Open rows are stacked by free space. The bits of one integer say which spaces have a row, so the
    tightest fit is its lowest set bit at or above the length.
    """
    rows = np.empty(len(lengths), np.int64)
    full = np.flatnonzero(lengths == capacity)
    rows[full] = np.arange(len(full))
    count, spaces = len(full), 0
    open_rows: list[list[int]] = [[] for _ in range(capacity)]
    order = np.argsort(-lengths, kind="stable")[len(full) :]
    placed = []
    for length in lengths[order].tolist():
        fits = spaces >> length
        if fits:
            space = length + (fits & -fits).bit_length() - 1  # x & -x is the lowest set bit
            stack = open_rows[space]
            row = stack.pop()
            if not stack:
                spaces ^= 1 << space
        else:
            row, space = count, capacity
            count += 1
        placed.append(row)
        if left := space - length:
            if not open_rows[left]:
                spaces |= 1 << left
            open_rows[left].append(row)
    rows[order] = np.array(placed, np.int64)
    return rows


def pack(pieces: Pieces, capacity: int, shuffle: Callable[[int], np.ndarray]) -> PackedRows:
    """Pieces -> packed rows. `shuffle(count)` is the order of the rows (a permutation); within a
    row pieces keep their order.
    """
    row = best_fit(pieces.length, capacity)
    count = int(row.max(initial=-1)) + 1
    row = shuffle(count)[row]
    used = np.bincount(row, weights=pieces.length, minlength=count).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=count))])
    return PackedRows(pieces.take(np.argsort(row, kind="stable")), offsets, used)
