"""Files that are replaced in one step: a reader, or a run that was killed, finds the old content or
the new one, never a part of it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem


@contextmanager
def replacing(path: Any) -> Iterator[IO[bytes]]:
    """A binary file for the new content of `path` (a local path or a URL such as gs://bucket/x).

    It takes the place of `path` when the block ends, and is then on the disk, not only in the page
    cache; when the block raises, `path` stays as it was. Folders above a local path are made.
    Raises OSError where the disk or store does.
    """
    system, target = fsspec.core.url_to_fs(str(path))
    if not isinstance(system, LocalFileSystem):
        # An object of a store appears as a whole when its upload ends.
        with tempfile.NamedTemporaryFile(prefix="qwen3-upload-") as file:
            yield file
            file.flush()
            system.put_file(file.name, target)
        return
    beside = Path(f"{target}.new")
    beside.parent.mkdir(parents=True, exist_ok=True)
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(target)
        _sync_names(beside.parent)
    finally:
        beside.unlink(missing_ok=True)


def _sync_names(folder: Path) -> None:
    """Flush the names in a folder to the disk: without it a crash may undo a renaming."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def write_atomically(path: Any, text: str) -> None:
    """Replace a file by `text` in UTF-8, see `replacing`."""
    with replacing(path) as file:
        file.write(text.encode())
