"""`qwen3 budget MODEL ROLLOUTS`: train the head of the automatic thinking budget of a model."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Register the command `budget`."""
    from qwen3.stages.budget_head import BudgetHeadConfig

    parser = subparsers.add_parser(
        "budget",
        help="train the automatic thinking budget of a model, from its rollouts",
        description="Writes budget_head.npz beside the model, which chat, serve, eval and "
        'model.chat then read for thinking_budget="auto".',
    )
    parser.add_argument("model", type=Path, help="an exported folder")
    parser.add_argument(
        "rollouts",
        nargs="+",
        type=Path,
        help="files of prompt, answer and score, or folders of them, e.g. samples/ of RL",
    )
    for field in dataclasses.fields(BudgetHeadConfig):
        option = f"--{field.name.replace('_', '-')}"
        parser.add_argument(option, type=type(field.default), default=field.default)
    parser.set_defaults(run=run)
    return parser


def run(options: argparse.Namespace) -> int:
    """Run the command. ValueError for rollouts or a model that cannot be used."""
    from qwen3.infer.language_model import load
    from qwen3.stages.budget_head import BudgetHeadConfig, read_outcomes, train

    names = [field.name for field in dataclasses.fields(BudgetHeadConfig)]
    config = BudgetHeadConfig(**{name: getattr(options, name) for name in names})
    files = [
        file
        for path in options.rollouts
        for file in (sorted(path.glob("*.jsonl")) if path.is_dir() else [path])
    ]
    model = load(options.model)
    if model.folder is None or model.tokenizer is None:
        raise ValueError(f"{options.model} is no exported folder with a tokenizer")
    outcomes = read_outcomes(files, model.tokenizer, config.right)
    head, measures = train(model, outcomes, config)
    table = Table("quantile", "held-out right thoughts at or below it")
    for quantile, share in measures["cover"].items():
        table.add_row(f"{quantile:g}", f"{share:.3f}")
    console = Console()
    console.print(table)
    console.print(
        f"{measures['thoughts']} thoughts of {measures['prompts']} held-out prompts; pinball loss "
        f"{measures['loss']:.4f}, {measures['constant_loss']:.4f} with one budget for all",
        highlight=False,
    )
    print(head.save(model.folder))
    return 0
