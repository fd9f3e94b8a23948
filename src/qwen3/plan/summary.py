"""A plan as people read it."""

from __future__ import annotations

from qwen3.mesh import AXES
from qwen3.plan.compiling import CompiledStep

HEADER = (
    "| step | mesh | rows x length | remat | HBM a device | of | FLOPs / analytic | with tiles | "
    "sent | predicted step | MFU | compile |"
)
_LINE = "|---" * 12 + "|"


def table(plans: list[CompiledStep]) -> str:
    """Markdown, a row a plan."""
    return "\n".join([HEADER, _LINE, *(row(plan) for plan in plans)])


def row(plan: CompiledStep) -> str:
    s, p = plan.setting, plan.prediction
    micro = f" / {s.microbatches}" if s.microbatches > 1 else ""
    cells = [
        f"{s.model} {s.step}",
        f"{s.topology} {mesh_text(plan)}",
        f"{s.batch_per_device:g}{micro} x {s.length}",
        s.remat,
        f"{plan.used / 1e9:.1f} GB",
        f"{plan.limit / 1e9:.0f} GB",
    ]
    if p is None:
        return "| " + " | ".join([*cells, *["does not fit"] * 6]) + " |"
    cells += [
        f"{plan.flops_ratio:.3f}",
        f"{plan.flops_ratio_with_tiles:.3f}",
        f"{sum(c.bytes for c in plan.collectives) / 1e9:.1f} GB",
        f"{p.seconds:.2f} s ({p.bound})",
        f"{p.mfu:.0%}",
        f"{plan.compile_seconds:.0f} s",
    ]
    return "| " + " | ".join(cells) + " |"


def mesh_text(plan: CompiledStep) -> str:
    sizes = {axis: getattr(plan.setting.mesh, axis) for axis in AXES}
    shown = [f"{axis}={n if n != -1 else 'rest'}" for axis, n in sizes.items() if n != 1]
    return ",".join(shown) or "one device"


def text(plan: CompiledStep) -> str:
    """The whole plan, a fact a line."""
    s = plan.setting
    lines = [
        f"{s.model} {s.step} on {s.topology} ({plan.devices} devices, "
        f"{plan.devices_per_chip} a chip), mesh {mesh_text(plan)}",
        f"  {s.batch_per_device:g} rows a device x {s.length} tokens, {s.microbatches} "
        f"microbatch(es), remat {s.remat}, {plan.parameters:,} parameters",
        "",
        f"HBM a device  {plan.used / 1e9:9.2f} GB of {plan.limit / 1e9:.2f} GB: "
        + ("fits" if plan.fits else "DOES NOT FIT"),
    ]
    lines += [f"  {name:12}{amount / 1e9:9.2f} GB" for name, amount in plan.memory.items()]
    if plan.reason:
        lines.append(f"  the compiler: {plan.reason}")
    if not plan.fits:
        lines += ["", "what would fit, the least costly first:", *(f"  {a}" for a in plan.advice)]
    if plan.prediction is None:
        return "\n".join(lines)
    return "\n".join([*lines, "", *_costs(plan), "", *_times(plan), "", *_methods(plan)])


def _costs(plan: CompiledStep):
    yield f"FLOPs a token {plan.flops_per_token / 1e9:9.3f} G, {plan.flops_ratio:.3f} times"
    yield f"  analytic    {plan.analytic_flops_per_token / 1e9:9.3f} G"
    for kind, amount in plan.flops.items():
        name = "whole tiles" if kind == "tiles" else kind
        yield f"  {name:12}{amount / plan.tokens / 1e9:9.3f} G" + (
            f" on top: {plan.flops_ratio_with_tiles:.3f} times" if kind == "tiles" else ""
        )
    yield f"bytes of HBM  {plan.bytes_accessed / 1e9:9.1f} GB a step"
    yield "collectives a step (bytes that a device sends)"
    for each in plan.collectives:
        yield f"  {each.kind:19}{each.calls:7.0f} calls {each.bytes / 1e9:9.2f} GB"
    if not plan.collectives:
        yield "  none"
    if plan.unknown_loops:
        yield f"  loops of unknown length, counted once: {', '.join(plan.unknown_loops)}"


def _times(plan: CompiledStep):
    p = plan.prediction
    yield f"lowered in {plan.lower_seconds:.1f} s, compiled in {plan.compile_seconds:.1f} s"
    yield f"predicted step {p.seconds:.3f} s, bound by {p.bound}; MFU {p.mfu:.1%}; "
    yield f"  {p.tokens_per_second_per_chip:,.0f} tokens a second and chip"
    yield f"  compute {p.compute:.3f} s, HBM {p.memory:.3f} s, ICI {p.links:.3f} s"


def _methods(plan: CompiledStep):
    yield "how it was counted"
    yield from (f"  {method}" for method in plan.methods)
