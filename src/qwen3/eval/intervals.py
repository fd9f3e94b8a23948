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
    if weights is None:
        return _bootstrap(array.mean(), array[_picks(len(array))].mean(1), len(array))
    return _bootstrap(*_weighted(array, weights), len(array))


def paired(
    first: Sequence[float],
    second: Sequence[float],
    weights: tuple[Sequence[float], Sequence[float]] | None = None,
) -> Estimate:
    """Mean of second - first over the same problems, which is tighter than two intervals.

    weights: what each problem counts in the first and in the second mean; None: all the same.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values: wanted the same problems")
    if weights is None:
        return mean(np.asarray(second, np.float64) - np.asarray(first, np.float64))
    (middle, draws), (other_middle, other_draws) = (
        _weighted(np.asarray(values, np.float64), counts)
        for values, counts in zip((first, second), weights, strict=True)
    )
    return _bootstrap(other_middle - middle, other_draws - draws, len(first))


def _picks(n: int) -> np.ndarray:
    """Problems of each bootstrap sample, the same for all values of n problems: [DRAWS, n]."""
    return np.random.default_rng(0).integers(0, n, (DRAWS, n))


def _weighted(array: np.ndarray, weights: Sequence[float]) -> tuple[float, np.ndarray]:
    """(the weighted mean, that of each bootstrap sample [DRAWS])."""
    counts, picks = np.asarray(weights, np.float64), _picks(len(array))
    draws = (counts * array)[picks].sum(1) / counts[picks].sum(1)
    return (counts * array).sum() / counts.sum(), draws


def _bootstrap(value: float, draws: np.ndarray, n: int) -> Estimate:
    low, high = np.quantile(draws, (0.025, 0.975))
    return Estimate(float(value), float(low), float(high), n)
