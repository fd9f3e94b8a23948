"""What can be planned: a table of steps, each a jitted function with abstract, placed arguments.

Another module adds its own: `STEPS["mine"] = build` with `build(setting, model, mesh) -> Work`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from qwen3.config import MeshConfig, OptimConfig
from qwen3.infer import budget, compiled
from qwen3.losses.distill import Distill
from qwen3.losses.grpo_config import Grpo
from qwen3.model import sizes
from qwen3.model.execution import Execution
from qwen3.model.sizes import ModelConfig, flops_per_token
from qwen3.stages import builders
from qwen3.stages.start import abstract_parameters
from qwen3.train import optim, state
from qwen3.train.step import make_step


@dataclass(frozen=True)
class Setting:
    """What to plan. batch_per_device: rows of `length` tokens of one step, over all devices.

    For prefill and decode: prompts, or slots with caches of `length` places.
    chunk: rows of logits at once a device. teacher: a size, for distillation. execution: changes
    to `Execution.for_mesh`. optim.moments is the dtype of the optimizer's first moments.
    """

    model: str
    topology: str
    mesh: MeshConfig = MeshConfig()
    step: str = "train"
    batch_per_device: float = 1
    length: int = 4096
    microbatches: int = 1
    remat: str = "full"
    chunk: int = 1024
    teacher: str = "32b"
    params_dtype: str = "float32"
    optim: OptimConfig = OptimConfig()
    execution: tuple[tuple[str, Any], ...] = ()

    def replace(self, **changes) -> Setting:
        return dataclasses.replace(self, **changes)


class Work(NamedTuple):
    """function.lower(*arguments) is the program; it does `tokens` tokens and, on paper, `flops`."""

    function: Any
    arguments: tuple
    tokens: int
    flops: float


Build = Callable[[Setting, ModelConfig, Mesh], Work]


def rows(setting: Setting, mesh: Mesh) -> int:
    """Rows of the whole batch. Raises ValueError where it does not divide over the mesh."""
    count = setting.batch_per_device * mesh.size
    ways = mesh.size // mesh.shape["context"] // mesh.shape["tensor"]
    if count != int(count) or count % (ways * setting.microbatches):
        raise ValueError(
            f"{setting.batch_per_device} rows a device are {count:g} rows, which do not divide over"
            f" {ways} (data x fsdp x expert of the mesh) x {setting.microbatches} microbatches"
        )
    if setting.length % mesh.shape["context"]:
        raise ValueError(
            f"length {setting.length} does not divide over context={mesh.shape['context']}"
        )
    return int(count)


def execution(setting: Setting, mesh: Mesh) -> Execution:
    """Kernels of the platform of the mesh's devices, and what the setting changes."""
    return Execution.for_mesh(mesh, remat=setting.remat, **dict(setting.execution))


def _optimised(setting, model, mesh, loss, prepass=None, frozen=(), policy=None, flops=0.0):
    """An AdamW step of a loss: fp32 weights and gradients, products in the compute dtype."""
    tx = optim.build(setting.optim, optim.schedule(setting.optim, 1_000_000))
    step = make_step(loss, tx, microbatches=setting.microbatches, prepass=prepass)
    parameters = abstract_parameters(model, mesh, jnp.dtype(setting.params_dtype))
    batch = builders.batch_shapes(mesh, rows(setting, mesh), setting.length, policy=policy)
    tokens = batch["tokens"].size
    flops += flops_per_token(model, setting.length)
    return Work(step, (state.abstract(parameters, tx), batch, frozen), tokens, tokens * flops)


def train(setting: Setting, model: ModelConfig, mesh: Mesh) -> Work:
    """Next token: chunked cross-entropy, experts balanced over the global batch."""
    loss, prepass = builders.next_token(model, execution(setting, mesh))
    return _optimised(setting, model, mesh, partial(loss, chunk=setting.chunk), prepass)


def grpo(setting: Setting, model: ModelConfig, mesh: Mesh) -> Work:
    """The policy gradient on rollouts that are there."""
    policy = Grpo()
    loss = builders.policy_gradient(model, execution(setting, mesh), policy)
    return _optimised(setting, model, mesh, loss, policy=policy)


def distill(setting: Setting, model: ModelConfig, mesh: Mesh) -> Work:
    """On-policy distillation with the teacher (bf16) on the same devices."""
    teacher = sizes.size(setting.teacher)
    loss = builders.divergence(model, teacher, execution(setting, mesh), Distill())
    frozen = builders.teacher_shapes(teacher, mesh)
    extra = flops_per_token(teacher, setting.length, train=False)
    return _optimised(setting, model, mesh, loss, frozen=frozen, flops=extra)


def forward(setting: Setting, model: ModelConfig, mesh: Mesh) -> Work:
    """Cross-entropy of a batch, as for a held-out loss."""
    if setting.microbatches != 1:
        raise ValueError(f"the forward step has no microbatches, so not {setting.microbatches}")
    loss, _ = builders.next_token(model, execution(setting, mesh))
    parameters = abstract_parameters(model, mesh, jnp.dtype(setting.params_dtype))
    batch = builders.batch_shapes(mesh, rows(setting, mesh), setting.length)
    tokens = batch["tokens"].size
    flops = tokens * flops_per_token(model, setting.length, train=False)
    function = jax.jit(lambda params, batch: loss(params, batch, (), chunk=setting.chunk)[1])
    return Work(function, (parameters, batch), tokens, flops)


def prefill(setting: Setting, model: ModelConfig, mesh: Mesh) -> Work:
    """The engine reads prompts of `length` tokens; weights in the compute dtype, no logits. What
    the last layer does beyond its keys and values is counted on paper, but left out by XLA.
    """
    made, count = _engine(setting, model, mesh)
    weights, _, _ = made.shapes(count, setting.length)
    tokens = _whole(mesh, (count, setting.length))
    each = flops_per_token(model, setting.length, train=False) - 2 * model.vocab * model.hidden
    arguments = (weights, tokens, _whole(mesh, (count,)))
    return Work(made.prefill, arguments, tokens.size, tokens.size * each)


def decode(setting: Setting, model: ModelConfig, mesh: Mesh) -> Work:
    """The engine makes one token in each slot, with caches of `length` places, all of them read."""
    made, count = _engine(setting, model, mesh)
    tables = jax.eval_shape(lambda: budget.tables(None, model.vocab))
    tables = jax.tree.map(lambda x: _whole(mesh, x.shape, x.dtype), tables)
    scalar = _whole(mesh, ())
    rest = (tables, _whole(mesh, (model.vocab,), bool), scalar, scalar)
    # Half the square of twice the length: every slot's cache is full.
    each = flops_per_token(model, 2 * setting.length, train=False)
    return Work(made.decode, (*made.shapes(count, setting.length), *rest), count, count * each)


def _engine(
    setting: Setting, model: ModelConfig, mesh: Mesh
) -> tuple[compiled.CompiledPrograms, int]:
    """An engine's programs and its slots; a block is one token."""
    if setting.microbatches != 1:
        raise ValueError(
            f"the {setting.step} step has no microbatches, so not {setting.microbatches}"
        )
    run = execution(setting, mesh).replace(scan=False, remat="none")
    return compiled.build(model, run, mesh, 1, False), rows(setting, mesh)


def _whole(mesh: Mesh, shape: tuple[int, ...], dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, PartitionSpec()))


STEPS: dict[str, Build] = {
    "train": train,
    "forward": forward,
    "grpo": grpo,
    "distill": distill,
    "prefill": prefill,
    "decode": decode,
}
TRAINING, GENERATION = ("train", "grpo", "distill"), ("prefill", "decode")


def build(setting: Setting, model: ModelConfig, mesh: Mesh) -> Work:
    """Raises ValueError for an unknown step, naming those there are."""
    if setting.step not in STEPS:
        raise ValueError(f"unknown step {setting.step!r}; there are {', '.join(STEPS)}")
    return STEPS[setting.step](setting, model, mesh)
