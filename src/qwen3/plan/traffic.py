"""Bytes that a compiled program moves: to and from HBM, and between chips."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from qwen3.plan.hlo import Computation, Instruction, Program, called

KINDS = (
    "all-gather",
    "reduce-scatter",
    "all-reduce",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
)
# Instructions that name or alias memory and move nothing.
_FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "conditional",
    "call",
    "after-all",
    "partition-id",
    "replica-id",
    "opt-barrier",
    "domain",
    "iota",
}


@dataclass(frozen=True)
class Collective:
    """All collectives of a kind in one program, for one device. bytes: sent over its links."""

    kind: str
    calls: float
    bytes: float


def hbm_bytes(program: Program) -> float:
    """Bytes read and written by one device, as if each fusion read and wrote its arguments once.

    Of an array that is only sliced or updated in place, the slice counts. (Kernels and caches on
    the chip can do better or worse.)
    """
    total = 0.0
    for computation, each, times in program.walk(fused=False):
        if each.opcode in _FREE or each.opcode.endswith("-done"):
            continue
        total += times * _moved(program, computation, each)
    return total


def _moved(program: Program, computation: Computation, each: Instruction) -> float:
    if each.opcode == "fusion":
        return _fusion(program, computation, each)
    operands = [computation.instructions.get(name) for name in each.operands]
    sizes = [o.bytes for o in operands if o is not None]
    if each.opcode in ("dynamic-slice", "slice", "gather"):
        return 2 * each.bytes
    if each.opcode == "dynamic-update-slice":
        return 2 * sizes[1] if len(sizes) > 1 else each.bytes
    if each.opcode in ("copy-start", "slice-start", "async-start") and sizes:
        return 2 * min(sizes[0], each.bytes)
    return each.bytes + sum(sizes)


def _fusion(program: Program, computation: Computation, each: Instruction) -> float:
    inner = program.computations[called(each)[0]]
    total, updated = 0.0, 0.0
    for name, parameter in zip(each.operands, inner.parameters, strict=False):
        operand = computation.instructions.get(name)
        users = inner.users.get(parameter.name, [])
        if users and all(u.opcode in ("dynamic-slice", "slice", "gather") for u in users):
            total += sum(u.bytes for u in users)
        elif users and all(_updates(u, parameter) for u in users):
            sizes = [inner.instructions[u.operands[1]].bytes for u in users]
            total, updated = total + sum(sizes), updated + parameter.bytes - sum(sizes)
        elif operand is not None:
            total += operand.bytes
    return total + max(each.bytes - updated, 0.0)


def _updates(user: Instruction, parameter: Instruction) -> bool:
    return user.opcode == "dynamic-update-slice" and user.operands[0] == parameter.name


def collectives(program: Program, devices: int) -> list[Collective]:
    """What one device sends, by kind, in the order of KINDS; loops are multiplied out."""
    found: dict[str, dict[tuple, tuple[float, float]]] = {}
    nth: dict[tuple, int] = {}
    for computation, each, times in program.walk(fused=True):
        kind = each.opcode.removesuffix("-start")
        if kind == "async":
            continue
        if kind in KINDS:
            group = _group(each.attributes, devices)
            if kind == "all-reduce" and computation.name.startswith("all-reduce-scatter"):
                kind = "reduce-scatter"
            sent = _sent(kind, computation, each, group)
            # One collective can stand in several fusions that overlap with it: in each once, with
            # the same channel and source. (Of other collectives many may share a channel.)
            channel = each.named(r"channel_id=(\d+)") or f"{computation.name}/{each.name}"
            source = channel, each.scope, computation.name
            nth[source] = nth.get(source, -1) + 1
            channel = (*source[:2], nth[source])
            old = found.setdefault(kind, {}).get(channel, (0.0, 0.0))
            found[kind][channel] = max(old, (times, times * sent))
    return [
        Collective(kind, sum(t for t, _ in calls.values()), sum(b for _, b in calls.values()))
        for kind in KINDS
        if (calls := found.get(kind))
    ]


def _sent(kind: str, computation: Computation, each: Instruction, group: int) -> float:
    """Bytes that one device of a group sends in the cheapest known algorithm."""
    operands = [computation.instructions.get(name) for name in each.operands]
    given = sum(o.bytes for o in operands if o is not None)
    share = (group - 1) / group
    return {
        "all-gather": given * (group - 1),
        "reduce-scatter": given * share,
        "all-reduce": 2 * given * share,
        "all-to-all": given * share,
        # The operands are the rows, the buffer they land in and the sizes: the rows bound it.
        "ragged-all-to-all": (operands[0].bytes if operands and operands[0] else 0) * share,
        "collective-permute": given,
    }[kind]


def _group(attributes: str, devices: int) -> int:
    """Devices that take part in a collective together."""
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", attributes):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", named.group(1)))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", named.group(2)))
    if tiled := re.search(r"replica_groups=\[\d+,(\d+)\]", attributes):
        return int(tiled.group(1))
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return len(listed.group(1).split(","))
    return devices
