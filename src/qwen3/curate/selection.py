"""Prompts for reasoning RL (report 4.2): unused before, learnable, as hard as possible, broad."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence

from qwen3.rewards import Problem
from qwen3.rewards.answers import ScoredAnswer


def key(problem: Problem) -> str:
    """A text that is the same for two problems exactly if they ask the same."""
    return json.dumps([problem.task, problem.messages], sort_keys=True, ensure_ascii=False)


def by_task(problem: Problem) -> str:
    return problem.task


def select(
    answers: Sequence[Sequence[ScoredAnswer]],
    count: int,
    *,
    used: Collection[str] = (),
    low: float = 0.0,
    high: float = 0.9,
    domain: Callable[[Problem], str] = by_task,
) -> list[Problem]:
    """At most `count` of the answered problems, by pass rate: the share of right answers.

    Unused: not among the `key`s in `used`. Learnable: the pass rate is above `low` and at most
    `high` (and below 1: a problem that is always solved teaches nothing). Hard: the smallest pass
    rate first. Broad: domains take turns. A problem that stands twice counts once; one without a
    verdict is left out. Raises ValueError for a range outside of 0..1.
    """
    if not 0 <= low < high <= 1:
        raise ValueError(f"pass rates from {low} to {high} are no range in 0..1")
    seen, queues = set(used), defaultdict(list)
    for order, group in enumerate(answers):
        scores = [answer.score for answer in group if answer.score is not None]
        if not scores or key(group[0].problem) in seen:
            continue
        problem = group[0].problem
        seen.add(key(problem))
        rate = sum(score == 1.0 for score in scores) / len(scores)
        if low < rate <= high and rate < 1:
            queues[domain(problem)].append((rate, order, problem))
    for queue in queues.values():
        queue.sort(key=lambda entry: entry[:2])
    chosen: list[Problem] = []
    turn = 0
    while len(chosen) < count and any(turn < len(queue) for queue in queues.values()):
        heads = [queue[turn] for _, queue in sorted(queues.items()) if turn < len(queue)]
        chosen += [problem for _, _, problem in sorted(heads, key=lambda entry: entry[:2])]
        turn += 1
    return chosen[:count]
