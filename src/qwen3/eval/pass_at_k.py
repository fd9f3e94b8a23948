"""pass@k: the chance that one of k samples is right, unbiased from n >= k samples.

pass@k = 1 - C(n - c, k) / C(n, k), c right ones of n (Chen et al. 2021, arXiv 2107.03374)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from qwen3.eval import intervals
from qwen3.rewards.answers import ScoredAnswer


def pass_at_k(right: int, n: int, k: int) -> float:
    """pass@k of one problem. Raises ValueError unless right <= n and 1 <= k <= n."""
    if not 0 <= right <= n or not 1 <= k <= n:
        raise ValueError(f"pass@{k} of {right} right among {n} samples: wanted right <= n, k <= n")
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


def per_problem(answers: Sequence[Sequence[ScoredAnswer]], k: int) -> list[float]:
    """pass@k of each problem; an answer counts as right at score 1. For paired comparisons."""
    return [pass_at_k(sum(a.score == 1.0 for a in group), len(group), k) for group in answers]


def estimate(answers: Sequence[Sequence[ScoredAnswer]], k: int) -> intervals.Estimate:
    """Mean pass@k over problems, with a bootstrap interval over problems."""
    return intervals.mean(per_problem(answers, k))
