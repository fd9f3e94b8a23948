"""`qwen3 status`: how a run on a pod is doing, from its folder in the bucket or a copy of it.

It needs the standard library alone where the folder is local: launch/pod.py calls this module
(`python -m qwen3.supervise.status_cli`) where nothing is installed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from qwen3.supervise.pod_settings import read_host_lines
from qwen3.supervise.status import Status
from qwen3.supervise.status_text import status_page, status_text


def add_parser(subparsers: Any) -> None:
    """Register the command `status`; its `run` is called with the parsed arguments."""
    add_arguments(subparsers.add_parser("status", help="how a run on a pod of TPUs is doing"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="BUCKET/runs/RUN, or a copy of it")
    parser.add_argument("--stdin", action="store_true", help="read settings there, not pod/run.env")
    parser.add_argument("--json", action="store_true", help="what launch/pod.py decides by, too")
    parser.add_argument("--html", default="", metavar="FILE", help="write a page")
    parser.add_argument("--title", default="", help="of the page")
    parser.add_argument("--log", metavar="SLICE.HOST", help="print a host's newest log")
    parser.add_argument("--first-error", action="store_true", help="print what went wrong first")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the status, a log or the first errors. Raises ValueError where there is no run."""
    folder = _folder(args.folder)
    stored = folder / "pod" / "run.env"
    known = read_host_lines(stored.read_text()) if stored.exists() else None
    settings = read_host_lines(sys.stdin.read()) if args.stdin else known
    if settings is None:
        raise ValueError(f"{args.folder} is no folder of a run: {stored} is not there")
    status = Status(settings, folder, time.time())
    title = args.title or f"{settings.RUN}: {settings.SLICES} x {settings.TYPE}"
    if args.html:
        Path(args.html).write_text(status_page(status, title))
    if args.first_error:
        print("\n".join(status.first_errors()) or "no attempt ended with an error")
    elif args.log:
        print(status.log(args.log))
    elif args.json:
        entry = known.ENTRY if known else ""  # of the run that has this folder
        print(json.dumps({**status.verdict(), "entry": entry, "text": status_text(status)}))
    else:
        print(title, status_text(status), sep="\n")
    return 0


def _folder(name: str) -> Path:
    if "://" not in name:
        return Path(name)
    from etils import epath

    return epath.Path(name)  # which has what is used of a Path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="How a run on a pod is doing.")
    add_arguments(parser)
    try:
        arguments = parser.parse_args()
        sys.exit(arguments.run(arguments))
    except (ValueError, OSError) as error:
        sys.exit(str(error))
