"""Where the teacher of on-policy distillation lies: on the training mesh, or on devices of its own.

A teacher on devices of its own reads the batch there and hands over its last hidden states, which
are V / E times smaller than its logits (30 to 150 times at Qwen3's sizes). The student's step
projects them with the teacher's output matrix, which the training mesh holds too, in chunks: the
divergence is that of a resident teacher, over the full vocabulary.
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from qwen3 import mesh as meshes
from qwen3.config import MeshConfig
from qwen3.losses.distill import Distill
from qwen3.mesh import make_mesh
from qwen3.model import transformer
from qwen3.model.execution import Execution
from qwen3.model.sizes import ModelConfig
from qwen3.stages import builders, teacher
from qwen3.stages.on_policy import Setup
from qwen3.train import across


def teacher_mesh(
    settings: MeshConfig | None,
    teacher_devices: int,
    rollout_devices: int,
    model: ModelConfig,
    length: int,
) -> Mesh | None:
    """The mesh of a teacher of size `model` on devices of its own, those before the sampler's; None
    where it has none. length: slots of a row.

    Raises ValueError, in one line, for a mesh that the devices do not fill, or that the model or
    the rows do not divide over.
    """
    if not teacher_devices:
        return None
    devices = jax.devices()
    last = len(devices) - rollout_devices
    try:
        mesh = make_mesh(settings or MeshConfig(), devices[last - teacher_devices : last])
        meshes.shardings_of(transformer.abstract(model), mesh)
        if length % mesh.shape["context"]:
            raise ValueError(
                f"length {length} does not divide over context {mesh.shape['context']}"
            )
    except ValueError as error:
        raise ValueError(f"teacher_mesh: {error}") from None
    return mesh


class ResidentTeacher:
    """A teacher on the training mesh, which the student's step runs."""

    def __init__(self, source: str, setup: Setup, divergence: Distill):
        loaded = teacher.load(source, setup.mesh, dtype=setup.execution.dtype)
        self.params = loaded.params
        self.frozen = {"teacher": loaded.params}
        model = setup.config.model
        self.loss = builders.divergence(model, loaded.model, setup.execution, divergence)

    def batch(self, batch: dict) -> dict:
        """What the loss reads: the batch as it is."""
        return batch

    def metrics(self) -> dict[str, float]:
        """Of the hand-over: {}, as there is none."""
        return {}


class RemoteTeacher:
    """A teacher on a mesh of its own, whose hidden states are handed over with each batch.

    Nothing waits for them: the teacher computes those of the next batch while the student's step
    runs. With as many devices as the training mesh they go straight from device to device, else
    through the host's memory.
    """

    def __init__(self, source: str, mesh: Mesh, setup: Setup, divergence: Distill):
        settings = setup.config
        execution = Execution.for_mesh(mesh, **settings.execution)
        with jax.set_mesh(mesh):
            loaded = teacher.load(source, mesh, dtype=jnp.dtype(execution.dtype))
        self.params, self._mesh = loaded.params, mesh
        parts = setup.batches.microbatches
        self._forward = builders.teacher_hidden(loaded.model, execution, microbatches=parts)
        by_row = meshes.spec("batch", "length", None)
        self._target = NamedSharding(setup.mesh, by_row)
        self._lay_out = None
        if jax.process_count() == 1 and mesh.size == setup.mesh.size:
            # The student's layout on the teacher's devices: each shard then has one destination.
            same = Mesh(
                mesh.devices.reshape(setup.mesh.devices.shape),
                setup.mesh.axis_names,
                axis_types=setup.mesh.axis_types,
            )
            self._lay_out = jax.jit(lambda x: x, out_shardings=NamedSharding(same, by_row))
        by_id = NamedSharding(setup.mesh, meshes.spec("vocab", "embed"))
        self.frozen = {"teacher_head": across.move(transformer.head(self.params), by_id)}
        self.loss = builders.handed_over(settings.model, setup.execution, divergence)
        self._clock = ThreadPoolExecutor(1, thread_name_prefix="teacher")
        self._times: deque[Future] = deque()  # of the batches whose metrics were not read yet

    def batch(self, batch: dict) -> dict:
        """The batch with the teacher's hidden states on the training mesh, still being computed."""
        begin = time.perf_counter()
        reads = {name: batch[name] for name in builders.TEACHER_READS}
        with jax.set_mesh(self._mesh):
            there = dict.fromkeys(reads, meshes.batch_sharding(self._mesh))
            hidden = self._forward(self.params, across.move(reads, there))
            laid_out = hidden if self._lay_out is None else self._lay_out(hidden)
        moved = across.move(laid_out, self._target)
        self._times.append(self._clock.submit(_times, begin, hidden, moved))
        return {**batch, "teacher_hidden": moved}

    def metrics(self) -> dict[str, float]:
        """Of the hand-over for the first batch not asked about yet, once it was trained on."""
        return self._times.popleft().result() if self._times else {}


def _times(begin: float, hidden: jax.Array, moved: jax.Array) -> dict[str, float]:
    """Seconds until the hidden states were there, and from then on until they were moved."""
    jax.block_until_ready(hidden)
    computed = time.perf_counter()
    jax.block_until_ready(moved)
    return {
        "teacher_seconds": computed - begin,
        "handover_seconds": time.perf_counter() - computed,
        "handover_bytes": float(moved.nbytes),
    }


def place(
    source: str, mesh: Mesh | None, setup: Setup, divergence: Distill
) -> ResidentTeacher | RemoteTeacher:
    """The teacher of `source`, on `mesh` or, without one, on the training mesh."""
    if mesh is None:
        return ResidentTeacher(source, setup, divergence)
    return RemoteTeacher(source, mesh, setup, divergence)
