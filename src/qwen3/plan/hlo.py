"""Reading a compiled program: the text that XLA prints after its last pass, as plain records.

Loops run their bodies a number of times that the loop's condition tells; `walk` gives every
instruction together with how often it runs, which XLA's own cost analysis leaves out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

BYTES = {
    "pred": 1,
    "s8": 1,
    "u8": 1,
    "s16": 2,
    "u16": 2,
    "s32": 4,
    "u32": 4,
    "s64": 8,
    "u64": 8,
    "bf16": 2,
    "f16": 2,
    "f32": 4,
    "f64": 8,
    "s4": 0.5,
    "u4": 0.5,
    "s2": 0.25,
    "u2": 0.25,
    "c64": 8,
    "c128": 16,
    "f8e4m3fn": 1,
    "f8e5m2": 1,
    "f8e4m3": 1,
    "token": 0,
}
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_LINE = re.compile(r"^\s+(ROOT )?%(\S+) = ")
_CALLED = re.compile(r"\b(?:calls|body|to_apply|called_computations)=\{?%([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")


@dataclass
class Instruction:
    name: str
    shapes: list[tuple[str, tuple[int, ...]]]
    opcode: str
    operands: list[str]
    attributes: str
    root: bool

    @property
    def bytes(self) -> float:
        return sum(BYTES.get(kind, 4) * math.prod(dims) for kind, dims in self.shapes)

    @property
    def elements(self) -> int:
        return math.prod(self.shapes[0][1])

    def named(self, pattern: str) -> str | None:
        found = re.search(pattern, self.attributes)
        return found and found.group(1)

    @property
    def scope(self) -> str:
        """jax's name for it, such as jit(step)/.../experts/dot_general."""
        return self.named(r'op_name="([^"]*)"') or ""


@dataclass
class Computation:
    name: str
    instructions: dict[str, Instruction] = field(default_factory=dict)

    @property
    def root(self) -> Instruction:
        return next(i for i in self.instructions.values() if i.root)

    @cached_property
    def users(self) -> dict[str, list[Instruction]]:
        found: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
        for each in self.instructions.values():
            for operand in each.operands:
                found.setdefault(operand, []).append(each)
        return found

    @property
    def parameters(self) -> list[Instruction]:
        """In order of their numbers."""
        found = [i for i in self.instructions.values() if i.opcode == "parameter"]
        return sorted(found, key=lambda i: int(i.operands[0]))


@dataclass
class Program:
    computations: dict[str, Computation]
    entry: str
    unknown_loops: set[str] = field(default_factory=set)

    def walk(self, *, fused: bool) -> Iterator[tuple[Computation, Instruction, float]]:
        """(computation, instruction, times it runs), all that is reached from the entry.

        fused: go into fusions too, for arithmetic; without, a fusion is one instruction, for what
        travels to and from memory. A loop whose length cannot be read counts once and is noted in
        `unknown_loops`. Each branch of a conditional counts, though one runs.
        """
        return self._walk(self.entry, 1.0, fused)

    def _walk(self, name: str, times: float, fused: bool):
        computation = self.computations[name]
        for each in computation.instructions.values():
            yield computation, each, times
            if each.opcode == "fusion" and not fused:
                continue
            if each.opcode == "while":
                yield from self._walk(called(each)[0], times * self.trips(each), fused)
            elif each.opcode in ("fusion", "call", "conditional") or each.opcode == "async-start":
                for inner in called(each):
                    yield from self._walk(inner, times, fused)

    def trips(self, loop: Instruction) -> int:
        """How often a loop that counts from 0 in steps of 1 runs: the bound in its condition."""
        known = loop.named(r'known_trip_count":?\{"?n"?:"?(\d+)')
        if known:
            return int(known)
        condition = self.computations[loop.named(r"condition=%([\w.\-]+)")]
        bounds = list(self._constants(condition))
        if len(bounds) != 1:
            self.unknown_loops.add(loop.name)
            return 1
        return bounds[0]

    def _constants(self, computation: Computation):
        for each in computation.instructions.values():
            if each.opcode == "constant" and each.shapes[0][0] in ("s32", "u32", "s64"):
                if re.fullmatch(r"\d+", each.operands[0]):
                    yield int(each.operands[0])
            elif each.opcode == "fusion":
                yield from self._constants(self.computations[called(each)[0]])


def called(instruction: Instruction) -> list[str]:
    """Names of the computations that an instruction runs."""
    branches = _BRANCHES.search(instruction.attributes)
    if branches:
        return re.findall(r"%([\w.\-]+)", branches.group(1))
    if instruction.opcode == "conditional":
        return re.findall(r"(?:true|false)_computation=%([\w.\-]+)", instruction.attributes)
    return _CALLED.findall(instruction.attributes)[:1]


def parse(text: str) -> Program:
    """What `compiled.as_text()` says."""
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in _logical_lines(text):
        if line.startswith(("%", "ENTRY")) and line.rstrip().endswith("{"):
            name = re.search(r"%([\w.\-]+)", line).group(1)
            current = computations[name] = Computation(name)
            entry = name if line.startswith("ENTRY") else entry
        elif line == "}":
            current = None
        elif current is not None and (start := _LINE.match(line)):
            each = _instruction(line, start)
            current.instructions[each.name] = each
    return Program(computations, entry)


def _logical_lines(text: str) -> Iterator[str]:
    """Lines with an instruction each: a kernel's metadata may go on over several of the text."""
    held = ""
    for line in text.splitlines():
        if line == "}" or line.startswith(("%", "ENTRY")) or _LINE.match(line):
            yield held
            held = line
        else:
            held += line
    yield held


def _instruction(line: str, start: re.Match) -> Instruction:
    rest = line[start.end() :]
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    kind, rest = rest[:end], rest[end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    inside = rest[opening + 1 : closing]
    opcode = rest[:opening]
    operands = re.findall(r"%([\w.\-]+)", inside) or [inside]
    shapes = [
        (name, tuple(int(d) for d in dims.split(",") if d)) for name, dims in _ARRAY.findall(kind)
    ]
    shapes = [shape for shape in shapes if shape[0] in BYTES] or [("token", ())]
    return Instruction(
        start.group(2), shapes, opcode, operands, rest[closing + 1 :], bool(start.group(1))
    )


def _closing(text: str, opening: int) -> int:
    depth = 0
    for at in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        if depth == 0:
            return at
    raise ValueError(f"unbalanced parentheses in {text[:80]!r}")
