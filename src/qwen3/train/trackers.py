"""Experiment trackers beside the workdir's own records: Weights & Biases and trackio."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from qwen3.train.metrics import Record

TRACKERS = ("wandb", "trackio")  # modules with the same interface: init, log, finish


class Tracker:
    """Records of one run, sent to a tracker by its own library.

    The run is named after the workdir and goes on under that name when the workdir is resumed.
    Raises ImportError saying what to install, ValueError for an unknown tracker.
    """

    def __init__(self, name: str, workdir: Any, config: dict[str, Any], *, resumed: bool) -> None:
        check((name,))
        try:
            self._library = importlib.import_module(name)
        except ImportError as error:
            raise ImportError(f'{name} needs pip install "qwen3[track]"') from error
        path = Path(str(workdir))
        self._library.init(
            project=path.parent.name or "qwen3",
            name=path.name,
            config=config,
            resume="allow" if resumed else "never",
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
