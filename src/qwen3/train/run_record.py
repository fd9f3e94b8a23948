"""What a run ran on: versions, hardware, code revision. Written beside it, printed by `doctor`."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from etils import epath

import qwen3
from qwen3.data.jsonl import line
from qwen3.train.writing import write_atomically

RECORD = "record.jsonl"  # in a workdir: a line a start

# Distributions whose version can change a number or a bug.
DISTRIBUTIONS = (
    "jax",
    "jaxlib",
    "libtpu",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "numpy",
    "ml_dtypes",
    "tokenizers",
    "safetensors",
    "tokamax",
    "sympy",
)
# Environment variables that change what a run computes, how fast, or where; no secrets are read.
VARIABLES = (
    "JAX_PLATFORMS",
    "JAX_COMPILATION_CACHE_DIR",
    "XLA_FLAGS",
    "LIBTPU_INIT_ARGS",
    "MALLOC_MMAP_MAX_",
    "MALLOC_TRIM_THRESHOLD_",
)


def run_record() -> dict[str, Any]:
    """Versions, code revision, devices and machine of this process, as plain JSON values."""
    devices = jax.devices()
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "qwen3": qwen3.__version__,
        "revision": revision(Path(qwen3.__file__).parent),
        "python": platform.python_version(),
        "versions": versions(),
        "platform": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_bytes": memory_bytes(),
        "devices": {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
            "processes": jax.process_count(),
        },
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "command": sys.argv,
    }


def add_run_record(workdir: Any) -> None:
    """Append this start's record to `record.jsonl` of a run's workdir."""
    path = epath.Path(workdir) / RECORD
    earlier = path.read_text() if path.exists() else ""
    # Whole lines only: a start that was killed while writing leaves a torn one.
    write_atomically(path, earlier[: earlier.rfind("\n") + 1] + line(run_record()))


def versions() -> dict[str, str]:
    """Installed version of each distribution that matters; those that are absent are left out."""
    installed = {}
    for name in DISTRIBUTIONS:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def revision(folder: Path) -> str:
    """The git commit of the code in `folder`, with "+changes" if it is not as committed.

    Where no git is, as on the hosts of a pod, what launchers put into QWEN3_REVISION, else "".
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        # A folder inside another project's checkout is not that project's code.
        if git("ls-files", "--error-unmatch", "__init__.py"):
            changes = git("status", "--porcelain", "--untracked-files=no", ".")
            return git("rev-parse", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.SubprocessError):
        pass
    return os.environ.get("QWEN3_REVISION", "")


def processor() -> str:
    """The processor's model name; what can be told elsewhere than on Linux."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def memory_bytes() -> int:
    """Physical memory of the machine, 0 where it cannot be told."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0
