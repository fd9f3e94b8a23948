"""Suites of `qwen3 eval` on the model of a stage while it trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from qwen3.data.tokenizer import Tokenizer
from qwen3.eval import suite_report, suites
from qwen3.eval.suite_answers import Subject, generated, likelihoods
from qwen3.eval.suite_records import EvalSettings, Record, SuiteRun, arms
from qwen3.infer.backend import RolloutBackend
from qwen3.infer.engine import Engine
from qwen3.infer.language_model import LanguageModel

ROWS = 16  # texts whose likelihood is taken together


@dataclass(frozen=True)
class SuiteScores:
    """What the suites came to."""

    rows: dict[str, dict[str, Any]]  # "SUITE.ARM" -> score with its interval, items, cut, ...
    records: list[Record]  # every answer

    @property
    def mean(self) -> float:
        """The mean score of all suites with a verdict; nan without any."""
        scores = [row["score"] for row in self.rows.values() if row["score"] is not None]
        return float(np.mean(scores)) if scores else float("nan")


class SuiteMeasure:
    """Asks suites, families and groups of them; their items are read when it is made.

    names: as of `qwen3 eval --suites`. limit: first items of each, 0 for all. max_length: tokens of
    prompt and answer together. Raises ValueError for a suite that does not exist or whose files are
    missing.
    """

    def __init__(
        self,
        names: Sequence[str],
        tokenizer: Tokenizer,
        *,
        data: str,
        modes: tuple[str, ...],
        limit: int,
        max_tokens: int,
        max_length: int,
        seed: int,
    ):
        self._tokenizer, self._max_length = tokenizer, max_length
        self._settings = EvalSettings(
            "training", modes, limit=limit or None, samples=1, max_tokens=max_tokens, seed=seed
        )
        folder = Path(data) if data else None
        self._runs = []
        for suite in suites.chosen(names):
            items = suite.items(folder, limit or None, tokenizer)
            shots = suite.shots_for(folder, items)
            for arm in arms(suite, self._settings):
                self._runs.append(SuiteRun(suite, arm, items, shots, Path()))

    def measure(self, backend: RolloutBackend) -> SuiteScores:
        """The scores of the model that `backend` generates with."""
        scores = SuiteScores({}, [])
        for run in self._runs:
            asked = replace(run, records={})
            for record in self._answers(backend, asked):
                asked.records[record["item"], record["sample"]] = record
            name = f"{run.suite.name}.{run.arm.name}"
            scores.rows[name] = _row(asked)
            records = sorted(asked.records.values(), key=lambda record: record["item"])
            scores.records.extend({"suite": name, **record} for record in records)
        return scores

    def _answers(self, backend: RolloutBackend, run: SuiteRun) -> Any:
        todo = run.missing(1)
        if run.suite.kind != "choice":
            subject = Subject(backend, self._tokenizer, self._max_length)
            return generated(subject, run, todo, self._settings)
        if not isinstance(backend, Engine):
            raise ValueError(f"{run.suite.name} needs likelihoods, which a server does not give")
        model = LanguageModel(
            backend.config, backend.params, mesh=backend.mesh, tokenizer=self._tokenizer
        )
        return likelihoods(model, run, todo, ROWS)


def _row(run: SuiteRun) -> dict[str, Any]:
    [row] = suite_report.rows([run], "")
    estimate = {} if row.score is None else row.score._asdict()
    return {
        "score": estimate.get("value"),
        "low": estimate.get("low"),
        "high": estimate.get("high"),
        "n": row.items,
        "no_verdict": row.no_verdict,
        "truncated": row.cut,
        "unparsed": row.unparsed,
    }
