"""What a run left in its workdir: scores, metrics, samples, figures, and the model itself."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from rich.table import Table

from qwen3.data.jsonl import read_rows
from qwen3.infer import language_model
from qwen3.infer.language_model import LanguageModel
from qwen3.stages.problem_evaluation import SCORE, records
from qwen3.train.checkpoint_folder import steps_in
from qwen3.train.manifest import read_manifest
from qwen3.workflows import show
from qwen3.workflows.show import Plot

PLOTTED = ("loss", "score", "divergence", "answer_tokens")  # those of a run's metrics, at most
SAMPLE = ("prompt", "answer", "score", "reference")


@dataclass(frozen=True)
class TrainingRun:
    """A run by its workdir, while it trains or afterwards: `TrainingRun(Path("runs/rl"))`."""

    workdir: Path

    @property
    def scores(self) -> list[dict[str, Any]]:
        """Measurements on the held-out problems: step, score with its 95% interval, problems."""
        return records(self.workdir)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The records of metrics.jsonl, in order of their steps; a torn last line is left out."""
        path = self.workdir / "metrics.jsonl"
        return [row for _, row in read_rows(path, skipped=[])] if path.is_file() else []

    def samples(self, step: int | None = None, *, training: bool = False) -> list[dict[str, Any]]:
        """Answers with prompt and score: to the held-out problems, or to those trained on.

        step: whose model answered; None for the last. Raises ValueError naming the steps there are.
        """
        prefix = "" if training else "evaluation_"
        numbers = {
            int(path.stem.removeprefix(prefix)): path
            for path in (self.workdir / "samples").glob(f"{prefix}[0-9]*.jsonl")
        }
        chosen = max(numbers, default=None) if step is None else step
        if chosen not in numbers:
            kind = "training" if training else "held-out"
            raise ValueError(
                f"{self.workdir} has no {kind} samples of step {step}, but of {sorted(numbers)}"
            )
        return [row for _, row in read_rows(numbers[chosen]) if "answer" in row]

    def table(self, count: int = 5, step: int | None = None, *, training: bool = False) -> Table:
        """The first `count` of `samples`, for a notebook or `rich.print`."""
        rows = self.samples(step, training=training)[:count]
        return show.table(rows, [name for name in SAMPLE if any(name in row for row in rows)])

    def plot(self, *names: str) -> Plot:
        """Metrics over the steps. Without names: the held-out score, with its 95% interval if
        there is one, and the usual ones that the run has."""
        rows, scores = self.metrics, self.scores
        usual = [name for name in PLOTTED if any(name in row for row in rows)]
        if names or not scores:
            return show.curves(rows, names or usual)
        bounds = {r["step"]: {"low": r["low"], "high": r["high"]} for r in scores}
        rows = [{**row, **bounds.get(row["step"], {})} for row in rows]
        return show.curves(rows, [SCORE, *usual], band=("low", "high"))

    @property
    def best(self) -> Path:
        """The checkpoint with the highest held-out score; of equal ones the earliest.

        Raises ValueError for a run without held-out problems, or without a checkpoint of a step
        that was measured.
        """
        folder = self.workdir / "checkpoints"
        scores = {
            step: read_manifest(folder / str(step))["metrics"].get(SCORE)
            for step in steps_in(folder)
        }
        measured = {
            step: value for step, value in scores.items() if value is not None and isfinite(value)
        }
        if not measured:
            raise ValueError(f"{self.workdir}: no checkpoint was measured on held-out problems")
        return folder / str(max(measured, key=lambda step: (measured[step], -step)))

    def load(self, *, best: bool = False) -> LanguageModel:
        """The trained model, adapters merged: of the last step, or of the checkpoint `best`."""
        return language_model.load(self.best if best else self.workdir)

    def export(self, folder: str | Path, *, best: bool = False) -> Path:
        """Write the trained model, as `load` gives it, in the Hugging Face layout."""
        self.load(best=best).save(folder)
        return Path(folder)
