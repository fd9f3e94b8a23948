"""The workdir, what a run leaves behind: config.json, checkpoints/, metrics.jsonl, samples/.

Two small files beside them are for the program alone: `lock` (owner.json on an object store), held
by the process that writes, and resume.json: the schema of the config, digests of the inputs, and
the step of the last checkpoint.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

import jax
from etils import epath

from qwen3 import hosts
from qwen3.config import digest
from qwen3.train.checkpoint import Checkpoints, Restored
from qwen3.train.checkpoint_folder import steps_in
from qwen3.train.cut_back import cut_back
from qwen3.train.manifest import newest_manifest
from qwen3.train.preemption import stop_requests
from qwen3.train.retention import LAST_THREE, Keep
from qwen3.train.run_config import FREE, RunConfig
from qwen3.train.state import TrainState
from qwen3.train.stop_signals import Stopped
from qwen3.train.workdir_lock import lock, unlock
from qwen3.train.workdir_owner import Owner
from qwen3.train.writing import WorkdirError, explained, remote, write_atomically

__all__ = ["FREE", "Workdir", "WorkdirError", "cut_back", "write_atomically"]

log = logging.getLogger("qwen3")

# What resume.json holds: key -> type.
RESUME = {"schema": int, "content": dict, "checkpoint": int | None}


class Workdir:
    """A run's directory, opened for writing by one run at a time.

    config, free: see `RunConfig`. A directory that holds another config is refused with
    ValueError naming the settings. WorkdirError, one line, when it is in use, cannot be written,
    or has lost the checkpoints that it once held.
    """

    def __init__(
        self,
        path: Any,
        config: Any,
        *,
        keep: Keep = LAST_THREE,
        free: Iterable[str] = FREE,
    ) -> None:
        self.path = epath.Path(path)
        self._settings = RunConfig(config, free=free)
        self.config = self._settings.plain
        self.samples = self.path / "samples"
        self.metrics = self.path / "metrics.jsonl"
        self._directory = self.path / "checkpoints"
        self._lock: TextIO | None = None
        self._owner: Owner | None = None
        hosts.assert_equal({"config": digest(self.config), **self._settings.content})
        hosts.decided(self._open)
        self.checkpoints = Checkpoints(
            self._directory,
            config=self._settings,
            keep=keep,
            committed=self._write_resume,
            permit=self._permit,
        )

    def restore(self, template: TrainState) -> Restored | None:
        """The newest undamaged checkpoint (see Checkpoints.restore); cuts metrics.jsonl there."""
        restored = self.checkpoints.restore(template)
        step = restored.state.steps if restored else -1
        if jax.process_index() == 0:
            # A run that begins anew measures its first state, step 0, again.
            cut_back(self.metrics, step)
        return restored

    def close(self) -> None:
        """Wait for the last checkpoint, then unlock the directory."""
        try:
            with stop_requests():
                self.checkpoints.close()
        finally:
            self._unlock()

    def __enter__(self) -> Workdir:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # A host that fails must not wait for a checkpoint: its peers may wait for this host.
        if kind is None or issubclass(kind, Stopped) or jax.process_count() == 1:
            self.close()
        else:
            self._unlock()

    def _permit(self) -> None:
        """Raise WorkdirError if another run has taken the workdir over."""
        if self._owner is not None:
            self._owner.renew()

    def _open(self) -> str:
        """Take and check the directory, in process 0; other processes get its errors."""
        with explained(self.path):
            for directory in (self.path, self.samples):
                directory.mkdir(parents=True, exist_ok=True)
            if not remote(self.path):
                self._lock = lock(self.path)
            elif str(self.path).startswith("gs://"):
                self._owner = Owner(self.path)
        try:
            # A crash can have torn the small files; checkpoints hold all of it too.
            stored = newest_manifest(self._checkpoints()) or {}
            stored |= self._read("resume.json") or {}
            self._refuse_lost_checkpoints(stored.get("checkpoint"))
            if config := self._read("config.json"):
                stored["config"] = config
            if "config" in stored:
                self._refuse_other_config(stored)
                if changes := self._settings.free_changes(stored):
                    log.info("%s goes on with %s", self.path, "; ".join(changes))
            with explained(self._directory):
                self._directory.mkdir(exist_ok=True)
            text = json.dumps(self.config, indent=2, sort_keys=True)
            write_atomically(self.path / "config.json", text + "\n")
            self._write_resume(stored.get("checkpoint"))
        except BaseException:
            self._unlock()
            raise
        return ""

    def _unlock(self) -> None:
        if self._owner is not None:
            self._owner.release()
            self._owner = None
        if self._lock is not None:
            unlock(self._lock)
            self._lock = None

    def _checkpoints(self) -> list[epath.Path]:
        return [self._directory / str(step) for step in steps_in(self._directory)]

    def _read(self, name: str) -> dict | None:
        """The object in a small JSON file; None if it is absent, or torn (with a warning)."""
        file = self.path / name
        if not file.exists():
            return None
        try:
            value = json.loads(file.read_text())
            if isinstance(value, dict) and _is_resume(name, value):
                return value
        except (ValueError, RecursionError):
            pass
        log.warning("%s is damaged, as after a crash: it is written anew", file)
        return None

    def _refuse_lost_checkpoints(self, last: int | None) -> None:
        """A run is not begun anew, over its metrics, because a disk is not mounted."""
        begun = (
            not self._directory.exists() and self.metrics.exists() and self.metrics.stat().length
        )
        if self._checkpoints() or (last is None and not begun):
            return
        seen = f"step {last} was saved there" if last is not None else "metrics.jsonl has records"
        raise WorkdirError(
            f"{self._directory} holds no checkpoint, but {seen}: bring the checkpoints back (is a "
            "disk not mounted?), or take another workdir to begin anew"
        )

    def _refuse_other_config(self, stored: Mapping[str, Any]) -> None:
        lines = self._settings.changes(stored)
        if lines:
            raise ValueError(
                f"workdir {self.path} belongs to another config (there -> now): "
                + "; ".join(lines)
                + ". Take another workdir, or the old settings."
            )

    def _write_resume(self, checkpoint: int | None) -> None:
        """resume.json: what `RunConfig` stores beside the config, and the step last saved."""
        stored = {k: v for k, v in self._settings.stored().items() if k != "config"}
        text = json.dumps({**stored, "checkpoint": checkpoint}, indent=1)
        write_atomically(self.path / "resume.json", text + "\n")


def _is_resume(name: str, value: dict) -> bool:
    """Whether resume.json holds what `_write_resume` writes; other files hold what they hold."""
    if name != "resume.json":
        return True
    if any(key in value and not isinstance(value[key], kind) for key, kind in RESUME.items()):
        return False
    return all(isinstance(digest, str) for digest in value.get("content", {}).values())
