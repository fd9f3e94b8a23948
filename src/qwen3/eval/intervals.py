"""95% intervals over problems: Wilson's for shares, the bootstrap for means and paired differences.

They cover the choice of problems, not the variance between training runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Z = 1.959964  # the normal distribution's quantile at 97.5%
DRAWS = 2000  # bootstrap samples


class Estimate(NamedTuple):
    """A value with its 95% interval: low <= value <= high."""

    value: float
    low: float
    high: float
    n: int  # problems


def share(hits: int, n: int) -> Estimate:
    """hits / n with Wilson's score interval. Raises ValueError for hits outside 0..n or n = 0."""
    if not 0 <= hits <= n or n == 0:
        raise ValueError(f"{hits} hits of {n}: wanted 0 to n, n at least 1")
    p = hits / n
    middle = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
    # At 0 and n hits the formula ends on the value itself; rounding may pass it.
    return Estimate(p, min(p, middle - half), max(p, middle + half), n)


def mean(values: Sequence[float] | np.ndarray, weights: Sequence[float] | None = None) -> Estimate:
    """Mean of one value a problem, with a bootstrap interval over problems.

    weights: what each problem counts, above 0; None: all the same. Raises ValueError for no value,
    and for values that are not one a problem.
    """
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"values of shape {array.shape}: wanted one a problem, at least one")
    picks = np.random.default_rng(0).integers(0, len(array), (DRAWS, len(array)))
    means, middle = array[picks].mean(1), array.mean()
    if weights is not None:
        counts = np.asarray(weights, np.float64)
        means = (counts * array)[picks].sum(1) / counts[picks].sum(1)
        middle = (counts * array).sum() / counts.sum()
    low, high = np.quantile(means, (0.025, 0.975))
    return Estimate(float(middle), float(low), float(high), len(array))


def paired(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """Mean of second - first over the same problems, which is tighter than two intervals."""
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values: wanted the same problems")
    return mean(np.asarray(second, np.float64) - np.asarray(first, np.float64))
