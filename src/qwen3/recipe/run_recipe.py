"""The whole recipe: all stages of all seeds, side by side in workers, then the report."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import os
import platform
from pathlib import Path

from rich.console import Console

from qwen3.recipe import board, seed_run, workers
from qwen3.recipe.report import page
from qwen3.recipe.stage_table import ROWS, STAGES
from qwen3.recipe.world import exams


def recipe(budget, workdir, seeds=1, *, workers=1, exam="final", real=None, command=""):
    """All stages of all seeds that are not done yet, then the report; {claim: state}."""
    real, console = real or {}, Console(stderr=True)
    workdir = Path(workdir).resolve()  # stages write their inputs' paths down
    runs = [seed_run.SeedRun(workdir / f"seed{n}", budget, n, exam, real) for n in range(seeds)]
    settings = {
        "budget": dataclasses.asdict(budget),
        "exam": exam,
        "own": real,
    }
    seed_run.open_workdir(workdir, settings, sum(run.needed for run in runs))
    clock = seed_run.Clock()
    try:
        make(runs, workers, console)
    finally:  # an interrupted start counts too
        elapsed = seed_run.add_time(workdir / "elapsed.json", clock.seconds)
    facts = {
        "command": command,
        "minutes": budget.minutes,
        "exam": exam,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "workers": workers,
        "date": datetime.date.today().isoformat(),
        "elapsed": elapsed,
    }
    results = [found(run) for run in runs]
    states = page.write(workdir, results, facts)
    seed_run.write(workdir / "results.json", {"facts": facts, "states": states, "seeds": results})
    for name, state in states.items():
        console.print(f"{name}: {state}")
    _say_what_next(console, workdir, results[0])
    return states


def _say_what_next(console, workdir, result):
    """Where the page is, how to talk to the model, and a question that it was taught to answer."""
    console.print(f"\nThe report: {workdir / 'report.html'}", soft_wrap=True)
    if folder := result.get("export", {}).get("folder"):
        question = exams.locks(1, "final")[0].messages[-1]["content"]
        console.print(f"Chat with it: qwen3 chat {workdir / 'seed0' / folder}", soft_wrap=True)
        console.print(f"A question worth asking: {question}", soft_wrap=True, highlight=False)


def make(runs, count, console):
    """What is not made yet, `count` stages at once; those with the most work behind them first."""
    jobs, shares, done = {}, {}, []
    order = sorted(itertools.product(rows_of(runs[0]), runs), key=lambda pair: -behind(pair[0]))
    for row, run in order:
        name = label(run, row.name)
        shares[name] = row.share
        if run.result(row.name) is not None:
            done.append(name)
            continue
        after = tuple(label(run, each) for each in row.after)
        jobs[name] = ((run, row.name), after, run.path / "logs" / f"{row.name}.txt")
    with board.Board(console, shares, len(runs) * runs[0].budget.minutes, done) as shown:
        workers.run(jobs, perform, count, shown, fresh=runs[0].large)


def behind(row):
    """The longest chain of work from this stage to the end."""
    return row.share + max((behind(each) for each in STAGES if row.name in each.after), default=0)


def label(run, name):
    return f"seed {run.seed} {name} ({ROWS[name].text})"


def rows_of(run):
    return [row for row in STAGES if row.when(run.budget)]


KEPT = {}  # runs of this process by folder, with their tokenizers and engines


def perform(run, name):
    """One stage, in this process; its result is written last."""
    run, clock = KEPT.setdefault(run.path, run), seed_run.Clock()
    result = ROWS[name].run(run)
    run.finish(name, {"wall": clock.seconds, "result": result})


def found(run):
    """{stage: result, ..., "wall": {stage: seconds}}, read back; each has its part of `exam`."""
    made = {row.name: run.result(row.name) for row in rows_of(run)}
    results = {name: each["result"] for name, each in made.items()}
    for name, measured in results.pop("exam").items():
        results[name] |= measured
    return {**results, "wall": {name: each["wall"] for name, each in made.items()}}
