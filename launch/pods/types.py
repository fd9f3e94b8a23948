"""TPU types: chips, hosts, topology, software and compiler flags, one row a generation."""

import math
from dataclasses import dataclass

from pods.command import Refused


def _shapes(text: str) -> dict[int, str]:
    """Chips -> topology."""
    return {math.prod(map(int, shape.split("x"))): shape for shape in text.split()}


PLANE = _shapes("1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16")
CUBE = _shapes("2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8 8x8x16 8x16x16 16x16x24")
# As published for training with this libtpu (MaxText, tpu-recipes); gains were not measured here.
OVERLAP = """
    xla_tpu_enable_data_parallel_all_reduce_opt=true xla_enable_async_all_gather=true
    xla_tpu_data_parallel_opt_different_sized_ops=true xla_tpu_overlap_compute_collective_tc=true
    xla_tpu_enable_async_collective_fusion=true
    xla_tpu_enable_async_collective_fusion_fuse_all_gather=true
    xla_tpu_enable_async_collective_fusion_multiple_steps=true"""
MEGACORE = """
    xla_tpu_megacore_fusion_allow_ags=false xla_enable_async_collective_permute=true
    xla_tpu_enable_ag_backward_pipelining=true"""
SCOPED = " xla_tpu_scoped_vmem_limit_kib=98304"


@dataclass(frozen=True)
class Generation:
    """A generation of chips; `cpu` stands for emulated devices of this machine."""

    prefix: str  # of the type string
    shapes: dict[int, str]
    counts: int  # of a type's number per chip: it counts TensorCores or chips
    backends: str
    runtime: str = ""  # software of a TPU VM
    flags: str = ""  # LIBTPU_INIT_ARGS, without dashes


BOTH = "queued_resources gke"
GENERATIONS = {
    "v4": Generation("v4", CUBE, 2, BOTH, "tpu-ubuntu2204-base"),
    "v5e": Generation("v5litepod", PLANE, 1, BOTH, "v2-alpha-tpuv5-lite", OVERLAP),
    "v5p": Generation("v5p", CUBE, 2, BOTH, "v2-alpha-tpuv5", OVERLAP + MEGACORE),
    "v6e": Generation("v6e", PLANE, 1, BOTH, "v2-alpha-tpuv6e", OVERLAP + SCOPED),
    "tpu7x": Generation("tpu7x", CUBE, 2, "gke"),
    "cpu": Generation("cpu", _shapes("2 4 6 8"), 1, "loopback"),
}


@dataclass(frozen=True)
class SliceType:
    """One slice: v6e-16 has the topology v6e:4x4, sixteen chips on four hosts."""

    generation: Generation
    topology: str
    chips: int

    def hosts(self, backend: str) -> int:
        """2x4 is one machine of eight chips as a TPU VM, and two machines on GKE."""
        if self.generation.shapes is PLANE and self.chips == 8 and backend != "gke":
            return 1
        return max(1, self.chips // (2 if backend == "loopback" else 4))


TYPES = {
    f"{generation.prefix}-{chips * generation.counts}": SliceType(
        generation, f"{name}:{shape}", chips
    )
    for name, generation in GENERATIONS.items()
    for chips, shape in generation.shapes.items()
}


def parse(text: str) -> SliceType:
    """The slice of a type string; Refused, with the known ones, if there is none."""
    if text not in TYPES:
        alike = [name for name in TYPES if name.rpartition("-")[0] == text.rpartition("-")[0]]
        prefixes = [f"{generation.prefix}-N" for generation in GENERATIONS.values()]
        raise Refused(f"there is no TYPE={text}; known are {', '.join(alike or prefixes)}")
    return TYPES[text]
