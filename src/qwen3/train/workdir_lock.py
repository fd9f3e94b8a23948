"""The lock of a workdir: one run at a time writes there."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
from typing import TextIO

from etils import epath

from qwen3.train.writing import WorkdirError

log = logging.getLogger("qwen3")


def lock(directory: epath.Path) -> TextIO:
    """The locked file `lock`; `unlock`, or the end of the process, however it ends, frees it.

    flock belongs to this open file, unlike fcntl's POSIX locks, which a process loses when it
    closes any other stream on the file. Raises WorkdirError naming the process that holds it.
    """
    stream = open(os.fspath(directory / "lock"), "a+")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.seek(0)
        owner = stream.read().strip()
        stream.close()
        raise WorkdirError(_in_use(directory, owner)) from None
    except OSError as error:
        log.warning(
            "%s cannot be locked (%s): see to it that one run at a time writes there",
            directory,
            error.strerror,
        )
        return stream
    stream.truncate(0)
    stream.write(_this_process())
    stream.flush()
    return stream


def unlock(stream: TextIO) -> None:
    """Free the workdir; the file stays, as another process may be about to lock it."""
    with contextlib.suppress(OSError):  # a disk gone read-only: what failed there is told already
        stream.truncate(0)
    stream.close()


def _in_use(directory: epath.Path, owner: str) -> str:
    if owner == _this_process():
        return (
            f"{directory} is open in this process already (a notebook cell run twice?): close the "
            "first Workdir, or restart the kernel"
        )
    return (
        f"{directory} is in use by process {owner or 'unknown'}: wait for it, or take another "
        "workdir"
    )


def _this_process() -> str:
    return f"{os.getpid()} on {socket.gethostname()}"
