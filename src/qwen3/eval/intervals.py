"""95% intervals over problems: Wilson's for shares, the bootstrap for means and paired differences.

They cover the choice of problems, not the variance between training runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Z = 1.959964
DRAWS = 2000


class Estimate(NamedTuple):
    """value and its interval, low <= value <= high; n problems."""

    value: float
    low: float
    high: float
    n: int


def share(hits: int, n: int) -> Estimate:
    """hits / n with Wilson's score interval. ValueError for hits outside 0..n or n = 0."""
    if not 0 <= hits <= n or n == 0:
        raise ValueError(f"{hits} hits of {n}: wanted 0 to n, n at least 1")
    p = hits / n
    middle = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
    # At 0 and n hits the formula ends on the value itself; rounding may pass it.
    return Estimate(p, min(p, middle - half), max(p, middle + half), n)


def mean(values: Sequence[float]) -> Estimate:
    """Mean of one value a problem, with a bootstrap interval over problems."""
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not values.size:
        raise ValueError(f"values of shape {values.shape}: wanted one a problem, at least one")
    picks = np.random.default_rng(0).integers(0, len(values), (DRAWS, len(values)))
    low, high = np.quantile(values[picks].mean(1), (0.025, 0.975))
    return Estimate(float(values.mean()), float(low), float(high), len(values))


def paired(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """Mean of second - first, problem by problem."""
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values: wanted the same problems")
    return mean(np.asarray(second, np.float64) - np.asarray(first, np.float64))
