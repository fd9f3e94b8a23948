"""Running suites on a model: every answer is kept, and a run that was killed goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.progress import Progress

from qwen3.eval.suite import Suite
from qwen3.eval.suite_answers import generated, likelihoods, subject_of
from qwen3.eval.suite_records import EvalSettings, SuiteRun, open_folder, open_runs, samples
from qwen3.infer.language_model import LanguageModel


def run(
    model: LanguageModel,
    suites: Sequence[Suite],
    settings: EvalSettings,
    folder: Path,
    *,
    data: Path | None = None,
    slots: int = 16,
) -> list[SuiteRun]:
    """Ask what is not answered yet in `folder`; returns all runs with all their records.

    data: folder of the suites' files. Raises ValueError where files are missing (what to fetch and
    where to put it) or the folder is of other settings, before anything is asked.
    """
    open_folder(folder, settings)
    runs = [
        opened
        for suite in suites
        for opened in open_runs(suite, settings, folder, data=data, tokenizer=model.tokenizer)
    ]
    todo = [run.missing(samples(run.suite, settings)) for run in runs]
    with Progress() as progress:
        for run, missing in zip(runs, todo, strict=True):
            label = f"{run.suite.name} {run.arm.name}"
            task = progress.add_task(label, total=len(missing))
            if missing:
                if run.suite.kind == "choice":
                    answers = likelihoods(model, run, missing, rows=slots)
                else:
                    answers = generated(subject_of(model, slots), run, missing, settings)
                for _ in run.store(answers):
                    progress.advance(task)
                run.sort()
    return runs
