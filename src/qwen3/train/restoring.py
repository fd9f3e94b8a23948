"""Reading the arrays of a checkpoint: a whole train state, or the parameters alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from qwen3.config import differences
from qwen3.train import array_files
from qwen3.train.checkpoint_folder import CheckpointError, absolute, newest
from qwen3.train.manifest import MANIFEST
from qwen3.train.state import TrainState

SHOWN = 12  # differing arrays named in an error


class CheckpointMismatch(ValueError):
    """The checkpoint is undamaged, but of another config or with other arrays."""


def load_params(directory: Any, template: Any = None) -> Any:
    """Parameters alone of a workdir's newest undamaged checkpoint, or of one checkpoint directory.

    Arrays are placed as `template` (ShapeDtypeStructs with shardings) says; without one they are
    numpy arrays. Raises CheckpointMismatch for other shapes, naming them, and CheckpointError if
    there is no undamaged checkpoint or its arrays cannot be read.
    """
    directory = absolute(directory)
    path = directory if (directory / MANIFEST).exists() else newest(directory)
    stored = {"params": _stored(path)["params"]}
    if template is None:
        item = jax.tree.map(lambda _: 0, stored)
        restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), stored)
    else:
        item = {"params": template}
        _refuse_other_shapes(path, item, stored)
        restore_args = ocp.checkpoint_utils.construct_restore_args(item)
    with _readable(path):
        tree = array_files.read(path, item, restore_args=restore_args, partial_restore=True)
        return tree["params"]


def read_state(path: epath.Path, template: TrainState) -> TrainState:
    """The train state of one checkpoint, placed as `template` says.

    Raises CheckpointMismatch for other shapes, naming them.
    """
    _refuse_other_shapes(path, template, _stored(path))
    restore_args = ocp.checkpoint_utils.construct_restore_args(template)
    return array_files.read(path, template, restore_args=restore_args)


def _stored(path: epath.Path) -> Any:
    """Shapes of the stored arrays, as a tree; nothing else is read."""
    with _readable(path):
        return array_files.metadata(path)


@contextlib.contextmanager
def _readable(path: epath.Path) -> Iterator[None]:
    """Turns whatever orbax raises over damaged files into a CheckpointError naming the folder."""
    try:
        yield
    except Exception as error:
        fault = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CheckpointError(f"the arrays of {path} cannot be read ({fault})") from error


def _refuse_other_shapes(path: epath.Path, template: Any, stored: Any) -> None:
    lines = differences(_shapes(stored), _shapes(template))
    if lines:
        more = len(lines) - SHOWN
        raise CheckpointMismatch(
            f"checkpoint {path} has other arrays (saved -> now): "
            + "; ".join(lines[:SHOWN])
            + (f"; and {more} more" if more > 0 else "")
        )


def _shapes(tree: Any) -> dict[str, list[int]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_dotted(path): list(leaf.shape) for path, leaf in leaves}


def _dotted(path: tuple) -> str:
    """ "params.layers.query" of a path, whichever kind of tree it leads through."""
    return ".".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)
