"""The pair metric: of twins, one answer to both is never right, so only both together count."""

from collections import defaultdict
from collections.abc import Iterable

from qwen3.rewards.task import Problem


def pair_accuracy(scored: Iterable[tuple[Problem, float | None]]) -> float | None:
    """The share of pairs of which both problems are answered right (score 1).

    A policy that treats twins alike has half of the problems right and no pair. scored: problems
    with the score of an answer, in any order; of several answers to a problem, the chance counts
    that one to each twin is right. Answers without a verdict, problems that are no twins and those
    whose twin has no answer are left out; None where no pair is left.
    """
    by_twin: dict[str, dict[str, list[bool]]] = defaultdict(dict)
    for problem, score in scored:
        if problem.twin and score is not None:
            # Where the messages are the same, twins differ in the tools on offer.
            name = repr((problem.messages, problem.tools))
            by_twin[problem.twin].setdefault(name, []).append(score == 1.0)
    shares = [[sum(own) / len(own) for own in both.values()] for both in by_twin.values()]
    pairs = [share[0] * share[1] for share in shares if len(share) == 2]
    return sum(pairs) / len(pairs) if pairs else None


def pairs_by_family(scored: Iterable[tuple[Problem, float | None]]) -> dict[str, float]:
    """Family -> `pair_accuracy`, of those that have answers to both twins of a pair."""
    families: dict[str, list[tuple[Problem, float | None]]] = defaultdict(list)
    for problem, score in scored:
        families[problem.task].append((problem, score))
    shares = {name: pair_accuracy(part) for name, part in sorted(families.items())}
    return {name: share for name, share in shares.items() if share is not None}
