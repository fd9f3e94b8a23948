"""Two evaluations of the same items, compared in pairs with a bootstrap over items.

Means and differences weigh the items as the suite does (Arena-Hard: a clear win counts as three
games); the share of items that the second wins counts each of them once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.table import Table

from qwen3.eval import intervals
from qwen3.eval.intervals import Estimate
from qwen3.eval.item_scores import item_scores, item_weights
from qwen3.eval.suite_records import stored


class Difference(NamedTuple):
    """Second minus first, over the items that both have a verdict on."""

    suite: str  # with its arm: "gsm8k.think"
    first: float
    second: float
    difference: Estimate
    wins: Estimate  # share of the items on which the second scores higher, ties counting half


def compare(first: Path, second: Path) -> list[Difference]:
    """The suites and arms that both folders hold. Raises ValueError where there are none."""
    a, b = _samples(first), _samples(second)
    common = [name for name in a if name in b and a[name].scores.keys() & b[name].scores.keys()]
    if not common:
        raise ValueError(
            f"{first} and {second} share no suite with the same items: {', '.join(a) or 'none'} "
            f"against {', '.join(b) or 'none'}"
        )
    return [_difference(name, a[name], b[name]) for name in common]


class Scored(NamedTuple):
    """The items of one suite and arm that have a verdict."""

    scores: Mapping[str, float]  # mean over samples
    weights: Mapping[str, float]  # what an item counts in the suite's mean


def _difference(name: str, first: Scored, second: Scored) -> Difference:
    items = sorted(first.scores.keys() & second.scores.keys())
    ones, others = ([scored.scores[item] for item in items] for scored in (first, second))
    counts = tuple([scored.weights[item] for item in items] for scored in (first, second))
    is_even = set(counts[0]) | set(counts[1]) == {1.0}
    paired = intervals.paired(ones, others, None if is_even else (counts[0], counts[1]))
    means = float(np.average(ones, weights=counts[0])), float(np.average(others, weights=counts[1]))
    wins = intervals.mean(np.heaviside(np.subtract(others, ones), 0.5))
    return Difference(name, *means, paired, wins)


def _samples(folder: Path) -> Mapping[str, Scored]:
    """{suite and arm: its items} of a folder of results."""
    files = sorted((folder / "samples").glob("*.jsonl"))
    if not files:
        raise ValueError(f"{folder} holds no results of qwen3 eval")
    scored = {}
    for file in files:
        records = list(stored(file).values())
        name = file.name.removesuffix(".jsonl")
        scored[name] = Scored(item_scores(records), item_weights(records))
    return scored


def terminal_table(differences: list[Difference]) -> Table:
    """The comparison for a terminal; a star where the interval leaves out 0."""
    table = Table(
        "suite", "first", "second", "difference", "95% interval", "second wins", "items", ""
    )
    for suite, first, second, d, wins in differences:
        star = "*" if d.low > 0 or d.high < 0 else ""
        table.add_row(
            suite,
            f"{first:.1%}",
            f"{second:.1%}",
            f"{100 * d.value:+.1f}",
            f"{100 * d.low:+.1f} to {100 * d.high:+.1f}",
            f"{wins.value:.1%} ({wins.low:.1%} to {wins.high:.1%})",
            str(d.n),
            star,
        )
    return table
