"""Ranges of bytes of local or remote files; remote ones are kept on the local disk."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
import threading
from pathlib import Path

from qwen3.data.unpacked import BadData, filesystem

LIMIT = 16 << 30  # bytes of the local disk
FREE_SHARE = 0.05  # of that disk, left free


def default_folder() -> Path:
    """A folder of this user under TMPDIR, which says where there is room."""
    return Path(tempfile.gettempdir()) / f"qwen3-ranges-{os.getuid()}"


class RangeCache:
    """`read` gives bytes [begin, end) of a file, and fetches a range of a remote file once.

    version: changes with the content of the files, so that an old range is never taken for a new
        one.
    limit: bytes that stay on the local disk; beyond them the ranges that were not read for the
        longest time go. Several processes may share a folder.
    """

    def __init__(self, version: str, folder: Path | None = None, limit: int = LIMIT):
        self._version, self._folder, self._limit = version, folder or default_folder(), limit
        self._lock = threading.Lock()
        self._size: int | None = None  # of the folder; counted at the first write
        self.fetched = 0  # bytes that this process read from remote files

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_lock": None, "_size": None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__ = state | {"_lock": threading.Lock()}

    def read(self, url: str, begin: int, end: int) -> bytes:
        """Bytes [begin, end). BadData naming the file if it ends before, OSError of its store."""
        if "://" not in url:
            return read_range(url, begin, end)
        key = hashlib.sha256(f"{self._version} {url} {begin} {end}".encode()).hexdigest()[:32]
        path = self._folder / key
        with contextlib.suppress(FileNotFoundError):
            data = path.read_bytes()
            os.utime(path)
            return _complete(str(path), begin, end, data)
        data = read_range(url, begin, end)
        self._store(path, data)
        return data

    def _store(self, path: Path, data: bytes) -> None:
        with self._lock:
            self.fetched += len(data)
            # A full disk costs reading again, and no more: the range itself is at hand.
            with contextlib.suppress(OSError):
                self._make_room(len(data))
                beside = path.with_name(f".{path.name}.{os.getpid()}")
                beside.write_bytes(data)
                beside.replace(path)
                self._size = (self._size or 0) + len(data)

    def _make_room(self, size: int) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        disk = os.statvfs(self._folder)
        spare = int((disk.f_bavail - FREE_SHARE * disk.f_blocks) * disk.f_frsize)
        if self._size is not None and self._size + size <= self._limit and size <= spare:
            return
        ranges = []
        for path in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process made room
                ranges.append((path.stat().st_mtime, path.stat().st_size, path))
        self._size = sum(bytes_ for _, bytes_, _ in ranges)
        room = 0.9 * min(self._limit, self._size + spare)
        for _, bytes_, path in sorted(ranges):
            if self._size + size <= room:
                break
            path.unlink(missing_ok=True)
            self._size -= bytes_
        if self._size + size > room:
            raise OSError(errno.ENOSPC, "no room beside other files")


def read_range(url: str, begin: int, end: int) -> bytes:
    """Bytes [begin, end) of a file or object. BadData naming the file if it ends before."""
    if "://" not in url:
        with open(url, "rb") as file:
            file.seek(begin)
            return _complete(url, begin, end, file.read(end - begin))
    system, path = filesystem(url)
    return _complete(url, begin, end, system.cat_file(path, start=begin, end=end))


def _complete(url: str, begin: int, end: int, data: bytes) -> bytes:
    if len(data) != end - begin:
        raise BadData(f"{url}: {len(data)} of the bytes {begin} to {end}: the file is cut off")
    return data
