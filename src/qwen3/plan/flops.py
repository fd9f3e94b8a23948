"""FLOPs that a compiled program executes: every matrix product, loops and kernels included."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from qwen3.plan.hlo import Computation, HloInstruction, Program

# Products over (queries x keys x head) that a splash kernel makes of each block that it visits.
SPLASH = {"splash_mha_fwd": 2, "splash_mha_dkv": 5, "splash_mha_dq": 3}


def count(program: Program) -> dict[str, float]:
    """FLOPs of one device by kind: "matmul" (XLA's products), "attention", "experts" (kernels).

    Multiply-adds count two. A Pallas kernel counts the arithmetic that it is for: a grouped product
    2 R K N, causal attention half the square (2 products of it forwards, 5 backwards), attention to
    pages all of them.
    "tiles" is what whole tiles add to that: diagonal blocks of attention, and row tiles that two
    experts share, of which an even load has one per expert.
    """
    flops: dict[str, float] = defaultdict(float)
    for computation, instruction, times in program.walk(fused=True):
        if instruction.opcode in ("convolution", "dot"):
            flops["matmul"] += times * _product(computation, instruction)
        elif instruction.opcode == "custom-call" and "tpu_custom_call" in instruction.attributes:
            kernel = _kernel(computation, instruction)
            flops[kernel.kind] += times * kernel.flops
            flops["tiles"] += times * kernel.tiles
    return dict(flops)


def _product(computation: Computation, product: HloInstruction) -> float:
    left, right = (computation.instructions[name] for name in product.operands[:2])
    if product.opcode == "dot":
        contracted = product.attribute(r"lhs_contracting_dims=\{([\d,]*)\}") or ""
        sizes = [left.shapes[0][1][int(d)] for d in contracted.split(",") if d]
        return 2.0 * product.elements * math.prod(sizes)
    return 2.0 * _convolution(product, left.shapes[0][1], right.shapes[0][1])


def _convolution(product: HloInstruction, left: tuple[int, ...], right: tuple[int, ...]) -> float:
    """Multiply-adds of a convolution, positions in padding and between dilated ones left out.

    The TPU compiler writes a batch of products as one over "space" with dilation.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", product.attributes)
    if labels is None:
        raise ValueError(f"convolution {product.name} has no dim_labels: {product.attributes!r}")
    inputs, kernel, outputs = labels.groups()
    out = product.shapes[0][1]
    groups = int(product.attribute(r"feature_group_count=(\d+)") or 1)
    batches = int(product.attribute(r"batch_group_count=(\d+)") or 1)
    flops = left[inputs.index("b")] / batches * out[outputs.index("f")]
    flops *= left[inputs.index("f")] / groups
    window = product.attribute(r"window=\{([^}]*)\}") or ""
    fields = dict(part.split("=") for part in window.split())
    for space in (label for label in inputs if label.isdigit()):
        flops *= _pairs(
            left[inputs.index(space)],
            right[kernel.index(space)],
            out[outputs.index(space)],
            stride=int(_of_axis(fields, "stride", space, "1")),
            low=int(_of_axis(fields, "pad", space, "0_0").split("_")[0]),
            left_step=int(_of_axis(fields, "lhs_dilate", space, "1")),
            right_step=int(_of_axis(fields, "rhs_dilate", space, "1")),
        )
    return flops


def _of_axis(fields: Mapping[str, str], name: str, axis: str, default: str) -> str:
    """The value of a window field such as "stride=2x1" for one spatial axis, "0" or "1"."""
    return fields[name].split("x")[int(axis)] if name in fields else default


def _pairs(
    size: int, kernel: int, out: int, *, stride: int, low: int, left_step: int, right_step: int
) -> int:
    """Pairs (output, kernel position) of one axis that meet an element of the input."""
    last = (size - 1) * left_step
    positions = (
        output * stride + tap * right_step - low for output in range(out) for tap in range(kernel)
    )
    return sum(0 <= position <= last and position % left_step == 0 for position in positions)


class _Kernel(NamedTuple):
    """FLOPs of a Pallas call."""

    kind: str
    flops: float  # the arithmetic that it is for
    tiles: float  # what whole tiles add


def _kernel(computation: Computation, call: HloInstruction) -> _Kernel:
    name = f"{call.name} {call.scope}"
    operands = [computation.instructions.get(operand) for operand in call.operands]
    arrays = [operand.shapes[0] for operand in operands if operand]
    splash = next((key for key in SPLASH if key in name), None)
    if splash:
        wide = [dims for kind, dims in arrays if kind in ("bf16", "f32") and len(dims) >= 3]
        queries, keys = wide[0], wide[1][-2]
        square = 2.0 * SPLASH[splash] * math.prod(queries) * keys
        blocks = next((dims[-2:] for kind, dims in arrays if kind == "s8"), (1, 1))
        return _Kernel("attention", square / 2, square * (_visited(blocks) - 0.5))
    if "paged_attention" in name:  # two products of each page and the queries of its head
        (_, group, *_), pages = [d for kind, d in arrays if kind in ("f32", "bf16")][:2]
        return _Kernel("attention", 2 * 2.0 * group * math.prod(pages), 0.0)
    flops = float(call.attribute(r'"flops":"(\d+)"') or 0)
    if "gmm" not in name:
        return _Kernel("other kernels", flops, 0.0)
    experts = next(dims[0] for _, dims in [*arrays, *call.shapes] if len(dims) == 3)
    # One entry for each row tile and each border between experts inside one.
    steps = max(dims[0] for kind, dims in arrays if kind == "s32" and len(dims) == 1)
    return _Kernel("experts", flops, flops * (experts - 1) / max(steps - experts + 1, 1))


def _visited(blocks: Sequence[int]) -> float:
    """Share of a grid of (rows, columns) of blocks that causal attention touches."""
    rows, columns = blocks
    touched = sum(math.ceil((row + 1) * columns / rows) for row in range(rows))
    return touched / (rows * columns)
