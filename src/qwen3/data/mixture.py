"""What a stage trains on: a weighted mixture of corpora with label filters, emphasis and length
bands, and the schedule that says which corpus each row comes from.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qwen3.data.corpora import DocumentTable

PERIOD = 1 << 16  # rows after which the order of the parts repeats; weights are rounded to 1/PERIOD
UNITS = ("tokens", "documents")
LENGTH = "tokens"  # label of every document: how many tokens it has


@dataclasses.dataclass(frozen=True)
class MixturePart:
    """One part of a mixture: a corpus, how much of it, and which of its documents.

    keep: label -> allowed words, or (low, high) for a number (None: no bound); a document without
        the label is left out. "tokens" is the length of a document.
    emphasis: label -> {word: factor}, or {at least: factor} for a number. A document is seen factor
        times an epoch (0.5: every other epoch); factors of several labels multiply, and documents
        that are not named count 1.
    """

    weight: float = 1.0  # share of the stage's rows, relative to the other parts
    corpus: str = ""  # name of the corpus; "": the name of the part
    keep: Mapping[str, Sequence] = dataclasses.field(default_factory=dict)
    emphasis: Mapping[str, Mapping] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class LengthBands:
    """Which document lengths a stage reads and how much of each.

    A length in several bands belongs to the first. Lengths are counted after documents are cut to
    rows. Per epoch the scarcest band is read once, and of the others as much as the shares ask,
    going on in the next epoch where this one stopped.
    """

    bands: tuple[tuple[int, int, float], ...]  # (shortest, longest, share), lengths in tokens
    unit: str = "tokens"  # shares of "tokens" or of "documents"

    def __post_init__(self) -> None:
        object.__setattr__(self, "bands", tuple(tuple(band) for band in self.bands))
        if self.unit not in UNITS:
            raise ValueError(f"length bands in {self.unit!r}: choose from {UNITS}")
        for low, high, share in self.bands:
            if not 0 <= low <= high or not share > 0:
                raise ValueError(
                    f"length band {(low, high, share)}: needs 0 <= shortest <= longest and a "
                    f"share above 0"
                )

    def scaled(self, length: int) -> "LengthBands":
        """The same bands, scaled so that the longest length is `length`."""
        longest = max(high for _, high, _ in self.bands)
        bands = tuple(
            (low * length // longest, high * length // longest, s) for low, high, s in self.bands
        )
        return dataclasses.replace(self, bands=bands)


# Qwen3 report 3.2: 75% of the text is 16,384-32,768 tokens long, 25% is 4,096-16,384.
LONG_CONTEXT = LengthBands(((16_384, 32_768, 0.75), (4_096, 16_384, 0.25)))


@dataclasses.dataclass(frozen=True)
class Stage:
    """The data of one training stage. Raises ValueError for sizes or weights that cannot be."""

    name: str  # seeds the data order, together with the seed of the run
    mixture: Mapping[str, float | MixturePart]  # part name -> weight, or all of its settings
    length: int  # tokens of a row (sequence length)
    batch: int  # batch size: rows of a step over all hosts
    lengths: LengthBands | None = None  # bands of document lengths; None: all lengths
    # Let attention run over the documents of a row (one segment, positions run on, <|endoftext|>
    # predicts the next document) instead of masking each.
    across_documents: bool = False
    # Allow a corpus with fewer rows than a batch takes of it; its rows then repeat in the batch.
    repeat_small: bool = False

    def __post_init__(self) -> None:
        if self.length < 2 or self.batch < 1:
            raise ValueError(
                f"stage {self.name!r}: rows of {self.length} tokens (at least 2), {self.batch} "
                f"a batch (at least 1)"
            )
        for name, part in self.parts().items():
            if not (math.isfinite(part.weight) and part.weight >= 0):
                raise ValueError(
                    f"stage {self.name!r}: weight {part.weight} of {name!r}: needs a number of "
                    f"at least 0"
                )
        if not any(part.weight for part in self.parts().values()):
            raise ValueError(
                f"stage {self.name!r}: no part of the mixture {dict(self.mixture)} has a weight "
                f"above 0"
            )

    def parts(self) -> dict[str, MixturePart]:
        """Part name -> part with its corpus filled in, parts of weight 0 included."""
        parts = {
            name: part if isinstance(part, MixturePart) else MixturePart(float(part))
            for name, part in self.mixture.items()
        }
        return {
            name: dataclasses.replace(part, corpus=part.corpus or name)
            for name, part in parts.items()
        }


class Schedule:
    """Which part of the mixture each row of a stage comes from, at even distances.

    weights: [parts]. Every PERIOD rows hold round(weight share * PERIOD) rows of a part, at least
    one.
    """

    def __init__(self, weights: Sequence[float]):
        self.quotas = apportion(weights, PERIOD)
        # Row k of a part with quota q falls at the time (k + 1/2) / q; rows are sorted by time.
        times = np.concatenate([(np.arange(q) + 0.5) / q for q in self.quotas])
        source = np.repeat(np.arange(len(self.quotas)), self.quotas)
        rank = np.concatenate([np.arange(q) for q in self.quotas])
        order = np.argsort(times, kind="stable")
        self.source, self.rank = source[order], rank[order]

    def __getitem__(self, row: int) -> tuple[int, int]:
        """Row of the stage -> (part, row of that part's own endless sequence)."""
        cycle, place = divmod(row, PERIOD)
        source = int(self.source[place])
        return source, int(cycle * self.quotas[source] + self.rank[place])

    def before(self, row: int) -> np.ndarray:
        """int [parts]: rows of each part among the first `row` rows of the stage."""
        cycle, place = divmod(row, PERIOD)
        return cycle * self.quotas + np.bincount(self.source[:place], minlength=len(self.quotas))


def apportion(weights: Sequence[float], total: int) -> np.ndarray:
    """Whole numbers [n] that add to `total` in proportion to weights [n] > 0, each at least 1, by
    the method of largest remainders.
    """
    shares = np.asarray(weights, np.float64)
    exact = shares / shares.sum() * total
    counts = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: total - int(counts.sum())]] += 1
    while not counts.all():
        counts[np.argmin(counts)] += 1
        counts[np.argmax(counts)] -= 1
    return counts


def label_filter(corpus: DocumentTable, keep: Mapping[str, Sequence]) -> np.ndarray:
    """bool [documents]: those whose labels pass every filter of `MixturePart.keep`."""
    mask = np.ones(len(corpus), bool)
    for label, allowed in keep.items():
        is_length = label == LENGTH
        values = corpus.lengths if is_length else corpus.label(label)
        words = None if is_length else corpus.words(label)
        if words is None:
            low, high = allowed
            mask &= values >= (-math.inf if low is None else low)
            mask &= values <= (math.inf if high is None else high)
        else:
            mask &= np.isin(values, [_code(corpus, label, word) for word in allowed])
    return mask


def emphasis_factors(corpus: DocumentTable, emphasis: Mapping[str, Mapping]) -> np.ndarray:
    """float64 [documents]: how often an epoch shows each document, by `MixturePart.emphasis`."""
    factors = np.ones(len(corpus))
    for label, table in emphasis.items():
        if bad := [f for f in table.values() if not (math.isfinite(f) and f >= 0)]:
            raise ValueError(
                f"emphasis of {label!r}: factor {bad[0]}: needs a number of at least 0"
            )
        values, words = corpus.label(label), corpus.words(label)
        chosen = np.ones(len(corpus))
        if words is None:
            for least, factor in sorted((float(k), f) for k, f in table.items()):
                chosen = np.where(values >= least, factor, chosen)
        else:
            for word, factor in table.items():
                chosen = np.where(values == _code(corpus, label, word), factor, chosen)
        factors *= chosen
    return factors


def _code(corpus: DocumentTable, label: str, word: str) -> int:
    words = corpus.words(label) or []
    if word not in words:
        raise ValueError(
            f"{corpus.folder}: no document has {label} {word!r}; choose from {sorted(words)}"
        )
    return words.index(word)


def permutation(key: Sequence[Any], count: int) -> np.ndarray:
    """A permutation int64 [count] that depends on the JSON of `key` alone: the raw stream of the
    Philox generator is the same in all versions of numpy.
    """
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    raw = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(count)
    return np.argsort(raw, kind="stable")
