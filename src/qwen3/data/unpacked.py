"""Files that data are read from: local paths or URLs (fsspec), plain, gzip or zstd.

`chunks` streams the plain bytes of a file in bounded memory. `Unpacked` gives them as one buffer
with random access: a local plain file is mapped into memory where it lies, a compressed or remote
one is first unpacked into a temporary file.
"""

from __future__ import annotations

import errno
import gzip
import importlib
import mmap
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import fsspec
import numpy as np

CHUNK = 1 << 22
# Bytes of zstd input decoded per step. A block of 4 bytes can stand for 128 KiB, so a step gives
# 64 MiB at most, however hostile the file; larger steps are hardly faster.
ZSTD_STEP = 1 << 11
MOST_UNPACKED = 64 << 30  # bytes of the temporary copy of one file
FREE_SHARE = 0.05  # of the temporary folder's disk, left free by unpacking, but at most FREE_BYTES
FREE_BYTES = 1 << 30


class BadData(ValueError):
    """A file or row that cannot be read as what it claims to be; the message names it."""


def optional(name: str) -> Any:
    """Import the module `name`; ModuleNotFoundError says which extra of the package brings it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}: pip install 'qwen3[data]'", name=error.name) from error


def filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """(file system, path in it) of a local path or URL; ValueError for one that cannot be opened,
    such as gs:// without the gcsfs package."""
    try:
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        hint = "; pip install 'qwen3[data]'" if isinstance(error, ImportError) else ""
        raise ValueError(f"cannot open {url!r}: {error}{hint}") from error


def find(pattern: str | os.PathLike[str]) -> list[str]:
    """The sorted files (paths or URLs) of a path, folder or glob, local or gs://bucket/x-*.jsonl.gz.

    Hidden files of a folder are left out. ValueError if none matches.
    """
    pattern = os.fspath(pattern)
    system, path = filesystem(pattern)
    if "*" in path or "?" in path:
        paths = [p for p in system.glob(path) if system.isfile(p)]
    elif system.isdir(path):
        paths = [p for p in system.find(path) if not Path(p).name.startswith(".")]
    else:
        paths = [path] if system.isfile(path) else []
    if not paths:
        raise ValueError(f"no file matches {pattern!r}")
    return sorted(system.unstrip_protocol(p).removeprefix("file://") for p in paths)


def stamp(url: str) -> list[str | int]:
    """[url, bytes, modification time or version] of a file: changes when the file does, and is
    known without reading it."""
    system, path = filesystem(url)
    info = system.info(path)
    version = next((info[k] for k in ("mtime", "generation", "etag", "created") if k in info), "")
    return [url, int(info["size"]), str(version)]


def compression(url: str) -> str | None:
    """The ending of a file's name that names its compression (a key of `DECODERS`), or None."""
    return next((end for end in DECODERS if url.endswith(end)), None)


def chunks(url: str) -> Iterator[bytes]:
    """The plain bytes of a file, unpacked as its name ends, in chunks of at most 64 MiB.

    Raises BadData naming a file that is cut off or damaged, FileNotFoundError for none.
    """
    end = compression(url)
    system, path = filesystem(url)
    with system.open(path, "rb") as packed:
        try:
            yield from DECODERS[end](packed) if end else _blocks(packed.read)
        except EOFError as error:
            raise BadData(f"{url}: the file is truncated ({error})") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise BadData(f"{url}: not a valid {end} file ({error})") from error


def _blocks(read: Callable[[int], bytes]) -> Iterator[bytes]:
    return iter(lambda: read(CHUNK), b"")


def _gunzip(packed: IO[bytes]) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=packed) as plain:
        yield from _blocks(plain.read)


def _unzstd(packed: IO[bytes]) -> Iterator[bytes]:
    zstandard = optional("zstandard")
    decoder = zstandard.ZstdDecompressor().decompressobj()
    for block in _blocks(packed.read):
        for begin in range(0, len(block), ZSTD_STEP):
            rest = block[begin : begin + ZSTD_STEP]
            while rest:  # a file may consist of several frames
                if decoder.eof:
                    decoder = zstandard.ZstdDecompressor().decompressobj()
                try:
                    plain = decoder.decompress(rest)
                except zstandard.ZstdError as error:
                    raise zlib.error(str(error)) from error
                if plain:
                    yield plain
                rest = decoder.unused_data
    if not decoder.eof:
        raise EOFError("the last zstd frame has no end")


DECODERS: dict[str, Callable[[IO[bytes]], Iterator[bytes]]] = {".gz": _gunzip, ".zst": _unzstd}


class Unpacked:
    """One file as plain bytes: `data` is a read-only buffer, `path` a local file that holds it.

    Raises BadData for an empty file, for one that unpacks to more than MOST_UNPACKED bytes, and,
    unless `binary`, for one with zero bytes; OSError where the temporary folder lacks room.
    """

    def __init__(self, url: str, *, binary: bool = False):
        self.url = url
        self._copy: Any = None
        self._file: IO[bytes] | None = None
        self.data: bytes | mmap.mmap = b""
        try:
            self.path = self._copied() if "://" in url or compression(url) else url
            self._map(binary)
        except BaseException:
            self.close()
            raise

    def _copied(self) -> str:
        self._copy = tempfile.NamedTemporaryFile(prefix="qwen3-unpacked-")
        try:
            _unpack(self.url, self._copy)
        except OSError as error:
            if not error.errno:
                raise BadData(f"{self.url}: unreadable ({error})") from error
            raise OSError(
                error.errno,
                f"{error.strerror} while unpacking {self.url} into {tempfile.gettempdir()}; "
                "set TMPDIR to a folder with more room",
            ) from error
        return self._copy.name

    def _map(self, binary: bool) -> None:
        self._file = open(self.path, "rb")
        if os.fstat(self._file.fileno()).st_size == 0:
            raise BadData(f"{self.url}: the file is empty")
        self.data = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        if not binary and b"\0" in self.data[:8192]:
            raise BadData(f"{self.url}: binary data, not text (a zero byte in the first 8 KiB)")

    def close(self) -> None:
        """Unmap the file, and delete the temporary copy if there is one."""
        if isinstance(self.data, mmap.mmap):
            self.data.close()
        if self._file is not None:
            self._file.close()
        if self._copy is not None:
            self._copy.close()


def _unpack(url: str, out: IO[bytes]) -> None:
    """Write the plain bytes of a file to `out`, as far as the bounds on disk use allow."""
    size, looked_at = 0, -CHUNK
    for chunk in chunks(url):
        size += len(chunk)
        if size > MOST_UNPACKED:
            raise BadData(
                f"{url}: unpacks to more than {MOST_UNPACKED >> 30} GiB; "
                "if that is meant, unpack it yourself and give the plain file"
            )
        if size - looked_at >= CHUNK:
            looked_at = size
            disk = shutil.disk_usage(tempfile.gettempdir())
            if disk.free - len(chunk) < min(FREE_BYTES, FREE_SHARE * disk.total):
                raise OSError(errno.ENOSPC, f"only {disk.free >> 20} MiB of disk left")
        out.write(chunk)
    out.flush()


def line_starts(data: bytes | mmap.mmap) -> np.ndarray:
    """int64 [lines + 1]: byte offset of each line of a buffer, then its size. What follows the last
    newline is a line unless it is empty."""
    offsets = [np.zeros(1, np.int64)]
    for begin in range(0, len(data), CHUNK):
        chunk = np.frombuffer(data[begin : begin + CHUNK], np.uint8)
        offsets.append(np.flatnonzero(chunk == ord("\n")) + begin + 1)
    starts = np.concatenate(offsets)
    return starts if starts[-1] == len(data) else np.append(starts, len(data))
