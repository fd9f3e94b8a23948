"""Scores of items from the records of their samples, and what they come to over all items.

mean@k is the mean score of an item's first k samples. The random numbers of a sample depend on its
number alone, so it is what an evaluation with k samples gives. pass@k is the unbiased estimate from
all n >= k samples (`pass_at_k`). Records without a verdict count in neither.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from qwen3.eval import intervals
from qwen3.eval.intervals import Estimate
from qwen3.eval.pass_at_k import pass_at_k
from qwen3.eval.suite_records import Record


class AtK(NamedTuple):
    """A suite's score by the number of samples of an item."""

    k: int
    mean_at: Estimate | None  # None where no record has a verdict
    pass_at: Estimate | None  # None where no item has k verdicts


def with_verdict(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The records with a verdict of each item that has any, in the records' order."""
    by_item: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if record["score"] is not None:
            by_item[record["item"]].append(record)
    return dict(by_item)


def item_scores(records: Iterable[Record]) -> dict[str, float]:
    """{item: mean score of its samples}; items without a verdict are left out."""
    return {
        item: float(np.average([r["score"] for r in of_item], weights=[*map(_weight, of_item)]))
        for item, of_item in with_verdict(records).items()
    }


def item_weights(records: Iterable[Record]) -> dict[str, float]:
    """{item: what it counts in the suite's mean}, in the order of `item_scores`."""
    judged = with_verdict(records).items()
    return {item: float(np.mean([*map(_weight, of_item)])) for item, of_item in judged}


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


def mean_at(records: Sequence[Record], k: int) -> Estimate | None:
    """mean@k over items with its interval; None where no record has a verdict."""
    first = [record for record in records if record["sample"] < k]
    return estimate(item_scores(first), item_weights(first))


def pass_at(records: Sequence[Record], k: int) -> Estimate | None:
    """pass@k over the items with at least k verdicts; an answer is right at score 1."""
    return estimate(
        {
            item: pass_at_k(sum(r["score"] == 1.0 for r in of_item), len(of_item), k)
            for item, of_item in with_verdict(records).items()
            if len(of_item) >= k
        }
    )


def by_samples(records: Sequence[Record]) -> list[AtK]:
    """mean@k and pass@k for the powers of two below the number of samples, and for that number."""
    samples = max((record["sample"] for record in records), default=0) + 1
    counts = [2**power for power in range(samples.bit_length()) if 2**power < samples]
    return [AtK(k, mean_at(records, k), pass_at(records, k)) for k in (*counts, samples)]
