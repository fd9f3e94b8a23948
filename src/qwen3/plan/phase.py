"""The wall time of a phase of RL or on-policy distillation, split into its parts.

    qwen3 plan experiments/post_training_full.py reasoning_rl phase --answer-tokens 16384

A phase samples `prompts` x `samples` answers with one set of weights and trains on them in
`minibatches` steps. Each part is a program that the run runs, compiled for the slice, times how
often it runs; only the handover of weights is counted (`reshard`). Parts follow one another, as
they do in a run of staleness 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from qwen3 import mesh as meshes
from qwen3.infer.compiled import batch_ways
from qwen3.model import sizes
from qwen3.model.execution import Execution
from qwen3.model.sizes import ModelConfig, flops_per_token
from qwen3.plan import from_experiment, reshard, steps, target
from qwen3.plan.chips import chip_of, device_count
from qwen3.plan.compiling import CompiledStep, plan
from qwen3.plan.steps import PlannedStep, Setting
from qwen3.stages import builders, grpo
from qwen3.stages.on_policy import OnPolicyConfig
from qwen3.stages.rollout_batches import BatchRows
from qwen3.stages.start import abstract_parameters

WIDTH = 128  # prompts are padded to a multiple of this many tokens, caches rounded up to it
PHASE_METHOD = (
    "decode: rounds of all slots, each of as many token steps as an answer has, with caches of the "
    "mean length, prompt and half an answer; prefill: each prompt once, for all of its samples, in "
    "one batch with the layers as a loop; old log-probs and update: rows that the answers are "
    "packed into, rounded up as a batch is",
    "reading once: all that a token step is given (weights, caches, slots) at the published "
    "bandwidth of HBM",
)


@dataclass(frozen=True)
class PhasePart:
    """One kind of work in a phase."""

    name: str
    program: str  # what runs, in words
    times: float  # how often it runs in a phase
    seconds: float  # predicted, of once
    total: float  # seconds of all times
    bound: str  # "compute", "memory" or "links": what takes the longest in it
    used: float  # bytes of HBM a device while it runs
    fits: bool


@dataclass(frozen=True)
class PhasePlan:
    """The predicted wall time of a phase. Amounts are of one device."""

    name: str  # of the experiment's config
    model: str
    topology: str
    prompts: int
    samples: int  # answers of a prompt
    prompt_tokens: int
    answer_tokens: int
    slots: int  # answers that are decoded together
    cache_length: int  # places of a slot's KV cache, as decode was compiled
    parts: tuple[PhasePart, ...]
    seconds: float  # of the phase: the sum of its parts
    reading_once: float  # seconds of reading weights and caches once
    decode_over_reading: float  # a token step over that
    sent: float  # bytes that a device sends in a token step
    fits: bool
    methods: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def plan_phase(
    words: Sequence[str],
    topology: str | None = None,
    *,
    answer_tokens: int = 16_384,
    prompt_tokens: int = 512,
) -> PhasePlan:
    """The phase of (file, name), with answers and prompts of so many tokens each.

    Raises ValueError for a config that samples nothing, and for lengths that it does not allow.
    """
    module = from_experiment.load_experiment(words[0])
    name, config = from_experiment.config_of(module, words[1] if len(words) > 1 else None)
    if not isinstance(config, OnPolicyConfig):
        raise ValueError(f"{config.name} is a {type(config).__module__} stage: it has no phase")
    _check_lengths(config, answer_tokens, prompt_tokens)
    update = from_experiment.setting([words[0], name, "update"], topology)
    rollout = from_experiment.setting([words[0], name, "rollout"], topology)
    slots = round(rollout.batch_per_device * device_count(rollout.topology))
    answers = config.prompts * config.sampling.samples
    length = _rounded(prompt_tokens + answer_tokens // 2)
    decode = plan(rollout.replace(length=min(length, rollout.length)))
    parts = (
        _prefill(config, rollout, prompt_tokens),
        _part("decode", -(-answers // slots) * answer_tokens, decode),
        _reshard(config, update, rollout),
        *_training(config, update, prompt_tokens + answer_tokens),
    )
    chip = chip_of(update.topology)
    once = decode.memory.get("arguments", math.inf) / chip.per_device("bandwidth")
    seconds = _seconds(decode)
    return PhasePlan(
        name=config.name,
        model=update.model,
        topology=update.topology,
        prompts=config.prompts,
        samples=config.sampling.samples,
        prompt_tokens=prompt_tokens,
        answer_tokens=answer_tokens,
        slots=slots,
        cache_length=decode.setting.length,
        parts=parts,
        seconds=sum(part.total for part in parts),
        reading_once=once,
        decode_over_reading=seconds / once,
        sent=sum(collective.bytes for collective in decode.collectives),
        fits=all(part.fits for part in parts),
        methods=(*PHASE_METHOD, reshard.RESHARD_METHOD, *decode.methods),
    )


def _check_lengths(config: OnPolicyConfig, answer_tokens: int, prompt_tokens: int) -> None:
    most = config.sampling.max_tokens
    if not 1 <= answer_tokens <= most:
        raise ValueError(f"answers of {answer_tokens} tokens: {config.name} samples 1 to {most}")
    room = config.length - answer_tokens
    if not 1 <= prompt_tokens <= room:
        raise ValueError(
            f"prompts of {prompt_tokens} tokens: {config.name} has room for 1 to {room} beside "
            f"answers of {answer_tokens}"
        )


def _rounded(tokens: int) -> int:
    return -(-tokens // WIDTH) * WIDTH


def _prefill(config: OnPolicyConfig, rollout: Setting, prompt_tokens: int) -> PhasePart:
    """All prompts in one batch."""
    setting = rollout.replace(
        step="prefill_loop",
        batch_per_device=config.prompts / device_count(rollout.topology),
        length=_rounded(prompt_tokens),
    )
    return _part("prefill", 1, plan(setting))


def _training(config: OnPolicyConfig, update: Setting, tokens: int) -> Iterator[PhasePart]:
    """Old log-probabilities, where the stage computes them, and the optimizer steps."""
    answers = config.prompts // config.minibatches * config.sampling.samples
    mesh = _mesh(update)
    batches = BatchRows(answers, config.microbatches, batch_ways(mesh))
    count = batches.rows(-(-answers // (update.length // tokens)))
    batch = update.replace(
        batch_per_device=count / mesh.size, microbatches=batches.microbatches(count)
    )
    if isinstance(config, grpo.Config) and config.recomputes:
        yield _part("old log-probs", config.minibatches, plan(batch.replace(step="log_probs")))
    yield _part("update", config.minibatches, plan(batch))


def _reshard(config: OnPolicyConfig, update: Setting, rollout: Setting) -> PhasePart:
    """The handover of weights to the sampler."""
    model, chip = sizes.size(rollout.model), chip_of(update.topology)
    sampler = _mesh(rollout)
    dtype = jnp.dtype(Execution.for_mesh(sampler, **dict(rollout.execution)).dtype)
    moved = reshard.handover(model, dtype, _mesh(update), sampler)
    seconds = moved.seconds(chip, dtype.itemsize)
    used = moved.stored * (1 + dtype.itemsize / 4) + 2 * moved.placed
    return PhasePart(
        name="reshard",
        program=f"{moved.received / 1e9:.2f} of {moved.placed / 1e9:.2f} GB received",
        times=1,
        seconds=seconds,
        total=seconds,
        bound="links" if moved.received else "memory",
        used=used,
        fits=used <= chip.per_device("hbm"),
    )


def _part(name: str, times: float, step: CompiledStep) -> PhasePart:
    setting, seconds = step.setting, _seconds(step)
    return PhasePart(
        name=name,
        program=f"{setting.batch_per_device * step.devices:g} x {setting.length:,}",
        times=times,
        seconds=seconds,
        total=times * seconds,
        bound=step.prediction.bound if step.prediction else "does not fit",
        used=step.used,
        fits=step.fits,
    )


def _seconds(step: CompiledStep) -> float:
    return step.prediction.seconds if step.prediction else math.inf


def _mesh(setting: Setting) -> Mesh:
    return meshes.make_mesh(setting.mesh, target.devices(setting.topology))


def log_probs(setting: Setting, model: ModelConfig, mesh: Mesh) -> PlannedStep:
    """Old log-probabilities of a minibatch, by the policy's own weights in fp32."""
    function = builders.log_probs(
        model, steps.execution(setting, mesh), microbatches=setting.microbatches
    )
    parameters = abstract_parameters(model, mesh, jnp.dtype(setting.params_dtype))
    batch = builders.batch_shapes(mesh, steps.rows(setting, mesh), setting.length)
    tokens = batch["tokens"].size
    flops = tokens * flops_per_token(model, setting.length, train=False)
    return PlannedStep(function, (parameters, batch), tokens, flops)


steps.STEPS["log_probs"] = log_probs
steps.STEPS["prefill_loop"] = partial(steps.prefill, scan=True)
