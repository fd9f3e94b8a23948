"""Experiment trackers beside the workdir's own records: Weights & Biases and trackio."""

from __future__ import annotations

import importlib
import uuid
from pathlib import Path
from typing import Any

from etils import epath

from qwen3.train.metrics import Record
from qwen3.train.writing import write_atomically

TRACKERS = ("wandb", "trackio")  # modules with the same interface: init, log, finish
RUN_ID = "wandb_id"  # file of the workdir


class Tracker:
    """Records of one run, sent to a tracker by its own library.

    The run is named after the workdir and goes on when the workdir is resumed. Raises ImportError
    saying what to install, ValueError for an unknown tracker.
    """

    def __init__(self, name: str, workdir: Any, config: dict[str, Any], *, resumed: bool) -> None:
        check((name,))
        try:
            self._library = importlib.import_module(name)
        except ImportError as error:
            raise ImportError(f'{name} needs pip install "qwen3[track]"') from error
        path = Path(str(workdir))
        # Trackio finds a run by its name again, Weights & Biases by an id alone.
        identity = {"id": _run_id(epath.Path(workdir), resumed)} if name == "wandb" else {}
        self._library.init(
            project=path.parent.name or "qwen3",
            name=path.name,
            config=config,
            resume="allow" if resumed else "never",
            **identity,
        )

    def write(self, step: int, values: Record) -> None:
        numbers = {key: value for key, value in values.items() if isinstance(value, (int, float))}
        self._library.log(numbers, step=step)

    def close(self) -> None:
        self._library.finish()


def check(names: tuple[str, ...]) -> None:
    """Raises ValueError naming the trackers there are."""
    if unknown := sorted(set(names) - set(TRACKERS)):
        raise ValueError(f"track {unknown}: choose from {', '.join(TRACKERS)}")


def _run_id(workdir: Any, resumed: bool) -> str:
    """The id that the workdir's run has at the tracker; a run that begins anew gets a new one."""
    file = workdir / RUN_ID
    if not (resumed and file.exists()):
        write_atomically(file, uuid.uuid4().hex[:16] + "\n")
    return file.read_text().strip()
