"""Which of the 119 languages a text is in: its script first, then naive Bayes over n-grams.

No packaged identifier covers the report's languages: the best reaches 0.8 on 78 of the 94 that can
be tested, and is at 0 for a dozen. A table of hashed n-grams trained on five kilobytes of each
(Cavnar & Trenkle 1994 count n-grams; McCallum & Nigam 1998 give the multinomial model) covers them.
Languages without any text (`languages.WITHOUT_TEXT`) are never returned, with the exception of
Sindhi, which letters of its own give away.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from qwen3.data.atomic import replacing
from qwen3.data.unpacked import chunks
from qwen3.pipeline.languages import GATITOS, LANGUAGES
from qwen3.pipeline.text_record import TextRecord

LONGEST = 5  # characters of an n-gram
BUCKETS = 1 << 16
SMOOTHING = 0.2  # added to every count
# Languages known from word lists alone: theirs are words of everyday life, which would win everyday
# text of their relatives from the language of a declaration. In nats an n-gram.
RARE_PENALTY = 0.3
EXCERPT = 1500  # characters that are looked at: the first half of them and as many in the middle
TEMPERATURE = 0.12  # of the confidence, against the naive independence of n-grams
UNKNOWN = "und"
_MIX = np.uint64(0x9E3779B97F4A7C15)
_NOT_MARKS = re.compile(r"[^\w\u0300-\u036f\u0900-\u0dff\u0e00-\u109f\u1780-\u17ff]|[\d_]")

# Letters by script; a script that only one of the languages has names that language.
RANGES = {
    "Latn": "A-Za-z\u00c0-\u024f\u1e00-\u1eff",
    "Cyrl": "\u0400-\u052f",
    "Grek": "\u0370-\u03ff\u1f00-\u1fff",
    "Arab": "\u0600-\u06ff\u0750-\u077f\ufb50-\ufdff\ufe70-\ufeff",
    "Hebr": "\u0590-\u05ff",
    "Deva": "\u0900-\u097f",
    "Beng": "\u0980-\u09ff",
    "Guru": "\u0a00-\u0a7f",
    "Gujr": "\u0a80-\u0aff",
    "Orya": "\u0b00-\u0b7f",
    "Taml": "\u0b80-\u0bff",
    "Telu": "\u0c00-\u0c7f",
    "Knda": "\u0c80-\u0cff",
    "Mlym": "\u0d00-\u0d7f",
    "Sinh": "\u0d80-\u0dff",
    "Thai": "\u0e00-\u0e7f",
    "Laoo": "\u0e80-\u0eff",
    "Mymr": "\u1000-\u109f",
    "Khmr": "\u1780-\u17ff",
    "Geor": "\u10a0-\u10ff",
    "Armn": "\u0530-\u058f",
    "Hang": "\u1100-\u11ff\uac00-\ud7af",
    "Kana": "\u3040-\u30ff",
    "Hani": "\u3400-\u9fff\uf900-\ufaff",
}
_SCRIPTS = {name: re.compile(f"[{letters}]") for name, letters in RANGES.items()}
_SINDHI = re.compile("[\u067b\u0680\u067f\u0683\u0684\u0687\u068a\u068d\u068f\u0699\u06aa\u06b3]")


def script_of(text: str) -> str:
    """The ISO 15924 code of the script that most letters are of, "" for none.

    Kana in Chinese characters is "Jpan"; "Hani" without kana is Chinese of either kind.
    """
    if text.isascii():
        return "Latn" if _SCRIPTS["Latn"].search(text) else ""
    counts = {name: len(pattern.findall(text)) for name, pattern in _SCRIPTS.items()}
    counts["Jpan"] = counts["Kana"] + counts["Hani"] if counts["Kana"] * 8 > counts["Hani"] else 0
    counts["Kana"] = 0
    best = max(counts, key=lambda name: counts[name])
    return best if counts[best] else ""


def excerpt(text: str) -> str:
    """At most EXCERPT characters: the beginning, and as many from the middle."""
    if len(text) <= EXCERPT:
        return text
    middle = len(text) // 2
    return f"{text[: EXCERPT // 2]} {text[middle : middle + EXCERPT // 2]}"


def ngrams(text: str) -> np.ndarray:
    """int64 [n]: buckets of the n-grams of 1 to LONGEST letters, blanks at word edges included."""
    letters = " ".join(_NOT_MARKS.sub(" ", text.lower()).split())
    codes = np.frombuffer(f" {letters} ".encode("utf-32-le"), np.uint32).astype(np.uint64)
    keys, parts = np.zeros(len(codes), np.uint64), []
    for size in range(1, min(LONGEST, len(codes)) + 1):
        count = len(codes) - size + 1
        keys = (keys[:count] + codes[size - 1 : size - 1 + count] + np.uint64(size)) * _MIX
        keys ^= keys >> np.uint64(31)
        parts.append(keys)
    return (np.concatenate(parts) >> np.uint64(64 - BUCKETS.bit_length() + 1)).astype(np.int64)


@dataclasses.dataclass(frozen=True)
class LanguageTable:
    """Log-probabilities of n-grams by language: float32 [BUCKETS, languages]."""

    codes: tuple[str, ...]
    scores: np.ndarray

    def identify(self, text: str) -> tuple[str, float]:
        """(code of the language, confidence in 0..1); UNKNOWN for a text without letters."""
        text = excerpt(text)
        script = script_of(text)
        columns = self._columns.get(script, ())
        if len(columns) < 2 or script == "Arab" and _is_sindhi(text):
            return _alone(script, text), 1.0 if script else 0.0
        buckets, counts = np.unique(ngrams(text), return_counts=True)
        totals = counts @ self.scores[buckets][:, columns]
        totals = (totals - totals.max()) * TEMPERATURE
        shares = np.exp(totals) / np.exp(totals).sum()
        best = int(np.argmax(totals))
        return self.codes[columns[best]], float(shares[best])

    @functools.cached_property
    def _columns(self) -> Mapping[str, list[int]]:
        """The languages to choose among, by script."""
        columns: dict[str, list[int]] = {}
        for i, code in enumerate(self.codes):
            script = code[-4:]
            columns.setdefault("Hani" if script in ("Hans", "Hant") else script, []).append(i)
        return columns

    def save(self, path: str) -> None:
        """Write the table as .npz, whole or not at all."""
        with replacing(path) as file:
            np.savez_compressed(
                file, codes=np.array(self.codes), scores=self.scores.astype(np.float16)
            )

    @classmethod
    @functools.lru_cache(2)  # noqa: B019  a class lives as long as its cache
    def load(cls, path: str) -> LanguageTable:
        """Read a table from a path or URL. Raises ValueError for another kind of file."""
        try:
            with np.load(io.BytesIO(b"".join(chunks(path))), allow_pickle=False) as stored:
                codes, scores = tuple(map(str, stored["codes"])), stored["scores"]
        except (KeyError, ValueError, EOFError) as error:
            raise ValueError(f"{path}: not a table of languages ({error})") from error
        if scores.shape != (BUCKETS, len(codes)):
            raise ValueError(f"{path}: a table of {scores.shape}, not {(BUCKETS, len(codes))}")
        return cls(codes, scores.astype(np.float32))


def _alone(script: str, text: str) -> str:
    """The language of a script that only one has."""
    if script == "Arab":
        return "snd_Arab"
    codes = [code for code in LANGUAGES if code.endswith(script)] if script else []
    return codes[0] if codes else UNKNOWN


def _is_sindhi(text: str) -> bool:
    letters = len(_SCRIPTS["Arab"].findall(text))
    return len(_SINDHI.findall(text)) > 0.02 * letters


def train(texts: Iterable[tuple[str, str]]) -> LanguageTable:
    """A table from (code, text). Raises ValueError naming a code that is not of the 119."""
    counts: dict[str, np.ndarray] = {}
    for code, text in texts:
        if code not in LANGUAGES:
            raise ValueError(f"language {code!r} is not of the 119: {', '.join(LANGUAGES)}")
        table = counts.setdefault(code, np.zeros(BUCKETS, np.float64))
        table += np.bincount(ngrams(text), minlength=BUCKETS)
    codes = tuple(sorted(counts))
    smoothed = np.stack([counts[code] for code in codes], 1) + SMOOTHING
    penalties = np.array([RARE_PENALTY if code in GATITOS else 0.0 for code in codes])
    return LanguageTable(codes, (np.log(smoothed / smoothed.sum(0)) - penalties).astype(np.float32))


def build(
    model: str, keep: Sequence[str] = (), least: float = 0.5
) -> Callable[[TextRecord], TextRecord]:
    """The step: label `language` and `language_confidence`; drop what is not of `keep`.

    model: a table that `qwen3 data languages` wrote. keep: codes, or none for all that are known.
    least: confidence below which a text is dropped.
    """
    if unknown := [code for code in keep if code not in LANGUAGES]:
        raise ValueError(f"language: keep {unknown}; choose from {', '.join(LANGUAGES)}")
    table = LanguageTable.load(model)

    def apply(record: TextRecord) -> TextRecord:
        code, confidence = table.identify(record.text)
        record = record.labelled(language=code, language_confidence=round(confidence, 3))
        if code == UNKNOWN or keep and code not in keep:
            return record.drop("language", "unwanted", language=code)
        if confidence < least:
            return record.drop("language", "unsure", language=code, confidence=confidence)
        return record

    return apply
