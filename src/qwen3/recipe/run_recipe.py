"""The whole recipe: all stages of all seeds, side by side in workers, then the report."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import itertools
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath
from rich.console import Console

from qwen3.hosts import local_folder
from qwen3.recipe import board, seed_run, workers
from qwen3.recipe.budgets import Budget
from qwen3.recipe.report import claims, page
from qwen3.recipe.seed_run import SeedRun
from qwen3.recipe.stage_table import ROWS, STAGES, RecipeStage
from qwen3.recipe.world import exams
from qwen3.train import workdir_lock
from qwen3.train.writing import WorkdirError, explained


def recipe(
    budget: Budget,
    workdir: str | Path,
    seeds: int = 1,
    *,
    workers: int = 1,
    exam: str = "final",
    own: Mapping[str, Any] | None = None,
    command: str = "",
) -> dict[str, str]:
    """Run all stages of all seeds that are not done yet, then write the report.

    workers: stages side by side. own: the user's own input by flag name, see `SeedRun.own`.
    command: for the report. Returns {claim: verdict}. Raises ValueError, OSError or WorkdirError
    for a workdir that cannot be used, `workers.Failed` where a stage fails, Stopped after a stop
    signal.
    """
    console, own = Console(stderr=True), dict(own or {})
    workdir = local_folder(workdir).resolve()  # stages write their inputs' paths down
    runs = [SeedRun(workdir / f"seed{n}", budget, n, exam, own) for n in range(seeds)]
    settings = {"budget": dataclasses.asdict(budget), "exam": exam, "own": own}
    lock = seed_run.open_workdir(workdir, settings, sum(run.needed for run in runs))
    try:
        clock = seed_run.Clock()
        try:
            run_stages(runs, workers, console)
        except BaseException:
            # An interrupted start counts too; a full disk does not hide what went wrong.
            with contextlib.suppress(WorkdirError):
                seed_run.add_time(workdir / "elapsed.json", clock.seconds)
            raise
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
        return report(workdir, [results_of(run) for run in runs], facts, console)
    finally:
        workdir_lock.unlock(lock)


def report(
    workdir: Path, results: list[dict[str, Any]], facts: Mapping[str, Any], console: Console
) -> dict[str, str]:
    """Write the report and results.json, and print the verdicts; returns them."""
    with explained(epath.Path(workdir) / "report.html"):
        states = page.write(workdir, results, facts)
    seed_run.write(workdir / "results.json", {"facts": facts, "states": states, "seeds": results})
    for name, state in states.items():
        title = claims.texts()[name]["title"]
        console.print(f"{name} {title}: [bold]{state}[/bold]", soft_wrap=True, highlight=False)
    say_what_next(console, workdir, results[0])
    return states


def say_what_next(console: Console, workdir: Path, result: Mapping[str, Any]) -> None:
    """Print where the page is, how to talk to the model, and a question that it was taught."""
    lines = [f"\nThe report: {_readable(workdir / 'report.html')}"]
    if folder := result.get("export", {}).get("folder"):
        question = exams.locks(1, "final")[0].messages[-1]["content"]
        chat = [_program(), "chat", str(_readable(workdir / "seed0" / folder))]
        lines += [
            f"Chat with the model: {shlex.join(chat)}",
            f"A question worth asking: {question}",
        ]
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _readable(path: Path) -> Path:
    """A path relative to the working directory, where it lies below it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _program() -> str:
    """How this user starts the `qwen3` command: by name, or by path from a virtual environment."""
    script = Path(sys.executable).with_name("qwen3")
    on_path = shutil.which("qwen3")
    if not script.exists() or (on_path and Path(on_path).samefile(script)):
        return "qwen3"
    return str(_readable(script))


def run_stages(runs: Sequence[SeedRun], count: int, console: Console) -> None:
    """Run the stages that are not done, `count` at once, those with the most work behind first."""
    jobs, shares, done = {}, {}, []
    order = sorted(
        itertools.product(stages_of(runs[0]), runs), key=lambda pair: -work_from(pair[0])
    )
    for stage, run in order:
        name = label(run, stage.name)
        shares[name] = stage.share
        if run.result(stage.name) is not None:
            done.append(name)
            continue
        after = tuple(label(run, needed) for needed in stage.after)
        log = run.path / "logs" / f"{stage.name}.txt"
        jobs[name] = workers.Job((run, stage.name), after, log)
    minutes = len(runs) * runs[0].budget.minutes
    with board.Board(console, shares, minutes, done) as shown:
        workers.run(jobs, perform, count, shown, fresh=runs[0].large)


def work_from(stage: RecipeStage) -> float:
    """The longest chain of work from a stage to the end."""
    followers = (work_from(other) for other in STAGES if stage.name in other.after)
    return stage.share + max(followers, default=0)


def label(run: SeedRun, name: str) -> str:
    return f"seed {run.seed} {name} ({ROWS[name].text})"


def stages_of(run: SeedRun) -> list[RecipeStage]:
    """The stages that the budget has."""
    return [stage for stage in STAGES if stage.when(run.budget)]


_RUNS: dict[Path, SeedRun] = {}  # runs of this worker by folder, with tokenizers and engines


def perform(run: SeedRun, name: str) -> None:
    """Run one stage, in this process; its result is written last."""
    run, clock = _RUNS.setdefault(run.path, run), seed_run.Clock()
    result = ROWS[name].run(run)
    run.finish(name, {"wall": clock.seconds, "result": result})


def results_of(run: SeedRun) -> dict[str, Any]:
    """{stage: result, ..., "wall": {stage: seconds}} of a finished run.

    What the stage `exam` measured of a stage's model joins the result of that stage.
    """
    stored = {stage.name: run.result(stage.name) or {} for stage in stages_of(run)}
    results = {name: entry["result"] for name, entry in stored.items()}
    for name, measures in results.pop("exam").items():
        results[name] |= measures
    return {**results, "wall": {name: entry["wall"] for name, entry in stored.items()}}
