"""Accuracy of scored answers, with its 95% interval over problems."""

from __future__ import annotations

from collections.abc import Sequence

from qwen3.eval import intervals
from qwen3.rewards.answers import ScoredAnswer


def accuracy(answers: Sequence[Sequence[ScoredAnswer]]) -> intervals.Estimate:
    """Mean score: per problem over its samples, then over problems.

    Answers without a verdict do not count. Raises ValueError where none has one.
    """
    means = []
    for group in answers:
        scores = [answer.score for answer in group if answer.score is not None]
        if scores:
            means.append(sum(scores) / len(scores))
    if means and all(value in (0.0, 1.0) for value in means):
        return intervals.share(int(sum(means)), len(means))
    return intervals.mean(means)
