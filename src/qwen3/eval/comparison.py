"""Two evaluations of the same items, compared in pairs with a bootstrap over items."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.table import Table

from qwen3.eval import intervals
from qwen3.eval.intervals import Estimate
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
    a, b = _scores(first), _scores(second)
    common = [name for name in a if name in b and set(a[name]) & set(b[name])]
    if not common:
        raise ValueError(
            f"{first} and {second} share no suite with the same items: {', '.join(a) or 'none'} "
            f"against {', '.join(b) or 'none'}"
        )
    differences = []
    for name in common:
        items = sorted(set(a[name]) & set(b[name]))
        ones, others = ([scores[name][item] for item in items] for scores in (a, b))
        paired = intervals.paired(ones, others)
        wins = intervals.mean(np.heaviside(np.subtract(others, ones), 0.5))
        means = float(np.mean(ones)), float(np.mean(others))
        differences.append(Difference(name, *means, paired, wins))
    return differences


def _scores(folder: Path) -> Mapping[str, dict[str, float]]:
    """{suite and arm: {item: mean score}} of a folder of results."""
    files = sorted((folder / "samples").glob("*.jsonl"))
    if not files:
        raise ValueError(f"{folder} holds no results of qwen3 eval")
    scores = {}
    for file in files:
        by_item: dict[str, list[float]] = defaultdict(list)
        for (item, _), record in stored(file).items():
            if record["score"] is not None:
                by_item[item].append(record["score"])
        scores[file.name.removesuffix(".jsonl")] = {
            item: float(np.mean(values)) for item, values in by_item.items()
        }
    return scores


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
