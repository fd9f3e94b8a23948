"""Exact and near duplicates: MinHash proposes pairs, the Jaccard index of their shingles decides.

Candidates are texts that share a band of their MinHash signatures (Broder 1997; banding as in
Leskovec et al., Mining of Massive Datasets, chapter 3). Pairs are verified before anything is
dropped, and a text is dropped only as a verified neighbour of one that stays, so that no chain of
small differences removes what resembles nothing that is kept.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
import xxhash

Rank: TypeAlias = tuple[int, str]  # (minus the length, id): the smallest of a group survives
Pair: TypeAlias = tuple[Rank, Rank]  # the smaller rank first

# What is no letter, digit or underscore in ASCII becomes a blank: twice as fast as a pattern.
BLANKED = "".join(c if c.isalnum() or c == "_" else " " for c in map(chr, range(128)))
WORD = re.compile(r"\w+")
# Scripts without blanks between words give single characters: Thai, Lao, Burmese, Khmer, Tibetan,
# kana, Han.
UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]"
)
MOST_WORDS = 1 << 18  # hashes of words held in memory
FULL_BUCKET = 32  # texts of a bucket that each other one is compared with
_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclasses.dataclass(frozen=True)
class DuplicateSettings:
    """What counts as a duplicate. 20 bands of 6 rows propose 99.8% of pairs at Jaccard .8."""

    near: bool = True  # false: exact copies only
    jaccard: float = 0.8  # from which on two texts are near duplicates
    shingle: int = 5  # words of a shingle; single characters in scripts without blanks
    bands: int = 20  # of a signature; a pair that shares one is a candidate
    rows: int = 6  # hashes of a band

    def __post_init__(self) -> None:
        if not 0 < self.jaccard <= 1:
            raise ValueError(f"duplicates: jaccard {self.jaccard} is not in (0, 1]")
        for name in ("shingle", "bands", "rows"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"duplicates: {name} {value!r} is not a whole number from 1")


def exact_key(text: str) -> bytes:
    """16 bytes, equal for texts that differ in nothing but case and blanks."""
    return xxhash.xxh3_128_digest(" ".join(text.casefold().split()).encode())


def shingles(text: str, size: int) -> np.ndarray:
    """uint64 [n], sorted: hashes of the different runs of `size` words of the text."""
    return np.unique(word_runs(text, size))


def word_runs(text: str, size: int) -> np.ndarray:
    """uint64 [words - size + 1]: hashes of all runs of `size` words, as they come; enough for a
    signature, whose minima do not see what stands twice."""
    text = text.lower()
    words = words_of(text) or [text]
    codes = word_codes(words)
    count = max(len(codes) - size + 1, 1)
    runs = np.zeros(count, np.uint64)
    for i in range(min(size, len(codes))):
        runs = (runs ^ codes[i : i + count]) * _MIX
        runs ^= runs >> np.uint64(29)
    return runs


def words_of(text: str) -> list[str]:
    """The words of a text; each character of those in a script without blanks."""
    if text.isascii():
        return text.translate(BLANKED).split()
    words: list[str] = []
    for word in WORD.findall(text):
        if word[0] >= "\u0e00" and UNSPACED.match(word):
            words.extend(word)
        else:
            words.append(word)
    return words


class _WordHashes(dict[str, int]):
    """The hash of every word that was met lately; looking one up costs less than computing it."""

    def __missing__(self, word: str) -> int:
        if len(self) >= MOST_WORDS:
            self.clear()
        code = self[word] = xxhash.xxh3_64_intdigest(word.encode())
        return code


_HASHES = _WordHashes()


def word_codes(words: Sequence[str]) -> np.ndarray:
    """uint64 [n]: a hash of each word, the same in every process."""
    return np.fromiter(map(_HASHES.__getitem__, words), np.uint64, len(words))


@functools.cache
def _multipliers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """uint32 [count, 1] odd factors and summands of the hash functions of a signature."""
    codes = [
        [xxhash.xxh3_64_intdigest(f"{name}{i}".encode()) >> 32 for i in range(count)]
        for name in "ab"
    ]
    factors, summands = np.array(codes, np.uint32)[..., None]
    return factors | np.uint32(1), summands


def band_keys(hashes: np.ndarray, settings: DuplicateSettings) -> np.ndarray:
    """uint64 [bands]: the MinHash signature of the hashes of `word_runs`, folded by band.

    The hash functions multiply 32 bits, which processors do eight at a time.
    """
    factors, summands = _multipliers(settings.bands * settings.rows)
    halves = (hashes >> np.uint64(32)).astype(np.uint32)
    minima = np.full(len(factors), np.iinfo(np.uint32).max, np.uint32)
    for begin in range(0, len(halves), 512):  # keeps the product in the cache
        block = halves[begin : begin + 512] * factors + summands
        np.minimum(minima, block.min(1), out=minima)
    rows = minima.reshape(settings.bands, settings.rows).astype(np.uint64)
    keys = np.arange(1, settings.bands + 1, dtype=np.uint64) * _MIX
    for i in range(settings.rows):
        keys = (keys ^ rows[:, i]) * _MIX
        keys ^= keys >> np.uint64(29)
    return keys


def candidate_pairs(bucket: Iterable[Rank]) -> Iterator[Pair]:
    """Pairs of a bucket to verify: each text with the FULL_BUCKET smallest before it."""
    members = sorted(set(bucket))
    for i, member in enumerate(members):
        for earlier in members[: min(i, FULL_BUCKET)]:
            yield earlier, member


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """|a & b| / |a | b| of two sorted sets of hashes."""
    common = len(np.intersect1d(a, b, assume_unique=True))
    return common / (len(a) + len(b) - common)


def survivors(edges: Iterable[tuple[Pair, float]]) -> dict[str, tuple[str, float]]:
    """{id that is dropped: (id of the survivor that it resembles, their Jaccard index)}.

    Texts are visited by rank; one is dropped if a verified neighbour of smaller rank survived.
    The order of the edges does not matter.
    """
    neighbours: dict[Rank, dict[Rank, float]] = defaultdict(dict)
    for (first, second), similarity in edges:
        smaller, larger = sorted((first, second))
        neighbours[larger][smaller] = similarity
        neighbours.setdefault(smaller, {})
    losers: dict[str, tuple[str, float]] = {}
    for text in sorted(neighbours):
        kept = [other for other in sorted(neighbours[text]) if other[1] not in losers]
        if kept:
            losers[text[1]] = (kept[0][1], neighbours[text][kept[0]])
    return losers


def find(
    texts: Sequence[tuple[str, str]], settings: DuplicateSettings
) -> dict[str, tuple[str, float]]:
    """Near duplicates among (id, text) that fit into memory: `survivors` of all verified pairs."""
    sets = {identifier: shingles(text, settings.shingle) for identifier, text in texts}
    buckets: dict[tuple[int, int], list[Rank]] = defaultdict(list)
    for identifier, text in texts:
        for band, key in enumerate(band_keys(sets[identifier], settings).tolist()):
            buckets[band, key].append((-len(text), identifier))
    pairs = {pair for bucket in buckets.values() for pair in candidate_pairs(bucket)}
    scored = ((pair, jaccard(sets[pair[0][1]], sets[pair[1][1]])) for pair in pairs)
    return survivors((pair, score) for pair, score in scored if score >= settings.jaccard)
