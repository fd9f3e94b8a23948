"""Where checkpoints lie: one directory a step, and the names that orbax and we use beside them.

On a file system a checkpoint gets its name, by one rename, when it is written to the end. Object
stores (gs://) cannot rename a directory: there it has its name from the start, and its seals, two
objects that are written last, tell that it is whole. Deleting begins with a seal, too.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from etils import epath

from qwen3.train.manifest import MANIFEST, problem
from qwen3.train.writing import WorkdirError, remote

log = logging.getLogger("qwen3")

TEMPORARY = ".orbax-checkpoint-tmp"  # part of the name of a checkpoint that is being written
DOOMED = ".deleting"  # end of the name of a checkpoint that is being deleted
SEALS = (MANIFEST, "commit_success.txt")  # ours and orbax's, the last object of all
BROKEN = 2  # damaged checkpoints that are set aside, the newest of them

STEP = re.compile(r"0|[1-9][0-9]*")  # name of a finished checkpoint


class CheckpointError(WorkdirError):
    """A checkpoint cannot be written, or none can be read; the message says which are intact."""


def steps_in(directory: Any) -> list[int]:
    """Steps of the checkpoints written to the end, oldest first; [] if there is no directory."""
    directory = epath.Path(directory)
    if not directory.is_dir():
        return []
    paths = (path for path in directory.iterdir() if STEP.fullmatch(path.name))
    return sorted(int(path.name) for path in paths if path.is_dir() and sealed(path))


def sealed(path: epath.Path) -> bool:
    """Whether a directory with a checkpoint's name was written to the end."""
    return not remote(path) or all((path / name).exists() for name in SEALS)


def newest(directory: Any) -> epath.Path:
    """The newest undamaged checkpoint of a workdir, or of its `checkpoints` directory.

    Raises CheckpointError naming the directory and the steps that were tried.
    """
    directory = epath.Path(directory)
    if (directory / "checkpoints").exists():
        directory = directory / "checkpoints"
    for step in reversed(steps_in(directory)):
        trouble = problem(directory / str(step))
        if trouble is None:
            return directory / str(step)
        log.warning("skipped checkpoint %s: %s", directory / str(step), trouble)
    raise CheckpointError(f"no whole checkpoint in {directory} (steps {steps_in(directory)})")


def absolute(directory: Any) -> epath.Path:
    """The absolute path, as orbax finds no metadata behind a relative one; a URL is as it is."""
    path = epath.Path(directory)
    return path if remote(path) else path.resolve()


def set_aside(path: epath.Path) -> None:
    """Rename a damaged checkpoint, so that its step can be written again and little is lost.

    The newest two stay. On an object store it is deleted, as a rename would copy every object.
    """
    if remote(path):
        delete(path)
        return
    number = 0
    while (path.parent / f"broken-{path.name}-{number}").exists():
        number += 1
    path.rename(path.parent / f"broken-{path.name}-{number}")
    broken = sorted(path.parent.glob("broken-*"), key=lambda other: other.stat().mtime)
    for other in broken[:-BROKEN]:
        other.rmtree()


def delete(path: epath.Path) -> None:
    """Delete a checkpoint; it is none any more from the first moment, however this is interrupted.

    That moment is a rename on a file system, and the removal of a seal on an object store.
    """
    if remote(path):
        (path / MANIFEST).unlink(missing_ok=True)
        path.rmtree()
    else:
        path.rename(path.parent / f"{path.name}{DOOMED}").rmtree()


def sweep(directory: epath.Path) -> None:
    """Remove what a killed process left half-written or half-deleted."""
    if directory.exists():
        for path in directory.iterdir():
            unsealed = STEP.fullmatch(path.name) and path.is_dir() and not sealed(path)
            if unsealed or TEMPORARY in path.name or path.name.endswith(DOOMED):
                path.rmtree()
