"""Bytes that a compiled program moves: to and from HBM, and between chips."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from qwen3.plan.hlo import Computation, HloInstruction, Program, called

KINDS = (
    "all-gather",
    "reduce-scatter",
    "all-reduce",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "between slices",
)
BETWEEN_SLICES = KINDS[-1]  # all-reduces over the data-centre network, which the host runs
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
    "call-start",
    "async-start",
    "after-all",
    "partition-id",
    "replica-id",
    "opt-barrier",
    "domain",
    "iota",
}
# Custom calls that name memory: neighbours in it as one array, and memory not yet written.
_FREE_CALLS = {"ConcatBitcast", "AllocateBuffer"}
_SLICES = ("dynamic-slice", "slice", "gather")
# Instructions that change a part of their first operand in place -> number of the operand with it.
_UPDATES = {"dynamic-update-slice": 1, "scatter": 2}


@dataclass(frozen=True)
class Collective:
    """All collectives of one kind in a program, seen by one device."""

    kind: str
    calls: float  # in a step
    bytes: float  # sent over the device's links, or from its slice to the others


def hbm_bytes(program: Program) -> float:
    """Bytes read and written by one device, as if each fusion read and wrote its arguments once.

    Of an array that is only sliced or updated in place, the slice counts. What the compiler keeps
    in the chip's vector memory counts only where it is copied from or to HBM.
    """
    total = 0.0
    for computation, instruction, times in program.walk(fused=False):
        if instruction.opcode in _FREE or instruction.opcode.endswith("-done"):
            continue
        total += times * _moved(program, computation, instruction)
    return total


def _moved(program: Program, computation: Computation, instruction: HloInstruction) -> float:
    named = (computation.instructions.get(name) for name in instruction.operands)
    operands = [operand for operand in named if operand is not None]
    instruction = _started(instruction, operands)
    if instruction.opcode == "fusion":
        return _moved_by_fusion(program, computation, instruction)
    if instruction.attribute(r'custom_call_target="(\w+)"') in _FREE_CALLS:
        return 0.0
    written = instruction.hbm_bytes
    if instruction.opcode in _SLICES and operands:
        return written + (instruction.bytes if operands[0].hbm_bytes else 0.0)
    update = _UPDATES.get(instruction.opcode, len(operands))
    if update < len(operands):
        return operands[update].hbm_bytes + (operands[update].bytes if written else 0.0)
    return written + sum(operand.hbm_bytes for operand in operands)


def _started(instruction: HloInstruction, operands: list[HloInstruction]) -> HloInstruction:
    """The instruction that an asynchronous one starts, `slice` of `slice-start`, with what it
    writes as results; itself if it waits for its end.

    The results of a start are also its operands, which it names again, and a semaphore: those of
    copy-start are (copy, source, semaphore), of all others ((operands), results, semaphore).
    """
    opcode = instruction.opcode.removesuffix("-start")
    if opcode == instruction.opcode:
        return instruction
    sources = [shape for operand in operands for shape in operand.shapes]
    results = list(zip(instruction.shapes, instruction.spaces, strict=True))
    if opcode == "copy":
        results = results[:1]
    elif len(results) > len(sources) and instruction.shapes[: len(sources)] == sources:
        results = [result for result in results[len(sources) :] if result[0][1]]  # no scalars
    shapes, spaces = [shape for shape, _ in results], tuple(space for _, space in results)
    return replace(instruction, opcode=opcode, shapes=shapes, spaces=spaces)


def _moved_by_fusion(program: Program, computation: Computation, fusion: HloInstruction) -> float:
    inner = program.computations[called(fusion)[0]]
    total, updated = 0.0, 0.0
    for name, parameter in zip(fusion.operands, inner.parameters, strict=False):
        operand = computation.instructions.get(name)
        uses = _uses(inner, parameter)
        if operand is None or not operand.hbm_bytes:
            continue
        if uses and all(user.opcode in _SLICES for user, _ in uses):
            total += sum(user.bytes for user, _ in uses)
        elif uses and all(_updates(user, value) for user, value in uses):
            # Updated in place: the updates are read, and of the result only they are written.
            updates = (user.operands[_UPDATES[user.opcode]] for user, _ in uses)
            sizes = [inner.instructions[name].bytes for name in updates]
            total, updated = total + sum(sizes), updated + parameter.bytes - sum(sizes)
        else:
            total += operand.bytes
    return total + max(fusion.hbm_bytes - updated, 0.0)


def _uses(
    computation: Computation, value: HloInstruction
) -> list[tuple[HloInstruction, HloInstruction]]:
    """(instruction that reads a value, the value as it reads it) of all; what gives the same bytes
    another name, as int8 in another tiling has, is looked through.
    """
    uses = []
    for user in computation.users.get(value.name, []):
        if (
            user.opcode == "fusion"
            and "output_to_operand_aliasing={{}: (0, {})}" in user.attributes
        ):
            uses += _uses(computation, user)
        else:
            uses.append((user, value))
    return uses


def _updates(user: HloInstruction, value: HloInstruction) -> bool:
    return user.opcode in _UPDATES and user.operands[0] == value.name


def collectives(program: Program, devices: int) -> list[Collective]:
    """What one device sends in a step, by kind, in the order of KINDS; loops are multiplied out."""
    # kind -> (channel, source, occurrence) -> (calls, bytes)
    sent: dict[str, dict[tuple, tuple[float, float]]] = {}
    occurrences: dict[tuple, int] = {}
    for computation, instruction, times in program.walk(fused=True):
        kind = instruction.opcode.removesuffix("-start")
        if kind == "send" and "megascale" in instruction.attributes:
            kind = BETWEEN_SLICES
        if kind not in KINDS:
            continue
        group = _group(instruction.attributes, devices)
        if kind == "all-reduce" and computation.name.startswith("all-reduce-scatter"):
            kind = "reduce-scatter"
        amount = _sent(kind, computation, instruction, group)
        # One collective can stand in several fusions that overlap with it: in each once, with
        # the same channel and source. (Of other collectives many may share a channel.)
        name = instruction.attribute(r"channel_id=(\d+)")
        channel = name or f"{computation.name}/{instruction.name}"
        source = (channel, instruction.scope, computation.name)
        occurrences[source] = occurrences.get(source, -1) + 1
        key = (channel, instruction.scope, occurrences[source])
        previous = sent.setdefault(kind, {}).get(key, (0.0, 0.0))
        sent[kind][key] = max(previous, (times, times * amount))
    return [
        Collective(kind, sum(t for t, _ in calls.values()), sum(b for _, b in calls.values()))
        for kind in KINDS
        if (calls := sent.get(kind))
    ]


def _sent(kind: str, computation: Computation, collective: HloInstruction, group: int) -> float:
    """Bytes that one device of a group sends in the cheapest known algorithm."""
    operands = [computation.instructions.get(name) for name in collective.operands]
    local = sum(operand.bytes for operand in operands if operand is not None)
    share = (group - 1) / group
    return {
        "all-gather": local * (group - 1),
        "reduce-scatter": local * share,
        "all-reduce": 2 * local * share,
        "all-to-all": local * share,
        # The operands are the rows, the buffer they land in and the sizes: the rows bound it.
        "ragged-all-to-all": (operands[0].bytes if operands and operands[0] else 0) * share,
        "collective-permute": local,
        BETWEEN_SLICES: local,
    }[kind]


def _group(attributes: str, devices: int) -> int:
    """Devices that take part in a collective together."""
    # Such as mesh['axis_0'=4,'axis_1'=8], device_ids=([8,4]T(1,0)) {'axis_1'}.
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", attributes):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", named.group(1)))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", named.group(2)))
    if tiled := re.search(r"replica_groups=\[\d+,(\d+)\]", attributes):
        return int(tiled.group(1))
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return len(listed.group(1).split(","))
    return devices
