"""Evaluation items inside training texts: how much of each item's characters a text holds.

Both sides are reduced to letters in one case and a 0 for each number, so line breaks, marks,
accents, quoting and other numbers hide nothing. An item counts as present where the text has at
least `coverage` of the item's different runs of 20 such characters.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import unicodedata
from collections.abc import Callable, Iterable

import numpy as np

from qwen3.data.jsonl import read_rows
from qwen3.pipeline.text_record import TextRecord

SIZE = 20  # characters of a run
SHORTEST = 40  # reduced characters; a shorter item is said by chance and cannot be looked for
COVERAGE = 0.7
_SPARSENESS = 8  # slots of the table a run
_MIX = np.uint64(0x9E3779B97F4A7C15)
_WORD = re.compile(r"[^\W_]+")
# 3.5, 1,000 and 1/2 are one number each, so that marks left out change nothing.
_NUMBER = re.compile(r"\d+(?:[^\w\s]+\d+)*")
_PIECE = re.compile(rf"{_NUMBER.pattern}|[^\W\d_]+")


@dataclasses.dataclass(frozen=True)
class ItemMatch:
    """An evaluation item that a text holds."""

    item: int  # its index
    coverage: float  # share of the item's runs that the text has
    begin: int  # first character of the matching span of the text
    end: int  # the character after its last


def reduce(text: str) -> str:
    """The letters of a text in one case and without accents, and a 0 for each number."""
    return "".join(_WORD.findall(_NUMBER.sub("0", _folded(text))))


def places(text: str) -> np.ndarray:
    """int64 [n]: the position in the text of each character of `reduce`."""
    # Folding looks at one character at a time, so each can be followed; that takes its time.
    folded = [_folded(c) for c in text]
    origins = np.repeat(np.arange(len(text)), [len(part) for part in folded])
    result = []
    for match in _PIECE.finditer("".join(folded)):
        is_number = match.group()[0].isdigit()
        result.append(origins[match.start() : match.start() + 1 if is_number else match.end()])
    return np.concatenate(result) if result else np.zeros(0, np.int64)


def _folded(text: str) -> str:
    if text.isascii():
        return text.lower()
    folded = unicodedata.normalize("NFKD", text.casefold().replace("\u0131", "i"))
    return "".join(c for c in folded if not unicodedata.combining(c)).casefold()


def runs(reduced: str) -> np.ndarray:
    """uint64 [n]: a hash of each run of SIZE characters; of a shorter text, none."""
    codes = np.frombuffer(reduced.encode("utf-32-le"), np.uint32).astype(np.uint64)
    count = len(codes) - SIZE + 1
    if count < 1:
        return np.zeros(0, np.uint64)
    keys = np.zeros(count, np.uint64)
    for i in range(SIZE):
        keys = keys * np.uint64(1_000_003) + codes[i : i + count]
    keys = (keys ^ (keys >> np.uint64(32))) * _MIX
    return keys ^ (keys >> np.uint64(29))


class ItemIndex:
    """The runs of all items, to look texts up in."""

    def __init__(self, items: Iterable[str]):
        sets = [np.unique(runs(reduce(item))) for item in items]
        self.too_short = [i for i, keys in enumerate(sets) if len(keys) <= SHORTEST - SIZE]
        for i in self.too_short:
            sets[i] = np.zeros(0, np.uint64)
        self.sizes = np.array([max(len(keys), 1) for keys in sets], np.int64)
        keys = np.concatenate([*sets, np.zeros(0, np.uint64)])
        owners = np.repeat(np.arange(len(sets)), [len(s) for s in sets])
        order = np.argsort(keys, kind="stable")
        self.keys, self.owners = keys[order], owners[order]
        # Most runs of a text are in no item: one look into this table tells it.
        self._bits = (_SPARSENESS * (len(self.keys) + 1)).bit_length()
        self.table = np.zeros(1 << self._bits, bool)
        self.table[self._slots(self.keys)] = True

    def _slots(self, keys: np.ndarray) -> np.ndarray:
        return (keys >> np.uint64(64 - self._bits)).astype(np.int64)

    def matches(self, text: str, coverage: float = COVERAGE) -> list[ItemMatch]:
        """The items that the text holds at least `coverage` of, the fullest first."""
        keys = runs(reduce(text))
        positions = np.flatnonzero(self.table[self._slots(keys)]) if len(keys) else keys
        if not len(positions):
            return []
        left = np.searchsorted(self.keys, keys[positions], side="left")
        right = np.searchsorted(self.keys, keys[positions], side="right")
        counts = right - left
        starts = np.repeat(left - np.cumsum(counts) + counts, counts)
        entries = starts + np.arange(counts.sum())  # indices into keys, for each position
        at = np.repeat(positions, counts)
        shares = np.bincount(self.owners[np.unique(entries)], minlength=len(self.sizes))
        items = np.flatnonzero(shares / self.sizes >= coverage)
        origins = places(text) if len(items) else np.zeros(0, np.int64)
        result = [
            ItemMatch(
                int(item),
                float(shares[item] / self.sizes[item]),
                *_span(at[self.owners[entries] == item], origins),
            )
            for item in items
        ]
        return sorted(result, key=lambda match: (-match.coverage, match.item))


def _span(positions: np.ndarray, origins: np.ndarray) -> tuple[int, int]:
    """(begin, end) in the text of the longest stretch of positions without a gap of 200."""
    stretches = np.split(positions, np.flatnonzero(np.diff(positions) > 200) + 1)
    longest = max(stretches, key=len)
    return int(origins[longest[0]]), int(origins[longest[-1] + SIZE - 1]) + 1


@functools.lru_cache(4)
def _read(path: str) -> tuple[ItemIndex, list[tuple[str, str]]]:
    rows = [row for _, row in read_rows(path, fields=("suite", "id", "text"))]
    names = [(str(row["suite"]), str(row["id"])) for row in rows]
    return ItemIndex(str(row["text"]) for row in rows), names


def build(items: str, coverage: float = COVERAGE) -> Callable[[TextRecord], TextRecord]:
    """The step: drop a text that holds an item, naming suite, item, coverage and matching span.

    items: JSON lines {suite, id, text}, as `qwen3 data items` writes them.
    """
    if not 0 < coverage <= 1:
        raise ValueError(f"decontaminate: coverage {coverage} is not in (0, 1]")
    index, names = _read(items)

    def apply(record: TextRecord) -> TextRecord:
        matches = index.matches(record.text, coverage)
        if not matches:
            return record
        best = matches[0]
        suite, identifier = names[best.item]
        return record.drop(
            "decontaminate",
            suite,
            item=identifier,
            coverage=round(best.coverage, 3),
            span=[best.begin, best.end],
            items=len(matches),
        )

    return apply
