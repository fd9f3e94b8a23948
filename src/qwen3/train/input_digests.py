"""What a run's settings name, known by content: a run goes on when its inputs lie elsewhere.

The same tokenizer, data or weights have the same digest on another mount, after a move, or behind a
relative path.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from qwen3.config import digest
from qwen3.data.sharded_corpus import open_corpus
from qwen3.data.tokenizer import Tokenizer
from qwen3.train.checkpoint_folder import steps_in
from qwen3.train.manifest import newest_manifest

BLOCK = 1 << 16  # bytes read at once, and bytes of a sample of a large file
SAMPLES = 64  # samples of a large file, evenly spaced


def digests(config: Mapping[str, Any]) -> dict[str, str]:
    """{setting: digest of what it names} of a config's settings in INPUTS that name something.

    A setting whose files cannot be found is left out: it is known by its words alone. So is one
    that a config of another kind has under such a name, a number say.
    """
    known = {}
    for name, identify in INPUTS.items():
        value = config.get(name)
        try:
            names_files = isinstance(value, (str, Sequence, Mapping))
            identity = identify(value) if names_files and value else ""
        except OSError:
            identity = ""
        if identity:
            known[name] = identity
    return known


def files_digest(paths: str | Sequence[str]) -> str:
    """16 hex digits that identify the bytes of a file, or of some files in their order.

    A folder stands for its files in the order of their names.
    """
    hasher = hashlib.sha256()
    for path in [paths] if isinstance(paths, str) else paths:
        for file in _files(epath.Path(path)):
            inner = hashlib.sha256()
            with file.open("rb") as stream:
                while block := stream.read(BLOCK):
                    inner.update(block)
            hasher.update(inner.digest())
    return hasher.hexdigest()[:16]


def _files(path: epath.Path) -> list[epath.Path]:
    if not path.is_dir():
        return [path]
    return sorted((file for file in path.iterdir() if file.is_file()), key=lambda file: file.name)


def tokenizer_digest(folder: str) -> str:
    """16 hex digits that identify a tokenizer: its vocabulary, merges and added tokens, and a chat
    template other than the built-in one."""
    if not any((epath.Path(folder) / name).exists() for name in ("tokenizer.json", "vocab.json")):
        return ""
    tokenizer = Tokenizer.load(folder)
    text = tokenizer.backend.to_str()
    return digest([text, tokenizer.chat_template] if tokenizer.chat_template else text)


def corpora_digest(folders: Mapping[str, str]) -> str:
    """16 hex digits that identify prepared corpora: {name: folder}."""
    if not all(epath.Path(folder).is_dir() for folder in folders.values()):
        return ""
    return digest({name: open_corpus(folder).hash for name, folder in folders.items()})


def weights_digest(source: str) -> str:
    """16 hex digits that identify weights; "" for what is no folder here (a Hub name, say).

    A checkpoint, or the newest of a workdir, is identified by its manifest, which holds a checksum
    of every file. The files of a Hugging Face folder are identified by name, size and 64 samples
    each: training changes every weight, so samples tell two models apart, in seconds.
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


# The settings of the stages that name files or folders, and how what they name is identified.
INPUTS: dict[str, Callable[[Any], str]] = {
    "tokenizer": tokenizer_digest,
    "data": files_digest,
    "problems": files_digest,
    "corpora": corpora_digest,
    "held_out": corpora_digest,
    "init_from": weights_digest,
    "reference": weights_digest,
    "teacher": weights_digest,
    "reward_model": weights_digest,
}
