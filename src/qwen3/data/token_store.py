"""The files of a token store: ids and labels of documents, written in one pass over the sources."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from qwen3.data.document import Document, Source, leave_out
from qwen3.data.text_pieces import text_pieces
from qwen3.data.tokenizer import Tokenizer
from qwen3.data.unpacked import BadData

# Small enough that the library's encodings, some 100 bytes a token, stay near the processor.
BATCH_DOCUMENTS, BATCH_CHARACTERS = 1024, 1 << 18
PIECES = 8  # of a long text, encoded at a time
MISSING_WORD, MISSING_NUMBER = -1, float("nan")
# A sample of a file is this many blocks at even distances, the first and the last included.
SAMPLE_BLOCKS, SAMPLE_BLOCK = 64, 1 << 14  # and bytes of a block

Batch = list[tuple[Source, Document]]


def write(sources: Sequence[Source], tokenizer: Tokenizer, folder: Path) -> dict[str, Any]:
    """Fill `folder` with the store of all documents; returns the facts of `corpus.json` it fixes.

    Documents without text are left out and counted. Raises BadData naming a document that cannot
    be stored unless its source skips such, ValueError if no document is left.
    """
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    lengths, labels, size, empty = array("q"), _Labels(), 0, 0
    with open(folder / "tokens.bin", "wb") as out:
        for batch in _batches(_encodable(sources)):
            for (source, document), ids in zip(batch, _encode(batch, tokenizer), strict=True):
                if len(ids) <= 1:  # the end alone
                    empty += 1
                    continue
                if fault := _range_fault(ids, tokenizer) or labels.fault(document.labels):
                    leave_out(source, BadData(f"{document.place or 'a document'}: {fault}"))
                    continue
                labels.add(document.labels, len(lengths))
                lengths.append(len(ids))
                size += len(document.content.encode()) if isinstance(document.content, str) else 0
                out.write(ids.astype(dtype).tobytes())
        out.flush()
        os.fsync(out.fileno())
    if not lengths:
        raise ValueError(f"no document with text in {sources}")
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(np.frombuffer(lengths, np.int64), out=offsets[1:])
    np.save(folder / "offsets.npy", offsets)
    labels.save(folder, len(lengths))
    return {
        "vocab": tokenizer.vocab_size,
        "endoftext": tokenizer.endoftext,
        "dtype": dtype.name,
        "documents": len(lengths),
        "tokens": int(offsets[-1]),
        "text_bytes": size,
        "empty": empty,
        "skipped": [message for source in sources for message in source.skipped],
        "labels": {
            name: None if words is None else list(words)
            for name, words in sorted(labels.words.items())
        },
        "files": {path.name: checksums(path) for path in sorted(folder.iterdir())},
    }


def _encodable(sources: Iterable[Source]) -> Iterator[tuple[Source, Document]]:
    """All documents with their sources, but those whose text no tokenizer takes."""
    for source in sources:
        for document in source:
            try:
                if isinstance(document.content, str):
                    document.content.encode()  # fails for a lone surrogate
                    for _ in text_pieces(document.content):
                        pass
            except ValueError as error:
                leave_out(source, BadData(f"{document.place or 'a document'}: {error}"))
            else:
                yield source, document


def _batches(documents: Iterable[tuple[Source, Document]]) -> Iterator[Batch]:
    """Batches of few enough characters; a document that is longer stands alone."""
    batch: Batch = []
    characters = 0
    for source, document in documents:
        length = len(document.content)
        if batch and (len(batch) == BATCH_DOCUMENTS or characters + length > BATCH_CHARACTERS):
            yield batch
            batch, characters = [], 0
        batch.append((source, document))
        characters += length
    if batch:
        yield batch


def _encode(batch: Batch, tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    """Token ids int [n] of each document with its end; the end alone for one without text."""
    texts = [_text(document.content) for _, document in batch]
    # A document that writes <|im_end|> or <|endoftext|> is text about them, not a turn or an end.
    encoded = (
        tokenizer.encode_batch(texts, allow_special=False)
        if len(texts) > 1
        else [_encode_long(texts[0], tokenizer)]
    )
    for (_, document), text_ids in zip(batch, encoded, strict=True):
        is_text = isinstance(document.content, str)
        ids = np.asarray(text_ids, np.int32) if is_text else np.asarray(document.content)
        ended = len(ids) and ids[-1] == tokenizer.endoftext
        yield ids if ended else np.append(ids, tokenizer.endoftext).astype(ids.dtype, copy=False)


def _text(content: str | np.ndarray) -> str:
    """The text to encode, "" for token ids and for a text of blanks alone."""
    return content if isinstance(content, str) and not content.isspace() else ""


def _encode_long(text: str, tokenizer: Tokenizer) -> np.ndarray:
    """Ids of a text of any length, a few pieces at a time: the library's encodings of all of it
    would take 200 bytes per byte of text, the ids take 4 per token."""
    pieces, ids = text_pieces(text), array("i")
    while group := list(islice(pieces, PIECES)):
        ids.extend(chain.from_iterable(tokenizer.encode_batch(group, allow_special=False)))
    return np.frombuffer(ids, np.int32)


def _range_fault(ids: np.ndarray, tokenizer: Tokenizer) -> str:
    low, high = int(ids.min()), int(ids.max())
    if 0 <= low and high < tokenizer.vocab_size:
        return ""
    return f"token id {low if low < 0 else high} outside the tokenizer's {tokenizer.vocab_size} ids"


class _Labels:
    """Columns of labels that grow with the documents; a label that was not seen before is missing
    in the earlier ones.

    words: label -> {word: code} in the order of codes, or None where the label is a number.
    """

    def __init__(self) -> None:
        self.columns: dict[str, array] = {}
        self.words: dict[str, dict[str, int] | None] = {}

    def fault(self, labels: Mapping[str, str | float | None]) -> str:
        """What is wrong with the labels of a document beside those before it, or ""."""
        for name, value in _present(labels):
            if name in self.words and isinstance(value, str) != (self.words[name] is not None):
                kind = "numbers" if isinstance(value, str) else "words"
                return f"label {name!r} is {value!r}, and {kind} in the documents before"
        return ""

    def add(self, labels: Mapping[str, str | float | None], index: int) -> None:
        """The labels of document `index`, which has no `fault`."""
        for name, value in _present(labels):
            if name not in self.columns:
                self.columns[name] = array("i" if isinstance(value, str) else "f")
                self.words[name] = {} if isinstance(value, str) else None
            self._pad(name, index)
            words = self.words[name]
            # A new word takes the next code.
            code = value if words is None else words.setdefault(str(value), len(words))
            self.columns[name].append(code)

    def _pad(self, name: str, count: int) -> None:
        missing = MISSING_NUMBER if self.words[name] is None else MISSING_WORD
        column = self.columns[name]
        column.extend([missing] * (count - len(column)))

    def save(self, folder: Path, count: int) -> None:
        """Write label.NAME.npy of every label for `count` documents."""
        for name, column in self.columns.items():
            self._pad(name, count)
            np.save(folder / f"label.{name}.npy", np.array(column))


def _present(labels: Mapping[str, str | float | None]) -> Iterator[tuple[str, str | float]]:
    return ((name, value) for name, value in labels.items() if value is not None and value != "")


def checksums(path: Path) -> dict[str, Any]:
    """Size and checksums of a file: {"bytes", "sha256", "sample"}, see `sample`."""
    return {"bytes": path.stat().st_size, "sha256": sha256(path), "sample": sample(path)}


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sample(path: Path) -> str:
    """Hex digest of 64 blocks of a file, 1 MiB in all, and so of all of a file up to that size."""
    size, digest = path.stat().st_size, hashlib.sha256()
    last = max(0, size - SAMPLE_BLOCK)
    with open(path, "rb") as file:
        for begin in sorted({last * i // (SAMPLE_BLOCKS - 1) for i in range(SAMPLE_BLOCKS)}):
            file.seek(begin)
            digest.update(file.read(SAMPLE_BLOCK))
    return digest.hexdigest()
