"""Checkpoints on orbax: asynchronous, atomic, with a manifest of checksums, kept by a rule.

A checkpoint is the directory `<step>` with the arrays (orbax) and `checkpoint.json`, the manifest:
step, config, what the stage asks back (data position, stage, mixture hash, controller states), and
size and checksum of every file. Orbax writes to a temporary name; the manifest is the last file,
then the directory gets its name. So the name alone says that it was written to the end. (Object
stores: see `checkpoint_folder`.) Process 0 decides what is written, deleted and restored.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from qwen3 import hosts
from qwen3.config import digest
from qwen3.train.array_files import ArrayWriter
from qwen3.train.checkpoint_folder import (
    TEMPORARY,
    CheckpointError,
    absolute,
    delete,
    newest,
    sealed,
    set_aside,
    steps_in,
    sweep,
)
from qwen3.train.loop import Hook
from qwen3.train.manifest import problem, read_manifest, sync_unlisted, write_manifest
from qwen3.train.restoring import CheckpointMismatch, load_params, read_state
from qwen3.train.retention import LAST_THREE, Keep
from qwen3.train.run_config import RunConfig, plain
from qwen3.train.save_times import SaveTimes
from qwen3.train.state import TrainState
from qwen3.train.writing import advice, remote, sync

__all__ = [
    "CheckpointError",
    "CheckpointMismatch",
    "Checkpoints",
    "Keep",
    "Restored",
    "load_params",
    "newest",
    "steps_in",
]

log = logging.getLogger("qwen3")

COMPRESSION = 0.9  # bytes on disk per byte of fp32 weights
STORED = "stored"  # verdict of process 0: this step is on the disk already


class Restored(NamedTuple):
    """What `restore` returns."""

    state: TrainState
    extra: dict  # as it was given to `save`
    skipped: list[str]  # a line for every damaged checkpoint that was passed over


class Checkpoints:
    """The checkpoints of one run, in `directory` (local or gs://).

    The settings are stored with each and must be the same on restore (see `RunConfig.changes`).
    committed(step): called in process 0 when a checkpoint is on the disk. permit(): called there
    before one is written; it may raise. Every process calls every method; process 0 writes and
    deletes what is not an array.
    """

    def __init__(
        self,
        directory: Any,
        *,
        config: RunConfig,
        keep: Keep = LAST_THREE,
        committed: Callable[[int], None] = lambda step: None,
        permit: Callable[[], None] = lambda: None,
    ) -> None:
        self.directory = absolute(directory)
        self._config, self._keep = config, keep
        self._committed, self._permit = committed, permit
        self._saving: dict = {}  # manifest of the save under way, {} if there is none
        self._swept = False
        self._primary = jax.process_index() == 0
        self._writer = ArrayWriter(self._write_manifest)

    def steps(self) -> list[int]:
        """Steps of the checkpoints that were written to the end, oldest first."""
        return steps_in(self.directory)

    def save(
        self, state: TrainState, extra: dict | None = None, metrics: dict | None = None
    ) -> None:
        """Start to write `state` and return; its arrays may be donated at once.

        `extra` is any JSON. Waits for the previous save first. A step that is stored undamaged is
        not written again. Raises CheckpointError when this save or the previous one cannot be
        written (disk full, say); the older checkpoints stay intact.
        """
        with hosts.spending("save"):
            self.wait()
            self._start(state, extra, metrics)

    def _start(self, state: TrainState, extra: dict | None, metrics: dict | None) -> None:
        step = state.steps
        path = self.directory / str(step)
        with self._explained(step):
            # All processes wait for the verdict: none may write to what process 0 still removes.
            if hosts.decided(lambda: self._prepare(path, state)) == STORED:
                return
            self._saving = {
                "step": step,
                "extra": plain(extra or {}),
                "metrics": {k: float(v) for k, v in (metrics or {}).items() if np.ndim(v) == 0},
                "config_digest": digest(self._config.plain),
                **self._config.stored(),
            }
            self._writer.save(path, state)

    def _prepare(self, path: epath.Path, state: TrainState) -> str:
        """Make room for a checkpoint at `path`, in process 0; STORED if it is there, undamaged."""
        self._permit()
        self._sweep()
        if path.exists():
            if sealed(path) and problem(path) is None:
                return STORED
            set_aside(path)
        self._refuse_full_disk(path.name, state)
        return ""

    def hook(self, every: int, extra: Callable[[int], dict], *, minutes: float = 0.0) -> Hook:
        """Save every `every` steps, and when the loop ends or is stopped, with extra(step).

        minutes: also when so many have passed since the last save; 0: not.
        """
        times = SaveTimes(minutes)

        def save(step: int, state: TrainState, metrics: dict) -> None:
            self.save(state, extra(step), metrics)
            times.saved(step)

        return Hook(save, every, last=True, also=times.due)

    def wait(self) -> None:
        """Wait until the save under way is committed, then delete what the rule does not keep."""
        step = self._saving.get("step")
        if step is None:
            return
        with self._explained(step):
            self._writer.wait()
            if self._primary:
                sync_unlisted(self.directory / str(step))
                sync(self.directory)
        self._saving = {}
        if self._primary:
            self._committed(step)
            self._prune()

    def close(self) -> None:
        self.wait()
        self._writer.close()

    def restore(self, template: TrainState) -> Restored | None:
        """The newest undamaged checkpoint, placed as `template` (`state.abstract`) says, or None.

        Damaged ones are skipped with a warning that says why. Raises CheckpointMismatch
        when the newest is of another config or of other shapes, naming them, and CheckpointError
        when all are damaged: a run is not begun anew by accident.
        """
        with hosts.spending("restore"):
            return self._restore(template)

    def _restore(self, template: TrainState) -> Restored | None:
        skipped: list[str] = []
        steps = self.steps() if self._primary else []
        while step := hosts.decided(lambda: str(steps.pop()) if steps else ""):
            path = self.directory / step
            trouble = hosts.decided(partial(_damage, path))
            if not trouble:
                manifest = read_manifest(path)
                self._refuse_other_config(path, manifest)
                try:
                    state = read_state(path, template)
                except CheckpointMismatch:
                    raise
                except Exception as error:
                    trouble = f"{type(error).__name__}: {str(error).splitlines()[0]}"
                # What one host cannot read, none goes on from.
                trouble = next(filter(None, hosts.gathered_words(trouble)), "")
                if not trouble:
                    return Restored(state, manifest["extra"], skipped)
            skipped.append(f"skipped checkpoint {path}: {trouble}")
            log.warning(skipped[-1])
        if skipped:
            raise CheckpointError(
                f"no whole checkpoint in {self.directory}; "
                + "; ".join(skipped)
                + ". To begin anew, take another workdir."
            )
        return None

    def _refuse_other_config(self, path: epath.Path, manifest: dict) -> None:
        lines = self._config.changes(manifest)
        if lines:
            raise CheckpointMismatch(
                f"checkpoint {path} is of another config (saved -> now): " + "; ".join(lines)
            )

    def _write_manifest(self) -> None:
        """Called in orbax's thread of process 0, when all files are written, before the rename."""
        final = self.directory / str(self._saving["step"])
        temporary = self.directory / f"{final.name}{TEMPORARY}"
        path = temporary if temporary.exists() else final
        write_manifest(path, self._saving)

    @contextlib.contextmanager
    def _explained(self, step: int) -> Iterator[None]:
        """Turns what orbax and the file system say of a failed write into a CheckpointError."""
        try:
            yield
        except CheckpointError:
            raise
        except Exception as error:
            self._replace_writer()
            text = f"{type(error).__name__}: {error}"
            # Tensorstore tells of a full disk in words alone.
            full = "No space left" in text
            number = errno.ENOSPC if full else getattr(error, "errno", None)
            raise CheckpointError(
                f"{'disk full: ' if full else ''}checkpoint {step} was not written to "
                f"{self.directory}: {text.splitlines()[0]}; {advice(number)}. {self._intact()}"
            ) from error

    def _replace_writer(self) -> None:
        """Orbax's writer repeats an old failure at the next save, so a failed one is closed."""
        failed, self._writer = self._writer, ArrayWriter(self._write_manifest)
        self._saving, self._swept = {}, False
        for _ in range(2):  # the first call may raise the failure again before it closes anything
            with contextlib.suppress(Exception):
                failed.close()
        if self._primary:
            with contextlib.suppress(OSError):
                self._sweep()

    def _refuse_full_disk(self, step: str, state: TrainState) -> None:
        if remote(self.directory):
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        need = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self.directory).free
        if free < COMPRESSION * need:
            raise CheckpointError(
                f"disk full: checkpoint {step} needs {need / 1e9:.3g} GB and "
                f"{self.directory} has {free / 1e9:.3g} GB left; {advice(errno.ENOSPC)}. "
                f"{self._intact()}"
            )

    def _intact(self) -> str:
        return f"Whole checkpoints, untouched: {self.steps() or 'none yet'}."

    def _sweep(self) -> None:
        """Remove a killed process's leftovers, once, before the first write."""
        if not self._swept:
            sweep(self.directory)
        self._swept = True

    def _prune(self) -> None:
        """Delete what the rule does not keep.

        Only checkpoints whose files have the right sizes count and go, so the last good one stays.
        """
        scores = {
            step: read_manifest(self.directory / str(step))["metrics"].get(self._keep.best)
            for step in self.steps()
            if problem(self.directory / str(step), read=False) is None
        }
        for step in sorted(set(scores) - self._keep.choose(scores)):
            delete(self.directory / str(step))


def _damage(path: epath.Path) -> str:
    """What is wrong with a checkpoint, "" for nothing."""
    return problem(path) or ""
