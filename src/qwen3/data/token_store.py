"""The files of a token store: ids and labels of documents, written in one pass over the sources."""

import hashlib
import os
from array import array
from itertools import chain

import numpy as np

# Small enough that the library's encodings, some 100 bytes a token, stay near the processor.
BATCH_DOCUMENTS, BATCH_CHARACTERS = 1024, 1 << 18
MISSING_WORD, MISSING_NUMBER = -1, float("nan")


def write(sources, tokenizer, folder):
    """Fill `folder` with the store of all documents -> the facts of `corpus.json` that it fixes.

    Documents without text are left out and counted. ValueError if none is left.
    """
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    lengths, labels, size, empty = array("q"), _Labels(), 0, 0
    with open(folder / "tokens.bin", "wb") as out:
        for batch in _batches(chain.from_iterable(sources)):
            ids = list(_encode(batch, tokenizer))
            for document, document_ids in zip(batch, ids, strict=True):
                if len(document_ids) <= 1:
                    empty += 1
                    continue
                labels.add(document.labels, len(lengths))
                lengths.append(len(document_ids))
                size += len(document.content.encode()) if isinstance(document.content, str) else 0
            kept = [i for i in ids if len(i) > 1]
            flat = np.fromiter(chain.from_iterable(kept), np.int64, count=sum(map(len, kept)))
            if len(flat) and not 0 <= flat.min() <= flat.max() < tokenizer.vocab_size:
                bad = flat.min() if flat.min() < 0 else flat.max()
                raise ValueError(
                    f"token id {bad} outside the tokenizer's {tokenizer.vocab_size} ids"
                )
            out.write(flat.astype(dtype).tobytes())
        out.flush()
        os.fsync(out.fileno())
    if not lengths:
        raise ValueError(f"no document with text in {sources}")
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(np.frombuffer(lengths, np.int64), out=offsets[1:])
    np.save(folder / "offsets.npy", offsets)
    labels.save(folder, len(lengths))
    files = {
        p.name: {"bytes": p.stat().st_size, "sha256": sha256(p)} for p in sorted(folder.iterdir())
    }
    return {
        "vocab": tokenizer.vocab_size,
        "endoftext": tokenizer.endoftext,
        "dtype": dtype.name,
        "documents": len(lengths),
        "tokens": int(offsets[-1]),
        "text_bytes": size,
        "empty": empty,
        "skipped": [line for s in sources for line in s.skipped],
        "labels": {name: labels.words[name] for name in sorted(labels.columns)},
        "files": files,
    }


def _encode(batch, tokenizer):
    """Ids of each document with its end; only the end for one that has no text but blanks."""
    texts = [d.content for d in batch if isinstance(d.content, str) and not d.content.isspace()]
    # A document that writes <|im_end|> or <|endoftext|> is text about them, not a turn or an end.
    encoded = iter(tokenizer.encode_batch(texts, allow_special=False) if texts else ())
    end = tokenizer.endoftext
    for document in batch:
        if not isinstance(document.content, str):
            ids = document.content.tolist()
        else:
            ids = [] if document.content.isspace() else next(encoded)
        yield ids if ids and ids[-1] == end else [*ids, end]


def _batches(documents):
    batch, characters = [], 0
    for document in documents:
        batch.append(document)
        characters += len(document.content)
        if len(batch) == BATCH_DOCUMENTS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


class _Labels:
    """Columns of labels that grow with the documents; a label unseen so far is missing in the
    earlier ones.
    """

    def __init__(self):
        self.columns, self.words, self._codes = {}, {}, {}

    def add(self, labels, index):
        for name, value in labels.items():
            if value is None or value == "":
                continue
            is_word = isinstance(value, str)
            if name not in self.columns:
                self.columns[name] = array("i" if is_word else "f")
                self.words[name] = [] if is_word else None
                self._codes[name] = {}
            if is_word != (self.words[name] is not None):
                kind = "numbers" if is_word else "words"
                raise ValueError(
                    f"label {name!r} is {value!r} in document {index} and {kind} before it"
                )
            self._pad(name, index)
            self.columns[name].append(self._code(name, value) if is_word else value)

    def _code(self, name, word):
        codes = self._codes[name]
        if word not in codes:
            codes[word] = len(codes)
            self.words[name].append(word)
        return codes[word]

    def _pad(self, name, count):
        missing = MISSING_NUMBER if self.words[name] is None else MISSING_WORD
        column = self.columns[name]
        column.extend([missing] * (count - len(column)))

    def save(self, folder, count):
        for name, column in self.columns.items():
            self._pad(name, count)
            np.save(folder / f"label.{name}.npy", np.array(column))


def sha256(path):
    """Hex digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
