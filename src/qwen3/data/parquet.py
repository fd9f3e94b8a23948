"""Apache Parquet (pyarrow, extra `data`) as rows; a bad row or file is named, not guessed at."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

from qwen3.data.atomic import replacing
from qwen3.data.unpacked import BadData, filesystem, optional

BATCH = 1024  # rows decoded at a time


def read(path: str) -> Iterator[dict[str, Any] | BadData]:
    """The rows of a file, local or a URL; a BadData in the place of a row that cannot be decoded.

    Nulls of objects within a column are dropped: a column of objects has the fields of all of them,
    null in those that lack a field. Raises BadData for a file that is not whole.
    """
    system, target = filesystem(path)
    with system.open(target, "rb") as file, damage_named(f"{path}: not a whole Parquet file"):
        first = 1
        for batch in optional("pyarrow.parquet").ParquetFile(file).iter_batches(BATCH):
            for row in decoded(batch, path, first):
                yield row if isinstance(row, BadData) else _without_nulls(row)
            first += batch.num_rows


def decoded(batch: Any, path: str, first: int) -> list[dict[str, Any] | BadData]:
    """The rows of a pyarrow batch or table, with a BadData for each that cannot be decoded; `first`
    is the number in the file, from 1, of the first of them."""
    try:
        return batch.to_pylist()
    except (ValueError, OverflowError):  # text that is not UTF-8, a date that Python lacks
        return [_row(batch.slice(i, 1), f"{path}, row {first + i}") for i in range(batch.num_rows)]


def _row(batch: Any, where: str) -> dict[str, Any] | BadData:
    try:
        return batch.to_pylist()[0]
    except (ValueError, OverflowError) as error:
        return BadData(f"{where}: unreadable ({error})")


def _without_nulls(row: dict[str, Any]) -> dict[str, Any]:
    return {name: _cleaned(value) for name, value in row.items()}


def _cleaned(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _cleaned(item) for name, item in value.items() if item is not None}
    return [_cleaned(item) for item in value] if isinstance(value, list) else value


@contextmanager
def damage_named(what: str) -> Iterator[None]:
    """Turn pyarrow's errors about a file's content into BadData; errors of the disk pass."""
    pyarrow = optional("pyarrow")
    try:
        yield
    except BadData:
        raise
    except (OSError, ValueError, LookupError, OverflowError, pyarrow.ArrowException) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise BadData(f"{what} ({error})") from error


def write(path: Any, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace `path` by a file of rows.

    Raises ValueError for rows whose fields have no common type, and for one that would be read back
    as another, such as an object with a null in it.
    """
    pyarrow, parquet = optional("pyarrow"), optional("pyarrow.parquet")
    table = [dict(row) for row in rows]
    # pyarrow would take the columns of the first row for those of all.
    names = dict.fromkeys(chain.from_iterable(table))
    try:
        stored = pyarrow.table(
            {name: pyarrow.array([row.get(name) for row in table]) for name in names}
        )
        _check_copy(path, table, stored)
        with replacing(path) as file:
            parquet.write_table(stored, file)
    except (pyarrow.ArrowException, UnicodeEncodeError, OverflowError) as error:
        raise ValueError(f"{path}: rows that Parquet cannot hold: {error}") from error


def _check_copy(path: Any, table: Sequence[dict[str, Any]], stored: Any) -> None:
    """ValueError for a row that would not be read back as it is."""
    names = dict.fromkeys(stored.column_names)
    for number, (row, copy) in enumerate(zip(table, stored.to_pylist(), strict=True), 1):
        row, copy = {**names, **row}, _without_nulls(copy)
        if row != copy and _text(row) != _text(copy):
            raise ValueError(f"{path}, row {number}: Parquet would change it: {str(row)[:80]}")


def _text(row: Mapping[str, Any]) -> str:
    """A row as text, in which NaN equals NaN and a tuple a list."""
    return json.dumps(row, sort_keys=True, default=str)
