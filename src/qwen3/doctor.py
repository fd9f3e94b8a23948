"""`qwen3 doctor`: what a bug report needs to know of this machine and installation."""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
from pathlib import Path
from typing import Any

from qwen3 import sandbox
from qwen3.train.run_record import run_record

# Limits of this process that end long runs.
LIMITS = {
    "open files": resource.RLIMIT_NOFILE,
    "processes": resource.RLIMIT_NPROC,
    "file size": resource.RLIMIT_FSIZE,
    "address space": resource.RLIMIT_AS,
}


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Registers `doctor`."""
    parser = subparsers.add_parser("doctor", help="print what a bug report needs")
    parser.add_argument("--json", action="store_true", help="as JSON instead of lines")
    parser.set_defaults(run=run)
    return parser


def run(options: argparse.Namespace) -> int:
    """Prints the report; the exit code is 0 also where something is missing."""
    report = examine()
    if options.json:
        print(json.dumps(report, indent=1))
        return 0
    for name, value in report.items():
        if isinstance(value, dict):
            print(f"{name}:")
            for key, item in value.items():
                print(f"  {key}: {item}")
        else:
            print(f"{name}: {value}")
    return 0


def examine() -> dict[str, Any]:
    """The run's record, with the sandbox's level, limits of this process, and room on disks."""
    report = run_record()
    del report["command"]
    return {
        **report,
        "sandbox": sandbox_level(),
        "limits": {name: _limit(kind) for name, kind in LIMITS.items()},
        "free_disk_bytes": {
            str(folder): shutil.disk_usage(folder).free for folder in _folders() if folder.exists()
        },
    }


def sandbox_level() -> dict[str, Any]:
    """The isolation that untrusted code gets here, measured by running some."""
    probe = sandbox.default().probe()
    return {name: probe[name] for name in ("level", "network", "refused") if name in probe}


def _folders() -> list[Path]:
    return [Path.cwd(), Path(os.environ.get("TMPDIR", "/tmp")), Path.home()]


def _limit(kind: int) -> str:
    soft, hard = resource.getrlimit(kind)
    names = (
        "no limit" if value == resource.RLIM_INFINITY else str(value) for value in (soft, hard)
    )
    return " of ".join(names)
