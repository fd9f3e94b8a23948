"""What a TPU chip can do, as its maker states it."""

from __future__ import annotations

import re
from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One generation. `devices`: JAX devices a chip shows up as; every other figure is per chip.

    hbm in bytes; flops: bf16 a second; bandwidth: HBM bytes a second; ici: bytes a second that a
    chip can send over all its links together (half of the published two-way figure).
    axes: of a slice.
    """

    name: str
    hbm: float
    flops: float
    bandwidth: float
    ici: float
    devices: int = 1
    axes: int = 3
    source: str = ""

    def per_device(self, figure: str) -> float:
        return getattr(self, figure) / self.devices

    def wrap(self, shape: str) -> tuple[bool, bool, bool]:
        """Which axes of a slice are rings: all of a cube of at least 4 x 4 x 4; in the plane, those
        of 16 chips. On axes that are no rings the compiler makes all-reduces of zero-padded wholes
        out of all-gathers."""
        sizes = [int(size) for size in shape.split("x")]
        if self.axes == 3:
            return (min(sizes) >= 4,) * 3
        return (sizes[0] >= 16, sizes[1] >= 16, False)


_DOCS = "https://cloud.google.com/tpu/docs"
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v5e", 16 * GIB, 197e12, 819e9, 200e9, axes=2, source=f"{_DOCS}/v5e"),
        Chip("v5p", 95 * GIB, 459e12, 2765e9, 600e9, source=f"{_DOCS}/v5p"),
        Chip("v6e", 32 * GIB, 918e12, 1638e9, 400e9, axes=2, source=f"{_DOCS}/v6e"),
        Chip("tpu7x", 192 * GIB, 2307e12, 7380e9, 600e9, devices=2, source=f"{_DOCS}/tpu7x"),
    )
}


_EXAMPLES = {2: "AxB, such as 2x2, 4x4, 8x16", 3: "AxBxC, such as 2x2x1, 2x4x4, 4x4x4"}


def chip_of(topology: str) -> Chip:
    """The chip of "v5p:4x4x4". Raises ValueError naming the kinds and forms there are."""
    kind, _, shape = topology.partition(":")
    if kind not in CHIPS:
        raise ValueError(
            f"topology {topology!r} is not KIND:SHAPE, such as v5e:4x4 or v5p:4x4x4; "
            f"kinds: {', '.join(CHIPS)}"
        )
    chip = CHIPS[kind]
    if not re.fullmatch(r"[1-9]\d*" + r"x[1-9]\d*" * (chip.axes - 1), shape):
        raise ValueError(f"topology {topology!r}: {kind} slices are {shapes(chip)}")
    return chip


def shapes(chip: Chip) -> str:
    """How to write a slice of these chips."""
    return _EXAMPLES[chip.axes]
