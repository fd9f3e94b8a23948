"""The safetensors format: 8 bytes of header length, a JSON header, the tensors' bytes.

Read by mapping one tensor at a time, written one tensor at a time: neither side ever holds a file
in memory. Headers are checked by the safetensors library.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

DTYPES = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
}
CODES = {dtype: code for code, dtype in DTYPES.items()}  # the format's names of dtypes


@dataclass(frozen=True)
class StoredTensor:
    """The place of one tensor in a file; nothing is read before `map`."""

    path: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int  # first byte in the file

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def reshape(self, *shape: int) -> StoredTensor:
        """The same bytes in another shape of as many elements."""
        assert math.prod(shape) == math.prod(self.shape), (self, shape)
        return dataclasses.replace(self, shape=shape)

    def rows(self, first: int, last: int) -> StoredTensor:
        """Rows first to last - 1 along the first axis, which lie together in the file."""
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        shape, offset = (last - first, *self.shape[1:]), self.offset + first * row
        return dataclasses.replace(self, shape=shape, offset=offset)

    def map(self) -> np.ndarray:
        """A read-only view of the file; its pages are given back when the view is dropped."""
        return np.memmap(self.path, self.dtype, "r", self.offset, self.shape)


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one file by name.

    Raises ValueError naming the file when it is truncated, its header is damaged, or tensors
    overlap, leave holes or stand twice; and naming the tensor when its dtype is not in DTYPES.
    """
    try:
        # The library checks that shapes, dtypes and offsets fit and cover the file exactly once.
        with safetensors.safe_open(path, framework="numpy"):
            pass
    except safetensors.SafetensorError as error:
        size = os.path.getsize(path)
        raise ValueError(
            f"{path}: truncated or damaged safetensors file of {size:,} bytes ({error})"
        ) from error
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length), object_pairs_hook=partial(_unique, path))
    tensors = {}
    for name, row in header.items():
        if name == "__metadata__":
            continue
        if row["dtype"] not in DTYPES:
            raise ValueError(f"{path}: {name} is {row['dtype']}; known: {', '.join(DTYPES)}")
        offset = 8 + length + row["data_offsets"][0]
        tensors[name] = StoredTensor(path, DTYPES[row["dtype"]], tuple(row["shape"]), offset)
    return tensors


def _unique(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as a dict. Raises ValueError for a key that it holds twice."""
    counts = Counter(key for key, _ in pairs)
    if twice := [key for key, count in counts.items() if count > 1]:
        raise ValueError(f"{path}: the header holds {twice[0]!r} twice")
    return dict(pairs)


def write(
    path: Path,
    sizes: Mapping[str, tuple[np.dtype, tuple[int, ...]]],
    tensors: Iterator[tuple[str, np.ndarray]],
) -> None:
    """Write one file of tensors whose dtypes and shapes, `sizes`, are known beforehand.

    `tensors` yields (name, array) in the order of `sizes`. Raises OSError when the disk is full.
    """
    # transformers refuses a file without the format.
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (dtype, shape) in sizes.items():
        end = offset + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb", buffering=0) as file:
        _write_all(file, len(text).to_bytes(8, "little") + text)
        for name in sizes:
            next_name, array = next(tensors)
            assert next_name == name and (array.dtype, array.shape) == sizes[name], (
                next_name,
                name,
            )
            _write_all(file, np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _write_all(file: io.FileIO, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view[: 1 << 30]) :]  # Linux writes at most 2 GiB a call
