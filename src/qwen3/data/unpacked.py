"""Files a corpus is read from: local or remote paths (fsspec), gzip or zstd, as plain bytes with
random access.

A local plain file is mapped where it lies. A compressed or remote file is first unpacked into a
temporary folder, so that every source can jump to any document without holding a file in memory.
"""

import gzip
import importlib
import mmap
import os
import tempfile
import zlib
from pathlib import Path

import fsspec
import numpy as np

CHUNK = 1 << 22
BINARY = b"\0"


class BadData(ValueError):
    """A file or row that cannot be read as what it claims to be; the message names it."""


def optional(name):
    """The module `name`, or an error that says which extra brings it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}: pip install 'qwen3[data]'", name=error.name) from error


def find(pattern):
    """A path, folder or glob (`*`), local or a URL such as gs://bucket/x-*.jsonl.gz -> sorted file
    URLs.

    gs:// needs the gcsfs package; ValueError if nothing matches.
    """
    pattern = os.fspath(pattern)
    try:
        system, path = fsspec.core.url_to_fs(pattern)
    except (ImportError, ValueError) as error:
        hint = "; pip install 'qwen3[data]'" if isinstance(error, ImportError) else ""
        raise ValueError(f"cannot open {pattern!r}: {error}{hint}") from error
    if "*" in path or "?" in path:
        paths = [p for p in system.glob(path) if system.isfile(p)]
    elif system.isdir(path):
        paths = [p for p in system.find(path) if not Path(p).name.startswith(".")]
    else:
        paths = [path] if system.isfile(path) else []
    if not paths:
        raise ValueError(f"no file matches {pattern!r}")
    return sorted(system.unstrip_protocol(p).removeprefix("file://") for p in paths)


def stamp(url):
    """(url, bytes, modification time or version): changes when the file does, without reading
    it.
    """
    system, path = fsspec.core.url_to_fs(url)
    info = system.info(path)
    version = next((info[k] for k in ("mtime", "generation", "etag", "created") if k in info), "")
    return [url, int(info["size"]), str(version)]


class Unpacked:
    """One file as plain bytes: `data` is a read-only buffer, `path` a local file that holds it.

    Raises BadData for an empty file, and, unless `binary`, for one with zero bytes.
    """

    def __init__(self, url, *, binary=False):
        self.url, self._copy = url, None
        path = url
        if "://" in url or compression(url):
            self._copy = tempfile.NamedTemporaryFile(prefix="qwen3-unpacked-", delete=True)
            _unpack(url, self._copy)
            path = self._copy.name
        self.path = path
        self._file = open(path, "rb")
        size = os.fstat(self._file.fileno()).st_size
        if size == 0:
            self.close()
            raise BadData(f"{url}: the file is empty")
        self.data = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        if not binary and BINARY in self.data[:8192]:
            self.close()
            raise BadData(f"{url}: binary data, not text (a zero byte in the first 8 KiB)")

    def close(self):
        """Unmap, and delete the temporary copy if there is one."""
        if getattr(self, "data", None) is not None:
            self.data.close()
        self._file.close()
        if self._copy is not None:
            self._copy.close()


def compression(url):
    """The key of `DECODERS` that the file's ending names, or None for a plain file."""
    return next((end for end in DECODERS if url.endswith(end)), None)


def _unpack(url, out):
    end = compression(url)
    with fsspec.open(url, "rb") as raw:
        try:
            for chunk in DECODERS[end](raw) if end else iter(lambda: raw.read(CHUNK), b""):
                out.write(chunk)
            out.flush()
        except EOFError as error:
            raise BadData(f"{url}: the file is truncated ({error})") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise BadData(f"{url}: not a valid {end} file ({error})") from error
        except OSError as error:
            if not error.errno:
                raise BadData(f"{url}: unreadable ({error})") from error
            where = tempfile.gettempdir()
            raise OSError(
                error.errno,
                f"{error.strerror} while unpacking {url} into {where}; "
                "set TMPDIR to a folder with more room",
            ) from error


def _gunzip(raw):
    with gzip.GzipFile(fileobj=raw) as unzipped:
        yield from iter(lambda: unzipped.read(CHUNK), b"")


def _unzstd(raw):
    zstandard = optional("zstandard")
    decoder = zstandard.ZstdDecompressor().decompressobj()
    while chunk := raw.read(CHUNK):
        while chunk:
            if decoder.eof:
                decoder = zstandard.ZstdDecompressor().decompressobj()
            try:
                yield decoder.decompress(chunk)
            except zstandard.ZstdError as error:
                raise zlib.error(str(error)) from error
            chunk = decoder.unused_data
    if not decoder.eof:
        raise EOFError("the last zstd frame has no end")


DECODERS = {".gz": _gunzip, ".zst": _unzstd}


def line_starts(data):
    """int64 [lines + 1]: byte offset of each line of a buffer, and its size; a last empty line
    is none.
    """
    starts = [np.zeros(1, np.int64)]
    for begin in range(0, len(data), CHUNK):
        chunk = np.frombuffer(data[begin : begin + CHUNK], np.uint8)
        starts.append(np.flatnonzero(chunk == ord("\n")) + begin + 1)
    starts = np.concatenate(starts)
    return starts if starts[-1] == len(data) else np.append(starts, len(data))
