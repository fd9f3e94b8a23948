"""A compiled step as text for people: memory, FLOPs, traffic and predicted time, a fact a line."""

from __future__ import annotations

from collections.abc import Iterator

from qwen3.mesh import AXES
from qwen3.plan.compiling import CompiledStep
from qwen3.plan.predict import Prediction


def plan_text(plan: CompiledStep) -> str:
    """All that `qwen3 plan` prints of one plan."""
    lines = [*_setting(plan), "", *_memory(plan)]
    if not plan.fits:
        lines += ["", "what would fit, the least costly first:", *(f"  {a}" for a in plan.advice)]
    if plan.prediction is not None:
        lines += ["", *_costs(plan), "", *_times(plan, plan.prediction), "", *_methods(plan)]
    return "\n".join(lines)


def mesh_text(plan: CompiledStep) -> str:
    """The mesh as --mesh takes it, such as fsdp=16,expert=4; axes of size 1 are left out."""
    sizes = {axis: getattr(plan.setting.mesh, axis) for axis in AXES}
    axes = [f"{axis}={n if n != -1 else 'rest'}" for axis, n in sizes.items() if n != 1]
    return ",".join(axes) or "one device"


def _setting(plan: CompiledStep) -> Iterator[str]:
    s = plan.setting
    yield (
        f"{s.model} {s.step} on {s.topology} ({plan.devices} devices, "
        f"{plan.devices_per_chip} a chip), mesh {mesh_text(plan)}"
    )
    yield (
        f"  {s.batch_per_device:g} rows a device x {s.length} tokens, {s.microbatches} "
        f"microbatch(es), remat {s.remat}, {plan.parameters:,} parameters"
    )


def _memory(plan: CompiledStep) -> Iterator[str]:
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    yield f"HBM a device  {plan.used / 1e9:9.2f} GB of {plan.limit / 1e9:.2f} GB: {verdict}"
    yield from (f"  {name:12}{amount / 1e9:9.2f} GB" for name, amount in plan.memory.items())
    if plan.reason:
        yield f"  the compiler: {plan.reason}"


def _costs(plan: CompiledStep) -> Iterator[str]:
    yield f"FLOPs a token {plan.flops_per_token / 1e9:9.3f} G, {plan.flops_ratio:.3f} times"
    yield f"  analytic    {plan.analytic_flops_per_token / 1e9:9.3f} G"
    for kind, amount in plan.flops.items():
        name = "whole tiles" if kind == "tiles" else kind
        yield f"  {name:12}{amount / plan.tokens / 1e9:9.3f} G" + (
            f" on top: {plan.flops_ratio_with_tiles:.3f} times" if kind == "tiles" else ""
        )
    yield f"bytes of HBM  {plan.bytes_accessed / 1e9:9.1f} GB a step"
    yield "collectives a step (bytes that a device sends)"
    for collective in plan.collectives:
        yield (
            f"  {collective.kind:19}{collective.calls:7.0f} calls {collective.bytes / 1e9:9.2f} GB"
        )
    if not plan.collectives:
        yield "  none"
    if plan.unknown_loops:
        yield f"  loops of unknown length, counted once: {', '.join(plan.unknown_loops)}"


def _times(plan: CompiledStep, p: Prediction) -> Iterator[str]:
    yield f"lowered in {plan.lower_seconds:.1f} s, compiled in {plan.compile_seconds:.1f} s"
    yield f"predicted step {p.seconds:.3f} s, bound by {p.bound}; MFU {p.mfu:.1%}; "
    yield f"  {p.tokens_per_second_per_chip:,.0f} tokens a second and chip"
    yield f"  compute {p.compute:.3f} s, HBM {p.memory:.3f} s, ICI {p.links:.3f} s"


def _methods(plan: CompiledStep) -> Iterator[str]:
    yield "how it was counted"
    yield from (f"  {method}" for method in plan.methods)
