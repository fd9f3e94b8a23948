"""One opened file as a sequence of documents, by index: text and JSON lines, Parquet, ArrayRecord.

`row(fields, where)` and `parse(...)` come from the source: they make a `Document` of what is read.
"""

import re

import numpy as np

from qwen3.data.jsonl import parse_row
from qwen3.data.unpacked import BadData, Unpacked, line_starts, optional


class Nothing(list):
    """A file without documents."""

    def close(self):
        pass


class Spans:
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
        self._starts, self._ends = starts[keep], ends[keep]
        self._unpacked, self._parse = unpacked, parse

    def __len__(self):
        return len(self._starts)

    def __getitem__(self, i):
        begin, end = int(self._starts[i]), int(self._ends[i])
        return self._parse(
            self._unpacked.data[begin:end], self._unpacked.url, int(self._numbers[i]), begin
        )

    def close(self):
        self._unpacked.close()


class ParquetFile:
    """Rows of a Parquet file; the row group read last is held."""

    def __init__(self, url, source):
        pyarrow, parquet = optional("pyarrow"), optional("pyarrow.parquet")
        self._url, self._source = url, source
        self._copy = Unpacked(url, binary=True)
        try:
            self._file = parquet.ParquetFile(self._copy.path, memory_map=True)
        except pyarrow.ArrowInvalid as error:
            raise BadData(f"{url}: not a whole Parquet file ({error})") from error
        groups = [
            self._file.metadata.row_group(g).num_rows for g in range(self._file.num_row_groups)
        ]
        self._starts = np.concatenate([[0], np.cumsum(groups, dtype=np.int64)])
        names = self._file.schema_arrow.names
        self._columns = [name for name in names if name in source.wanted]
        self._errors = (OSError, pyarrow.ArrowException)
        self._group, self._rows = None, None

    def __len__(self):
        return int(self._starts[-1])

    def __getitem__(self, i):
        group = int(np.searchsorted(self._starts, i, side="right")) - 1
        if group != self._group:
            try:
                table = self._file.read_row_group(group, columns=self._columns)
            except self._errors as error:
                raise BadData(f"{self._url}, row group {group}: unreadable ({error})") from error
            self._group, self._rows = group, table.to_pylist()
        return self._source.row(self._rows[i - int(self._starts[group])], f"{self._url}, row {i}")

    def close(self):
        self._file.close()
        self._copy.close()
        self._rows = None


class ArrayRecordFile:
    """Records of an ArrayRecord file."""

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
        where = f"{self._url}, record {i}"
        try:
            data = self._records[i]
        except (RuntimeError, ValueError) as error:
            raise BadData(f"{where}: unreadable ({error})") from error
        fields = (
            {self._source.text: data} if self._source.record == "text" else parse_row(data, where)
        )
        return self._source.row(fields, where)

    def close(self):
        self._copy.close()


def decode(data, where):
    """UTF-8 bytes -> str, or BadData naming `where`."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadData(f"{where}: not UTF-8 (byte {error.start} on: {error.reason})") from error


def lines(data):
    """int64 (starts, ends) of the lines of a buffer."""
    starts = line_starts(data)
    return starts[:-1], starts[1:]


def _whole(data):
    return np.array([0]), np.array([len(data)])


def _paragraphs(data):
    gaps = np.array([m.span() for m in re.finditer(rb"\n\s*\n", data)], np.int64).reshape(-1, 2)
    return np.append(0, gaps[:, 1]), np.append(gaps[:, 0], len(data))


CUTS = {"file": _whole, "line": lines, "paragraph": _paragraphs}
