"""Rules that tell running text from lists, menus and loops: a table of bounds with their sources.

Gopher: Rae et al., arXiv 2112.11446, table A1. C4: Raffel et al., arXiv 1910.10683, section 2.2.
FineWeb: Penedo et al., arXiv 2406.17557, section 3.6. As in FineWeb2 (arXiv 2506.20920) bounds
follow the language: word lengths are relative to the language's mean (`languages.WORD_LENGTHS`),
scripts without blanks between words are counted in characters, and rules on marks that a script
does not have are not applied to it.
"""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qwen3.pipeline.languages import STOP_WORDS, UNPUNCTUATED, UNSPACED, word_length
from qwen3.pipeline.text_record import TextRecord

TERMINAL = tuple(".!?\"'”’»)…:;。！？：；」』）।॥؟۔։။៕።")
BULLETS = tuple("•●○■□▪▫–—-*·‣")
ENGLISH = "eng_Latn"
_MIX = np.uint64(0x9E3779B97F4A7C15)


class TextFeatures:
    """Figures of one text, each computed when a rule asks for it."""

    def __init__(self, text: str, language: str):
        self.text, self.language = text, language
        self.script = language[-4:]
        self.lines = [line for line in text.split("\n") if line.strip()]
        self.is_spaced = self.script not in UNSPACED
        # A word, or a character other than a blank where words are not set apart.
        self.words = text.split() if self.is_spaced else list("".join(text.split()))
        self._repeats: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    @functools.cached_property
    def codes(self) -> np.ndarray:
        # Equal words have equal codes; which they are differs from process to process, and no rule
        # depends on it.
        return np.fromiter(map(hash, self.words), np.int64, len(self.words)).view(np.uint64)

    @functools.cached_property
    def lower(self) -> str:
        return self.text.lower()

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        return np.fromiter(map(len, self.words), np.int64, len(self.words))

    def line_share(self, holds: Callable[[str], bool]) -> float:
        """Share of the lines for which `holds`."""
        return sum(map(holds, self.lines)) / max(len(self.lines), 1)

    def repeated_lines(self, *, by_characters: bool) -> float:
        """Share of the lines, or of their characters, that occurred before in the text."""
        counts = Counter(line.strip() for line in self.lines)
        weigh = len if by_characters else (lambda line: 1)
        total = sum(weigh(line) * n for line, n in counts.items())
        return sum(weigh(line) * (n - 1) for line, n in counts.items()) / max(total, 1)

    def repeats(self, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(positions whose run of `size` words occurs elsewhere too, the run's number at each,
        count of each run). A run that repeats has a beginning that repeats, so only such are
        looked at."""
        if size not in self._repeats:
            shorter = max((known for known in self._repeats if known < size), default=0)
            positions = self._repeats[shorter][0] if shorter else np.arange(len(self.codes))
            positions = positions[positions <= len(self.codes) - size]
            keys = np.zeros(len(positions), np.uint64)
            for i in range(size):
                keys = (keys ^ self.codes[positions + i]) * _MIX
                keys ^= keys >> np.uint64(29)
            _, numbers, counts = np.unique(keys, return_inverse=True, return_counts=True)
            again = counts[numbers] > 1
            self._repeats[size] = positions[again], numbers[again], counts
        return self._repeats[size]

    def top_run(self, size: int) -> float:
        """Share of the characters in the commonest run of `size` words; 0 if none repeats."""
        positions, numbers, counts = self.repeats(size)
        if not len(positions):
            return 0.0
        most = int(counts[numbers].max())
        begin = int(positions[counts[numbers] == most].min())
        return most * float(self.lengths[begin : begin + size].sum()) / float(self.lengths.sum())

    def repeated_runs(self, size: int) -> float:
        """Share of the characters in runs of `size` words that occurred before."""
        positions, numbers, _ = self.repeats(size)
        if not len(positions):
            return 0.0
        again = np.ones(len(positions), bool)
        again[np.unique(numbers, return_index=True)[1]] = False
        covered = np.zeros(len(self.words), bool)
        for i in range(size):
            covered[positions[again] + i] = True
        return float(self.lengths[covered].sum()) / float(self.lengths.sum())


@dataclass(frozen=True)
class QualityRule:
    """A feature and the bounds between which a text stays."""

    feature: Callable[[TextFeatures], float]
    low: float
    high: float
    source: str
    unspaced: tuple[float, float] | None = None  # bounds where characters are counted, if others
    applies: Callable[[TextFeatures], bool] = lambda features: True


def _alphabetic_words(features: TextFeatures) -> float:
    """Share of the words with a letter; most begin with one."""
    others = [word for word in features.words if not word[0].isalpha()]
    without = sum(not any(map(str.isalpha, word)) for word in others)
    return 1 - without / max(len(features.words), 1)


def _stop_words(features: TextFeatures) -> float:
    known = STOP_WORDS[features.language]
    return len(known.intersection(map(str.lower, set(features.words))))


def _placeholder(features: TextFeatures) -> bool:
    text = features.lower
    return "lorem ipsum" in text or "javascript" in text and bool(NOTICE.search(text))


NOTICE = re.compile(r"\bjavascript\b.{0,40}\b(enable|disabled|require)")
ALWAYS = math.inf

RULES: dict[str, QualityRule] = {
    "words": QualityRule(lambda f: len(f.words), 50, 100_000, "Gopher", unspaced=(100, 400_000)),
    "word_length": QualityRule(
        lambda f: float(f.lengths.mean()) / word_length(f.language) if f.words else 0.0,
        0.6,
        2.0,
        "Gopher's 3 to 10 over the mean of English, 5.0",
        applies=lambda f: f.is_spaced,
    ),
    "symbols": QualityRule(
        lambda f: (
            (f.text.count("#") + f.text.count("…") + f.text.count("...")) / max(len(f.words), 1)
        ),
        0,
        0.1,
        "Gopher",
    ),
    "alphabetic_words": QualityRule(_alphabetic_words, 0.8, 1, "Gopher", unspaced=(0.6, 1)),
    "bullet_lines": QualityRule(
        lambda f: f.line_share(lambda line: line.lstrip().startswith(BULLETS)), 0, 0.9, "Gopher"
    ),
    "ellipsis_lines": QualityRule(
        lambda f: f.line_share(lambda line: line.rstrip().endswith(("...", "…"))), 0, 0.3, "Gopher"
    ),
    "stop_words": QualityRule(
        _stop_words, 2, ALWAYS, "Gopher", applies=lambda f: f.language in STOP_WORDS
    ),
    "repeated_lines": QualityRule(
        lambda f: f.repeated_lines(by_characters=False), 0, 0.3, "Gopher"
    ),
    "repeated_line_characters": QualityRule(
        lambda f: f.repeated_lines(by_characters=True), 0, 0.1, "FineWeb; Gopher has 0.2"
    ),
    "top_2_words": QualityRule(
        lambda f: f.top_run(2), 0, 0.20, "Gopher", applies=lambda f: f.is_spaced
    ),
    "top_3_words": QualityRule(
        lambda f: f.top_run(3), 0, 0.18, "Gopher", applies=lambda f: f.is_spaced
    ),
    "top_4_words": QualityRule(lambda f: f.top_run(4), 0, 0.16, "Gopher"),
    "repeated_5_words": QualityRule(
        lambda f: f.repeated_runs(5), 0, 0.15, "Gopher", unspaced=(0, 0.35)
    ),
    "repeated_10_words": QualityRule(
        lambda f: f.repeated_runs(10), 0, 0.10, "Gopher", unspaced=(0, 0.2)
    ),
    "punctuated_lines": QualityRule(
        lambda f: f.line_share(lambda line: line.rstrip().endswith(TERMINAL)),
        0.12,
        1,
        "FineWeb; C4 asks it of every line",
        applies=lambda f: f.script not in UNPUNCTUATED,
    ),
    "short_lines": QualityRule(
        lambda f: f.line_share(lambda line: len(line) < 30),
        0,
        0.67,
        "FineWeb",
        applies=lambda f: f.is_spaced,
    ),
    "placeholder": QualityRule(_placeholder, 0, 0, "C4"),
}


def bounds(name: str, features: TextFeatures) -> tuple[float, float]:
    """The bounds of a rule for a text's language."""
    rule = RULES[name]
    if rule.unspaced is not None and not features.is_spaced:
        return rule.unspaced
    return rule.low, rule.high


def build(
    rules: Sequence[str] = tuple(RULES),
    thresholds: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
) -> Callable[[TextRecord], TextRecord]:
    """The step: drop a text at the first rule that it breaks, with the value and its bounds.

    thresholds: {language or "*": {rule: [low, high]}}, instead of the table's. A text without a
    language counts as English.
    """
    changes = {
        (language, rule): tuple(pair)
        for language, table in (thresholds or {}).items()
        for rule, pair in table.items()
    }
    for name in (*rules, *(rule for _, rule in changes)):
        if name not in RULES:
            raise ValueError(f"quality: no rule {name!r}; choose from {list(RULES)}")
    for key, pair in changes.items():
        if len(pair) != 2:
            raise ValueError(f"quality: thresholds of {key} are {pair}, not [low, high]")

    def apply(record: TextRecord) -> TextRecord:
        features = TextFeatures(record.text, str(record.labels.get("language") or ENGLISH))
        for name in rules:
            if RULES[name].applies(features):
                low, high = changes.get(
                    (features.language, name), changes.get(("*", name), bounds(name, features))
                )
                value = RULES[name].feature(features)
                if not low <= value <= high:
                    limits = [low, "inf" if high == ALWAYS else high]  # JSON has no infinity
                    return record.drop("quality", name, value=round(float(value), 4), bounds=limits)
        return record

    return apply
