"""The endless rows of one part of a mixture from a sharded corpus: blocks in an order that the seed
fixes, each packed on its own by a `RowStream`.

A round is one pass over all blocks, shuffled. Round n takes of block b the rows from
floor(n m_b + u_b) to floor((n + 1) m_b + u_b) of the block's own endless sequence, with m_b its
tokens (times emphasis) in rows and u_b a phase. So the place of any row follows from 16 bytes a
block; lengths and ids are read of the blocks that a host's rows fall into, and of no others.
"""

import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from qwen3.data.corpora import DocumentTable
from qwen3.data.mixture import (
    LENGTH,
    PERIOD,
    MixturePart,
    Schedule,
    Stage,
    emphasis_factors,
    label_filter,
    permutation,
)
from qwen3.data.sharded_corpus import ShardedCorpus
from qwen3.data.stream import RowStream, Spans

KEPT_BLOCKS = 32  # with their ids, in memory
SCAN = 256  # blocks whose labels are read at a time


class BlockStream:
    """Rows of `part` under `stage`; `row` arguments count from 0 through all rounds.

    A filter or emphasis is summed over all documents once, in pieces: 12 bytes a document and label
    are read. split: None, as no lengths are read. Raises ValueError if filters leave no document.
    """

    split = None

    def __init__(self, corpus: ShardedCorpus, part: MixturePart, stage: Stage, key: Sequence[Any]):
        self._corpus, self._part, self._stage = corpus, part, stage
        self._key = [*key, part.corpus]
        self._rows = _masses(corpus, part) / stage.length
        if not self._rows.any():
            raise ValueError(
                f"stage {stage.name!r}: no document of {corpus.folder} passes "
                f"keep={dict(part.keep)} and emphasis={dict(part.emphasis)}"
            )
        self._phase = permutation([*self._key, "phase"], corpus.blocks) / corpus.blocks
        self._totals: dict[int, int] = {}  # rows before each round
        self._rounds: OrderedDict[int, _Round] = OrderedDict()
        self._streams: OrderedDict[int, _OpenBlock] = OrderedDict()
        self._lock = threading.Lock()

    # A lock cannot be pickled, and a copy in another process opens its own blocks.

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_lock": None, "_streams": OrderedDict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state | {"_lock": threading.Lock()}

    @property
    def first_epoch(self) -> int:
        """Rows of the first round, at least 1."""
        return max(1, self._total(1))

    def progress(self, rows: int) -> tuple[float, int]:
        """(rounds, tokens) of the first `rows` rows, padding included: what it takes of each row
        is known only of blocks that were packed."""
        return rows / float(self._rows.sum()), rows * self._stage.length

    def row(self, row: int) -> tuple[DocumentTable, Spans]:
        """(block, spans in it) of one row of the endless sequence."""
        number, place = self._locate(row)
        return self._open(number).row(place)

    def _locate(self, row: int) -> tuple[int, int]:
        """Row of the endless sequence -> (block, row of that block's own sequence)."""
        with self._lock:
            number = int(row / float(self._rows.sum()))  # right but for the roundings
            while number and self._total(number) > row:
                number -= 1
            while self._total(number + 1) <= row:
                number += 1
            if number not in self._rounds:
                self._rounds[number] = self._shuffled(number)
                while len(self._rounds) > 2:
                    self._rounds.popitem(last=False)
            return self._rounds[number].find(row - self._total(number))

    def _before(self, number: int) -> np.ndarray:
        """int64 [blocks]: rows of each block that the first `number` rounds took."""
        return np.floor(number * self._rows + self._phase).astype(np.int64)

    def _total(self, number: int) -> int:
        if number not in self._totals:
            self._totals[number] = int(self._before(number).sum())
        return self._totals[number]

    def _shuffled(self, number: int) -> "_Round":
        first, last = self._before(number), self._before(number + 1)
        order = permutation([*self._key, "round", number], len(first))
        order = order[last[order] > first[order]]
        return _Round(order, first[order], np.cumsum((last - first)[order]))

    def _open(self, number: int) -> "_OpenBlock":
        with self._lock:
            if number not in self._streams:
                self._streams[number] = _OpenBlock(self, number)
            self._streams.move_to_end(number)
            while len(self._streams) > KEPT_BLOCKS:
                self._streams.popitem(last=False)
            return self._streams[number]

    def stream_of(self, number: int) -> RowStream:
        """The rows of one block."""
        key = [*self._key, "block", number]
        return RowStream(self._corpus.block(number), self._part, self._stage, key)


class BandedStream:
    """The rows of a part whose stage has length bands: a `BlockStream` for each band, whose rows
    alternate by the bands' shares.

    So shares are of rows, and a row holds documents of one band. Raises ValueError for shares of
    documents, for a filter by length besides, and for a band without a document.
    """

    split = None

    def __init__(self, corpus: ShardedCorpus, part: MixturePart, stage: Stage, key: Sequence[Any]):
        assert stage.lengths is not None
        if stage.lengths.unit != "tokens":
            raise ValueError(
                f"stage {stage.name!r}: shares of {stage.lengths.unit}: length bands of a sharded "
                "corpus are shares of tokens"
            )
        if LENGTH in part.keep:
            raise ValueError(f"stage {stage.name!r}: length bands and keep={dict(part.keep)}")
        bands, plain = stage.lengths.bands, dataclasses.replace(stage, lengths=None)
        self._streams = []
        for number, (low, high, _) in enumerate(bands):
            # A length in several bands belongs to the first; what is longer than a row is cut.
            firsts = [first for first, _, _ in bands[:number] if low < first <= high]
            highest = min([high, *(first - 1 for first in firsts)])
            keep = {**part.keep, LENGTH: (low, None if highest >= stage.length else highest)}
            kept = dataclasses.replace(part, keep=keep)
            self._streams.append(BlockStream(corpus, kept, plain, [*key, "band", number]))
        self._schedule = Schedule([share for _, _, share in bands])

    def row(self, row: int) -> tuple[DocumentTable, Spans]:
        """As `BlockStream.row`."""
        band, number = self._schedule[row]
        return self._streams[band].row(number)

    @property
    def first_epoch(self) -> int:
        """Rows until the scarcest band was read once."""
        shares = self._schedule.quotas / PERIOD
        pairs = zip(self._streams, shares, strict=True)
        return max(1, int(min(stream.first_epoch / share for stream, share in pairs)))

    def progress(self, rows: int) -> tuple[float, int]:
        """(rounds of the scarcest band, tokens with padding) of the first `rows` rows."""
        pairs = zip(self._streams, self._schedule.before(rows).tolist(), strict=True)
        passed = [stream.progress(count) for stream, count in pairs]
        return max(rounds for rounds, _ in passed), sum(tokens for _, tokens in passed)


class _Round:
    """One pass: blocks in order, the first row of each, and the rows up to its end."""

    def __init__(self, blocks: np.ndarray, firsts: np.ndarray, ends: np.ndarray):
        self._blocks, self._firsts, self._ends = blocks, firsts, ends

    def find(self, place: int) -> tuple[int, int]:
        """Row of the round -> (block, row of the block)."""
        at = int(np.searchsorted(self._ends, place, side="right"))
        before = int(self._ends[at - 1]) if at else 0
        return int(self._blocks[at]), int(self._firsts[at]) + place - before


class _OpenBlock:
    """A block that is read and packed by the first thread that needs it; others wait."""

    def __init__(self, owner: BlockStream, number: int):
        self._owner, self._number = owner, number
        self._lock = threading.Lock()
        self._stream: RowStream | None = None

    def row(self, place: int) -> tuple[DocumentTable, Spans]:
        with self._lock:
            if self._stream is None:
                self._stream = self._owner.stream_of(self._number)
            block, spans = self._stream.row(place)
            _ = block.tokens  # read under the lock, not by two threads at once
        return block, spans


def _masses(corpus: ShardedCorpus, part: MixturePart) -> np.ndarray:
    """float64 [blocks]: tokens of each block, times how often an epoch shows their documents."""
    if not part.keep and not part.emphasis:
        return np.diff(corpus.borders[1]).astype(np.float64)
    masses = []
    for first in range(0, corpus.blocks, SCAN):
        last = min(first + SCAN, corpus.blocks)
        block = corpus.block(first, last)
        factors = emphasis_factors(block, part.emphasis) * label_filter(block, part.keep)
        starts = corpus.borders[0, first:last] - corpus.borders[0, first]
        masses.append(np.add.reduceat(block.lengths * factors, starts))
    return np.concatenate(masses)
