"""A search over meshes, microbatches and remat: estimates first, compiles of the best few after."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from qwen3.config import MeshConfig
from qwen3.model import sizes
from qwen3.model.sizes import ModelConfig, flops_per_token
from qwen3.ops.row_chunks import default_chunk
from qwen3.plan import predict, target
from qwen3.plan.chips import Chip, chip_of
from qwen3.plan.compiling import CompiledStep, plan
from qwen3.plan.steps import GENERATION, Setting

REMATS = ("none", "feed_forward", "attention", "full", "offload")
MICROBATCHES = (1, 2, 4, 8, 16)
# By remat policy: bytes saved for the backward pass a token and layer, in multiples of the model
# width, beside the block's input; and FLOPs of a step with recomputation, against those without.
_SAVED = {"none": 30.0, "feed_forward": 12.0, "attention": 2.0, "full": 0.0, "offload": -2.0}
_RECOMPUTED = {
    "none": 1.0,
    "feed_forward": 1.08,
    "attention": 1.28,
    "full": 4 / 3,
    "offload": 4 / 3,
}


@dataclass(frozen=True)
class FitEstimate:
    """A guess within some tens of per cent, good enough to sort by; `plan` knows exactly."""

    setting: Setting
    bytes: float  # HBM a device
    seconds: float  # of a step


def candidates(setting: Setting) -> Iterator[Setting]:
    """All settings that divide, with the same step, topology, rows and length."""
    model, count = sizes.size(setting.model), len(target.devices(setting.topology))
    rows = setting.batch_per_device * count
    for data, context, expert, tensor in itertools.product(_divisors(count), repeat=4):
        used = data * context * expert * tensor
        if count % used:
            continue
        mesh = MeshConfig(data, count // used, context, expert, tensor)
        if not _divides(model, mesh, setting.length):
            continue
        ways = data * mesh.fsdp * expert
        for microbatches in MICROBATCHES:
            if rows % (ways * microbatches) or microbatches > 1 and setting.step == "forward":
                continue
            for remat in REMATS if setting.step != "forward" else (setting.remat,):
                yield setting.replace(mesh=mesh, microbatches=microbatches, remat=remat)


def _divides(model: ModelConfig, mesh: MeshConfig, length: int) -> bool:
    expert = mesh.expert == 1 or model.moe and model.experts % mesh.expert == 0
    heads = model.kv_heads % mesh.tensor == 0 and model.vocab % mesh.tensor == 0
    # Positions are spread over devices for long rows only, in whole blocks of splash attention.
    context = mesh.context == 1 or length >= 16384 and length % (128 * mesh.context) == 0
    return expert and heads and context and model.hidden % mesh.fsdp == 0


def estimate(setting: Setting) -> FitEstimate:
    """Bytes and seconds of a training or forward step from sizes alone."""
    model, chip, mesh = sizes.size(setting.model), chip_of(setting.topology), setting.mesh
    count = len(target.devices(setting.topology))
    counts = sizes.count_parameters(model)
    train = setting.step != "forward"
    shards = count // mesh.data // mesh.context
    tokens = setting.batch_per_device * setting.length
    live = tokens / setting.microbatches * mesh.tensor
    # bf16 weights of one layer, gathered over fsdp.
    layer = (counts.non_embedding / model.layers) * 2 / (mesh.expert * mesh.tensor)
    head = model.vocab * model.hidden / mesh.tensor
    width = model.hidden
    if model.moe:
        routed = model.active_experts * (2 * width + 2 * model.expert_ffn)
    else:
        routed = 4 * model.ffn
    # fp32 weights, and in training two moments, gradients and updates: 5 x 4 bytes a parameter.
    stored = counts.total / shards * (20 if train else 4)
    saved = live * model.layers * width * (2 + _SAVED[setting.remat]) if train else 0.0
    working = 2 * layer + live * 2 * (8 * width + 1.5 * routed / mesh.tensor)
    loss = (
        head * (10 if train else 2)
        + (setting.chunk or default_chunk(model.vocab)) * model.vocab / mesh.tensor * 6
    )
    used = stored + saved + max(working, loss)
    return FitEstimate(setting, used, _seconds(setting, chip, counts.total, tokens, train))


def _seconds(setting: Setting, chip: Chip, parameters: int, tokens: float, train: bool) -> float:
    model, mesh = sizes.size(setting.model), setting.mesh
    work = tokens * flops_per_token(model, setting.length, train=train)
    compute = work * _RECOMPUTED[setting.remat] / (0.65 * chip.per_device("flops"))
    # fsdp gathers bf16 weights forwards and backwards and scatters gradients, each microbatch.
    passes = (3 if train else 1) * setting.microbatches
    gathered = 2 * parameters / (mesh.expert * mesh.tensor) * passes * (mesh.fsdp > 1)
    # Activations that tensor and expert axes send: sums of a block's outputs, routed rows.
    local = tokens * mesh.tensor * model.hidden * 2 * model.layers * (4 if train else 1)
    shared = 2 * local * (mesh.tensor > 1)
    if model.moe and mesh.expert > 1:
        shared += local * 2 * min(model.active_experts, mesh.expert)
    links = (gathered + shared) / (predict.LINKS * chip.per_device("ici"))
    return max(compute, links) + 0.1 * min(compute, links)


def search(
    setting: Setting, *, compiles: int = 3, tell: Callable[[str], None] = lambda line: None
) -> list[CompiledStep]:
    """Compiled plans, the fastest that fits first.

    Settings that cannot fit are left out by estimate; the `compiles` quickest of the others are
    compiled. Raises ValueError where nothing divides or no estimate comes near.
    """
    if setting.step in GENERATION:
        raise ValueError(f"--fit cannot estimate the {setting.step} step; give its --mesh")
    limit = chip_of(setting.topology).per_device("hbm")
    estimates = [estimate(candidate) for candidate in candidates(setting)]
    if not estimates:
        raise ValueError(
            f"no mesh of {setting.topology} divides {setting.batch_per_device} rows a device "
            f"of {setting.model}"
        )
    near = sorted((e for e in estimates if e.bytes <= limit), key=lambda e: e.seconds)
    if not near:
        least = min(estimates, key=lambda e: e.bytes)
        need = math.ceil(least.bytes / limit)
        raise ValueError(
            f"{setting.model} {setting.step} needs about {least.bytes / 1e9:.0f} GB a device on "
            f"{setting.topology}, which has {limit / 1e9:.0f}: take about {need} times the chips"
        )
    tell(f"{len(estimates)} settings divide, {len(near)} may fit; compiling {compiles}")
    plans = []
    for guess in near[:compiles]:
        tell(
            f"{guess.setting.mesh} microbatches={guess.setting.microbatches} "
            f"remat={guess.setting.remat}: estimated {guess.bytes / 1e9:.1f} GB, "
            f"{guess.seconds:.2f} s"
        )
        plans.append(plan(guess.setting))
    late = float("inf")
    return sorted(plans, key=lambda p: (not p.fits, p.prediction.seconds if p.prediction else late))


def _divisors(count: int) -> list[int]:
    return [n for n in range(1, count + 1) if count % n == 0]
