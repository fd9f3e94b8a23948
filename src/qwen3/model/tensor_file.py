"""The safetensors format: 8 bytes of header length, a JSON header, the tensors' bytes.

Read by mapping one tensor at a time, written one tensor at a time: neither side ever holds a file
in memory, and bfloat16 needs no other framework.
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

DTYPES = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
}
CODES = {dtype: code for code, dtype in DTYPES.items()}
_LONGEST_HEADER = 100_000_000  # of the format: what a longer one says is damage


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies: nothing is read before `map`."""

    path: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def map(self) -> np.ndarray:
        """A read-only view of the file; its pages are given back when the view is dropped."""
        return np.memmap(self.path, self.dtype, "r", self.offset, self.shape)


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one file by name.

    Raises ValueError naming the file, and the tensor where one is at fault, when the header is
    damaged, the file is shorter or longer than the header says, or a dtype is none of DTYPES.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _LONGEST_HEADER):
            raise ValueError(f"{path}: truncated or no safetensors file ({size:,} bytes)")
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            rows = {
                name: (row["dtype"], tuple(row["shape"]), *row["data_offsets"])
                for name, row in header.items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: damaged safetensors header ({error!r})") from error
    start, end = 8 + length, 8 + length
    tensors = {}
    for name, (code, shape, first, last) in rows.items():
        if code not in DTYPES:
            raise ValueError(f"{path}: {name} is {code}; there are {', '.join(DTYPES)}")
        tensors[name] = StoredTensor(path, DTYPES[code], shape, start + first)
        if last - first != tensors[name].nbytes:
            raise ValueError(
                f"{path}: {name} {list(shape)} {code} takes {tensors[name].nbytes:,} bytes, "
                f"its header gives it {last - first:,}"
            )
        end = max(end, start + last)
        if end > size:
            raise ValueError(
                f"{path}: truncated, {size:,} bytes; {name} ends at byte {start + last:,}"
            )
    if end != size:
        raise ValueError(f"{path}: {size - end:,} bytes too many behind the last tensor")
    return tensors


def write(
    path: Path,
    sizes: Mapping[str, tuple[np.dtype, tuple[int, ...]]],
    tensors: Iterator[tuple[str, np.ndarray]],
) -> None:
    """Write one file whose dtypes and shapes are known beforehand, in the order of `sizes`.

    `tensors` yields (name, array) in that order. Raises OSError when the disk is full.
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
