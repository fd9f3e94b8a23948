"""Group advantages, on the host and by explicit group id: before anything is sharded or split.

A = (R - mean of the group) / scale. Groups whose rewards are equal within a tolerance carry no
signal: their advantage is exactly 0 (not rounding noise over rounding noise) and `learnable` is
False, so that the caller can drop and refill them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

SCALES = ("none", "group", "batch")


class Advantages(NamedTuple):
    """The advantages of R rollouts, and how many of their groups carry a signal."""

    values: np.ndarray  # [R] float64; 0 in groups without spread
    learnable: np.ndarray  # [R] bool; False in groups without spread
    groups: int  # number of groups
    flat_low: int  # groups without spread whose rewards are at most 0
    flat_high: int  # groups without spread whose rewards are above 0


def group_advantages(
    rewards_R: ArrayLike,
    groups_R: ArrayLike,
    *,
    scale: str = "none",
    size: int | None = None,
    binarise: float | None = None,
    tolerance: float = 1e-6,
) -> Advantages:
    """Advantages of R rollouts; the order of the rollouts does not matter, to the last bit.

    groups_R: the prompt's id of each rollout. scale: "none" (Dr. GRPO, arXiv 2503.20783), "group"
    (the group's standard deviation, GRPO, arXiv 2402.03300) or "batch" (that of all centred rewards
    of learnable groups, ScaleRL, arXiv 2510.13786). binarise: rewards at or above it count 1,
    others 0, before any statistics; without it, group scaling blows a formatting accident up to
    full strength. size: rollouts that every group must have. tolerance: largest spread of rewards
    that counts as none. Raises ValueError for a reward that is not finite, group ids of another
    length, an unknown scale, and a group of another size.
    """
    rewards, groups = _checked(rewards_R, groups_R, scale)
    if binarise is not None:
        rewards = (rewards >= binarise).astype(np.float64)
    values, learnable = np.zeros_like(rewards), np.zeros(rewards.shape, bool)
    names, inverse = np.unique(groups, return_inverse=True)
    flat_low = flat_high = 0
    for index, name in enumerate(names):
        members = np.flatnonzero(inverse == index)
        group_rewards = rewards[members]
        if size is not None and len(members) != size:
            raise ValueError(f"group {name} has {len(members)} rollouts, not {size}")
        best = group_rewards.max()
        if best - group_rewards.min() <= tolerance:
            flat_low, flat_high = flat_low + (best <= 0), flat_high + (best > 0)
            continue
        # fsum is exact, so the mean does not depend on the order of the rollouts.
        centred = group_rewards - math.fsum(group_rewards) / len(group_rewards)
        values[members] = centred / (_root_mean_square(centred) if scale == "group" else 1.0)
        learnable[members] = True
    if scale == "batch" and learnable.any():
        values /= _root_mean_square(values[learnable])
    return Advantages(values, learnable, len(names), int(flat_low), int(flat_high))


def _checked(
    rewards_R: ArrayLike, groups_R: ArrayLike, scale: str
) -> tuple[np.ndarray, np.ndarray]:
    rewards = np.asarray(rewards_R, np.float64)
    groups = np.asarray(groups_R)
    if scale not in SCALES:
        raise ValueError(f"advantage scale {scale!r} is not one of {', '.join(SCALES)}")
    if rewards.shape != groups.shape or rewards.ndim != 1:
        raise ValueError(f"rewards {rewards.shape} and group ids {groups.shape}: one each needed")
    if not np.all(np.isfinite(rewards)):
        bad = int(np.flatnonzero(~np.isfinite(rewards))[0])
        raise ValueError(f"reward {rewards[bad]} of rollout {bad} (group {groups[bad]})")
    return rewards, groups


def _root_mean_square(x: np.ndarray) -> float:
    return math.sqrt(math.fsum(x * x) / len(x))
