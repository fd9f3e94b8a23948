"""One opened file as a sequence of documents, by index: text and JSON lines, Parquet, ArrayRecord.

The source gives the function that makes a `Document` of what is read. A document or file that
cannot be read is a BadData naming it.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from qwen3.data import parquet
from qwen3.data.document import Document
from qwen3.data.unpacked import BadData, Unpacked, line_starts, optional

Buffer = bytes | mmap.mmap
Spans = tuple[np.ndarray, np.ndarray]  # int64 (starts, ends), in bytes
BLANKS = np.frombuffer(b" \t\r\n\x0b\x0c", np.uint8)


class OpenedFile(Protocol):
    """The documents of one file. An index beyond the last is an error of the caller."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Document: ...

    def close(self) -> None: ...


class EmptyFile:
    """A file without documents, in the place of one that is left out."""

    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: int) -> Document:
        raise IndexError(index)

    def close(self) -> None:
        pass


class TextSpans:
    """Documents that are byte ranges of one unpacked file; blank ranges are dropped.

    parse(data, url, number of the range from 1, its first byte) -> Document.
    """

    def __init__(
        self, unpacked: Unpacked, spans: Spans, parse: Callable[[bytes, str, int, int], Document]
    ):
        starts, ends = spans
        blank = _blank(unpacked.data, starts, ends)
        self._numbers = np.flatnonzero(~blank) + 1
        self._starts, self._ends = starts[~blank], ends[~blank]
        self._unpacked, self._parse = unpacked, parse

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Document:
        begin, end = int(self._starts[index]), int(self._ends[index])
        data = self._unpacked.data[begin:end]
        return self._parse(data, self._unpacked.url, int(self._numbers[index]), begin)

    def close(self) -> None:
        self._unpacked.close()


def _blank(data: Buffer, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """bool [spans]: those without anything but whitespace; few are looked at beyond a byte."""
    first = np.frombuffer(data, np.uint8)[np.minimum(starts, len(data) - 1)]
    blank = (ends <= starts) | np.isin(first, BLANKS)
    for i in np.flatnonzero(blank):
        blank[i] = not data[starts[i] : ends[i]].strip()
    return blank


class ParquetFile:
    """Rows of a Parquet file; the row group read last is held in memory.

    parse(row, where) -> Document. wanted: names of the columns to read.
    """

    def __init__(self, url: str, wanted: set[str], parse: Callable[[Mapping, str], Document]):
        reader = optional("pyarrow.parquet").ParquetFile
        self._url, self._parse = url, parse
        self._copy = Unpacked(url, binary=True)
        with parquet.damage_named(f"{url}: not a whole Parquet file"):
            self._file = reader(self._copy.path, memory_map=True)
            groups = range(self._file.num_row_groups)
            sizes = [self._file.metadata.row_group(g).num_rows for g in groups]
            self._columns = [name for name in self._file.schema_arrow.names if name in wanted]
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self._group = -1
        self._rows: list[dict[str, Any] | BadData] = []

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Document:
        group = int(np.searchsorted(self._starts, index, side="right")) - 1
        first = int(self._starts[group])
        if group != self._group:
            self._rows, self._group = self._read(group), group
        row = self._rows[index - first]
        if isinstance(row, BadData):
            raise row
        return self._parse(row, f"{self._url}, row {index + 1}")

    def _read(self, group: int) -> list[dict[str, Any] | BadData]:
        first, end = self._starts[group : group + 2].tolist()
        fault = f"{self._url}, rows {first + 1} to {end}: unreadable"
        with parquet.damage_named(fault):
            table = self._file.read_row_group(group, columns=self._columns)
            if table.num_rows != end - first:
                raise BadData(f"{fault} ({table.num_rows} rows stored)")
            return parquet.decoded(table, self._url, first + 1)

    def close(self) -> None:
        self._file.close()
        self._copy.close()
        self._rows = []


class ArrayRecordFile:
    """Records of an ArrayRecord file. parse(record, where) -> Document."""

    def __init__(self, url: str, parse: Callable[[bytes, str], Document]):
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        self._url, self._parse = url, parse
        self._copy = Unpacked(url, binary=True)
        try:
            self._records = ArrayRecordDataSource([self._copy.path])
            self._count = len(self._records)
        except (RuntimeError, ValueError) as error:
            raise BadData(f"{url}: not a whole ArrayRecord file ({error})") from error

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Document:
        where = f"{self._url}, record {index}"
        try:
            data = self._records[index]
        except (RuntimeError, ValueError) as error:
            raise BadData(f"{where}: unreadable ({error})") from error
        return self._parse(data, where)

    def close(self) -> None:
        self._copy.close()


def lines(data: Buffer) -> Spans:
    """The lines of a buffer, each with its newline."""
    starts = line_starts(data)
    return starts[:-1], starts[1:]


def _file(data: Buffer) -> Spans:
    return np.array([0]), np.array([len(data)])


def _paragraphs(data: Buffer) -> Spans:
    gaps = np.array([m.span() for m in re.finditer(rb"\n\s*\n", data)], np.int64).reshape(-1, 2)
    return np.append(0, gaps[:, 1]), np.append(gaps[:, 0], len(data))


# What a document of a text file is -> the spans of the documents.
UNITS: dict[str, Callable[[Buffer], Spans]] = {
    "file": _file,
    "line": lines,
    "paragraph": _paragraphs,
}
