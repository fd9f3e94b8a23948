"""Apache Parquet (pyarrow, extra `data`) as rows; a bad row or file is named, not guessed at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

from qwen3.data.atomic import replacing
from qwen3.data.unpacked import BadData, filesystem, optional

BATCH = 1024  # rows decoded at a time


def read(path: str) -> Iterator[dict[str, Any] | BadData]:
    """The rows of a file, local or a URL; a BadData in the place of a row that cannot be decoded.
    Raises BadData for a file that is not whole."""
    system, target = filesystem(path)
    with system.open(target, "rb") as file, damage_named(f"{path}: not a whole Parquet file"):
        first = 1
        for batch in optional("pyarrow.parquet").ParquetFile(file).iter_batches(BATCH):
            yield from decoded(batch, path, first)
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
    """Replace `path` by a file of rows; ValueError for rows whose fields have no common type."""
    pyarrow, parquet = optional("pyarrow"), optional("pyarrow.parquet")
    table = [dict(row) for row in rows]
    # pyarrow would take the columns of the first row for those of all.
    names = dict.fromkeys(chain.from_iterable(table))
    try:
        columns = {name: pyarrow.array([row.get(name) for row in table]) for name in names}
    except (pyarrow.ArrowException, UnicodeEncodeError, OverflowError) as error:
        raise ValueError(f"{path}: rows that Parquet cannot hold: {error}") from error
    with replacing(path) as file:
        parquet.write_table(pyarrow.table(columns), file)
