"""Reading batches ahead of the step that needs them: in a thread, or by grain's readers."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import jax
import numpy as np
from absl import flags
from jax.sharding import Mesh

from qwen3.data.batches import Batches
from qwen3.train.placement import local_rows, place


class Prefetch:
    """source[first], source[first + 1], ... up to `until`, the next one read while one is used.

    An exception of the source is raised by the `next` that would have returned its batch.
    """

    def __init__(self, source: Any, first: int, until: int) -> None:
        self._source = source
        self._steps = range(first, until)
        self._ready: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(maxsize=1)
        self._closed = threading.Event()
        # The ambient mesh belongs to a thread; the source shall see the caller's.
        self._mesh = jax.sharding.get_mesh()
        self._thread = threading.Thread(target=self._read, name="prefetch", daemon=True)
        self._thread.start()

    def next(self) -> Any:
        batch, error = self._ready.get()
        if error is not None:
            raise error
        return batch

    def close(self) -> None:
        self._closed.set()
        # The thread may wait for room in the queue: make it until it has noticed.
        while self._thread.is_alive():
            try:
                self._ready.get(timeout=0.01)
            except queue.Empty:
                pass

    def _read(self) -> None:
        with contextlib.nullcontext() if self._mesh.empty else jax.set_mesh(self._mesh):
            self._read_all()

    def _read_all(self) -> None:
        for step in self._steps:
            if self._closed.is_set():
                return
            try:
                batch = self._source[step]
            except BaseException as error:
                self._ready.put((None, error))
                return
            self._ready.put((batch, None))


class HostRows:
    """Some rows of every batch; a grain random-access source of {field: [rows, length]}."""

    def __init__(self, batches: Batches, rows: Sequence[int] | np.ndarray) -> None:
        self._batches, self._rows = batches, [int(row) for row in rows]

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        return self._batches.rows(step, self._rows)


class Feed:
    """Endless iterator of global batches on `mesh` from step `start` on.

    Grain reads ahead, on each host only the rows that its devices hold. It is a source for `train`
    too: `feed(state)` is the next batch.

    Attributes:
        waited: seconds that the caller has spent waiting for input.
    """

    def __init__(
        self,
        batches: Batches,
        mesh: Mesh,
        *,
        start: int = 0,
        threads: int = 2,  # reader threads of this process
        workers: int = 0,  # reader processes; 0: threads alone
        ahead: int = 4,  # batches that each reader reads ahead
    ) -> None:
        self._mesh, self._batch = mesh, batches.stage.batch
        rows = local_rows(mesh, batches.stage.batch)
        data = grain.MapDataset.source(HostRows(batches, rows))[start:]
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
        reader = data.to_iter_dataset(options)
        if workers:
            # grain reads absl flags in its workers, which only absl's own app.run would parse.
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()
            reader = reader.mp_prefetch(
                grain.MultiprocessingOptions(workers, per_worker_buffer_size=ahead)
            )
        self._local = iter(reader)
        self.waited = 0.0

    def __iter__(self) -> Iterator[dict[str, jax.Array]]:
        return self

    def __next__(self) -> dict[str, jax.Array]:
        start = time.perf_counter()
        batch = place(next(self._local), self._mesh, self._batch)
        self.waited += time.perf_counter() - start
        return batch

    def __call__(self, state: Any = None) -> dict[str, jax.Array]:
        return next(self)
