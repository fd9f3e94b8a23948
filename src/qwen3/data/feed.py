"""Batches onto devices: grain reads ahead in threads or worker processes, each host only the
rows its devices hold.
"""

import time

import grain
import jax
import numpy as np
from absl import flags

from qwen3.data.batches import Batches


class HostRows:
    """`Batches` narrowed to some rows; a grain random-access source of [rows, length] dicts."""

    def __init__(self, batches: Batches, rows):
        self._batches, self._rows = batches, [int(row) for row in rows]

    def __len__(self):
        return len(self._batches)

    def __getitem__(self, step):
        return self._batches.rows(step, self._rows)


def rows_of(sharding, batch, length):
    """int [rows]: rows of a [batch, length] array that this process's devices hold under
    `sharding`, sorted.
    """
    held = np.zeros(batch, bool)
    for index in sharding.addressable_devices_indices_map((batch, length)).values():
        held[index[0]] = True
    return np.flatnonzero(held)


def place(local, rows, sharding, batch):
    """This process's rows of a batch -> dict of global jax.Arrays [batch, length]."""
    where = np.full(batch, -1)
    where[rows] = np.arange(len(rows))

    def globally(array):
        def shard(index):
            return array[where[index[0]]][:, index[1]]

        return jax.make_array_from_callback((batch, array.shape[1]), sharding, shard)

    return {name: globally(array) for name, array in local.items()}


class Feed:
    """Endless iterator of global batches from step `start` on; also a source for `train`:
    feed(state) is the next batch.

    sharding: of a [batch, length] array. threads: readers of this process. workers: reader
        processes (0: none).
    ahead: batches read ahead. `waited` counts the seconds in which the consumer had to wait for
        input.
    """

    def __init__(self, batches: Batches, sharding, *, start=0, threads=2, workers=0, ahead=4):
        self._sharding, self._batch = sharding, batches.stage.batch
        self._rows = rows_of(sharding, batches.stage.batch, batches.stage.length)
        data = grain.MapDataset.source(HostRows(batches, self._rows))[start:]
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
        read = data.to_iter_dataset(options)
        if workers:
            # grain reads absl flags in its workers, which only absl's own app.run would parse.
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()
            read = read.mp_prefetch(
                grain.MultiprocessingOptions(workers, per_worker_buffer_size=ahead)
            )
        self._local = iter(read)
        self.waited = 0.0

    def __iter__(self):
        return self

    def __next__(self):
        began = time.perf_counter()
        local = next(self._local)
        batch = place(local, self._rows, self._sharding, self._batch)
        self.waited += time.perf_counter() - began
        return batch

    def __call__(self, state=None):
        return next(self)
