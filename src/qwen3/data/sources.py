"""Where documents come from: text, JSON lines, Parquet, ArrayRecord, TensorFlow Datasets; each a
random-access sequence of `Document`.

`len(source)`, `source[i]` and `iter(source)` follow grain's RandomAccessDataSource. Iterating reads
one file at a time and is what `corpora.prepare` does. A broken row is an error that names file and
line; with `skip_broken=True` iteration leaves it out and notes the message in `source.skipped`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from qwen3.data.jsonl import parse_row
from qwen3.data.readers import (
    UNITS,
    ArrayRecordFile,
    EmptyFile,
    OpenedFile,
    ParquetFile,
    TextSpans,
    decode,
    lines,
)
from qwen3.data.unpacked import BadData, Unpacked, find, stamp

LABELS = ("language", "domain", "quality", "safety")
BOM = "\ufeff"
LARGEST_LABEL = float(np.finfo(np.float32).max)  # corpora store numbers so


@dataclasses.dataclass(frozen=True)
class Document:
    """A text with its labels, or the tokens of one in a corpus that is tokenised already."""

    content: str | np.ndarray  # text, or token ids int [n]
    labels: Mapping[str, str | float | None]  # name -> word or number; None where it is missing
    place: str = dataclasses.field(default="", compare=False)  # file and line, for messages


class Source(Protocol):
    """What `corpora.prepare` reads: documents in a fixed order.

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
class FileSource:
    """Documents of many files in sorted order. A subclass says how one file is read."""

    paths: str | os.PathLike | Sequence[str | os.PathLike]  # path, folder, glob or URL, or several
    _: dataclasses.KW_ONLY
    text: str = "text"  # name of the field that holds the text
    # label -> field of the row; fields called language, domain, quality, safety are taken unasked.
    label_fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
    labels: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # given to every document
    skip_broken: bool = False  # leave out files and rows that cannot be read

    def __post_init__(self) -> None:
        paths = [self.paths] if isinstance(self.paths, (str, os.PathLike)) else list(self.paths)
        self.files = [url for path in paths for url in find(path)]
        self.skipped: list[str] = []
        self._open_files: dict[int, OpenedFile] = {}
        self._starts: np.ndarray | None = None  # first document of each file, and their number

    def __len__(self) -> int:
        return int(self._offsets()[-1])

    def __getitem__(self, index: int) -> Document:
        if not -len(self) <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        index, starts = index % len(self), self._offsets()
        file = int(np.searchsorted(starts, index, side="right")) - 1
        return self._file(file)[index - int(starts[file])]

    def __iter__(self) -> Iterator[Document]:
        self.skipped.clear()
        for url in self.files:
            opened = self._open(url)
            for i in range(len(opened)):
                try:
                    document = opened[i]
                except BadData as error:
                    leave_out(self, error)
                else:
                    yield document
            opened.close()

    def _offsets(self) -> np.ndarray:
        if self._starts is None:
            sizes = [len(self._file(i)) for i in range(len(self.files))]
            self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        return self._starts

    def _open(self, url: str) -> OpenedFile:
        try:
            return self.open(url)
        except BadData as error:
            leave_out(self, error)
            return EmptyFile()

    def _file(self, i: int) -> OpenedFile:
        if i not in self._open_files:
            self._open_files[i] = self._open(self.files[i])
        return self._open_files[i]

    def open(self, url: str) -> OpenedFile:
        """The documents of one file; BadData if it cannot be read."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """The facts that key a prepared corpus: options, and name, size and date of every file."""
        names = [f.name for f in dataclasses.fields(self) if f.name not in ("paths", "_")]
        options = {name: getattr(self, name) for name in names}
        return {"source": type(self).__name__, **options, "files": [stamp(f) for f in self.files]}

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


@dataclasses.dataclass
class TextFiles(FileSource):
    """Plain UTF-8 text, also .gz and .zst."""

    _: dataclasses.KW_ONLY
    unit: str = "file"  # what a document is: a "file", a "line", or a "paragraph"

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ValueError(f"unit {self.unit!r}: choose from {sorted(UNITS)}")
        super().__post_init__()

    def open(self, url: str) -> OpenedFile:
        unpacked = Unpacked(url)
        return TextSpans(unpacked, UNITS[self.unit](unpacked.data), self._document)

    def _document(self, data: bytes, url: str, number: int, begin: int) -> Document:
        where = f"{url}, byte {begin}"
        text = decode(data, where)
        return Document(text.removeprefix(BOM) if begin == 0 else text, dict(self.labels), where)


@dataclasses.dataclass
class JsonLinesFiles(FileSource):
    """One JSON object a line, also .gz and .zst; blank lines are passed over."""

    def open(self, url: str) -> OpenedFile:
        unpacked = Unpacked(url)
        return TextSpans(unpacked, lines(unpacked.data), self._document)

    def _document(self, data: bytes, url: str, number: int, begin: int) -> Document:
        where = f"{url}, line {number}"
        return self.row(parse_row(data, where), where)


@dataclasses.dataclass
class Parquet(FileSource):
    """Apache Parquet, one row a document; a row group is held at a time. Needs pyarrow."""

    def open(self, url: str) -> OpenedFile:
        return ParquetFile(url, self.wanted, self.row)


@dataclasses.dataclass
class ArrayRecord(FileSource):
    """ArrayRecord files."""

    _: dataclasses.KW_ONLY
    record: str = "json"  # what a record is: a "json" object, or bare UTF-8 "text"

    def open(self, url: str) -> OpenedFile:
        if self.record not in ("json", "text"):
            raise ValueError(f"record {self.record!r}: choose from ['json', 'text']")
        return ArrayRecordFile(url, self._document)

    def _document(self, data: bytes, where: str) -> Document:
        return self.row(
            {self.text: data} if self.record == "text" else parse_row(data, where), where
        )


TFDS = "tfds:"
FORMATS: dict[str, type[FileSource]] = {
    ".txt": TextFiles,
    ".md": TextFiles,
    ".jsonl": JsonLinesFiles,
    ".json": JsonLinesFiles,
    ".parquet": Parquet,
    ".array_record": ArrayRecord,
}


def open_source(path: str | os.PathLike, **options: Any) -> FileSource:
    """The source for a path, folder, glob or URL by its ending (`FORMATS`; .gz and .zst are looked
    through), or for "tfds:NAME".

    options: fields of that source. Raises ValueError naming an unknown option or ending.
    """
    path = os.fspath(path)
    kind = _kind(path)
    known = {f.name for f in dataclasses.fields(kind)} - {"paths", "_"}
    if unknown := set(options) - known:
        raise ValueError(
            f"{path}: {kind.__name__} has no option {sorted(unknown)}; choose from {sorted(known)}"
        )
    return kind(path.removeprefix(TFDS), **options)


def _kind(path: str) -> type[FileSource]:
    if path.startswith(TFDS):
        from qwen3.data.tfds_source import Tfds

        return Tfds
    name = find(path)[0].removesuffix(".gz").removesuffix(".zst")
    for end, kind in FORMATS.items():
        if name.endswith(end):
            return kind
    raise ValueError(
        f"{path}: unknown kind of file; known endings: {sorted(FORMATS)}, plain or .gz or .zst"
    )


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
