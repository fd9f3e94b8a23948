"""A corpus in shards on any path (gs://...), of which a host reads the blocks that its rows need.

A folder holds `shards.json`, `blocks.npy` and for each shard a corpus folder as `corpora.prepare`
writes it. A block is a run of documents of about `block_tokens` tokens. Its borders follow from the
documents alone, so that one shard and a hundred make the same blocks; a block may lie in two
shards. What a host holds of the corpus as a whole are 16 bytes a block and the table of shards.
`qwen3 data tokenize` writes such folders.
"""

from __future__ import annotations

import functools
import io
import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from qwen3.data.corpora import Corpus
from qwen3.data.range_cache import RangeCache
from qwen3.data.unpacked import chunks, filesystem

FORMAT = 1
TABLE, BLOCKS = "shards.json", "blocks.npy"


class ShardedCorpus:
    """A folder or URL of shards, read only. `corpus.block(i)` is a `CorpusBlock`.

    borders: int64 [2, blocks + 1], documents and tokens before each block, and of all.
    hash: of documents and blocks, whatever the shards. cache: where remote ranges are kept.
    Raises ValueError for a folder that holds no such corpus.
    """

    def __init__(self, folder: str | os.PathLike, *, cache: RangeCache | None = None):
        self.folder = os.fspath(folder).rstrip("/")
        self.manifest = _read_table(self.folder)
        self.hash = self.manifest["hash"]
        self.endoftext, self.vocab = self.manifest["endoftext"], self.manifest["vocab"]
        self.shards = self.manifest["shards"]
        self.cache = cache or RangeCache(self.hash)
        self.borders = np.load(io.BytesIO(b"".join(chunks(f"{self.folder}/{BLOCKS}"))))
        counts = [[shard[unit] for shard in self.shards] for unit in ("documents", "tokens")]
        self.starts = np.pad(np.cumsum(counts, axis=1, dtype=np.int64), ((0, 0), (1, 0)))
        if self.borders[:, -1].tolist() != self.starts[:, -1].tolist():
            raise ValueError(f"{self.folder}: {BLOCKS} and {TABLE} disagree: tokenize it again")

    def __len__(self) -> int:
        """Documents of all shards."""
        return int(self.starts[0, -1])

    @property
    def blocks(self) -> int:
        return self.borders.shape[1] - 1

    def __reduce__(self) -> tuple:
        return ShardedCorpus, (self.folder,)

    def __repr__(self) -> str:
        return f"ShardedCorpus({self.folder!r}, {len(self)} documents, hash {self.hash})"

    def block(self, first: int, last: int | None = None) -> CorpusBlock:
        """The documents of block `first`, or of the blocks [first, last)."""
        return CorpusBlock(self, *self.borders[:, [first, first + 1 if last is None else last]].T)

    def words(self, name: str) -> list[str] | None:
        """The words of a label in the order of their codes, or None where it is a number.
        ValueError naming the labels there are."""
        labels = self.manifest["labels"]
        if name not in labels:
            raise ValueError(
                f"{self.folder} has no label {name!r}; choose from {sorted(labels)}, or from "
                "'tokens', the length of a document"
            )
        return labels[name]


class CorpusBlock:
    """Consecutive documents of a sharded corpus, with the attributes of a `Corpus`.

    Lengths, labels and ids are read when they are first asked for, each by its range.
    """

    def __init__(self, corpus: ShardedCorpus, first: np.ndarray, last: np.ndarray):
        self._corpus, self.folder = corpus, corpus.folder
        (self._first, self._token), (self._last, self._end) = first.tolist(), last.tolist()

    def __len__(self) -> int:
        return self._last - self._first

    @functools.cached_property
    def offsets(self) -> np.ndarray:
        """int64 [documents + 1], from the block's first token."""
        pieces = [np.zeros(1, np.int64)]
        for shard, begin, end in self._spans(0, self._first, self._last):
            # Of document i the end is offset i + 1 of its shard.
            ends = self._read(shard, "offsets.npy", begin + 1, end + 1, np.dtype(np.int64))
            pieces.append(ends + int(self._corpus.starts[1, shard]) - self._token)
        return np.concatenate(pieces)

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """int64 [documents], in tokens."""
        return np.diff(self.offsets)

    @functools.cached_property
    def tokens(self) -> np.ndarray:
        """All ids of the block."""
        dtype = np.dtype(self._corpus.manifest["dtype"])
        spans = self._spans(1, self._token, self._end)
        return np.concatenate([self._read(s, "tokens.bin", b, e, dtype) for s, b, e in spans])

    def words(self, name: str) -> list[str] | None:
        """As `ShardedCorpus.words`."""
        return self._corpus.words(name)

    def label(self, name: str) -> np.ndarray:
        """A label of the block's documents, as `Corpus.label` gives it."""
        words, pieces = self.words(name), []
        for shard, begin, end in self._spans(0, self._first, self._last):
            known = self._corpus.shards[shard]["labels"]
            if name not in known:
                missing = np.nan if words is None else -1
                pieces.append(np.full(end - begin, missing, np.float32))
                continue
            dtype = np.dtype(np.float32 if words is None else np.int32)
            values = self._read(shard, f"label.{name}.npy", begin, end, dtype)
            if words is not None:  # a shard counts the words that it has seen; -1 stays the last
                codes = np.array([*(words.index(word) for word in known[name]), -1])
                values = codes[values]
            pieces.append(values)
        return np.concatenate(pieces).astype(np.float32 if words is None else np.int32)

    def _spans(self, unit: int, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
        """(shard, first, last) of the documents (unit 0) or tokens (unit 1) [begin, end)."""
        starts = self._corpus.starts[unit]
        shard = int(np.searchsorted(starts, begin, side="right")) - 1
        while begin < end:
            stop = min(end, int(starts[shard + 1]))
            if begin < stop:
                yield shard, begin - int(starts[shard]), stop - int(starts[shard])
            begin, shard = stop, shard + 1

    def _read(self, shard: int, name: str, begin: int, end: int, dtype: np.dtype) -> np.ndarray:
        """Items [begin, end) of an array file of a shard; the .npy header is what precedes them."""
        facts = self._corpus.shards[shard]
        counts = {"tokens.bin": facts["tokens"], "offsets.npy": facts["documents"] + 1}
        header = facts["files"][name] - counts.get(name, facts["documents"]) * dtype.itemsize
        url = f"{self.folder}/{facts['folder']}/{name}"
        first, last = (header + at * dtype.itemsize for at in (begin, end))
        return np.frombuffer(self._corpus.cache.read(url, first, last), dtype)


def is_sharded(folder: str | os.PathLike) -> bool:
    """Whether a folder or URL holds the table of a sharded corpus."""
    system, path = filesystem(f"{os.fspath(folder).rstrip('/')}/{TABLE}")
    return bool(system.exists(path))


def open_corpus(folder: str | os.PathLike) -> Corpus | ShardedCorpus:
    """The corpus of a folder: of one piece, which must be local, or of shards, anywhere."""
    return ShardedCorpus(folder) if is_sharded(folder) else Corpus(folder)


def _read_table(folder: str) -> dict[str, Any]:
    path = f"{folder}/{TABLE}"
    if not is_sharded(folder):
        raise ValueError(
            f"{folder} holds no sharded corpus ({TABLE} is missing); run `qwen3 data tokenize`"
        )
    try:
        table = json.loads(b"".join(chunks(path)))
        version = table["format"]
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path}: damaged ({error!r}), tokenize it again") from error
    if version != FORMAT:
        raise ValueError(f"{folder}: shard table format {version}, not {FORMAT}; tokenize it again")
    return table
