"""A compiled program (HLO): the text that XLA prints after its last pass, as plain records.

Loops run their bodies a number of times that the loop's condition tells; `walk` gives every
instruction together with how often it runs, which XLA's own cost analysis leaves out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

# Bytes an element, by XLA's name of the dtype.
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
INTEGERS = ("s32", "u32", "s64")
# An array's dtype, dimensions and, in its layout, the memory it lives in where that is not HBM.
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](?:\{[^}]*?(?:S\((\d+)\))?\})?")
_HEADING = re.compile(r"^(ENTRY )?%([\w.\-]+).*\{\s*$")
_LINE = re.compile(r"^\s+(ROOT )?%(\S+) = ")
_CALLED = re.compile(r"\b(?:calls|body|to_apply|called_computations)=\{?%([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")


@dataclass
class HloInstruction:
    """One line of a computation."""

    name: str
    shapes: list[tuple[str, tuple[int, ...]]]  # (dtype, dimensions) of each result
    opcode: str
    operands: list[str]  # names; of a constant or parameter, what stands in the parentheses
    attributes: str  # the rest of the line
    root: bool  # whether it is the computation's result
    # Memory space of each result: 0 is HBM, 1 the chip's own vector memory (VMEM), 5 the host's.
    spaces: tuple[int, ...]

    @property
    def hbm_bytes(self) -> float:
        """Bytes of the results that live in HBM."""
        return sum(
            BYTES.get(kind, 4) * math.prod(dims)
            for (kind, dims), space in zip(self.shapes, self.spaces, strict=True)
            if space == 0
        )

    @property
    def bytes(self) -> float:
        """Bytes of the results."""
        return sum(BYTES.get(kind, 4) * math.prod(dims) for kind, dims in self.shapes)

    @property
    def elements(self) -> int:
        """Elements of the first result."""
        return math.prod(self.shapes[0][1])

    def attribute(self, pattern: str) -> str | None:
        """The first group of a regular expression in the attributes, None where it is absent."""
        match = re.search(pattern, self.attributes)
        return match and match.group(1)

    @property
    def scope(self) -> str:
        """jax's name for it, such as jit(step)/.../experts/dot_general."""
        return self.attribute(r'op_name="([^"]*)"') or ""


@dataclass
class Computation:
    """A function of the program: a fusion's or a loop's body, or the entry."""

    name: str
    instructions: dict[str, HloInstruction] = field(default_factory=dict)

    @property
    def root(self) -> HloInstruction:
        return next(i for i in self.instructions.values() if i.root)

    @cached_property
    def users(self) -> dict[str, list[HloInstruction]]:
        """The instructions that read each result, by its name."""
        users: dict[str, list[HloInstruction]] = {name: [] for name in self.instructions}
        for instruction in self.instructions.values():
            for operand in instruction.operands:
                users.setdefault(operand, []).append(instruction)
        return users

    @property
    def parameters(self) -> list[HloInstruction]:
        """The computation's arguments, in order of their numbers."""
        parameters = [i for i in self.instructions.values() if i.opcode == "parameter"]
        return sorted(parameters, key=lambda i: int(i.operands[0]))


@dataclass
class Program:
    """A whole compiled program."""

    computations: dict[str, Computation]
    entry: str  # name of the computation that is run
    unknown_loops: set[str] = field(default_factory=set)  # loops whose length cannot be read

    def walk(self, *, fused: bool) -> Iterator[tuple[Computation, HloInstruction, float]]:
        """(computation, instruction, times it runs) of all instructions that the entry reaches.

        fused: go into fusions too, for arithmetic; without, a fusion is one instruction, for what
        travels to and from memory. A loop whose length cannot be read counts once and is noted in
        `unknown_loops`. Each branch of a conditional counts, though one runs.
        """
        return self._walk(self.entry, 1.0, fused)

    def _walk(
        self, name: str, times: float, fused: bool
    ) -> Iterator[tuple[Computation, HloInstruction, float]]:
        computation = self.computations[name]
        for instruction in computation.instructions.values():
            yield computation, instruction, times
            opcode = instruction.opcode.removesuffix("-start")
            if opcode == "fusion" and not fused:
                continue
            if instruction.opcode == "while":
                trips = self.trips(instruction)
                yield from self._walk(called(instruction)[0], times * trips, fused)
            elif opcode in ("fusion", "call", "conditional", "async"):
                for inner in called(instruction):
                    yield from self._walk(inner, times, fused)

    def trips(self, loop: HloInstruction) -> int:
        """How often a loop that counts from 0 in steps of 1 runs: the bound in its condition."""
        known = loop.attribute(r'known_trip_count":?\{"?n"?:"?(\d+)')
        if known:
            return int(known)
        condition = loop.attribute(r"condition=%([\w.\-]+)")
        bounds = list(self._constants(self.computations[condition])) if condition else []
        if len(bounds) != 1:
            self.unknown_loops.add(loop.name)
            return 1
        return bounds[0]

    def _constants(self, computation: Computation) -> Iterator[int]:
        """Integer constants of a computation and of the fusions in it."""
        for instruction in computation.instructions.values():
            if instruction.opcode == "fusion":
                yield from self._constants(self.computations[called(instruction)[0]])
            elif instruction.opcode == "constant" and instruction.shapes[0][0] in INTEGERS:
                if re.fullmatch(r"\d+", instruction.operands[0]):
                    yield int(instruction.operands[0])


def called(instruction: HloInstruction) -> list[str]:
    """Names of the computations that an instruction runs."""
    branches = _BRANCHES.search(instruction.attributes)
    if branches:
        return re.findall(r"%([\w.\-]+)", branches.group(1))
    if instruction.opcode == "conditional":
        return re.findall(r"(?:true|false)_computation=%([\w.\-]+)", instruction.attributes)
    return _CALLED.findall(instruction.attributes)[:1]


def parse(text: str) -> Program:
    """The program that `compiled.as_text()` prints."""
    computations: dict[str, Computation] = {}
    entry = ""
    current: Computation | None = None
    for line in _logical_lines(text):
        if heading := _HEADING.match(line):
            name = heading.group(2)
            current = computations[name] = Computation(name)
            entry = name if heading.group(1) else entry
        elif line == "}":
            current = None
        elif current is not None and (start := _LINE.match(line)):
            instruction = _instruction(line, start)
            current.instructions[instruction.name] = instruction
    return Program(computations, entry)


def _logical_lines(text: str) -> Iterator[str]:
    """Lines with an instruction each: a kernel's metadata may go on over several of the text."""
    logical = ""
    for line in text.splitlines():
        if line == "}" or line.startswith(("%", "ENTRY")) or _LINE.match(line):
            yield logical
            logical = line
        else:
            logical += line
    yield logical


def _instruction(line: str, start: re.Match) -> HloInstruction:
    rest = line[start.end() :]
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    kind, rest = rest[:end], rest[end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    inside = rest[opening + 1 : closing]
    opcode = rest[:opening]
    operands = re.findall(r"%([\w.\-]+)", inside) or [inside]
    arrays = [array for array in _ARRAY.findall(kind) if array[0] in BYTES] or [("token", "", "")]
    return HloInstruction(
        name=start.group(2),
        shapes=[(dtype, tuple(int(d) for d in dims.split(",") if d)) for dtype, dims, _ in arrays],
        opcode=opcode,
        operands=operands,
        attributes=rest[closing + 1 :],
        root=bool(start.group(1)),
        spaces=tuple(int(space or 0) for _, _, space in arrays),
    )


def _closing(text: str, opening: int) -> int:
    """Index of the parenthesis that closes the one at `opening`."""
    depth = 0
    for at in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        if depth == 0:
            return at
    raise ValueError(f"unbalanced parentheses in {text[:80]!r}")
