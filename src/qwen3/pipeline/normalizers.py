"""Normalisation and de-noising: a table of named functions of a text.

Each has worked examples, which the tests run. What changed is noted in the record's history.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from qwen3.pipeline.text_record import TextRecord

# Byte-order marks, zero-width blanks, soft hyphens and marks of direction without a function in
# running text. The joiners U+200C and U+200D stay: Persian and Indic scripts spell with them.
INVISIBLE = re.compile("[\ufeff\u200b\u2060\u00ad\u200e\u200f\ufffe]")
CONTROLS = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f]")
LINE_ENDS = re.compile("\r\n?|[\u0085\u2028\u2029\x0c]")
BLANKS = "\t \u00a0\u1680\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
EMPTY_LINES = re.compile(r"\n{3,}")
# What UTF-8 looks like that was read as Latin-1 or Windows-1252: only such texts go to ftfy, which
# is five hundred times slower than all else here.
MOJIBAKE = re.compile("[\u00c2\u00c3\u00e2][\u0080-\u00bf\u20ac\u201a-\u201e\u2020-\u2026\u2122]")


@dataclass(frozen=True)
class Normalizer:
    """A function of a text with worked examples (text, what it becomes)."""

    change: Callable[[str], str]
    examples: tuple[tuple[str, str], ...] = field(repr=False)


def repair_mojibake(text: str) -> str:
    """Undo UTF-8 read as Latin-1 or Windows-1252 (ftfy), where the text shows signs of it."""
    if text.isascii() or not MOJIBAKE.search(text):
        return text
    import ftfy  # slow to import, and most texts never need it

    return ftfy.fix_encoding(text)


def unify_line_ends(text: str) -> str:
    """One newline for each kind of line end and for page breaks."""
    if text.isascii() and "\r" not in text and "\x0c" not in text:
        return text
    return LINE_ENDS.sub("\n", text)


def compose(text: str) -> str:
    """Unicode normalisation form C: one code point for a letter with its accent."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


NORMALIZERS = {
    "line_ends": Normalizer(
        unify_line_ends,
        (("a\r\nb\rc\x0cd", "a\nb\nc\nd"), ("a\u2028b", "a\nb")),
    ),
    "mojibake": Normalizer(
        repair_mojibake, (("cafÃ© â€“ naÃ¯ve", "café – naïve"), ("SÃO PAULO", "SÃO PAULO"))
    ),
    "controls": Normalizer(
        lambda text: CONTROLS.sub("", text), (("a\x00b\x1b[0m\tc", "ab[0m\tc"),)
    ),
    "invisible": Normalizer(
        lambda text: text if text.isascii() else INVISIBLE.sub("", text),
        (("\ufeffdo\u00adnor\u200b", "donor"), ("می\u200cروم", "می\u200cروم")),
    ),
    "nfc": Normalizer(compose, (("e\u0301", "é"), ("\u1112\u1161\u11ab", "한"))),
    "trailing_blanks": Normalizer(
        lambda text: "\n".join(line.rstrip(BLANKS) for line in text.split("\n")),
        (("a \t\nb\u3000", "a\nb"), ("a b", "a b")),
    ),
    "empty_lines": Normalizer(
        lambda text: EMPTY_LINES.sub("\n\n", text).strip("\n"), (("\n\na\n\n\n\nb\n", "a\n\nb"),)
    ),
}


def build(names: Sequence[str] = tuple(NORMALIZERS)) -> Callable[[TextRecord], TextRecord]:
    """The step: apply the named normalisers in order; a text that becomes empty is dropped."""
    if unknown := [name for name in names if name not in NORMALIZERS]:
        raise ValueError(f"normalize: names {unknown}; choose from {list(NORMALIZERS)}")

    def apply(record: TextRecord) -> TextRecord:
        text, changed = normalize(record.text, names)
        if changed:
            record = record.rewritten(text, f"normalize: {', '.join(changed)}")
        if not text.strip():
            return record.drop("normalize", "empty")
        return record

    return apply


def normalize(text: str, names: Sequence[str] = tuple(NORMALIZERS)) -> tuple[str, list[Any]]:
    """(the text after the named normalisers, the names of those that changed it)."""
    changed = []
    for name in names:
        after = NORMALIZERS[name].change(text)
        if after != text:
            changed.append(name)
        text = after
    return text, changed
