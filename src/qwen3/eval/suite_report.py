"""What a run of suites came to: rows with intervals, as a table, a page and JSON."""

from __future__ import annotations

import json
import math
import tomllib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from etils import epath
from rich.table import Table

from qwen3.eval.intervals import Estimate
from qwen3.eval.item_scores import AtK, by_samples, estimate, item_scores, item_weights
from qwen3.eval.suite_records import Arm, Record, SuiteRun
from qwen3.rewards import Problem
from qwen3.rewards.pairs import pairs_by_family
from qwen3.train.writing import write_atomically


@dataclass(frozen=True)
class SuiteScore:
    """One suite in one arm."""

    suite: str
    title: str
    group: str
    arm: str
    score: Estimate | None  # mean over samples, then over items; None where nothing has a verdict
    items: int  # asked, of `total`
    total: int
    samples: int  # of an item
    by_samples: Sequence[AtK]  # mean@k and pass@k, where there are several samples
    cut: float  # share of answers that ended at the token limit
    unparsed: float  # share in which no answer was found
    no_verdict: float  # share that the grader could not judge
    tokens: float  # of an answer, on average
    published: float | None  # the report's score for this size, in percent
    departs: str  # from the report's protocol
    pairs: Mapping[str, float]  # family -> share of its pairs of twins with both right


def rows(runs: Sequence[SuiteRun], size: str) -> list[SuiteScore]:
    """A row of each run. size: name of the model's size, for the report's scores."""
    return [_row(run, size) for run in runs]


def _row(run: SuiteRun, size: str) -> SuiteScore:
    records = _records(run)
    count = max(len(records), 1)

    def share(is_one: Any) -> float:
        return sum(map(is_one, records)) / count

    samples = max((record["sample"] for record in records), default=0) + 1
    return SuiteScore(
        run.suite.name,
        run.suite.title,
        run.suite.group,
        run.arm.name,
        estimate(item_scores(records), item_weights(records)),
        len(run.items),
        run.suite.total,
        samples,
        by_samples(records) if samples > 1 else [],
        share(lambda record: record.get("finish") == "length"),
        share(lambda record: record["score"] is not None and record["extracted"] is None),
        share(lambda record: record["score"] is None),
        float(np.mean([record.get("tokens", 0) for record in records] or [0])),
        published_score(run.suite.published, run.arm, size),
        run.suite.departs,
        pair_scores(run, records),
    )


def _records(run: SuiteRun) -> list[Record]:
    """The records of the items that are asked, by item and sample."""
    number = {item.id: i for i, item in enumerate(run.items)}
    keys = sorted(
        (key for key in run.records if key[0] in number), key=lambda key: (number[key[0]], key[1])
    )
    return [run.records[key] for key in keys]


def pair_scores(run: SuiteRun, records: Sequence[Record]) -> dict[str, float]:
    """Family -> share of its pairs with both twins right, of families that come in pairs."""
    problems = {item.id: item.fields.get("problem") for item in run.items}
    scored = ((problems[record["item"]], record["score"]) for record in records)
    return pairs_by_family((p, score) for p, score in scored if isinstance(p, Problem))


def published_score(title: str, arm: Arm, size: str) -> float | None:
    """The report's score of a suite for a size in this mode, in percent, where it gives one.

    title: the suite's name there.
    """
    text = (files(__package__) / "published.toml").read_text(encoding="utf-8")
    table = tomllib.loads(text)[arm.mode or "base"]
    scores = table.get(title)
    if scores is None or size not in table["sizes"] or arm.budget is not None:
        return None
    score = float(scores[table["sizes"].index(size)])
    return None if math.isnan(score) else score


COLUMNS = (
    "suite",
    "mode",
    "score",
    "95% interval",
    "pairs",
    "items",
    "cut",
    "unparsed",
    "no verdict",
    "tokens",
    "report",
)


def cells(row: SuiteScore) -> tuple[str, ...]:
    """A row as texts in COLUMNS' order, scores in percent."""
    of_total = f"{row.items} of {row.total}" if row.total else str(row.items)
    many = f" x {row.samples}" if row.samples > 1 else ""
    return (
        row.title,
        row.arm,
        *_interval_cells(row.score),
        f"{np.mean([*row.pairs.values()]):.1%}" if row.pairs else "-",
        of_total + many,
        f"{row.cut:.0%}",
        f"{row.unparsed:.0%}",
        f"{row.no_verdict:.0%}",
        f"{row.tokens:,.0f}",
        "-" if row.published is None else f"{row.published:.1f}",
    )


SAMPLE_COLUMNS = ("suite", "mode", "k", "mean@k", "95% interval", "pass@k", "95% interval")


def sample_cells(table_rows: Sequence[SuiteScore]) -> list[tuple[str, ...]]:
    """mean@k and pass@k of the suites with several samples, as texts in SAMPLE_COLUMNS' order."""
    return [
        (row.title, row.arm, str(at.k), *_interval_cells(at.mean_at), *_interval_cells(at.pass_at))
        for row in table_rows
        for at in row.by_samples
    ]


def _interval_cells(score: Estimate | None) -> tuple[str, str]:
    if score is None:
        return "-", "-"
    return f"{score.value:.1%}", f"{max(score.low, 0.0):.1%} to {score.high:.1%}"


def terminal_tables(table_rows: Sequence[SuiteScore]) -> list[Table]:
    """The tables for a terminal: the suites, and the scores by number of samples if there are."""
    lines = [cells(row) for row in table_rows]
    contents: list[tuple[Sequence[str], Sequence[Sequence[str]]]] = [(COLUMNS, lines)]
    if samples := sample_cells(table_rows):
        contents.append((SAMPLE_COLUMNS, samples))
    tables = []
    for columns, content in contents:
        table = Table(*columns)
        for line in content:
            table.add_row(*line)
        tables.append(table)
    return tables


def write(folder: Path, model: str, table_rows: Sequence[SuiteScore]) -> Path:
    """results.json, report.md and report.html in `folder`; returns the page."""
    place, plain = epath.Path(folder), [_plain(row) for row in table_rows]
    write_atomically(place / "results.json", json.dumps({"model": model, "rows": plain}, indent=1))
    text = f"# {model}\n\n" + _markdown(COLUMNS, [cells(row) for row in table_rows])
    samples = sample_cells(table_rows)
    if samples:
        text += "\n## By number of samples\n\n" + _markdown(SAMPLE_COLUMNS, samples)
    write_atomically(place / "report.md", text)
    template = (files(__package__) / "suite_page.html").read_text(encoding="utf-8")
    page = jinja2.Environment(autoescape=True).from_string(template)
    html = page.render(
        model=model,
        columns=COLUMNS,
        rows=[(row, cells(row)) for row in table_rows],
        sample_columns=SAMPLE_COLUMNS,
        samples=samples,
        curves=budget_curves(table_rows),
    )
    write_atomically(place / "report.html", html)
    return folder / "report.html"


def _plain(row: SuiteScore) -> dict[str, Any]:
    """A row for JSON, intervals as objects."""

    def fields(score: Estimate | None) -> dict[str, float] | None:
        return None if score is None else score._asdict()

    samples = [
        {"k": at.k, "mean_at": fields(at.mean_at), "pass_at": fields(at.pass_at)}
        for at in row.by_samples
    ]
    return {**vars(row), "score": fields(row.score), "by_samples": samples}


def _markdown(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    head = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    return "\n".join([*head, *("| " + " | ".join(line) + " |" for line in lines)]) + "\n"


def budget_curves(table_rows: Sequence[SuiteScore]) -> list[dict[str, Any]]:
    """Accuracy by thinking budget of each suite with several: points of a plot of 300 x 120."""
    by_suite: dict[str, list[tuple[int, Estimate]]] = defaultdict(list)
    for row in table_rows:
        _, _, budget = row.arm.partition("@")
        if budget.isdecimal() and row.score:  # not an automatic one, which has no place on the axis
            by_suite[row.title].append((int(budget), row.score))
    curves = []
    for title, points in by_suite.items():
        if len(points) < 2:
            continue
        points = sorted(points)
        largest = max(points[-1][0], 1)
        marks = [
            {
                "budget": budget,
                "x": round(20 + 260 * budget / largest, 1),
                "y": round(110 - 100 * score.value, 1),
                "low": round(110 - 100 * score.low, 1),
                "high": round(110 - 100 * score.high, 1),
                "label": f"{score.value:.1%}",
            }
            for budget, score in points
        ]
        curves.append({"title": title, "marks": marks})
    return curves
