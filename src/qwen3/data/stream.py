"""The endless rows of one part of a mixture: documents shuffled anew every epoch and packed, in an
order that the seed fixes.

All of it follows from the seed and from lengths and labels; no text is read. Epochs are planned in
turn, because the number of rows of an epoch is known only once it is packed (about 2 us a
document); the newest plans are kept.
"""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from qwen3.data.corpora import DocumentTable
from qwen3.data.mixture import (
    LengthBands,
    MixturePart,
    Stage,
    emphasis_factors,
    label_filter,
    permutation,
)
from qwen3.data.packing import PackedRows, cut, pack

KEPT_PLANS = 2
Spans = tuple[np.ndarray, np.ndarray, np.ndarray]  # documents, starts, lengths, int64 [pieces] each


class RowStream:
    """Rows of `part` under `stage`; `row` arguments count from 0 through all epochs.

    key: JSON-able seed words. split: documents that are longer than a row, so cut. Raises
    ValueError if filters or bands leave no document.
    """

    def __init__(self, corpus: DocumentTable, part: MixturePart, stage: Stage, key: Sequence[Any]):
        self._corpus, self._key, self._capacity = corpus, [*key, part.corpus], stage.length
        factors = emphasis_factors(corpus, part.emphasis) * label_filter(corpus, part.keep)
        documents = np.flatnonzero(factors)
        if not len(documents):
            raise ValueError(
                f"stage {stage.name!r}: no document of {corpus.folder} passes "
                f"keep={dict(part.keep)} and emphasis={dict(part.emphasis)}"
            )
        self._pieces = cut(documents, corpus.lengths[documents], stage.length)
        self._showings = factors[self._pieces.document]
        self.split = int(np.sum(corpus.lengths[documents] > stage.length))
        bands = stage.lengths or LengthBands(((0, stage.length, 1.0),))
        self._bands = self._divide(bands, corpus, stage)
        # Rows and tokens before each epoch that has been planned so far.
        self._starts, self._tokens = [0], [0]
        self._plans: dict[int, PackedRows] = {}
        self._lock = threading.Lock()

    def _divide(self, bands: LengthBands, corpus: DocumentTable, stage: Stage) -> list["_Band"]:
        """The pieces by length band, and how many tokens (or documents) an epoch takes of each."""
        lengths, free = self._pieces.length, np.ones(len(self._pieces), bool)
        divided = []
        for number, (low, high, share) in enumerate(bands.bands):
            index = np.flatnonzero(free & (low <= lengths) & (lengths <= high))
            free[index] = False
            if not len(index):
                raise ValueError(
                    f"stage {stage.name!r}: no document of {corpus.folder} is {low} to {high} "
                    f"tokens long in rows of {stage.length}; longest: {int(lengths.max())}"
                )
            measure = lengths[index] if bands.unit == "tokens" else np.ones(len(index), np.int64)
            key = [*self._key, number]
            divided.append(_Band(key, index, measure, self._showings[index], share))
        epoch = min(band.mass / band.share for band in divided)
        for band in divided:
            band.quota = band.share * epoch
        return divided

    # A lock cannot be pickled, and a copy in another process needs its own.

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state | {"_lock": threading.Lock()}

    def locate(self, row: int) -> tuple[int, int]:
        """Row of the endless sequence -> (epoch, row in the plan of that epoch)."""
        with self._lock:
            while self._starts[-1] <= row:
                epoch = len(self._starts) - 1
                plan = self._plan(epoch)
                self._starts.append(self._starts[-1] + len(plan))
                self._tokens.append(self._tokens[-1] + int(plan.used.sum()))
            epoch = int(np.searchsorted(self._starts, row, side="right")) - 1
            return epoch, row - self._starts[epoch]

    @property
    def first_epoch(self) -> int:
        """Rows of the first epoch; later ones differ by a few."""
        self.locate(0)
        return self._starts[1]

    def plan(self, epoch: int) -> PackedRows:
        """The packed rows of an epoch."""
        with self._lock:
            return self._plan(epoch)

    def row(self, row: int) -> tuple[DocumentTable, Spans]:
        """(corpus, spans in it) of one row of the endless sequence."""
        return self._corpus, self.spans(row)

    def spans(self, row: int) -> Spans:
        """(documents, starts, lengths), int64 [pieces] each, of one row of the endless sequence."""
        epoch, place = self.locate(row)
        plan = self.plan(epoch)
        pieces = plan.pieces.take(slice(*plan.offsets[place : place + 2]))
        return pieces.document, pieces.start, pieces.length

    def progress(self, rows: int) -> tuple[float, int]:
        """(epochs, tokens) of the first `rows` rows; epochs is a fraction, padding no token."""
        epoch, place = self.locate(rows)
        plan = self.plan(epoch)
        return epoch + place / len(plan), self._tokens[epoch] + int(plan.used[:place].sum())

    def _plan(self, epoch: int) -> PackedRows:
        if epoch not in self._plans:
            index = np.concatenate([band.take(epoch) for band in self._bands])
            index = index[permutation([*self._key, "mix", epoch], len(index))]
            rows = pack(
                self._pieces.take(index),
                self._capacity,
                lambda count: permutation([*self._key, "rows", epoch], count),
            )
            self._plans[epoch] = rows
            while len(self._plans) > KEPT_PLANS:
                self._plans.pop(next(iter(self._plans)))
        return self._plans[epoch]


class _Band:
    """The endless shuffled pieces of one length band.

    Passes over the pieces follow one another on a running measure (tokens or documents); epoch e
    takes the pieces that start in [e, e + 1) quotas of it.
    """

    def __init__(
        self,
        key: Sequence[Any],
        index: np.ndarray,
        measure: np.ndarray,
        repeats: np.ndarray,
        share: float,
    ):
        self._key, self._index, self._measure, self._repeats = key, index, measure, repeats
        self.share, self.mass, self.quota = share, float(np.sum(measure * repeats)), 0.0
        # Where each piece stands between two of its showings, so that factors of 0.5 do not all
        # fall together.
        self._phase = permutation([*key, "phase"], len(index)) / len(index)
        self._starts = [0]

    def _pass(self, number: int) -> np.ndarray:
        """One pass over the pieces, shuffled; a piece of factor f is in it f times on average."""
        shown = np.floor(self._repeats * (number + 1) + self._phase)
        times = (shown - np.floor(self._repeats * number + self._phase)).astype(np.int64)
        order = np.repeat(np.arange(len(self._index)), times)
        return order[permutation([*self._key, "pass", number], len(order))]

    def take(self, epoch: int) -> np.ndarray:
        """int64: the pieces of an epoch, in order, the same whichever epochs were taken before."""
        first, last = epoch * self.quota, (epoch + 1) * self.quota
        pieces, number = [], 0
        while True:
            if number + 1 < len(self._starts) and self._starts[number + 1] <= first:
                number += 1
                continue
            order = self._pass(number)
            ends = self._starts[number] + np.cumsum(self._measure[order])
            begins = ends - self._measure[order]
            pieces.append(self._index[order[(first <= begins) & (begins < last)]])
            end = int(ends[-1]) if len(ends) else self._starts[number]
            if number + 1 == len(self._starts):
                self._starts.append(end)
            if end >= last:
                return np.concatenate(pieces)
            number += 1
