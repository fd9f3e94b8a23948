"""Passages of the documents, and their search by BM25."""

from __future__ import annotations

import re
import sqlite3
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qwen3.research.source_files import SourceFile

LONGEST = 1200  # characters of a passage
MOST_TERMS = 64  # words of a query that are searched for
# Han, kana, Hangul and Thai put no space between words: their words are pairs of characters.
_UNSPACED = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]+")


@dataclass(frozen=True)
class Passage:
    """A stretch of one document."""

    number: int  # in the corpus
    path: str
    title: str
    page: int | None  # from 1; None in a document without pages
    text: str


def split(files: Sequence[SourceFile]) -> list[Passage]:
    """All passages: paragraphs of a page put together up to LONGEST characters."""
    passages: list[Passage] = []
    for file in files:
        is_paged = len(file.pages) > 1
        for number, page in enumerate(file.pages, 1):
            for text in _pieces(page):
                place = number if is_paged else None
                passages.append(Passage(len(passages), file.path, file.title, place, text))
    return passages


def _pieces(page: str) -> Iterator[str]:
    piece = ""
    for paragraph in re.split(r"\n\s*\n", page):
        for part in _parts(paragraph.strip()):
            if piece and len(piece) + len(part) + 2 > LONGEST:
                yield piece
                piece = ""
            piece = f"{piece}\n\n{part}" if piece else part
    if piece:
        yield piece


def _parts(paragraph: str) -> Iterator[str]:
    """A paragraph, cut at ends of sentences or at spaces where it is too long for a passage."""
    at = 0
    while len(paragraph) - at > LONGEST:
        window = paragraph[at : at + LONGEST]
        sentences = [match.end() for match in re.finditer(r"[.!?]\s|[。！？]", window)]
        ends = (*sentences[-1:], window.rfind(" ") + 1)
        length = next((end for end in ends if end > LONGEST // 2), LONGEST)
        at, start = at + length, at
        yield paragraph[start:at].strip()
    if at < len(paragraph):
        yield paragraph[at:].strip()


def words(text: str) -> list[str]:
    """What a text is found by: words without case, pairs of characters where none are spaced."""
    terms = []
    for run in re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()):
        spaced, at = [], 0
        for match in _UNSPACED.finditer(run):
            spaced.append(run[at : match.start()])
            pair = match.group()
            spaced += [pair[i : i + 2] for i in range(max(1, len(pair) - 1))]
            at = match.end()
        terms += [word for word in (*spaced, run[at:]) if word]
    return terms


class PassageIndex:
    """BM25 over passages, by SQLite's full-text search (FTS5) in memory.

    Raises ValueError for a Python whose SQLite was built without FTS5.
    """

    def __init__(self, passages: Sequence[Passage]):
        self.passages = list(passages)
        self._database = sqlite3.connect(":memory:")
        try:
            self._database.execute("CREATE VIRTUAL TABLE texts USING fts5(words, content='')")
        except sqlite3.OperationalError as error:
            raise ValueError(f"this Python's SQLite cannot search texts: {error}") from None
        rows = ((p.number, " ".join(words(f"{p.title} {p.text}"))) for p in self.passages)
        self._database.executemany("INSERT INTO texts (rowid, words) VALUES (?, ?)", rows)

    def search(self, query: str, count: int) -> list[Passage]:
        """The `count` best passages that share a word with the query, best first."""
        terms = list(dict.fromkeys(words(query)))[:MOST_TERMS]
        if not terms:
            return []
        rows = self._database.execute(
            "SELECT rowid FROM texts WHERE texts MATCH ? ORDER BY rank, rowid LIMIT ?",
            (" OR ".join(f'"{term}"' for term in terms), count),
        )
        return [self.passages[number] for (number,) in rows]
