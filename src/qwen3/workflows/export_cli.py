"""`qwen3 export RUN FOLDER`: a run's newest checkpoint, or its best, in the Hugging Face layout."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Registers `export`."""
    parser = subparsers.add_parser("export", help="a run as a Hugging Face folder")
    parser.add_argument("model", help="a run's workdir, a checkpoint, a folder with an adapter")
    parser.add_argument("folder", type=Path, help="written whole, or not at all")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="default: as it is stored"
    )
    parser.add_argument(
        "--best", action="store_true", help="of a run: the best on held-out problems, not the last"
    )
    parser.set_defaults(run=run)
    return parser


def run(options: argparse.Namespace) -> int:
    """Load, merge adapters, write."""
    from qwen3.infer import language_model
    from qwen3.workflows.training_run import TrainingRun

    model = TrainingRun(Path(options.model)).best if options.best else options.model
    language_model.load(model).save(options.folder, dtype=options.dtype)
    print(f"{options.folder}: written; `qwen3 chat {options.folder}` talks to it")
    return 0
