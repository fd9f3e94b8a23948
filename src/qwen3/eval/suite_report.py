"""What a run of suites came to: rows with intervals, as a table, a page and JSON."""

from __future__ import annotations

import json
import tomllib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from rich.table import Table

from qwen3.data.atomic import write_atomically
from qwen3.eval import intervals
from qwen3.eval.intervals import Estimate
from qwen3.eval.pass_at_k import pass_at_k
from qwen3.eval.suite_records import Record, SuiteRun
from qwen3.rewards import Problem
from qwen3.rewards.pairs import pairs_by_family


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
    pass_at: float | None  # pass@samples, where there are several
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


def item_scores(run: SuiteRun) -> dict[str, float]:
    """{item: mean score of its samples}; items without a verdict are left out."""
    judged = _judged(run)
    return {
        item: float(np.average([r["score"] for r in of_item], weights=list(map(_weight, of_item))))
        for item, of_item in judged.items()
    }


def item_weights(run: SuiteRun) -> dict[str, float]:
    """{item: what it counts in the suite's mean}, in the order of `item_scores`."""
    return {item: float(np.mean([*map(_weight, of)])) for item, of in _judged(run).items()}


def _judged(run: SuiteRun) -> dict[str, list[Record]]:
    """The records with a verdict of each item, in the order of the items."""
    by_item: dict[str, list[Record]] = defaultdict(list)
    for (item, _), record in run.records.items():
        if record["score"] is not None:
            by_item[item].append(record)
    order = {item.id: number for number, item in enumerate(run.items)}
    named = sorted(by_item, key=lambda item: order.get(item, len(order)))
    return {item: by_item[item] for item in named}


def _weight(record: Record) -> float:
    return record.get("weight", 1.0)


def estimate(
    scores: Mapping[str, float], weights: Mapping[str, float] | None = None
) -> Estimate | None:
    """Mean over items with its 95% interval: Wilson's where all scores are 0 or 1.

    weights: what each item counts; None: all the same.
    """
    values = list(scores.values())
    if not values:
        return None
    if weights and set(weights.values()) != {1.0}:
        return intervals.mean(values, list(weights.values()))
    if set(values) <= {0.0, 1.0}:
        return intervals.share(int(sum(values)), len(values))
    return intervals.mean(values)


def _row(run: SuiteRun, size: str) -> SuiteScore:
    asked = {item.id for item in run.items}
    records = [record for (item, _), record in run.records.items() if item in asked]
    count = max(len(records), 1)

    def share(is_one: Any) -> float:
        return sum(map(is_one, records)) / count

    samples = max((record["sample"] for record in records), default=0) + 1
    return SuiteScore(
        run.suite.name,
        run.suite.title,
        run.suite.group,
        run.arm.name,
        estimate(item_scores(run), item_weights(run)),
        len(run.items),
        run.suite.total,
        samples,
        _pass_at(records, samples) if samples > 1 else None,
        share(lambda record: record.get("finish") == "length"),
        share(lambda record: record["score"] is not None and record["extracted"] is None),
        share(lambda record: record["score"] is None),
        float(np.mean([record.get("tokens", 0) for record in records] or [0])),
        published_score(run, size),
        run.suite.departs,
        pair_scores(run, records),
    )


def pair_scores(run: SuiteRun, records: Sequence[Record]) -> dict[str, float]:
    """Family -> share of its pairs with both twins right, of families that come in pairs."""
    problems = {item.id: item.fields.get("problem") for item in run.items}
    scored = ((problems[record["item"]], record["score"]) for record in records)
    return pairs_by_family((p, score) for p, score in scored if isinstance(p, Problem))


def _pass_at(records: Sequence[Mapping[str, Any]], samples: int) -> float:
    right: dict[str, list[bool]] = defaultdict(list)
    for record in records:
        right[record["item"]].append(record["score"] == 1.0)
    return float(np.mean([pass_at_k(sum(r), len(r), min(samples, len(r))) for r in right.values()]))


def published_score(run: SuiteRun, size: str) -> float | None:
    """The report's score of a suite for a size in this mode, in percent, where it gives one."""
    text = (files(__package__) / "published.toml").read_text(encoding="utf-8")
    table = tomllib.loads(text)[run.arm.mode or "base"]
    scores = table.get(run.suite.published)
    if scores is None or size not in table["sizes"] or run.arm.budget is not None:
        return None
    return float(scores[table["sizes"].index(size)])


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
    score = row.score
    of_total = f"{row.items} of {row.total}" if row.total else str(row.items)
    many = f" x {row.samples}" if row.samples > 1 else ""
    return (
        row.title,
        row.arm,
        f"{score.value:.1%}" if score else "-",
        f"{max(score.low, 0.0):.1%} to {score.high:.1%}" if score else "-",
        f"{np.mean([*row.pairs.values()]):.1%}" if row.pairs else "-",
        of_total + many,
        f"{row.cut:.0%}",
        f"{row.unparsed:.0%}",
        f"{row.no_verdict:.0%}",
        f"{row.tokens:,.0f}",
        "-" if row.published is None else f"{row.published:.1f}",
    )


def terminal_table(table_rows: Sequence[SuiteScore]) -> Table:
    """The table for a terminal."""
    table = Table(*COLUMNS)
    for row in table_rows:
        table.add_row(*cells(row))
    return table


def write(folder: Path, model: str, table_rows: Sequence[SuiteScore]) -> Path:
    """results.json, report.md and report.html in `folder`; returns the page."""
    plain = [
        {**vars(row), "score": None if row.score is None else row.score._asdict()}
        for row in table_rows
    ]
    write_atomically(folder / "results.json", json.dumps({"model": model, "rows": plain}, indent=1))
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in table_rows]
    write_atomically(folder / "report.md", f"# {model}\n\n" + "\n".join(lines) + "\n")
    template = (files(__package__) / "suite_page.html").read_text(encoding="utf-8")
    page = jinja2.Environment(autoescape=True).from_string(template)
    html = page.render(
        model=model,
        columns=COLUMNS,
        rows=[(row, cells(row)) for row in table_rows],
        curves=budget_curves(table_rows),
    )
    write_atomically(folder / "report.html", html)
    return folder / "report.html"


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
