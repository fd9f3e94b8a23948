"""The arrays of a checkpoint on disk, by orbax, in the processes that have devices of them.

Where a mesh is not of all processes, the others neither write nor read: what they get of arrays
that are read is empty, as it is of all arrays of that mesh.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from qwen3.train import across


class ArrayWriter:
    """Writes one tree after the other, while the run goes on. finished: called in process 0, in
    orbax's thread, when all files of one are written, before their folder gets its name.
    """

    def __init__(self, finished: Callable[[], None]):
        self._finished = finished
        self._orbax: ocp.AsyncCheckpointer | None = None  # made at the first save

    def save(self, path: epath.Path, tree: Any) -> None:
        """Start to write, and return; the arrays may be donated at once."""
        processes = across.holders(tree)
        if jax.process_index() not in processes:
            return
        if self._orbax is None:
            options = ocp.options.AsyncOptions(
                post_finalization_callback=self._finished,
                # Else threads wait for a directory that cannot be made, and the process with them.
                create_directories_asynchronously=False,
            )
            among = _among(processes)
            handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=among)
            self._orbax = ocp.AsyncCheckpointer(
                handler, async_options=options, multiprocessing_options=among
            )
        if len(processes) == 1 < jax.process_count():
            # Orbax takes arrays that one of several processes has alone for a mistake.
            tree = jax.tree.map(np.array, tree)
        self._orbax.save(path, args=ocp.args.PyTreeSave(tree))

    def wait(self) -> None:
        """Wait until all is written. Raises what orbax raises."""
        if self._orbax is not None:
            self._orbax.wait_until_finished()

    def close(self) -> None:
        """Wait as well, and end the threads."""
        if self._orbax is not None:
            self._orbax.close()


def read(path: epath.Path, tree: Any, **options: Any) -> Any:
    """The arrays of a folder, as `ocp.args.PyTreeRestore(tree, **options)` says."""
    processes = across.holders(tree)
    if jax.process_index() not in processes:
        return jax.tree.map(across.absent, tree)
    among = _among(processes)
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=among)
    reader = ocp.Checkpointer(handler, multiprocessing_options=among)
    return reader.restore(path, args=ocp.args.PyTreeRestore(tree, **options))


def metadata(path: epath.Path) -> Any:
    """Shapes and dtypes of the arrays, as a tree; nothing else is read."""
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).metadata(path).item_metadata.tree


def _among(processes: set[int]) -> ocp.options.MultiprocessingOptions:
    """Orbax's options for these processes, of which process 0 is one; its default for all."""
    if len(processes) == jax.process_count():
        return ocp.options.MultiprocessingOptions()
    return ocp.options.MultiprocessingOptions(
        primary_host=min(processes),
        active_processes=processes,
        barrier_sync_key_prefix="trainer",
    )
