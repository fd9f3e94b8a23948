"""The seal of a checkpoint: what it is of, and size and checksum of every file."""

from __future__ import annotations

import json
import zlib
from typing import Any

from etils import epath

from qwen3.config import digest

MANIFEST = "checkpoint.json"
# Orbax changes these two when it commits, after the seal is written.
UNSEALED = ("_CHECKPOINT_METADATA", "commit_success.txt", MANIFEST)


def write_manifest(path: epath.Path, about: dict) -> None:
    """Seal the files below `path`; `about` is what `read_manifest` gives back."""
    seal = {**about, "files": {name: _fingerprint(path / name) for name in _files(path)}}
    (path / MANIFEST).write_text(json.dumps({**seal, "digest": digest(seal)}, indent=1))


def read_manifest(path: Any) -> dict:
    """step, extra, metrics, config and files of one checkpoint."""
    return json.loads((epath.Path(path) / MANIFEST).read_text())


def problem(path: Any, *, read: bool = True) -> str | None:
    """What is wrong with a checkpoint, or None. Local files are read through if `read`.

    On object stores only sizes are compared: they check their own content, and reading a large
    model twice would take as long as the restore.
    """
    path = epath.Path(path)
    try:
        seal = read_manifest(path)
        stated = seal.pop("digest")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"its {MANIFEST} cannot be read ({type(error).__name__})"
    if digest(seal) != stated:
        return f"its {MANIFEST} has been changed"
    for name, (size, crc) in seal["files"].items():
        file = path / name
        if not file.exists():
            return f"file {name} is missing"
        length = file.stat().length
        if length != size:
            return f"file {name} has {length} bytes instead of {size}"
        if read and crc is not None and _crc(file) != crc:
            return f"file {name} has another checksum"
    return None


def remote(path: epath.Path) -> bool:
    return "://" in str(path)


def _files(path: epath.Path) -> list[str]:
    """Relative names of all sealed files below."""
    found = []
    for entry in path.iterdir():
        if entry.is_dir():
            found += [f"{entry.name}/{name}" for name in _files(entry)]
        elif entry.name not in UNSEALED:
            found.append(entry.name)
    return sorted(found)


def _fingerprint(file: epath.Path) -> tuple[int, int | None]:
    return file.stat().length, None if remote(file) else _crc(file)


def _crc(file: epath.Path) -> int:
    value = 0
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            value = zlib.crc32(block, value)
    return value
