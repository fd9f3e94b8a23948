"""Documents, what a source of them is, and how a row of a file becomes one."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from qwen3.data.unpacked import BadData

LABELS = ("language", "domain", "quality", "safety")
LARGEST_LABEL = float(np.finfo(np.float32).max)  # corpora store numbers so


@dataclasses.dataclass(frozen=True)
class Document:
    """A text with its labels, or the tokens of one in a corpus that is tokenised already."""

    content: str | np.ndarray  # text, or token ids int [n]
    labels: Mapping[str, str | float | None]  # name -> word or number; None where it is missing
    place: str = dataclasses.field(default="", compare=False)  # file and line, for messages


class Source(Protocol):
    """Documents in a fixed order, as `corpora.prepare` reads them.

    A source with a true `skip_broken` lets documents that cannot be used be left out; `skipped`
    then has a message for each.
    """

    @property
    def skipped(self) -> list[str]: ...

    def __iter__(self) -> Iterator[Document]: ...

    def describe(self) -> dict[str, Any]:
        """The facts that key a prepared corpus: they change when the documents may."""
        ...


def leave_out(source: Source, error: BadData) -> None:
    """Note `error` in `source.skipped` where the source skips what is broken, else raise it."""
    if not getattr(source, "skip_broken", False):
        raise BadData(f"{error}; correct it, or give skip_broken=True to leave it out") from error
    source.skipped.append(str(error))


@dataclasses.dataclass
class RowSource:
    """A source whose documents are rows with fields: where they are and which fields are read."""

    paths: str | os.PathLike | Sequence[str | os.PathLike]  # path, folder, glob or URL, or several
    _: dataclasses.KW_ONLY
    text: str = "text"  # name of the field that holds the text
    # label -> field of the row; fields called language, domain, quality, safety are taken unasked.
    label_fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
    labels: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # given to every document
    skip_broken: bool = False  # leave out files and rows that cannot be read

    def __post_init__(self) -> None:
        self.skipped: list[str] = []

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> Document:
        raise NotImplementedError

    def __iter__(self) -> Iterator[Document]:
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        raise NotImplementedError

    @property
    def wanted(self) -> set[str]:
        """Names of the fields that are read, where a format can read some alone."""
        return {self.text, *LABELS, *self.label_fields.values()}

    def row(self, fields: Mapping[str, Any], where: str) -> Document:
        """A row of a file -> Document; BadData naming `where` if its text or a label is unfit."""
        content = fields.get(self.text)
        if isinstance(content, (list, np.ndarray)):
            content = _ids(content, where)
        elif isinstance(content, bytes):
            content = decode(content, where)
        elif not isinstance(content, str):
            fault = (
                f"is {type(content).__name__}"
                if self.text in fields
                else f"not in {sorted(fields)}"
            )
            raise BadData(f"{where}: the text field {self.text!r} {fault}")
        names = {name: name for name in LABELS if name in fields} | dict(self.label_fields)
        labels = {name: _label(fields.get(field), where, field) for name, field in names.items()}
        return Document(content, labels | dict(self.labels), where)


def decode(data: bytes, where: str) -> str:
    """UTF-8 bytes -> str, or BadData naming `where`."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadData(f"{where}: not UTF-8 (byte {error.start} on: {error.reason})") from error


def _ids(content: Any, where: str) -> np.ndarray:
    try:
        ids = np.asarray(content)
    except ValueError:  # lists of different lengths
        ids = np.zeros((0, 0))
    if ids.ndim != 1 or not (np.issubdtype(ids.dtype, np.integer) or not ids.size):
        raise BadData(f"{where}: a list that is not one of token ids")
    if ids.size and ids.max() > np.iinfo(np.int64).max:
        raise BadData(f"{where}: token id {ids.max()}")
    return ids.astype(np.int64)


def _label(value: Any, where: str, field: str) -> str | float | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return decode(value, where)
    if isinstance(value, (bool, int, float, np.number)):
        if value != value or -LARGEST_LABEL <= value <= LARGEST_LABEL:  # NaN is a missing number
            return float(value)
        raise BadData(f"{where}: label {field!r} is {str(value)[:20]}, beyond a 32-bit float")
    raise BadData(f"{where}: label {field!r} is {type(value).__name__}, not a word or a number")
