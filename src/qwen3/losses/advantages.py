"""Group advantages, on the host and by explicit group id: before anything is sharded or split.

A = (R - mean of the group) / scale. Groups whose rewards are equal within a tolerance carry no
signal: their advantage is exactly 0 (not rounding noise over rounding noise) and `learnable` is
False, so that the caller can drop and refill them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

SCALES = ("none", "group", "batch")


class Advantages(NamedTuple):
    """values_R and learnable_R per rollout; counts of groups: all, none or one value of reward."""

    values: np.ndarray
    learnable: np.ndarray
    groups: int
    flat_low: int  # groups without spread whose rewards are at most 0
    flat_high: int  # groups without spread whose rewards are above 0


def group_advantages(
    rewards_R, groups_R, *, scale="none", size=None, binarise=None, tolerance=1e-6
) -> Advantages:
    """Advantages of R rollouts; the order of the rollouts does not matter, to the last bit.

    scale: "none" (Dr. GRPO, arXiv 2503.20783), "group" (the group's standard deviation, GRPO,
    arXiv 2402.03300) or "batch" (that of all centred rewards of learnable groups, ScaleRL, arXiv
    2510.13786). `binarise`: rewards at or above this count 1, others 0, before any statistics;
    without it, group scaling blows a formatting accident up to full strength. `size`: rollouts
    that every group must have. Raises ValueError for a reward that is not finite, for group ids
    of another length, an unknown scale, and a group of another size.
    """
    rewards = np.asarray(rewards_R, np.float64)
    groups = np.asarray(groups_R)
    if scale not in SCALES:
        raise ValueError(f"advantage scale {scale!r} is not one of {', '.join(SCALES)}")
    if rewards.shape != groups.shape or rewards.ndim != 1:
        raise ValueError(f"rewards {rewards.shape} and group ids {groups.shape}: one each needed")
    if not np.all(np.isfinite(rewards)):
        bad = int(np.flatnonzero(~np.isfinite(rewards))[0])
        raise ValueError(f"reward {rewards[bad]} of rollout {bad} (group {groups[bad]})")
    if binarise is not None:
        rewards = (rewards >= binarise).astype(np.float64)
    values, learnable = np.zeros_like(rewards), np.zeros(rewards.shape, bool)
    names, inverse = np.unique(groups, return_inverse=True)
    flat_low = flat_high = 0
    for index, name in enumerate(names):
        members = np.flatnonzero(inverse == index)
        mine = rewards[members]
        if size is not None and len(members) != size:
            raise ValueError(f"group {name} has {len(members)} rollouts, not {size}")
        if mine.max() - mine.min() <= tolerance:
            flat_low, flat_high = flat_low + (mine.max() <= 0), flat_high + (mine.max() > 0)
            continue
        centred = mine - math.fsum(mine) / len(mine)
        values[members] = centred / (_root_mean_square(centred) if scale == "group" else 1.0)
        learnable[members] = True
    if scale == "batch" and learnable.any():
        values /= _root_mean_square(values[learnable])
    return Advantages(values, learnable, len(names), int(flat_low), int(flat_high))


def _root_mean_square(x):
    return math.sqrt(math.fsum(x * x) / len(x))
