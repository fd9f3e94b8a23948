"""Cloud's names of TPU slices, such as v6e-16: topology, chips, hosts, software of its VMs.

    python -m qwen3.plan.slice_types v6e-16      what is known of it, as JSON

It needs the standard library alone: launch/pod.py asks where nothing is installed.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from dataclasses import dataclass

# Shapes of the slices that are given out; "cpu" are emulated devices of this machine.
_PLANE = "1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16"
_CUBE = "2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8 8x8x16 8x16x16 16x16x24"
_CPU = "2 4 6 8"
QUEUED, GKE, LOOPBACK = "queued_resources", "gke", "loopback"  # what launch/pod.py rents them by


@dataclass(frozen=True)
class SliceFamily:
    """The slices of one generation of chips."""

    chip: str  # as in a topology: "v5e" of v5e:4x4
    prefix: str  # of the names
    counts: int  # what the number of a name counts in a chip: TensorCores, or the chip itself
    shapes: str
    backends: tuple[str, ...]
    runtime: str = ""  # software of a TPU VM


FAMILIES = (
    SliceFamily("v4", "v4", 2, _CUBE, (QUEUED, GKE), "tpu-ubuntu2204-base"),
    SliceFamily("v5e", "v5litepod", 1, _PLANE, (QUEUED, GKE), "v2-alpha-tpuv5-lite"),
    SliceFamily("v5p", "v5p", 2, _CUBE, (QUEUED, GKE), "v2-alpha-tpuv5"),
    SliceFamily("v6e", "v6e", 1, _PLANE, (QUEUED, GKE), "v2-alpha-tpuv6e"),
    SliceFamily("tpu7x", "tpu7x", 2, _CUBE, (GKE,)),
    SliceFamily("cpu", "cpu", 1, _CPU, (LOOPBACK,)),
)


@dataclass(frozen=True)
class SliceType:
    """One slice: v6e-16 has the topology v6e:4x4, sixteen chips, on four hosts."""

    name: str
    topology: str
    chips: int
    hosts: dict[str, int]  # backend that rents it -> machines
    runtime: str


def _slice_type(family: SliceFamily, shape: str) -> SliceType:
    chips = math.prod(int(size) for size in shape.split("x"))
    hosts = {
        backend: max(1, chips // (2 if backend == LOOPBACK else 4)) for backend in family.backends
    }
    if shape == "2x4":  # one machine of eight chips as a TPU VM, two machines on GKE
        hosts[QUEUED] = 1
    name = f"{family.prefix}-{chips * family.counts}"
    return SliceType(name, f"{family.chip}:{shape}", chips, hosts, family.runtime)


TYPES = {
    kind.name: kind
    for family in FAMILIES
    for kind in (_slice_type(family, shape) for shape in family.shapes.split())
}


def slice_type(name: str) -> SliceType:
    """The slice of that name. Raises ValueError naming the known ones of its generation."""
    if name not in TYPES:
        alike = [known for known in TYPES if known.rpartition("-")[0] == name.rpartition("-")[0]]
        prefixes = [f"{family.prefix}-N" for family in FAMILIES]
        raise ValueError(f"there is no type {name!r}; known: {', '.join(alike or prefixes)}")
    return TYPES[name]


def topology_of(name: str) -> str:
    """The topology "v6e:16x16" of v6e-256. Raises ValueError for what is no slice of TPUs."""
    kind = slice_type(name)
    if LOOPBACK in kind.hosts:
        raise ValueError(f"{name} is no slice of TPUs, and is not planned for")
    return kind.topology


if __name__ == "__main__":
    try:
        print(json.dumps(dataclasses.asdict(slice_type(sys.argv[1]))))
    except ValueError as error:
        sys.exit(str(error))
