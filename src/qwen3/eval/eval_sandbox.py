"""Sandboxes with the limits that graders of suites need, isolated as the default one is."""

from __future__ import annotations

from functools import cache

from qwen3 import sandbox

# Graders run trusted code on untrusted data, and a loaded machine must not change a verdict.
AMPLE = sandbox.Limits(memory_mb=4096, cpu_s=300, wall_s=900.0, call_s=300.0, output_kb=30_720)


@cache
def sandbox_with(limits: sandbox.Limits) -> sandbox.Sandbox:
    """The sandbox with these limits."""
    default = sandbox.default()
    return sandbox.Sandbox(
        workers=default.workers, limits=limits, allow_unisolated=default.allow_unisolated
    )
