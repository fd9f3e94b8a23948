"""The workdir, what a run leaves behind: config.json, checkpoints/, metrics.jsonl, samples/."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable
from typing import Any, TextIO

import jax
from etils import epath

from qwen3.config import differences
from qwen3.data.atomic import write_atomically
from qwen3.data.jsonl import read_rows, write_rows
from qwen3.train.checkpoint import LAST_THREE, Checkpoints, Keep, Restored
from qwen3.train.state import TrainState

# Settings that may change when a run goes on: how and where it runs, not what it computes.
FREE = ("mesh", "execution", "keep", "log")


class Workdir:
    """A run's directory, opened for writing by one run at a time.

    `config` is a plain dict (config.to_dict). A directory that holds another config is refused
    with ValueError naming the settings; those in `free` may differ. RuntimeError when another
    process of this machine writes there.
    """

    def __init__(
        self, path: Any, config: dict, *, keep: Keep = LAST_THREE, free: Iterable[str] = FREE
    ) -> None:
        self.path = epath.Path(path)
        self.config = json.loads(json.dumps(config))
        self.samples = self.path / "samples"
        self.metrics = self.path / "metrics.jsonl"
        self._free = set(free)
        self._lock: TextIO | None = None
        if jax.process_index() == 0:
            self._open()
        self.checkpoints = Checkpoints(
            self.path / "checkpoints", config=self.config, keep=keep, free=self._free
        )

    def restore(self, template: TrainState) -> Restored | None:
        """The newest undamaged checkpoint (see Checkpoints.restore); cuts metrics.jsonl there."""
        restored = self.checkpoints.restore(template)
        if jax.process_index() == 0:
            cut_back(self.metrics, int(restored.state.step) if restored else 0)
        return restored

    def close(self) -> None:
        self.checkpoints.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Workdir:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        for directory in (self.path, self.samples, self.path / "checkpoints"):
            directory.mkdir(parents=True, exist_ok=True)
        if "://" not in str(self.path):
            self._lock = _lock(self.path / "lock")
        file = self.path / "config.json"
        if file.exists():
            self._refuse_other_config(json.loads(file.read_text()))
        write_atomically(file, json.dumps(self.config, indent=2, sort_keys=True) + "\n")

    def _refuse_other_config(self, stored: dict) -> None:
        then, now = (
            {k: v for k, v in config.items() if k not in self._free}
            for config in (stored, self.config)
        )
        lines = differences(then, now)
        if lines:
            raise ValueError(
                f"workdir {self.path} belongs to another config (there -> now): "
                + "; ".join(lines)
                + ". Take another workdir, or the old settings."
            )


def cut_back(path: Any, step: int) -> None:
    """Drop the lines of metrics.jsonl after `step` and a torn last one: they will come again."""
    path = epath.Path(path)
    if not path.exists():
        return
    rows = (row for _, row in read_rows(path, fields=["step"], skipped=[]))
    write_rows(path, [row for row in rows if isinstance(row["step"], int) and row["step"] <= step])


def _lock(path: epath.Path) -> TextIO:
    """The locked file; it is unlocked when the process ends, however it ends."""
    stream = open(os.fspath(path), "a+")
    try:
        # POSIX locks are not inherited by children.
        fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        stream.seek(0)
        owner = stream.read().strip() or "unknown"
        stream.close()
        raise RuntimeError(f"{path.parent} is in use by process {owner}") from None
    stream.truncate(0)
    stream.write(str(os.getpid()))
    stream.flush()
    return stream
