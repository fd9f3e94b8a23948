"""`qwen3 recipe`: the whole Qwen3 recipe on two cores, from the tokenizer to a report.

    qwen3 recipe
    qwen3 recipe --workdir runs/five --budget 5
    qwen3 recipe --workdir runs/hour --budget 60 --seeds 3
    qwen3 recipe --workdir runs/mine --budget 1 --corpus book.txt \\
        --tasks gsm8k/train.jsonl.gz --tokenizer qwen --init-from Qwen3-0.6B-Base

A budget is in minutes on two cores; 0 is one step of every stage, 1 a few: trials whose numbers
mean nothing. Stages that do not wait for each other run side by side, one a core (`--workers`; 1
for a large checkpoint). Interrupted (Ctrl-C, kill), the same command goes on where it stopped,
inside a stage too. Results: WORKDIR/report.html and WORKDIR/report.md.
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from qwen3.recipe.budgets import BUDGETS, budget_of

# XLA on a CPU maps and unmaps its temporaries at every step; keeping them halves step times. glibc
# reads these when a process starts, so they are set here for the workers, which are spawned.
ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TOP_PAD_": "268435456",
}
OWN_INPUT = ("corpus", "tasks", "tokenizer", "init_from")  # flags that name the user's files


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Register `recipe`."""
    parser = subparsers.add_parser(
        "recipe", help="a tiny Qwen3 through the whole recipe, with a report"
    )
    parser.add_argument("--workdir", type=Path, default=Path("runs/recipe"))
    parser.add_argument("--budget", type=float, default=15, help=f"minutes: {sorted(BUDGETS)}")
    parser.add_argument("--seeds", type=int, default=1, help="runs of everything, 1 to 9")
    parser.add_argument(
        "--workers", type=int, default=min(os.cpu_count() or 1, 4), help="stages side by side"
    )
    parser.add_argument(
        "--exam",
        choices=("final", "dev"),
        default="final",
        help="dev: the problems to design with; final: those of a result",
    )
    parser.add_argument("--corpus", nargs="+", default=[], help="your own text files, mixed in")
    parser.add_argument("--tasks", nargs="+", default=[], help="GSM8K or MATH files, mixed in")
    parser.add_argument("--tokenizer", default="", help="a folder; default: trained on the texts")
    parser.add_argument("--init-from", default="", help="a Hugging Face folder to start from")
    parser.set_defaults(run=run)
    return parser


def run(options: argparse.Namespace) -> int:
    """The command: 0 once the report is written, 42 when stopped and saved, 1 when a stage failed.

    Raises ValueError or OSError for options and folders that cannot be used.
    """
    budget = budget_of(options.budget)
    if not 1 <= options.seeds <= 9:
        raise ValueError(f"--seeds {options.seeds}: give 1 to 9")
    if not 1 <= options.workers <= 64:
        raise ValueError(f"--workers {options.workers}: give 1 to 64")
    own = own_files(options)
    # Workers side by side cannot share an accelerator, and models this small are as fast without.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    for name, value in ALLOCATOR.items():
        os.environ.setdefault(name, value)
    from qwen3.run import use_compile_cache
    from qwen3.recipe.run_recipe import recipe
    from qwen3.recipe.workers import Failed
    from qwen3.train.preemption import STOPPED, Stopped

    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    use_compile_cache()
    try:
        recipe(
            budget,
            options.workdir,
            options.seeds,
            workers=options.workers,
            exam=options.exam,
            own=own,
            command=command_line(options, own),
        )
    except Stopped:
        print("stopped and saved; the same command goes on", file=sys.stderr)
        return STOPPED
    except Failed as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    return 0


def own_files(options: argparse.Namespace) -> dict[str, Any]:
    """The flags of the user's own input that were given. Raises ValueError for a missing file."""
    files = {}
    for name in OWN_INPUT:
        value = getattr(options, name)
        for path in [value] if isinstance(value, str) else value:
            if path and not Path(path).exists():
                raise ValueError(f"--{name.replace('_', '-')} {path}: there is no such file")
        if value:
            files[name] = value
    return files


def command_line(options: argparse.Namespace, own: dict[str, Any]) -> str:
    """The command that gives these results, for the report; also where a notebook called it."""
    words = ["qwen3", "recipe", "--workdir", str(options.workdir)]
    words += ["--budget", f"{options.budget:g}", "--seeds", str(options.seeds)]
    if options.exam != "final":
        words += ["--exam", options.exam]
    for name, value in own.items():
        words += [f"--{name.replace('_', '-')}", *([value] if isinstance(value, str) else value)]
    return shlex.join(words)
