"""Arithmetic that a compiled program executes: every matrix product, loops and kernels included."""

from __future__ import annotations

import math
import re
from collections import defaultdict

from qwen3.plan.hlo import Computation, Instruction, Program

# Products over (queries x keys x head) that a splash kernel makes of each block that it visits.
SPLASH = {"splash_mha_fwd": 2, "splash_mha_dkv": 5, "splash_mha_dq": 3}


def count(program: Program) -> dict[str, float]:
    """FLOPs of one device by kind: "matmul" (XLA's products), "attention", "experts" (kernels).

    Multiply-adds count two. A Pallas kernel counts what it was asked for: a grouped product
    2 R K N, causal attention half the square (2 products of it forwards, 5 backwards).
    "tiles" is what whole tiles add to that: diagonal blocks of attention, and row tiles that two
    experts share, of which an even load has one per expert.
    """
    found: dict[str, float] = defaultdict(float)
    for computation, each, times in program.walk(fused=True):
        if each.opcode in ("convolution", "dot"):
            found["matmul"] += times * _product(computation, each)
        elif each.opcode == "custom-call" and "tpu_custom_call" in each.attributes:
            kind, flops, tiles = _kernel(computation, each)
            found[kind] += times * flops
            found["tiles"] += times * tiles
    return dict(found)


def _product(computation: Computation, each: Instruction) -> float:
    left, right = (computation.instructions[name] for name in each.operands[:2])
    if each.opcode == "dot":
        contracted = each.named(r"lhs_contracting_dims=\{([\d,]*)\}") or ""
        sizes = [left.shapes[0][1][int(d)] for d in contracted.split(",") if d]
        return 2.0 * each.elements * math.prod(sizes)
    return 2.0 * _convolution(each, left.shapes[0][1], right.shapes[0][1])


def _convolution(each: Instruction, left: tuple, right: tuple) -> float:
    """Multiply-adds of a convolution, positions in padding and between dilated ones left out.

    The TPU compiler writes a batch of products as one over "space" with dilation.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", each.attributes)
    inputs, kernel, outputs = labels.groups()
    out = each.shapes[0][1]
    groups = int(each.named(r"feature_group_count=(\d+)") or 1)
    batches = int(each.named(r"batch_group_count=(\d+)") or 1)
    flops = left[inputs.index("b")] / batches * out[outputs.index("f")]
    flops *= left[inputs.index("f")] / groups
    window = each.named(r"window=\{([^}]*)\}") or ""
    fields = dict(part.split("=") for part in window.split())
    for space in (c for c in inputs if c.isdigit()):
        n = int(space)

        def at(name, default, n=n):
            return fields[name].split("x")[n] if name in fields else default

        flops *= _valid(
            left[inputs.index(space)],
            right[kernel.index(space)],
            out[outputs.index(space)],
            stride=int(at("stride", 1)),
            low=int(at("pad", "0_0").split("_")[0]),
            left_step=int(at("lhs_dilate", 1)),
            right_step=int(at("rhs_dilate", 1)),
        )
    return flops


def _valid(size, kernel, out, *, stride, low, left_step, right_step) -> int:
    """Pairs (output, kernel position) of one axis that meet an element of the input."""
    last = (size - 1) * left_step
    found = 0
    for o in range(out):
        for k in range(kernel):
            at = o * stride + k * right_step - low
            found += 0 <= at <= last and at % left_step == 0
    return found


def _kernel(computation: Computation, each: Instruction):
    """(kind, FLOPs asked for, FLOPs that whole tiles add) of a Pallas call."""
    name = f"{each.name} {each.scope}"
    arrays = [o.shapes[0] for o in map(computation.instructions.get, each.operands) if o]
    splash = next((key for key in SPLASH if key in name), None)
    if splash:
        wide = [dims for kind, dims in arrays if kind in ("bf16", "f32") and len(dims) >= 3]
        queries, keys = wide[0], wide[1][-2]
        square = 2.0 * SPLASH[splash] * math.prod(queries) * keys
        blocks = next((dims[-2:] for kind, dims in arrays if kind == "s8"), (1, 1))
        return "attention", square / 2, square * (_visited(*blocks) - 0.5)
    flops = float(each.named(r'"flops":"(\d+)"') or 0)
    if "gmm" not in name:
        return "other kernels", flops, 0.0
    experts = next(dims[0] for _, dims in [*arrays, *each.shapes] if len(dims) == 3)
    # One entry for each row tile and each border between experts inside one.
    steps = max(dims[0] for kind, dims in arrays if kind == "s32" and len(dims) == 1)
    return "experts", flops, flops * (experts - 1) / max(steps - experts + 1, 1)


def _visited(rows: int, columns: int) -> float:
    """Share of a grid of blocks that causal attention touches."""
    touched = sum(math.ceil((row + 1) * columns / rows) for row in range(rows))
    return touched / (rows * columns)
