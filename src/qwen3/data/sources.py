"""Where documents come from: text, JSON lines, Parquet, ArrayRecord, TFDS; each a random-access
sequence of `Document`.

`len(source)`, `source[i]` and `iter(source)` follow grain's RandomAccessDataSource. Iterating reads
one file at a time and is what `corpora.prepare` does. A broken row is an error that names file and
line; with `skip_broken=True` iteration leaves it out and remembers it in `source.skipped`.
"""

import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qwen3.data.files import BadData, Unpacked, find, line_starts, stamp

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
        for url in self.files:
            try:
                opened = self.open(url)
            except BadData as error:
                self._broken(error)
                continue
            for i in range(len(opened)):
                try:
                    yield opened[i]
                except BadData as error:
                    self._broken(error)
            opened.close()

    def _broken(self, error):
        if not self.skip_broken:
            raise BadData(
                f"{error}; correct it, or give skip_broken=True to leave it out"
            ) from error
        self.skipped.append(str(error))

    def _file(self, i):
        if i not in self._open_files:
            self._open_files[i] = self.open(self.files[i])
        return self._open_files[i]

    def open(self, url):
        """One file -> an object with len, [i] -> Document and close()."""
        raise NotImplementedError

    def describe(self):
        """What a prepared corpus is keyed by: options, and name, size and date of every file."""
        names = [f.name for f in dataclasses.fields(self) if f.name not in ("paths", "_")]
        options = {name: getattr(self, name) for name in names}
        return {"source": type(self).__name__, **options, "files": [stamp(f) for f in self.files]}

    def __repr__(self):
        return f"{type(self).__name__}({self.files!r})"

    def row(self, fields, where):
        """A mapping read from a file -> Document; BadData naming `where` if the text or a label
        is unfit.
        """
        content = fields.get(self.text)
        if isinstance(content, np.ndarray):
            content = content.astype(np.int64)
        elif isinstance(content, bytes):
            content = _decode(content, where)
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
        if self.unit not in _CUTS:
            raise ValueError(f"unit {self.unit!r}: choose from {sorted(_CUTS)}")
        super().__post_init__()

    def open(self, url):
        unpacked = Unpacked(url)
        starts, ends = _CUTS[self.unit](unpacked.data)
        return _Spans(unpacked, starts, ends, self._document)

    def _document(self, data, url, number, begin):
        text = _decode(data, f"{url}, byte {begin}")
        return Document(text.removeprefix(BOM) if begin == 0 else text, dict(self.labels))


@dataclasses.dataclass
class JsonLines(FileSource):
    """One JSON object a line, also .gz and .zst; blank lines are passed over."""

    def open(self, url):
        unpacked = Unpacked(url)
        starts, ends = _lines(unpacked.data)
        return _Spans(unpacked, starts, ends, self._document)

    def _document(self, data, url, number, begin):
        return self.row(_json(data, f"{url}, line {number}"), f"{url}, line {number}")


@dataclasses.dataclass
class Parquet(FileSource):
    """Apache Parquet, one row a document; a row group is held at a time. Needs pyarrow."""

    def open(self, url):
        return _ParquetFile(url, self)


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
        return _ArrayRecordFile(url, self)


FORMATS = {
    ".txt": TextFiles,
    ".md": TextFiles,
    ".jsonl": JsonLines,
    ".json": JsonLines,
    ".parquet": Parquet,
    ".array_record": ArrayRecord,
}


def open_source(path, **options):
    """The source that the file ending names (`FORMATS`, .gz and .zst looked through), with its
    options.
    """
    name = find(path)[0].removesuffix(".gz").removesuffix(".zst")
    end = next((end for end in FORMATS if name.endswith(end)), None)
    if end is None:
        raise ValueError(
            f"{path}: unknown kind of file; known endings: {sorted(FORMATS)}, plain or .gz or .zst"
        )
    known = {f.name for f in dataclasses.fields(FORMATS[end])} - {"paths", "_"}
    if unknown := set(options) - known:
        raise ValueError(
            f"{path}: {FORMATS[end].__name__} has no option {sorted(unknown)}; choose from "
            f"{sorted(known)}"
        )
    return FORMATS[end](path, **options)


class _Spans:
    """Byte ranges of one unpacked file, each parsed when asked for."""

    def __init__(self, unpacked, starts, ends, parse):
        data = unpacked.data
        # Blank spans are dropped; only short ones can be told apart cheaply, and only those are
        # looked at.
        short = np.flatnonzero(ends - starts <= 8)
        blank = [i for i in short if not data[starts[i] : ends[i]].strip()]
        keep = np.ones(len(starts), bool)
        keep[blank] = False
        self._numbers = np.flatnonzero(keep) + 1
        self._starts, self._ends, self._unpacked, self._parse = (
            starts[keep],
            ends[keep],
            unpacked,
            parse,
        )

    def __len__(self):
        return len(self._starts)

    def __getitem__(self, i):
        begin, end = int(self._starts[i]), int(self._ends[i])
        return self._parse(
            self._unpacked.data[begin:end], self._unpacked.url, int(self._numbers[i]), begin
        )

    def close(self):
        self._unpacked.close()


class _ParquetFile:
    def __init__(self, url, source):
        import pyarrow
        import pyarrow.parquet

        self._url, self._source = url, source
        self._copy = Unpacked(url, binary=True)
        try:
            self._file = pyarrow.parquet.ParquetFile(pyarrow.py_buffer(self._copy.data))
        except pyarrow.ArrowInvalid as error:
            raise BadData(f"{url}: not a whole Parquet file ({error})") from error
        groups = [
            self._file.metadata.row_group(g).num_rows for g in range(self._file.num_row_groups)
        ]
        self._starts = np.concatenate([[0], np.cumsum(groups, dtype=np.int64)])
        wanted = {source.text, *LABELS, *source.label_fields.values()}
        self._columns = [name for name in self._file.schema_arrow.names if name in wanted]
        self._group, self._rows = None, None

    def __len__(self):
        return int(self._starts[-1])

    def __getitem__(self, i):
        group = int(np.searchsorted(self._starts, i, side="right")) - 1
        if group != self._group:
            table = self._file.read_row_group(group, columns=self._columns)
            self._group, self._rows = group, table.to_pylist()
        return self._source.row(self._rows[i - int(self._starts[group])], f"{self._url}, row {i}")

    def close(self):
        self._file.close()
        self._rows = None


class _ArrayRecordFile:
    def __init__(self, url, source):
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        self._url, self._source = url, source
        self._copy = Unpacked(url, binary=True)
        try:
            self._records = ArrayRecordDataSource([self._copy.path])
            self._count = len(self._records)
        except (RuntimeError, ValueError) as error:
            raise BadData(f"{url}: not a whole ArrayRecord file ({error})") from error

    def __len__(self):
        return self._count

    def __getitem__(self, i):
        where, data = f"{self._url}, record {i}", self._records[i]
        fields = {self._source.text: data} if self._source.record == "text" else _json(data, where)
        return self._source.row(fields, where)

    def close(self):
        self._copy.close()


def _json(data, where):
    try:
        fields = json.loads(data)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadData(f"{where}: not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise BadData(f"{where}: a JSON {type(fields).__name__}, not an object")
    return fields


def _decode(data, where):
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadData(f"{where}: not UTF-8 (byte {error.start} on: {error.reason})") from error


def _label(value, where, field):
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return _decode(value, where)
    if isinstance(value, (bool, int, float, np.number)):
        return float(value)
    raise BadData(f"{where}: label {field!r} is {type(value).__name__}, not a word or a number")


def _lines(data):
    starts = line_starts(data)
    return starts[:-1], starts[1:]


def _whole(data):
    return np.array([0]), np.array([len(data)])


def _paragraphs(data):
    gaps = np.array([m.span() for m in re.finditer(rb"\n\s*\n", data)], np.int64).reshape(-1, 2)
    return np.append(0, gaps[:, 1]), np.append(gaps[:, 0], len(data))


_CUTS = {"file": _whole, "line": _lines, "paragraph": _paragraphs}
