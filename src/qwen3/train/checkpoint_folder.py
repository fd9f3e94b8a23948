"""Where checkpoints lie: one directory a step, and the names that orbax and we use beside them."""

from __future__ import annotations

import logging
import re
from typing import Any

from etils import epath

from qwen3.train.manifest import problem
from qwen3.train.writing import WorkdirError

log = logging.getLogger("qwen3")

TEMPORARY = ".orbax-checkpoint-tmp"  # part of the name of a checkpoint that is being written
DOOMED = ".deleting"  # end of the name of a checkpoint that is being deleted


STEP = re.compile(r"0|[1-9][0-9]*")  # name of a finished checkpoint


class CheckpointError(WorkdirError):
    """A checkpoint cannot be written, or none can be read; the message says which are intact."""


def steps_in(directory: Any) -> list[int]:
    """Steps of the checkpoints written to the end, oldest first; [] if there is no directory."""
    directory = epath.Path(directory)
    if not directory.is_dir():
        return []
    names = (path.name for path in directory.iterdir() if path.is_dir())
    return sorted(int(name) for name in names if STEP.fullmatch(name))


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
    """The absolute path: orbax finds no metadata behind a relative one."""
    return epath.Path(directory).resolve()


def set_aside(path: epath.Path) -> None:
    """Rename a damaged checkpoint, so that its step can be written again and nothing is lost."""
    number = 0
    while (path.parent / f"broken-{path.name}-{number}").exists():
        number += 1
    path.rename(path.parent / f"broken-{path.name}-{number}")


def sweep(directory: epath.Path) -> None:
    """Remove what a killed process left half-written or half-deleted."""
    if directory.exists():
        for path in directory.iterdir():
            if TEMPORARY in path.name or path.name.endswith(DOOMED):
                path.rmtree()
