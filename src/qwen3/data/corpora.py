"""Corpora: text tokenised once into a store of token ids that training maps into memory.

A folder holds `tokens.bin` (ids of all documents, each ended by <|endoftext|>), `offsets.npy`
(int64 [documents + 1]), one `label.*.npy` per label and `corpus.json` (sources, counts, checksums).
It is built beside its place and renamed into it, so that a folder that exists is complete; asked
for again with the same sources and tokenizer, it is used again. The store is local (it is mapped
into memory); sources may be remote.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from qwen3.data.atomic import sync
from qwen3.data.document import Document, Source
from qwen3.data.token_store import sample, sha256, write
from qwen3.data.tokenizer import Tokenizer
from qwen3.hosts import local_folder

FORMAT = 1
MANIFEST = "corpus.json"
# What the manifest must hold to be opened: key -> type of the value.
KINDS = {"key": str, "vocab": int, "endoftext": int, "dtype": str, "labels": dict, "files": dict}
OLD = ".old"


class DocumentTable(Protocol):
    """What packing reads of documents; see `Corpus` for the attributes."""

    folder: Any

    @property
    def lengths(self) -> np.ndarray: ...

    @property
    def offsets(self) -> np.ndarray: ...

    @property
    def tokens(self) -> np.ndarray: ...

    def __len__(self) -> int: ...

    def label(self, name: str) -> np.ndarray: ...

    def words(self, name: str) -> list[str] | None: ...


class Corpus:
    """A prepared folder, read only. `corpus[i]` is a `Document` of token ids [n], <|endoftext|>
    included.

    tokens: all ids, mapped. offsets: int64 [documents + 1]. lengths: int64 [documents], in tokens.
    hash: of the contents alone, wherever they lie.

    Opening compares the size of every file and the checksum of a sample of it (all of it up to
    1 MiB, else 64 blocks); `verify` reads every byte. Raises ValueError naming a damaged file.
    """

    def __init__(self, folder: str | os.PathLike, *, verify: bool = False):
        self.folder = local_folder(folder)
        self.manifest = _read_manifest(self.folder)
        for name, facts in self.manifest["files"].items():
            _check_file(self.folder / name, facts, verify)
        # As plain arrays: slicing a np.memmap costs ten times as much.
        tokens = np.memmap(self.folder / "tokens.bin", self.manifest["dtype"], "r")
        self.tokens = tokens.view(np.ndarray)
        self.offsets = np.load(self.folder / "offsets.npy", mmap_mode="r").view(np.ndarray)
        self.lengths = np.diff(self.offsets)
        self._labels: dict[str, np.ndarray] = {}
        self.endoftext, self.vocab = self.manifest["endoftext"], self.manifest["vocab"]
        hashes = {name: facts["sha256"] for name, facts in self.manifest["files"].items()}
        contents = [hashes, self.manifest["labels"], self.endoftext]
        self.hash = hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Document:
        if not -len(self) <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        index %= len(self)
        begin, end = self.offsets[index : index + 2]
        labels = {name: self.label_value(name, index) for name in self.manifest["labels"]}
        return Document(np.asarray(self.tokens[begin:end]), labels)

    def __reduce__(self) -> tuple:
        return Corpus, (self.folder,)

    def __repr__(self) -> str:
        return f"Corpus({str(self.folder)!r}, {len(self)} documents, hash {self.hash})"

    def label(self, name: str) -> np.ndarray:
        """A label of all documents: codes int32 [documents] for words (-1: missing), or float32
        [documents] for numbers (NaN: missing). ValueError naming the labels there are, or one that
        is damaged.
        """
        if name not in self.manifest["labels"]:
            raise ValueError(
                f"{self.folder} has no label {name!r}; choose from "
                f"{sorted(self.manifest['labels'])}"
            )
        if name not in self._labels:
            values = np.load(self.folder / f"label.{name}.npy", mmap_mode="r")
            words = self.words(name)
            fits = values.dtype == (np.float32 if words is None else np.int32)
            if not fits or (words is not None and values.max(initial=-1) >= len(words)):
                raise ValueError(f"{self.folder}: the label {name!r} has other words than its file")
            self._labels[name] = values
        return self._labels[name]

    def words(self, name: str) -> list[str] | None:
        """The words that the codes of a label stand for, or None where the label is a number."""
        return self.manifest["labels"][name]

    def label_value(self, name: str, index: int) -> str | float | None:
        """The label of one document: word, number, or None where it is missing."""
        value, words = self.label(name)[index], self.words(name)
        if words is None:
            return None if np.isnan(value) else float(value)
        return words[value] if value >= 0 else None


def prepare(
    sources: Source | Sequence[Source],
    tokenizer: Tokenizer,
    folder: str | os.PathLike,
    *,
    rebuild: bool = False,
) -> Corpus:
    """Tokenise sources into `folder`, or reuse the corpus of these sources that lies there.

    Takes some 60 MB of memory, and 8 MB per MB of the longest document. Several processes may
    prepare the same folder.

    Raises BadData for a file or row that cannot be read or stored, ValueError if the folder holds
    something else or is damaged (`rebuild=True` replaces it) or the sources hold no text, OSError
    if the disk is full; the folder is then as it was before.
    """
    if "://" in str(folder):
        raise ValueError(f"{folder}: a corpus is mapped into memory, so its folder must be local")
    several = list(sources) if isinstance(sources, Sequence) else [sources]
    folder = local_folder(folder)
    facts = {
        "format": FORMAT,
        "tokenizer": fingerprint(tokenizer),
        "sources": [source.describe() for source in several],
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]
    _tidy(folder)
    if (corpus := _reusable(folder, key, rebuild)) is not None:
        return corpus
    building = folder.with_name(f".{folder.name}.building.{socket.gethostname()}.{os.getpid()}")
    try:
        building.mkdir(parents=True)
        manifest = facts | {"key": key} | write(several, tokenizer, building)
        (building / MANIFEST).write_text(json.dumps(manifest, indent=1, default=str))
        for path in (*building.rglob("*"), building):
            sync(path)
        _move(building, folder, rebuild)
        sync(folder.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            place = building.parent
            raise OSError(
                error.errno,
                f"{error.strerror} while preparing {folder}; nothing was changed. "
                f"Free room in {place} or give another folder",
            ) from error
        raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    # Where another process was first, its corpus; which must then be of the same sources.
    return _reusable(folder, key, rebuild=False) or Corpus(folder)


@functools.lru_cache(maxsize=8)
def fingerprint(tokenizer: Tokenizer) -> str:
    """Hash of the complete definition of a tokenizer: equal exactly if it gives equal ids."""
    return hashlib.sha256(tokenizer.backend.to_str().encode()).hexdigest()[:16]


def _check_file(path: Path, facts: dict[str, Any], verify: bool) -> None:
    """ValueError if a file is not the one that the manifest describes."""
    size = path.stat().st_size if path.exists() else None
    if size != facts["bytes"]:
        raise ValueError(
            f"{path}: {size} bytes, {facts['bytes']} expected: damaged, prepare it again"
        )
    # Corpora of earlier versions have no checksum of a sample.
    differs = "sample" in facts and sample(path) != facts["sample"]
    if differs or (verify and sha256(path) != facts["sha256"]):
        raise ValueError(f"{path}: wrong checksum: damaged, prepare it again")


def _read_manifest(folder: str | os.PathLike) -> dict[str, Any]:
    path = local_folder(folder) / MANIFEST
    if not path.exists():
        raise ValueError(
            f"{folder} holds no prepared corpus ({MANIFEST} is missing); run `qwen3 corpus prepare`"
        )
    try:
        manifest = json.loads(path.read_text())
        version = manifest["format"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: damaged ({error!r}), prepare it again") from error
    if version != FORMAT:
        raise ValueError(f"{folder}: corpus format {version}, not {FORMAT}; prepare it again")
    if fault := _fault(manifest):
        raise ValueError(f"{path}: damaged ({fault}), prepare it again")
    return manifest


def _fault(manifest: dict[str, Any]) -> str:
    """What in a manifest is not as it was written, "" for nothing."""
    for key, kind in KINDS.items():
        if not isinstance(manifest.get(key), kind):
            return f"its {key} is {manifest.get(key)!r:.40}"
    if manifest["dtype"] not in ("uint16", "uint32"):
        return f"its dtype is {manifest['dtype']!r:.40}"
    for label, words in manifest["labels"].items():
        if words is not None and not (
            isinstance(words, list) and all(isinstance(word, str) for word in words)
        ):
            return f"the label {label!r} has the words {words!r:.40}"
    labels = {f"label.{label}.npy" for label in manifest["labels"]}
    if wanted := sorted({"tokens.bin", "offsets.npy", *labels} ^ set(manifest["files"])):
        return f"its files have {wanted[0]!r:.40} too many or too few"
    for name, facts in manifest["files"].items():
        if not isinstance(facts, dict) or not {"bytes", "sha256"} <= set(facts):
            return f"the facts of {name} are {facts!r:.40}"
    return ""


def _reusable(folder: Path, key: str, rebuild: bool) -> Corpus | None:
    """The corpus in the folder, if it has this key; None if there is none, or, with `rebuild`, one
    that may be replaced. ValueError for a folder that holds something else."""
    if not folder.exists():
        return None
    try:
        if (folder / MANIFEST).exists() and _read_manifest(folder)["key"] == key:
            return Corpus(folder, verify=rebuild)
    except ValueError:
        if not rebuild:
            raise
    if rebuild:
        return None
    raise ValueError(
        f"{folder} holds something else than these sources with this tokenizer; "
        "give another folder, or rebuild=True to replace it"
    )


def _move(building: Path, folder: Path, rebuild: bool) -> None:
    """Rename into place, unless, without `rebuild`, something lies there meanwhile."""
    old = building.with_name(building.name + OLD)
    if rebuild and folder.exists():
        os.rename(folder, old)
    try:
        os.rename(building, folder)
    except OSError as error:
        if rebuild or error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    shutil.rmtree(old, ignore_errors=True)


def _tidy(folder: Path) -> None:
    """Delete what builds of this folder left when they were killed on this machine; a corpus that
    was set aside for one that never came is put back."""
    prefix = f".{folder.name}.building.{socket.gethostname()}."
    for path in sorted(folder.parent.glob(f"{prefix}*")) if folder.parent.exists() else ():
        process = path.name.removeprefix(prefix).removesuffix(OLD)
        if not process.isdecimal() or _alive(int(process)):
            continue
        if path.name.endswith(OLD) and not folder.exists():
            os.rename(path, folder)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
