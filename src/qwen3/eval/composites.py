"""Scores that the report gives as a plain mean of several suites (section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from qwen3.eval.intervals import Estimate
from qwen3.eval.suite_records import Arm
from qwen3.eval.suite_report import SuiteScore, published_score
from qwen3.eval.suites_base import EVALPLUS
from qwen3.eval.suites_further import MULTIPL_E

# Title of the report -> the suites that it is the mean of. MultiPL-E's Python is HumanEval.
COMPOSITES: Mapping[str, Sequence[str]] = {
    "EvalPlus": [suite.name for suite in EVALPLUS],
    "MultiPL-E": ["humaneval_base", *(suite.name for suite in MULTIPL_E)],
}


def composites(table_rows: Sequence[SuiteScore], size: str) -> list[SuiteScore]:
    """A row of each composite whose parts all have a score. size: as of `suite_report.rows`."""
    by_name = {row.suite: row for row in table_rows}
    scores = []
    for title, names in COMPOSITES.items():
        parts = [by_name[name] for name in names if name in by_name and by_name[name].score]
        if len(parts) == len(names):
            scores.append(_mean(title, parts, size))
    return scores


def _mean(title: str, parts: Sequence[SuiteScore], size: str) -> SuiteScore:
    """The mean of rows. Its interval is the mean of theirs, which is not too narrow where parts
    share their problems."""

    def mean(name: str) -> float:
        return float(np.mean([getattr(part, name) for part in parts]))

    estimates = [part.score for part in parts if part.score]
    low, high, value = (
        float(np.mean([getattr(estimate, name) for estimate in estimates]))
        for name in ("low", "high", "value")
    )
    return replace(
        parts[0],
        suite=title,
        title=f"{title}, mean of {len(parts)}",
        score=Estimate(value, low, high, sum(estimate.n for estimate in estimates)),
        items=sum(part.items for part in parts),
        total=sum(part.total for part in parts),
        cut=mean("cut"),
        unparsed=mean("unparsed"),
        no_verdict=mean("no_verdict"),
        tokens=mean("tokens"),
        published=published_score(title, Arm(parts[0].arm), size),
        departs="",
        pairs={},
    )
