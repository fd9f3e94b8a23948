"""What can be planned: a table of steps, each a jitted function with abstract, placed arguments.

Another module adds a step with `STEPS["name"] = build`, build(setting, model, mesh) -> PlannedStep.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from qwen3.config import MeshConfig, OptimConfig
from qwen3.infer import budget, compiled, paged_programs
from qwen3.infer.engine import CACHES
from qwen3.infer.kv_pages import PageTable
from qwen3.infer.page_layout import PageLayout
from qwen3.losses.distill import Distill
from qwen3.losses.grpo_config import Grpo
from qwen3.losses.preference import CENTRING
from qwen3.model import sizes
from qwen3.model.execution import Execution
from qwen3.model.lora import LoraConfig
from qwen3.model.sizes import ModelConfig, flops_per_token
from qwen3.ops.paged_attention import Pages
from qwen3.stages import builders
from qwen3.stages.start import abstract_parameters
from qwen3.stages.trainable import WHOLE_MODEL, Trainable
from qwen3.train import optim, state
from qwen3.train.model_source import abstract_adapters
from qwen3.train.step import Loss, Prepass, make_step


@dataclass(frozen=True)
class Setting:
    """What to plan: a step of a model on a slice, and how it is spread and computed."""

    model: str  # a size of `model.sizes`, such as 30b-a3b
    topology: str  # such as v5p:4x4x4
    mesh: MeshConfig = MeshConfig()
    step: str = "train"  # a name in STEPS
    batch_per_device: float = 1  # batch size / devices: rows, prompts (prefill) or slots (decode)
    length: int = 4096  # tokens a row; for decode, places of a KV cache
    microbatches: int = 1
    remat: str = "full"  # what the backward pass recomputes
    chunk: int | None = 1024  # rows of logits at once a device; None: as a run chooses them
    teacher: str = "32b"  # size of the teacher, for distillation
    teacher_apart: bool = False  # whether it is on devices of its own, whose step is teacher
    params_dtype: str = "float32"
    optim: OptimConfig = OptimConfig()  # only `moments`, the dtype of first moments, matters here
    execution: tuple[tuple[str, Any], ...] = ()  # changes to `Execution.for_mesh`
    policy: Grpo = Grpo()  # the objective of step grpo
    reference: bool = False  # whether step grpo holds a reference policy, in fp32
    divergence: Distill = Distill()  # the loss of step distill
    lora: LoraConfig = LoraConfig()  # adapters that an optimizer step trains; rank 0: the model
    balance: str = "global"  # form of the load-balancing loss (ops.balance) of step train
    cache: str = "rows"  # form of the KV cache of step decode (infer.engine.CACHES)
    cache_tokens: int | None = None  # places in all pages; None: slots x length

    def replace(self, **changes: Any) -> Setting:
        return dataclasses.replace(self, **changes)


class PlannedStep(NamedTuple):
    """A step to compile: function.lower(*arguments) is the program."""

    function: Any  # jitted, or a `train.step.Step`
    arguments: tuple  # ShapeDtypeStructs with shardings
    tokens: int  # over all devices
    flops: float  # analytic, over all devices


Build = Callable[[Setting, ModelConfig, Mesh], PlannedStep]


def rows(setting: Setting, mesh: Mesh) -> int:
    """The batch size of the step. Raises ValueError if it does not divide over the mesh."""
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


def _optimizer_step(
    setting: Setting,
    model: ModelConfig,
    mesh: Mesh,
    loss: Loss,
    prepass: Prepass | None = None,
    frozen: Any = (),
    policy: Grpo | None = None,
    more: Mapping[str, jax.ShapeDtypeStruct] = MappingProxyType({}),
    flops: float = 0.0,
) -> PlannedStep:
    """An AdamW step of a loss: fp32 weights and gradients, products in the compute dtype.

    more: what the batch has besides its usual arrays. flops: analytic FLOPs a token beside the
    model's own. With adapters the model's own count as without: the gradients of whole matrices are
    computed, and only then those of the factors.
    """
    whole = abstract_parameters(model, mesh, jnp.dtype(setting.params_dtype))
    trained, parameters = WHOLE_MODEL, whole
    if setting.lora.rank:
        trained = Trainable(setting.lora, whole)
        parameters = abstract_adapters(setting.lora, model, mesh)
    balance = setting.balance if prepass is not None else ""
    tx = optim.build(setting.optim, optim.schedule(setting.optim, 1_000_000))
    tx = builders.balanced(tx, model, balance)
    step = make_step(
        trained.loss(loss),
        tx,
        microbatches=setting.microbatches,
        prepass=prepass and trained.loss(prepass),
        carry=builders.carry(model, balance),
    )
    batch = builders.batch_shapes(mesh, rows(setting, mesh), setting.length, policy=policy)
    batch |= more
    tokens = batch["tokens"].size
    flops += flops_per_token(model, setting.length)
    arguments = (state.abstract(parameters, tx), batch, trained.frozen(frozen))
    return PlannedStep(step, arguments, tokens, tokens * flops)


def _next_token(setting: Setting, model: ModelConfig, mesh: Mesh) -> tuple[Loss, Prepass | None]:
    """The pretraining loss with its logits in chunks, and the prepass of its load balancing."""
    loss, prepass = builders.next_token(model, execution(setting, mesh), balance=setting.balance)
    # `lm.next_token` takes more than a Loss must.
    chunked = cast(Callable[..., tuple[jax.Array, dict]], loss)
    return partial(chunked, chunk=setting.chunk), prepass


def train(setting: Setting, model: ModelConfig, mesh: Mesh) -> PlannedStep:
    """Pretraining: chunked cross-entropy, load-balancing loss over the global batch."""
    loss, prepass = _next_token(setting, model, mesh)
    return _optimizer_step(setting, model, mesh, loss, prepass)


def grpo(setting: Setting, model: ModelConfig, mesh: Mesh) -> PlannedStep:
    """GRPO's policy gradient on a batch of rollouts; sampling them is the decode step."""
    loss = builders.policy_gradient(model, execution(setting, mesh), setting.policy)
    frozen = {"reference": abstract_parameters(model, mesh)} if setting.reference else {}
    extra = flops_per_token(model, setting.length, train=False) if setting.reference else 0.0
    return _optimizer_step(
        setting, model, mesh, loss, frozen=frozen, policy=setting.policy, flops=extra
    )


def reward_model(setting: Setting, model: ModelConfig, mesh: Mesh) -> PlannedStep:
    """Bradley-Terry on pairs of answers: the model with a scalar head instead of its output."""
    model = model.replace(scalar_head=True)
    loss = builders.bradley_terry(model, execution(setting, mesh), centring=CENTRING)
    return _optimizer_step(setting, model, mesh, loss)


def distill(setting: Setting, model: ModelConfig, mesh: Mesh) -> PlannedStep:
    """On-policy distillation with the teacher (bf16) on the same devices, or with hidden states
    that it hands over from its own.
    """
    teacher, run = sizes.size(setting.teacher), execution(setting, mesh)
    if setting.teacher_apart:
        loss = builders.handed_over(model, run, setting.divergence)
        shapes = (mesh, rows(setting, mesh), setting.length, run.dtype)
        extra, frozen = builders.handover_shapes(teacher, *shapes)
        head = 2.0 * teacher.vocab * teacher.hidden
        return _optimizer_step(setting, model, mesh, loss, frozen=frozen, more=extra, flops=head)
    loss = builders.divergence(model, teacher, run, setting.divergence)
    frozen = builders.teacher_shapes(teacher, mesh)
    flops = flops_per_token(teacher, setting.length, train=False)
    return _optimizer_step(setting, model, mesh, loss, frozen=frozen, flops=flops)


def teacher(setting: Setting, model: ModelConfig, mesh: Mesh) -> PlannedStep:
    """The hidden states that a teacher on devices of its own hands over for an optimizer step, in
    as many parts as that has microbatches.
    """
    run = execution(setting, mesh)
    function = builders.teacher_hidden(model, run, microbatches=setting.microbatches)
    batch = builders.batch_shapes(mesh, rows(setting, mesh), setting.length)
    reads = {name: batch[name] for name in builders.TEACHER_READS}
    head = 2 * model.vocab * model.hidden
    flops = flops_per_token(model, setting.length, train=False) - head
    arguments = (abstract_parameters(model, mesh, jnp.dtype(run.dtype)), reads)
    tokens = batch["tokens"].size
    return PlannedStep(function, arguments, tokens, tokens * flops)


def forward(setting: Setting, model: ModelConfig, mesh: Mesh) -> PlannedStep:
    """Cross-entropy of a batch without gradients, as for a held-out loss."""
    if setting.microbatches != 1:
        raise ValueError(f"the forward step has no microbatches, so not {setting.microbatches}")
    loss, _ = _next_token(setting, model, mesh)
    parameters = abstract_parameters(model, mesh, jnp.dtype(setting.params_dtype))
    batch = builders.batch_shapes(mesh, rows(setting, mesh), setting.length)
    tokens = batch["tokens"].size
    flops = tokens * flops_per_token(model, setting.length, train=False)
    function = jax.jit(lambda params, batch: loss(params, batch, ())[1])
    return PlannedStep(function, (parameters, batch), tokens, flops)


def prefill(setting: Setting, model: ModelConfig, mesh: Mesh, *, scan: bool = False) -> PlannedStep:
    """The engine fills KV caches from prompts of `length` tokens; no logits.

    Weights are in the compute dtype. What the last layer does beyond its keys and values is
    counted in the analytic FLOPs, but left out by XLA; not with `scan`, where the layers are a
    loop, which compiles in a fraction of the time.
    """
    programs, count = _engine(setting, model, mesh, scan=scan)
    weights, _, _ = programs.shapes(count, setting.length)
    tokens = _replicated(mesh, (count, setting.length))
    head = 2 * model.vocab * model.hidden
    flops = flops_per_token(model, setting.length, train=False) - head
    arguments = (weights, tokens, _replicated(mesh, (count,)))
    return PlannedStep(programs.prefill, arguments, tokens.size, tokens.size * flops)


def decode(setting: Setting, model: ModelConfig, mesh: Mesh) -> PlannedStep:
    """The engine decodes one token in each slot, with full KV caches of `length` places a slot, or
    with as many pages as `cache_tokens` fill.
    """
    if setting.cache not in CACHES:
        raise ValueError(f"cache {setting.cache!r}: wanted one of {', '.join(CACHES)}")
    programs, count = _engine(setting, model, mesh)
    tables = jax.eval_shape(lambda: budget.tables(None, model.vocab))
    tables = jax.tree.map(lambda x: _replicated(mesh, x.shape, x.dtype), tables)
    scalar = _replicated(mesh, ())
    rest = (tables, _replicated(mesh, (model.vocab,), bool), scalar, scalar)
    function, state, length = (
        programs.decode,
        programs.shapes(count, setting.length),
        setting.length,
    )
    if setting.cache == "paged":
        function, state, length = _paged(setting, model, mesh, count)
    # The formula counts half the square (causal); here every query reads the whole cache.
    flops = flops_per_token(model, 2 * length, train=False)
    return PlannedStep(function, (*state, *rest), count, count * flops)


def _paged(
    setting: Setting, model: ModelConfig, mesh: Mesh, count: int
) -> tuple[Any, tuple[Any, ...], int]:
    """(decode program of an engine with a paged KV cache, its first arguments with a pool that is
    as long as can be, places a slot).
    """
    run = _generating(setting, mesh)
    programs = paged_programs.build(model, run, mesh, 1, False)
    ways = compiled.batch_ways(mesh)
    sizes = {"slots": count, "batch_ways": ways, "max_length": setting.length, "block": 1}
    if setting.cache_tokens is not None:
        sizes["cache_tokens"] = min(setting.cache_tokens, count * setting.length)
    layout = PageLayout.for_execution(run, **sizes)
    pages = layout.most * ways
    each = _replicated(mesh, (pages,))
    table = _replicated(mesh, (count, layout.pages_of(setting.length)))
    owners = PageTable(Pages(each, each, each, table), each, each, _replicated(mesh, (ways,)))
    state = programs.shapes(count, pages, layout.page_size)
    return programs.decode, (*state, owners), pages * layout.page_size // count


def _engine(
    setting: Setting, model: ModelConfig, mesh: Mesh, *, scan: bool = False
) -> tuple[compiled.CompiledPrograms, int]:
    """An engine's compiled programs, with blocks of one token, and its number of slots."""
    if setting.microbatches != 1:
        raise ValueError(
            f"the {setting.step} step has no microbatches, so not {setting.microbatches}"
        )
    run = _generating(setting, mesh).replace(scan=scan)
    return compiled.build(model, run, mesh, 1, False), rows(setting, mesh)


def _generating(setting: Setting, mesh: Mesh) -> Execution:
    """How an engine runs the model."""
    return execution(setting, mesh).replace(scan=False, remat="none")


def _replicated(mesh: Mesh, shape: tuple[int, ...], dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, PartitionSpec()))


STEPS: dict[str, Build] = {
    "train": train,
    "forward": forward,
    "grpo": grpo,
    "distill": distill,
    "teacher": teacher,
    "reward_model": reward_model,
    "prefill": prefill,
    "decode": decode,
}
TRAINING = ("train", "grpo", "distill", "reward_model")
GENERATION = ("prefill", "decode")


def build(setting: Setting, model: ModelConfig, mesh: Mesh) -> PlannedStep:
    """The step that a setting names. Raises ValueError for an unknown one, naming the known."""
    if setting.step not in STEPS:
        raise ValueError(f"unknown step {setting.step!r}; there are {', '.join(STEPS)}")
    return STEPS[setting.step](setting, model, mesh)
