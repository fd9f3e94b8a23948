"""One plan: compile a step for devices that are not attached, and read off what it takes."""

from __future__ import annotations

import math
import re
import time
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import jax

from qwen3 import mesh as meshes
from qwen3.model import sizes
from qwen3.plan import flops, hlo, predict, steps, target, traffic
from qwen3.plan.chips import Chip, chip_of
from qwen3.plan.steps import Setting

FLOPS_METHOD = (
    "every matrix product of the compiled program times the lengths of the loops around it (XLA's "
    "own count takes a loop's body once), plus Pallas kernels: a grouped product 2 R K N, causal "
    "attention half the square, 2 products of it forwards and 5 backwards; recomputation included"
)
# Measured against the chip's limit: docs/log/2026-11-28-hbm-is-the-compilers-peak.md.
MEMORY_METHOD = (
    "HBM: the compiler's own peak, which it compares with the chip's memory, and the program. The "
    "sum of arguments, outputs and temporaries less what is aliased counts buffers that are never "
    "there together, and is larger"
)


@dataclass(frozen=True)
class CompiledStep:
    """What one step takes. All amounts are per JAX device and step.

    If the compiler gave up for lack of memory (`fits` is False, `prediction` None), only the
    fields up to `advice` are filled.
    """

    setting: Setting
    devices: int  # JAX devices of the slice
    devices_per_chip: int
    parameters: int  # of the whole model
    limit: float  # bytes of HBM
    fits: bool
    used: float  # bytes of HBM: the compiler's peak and the program
    # Bytes of arguments, outputs, aliased (both at once), temporaries, program and peak.
    memory: dict[str, float] = field(default_factory=dict)
    reason: str = ""  # what the compiler said when it gave up
    advice: tuple[str, ...] = ()  # what would make it fit, the least costly first
    tokens: float = 0.0
    flops: dict[str, float] = field(default_factory=dict)  # by kind, see `flops.count`
    flops_per_token: float = 0.0  # executed, recomputation included
    analytic_flops_per_token: float = 0.0  # by the model's formula
    flops_ratio: float = 0.0  # executed / analytic
    flops_ratio_with_tiles: float = 0.0  # the same with whole tiles of kernels counted
    xla_flops_loops_once: float = 0.0  # XLA's own count, which takes a loop's body once
    xla_bytes_loops_once: float = 0.0
    bytes_accessed: float = 0.0  # of HBM
    collectives: tuple[traffic.Collective, ...] = ()
    unknown_loops: tuple[str, ...] = ()  # loops whose length could not be read: counted once
    lower_seconds: float = 0.0
    compile_seconds: float = 0.0
    prediction: predict.Prediction | None = None
    methods: tuple[str, ...] = (MEMORY_METHOD, FLOPS_METHOD, predict.METHOD)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def plan(setting: Setting, *, keep_text: str = "") -> CompiledStep:
    """Compile `setting`. keep_text: a file for the optimized program (HLO text).

    Raises ValueError for what does not exist or does not divide, naming the choices.
    """
    chip = chip_of(setting.topology)
    model = sizes.size(setting.model)
    devices = target.devices(setting.topology)
    mesh = meshes.make_mesh(setting.mesh, devices)
    step = CompiledStep(
        setting=setting,
        devices=len(devices),
        devices_per_chip=chip.devices,
        parameters=sizes.count_parameters(model).total,
        limit=chip.per_device("hbm"),
        fits=False,
        used=math.inf,
    )
    with jax.set_mesh(mesh), target.no_cache():
        planned = steps.build(setting, model, mesh)
        start = time.perf_counter()
        lowered = planned.function.lower(*planned.arguments)
        middle = time.perf_counter()
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            used, reason = out_of_memory(str(error))
            return replace(step, used=used, reason=reason, advice=advice(setting))
        end = time.perf_counter()
    text = compiled.as_text()
    if keep_text:
        with open(keep_text, "w") as file:
            file.write(text)
    step = replace(step, lower_seconds=middle - start, compile_seconds=end - middle)
    return _counted(_measured(step, compiled), chip, compiled, hlo.parse(text), planned)


def _measured(step: CompiledStep, compiled: Any) -> CompiledStep:
    """The step with its memory, as the compiler states it."""
    memory = compiled.memory_analysis()
    parts = {
        "arguments": memory.argument_size_in_bytes,
        "outputs": memory.output_size_in_bytes,
        "aliased": memory.alias_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "program": memory.generated_code_size_in_bytes,
        "peak": memory.peak_memory_in_bytes,
    }
    used = parts["peak"] + parts["program"]
    fits = used <= step.limit
    return replace(
        step, fits=fits, used=used, memory=parts, advice=() if fits else advice(step.setting)
    )


def _counted(
    step: CompiledStep,
    chip: Chip,
    compiled: Any,
    program: hlo.Program,
    planned: steps.PlannedStep,
) -> CompiledStep:
    """The step with its FLOPs and traffic, and the time predicted from them."""
    by_kind = flops.count(program)
    executed = sum(by_kind.values()) - by_kind.get("tiles", 0.0)
    collectives = traffic.collectives(program, step.devices)
    moved = traffic.hbm_bytes(program)
    tokens, analytic = planned.tokens / step.devices, planned.flops / step.devices
    xla = compiled.cost_analysis() or {}
    prediction = predict.predict(
        chip,
        flops=by_kind,
        hbm_bytes=moved,
        sent=sum(c.bytes for c in collectives if c.kind != traffic.BETWEEN_SLICES),
        tokens=tokens,
        analytic=analytic,
    )
    return replace(
        step,
        tokens=tokens,
        flops=by_kind,
        flops_per_token=executed / tokens,
        analytic_flops_per_token=analytic / tokens,
        flops_ratio=executed / analytic,
        flops_ratio_with_tiles=sum(by_kind.values()) / analytic,
        xla_flops_loops_once=xla.get("flops", math.nan),
        xla_bytes_loops_once=xla.get("bytes accessed", math.nan),
        bytes_accessed=moved,
        collectives=tuple(collectives),
        unknown_loops=tuple(sorted(program.unknown_loops)),
        prediction=prediction,
    )


_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# What the TPU compiler says when memory is short: at the end, and when temporaries alone exceed it.
_SHORT = (
    re.compile(r"Used ([\d.]+)([KMGT]) of [\d.]+[KMGT] hbm"),
    re.compile(r"HLO temporaries \(([\d.]+)([KMGT])\) exceeds available HBM \([\d.]+[KMGT]\)"),
)


def out_of_memory(message: str) -> tuple[float, str]:
    """(bytes needed, the compiler's line) of a compile that failed for lack of memory.

    Raises RuntimeError for any other failure.
    """
    match = next(filter(None, (pattern.search(message) for pattern in _SHORT)), None)
    if match is None:
        raise RuntimeError(f"the TPU compiler failed: {message.strip()[:2000]}")
    return float(match.group(1)) * _UNITS[match.group(2)], match.group(0)


def advice(setting: Setting) -> tuple[str, ...]:
    """Options of `qwen3 plan` that lower the memory, the least costly first."""
    train = setting.step in steps.TRAINING
    stronger = {"none": "full", "dots": "full", "attention": "full", "full": "offload"}
    remat = stronger.get(setting.remat)
    offers = (
        (train and remat, f"--remat {remat}: keep less for the backward pass"),
        (train, f"--microbatches {2 * setting.microbatches}: half the tokens at once"),
        (not train or setting.length > 4096, "a smaller --batch-per-device"),
        (setting.step == "decode", "--mesh tensor=...: weights and caches over more devices"),
        (
            (setting.chunk or 0) > 256 and setting.step not in steps.GENERATION,
            f"--chunk {(setting.chunk or 0) // 2}: fewer rows of logits at once",
        ),
        (setting.mesh.data > 1, "--mesh fsdp=... instead of data=...: weights over more devices"),
        (setting.length >= 16384, "--mesh context=...: positions over devices"),
        (train and setting.optim.moments == "float32", "--moments bfloat16: 2 bytes a weight less"),
        (True, "more chips, weights over all of them; --fit searches"),
    )
    return tuple(text for applies, text in offers if applies)
