"""Where documents come from: text, JSON lines, Parquet, ArrayRecord, TensorFlow Datasets; each a
random-access sequence of `Document`.

`len(source)`, `source[i]` and `iter(source)` follow grain's RandomAccessDataSource. Iterating reads
one file at a time and is what `corpora.prepare` does. A broken row is an error that names file and
line; with `skip_broken=True` iteration leaves it out and notes the message in `source.skipped`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from qwen3.data.document import Document, RowSource, decode, leave_out
from qwen3.data.jsonl import parse_row
from qwen3.data.readers import (
    UNITS,
    ArrayRecordFile,
    EmptyFile,
    OpenedFile,
    ParquetFile,
    TextSpans,
    lines,
)
from qwen3.data.unpacked import BadData, Unpacked, find, stamp

BOM = "\ufeff"


@dataclasses.dataclass
class FileSource(RowSource):
    """Documents of many files in sorted order. A subclass says how one file is read."""

    def __post_init__(self) -> None:
        super().__post_init__()
        paths = [self.paths] if isinstance(self.paths, (str, os.PathLike)) else list(self.paths)
        self.files = [url for path in paths for url in find(path)]
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
FORMATS: dict[str, type[RowSource]] = {
    ".txt": TextFiles,
    ".md": TextFiles,
    ".jsonl": JsonLinesFiles,
    ".json": JsonLinesFiles,
    ".parquet": Parquet,
    ".array_record": ArrayRecord,
}


def open_source(path: str | os.PathLike, **options: Any) -> RowSource:
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


def _kind(path: str) -> type[RowSource]:
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
