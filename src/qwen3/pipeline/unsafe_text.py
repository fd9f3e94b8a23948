"""Texts that are dropped by the words they use or the site they come from.

Word lists are the user's (C4 and many others take the List of Dirty, Naughty, Obscene and Otherwise
Bad Words): a file of JSON lines {"language": code or "*", "words": [...]}. A list alone drops
medical and legal text, so a text goes only where the listed words are a share of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlsplit

from qwen3.data.jsonl import read_rows
from qwen3.data.unpacked import chunks
from qwen3.pipeline.text_record import TextRecord

ADDRESS_LABEL = "url"  # label that holds where a text comes from


def build(
    words: str = "", sites: str = "", most: float = 0.01, least: int = 3
) -> Callable[[TextRecord], TextRecord]:
    """The step. words: file of word lists; sites: file of host names, one a line.

    A text is dropped from `least` listed words on if they are more than `most` of its words, or if
    its label `url` is of a listed host or one below it.
    """
    if not words and not sites:
        raise ValueError("safety: give a file of words, of sites, or both")
    if not 0 <= most <= 1:
        raise ValueError(f"safety: most {most} is not a share")
    patterns = _patterns(words) if words else {}
    hosts = set(b"".join(chunks(sites)).decode().split()) if sites else set()

    def apply(record: TextRecord) -> TextRecord:
        host = urlsplit(str(record.labels.get(ADDRESS_LABEL) or "")).hostname or ""
        parts = host.split(".")
        for i in range(len(parts)):
            if ".".join(parts[i:]) in hosts:
                return record.drop("safety", "site", site=".".join(parts[i:]))
        language = str(record.labels.get("language") or "eng_Latn")
        matches = [
            match.group()
            for key in (language, "*")
            if key in patterns
            for match in patterns[key].finditer(record.text)
        ]
        bound = max(least, most * max(len(record.text.split()), len(record.text) / 20))
        if matches and len(matches) >= bound:
            evidence = sorted(set(map(str.lower, matches)))[:5]
            return record.drop("safety", "words", matches=len(matches), words=evidence)
        return record

    return apply


def _patterns(path: str) -> dict[str, re.Pattern[str]]:
    lists: dict[str, list[str]] = {}
    for _, row in read_rows(path, fields=("language", "words")):
        lists.setdefault(row["language"], []).extend(row["words"])
    for language, entries in lists.items():
        if not all(isinstance(entry, str) and entry.strip() for entry in entries):
            raise ValueError(f"{path}: the words of {language!r} are not all text")
    return {
        language: re.compile(
            "|".join(_bounded(entry) for entry in sorted(set(entries), key=lambda w: (-len(w), w))),
            re.IGNORECASE,
        )
        for language, entries in lists.items()
    }


def _bounded(word: str) -> str:
    """A pattern for the word as a whole; in scripts without blanks, wherever it stands."""
    is_spaced = word[0] < "\u0e00" or "\uac00" <= word[0] <= "\ud7af"
    return rf"\b{re.escape(word)}\b" if is_spaced else re.escape(word)
