"""The checkpoint manifest, checkpoint.json: what a checkpoint is of, and a checksum of every file.

It is the last file written into a checkpoint, so a checkpoint without a readable manifest, or with
a file that does not match it, is damaged and is never restored.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

from etils import epath

from qwen3.config import digest
from qwen3.train.writing import remote, sync, write_atomically

MANIFEST = "checkpoint.json"
# Orbax rewrites the first two when it commits, which is after the manifest was written.
UNLISTED = ("_CHECKPOINT_METADATA", "commit_success.txt", MANIFEST)
# What reading a damaged manifest raises; RecursionError is for brackets nested thousands deep.
UNREADABLE = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError),
    *(RecursionError, OverflowError),
)
BLOCK = 1 << 22  # bytes read at once for a checksum


def write_manifest(path: epath.Path, about: dict) -> None:
    """Write the manifest of all files below `path`; `about` is what `read_manifest` returns.

    They are on the disk before it is: a crash of the machine leaves no manifest without its files.
    """
    names = _files(path)
    manifest = {**about, "files": {name: _fingerprint(path / name) for name in names}}
    folders = {str(folder) for name in names for folder in PurePath(name).parents}
    for name in [*names, *folders]:
        sync(path / name)
    text = json.dumps({**manifest, "digest": digest(manifest)}, indent=1)
    write_atomically(path / MANIFEST, text)


def sync_unlisted(path: epath.Path) -> None:
    """Flush the files of a committed checkpoint that its manifest does not list."""
    for name in UNLISTED:
        if (path / name).exists():
            sync(path / name)
    sync(path)


def read_manifest(path: Any) -> dict:
    """The manifest of one checkpoint: step, extra, metrics, config, content, files and digest."""
    return json.loads((epath.Path(path) / MANIFEST).read_text())


def newest_manifest(steps: Iterable[epath.Path]) -> dict | None:
    """The last manifest that can be read of some checkpoints; None if there is none."""
    for path in reversed(list(steps)):
        with contextlib.suppress(*UNREADABLE):
            return read_manifest(path)
    return None


def problem(path: Any, *, read: bool = True) -> str | None:
    """What is wrong with a checkpoint, or None. Local files are read through if `read`.

    On object stores only sizes are compared: they check their own content, and reading a large
    model twice would take as long as the restore.
    """
    path = epath.Path(path)
    try:
        manifest = read_manifest(path)
        stated = manifest.pop("digest")
        if digest(manifest) != stated:
            return f"its {MANIFEST} has been changed"
        files = [(str(name), int(size), crc) for name, (size, crc) in manifest["files"].items()]
    except UNREADABLE as error:
        return f"its {MANIFEST} cannot be read ({type(error).__name__})"
    for name, size, crc in files:
        file = path / name
        if not file.exists():
            return f"file {name} is missing"
        length = file.stat().length
        if length != size:
            return f"file {name} has {length} bytes instead of {size}"
        if read and crc is not None and _crc(file) != crc:
            return f"file {name} has another checksum"
    return None


def _files(path: epath.Path) -> list[str]:
    """Names, relative to `path`, of all files below it that a manifest lists."""
    names = []
    for entry in path.iterdir():
        if entry.is_dir():
            names += [f"{entry.name}/{name}" for name in _files(entry)]
        elif entry.name not in UNLISTED:
            names.append(entry.name)
    return sorted(names)


def _fingerprint(file: epath.Path) -> tuple[int, int | None]:
    """(bytes, CRC-32); object stores keep checksums of their own, so there the CRC is None."""
    return file.stat().length, None if remote(file) else _crc(file)


def _crc(file: epath.Path) -> int:
    value = 0
    with file.open("rb") as stream:
        while block := stream.read(BLOCK):
            value = zlib.crc32(block, value)
    return value
