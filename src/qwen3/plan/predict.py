"""From counts to seconds: a roofline model with stated efficiencies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qwen3.plan.chips import Chip

# Shares of a chip's published figures that long runs of well-tuned kernels reach in practice. They
# are assumptions, not measurements of this code.
MATMUL, KERNELS, MEMORY, LINKS = 0.75, 0.5, 0.8, 0.7
METHOD = (
    "step time = max(compute, HBM, ICI) of one device; "
    f"compute = XLA's products at {MATMUL:.0%} and Pallas kernels (whole tiles counted) at "
    f"{KERNELS:.0%} of the bf16 peak; HBM = every fusion's arguments and results, but for those "
    f"kept in vector memory, at {MEMORY:.0%}; ICI = bytes sent at {LINKS:.0%} of all links one "
    "way. Assumes full overlap and an even load of experts: a bound to aim at, not a measurement."
)


@dataclass(frozen=True)
class Prediction:
    """Predicted time of one step."""

    compute: float  # seconds of arithmetic
    memory: float  # seconds of HBM traffic
    links: float  # seconds of traffic between chips (ICI)
    bound: str  # the longest of the three
    seconds: float  # of the step: the longest, as the others overlap with it
    mfu: float  # model FLOPs utilisation, counting analytic FLOPs
    tokens_per_second_per_chip: float


def predict(
    chip: Chip,
    *,
    flops: Mapping[str, float],
    hbm_bytes: float,
    sent: float,
    tokens: float,
    analytic: float,
) -> Prediction:
    """Predicts a step from amounts of one device: FLOPs by kind, as `flops.count` gives them.

    hbm_bytes, sent: bytes of HBM and ICI traffic. analytic: FLOPs that the model's formula gives.
    """
    peak = chip.per_device("flops")
    kernels = sum(amount for kind, amount in flops.items() if kind != "matmul")
    times = {
        "compute": (flops.get("matmul", 0.0) / MATMUL + kernels / KERNELS) / peak,
        "memory": hbm_bytes / (MEMORY * chip.per_device("bandwidth")),
        "links": sent / (LINKS * chip.per_device("ici")),
    }
    bound = max(times, key=times.__getitem__)
    seconds = times[bound]
    return Prediction(
        **times,
        bound=bound,
        seconds=seconds,
        mfu=analytic / peak / seconds,
        tokens_per_second_per_chip=tokens * chip.devices / seconds,
    )
