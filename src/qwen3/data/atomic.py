"""Files that are replaced in one step: a reader, or a run that was killed, finds the old content or
the new one, never a part of it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any


@contextmanager
def replacing(path: Any) -> Iterator[IO[bytes]]:
    """A binary file for the new content of `path` (a local path or a URL such as gs://bucket/x).

    It takes the place of `path` when the block ends, and is then on the disk, not only in the page
    cache; when the block raises, `path` stays as it was. Folders above a local path are made.
    Raises OSError where the disk or store does.
    """
    if "://" in str(path) and not str(path).startswith("file://"):
        with _uploading(str(path)) as file:
            yield file
        return
    target = Path(str(path).removeprefix("file://")).expanduser()
    beside = target.with_name(f"{target.name}.new")
    beside.parent.mkdir(parents=True, exist_ok=True)
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(target)
        sync(beside.parent)
    except BaseException:
        # A file system that went read-only refuses this too; the first error is the one to tell.
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


@contextmanager
def _uploading(url: str) -> Iterator[IO[bytes]]:
    """A file that becomes the object `url`, which appears as a whole when its upload ends."""
    import fsspec  # takes a second to import, and most files are local

    system, target = fsspec.core.url_to_fs(url)
    with tempfile.NamedTemporaryFile(prefix="qwen3-upload-") as file:
        yield file
        file.flush()
        system.put_file(file.name, target)


def sync(path: str | os.PathLike[str]) -> None:
    """Flush a file's content, or the names in a folder, to the disk (fsync).

    Without it a crash can undo a renaming, or leave a renamed file empty.
    """
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def write_atomically(path: Any, text: str) -> None:
    """Replace a file by `text` in UTF-8, see `replacing`."""
    with replacing(path) as file:
        file.write(text.encode())
