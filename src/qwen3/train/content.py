"""Digests of files and of weights: a run knows its inputs by content, wherever they lie."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from etils import epath

from qwen3.train.checkpoint_folder import steps_in
from qwen3.train.manifest import newest_manifest

BLOCK = 1 << 16  # bytes read at once, and bytes of a sample of a large file
SAMPLES = 64  # samples of a large file, evenly spaced


def files_digest(paths: Iterable[Any]) -> str:
    """16 hex digits that identify the bytes of some files, in their order."""
    hasher = hashlib.sha256()
    for path in paths:
        inner = hashlib.sha256()
        with epath.Path(path).open("rb") as stream:
            while block := stream.read(BLOCK):
                inner.update(block)
        hasher.update(inner.digest())
    return hasher.hexdigest()[:16]


def weights_digest(source: Any) -> str:
    """16 hex digits that identify weights; "" where nothing is there to be identified.

    A checkpoint, or the newest of a workdir, is identified by its manifest, which holds a checksum
    of every file. The files of a Hugging Face folder are identified by name, size and 64 samples
    each: training changes every weight, so a sample tells two models apart, in seconds.
    """
    path = epath.Path(source)
    folder = path / "checkpoints"
    checkpoints = [folder / str(step) for step in steps_in(folder)] or [path]
    if manifest := newest_manifest(checkpoints):
        return manifest["digest"]
    if not path.is_dir():
        return ""
    hasher = hashlib.sha256()
    for file in sorted(path.glob("*"), key=lambda file: file.name):
        if file.suffix in (".json", ".safetensors"):
            _add_samples(hasher, file)
    return hasher.hexdigest()[:16]


def _add_samples(hasher: Any, file: epath.Path) -> None:
    size = file.stat().length
    hasher.update(f"{file.name} {size}\n".encode())
    with file.open("rb") as stream:
        for sample in range(SAMPLES):
            stream.seek(sample * max(size // SAMPLES, BLOCK))
            hasher.update(stream.read(BLOCK))
