"""One plan: compile a step for devices that are not there, and read off what it takes."""

from __future__ import annotations

import math
import re
import time
from dataclasses import asdict, dataclass, field
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


MEMORY_METHOD = (
    "HBM: the compiler's own peak, which it compares with the chip's memory, and the program. The "
    "sum of arguments, outputs and temporaries less what is aliased counts buffers that are never "
    "there together, and is larger"
)


@dataclass(frozen=True)
class CompiledStep:
    """All amounts are per JAX device and step; a chip of `devices_per_chip` devices has as many
    times that. memory: bytes of arguments, outputs, aliased (both at once), temporaries, program
    and peak; `used` is peak and program. Without the memory (`fits` is False and XLA gave up) only
    the setting, `used`, `limit`, `reason` and `advice` are there.
    """

    setting: Setting
    devices: int
    devices_per_chip: int
    parameters: int
    limit: float
    fits: bool
    used: float
    memory: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    advice: tuple[str, ...] = ()
    tokens: float = 0.0
    flops: dict[str, float] = field(default_factory=dict)
    flops_per_token: float = 0.0
    analytic_flops_per_token: float = 0.0
    flops_ratio: float = 0.0
    flops_ratio_with_tiles: float = 0.0
    xla_flops_loops_once: float = 0.0
    xla_bytes_loops_once: float = 0.0
    bytes_accessed: float = 0.0
    collectives: tuple[traffic.Collective, ...] = ()
    unknown_loops: tuple[str, ...] = ()
    lower_seconds: float = 0.0
    compile_seconds: float = 0.0
    prediction: predict.Prediction | None = None
    methods: tuple[str, ...] = (MEMORY_METHOD, FLOPS_METHOD, predict.METHOD)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def plan(setting: Setting, *, keep_text: str = "") -> CompiledStep:
    """Compile `setting`. keep_text: a file for the optimized program.

    Raises ValueError for what does not exist or does not divide, naming the choices.
    """
    chip = chip_of(setting.topology)
    model = sizes.size(setting.model)
    devices = target.devices(setting.topology)
    mesh = meshes.make_mesh(setting.mesh, devices)
    facts = {
        "setting": setting,
        "devices": len(devices),
        "devices_per_chip": chip.devices,
        "parameters": sizes.count_parameters(model).total,
        "limit": chip.per_device("hbm"),
    }
    with jax.set_mesh(mesh), target.no_cache():
        work = steps.build(setting, model, mesh)
        start = time.perf_counter()
        lowered = work.function.lower(*work.arguments)
        middle = time.perf_counter()
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            used, reason = out_of_memory(str(error))
            return CompiledStep(
                **facts, fits=False, used=used, reason=reason, advice=advice(setting)
            )
        end = time.perf_counter()
    text = compiled.as_text()
    if keep_text:
        with open(keep_text, "w") as file:
            file.write(text)
    facts |= {"lower_seconds": middle - start, "compile_seconds": end - middle}
    return _read(facts, chip, compiled, hlo.parse(text), work)


def _read(
    facts: dict, chip: Chip, compiled: Any, program: hlo.Program, work: steps.Work
) -> CompiledStep:
    setting, devices = facts["setting"], facts["devices"]
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
    counted = flops.count(program)
    executed = sum(counted.values()) - counted.get("tiles", 0.0)
    sent = traffic.collectives(program, devices)
    moved = traffic.hbm_bytes(program)
    tokens, paper = work.tokens / devices, work.flops / devices
    xla = compiled.cost_analysis() or {}
    prediction = predict.predict(
        chip,
        flops=counted,
        hbm_bytes=moved,
        sent=sum(c.bytes for c in sent),
        tokens=tokens,
        analytic=paper,
    )
    return CompiledStep(
        **facts,
        fits=used <= facts["limit"],
        used=used,
        memory=parts,
        advice=() if used <= facts["limit"] else advice(setting),
        tokens=tokens,
        flops=counted,
        flops_per_token=executed / tokens,
        analytic_flops_per_token=paper / tokens,
        flops_ratio=executed / paper,
        flops_ratio_with_tiles=sum(counted.values()) / paper,
        xla_flops_loops_once=xla.get("flops", math.nan),
        xla_bytes_loops_once=xla.get("bytes accessed", math.nan),
        bytes_accessed=moved,
        collectives=tuple(sent),
        unknown_loops=tuple(sorted(program.unknown_loops)),
        prediction=prediction,
    )


_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def out_of_memory(message: str) -> tuple[float, str]:
    """(bytes wanted, the compiler's line) of a failed compile; raises RuntimeError for others."""
    used = re.search(r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm", message)
    if not used:
        raise RuntimeError(f"the TPU compiler failed: {message.strip()[:2000]}")
    return float(used.group(1)) * _UNITS[used.group(2)], used.group(0)


def advice(setting: Setting) -> tuple[str, ...]:
    """What would make it smaller, the least costly first."""
    train = setting.step in steps.TRAINING
    stronger = {"none": "full", "dots": "full", "attention": "full", "full": "offload"}
    remat = stronger.get(setting.remat)
    offers = (
        (train and remat, f"--remat {remat}: keep less for the backward pass"),
        (train, f"--microbatches {2 * setting.microbatches}: half the tokens at once"),
        (not train or setting.length > 4096, "a smaller --batch-per-device"),
        (setting.step == "decode", "--mesh tensor=...: weights and caches over more devices"),
        (
            setting.chunk > 256 and setting.step not in steps.GENERATION,
            f"--chunk {setting.chunk // 2}: fewer rows of logits at once",
        ),
        (setting.mesh.data > 1, "--mesh fsdp=... instead of data=...: weights over more devices"),
        (setting.length >= 16384, "--mesh context=...: positions over devices"),
        (train and setting.optim.moments == "float32", "--moments bfloat16: 2 bytes a weight less"),
        (True, "more chips, weights over all of them; --fit searches"),
    )
    return tuple(text for wanted, text in offers if wanted)
