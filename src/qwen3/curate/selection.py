"""Prompts for reasoning RL (report 4.2): unused before, learnable, as hard as possible, broad."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence

from qwen3.rewards import Problem


def key(problem: Problem) -> str:
    """What two problems that ask the same share."""
    return json.dumps([problem.task, problem.messages], sort_keys=True, ensure_ascii=False)


def by_task(problem: Problem) -> str:
    return problem.task


def select(
    problems: Sequence[Problem],
    scores: Sequence[Sequence[float | None]],
    count: int,
    *,
    used: Collection[str] = (),
    low: float = 0.0,
    high: float = 0.9,
    domain: Callable[[Problem], str] = by_task,
) -> list[Problem]:
    """At most `count` problems, by the share of each one's scored answers that are fully right.

    used: `key`s of problems seen before. Learnable: the share is above `low` and at most `high`
    (and below 1: an answer that is always right teaches nothing). Hard: smallest share first.
    Broad: domains take turns. Twice the same problem counts once; one without a verdict is out.
    Raises ValueError when scores and problems differ in number, or for a range that is none.
    """
    if len(problems) != len(scores):
        raise ValueError(f"{len(problems)} problems and scores of {len(scores)}")
    if not 0 <= low < high <= 1:
        raise ValueError(f"pass rates from {low} to {high} are no range in 0..1")
    seen, queues = set(used), defaultdict(list)
    for order, (problem, given) in enumerate(zip(problems, scores, strict=True)):
        judged = [score for score in given if score is not None]
        if not judged or key(problem) in seen:
            continue
        seen.add(key(problem))
        rate = sum(score == 1.0 for score in judged) / len(judged)
        if low < rate <= high and rate < 1:
            queues[domain(problem)].append((rate, order, problem))
    for queue in queues.values():
        queue.sort(key=lambda entry: entry[:2])
    chosen: list[Problem] = []
    turn = 0
    while len(chosen) < count and any(turn < len(queue) for queue in queues.values()):
        fair = [queue[turn] for _, queue in sorted(queues.items()) if turn < len(queue)]
        chosen += [problem for _, _, problem in sorted(fair, key=lambda e: e[:2])]
        turn += 1
    return chosen[:count]
