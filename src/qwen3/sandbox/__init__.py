"""Running code that nobody has looked at: `default().run(code, entry, inputs)`, see `runner`."""

from qwen3.sandbox.runner import (
    Limits,
    ProgramRun,
    Sandbox,
    SandboxError,
    SandboxUnavailable,
    configure,
    default,
)

__all__ = [
    "Limits",
    "ProgramRun",
    "Sandbox",
    "SandboxError",
    "SandboxUnavailable",
    "configure",
    "default",
]
