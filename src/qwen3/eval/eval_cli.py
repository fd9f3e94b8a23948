"""`qwen3 eval MODEL`: public suites by the report's protocol; `qwen3 eval compare A B`."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from qwen3.infer.thinking_head import parse as parse_budget

MODES = {"think": ("think",), "no_think": ("no_think",), "both": ("think", "no_think")}


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "eval",
        help="measure a model on public suites",
        description="qwen3 eval MODEL asks suites of a model; qwen3 eval compare A B compares two "
        "folders of results item by item. A run that was cut off goes on where it stopped.",
    )
    parser.add_argument("what", nargs="*", help="a Hub name, folder or run; or: compare A B")
    parser.add_argument("--list", action="store_true", help="show all suites and end")
    parser.add_argument(
        "--suites", default="in-house", help="names or groups, by comma: base, post, ... or all"
    )
    parser.add_argument("--lm-eval", help="tasks of lm-eval, by comma, instead of suites")
    parser.add_argument("--data", type=Path, help="folder of the suites' files")
    parser.add_argument("--out", type=Path, help="folder of results; default: runs/eval/MODEL")
    parser.add_argument("--mode", choices=MODES, default="both", help="of chat suites")
    parser.add_argument("--budget", default="", help="thinking tokens, auto or auto:Q, by comma")
    parser.add_argument("--limit", type=int, help="first items of each suite; default: all")
    parser.add_argument("--samples", type=int, help="answers of an item; default: the suite's")
    parser.add_argument("--max-tokens", type=int, help="longest answer; default: the suite's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--slots", type=int, default=16, help="answers decoded together")
    parser.add_argument("--judge", default="", help="model that judges: a folder or run, or")
    parser.add_argument("--judge-url", default="", help="its server, .../v1; --judge is its name")
    parser.add_argument("--skip-missing", action="store_true", help="leave out suites without data")
    parser.set_defaults(run=main)


def main(options: argparse.Namespace) -> int:
    console = Console()
    if options.list:
        console.print(_list())
        return 0
    if options.what[:1] == ["compare"]:
        from qwen3.eval import comparison

        if len(options.what) != 3:
            raise ValueError("compare takes two folders of results: qwen3 eval compare A B")
        first, second = map(Path, options.what[1:])
        console.print(comparison.terminal_table(comparison.compare(first, second)))
        return 0
    if len(options.what) != 1:
        raise ValueError("which model? qwen3 eval MODEL; qwen3 eval --list shows the suites")
    return _harness(options) if options.lm_eval else _evaluate(options, console)


def _list() -> Table:
    from qwen3.eval.suite import summary
    from qwen3.eval.suites import SUITES

    rows = [summary(suite) for suite in SUITES.values()]
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*map(str, row.values()))
    return table


def _evaluate(options: argparse.Namespace, console: Console) -> int:
    from qwen3.eval import judged, suite_report, suites
    from qwen3.eval.composites import composites
    from qwen3.eval.suite_records import EvalSettings
    from qwen3.eval.suite_run import run
    from qwen3.infer.language_model import load
    from qwen3.rewards.judge_backends import JudgeSettings

    [name] = options.what
    judge = JudgeSettings(options.judge_url, options.judge)
    settings = EvalSettings(
        model=name,
        modes=MODES[options.mode],
        budgets=_budgets(options.budget),
        limit=options.limit,
        samples=options.samples,
        max_tokens=options.max_tokens,
        seed=options.seed,
        judge=f"{judge.url} {judge.model}".strip(),
    )
    chosen = suites.chosen([part.strip() for part in options.suites.split(",")])
    if options.skip_missing:
        chosen, missing = suites.present(chosen, options.data)
        for line in missing:
            console.print(f"left out: {line}", highlight=False)
    folder = options.out or Path("runs/eval") / Path(name).name
    judged.use(None if judge.off else judged.opened(judge, folder))
    model = load(name)
    runs = run(model, chosen, settings, folder, data=options.data, slots=options.slots)
    rows = suite_report.rows(runs, model.config.name)
    rows += composites(rows, model.config.name)
    page = suite_report.write(folder, name, rows)
    console.print(*suite_report.terminal_tables(rows), sep="\n")
    console.print(f"The page: {page}\nEvery answer: {folder / 'samples'}", highlight=False)
    return 0


def _harness(options: argparse.Namespace) -> int:
    """Tasks of lm-eval: its own table, and results.json in the folder of results."""
    from etils import epath

    from qwen3.eval import harness
    from qwen3.infer.language_model import load
    from qwen3.train.writing import explained, write_atomically

    for name in ("data", "samples", "max_tokens", "judge", "judge_url", "skip_missing"):
        if getattr(options, name):
            raise ValueError(f"--{name.replace('_', '-')} is of suites; lm-eval's tasks say it")
    [name], budgets = options.what, _budgets(options.budget)
    if len(budgets) > 1:
        raise ValueError(f"--budget {options.budget}: lm-eval's tasks run with one at a time")
    [budget] = budgets
    thinking = {"think": True, "no_think": False, "both": None}[options.mode]
    lm = harness.EngineLM(
        load(name), thinking=thinking, budget=budget, slots=options.slots, seed=options.seed
    )
    is_chat = thinking is not None
    results = harness.evaluate(
        lm,
        [task.strip() for task in options.lm_eval.split(",")],
        limit=options.limit,
        apply_chat_template=is_chat,
    )
    print(importlib.import_module("lm_eval.utils").make_table(results))
    folder = options.out or Path("runs/eval") / Path(name).name
    with explained(epath.Path(folder)):
        folder.mkdir(parents=True, exist_ok=True)
    scores = json.dumps(results["results"], indent=1, default=str)
    write_atomically(epath.Path(folder / "lm_eval.json"), scores)
    return 0


def _budgets(text: str) -> tuple[int | str | None, ...]:
    if not text:
        return (None,)
    try:
        return tuple(parse_budget(part.strip()) for part in text.split(","))
    except ValueError:
        wanted = "whole numbers, auto or auto:Q (Q from 0 to 1), by comma"
        raise ValueError(f"--budget {text!r}: wanted are {wanted}") from None
