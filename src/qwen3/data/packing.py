"""Best-fit packing of documents into rows, computed from their lengths alone. ("Fewer Truncations",
arXiv 2404.10830)

A document longer than a row is cut into whole rows and a rest; every other document stays in one
piece, as do rests.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Pieces:
    """Spans of documents, each no longer than a row: document index, first token, tokens; all
    int64 [pieces].
    """

    document: np.ndarray
    start: np.ndarray
    length: np.ndarray

    def __len__(self):
        return len(self.document)

    def take(self, index):
        """The pieces at `index` (int array or mask)."""
        return Pieces(self.document[index], self.start[index], self.length[index])


@dataclasses.dataclass(frozen=True)
class PackedRows:
    """Packed rows: row r holds pieces[offsets[r] : offsets[r + 1]], one after the other; used:
    tokens per row.
    """

    pieces: Pieces
    offsets: np.ndarray
    used: np.ndarray

    def __len__(self):
        return len(self.used)


def cut(documents, lengths, capacity):
    """Documents int [n] of `lengths` int [n] tokens -> Pieces of at most `capacity` tokens, in
    order.
    """
    counts = -(-lengths // capacity)
    document = np.repeat(documents, counts)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    start = (np.arange(len(document)) - first) * capacity
    return Pieces(document, start, np.minimum(np.repeat(lengths, counts) - start, capacity))


def best_fit(lengths, capacity):
    """Row of each piece, int64 [pieces]: longest first, into the fullest open row that still has
    room.

    Open rows are stacked by free space; the bits of one integer say which spaces have a row, so the
    tightest fit is its lowest set bit at or above the length.
    """
    rows = np.empty(len(lengths), np.int64)
    whole = np.flatnonzero(lengths == capacity)
    rows[whole] = np.arange(len(whole))
    count, open_rows, spaces = len(whole), [[] for _ in range(capacity)], 0
    order = np.argsort(-lengths, kind="stable")[len(whole) :]
    placed = []
    for length in lengths[order].tolist():
        fits = spaces >> length
        if fits:
            space = length + (fits & -fits).bit_length() - 1
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


def pack(pieces, capacity, shuffle):
    """Pieces -> Rows. `shuffle(count)` is the order of the rows (a permutation); within a row
    pieces keep their order.
    """
    row = best_fit(pieces.length, capacity)
    count = int(row.max(initial=-1)) + 1
    row = shuffle(count)[row]
    used = np.bincount(row, weights=pieces.length, minlength=count).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=count))])
    return PackedRows(pieces.take(np.argsort(row, kind="stable")), offsets, used)
