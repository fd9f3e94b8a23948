"""Failed writes of a workdir told in one line; its small files, written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from typing import TYPE_CHECKING

from qwen3.data import atomic

if TYPE_CHECKING:
    from etils import epath

ADVICE = {
    errno.ENOSPC: "free space on that disk and start again",
    errno.EDQUOT: "free space within your quota and start again",
    errno.EROFS: "the file system is read-only (after disk errors?); remount it and start again",
    errno.EACCES: "get the right to write there, or take another workdir",
    errno.EPERM: "get the right to write there, or take another workdir",
    errno.ENOTDIR: "a file stands where a directory is needed; move it, or take another workdir",
    errno.EEXIST: "a file stands where a directory is needed; move it, or take another workdir",
}


class WorkdirError(RuntimeError):
    """A workdir cannot be used; the message is one line that names the path and what to do."""


def remote(path: epath.Path) -> bool:
    """Whether the path lies on an object store (gs://...), not on a file system."""
    return "://" in str(path)


def advice(number: int | None) -> str:
    """What the user can do about a write that failed with this errno."""
    return ADVICE.get(number or 0, "mend that, or take another workdir, and start again")


@contextlib.contextmanager
def explained(path: epath.Path) -> Iterator[None]:
    """Turns an OSError of the block, which writes `path`, into a WorkdirError of one line."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise WorkdirError(f"cannot write {path}: {reason}; {advice(error.errno)}") from error


def write_atomically(path: epath.Path, text: str) -> None:
    """`data.atomic.write_atomically` for the files of a workdir, on a file system or a store.

    Raises WorkdirError where the file cannot be written; the old one is untouched then.
    """
    with explained(path):
        if remote(path):  # an object is there whole or not at all
            path.write_text(text)
        else:
            atomic.write_atomically(path, text)


def sync(path: epath.Path) -> None:
    """`data.atomic.sync` of a path of a workdir; object stores need none."""
    if not remote(path):
        atomic.sync(path)
