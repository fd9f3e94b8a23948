"""JSON lines and Parquet, row by row: the one reader and the one writer of the project's own files.

Conversations, problems, samples and documents are all stored so. A corpus that is to be read by
index goes through `sources`, which shares `parse_row`.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import IO, Any

from qwen3.data import parquet
from qwen3.data.atomic import replacing
from qwen3.data.unpacked import BadData, chunks, compression, optional

LONGEST_LINE = 1 << 28  # bytes; a longer line is refused, as it is held in memory
PARQUET, LIST = ".parquet", ".json"
BOM = b"\xef\xbb\xbf"
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def read_rows(
    path: Any,
    *,
    fields: Collection[str] | Mapping[str, type] = (),
    skipped: list[str] | None = None,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, row) of a file of JSON lines, or of Parquet where its name ends so.

    A file named .json may also be one JSON list of rows, which is read as a whole. path: local or a
    URL, plain, .gz or .zst. Only "\\n" ends a line (a text may hold U+2028); blank lines are passed
    over, a byte-order mark is dropped. fields: those that every row must have; a mapping gives the
    types of their values too. Raises ValueError naming file, line and fault for a row that is not a
    JSON object in UTF-8 (cut off, binary, nested too deep, a number of thousands of digits, a lone
    surrogate) or has other fields; with `skipped` such rows are left out and their messages
    appended to it. A compressed file that is cut off or damaged, a list that is no JSON, and a file
    that is not Parquet, is a ValueError in any case.
    """
    path = str(path)
    if path.endswith(PARQUET):
        rows: Iterator[tuple[int, dict | BadData]] = enumerate(parquet.read(path), 1)
    else:
        rows = _listed_rows(path) if _is_list(path) else _json_rows(path)
    for number, row in rows:
        if isinstance(row, dict):
            fault = _fault(row, fields)
            if not fault:
                yield number, row
                continue
            row = BadData(f"{place(path, number)}: {fault}")
        if skipped is None:
            raise row
        skipped.append(str(row))


def _fault(row: Mapping[str, Any], fields: Collection[str] | Mapping[str, type]) -> str:
    """What is wrong with a row's fields, "" for nothing."""
    if missing := [name for name in fields if name not in row]:
        return f"no field {missing}; wanted: {list(fields)}"
    for name, kind in fields.items() if isinstance(fields, Mapping) else ():
        if not isinstance(row[name], kind):
            return f"the field {name!r} is {str(row[name])[:40]!r}, wanted a {kind.__name__}"
    return ""


def place(path: Any, number: int) -> str:
    """How messages name a row of a file: "a.jsonl, line 3", "a.parquet, row 3"."""
    return f"{path}, {'row' if _plain_name(path).endswith((PARQUET, LIST)) else 'line'} {number}"


def _plain_name(path: Any) -> str:
    """The name without the ending of its compression."""
    return str(path).removesuffix(compression(str(path)) or "")


def parse_row(data: bytes, where: str) -> dict[str, Any]:
    """One line of JSON in UTF-8 -> dict; BadData naming `where` and what is wrong with it."""
    return _as_row(_parse(data, where), where)


def _as_row(value: Any, where: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise BadData(f"{where}: a JSON {type(value).__name__}, not an object")


def _parse(data: bytes, where: str) -> Any:
    """JSON in UTF-8; BadData naming `where` and what is wrong with it."""
    if b"\0" in data:
        raise BadData(f"{where}: binary data, not text (a zero byte)")
    try:
        row = json.loads(data.decode("utf-8-sig"))
        if _SURROGATE.search(data):  # "\ud800" is JSON, but could not be encoded or tokenised
            json.dumps(row, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        fault = f"not JSON ({error.msg} at character {error.colno}): {error.doc[:60]!r}"
    except UnicodeDecodeError as error:
        fault = f"not JSON (byte {error.start} is not UTF-8): {data[:60]!r}"
    except UnicodeEncodeError as error:
        fault = f"a lone surrogate ({error.object[error.start]!a}), which is no text"
    except RecursionError:
        fault = f"nested too deep: {data[:60]!r}"
    except ValueError:
        fault = "a whole number of more digits than Python reads"
    else:
        return row
    raise BadData(f"{where}: {fault}")


def line(row: Mapping[str, Any]) -> str:
    """A row as one line of JSON with its newline."""
    return json.dumps(row, ensure_ascii=False) + "\n"


def write_rows(path: Any, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSON lines, or as Parquet where the name of `path` ends so, all or none.

    The file takes the place of an older one once it is whole (`atomic.replacing`); .gz and .zst are
    compressed. Raises ValueError for a text that is not Unicode (a lone surrogate) and for rows
    whose fields have no common Parquet type.
    """
    if str(path).endswith(PARQUET):
        parquet.write(path, rows)
        return
    with replacing(path) as file, _packed(path, file) as out:
        for number, row in enumerate(rows, 1):
            try:
                out.write(line(row).encode())
            except UnicodeEncodeError as error:
                surrogate = error.object[error.start]
                raise ValueError(f"{place(path, number)}: a lone surrogate {surrogate!a}") from None


def _json_rows(path: str) -> Iterator[tuple[int, dict | BadData]]:
    for number, text in enumerate(_lines(path), 1):
        if text.removeprefix(BOM).strip():
            try:
                yield number, parse_row(text, place(path, number))
            except BadData as error:
                yield number, error


def _is_list(path: str) -> bool:
    """Whether a file that is named .json begins as a JSON list."""
    if not _plain_name(path).endswith(LIST):
        return False
    beginnings = (chunk.removeprefix(BOM).lstrip() for chunk in chunks(path))
    return next(filter(None, beginnings), b"").startswith(b"[")


def _listed_rows(path: str) -> Iterator[tuple[int, dict | BadData]]:
    data = bytearray()
    for chunk in chunks(path):
        data += chunk
        if len(data) > LONGEST_LINE:
            raise BadData(f"{path}: a list of more than {LONGEST_LINE >> 20} MiB; use JSON lines")
    for number, value in enumerate(_parse(bytes(data), path), 1):
        try:
            yield number, _as_row(value, place(path, number))
        except BadData as error:
            yield number, error


def _lines(path: str) -> Iterator[bytes]:
    """The lines of a file without their newlines."""
    parts: list[bytes] = []
    size, count = 0, 0
    try:
        for chunk in chunks(path):
            start = 0
            while (end := chunk.find(b"\n", start)) >= 0:
                yield b"".join([*parts, chunk[start:end]])
                parts, size, count, start = [], 0, count + 1, end + 1
            parts.append(chunk[start:])
            size += len(chunk) - start
            if size > LONGEST_LINE:
                raise BadData(f"{path}: a line of more than {LONGEST_LINE >> 20} MiB")
    except BadData as error:
        raise BadData(f"{error}, after line {count}") from error
    yield b"".join(parts)


@contextlib.contextmanager
def _packed(path: Any, file: IO[bytes]) -> Iterator[IO[bytes]]:
    """`file`, written through the compressor that the name of `path` asks for."""
    end = compression(str(path))
    if end == ".gz":
        with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as packed:
            yield packed  # type: ignore[misc]  # a GzipFile is a binary file in all but name
    elif end == ".zst":
        compressor = optional("zstandard").ZstdCompressor()
        with compressor.stream_writer(file, closefd=False) as packed:
            yield packed
    else:
        yield file
