"""Published figures of TPU chips: memory, peak FLOPs, bandwidths, and the shapes of slices."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One TPU generation; every figure is per chip."""

    name: str
    hbm: float  # bytes of memory
    flops: float  # bf16 FLOPs a second at peak
    bandwidth: float  # HBM bytes a second
    ici: float  # bytes a second sent over all links together: half the published two-way figure
    devices: int = 1  # JAX devices that a chip shows up as
    axes: int = 3  # dimensions of a slice
    config: str = ""  # the compiler's configuration of the chip, where it is not the default
    source: str = ""  # where the figures are published

    def per_device(self, figure: str) -> float:
        """A figure's share of one JAX device: per_device("hbm") in bytes."""
        return getattr(self, figure) / self.devices

    def wrap(self, shape: str) -> tuple[bool, bool, bool]:
        """Which axes of a slice are rings (wrap-around links).

        All axes of a cube of at least 4 x 4 x 4; in the plane, axes of 16 chips. On an axis that
        is no ring the compiler turns all-gathers into all-reduces of zero-padded arrays, at twice
        the traffic (docs/log/2026-11-22-tpu-slices-have-rings.md).
        """
        sizes = [int(size) for size in shape.split("x")]
        if self.axes == 3:
            return (min(sizes) >= 4,) * 3
        return (sizes[0] >= 16, sizes[1] >= 16, False)


_DOCS = "https://cloud.google.com/tpu/docs"
CHIPS = {
    chip.name: chip
    for chip in (
        # On TPU VMs the two cores of a v4 chip are one device ("megacore"), as those of a v5p are.
        Chip("v4", 32 * GIB, 275e12, 1228e9, 300e9, config="megacore", source=f"{_DOCS}/v4"),
        Chip("v5e", 16 * GIB, 197e12, 819e9, 200e9, axes=2, source=f"{_DOCS}/v5e"),
        Chip("v5p", 95 * GIB, 459e12, 2765e9, 600e9, source=f"{_DOCS}/v5p"),
        Chip("v6e", 32 * GIB, 918e12, 1638e9, 400e9, axes=2, source=f"{_DOCS}/v6e"),
        Chip("tpu7x", 192 * GIB, 2307e12, 7380e9, 600e9, devices=2, source=f"{_DOCS}/tpu7x"),
    )
}


_EXAMPLES = {2: "AxB, such as 2x2, 4x4, 8x16", 3: "AxBxC, such as 2x2x1, 2x4x4, 4x4x4"}


def chip_of(topology: str) -> Chip:
    """The chip of a topology such as "v5p:4x4x4", or "v5p:4x4x4*2" for two such slices.

    Raises ValueError naming the known kinds and the form of a slice.
    """
    kind, _, shape = one_slice(topology)[0].partition(":")
    if kind not in CHIPS:
        raise ValueError(
            f"topology {topology!r} is not KIND:SHAPE, such as v5e:4x4 or v5p:4x4x4; "
            f"kinds: {', '.join(CHIPS)}"
        )
    chip = CHIPS[kind]
    if not re.fullmatch(r"[1-9]\d*" + r"x[1-9]\d*" * (chip.axes - 1), shape):
        raise ValueError(f"topology {topology!r}: {kind} slices are {shapes(chip)}")
    return chip


def device_count(topology: str) -> int:
    """JAX devices of a topology, by its name alone: libtpu need not be there to say so."""
    chip = chip_of(topology)
    name, slices = one_slice(topology)
    sizes = (int(size) for size in name.partition(":")[2].split("x"))
    return math.prod(sizes) * chip.devices * slices


def one_slice(topology: str) -> tuple[str, int]:
    """("v5p:4x4x4", 2) of "v5p:4x4x4*2". Raises ValueError for a number that is none."""
    name, star, number = topology.partition("*")
    if star and not re.fullmatch(r"[1-9]\d*", number):
        raise ValueError(f"topology {topology!r}: {number!r} is no number of slices")
    return name, int(number or 1)


def shapes(chip: Chip) -> str:
    """How to write the shape of a slice of these chips, with examples."""
    return _EXAMPLES[chip.axes]
