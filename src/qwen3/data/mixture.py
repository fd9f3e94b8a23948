"""What a stage trains on: weighted parts of corpora, label filters and emphasis, length bands,
and whose row comes when.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence

import numpy as np

PERIOD = 1 << 16  # rows after which the order of the parts repeats; weights are rounded to 1/PERIOD
UNITS = ("tokens", "documents")


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of a mixture.

    weight: share of the stage's rows, relative to the other parts. corpus: name of its corpus
        (default: the part's name).
    keep: label -> allowed words, or (low, high) for a number (None: no bound); a document without
        the label is left out.
    emphasis: label -> {word: factor}, or {at least: factor} for a number: a document is seen factor
        times an epoch (0.5: every other epoch), factors of several labels multiply, and documents
        not named count 1.
    """

    weight: float = 1.0
    corpus: str = ""
    keep: Mapping[str, Sequence] = dataclasses.field(default_factory=dict)
    emphasis: Mapping[str, Mapping] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class LengthBands:
    """Which lengths a stage reads, in tokens, and how much of each: (shortest, longest, share) per
    band, bounds included.

    A length in several bands belongs to the first. Lengths are counted after documents are cut to
    rows. unit: shares of `tokens` or of `documents`. Per epoch the scarcest band is read once, and
    of the others as much as the shares ask, going on in the next epoch where this one stopped.
    """

    bands: tuple[tuple[int, int, float], ...]
    unit: str = "tokens"

    def __post_init__(self):
        object.__setattr__(self, "bands", tuple(tuple(band) for band in self.bands))
        if self.unit not in UNITS:
            raise ValueError(f"length bands in {self.unit!r}: choose from {UNITS}")
        for low, high, share in self.bands:
            if not 0 <= low <= high or not share > 0:
                raise ValueError(
                    f"length band {(low, high, share)}: needs 0 <= shortest <= longest and a "
                    f"share above 0"
                )

    def scaled(self, length):
        """The same bands for rows of `length` instead of the longest one here."""
        longest = max(high for _, high, _ in self.bands)
        bands = tuple(
            (low * length // longest, high * length // longest, s) for low, high, s in self.bands
        )
        return dataclasses.replace(self, bands=bands)


# Report 3.2: 75% of the text is 16,384-32,768 tokens long, 25% is 4,096-16,384.
LONG_CONTEXT = LengthBands(((16_384, 32_768, 0.75), (4_096, 16_384, 0.25)))


@dataclasses.dataclass(frozen=True)
class Stage:
    """The data of one training stage.

    mixture: part name -> weight, or `Part`. length: tokens of a row. batch: rows of a step over all
        hosts.
    lengths: bands of document lengths, or None for all. across_documents: let attention run over
        the documents of a row (one segment, positions run on, <|endoftext|> predicts the next
        document) instead of masking each.
    repeat_small: allow a corpus with fewer rows than a batch takes of it, whose rows then repeat in
        the batch.
    """

    name: str
    mixture: Mapping[str, float | Part]
    length: int
    batch: int
    lengths: LengthBands | None = None
    across_documents: bool = False
    repeat_small: bool = False

    def __post_init__(self):
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

    def parts(self):
        """Part name -> Part with its corpus filled in; those of weight 0 too."""
        parts = {n: p if isinstance(p, Part) else Part(float(p)) for n, p in self.mixture.items()}
        return {n: dataclasses.replace(p, corpus=p.corpus or n) for n, p in parts.items()}


class Schedule:
    """Which part each row of a stage comes from: row r is row `rank` of part `source`, at even
    distances.

    weights [parts] -> every PERIOD rows hold round(weight share * PERIOD) rows of a part, at least
    1.
    """

    def __init__(self, weights):
        self.quotas = apportion(weights, PERIOD)
        times = np.concatenate([(np.arange(q) + 0.5) / q for q in self.quotas])
        source = np.repeat(np.arange(len(self.quotas)), self.quotas)
        rank = np.concatenate([np.arange(q) for q in self.quotas])
        order = np.argsort(times, kind="stable")
        self.source, self.rank = source[order], rank[order]

    def __getitem__(self, row):
        """Row of the stage -> (part, row of that part's own endless sequence)."""
        cycle, place = divmod(row, PERIOD)
        source = int(self.source[place])
        return source, int(cycle * self.quotas[source] + self.rank[place])

    def before(self, row):
        """int [parts]: rows of each part among the first `row` rows."""
        cycle, place = divmod(row, PERIOD)
        return cycle * self.quotas + np.bincount(self.source[:place], minlength=len(self.quotas))


def apportion(weights, total):
    """Whole numbers [n] that add to `total` in proportion to weights [n] > 0, each at least 1
    (largest remainders).
    """
    weights = np.asarray(weights, np.float64)
    exact = weights / weights.sum() * total
    whole = np.floor(exact).astype(np.int64)
    whole[np.argsort(whole - exact, kind="stable")[: total - int(whole.sum())]] += 1
    while not whole.all():
        whole[np.argmin(whole)] += 1
        whole[np.argmax(whole)] -= 1
    return whole


def kept(corpus, keep):
    """bool [documents]: those whose labels pass every filter of `Part.keep`."""
    mask = np.ones(len(corpus), bool)
    for label, allowed in keep.items():
        values, words = corpus.label(label), corpus.words(label)
        if words is None:
            low, high = allowed
            mask &= values >= (-math.inf if low is None else low)
            mask &= values <= (math.inf if high is None else high)
        else:
            mask &= np.isin(values, [_code(corpus, label, word) for word in allowed])
    return mask


def copies(corpus, emphasis):
    """float64 [documents]: how many times an epoch shows each document, by `Part.emphasis`."""
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


def _code(corpus, label, word):
    words = corpus.words(label)
    if word not in words:
        raise ValueError(
            f"{corpus.folder}: no document has {label} {word!r}; choose from {sorted(words)}"
        )
    return words.index(word)


def permutation(key, count):
    """A permutation int64 [count] that depends on the JSON of `key` alone: Philox's raw stream
    is fixed for all versions.
    """
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    raw = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(count)
    return np.argsort(raw, kind="stable")
