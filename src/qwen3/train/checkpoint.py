"""Checkpoints on orbax: asynchronous, atomic, sealed with checksums, kept by rule.

A checkpoint is the directory `<step>` with the arrays (orbax) and `checkpoint.json`, the seal:
step, config, whatever the stage wants to know again (data position, stage, mixture hash, schedules,
seeds, controller states), and size and CRC of every file. Orbax writes to a temporary name; the
seal is the last file, then the directory gets its name. So a name means: it was written to the end.
"""

from __future__ import annotations

import errno
import json
import logging
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from qwen3.config import differences, digest
from qwen3.train.loop import Hook
from qwen3.train.manifest import MANIFEST, problem, read_manifest, remote, write_manifest
from qwen3.train.state import TrainState

log = logging.getLogger("qwen3")

TEMPORARY = ".orbax-checkpoint-tmp"
DOOMED = ".deleting"


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or none is whole; the message says what is left."""


class OtherCheckpoint(ValueError):
    """The checkpoint is whole, but of another config or with other arrays."""


@dataclass(frozen=True)
class Keep:
    """Which checkpoints stay: the `last` ones, every `every`-th step (0: none), and the best.

    `best` names a metric ("": none) and `best_is` says whether "min" or "max" of it is best.
    """

    last: int = 3
    every: int = 0
    best: str = ""
    best_is: str = "min"

    def __post_init__(self):
        if self.last < 1:
            raise ValueError(f"keeping the last {self.last} checkpoints would keep none")
        if self.best_is not in ("min", "max"):
            raise ValueError(f"best_is {self.best_is!r} is neither 'min' nor 'max'")

    def choose(self, scores: dict[int, float | None]) -> set[int]:
        """The steps to keep of {step: value of the best-metric or None}."""
        steps = sorted(scores)
        keep = set(steps[-self.last :])
        if self.every:
            keep |= {step for step in steps if step % self.every == 0}
        scored = {s: v for s, v in scores.items() if v is not None}
        if self.best and scored:
            keep.add((min if self.best_is == "min" else max)(scored, key=scored.get))
        return keep


LAST_THREE = Keep()


class Restored(NamedTuple):
    """What `restore` gives: the state, what `save` was told beside it, and what was passed over."""

    state: TrainState
    extra: dict
    skipped: list[str]


class Checkpoints:
    """The checkpoints of one run, in `directory` (local or gs://).

    `config` (a plain dict) is stored with each and must be the same on restore, except for the
    top-level settings named in `free`. All processes call every method; process 0 does the rest.
    """

    def __init__(
        self, directory: Any, *, config: dict, keep: Keep = LAST_THREE, free: Iterable[str] = ()
    ):
        self.directory = absolute(directory)
        self._config, self._keep, self._free = _plain(config), keep, set(free)
        self._seal: dict = {}
        self._swept = False
        self._primary = jax.process_index() == 0
        self._orbax = self._writer()

    def _writer(self) -> ocp.AsyncCheckpointer:
        seal = ocp.options.AsyncOptions(post_finalization_callback=self._write_seal)
        return ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler(), async_options=seal)

    def steps(self) -> list[int]:
        """Steps of the checkpoints that were written to the end, oldest first."""
        return steps_in(self.directory)

    def save(self, state: TrainState, extra: dict | None = None, metrics: dict | None = None):
        """Start to write `state` and return; the arrays may be donated at once.

        `extra` is any JSON. Waits for the save before this one. A step that is there and whole is
        not written again. Raises CheckpointError when the disk is full (this save or the one
        before); the older checkpoints are intact.
        """
        self.wait()
        step = int(state.step)
        path = self.directory / str(step)
        if self._primary:
            self._sweep()
            if path.exists():
                if problem(path) is None:
                    return
                _set_aside(path)
            self._refuse_full_disk(state)
        metrics = {k: float(v) for k, v in (metrics or {}).items() if np.ndim(v) == 0}
        self._seal = {
            "step": step,
            "extra": _plain(extra or {}),
            "metrics": metrics,
            "config": self._config,
            "config_digest": digest(self._config),
        }
        with self._explained(step):
            self._orbax.save(path, args=ocp.args.PyTreeSave(state))

    def hook(self, every: int, extra: Callable[[int], dict]) -> Hook:
        """Save every `every` steps and when the loop ends or is stopped, with extra(step)."""

        def save(step: int, state: TrainState, metrics: dict) -> None:
            self.save(state, extra(step), metrics)

        return Hook(save, every, last=True)

    def wait(self) -> None:
        """Until the save under way is committed; then delete what the rule does not keep."""
        step = self._seal.get("step")
        if step is None:
            return
        with self._explained(step):
            self._orbax.wait_until_finished()
        self._seal = {}
        if self._primary:
            self._prune()

    def close(self) -> None:
        self.wait()
        self._orbax.close()

    def restore(self, template: TrainState) -> Restored | None:
        """The newest whole checkpoint, placed as `template` (`state.abstract`) says; None if none.

        Damaged ones are passed over with a warning that says why. Raises OtherCheckpoint
        when the newest is of another config or of other shapes, naming them, and CheckpointError
        when there are some but none is whole: a run is not begun anew by accident.
        """
        skipped: list[str] = []
        for step in reversed(self.steps()):
            path = self.directory / str(step)
            trouble = _agreed(problem(path) if self._primary else None)
            if trouble is None:
                seal = read_manifest(path)
                self._refuse_other_config(path, seal["config"])
                try:
                    return Restored(_read(path, template), seal["extra"], skipped)
                except OtherCheckpoint:
                    raise
                except Exception as error:
                    trouble = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            skipped.append(f"skipped checkpoint {path}: {trouble}")
            log.warning(skipped[-1])
        if skipped:
            raise CheckpointError(
                f"no whole checkpoint in {self.directory}; "
                + "; ".join(skipped)
                + f". To begin anew, move {self.directory} away."
            )
        return None

    def _refuse_other_config(self, path: epath.Path, saved: dict) -> None:
        now = {k: v for k, v in self._config.items() if k not in self._free}
        then = {k: v for k, v in saved.items() if k not in self._free}
        lines = differences(then, now)
        if lines:
            raise OtherCheckpoint(
                f"checkpoint {path} is of another config (saved -> now): " + "; ".join(lines)
            )

    def _write_seal(self) -> None:
        """In orbax's thread of process 0, when all files are there and before the rename."""
        final = self.directory / str(self._seal["step"])
        temporary = self.directory / f"{final.name}{TEMPORARY}"
        path = temporary if temporary.exists() else final
        write_manifest(path, self._seal)

    def _explained(self, step: int) -> _Explained:
        return _Explained(self, step)

    def _refuse_full_disk(self, state: TrainState) -> None:
        if remote(self.directory):
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        need = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self.directory).free
        # Compression saves about a tenth of fp32 weights.
        if free < 0.9 * need:
            raise CheckpointError(
                f"disk full: checkpoint {int(state.step)} needs {need / 1e9:.3g} GB and "
                f"{self.directory} has {free / 1e9:.3g} GB left. {self._intact()}"
            )

    def _intact(self) -> str:
        return f"Whole checkpoints, untouched: {self.steps() or 'none yet'}."

    def _sweep(self) -> None:
        """Remove what a killed process left half-written or half-deleted. Once, before writing."""
        if not self._swept and self.directory.exists():
            for path in self.directory.iterdir():
                if TEMPORARY in path.name or path.name.endswith(DOOMED):
                    path.rmtree()
        self._swept = True

    def _prune(self) -> None:
        """Only checkpoints of the right sizes count and go: the last good one always stays."""
        whole = {
            step: read_manifest(self.directory / str(step))["metrics"].get(self._keep.best)
            for step in self.steps()
            if problem(self.directory / str(step), read=False) is None
        }
        for step in sorted(set(whole) - self._keep.choose(whole)):
            path = self.directory / str(step)
            doomed = self.directory / f"{step}{DOOMED}"
            # One rename and it is no checkpoint any more, however the deletion is interrupted.
            path.rename(doomed).rmtree()


class _Explained:
    """Turns what orbax and the file system say about a failed write into CheckpointError."""

    def __init__(self, owner: Checkpoints, step: int):
        self._owner, self._step = owner, step

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, error, trace) -> None:
        if not isinstance(error, Exception):
            return
        owner = self._owner
        # Orbax's writer repeats an old failure at the next save, so it is replaced.
        owner._orbax, owner._seal, owner._swept = owner._writer(), {}, False
        if owner._primary:
            owner._sweep()
        text = f"{type(error).__name__}: {error}"
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in text
        raise CheckpointError(
            f"{'disk full: ' if full else ''}checkpoint {self._step} was not written to "
            f"{owner.directory}: {text.splitlines()[0]}. {owner._intact()}"
        ) from error


def steps_in(directory: Any) -> list[int]:
    """Steps of the finished checkpoints in a directory, oldest first; [] where there is none."""
    directory = epath.Path(directory)
    if not directory.exists():
        return []
    names = (path.name for path in directory.iterdir() if path.is_dir())
    return sorted(int(name) for name in names if name.isdigit())


def newest(directory: Any) -> epath.Path:
    """The newest whole checkpoint of a run's directory (or of its `checkpoints`).

    Raises CheckpointError naming what was looked at.
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
    """Of a local path; orbax finds no metadata behind a relative one."""
    return epath.Path(directory).resolve()


def load_params(directory: Any, template: Any = None) -> Any:
    """Parameters alone of the newest whole checkpoint of a run, or of one checkpoint directory.

    Placed as `template` (ShapeDtypeStructs with shardings) says, else numpy arrays.
    Raises OtherCheckpoint on other shapes, CheckpointError when there is no whole checkpoint.
    """
    directory = absolute(directory)
    path = directory if (directory / MANIFEST).exists() else newest(directory)
    if template is None:
        kinds = _saved(path)["params"]
        item = {"params": jax.tree.map(lambda _: 0, kinds)}
        how = {"params": jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), kinds)}
    else:
        _refuse_other_shapes(path, {"params": template}, {"params": _saved(path)["params"]})
        item = {"params": template}
        how = ocp.checkpoint_utils.construct_restore_args(item)
    args = ocp.args.PyTreeRestore(item, restore_args=how, partial_restore=True)
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).restore(path, args=args)["params"]


def _read(path: epath.Path, template: TrainState) -> TrainState:
    saved = _saved(path)
    _refuse_other_shapes(path, template, saved)
    how = ocp.checkpoint_utils.construct_restore_args(template)
    args = ocp.args.PyTreeRestore(template, restore_args=how)
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).restore(path, args=args)


def _saved(path: epath.Path) -> Any:
    metadata = ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).metadata(path)
    return metadata.item_metadata.tree


def _refuse_other_shapes(path: epath.Path, template: Any, saved: Any) -> None:
    def shapes(tree):
        leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
        return {_dotted(key): list(leaf.shape) for key, leaf in leaves}

    lines = differences(shapes(saved), shapes(template))
    if lines:
        raise OtherCheckpoint(
            f"checkpoint {path} has other arrays (saved -> now): "
            + "; ".join(lines[:12])
            + (f"; and {len(lines) - 12} more" if len(lines) > 12 else "")
        )


def _dotted(key: tuple) -> str:
    return ".".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in key)


def _set_aside(path: epath.Path) -> None:
    number = 0
    while (path.parent / f"broken-{path.name}-{number}").exists():
        number += 1
    path.rename(path.parent / f"broken-{path.name}-{number}")


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _agreed(trouble: str | None) -> str | None:
    """Process 0's verdict, on all processes."""
    if jax.process_count() == 1:
        return trouble
    bad = multihost_utils.broadcast_one_to_all(np.int32(trouble is not None))
    return (trouble or "process 0 found it damaged") if bad else None
