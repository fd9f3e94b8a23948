"""Where documents come from: text, JSON lines, Parquet, ArrayRecord, TFDS; each a random-access
sequence of `Document`.

`len(source)`, `source[i]` and `iter(source)` follow grain's RandomAccessDataSource. Iterating reads
one file at a time and is what `corpora.prepare` does. A broken row is an error that names file and
line; with `skip_broken=True` iteration leaves it out and remembers it in `source.skipped`.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qwen3.data.jsonl import parse_row
from qwen3.data.readers import (
    CUTS,
    ArrayRecordFile,
    Nothing,
    ParquetFile,
    Spans,
    decode,
    lines,
)
from qwen3.data.unpacked import BadData, Unpacked, find, stamp

LABELS = ("language", "domain", "quality", "safety")
BOM = "\ufeff"


@dataclasses.dataclass(frozen=True)
class Document:
    """Text, or token ids [n] of a corpus that is tokenised already, with labels: name -> word or
    number.
    """

    content: str | np.ndarray
    labels: Mapping[str, str | float]


@dataclasses.dataclass
class FileSource:
    """Documents of many files in sorted order. A subclass says how one file is read.

    paths: path, folder, glob or URL, or several. text: name of the field that holds the text.
    label_fields: label -> field of the row; fields called language, domain, quality, safety are
        taken unasked.
    labels: label -> value given to every document.
    """

    paths: str | os.PathLike | Sequence[str | os.PathLike]
    _: dataclasses.KW_ONLY
    text: str = "text"
    label_fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
    labels: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    skip_broken: bool = False

    def __post_init__(self):
        paths = [self.paths] if isinstance(self.paths, (str, os.PathLike)) else list(self.paths)
        self.files = [url for path in paths for url in find(path)]
        self.skipped: list[str] = []
        self._open_files: dict[int, Any] = {}
        self._starts = None

    def __len__(self):
        if self._starts is None:
            sizes = [len(self._file(i)) for i in range(len(self.files))]
            self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        return int(self._starts[-1])

    def __getitem__(self, index):
        if not -len(self) <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        index %= len(self)
        file = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._file(file)[index - int(self._starts[file])]

    def __iter__(self):
        self.skipped.clear()
        for url in self.files:
            opened = self._open(url)
            for i in range(len(opened)):
                try:
                    yield opened[i]
                except BadData as error:
                    self._broken(error)
            opened.close()

    def _open(self, url):
        try:
            return self.open(url)
        except BadData as error:
            self._broken(error)
            return Nothing()

    def _broken(self, error):
        if not self.skip_broken:
            raise BadData(
                f"{error}; correct it, or give skip_broken=True to leave it out"
            ) from error
        self.skipped.append(str(error))

    def _file(self, i):
        if i not in self._open_files:
            self._open_files[i] = self._open(self.files[i])
        return self._open_files[i]

    def open(self, url):
        """One file -> an object with len, [i] -> Document and close()."""
        raise NotImplementedError

    def describe(self):
        """What a prepared corpus is keyed by: options, and name, size and date of every file."""
        names = [f.name for f in dataclasses.fields(self) if f.name not in ("paths", "_")]
        options = {name: getattr(self, name) for name in names}
        return {"source": type(self).__name__, **options, "files": [stamp(f) for f in self.files]}

    @property
    def wanted(self):
        """Names of the fields that are read, where a format can read some alone."""
        return {self.text, *LABELS, *self.label_fields.values()}

    def row(self, fields, where):
        """A mapping read from a file -> Document; BadData naming `where` if the text or a label
        is unfit.
        """
        content = fields.get(self.text)
        if isinstance(content, (list, np.ndarray)):
            content = _ids(content, where)
        elif isinstance(content, bytes):
            content = decode(content, where)
        elif not isinstance(content, str):
            found = (
                f"is {type(content).__name__}"
                if self.text in fields
                else f"not in {sorted(fields)}"
            )
            raise BadData(f"{where}: the text field {self.text!r} {found}")
        names = {name: name for name in LABELS if name in fields} | dict(self.label_fields)
        labels = {name: _label(fields.get(field), where, field) for name, field in names.items()}
        return Document(content, labels | dict(self.labels))


@dataclasses.dataclass
class TextFiles(FileSource):
    """Plain UTF-8 text, also .gz and .zst. unit: a document is a whole `file`, a `line`, or a
    `paragraph`.
    """

    _: dataclasses.KW_ONLY
    unit: str = "file"

    def __post_init__(self):
        if self.unit not in CUTS:
            raise ValueError(f"unit {self.unit!r}: choose from {sorted(CUTS)}")
        super().__post_init__()

    def open(self, url):
        unpacked = Unpacked(url)
        starts, ends = CUTS[self.unit](unpacked.data)
        return Spans(unpacked, starts, ends, self._document)

    def _document(self, data, url, number, begin):
        text = decode(data, f"{url}, byte {begin}")
        return Document(text.removeprefix(BOM) if begin == 0 else text, dict(self.labels))


@dataclasses.dataclass
class JsonLinesFiles(FileSource):
    """One JSON object a line, also .gz and .zst; blank lines are passed over."""

    def open(self, url):
        unpacked = Unpacked(url)
        starts, ends = lines(unpacked.data)
        return Spans(unpacked, starts, ends, self._document)

    def _document(self, data, url, number, begin):
        return self.row(parse_row(data, f"{url}, line {number}"), f"{url}, line {number}")


@dataclasses.dataclass
class Parquet(FileSource):
    """Apache Parquet, one row a document; a row group is held at a time. Needs pyarrow."""

    def open(self, url):
        return ParquetFile(url, self)


@dataclasses.dataclass
class ArrayRecord(FileSource):
    """ArrayRecord files whose records are JSON objects (`record="json"`) or bare UTF-8 text
    (`record="text"`).
    """

    _: dataclasses.KW_ONLY
    record: str = "json"

    def open(self, url):
        if self.record not in ("json", "text"):
            raise ValueError(f"record {self.record!r}: choose from ['json', 'text']")
        return ArrayRecordFile(url, self)


FORMATS = {
    ".txt": TextFiles,
    ".md": TextFiles,
    ".jsonl": JsonLinesFiles,
    ".json": JsonLinesFiles,
    ".parquet": Parquet,
    ".array_record": ArrayRecord,
}


def open_source(path, **options):
    """The source for a path, folder, glob or URL by its ending (`FORMATS`, .gz and .zst looked
    through), or for "tfds:NAME". options: fields of that source. ValueError names unknown ones."""
    if str(path).startswith("tfds:"):
        from qwen3.data.tfds_source import Tfds as kind

        path = str(path).removeprefix("tfds:")
    else:
        kind = _kind(path)
    known = {f.name for f in dataclasses.fields(kind)} - {"paths", "_"}
    if unknown := set(options) - known:
        raise ValueError(
            f"{path}: {kind.__name__} has no option {sorted(unknown)}; choose from {sorted(known)}"
        )
    return kind(path, **options)


def _kind(path):
    name = find(path)[0].removesuffix(".gz").removesuffix(".zst")
    for end, kind in FORMATS.items():
        if name.endswith(end):
            return kind
    raise ValueError(
        f"{path}: unknown kind of file; known endings: {sorted(FORMATS)}, plain or .gz or .zst"
    )


def _ids(content, where):
    ids = np.asarray(content)
    if ids.ndim != 1 or not (np.issubdtype(ids.dtype, np.integer) or not ids.size):
        raise BadData(f"{where}: a list that is not one of token ids")
    return ids.astype(np.int64)


def _label(value, where, field):
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return decode(value, where)
    if isinstance(value, (bool, int, float, np.number)):
        return float(value)
    raise BadData(f"{where}: label {field!r} is {type(value).__name__}, not a word or a number")
