"""The pair metric: of twins, one answer to both is never right, so only both together count."""

from collections import defaultdict
from collections.abc import Iterable

from qwen3.rewards.task import Problem


def pair_accuracy(scored: Iterable[tuple[Problem, float | None]]) -> float | None:
    """The share of pairs of which every answer to both problems scored 1.

    A policy that treats twins alike has half of the problems right and no pair. scored: problems
    with the score of an answer, in any order. Answers without a verdict, problems that are no twins
    and those whose twin has no answer are left out; None where no pair is left.
    """
    by_twin: dict[str, dict[str, float]] = defaultdict(dict)
    for problem, score in scored:
        if problem.twin and score is not None:
            # Where the messages are the same, twins differ in the tools on offer.
            own, name = by_twin[problem.twin], repr((problem.messages, problem.tools))
            own[name] = min(score, own.get(name, 1.0))
    pairs = [list(own.values()) for own in by_twin.values() if len(own) == 2]
    return sum(min(pair) == 1.0 for pair in pairs) / len(pairs) if pairs else None
