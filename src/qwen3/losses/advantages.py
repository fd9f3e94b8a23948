"""Group advantages, on the host and by explicit group id: before anything is sharded or split.

A = (R - mean of the group) / scale. Groups whose rewards are equal within a tolerance carry no
signal: their advantage is exactly 0 (not rounding noise over rounding noise) and `learnable` is
False, so that the caller can drop and refill them.

With several rewards an answer, `decoupled_advantages` normalises each of them in its group before
they are added: a sum would give (1, 0) and (0, 1) the same advantage, and let the reward that
varies most drown the others (GDPO, arXiv 2601.05242).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

SCALES = ("none", "group", "batch", "family")


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
    families_R: ArrayLike | None = None,
    size: int | None = None,
    binarise: float | None = None,
    tolerance: float = 1e-6,
) -> Advantages:
    """Advantages of R rollouts; the order of the rollouts does not matter, to the last bit.

    groups_R: the prompt's id of each rollout. scale: "none" (Dr. GRPO, arXiv 2503.20783), "group"
    (the group's standard deviation, GRPO, arXiv 2402.03300), "batch" (that of all centred rewards
    of learnable groups, ScaleRL, arXiv 2510.13786) or "family" (the same over the groups of one
    of families_R, so that a family whose rewards vary little is not drowned by others). binarise:
    rewards at or above it count 1, others 0, before any statistics; without it, group scaling blows
    a formatting accident up to full strength. size: rollouts that every group must have.
    tolerance: largest spread of rewards that counts as none. Raises ValueError for a reward that is
    not finite, group ids or families of another length, an unknown scale, and a group of another
    size.
    """
    rewards, groups = _checked(rewards_R, groups_R, scale)
    pools = _pools(scale, families_R, len(rewards))
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
    values = _scaled(values, learnable, pools)
    return Advantages(values, learnable, len(names), int(flat_low), int(flat_high))


def decoupled_advantages(
    rewards: Mapping[str, ArrayLike],
    groups_R: ArrayLike,
    weights: Mapping[str, ArrayLike],
    *,
    scale: str = "batch",
    families_R: ArrayLike | None = None,
) -> np.ndarray:
    """values_R float64: the weighted sum of each reward's advantages, normalised in its group.

    rewards: name -> [R], NaN for a rollout that has no such reward (its group then has none of it).
    weights: name -> [R]. A reward without spread in a group adds 0 there. scale: what the sums are
    divided by in the end, "none", "batch" or "family" as in `group_advantages`. Raises ValueError
    for a reward that some rollouts of a group have and others lack, for infinite rewards, and for
    the scale "group", which every reward has already.
    """
    if scale == "group":
        raise ValueError('decoupled rewards are scaled by their groups already, not by "group"')
    groups = np.asarray(groups_R)
    pools = _pools(scale, families_R, len(groups))
    values, learnable = np.zeros(len(groups)), np.zeros(len(groups), bool)
    for name, column in rewards.items():
        array = np.asarray(column, np.float64)
        present = ~np.isnan(array)
        mixed = np.intersect1d(groups[present], groups[~present])
        if len(mixed):
            raise ValueError(f"some rollouts of group {mixed[0]} have no reward {name!r}")
        part = group_advantages(array[present], groups[present], scale="group")
        values[present] += np.asarray(weights[name], np.float64)[present] * part.values
        learnable[present] |= part.learnable
    return _scaled(values, learnable, pools)


def _pools(scale: str, families_R: ArrayLike | None, count: int) -> np.ndarray | None:
    """Which rollouts share a divisor, a number [R]; None where each group has its own, or none."""
    if scale == "batch":
        return np.zeros(count, int)
    if scale != "family":
        return None
    families = np.asarray(families_R)
    if families_R is None or families.shape != (count,):
        raise ValueError(f"scale 'family' needs the family of each of {count} rollouts")
    return np.unique(families, return_inverse=True)[1]


def _scaled(values: np.ndarray, learnable: np.ndarray, pools: np.ndarray | None) -> np.ndarray:
    """The values over the root mean square of the learnable ones of their pool."""
    scaled = values.copy()
    for pool in np.unique(pools) if pools is not None else ():
        members = learnable & (pools == pool)
        size = _root_mean_square(values[members]) if members.any() else 0.0
        if size > 0:
            scaled[members] = values[members] / size
    return scaled


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
